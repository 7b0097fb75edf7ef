"""Results are in a file as soon as they are there: what stops a judge costs nothing that it had found."""

import json
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import hang, in_turn, serving, status
from runs import start
from test_judge import ENTRY, call, save, says  # noqa: F401  a fixture

from gpt.tasks import instruct
from gpt.tasks.instruct import judge
from gpt.tasks.results import Results

ENTRIES = [{"name": str(i)} for i in range(4)]
ABOUT = {"data": "x", "run": None}
ADDED = st.lists(
    st.tuples(st.integers(0, 3), st.dictionaries(st.sampled_from("abc"), st.text() | st.integers(), max_size=2)),
    min_size=1,
    max_size=6,
)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(judge, "WAIT", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


# ----- the file ---------------------------------------------------------------------------------------------------


@settings(max_examples=40)  # each waits for the disk
@given(ADDED, st.data())
def test_what_was_added_before_a_kill_is_there(tmp_path_factory, added, data):
    """A kill may cut the file anywhere: the lines that are whole count."""
    path = tmp_path_factory.mktemp("results") / "out.json"
    with Results(path, ENTRIES, ABOUT, False) as results:
        sizes = [results.partial.stat().st_size]
        for number, fields in added:
            results.add(number, fields)
            sizes.append(results.partial.stat().st_size)
    cut = data.draw(st.integers(sizes[0], sizes[-1]))
    with open(results.partial, "r+b") as file:
        file.truncate(cut)
    expected = [dict(entry) for entry in ENTRIES]
    for size, (number, fields) in zip(sizes[1:], added, strict=True):
        if size <= cut:
            expected[number] |= fields
    with Results(path, ENTRIES, ABOUT, False) as again:
        assert again.rows == expected
        again.add(0, {"more": "\u2028\ud83d"})
        again.finish()
    assert json.loads(path.read_text(encoding="utf-8")) == again.rows
    assert [each.name for each in path.parent.iterdir()] == ["out.json"]


@pytest.mark.finding("A8")
@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"out.json": "mine"}, "out.json is there already: name another file, or give --overwrite"),
        ({"out.json.partial": "mine"}, "out.json.partial was not written by gpt: move it away"),
        ({"out.json.partial": '{"format": "mine"}\n'}, "out.json.partial was not written by gpt"),
        ({"out.json.partial": "[" * 100_000}, "out.json.partial was not written by gpt"),
    ],
)
def test_a_file_of_somebody_else_is_kept(tmp_path, there, says):
    for name, text in there.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FileExistsError, match=says):
        Results(tmp_path / "out.json", ENTRIES, ABOUT, False)
    if "out.json.partial" in there:
        with pytest.raises(FileExistsError, match=says):
            Results(tmp_path / "out.json", ENTRIES, ABOUT, True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == there


@pytest.mark.finding("A8")
def test_a_link_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out.json.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError, match="is a link"):
        Results(tmp_path / "out.json", ENTRIES, ABOUT, True)
    assert (tmp_path / "victim").read_text() == "mine"


def test_another_call_is_not_continued(tmp_path):
    path = tmp_path / "out.json"
    with Results(path, ENTRIES, ABOUT, False) as results:
        results.add(1, {"score": 5})
    with pytest.raises(FileExistsError, match="results of another call, with another run: repeat that call"):
        Results(path, ENTRIES, {**ABOUT, "run": "r"}, False)
    with Results(path, ENTRIES, {**ABOUT, "run": "r"}, True) as results:
        assert results.rows == ENTRIES
    with Results(path, ENTRIES, {**ABOUT, "run": "r"}, False), pytest.raises(RuntimeError, match="another process is"):
        Results(path, ENTRIES, {**ABOUT, "run": "r"}, False)


@pytest.mark.finding("A8")
def test_responses_that_came_before_a_failure_are_kept(tmp_path):
    def responses():
        yield "one"
        yield "two"
        raise KeyboardInterrupt

    path = tmp_path / "responses.json"
    with pytest.raises(KeyboardInterrupt):
        instruct.save_responses(path, [ENTRY] * 3, responses())
    lines = (tmp_path / "responses.json.partial").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["model_response"] for line in lines[1:]] == ["one", "two"]
    assert instruct.save_responses(path, [ENTRY] * 2, ["a", "b"]) == ["a", "b"]
    assert [row["model_response"] for row in json.loads(path.read_text(encoding="utf-8"))] == ["a", "b"]
    assert not (tmp_path / "responses.json.partial").exists()


# ----- gpt judge --------------------------------------------------------------------------------------------------


def questions(server) -> list[str]:
    """The responses that were asked about."""
    sent = [json.loads(body)["messages"][0]["content"] for _, _, body in server.asked]
    return [text.rpartition("model response `")[2].partition("`")[0] for text in sent]


@pytest.mark.finding("A8")
@pytest.mark.parametrize("wrong", [status(404), status(302, Location="file:///")])
def test_a_refusal_costs_no_score(call, server, tmp_path, wrong):  # noqa: F811
    data = save(tmp_path / "data.json", *[{**ENTRY, "model_response": str(i)} for i in range(4)])
    flags = ["--data", data, "--api", server.url(""), "--out", tmp_path / "out.json"]
    server.answers["/api/chat"] = in_turn(says("80"), says("70"), wrong, says("60"))
    code, _, errors = call(*flags)
    assert code == 1
    assert f"2 of 4 entries are judged: the same command goes on from {tmp_path / 'out.json'}.partial" in errors
    code, output, errors = call(*flags)
    assert (code, questions(server)) == (0, ["0", "1", "2", "2", "3"])
    assert errors == f"continuing {tmp_path / 'out.json'}.partial: 2 of 4 entries are judged already\n"
    assert [row["score"] for row in json.loads((tmp_path / "out.json").read_text())] == [80, 70, 60, 60]
    assert "67.50 of 100, mean of 4" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "out.json"]


@pytest.mark.finding("A8")
def test_without_out_a_refusal_shows_what_was_found(call, server, tmp_path):  # noqa: F811
    data = save(tmp_path / "data.json", *[ENTRY] * 3)
    server.answers["/api/chat"] = in_turn(says("80"), status(404))
    code, output, errors = call("--data", data, "--api", server.url(""))
    assert code == 1
    assert "80.00 of 100, mean of 1" in output
    assert "1 of 3 entries are judged: with --out FILE the same command goes on from there" in errors


@pytest.mark.finding("A8")
def test_questions_that_got_no_answer_are_asked_again(call, server, tmp_path):  # noqa: F811
    data = save(tmp_path / "data.json", *[{**ENTRY, "model_response": str(i)} for i in range(5)])
    flags = ["--data", data, "--api", server.url(""), "--out", tmp_path / "out.json"]
    server.answers["/api/chat"] = in_turn(says("80"), *[status(500)] * 9, says("60"))
    code, output, errors = call(*flags)
    assert code == 0
    assert "not asked" in output
    assert "1 of 5 entries are judged: the same command goes on" in errors
    assert not (tmp_path / "out.json").exists()
    assert call(*flags)[0] == 0
    assert questions(server)[10:] == ["1", "2", "3", "4"]
    assert [row["score"] for row in json.loads((tmp_path / "out.json").read_text())] == [80, 60, 60, 60, 60]


@pytest.mark.finding("A8")
def test_ctrl_c_costs_no_score(call, server, tmp_path):  # noqa: F811
    """In a real process, which waits for the third answer."""
    data = save(tmp_path / "data.json", *[ENTRY] * 4)
    flags = ["--data", data, "--api", server.url(""), "--out", tmp_path / "out.json"]
    third = threading.Event()

    def wait(handler):
        third.set()
        hang()(handler)

    server.answers["/api/chat"] = in_turn(says("80"), says("70"), wait, says("60"))
    with start("judge", *flags) as process:
        assert third.wait(600)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "2 of 4 entries are judged: the same command goes on" in errors
    assert call(*flags)[0] == 0
    assert [row["score"] for row in json.loads((tmp_path / "out.json").read_text())] == [80, 70, 60, 60]


@pytest.mark.finding("A8")
@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("none/out.json", "none/out.json cannot be written, since there is no directory"),
        (".", "is a directory: name a file for the results"),
        ("there.json", "there.json is there already: name another file, or give --overwrite to replace it"),
        ("data.json", "data.json is what is judged: name another file for --out"),
    ],
)
def test_where_it_cannot_write_is_said_before_a_question(call, server, tmp_path, out, says):  # noqa: F811
    data = save(tmp_path / "data.json", ENTRY)
    (tmp_path / "there.json").write_text("mine")
    code, _, errors = call("--data", data, "--api", server.url(""), "--out", tmp_path / out)
    assert code == 1
    assert says in errors
    assert server.asked == []
    assert (tmp_path / "there.json").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "there.json"]


@pytest.mark.finding("A8")
def test_a_call_that_fails_at_its_start_leaves_nothing(call, server, tmp_path):  # noqa: F811
    data = save(tmp_path / "data.json", ENTRY)
    server.answers["/api/chat"] = status(404)
    for args in ([tmp_path / "none"], ["--api", server.url("")]):
        code, _, errors = call(*args, "--data", data, "--out", tmp_path / "out.json")
        assert code == 1
        assert "entries are judged" not in errors
        assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_a_file_is_replaced_if_that_is_asked_for(call, tmp_path):  # noqa: F811
    data = save(tmp_path / "data.json", ENTRY)
    (tmp_path / "there.json").write_text("mine")
    assert call("--data", data, "--out", tmp_path / "there.json", "--overwrite")[0] == 0
    assert len(json.loads((tmp_path / "there.json").read_text())) == 1


# ----- the field with the answers ---------------------------------------------------------------------------------

BARE = {name: ENTRY[name] for name in ("instruction", "input", "output")}


@pytest.mark.finding("C13")
def test_the_field_of_the_books_response_file_is_found(call, tmp_path):  # noqa: F811
    data = save(
        tmp_path / "data.json", {**BARE, "model 1 response": ENTRY["output"]}, {**BARE, "model 1 response": "x"}
    )
    code, output, errors = call("--data", data, "--out", tmp_path / "out.json")
    assert (code, errors) == (0, "the answers are those in the field 'model 1 response'\n")
    assert "50.0%, 1 of 2" in output
    assert [row["model_response"] for row in json.loads((tmp_path / "out.json").read_text())] == [ENTRY["output"], "x"]


@pytest.mark.finding("C13")
@pytest.mark.parametrize(
    ("more", "flags", "says"),
    [
        ({"model 1 response": "a", "model 2 response": "b"}, [], "several fields with answers: say --response-key and "
         "one of model 1 response, model 2 response"),
        ({"answer": "a"}, ["--response-key", "reply"], "has the field 'reply': its fields are instruction, input, "
         "output, answer"),
        ({"answer": "a"}, [], "1 of 1 entries of {data} have no model_response: name the run"),
    ],
)  # fmt: skip
def test_which_fields_there_are_is_said(call, tmp_path, more, flags, says):  # noqa: F811
    data = save(tmp_path / "data.json", {**BARE, **more})
    code, _, errors = call("--data", data, *flags)
    assert code == 1
    assert says.format(data=data) in errors


@pytest.mark.finding("C13")
@pytest.mark.parametrize("as_lines", [False, True])
def test_a_field_is_chosen(call, tmp_path, as_lines):  # noqa: F811
    entries = [{**BARE, "model 1 response": "no", "model 2 response": ENTRY["output"], "model_response": "no"}]
    data = tmp_path / "data.json"
    data.write_text("\n".join(map(json.dumps, entries)) if as_lines else json.dumps(entries))
    code, output, _ = call("--data", data, "--response-key", "model 2 response")
    assert code == 0
    assert "100.0%, 1 of 1" in output
