"""`gpt judge`: what it prints and writes, how it continues, and what is refused."""

import json
import os
import re
import shutil
import signal
import threading

import pytest
from loopback import hang, in_turn, status
from ollama import ENTRY, save, says
from runs import contents, start

from gpt.tasks import instruct
from gpt.tasks.instruct.judge import log_likelihood
from gpt.training import checkpoint


def test_without_a_server_and_without_a_run(judge_command, tmp_path, monkeypatch):
    data = save(tmp_path / "answers.json", ENTRY, {**ENTRY, "model_response": ENTRY["output"]})
    code, output, errors = judge_command("--data", data)
    assert (code, errors) == (0, "")
    assert "answers.json, 2 entries" in output
    assert re.search(r"exact match +│ +50.0%, 1 of 2", output)
    assert re.search(r"F1 of words +│ +0.917, mean of 2", output)
    assert "likelihood" not in output
    assert json.loads(judge_command("--data", data, "--json", "--limit", 1)[1])["entries"] == 1
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the streams for a terminal then
    assert "answers.json, 1 entry " in judge_command("--data", data, "--limit", 1)[1]
    assert "judging" in judge_command("--data", data)[2]


def test_a_run_answers_what_has_no_answer(judge_command, answering_run, tmp_path):
    """The same answers as the library's, and those that were there are kept."""
    short = {"instruction": "Go", "input": "", "output": "gone"}
    data = save(tmp_path / "data.json", short, {**short, "model_response": "gone"}, {**short, "output": "x" * 99})
    flags = ["--data", data, "--style", "phi3", "--max-new-tokens", 4, "--out", tmp_path / "out.json"]
    code, output, _ = judge_command(answering_run, *flags)
    assert code == 0
    assert re.search(r"likelihood of the expected +│ +[0-9.]+% a token \(-[0-9.]+ nats\), mean of 2", output)
    assert re.search(r"too long for the context +│ +1", output)
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    model, tokenizer = checkpoint.load_model(answering_run)
    (expected,) = instruct.generate_responses(model, tokenizer, [short], "phi3", 4)
    assert [row["model_response"] for row in rows] == [expected, "gone", expected]
    assert [row["exact_match"] for row in rows] == [False, True, False]
    assert rows[0]["log_likelihood"] == pytest.approx(log_likelihood(model, tokenizer, short, "phi3"))
    assert rows[2]["log_likelihood"] is None
    assert judge_command("--data", tmp_path / "out.json")[0] == 0, "what it writes it reads"


def test_through_a_server(judge_command, server, tmp_path):
    data = save(tmp_path / "[i]answers.json", *[ENTRY] * 3, {**ENTRY, "model_response": ""})
    server.answers["/api/chat"] = in_turn(says("80"), says("[/b] 70."), says("60"))
    code, output, _ = judge_command("--data", data, "--api", server.url(""), "--model", "judge[/x]:8b")
    assert code == 0
    assert "[i]answers.json, 4 entries" in output
    assert re.search(r"score by judge\[/x\]:8b +│ +46.67 of 100, mean of 3", output)
    assert re.search(r"empty responses, scored 0 +│ +1", output)
    assert re.search(r"without a score: not an integer from 0 to 100 +│ +1, such as '\[/b\] 70.'", output)
    assert {json.loads(body)["model"] for _, _, body in server.asked} == {"judge[/x]:8b"}


def test_the_fields_of_an_entry_that_are_not_judged_are_in_the_results(judge_command, server, tmp_path):
    others = {"id": 7, "entry": "third", "tags": ["a", None], "source": {"page": 1.5}}
    data = save(tmp_path / "answers.json", {**others, **ENTRY}, {**others, **ENTRY, "id": 8})
    out = tmp_path / "out.json"
    server.answers["/api/chat"] = says("80")
    assert judge_command("--data", data, "--api", server.url(""), "--out", out)[0] == 0
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert [{name: row[name] for name in (*others, *ENTRY)} for row in rows] == json.loads(data.read_text("utf-8"))
    assert [(row["score"], row["judge"], row["exact_match"]) for row in rows] == [(80, "80", False)] * 2


@pytest.mark.parametrize("field", ["score", "judge", "log_likelihood"])
def test_a_result_that_is_not_computed_is_not_taken_from_the_data(judge_command, tmp_path, field):
    """It would count in the summary."""
    data = save(tmp_path / "answers.json", {**ENTRY, "model_response": "x", field: 3})
    code, _, errors = judge_command("--data", data, "--out", tmp_path / "out.json")
    assert code == 1
    assert f"have the field '{field}' already, and so have the results in --out: rename it in the data" in errors
    code, output, errors = judge_command("--data", data, "--json")  # without a file of results there is no clash
    assert (code, errors) == (0, "")
    assert field not in json.loads(output)


@pytest.mark.parametrize(("flag", "value"), [("--max-new-tokens", 0), ("--limit", 0)])
def test_numbers_of_answers_and_entries_are_at_least_1(judge_command, tmp_path, flag, value):
    code, _, errors = judge_command("--data", tmp_path / "none.json", flag, value)
    assert code == 2
    assert f"{flag} must be an integer of at least 1, got {value}" in errors.replace("_", "-")


@pytest.mark.parametrize("field", ["score", "judge", "exact_match", "f1"])
def test_a_field_with_the_name_of_a_result_is_an_error_before_the_first_question(
    judge_command, server, tmp_path, field
):
    data, out = save(tmp_path / "answers.json", ENTRY, {**ENTRY, field: 3}), tmp_path / "out.json"
    code, _, errors = judge_command("--data", data, "--api", server.url(""), "--out", out)
    assert code == 1
    assert errors == (
        f"gpt: entries of {data} have the field '{field}' already, and so have the results in --out: rename it in the "
        "data\n"
    )
    assert server.asked == []
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("out", "told"),
    [
        (".", "^gpt: . is a directory: name a file for the results$"),
        ("/", "^gpt: / is a directory: name a file for the results$"),
        ("none/out.json", "^gpt: none/out.json cannot be written, since there is no directory none: make it first$"),
        (
            "busy",
            "^gpt: busy.partial is a directory, and the results for busy are first written there: name another file$",
        ),
        ("run/config.json", "^gpt: run/config.json is a file of the run .*: name another file for --out$"),
        ("run/train.tokens", "^gpt: run/train.tokens is a file of the run .*: name another file for --out$"),
        ("run/checkpoints/x", "^gpt: run/checkpoints/x is a file of the run .*: name another file for --out$"),
        ("link/metrics.jsonl", "^gpt: link/metrics.jsonl is a file of the run .*: name another file for --out$"),
    ],
)
def test_results_go_to_no_directory_and_to_no_file_of_a_run(judge_command, finished, tmp_path, monkeypatch, out, told):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0] / "run", "run")
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "busy.partial").mkdir()
    before = contents(tmp_path / "run")
    code, _, errors = judge_command("--data", save(tmp_path / "answers.json", ENTRY), "--overwrite", f"--out={out}")
    assert code == 1
    assert re.search(told, errors.strip()), errors
    assert contents(tmp_path / "run") == before


def test_answers_are_kept_where_the_judge_then_fails(judge_command, answering_run, server, tmp_path):
    server.answers["/api/chat"] = status(404)
    short = {"instruction": "Go", "input": "", "output": "gone"}
    data, out = save(tmp_path / "data.json", short), tmp_path / "out.json"
    flags = ["--style", "phi3", "--max-new-tokens", 4, "--out", out, "--api", server.url("")]
    code, _, errors = judge_command(answering_run, "--data", data, *flags)
    assert code == 1
    assert errors.endswith("/api/chat refuses (404): sorry\n")
    assert not out.exists()
    _, answered = (tmp_path / "out.json.partial").read_text(encoding="utf-8").splitlines()
    assert json.loads(answered).keys() == {"entry", "model_response"}


def test_a_server_without_an_answer_is_exit_status_1(judge_command, server, tmp_path):
    data = save(tmp_path / "answers.json", *[ENTRY] * 5)
    server.answers["/api/chat"] = status(500)
    code, output, errors = judge_command("--data", data, "--api", server.url(""))
    assert (code, errors) == (1, "")
    assert re.search(r"score by llama3 +│ +none │", output)
    assert re.search(r"no answer +│ +3, such as '500 Internal Server", output)
    assert re.search(r"not asked +│ +2", output)
    assert "exact match" in output, "what needs no server is there"


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["--data", "{data}"], 1, "1 of 1 entries of {data} have no model_response: name a run to answer"),
        (["--data", "{tmp}/none"], 1, "{tmp}/none: No such file or directory"),
        (["{tmp}", "--data", "{data}"], 1, "{tmp} has no checkpoint"),
        (["--data", "{text}"], 1, "{text} is neither JSON nor a table with several columns"),
        (["--data", "{number}"], 1, "{number}, line 1: model_response must be a string, not 5"),
        (
            ["{char}", "--data", "{data}"],
            1,
            "{char} has no end of text and so cannot answer: run gpt finetune instruct",
        ),
        (["--data", "{data}", "--api", "localhost"], 2, "api must be an address such as http://localhost:11434"),
        (["--data", "{data}", "--limit", "0"], 2, "limit must be an integer of at least 1, got 0"),
        (["--data", "{data}", "--timeout", "0"], 2, "timeout must be a finite number of at least 0.001, got 0.0"),
        (["--data", "{data}", "--timeout", "1e308"], 2, "timeout must be at most 86,400 seconds, a day, got 1e+308"),
        (
            ["--data", "{data}", "--response-key", "output"],
            2,
            "--response-key must name the field with a model's answers",
        ),
        (["--data", "{data}", "--response-key", "input"], 2, "and 'input' is a part of the question"),
        (["--data", "{data}", "--style", "chatml"], 2, "chatml"),
        ([], 2, "--data"),
    ],
)
def test_what_does_not_do_is_one_sentence(judge_command, finished, tmp_path, args, code, told):
    plain = {name: ENTRY[name] for name in ("instruction", "input", "output")}
    names = {
        "data": save(tmp_path / "data.json", plain),
        "text": tmp_path / "text",
        "number": save(tmp_path / "number.json", {**plain, "model_response": 5}),
        "char": finished[0] / "run",
        "tmp": tmp_path,
    }
    names["text"].write_text("hello", encoding="utf-8")
    found, output, errors = judge_command(*(arg.format(**names) for arg in args))
    assert found == code
    assert told.format(**names) in " ".join((output + errors).replace("│", " ").split())
    assert "Traceback" not in errors


# ----- what stops a judge costs no score --------------------------------------------------------------------------


def questions(server) -> list[str]:
    """The responses that were asked about."""
    sent = [json.loads(body)["messages"][0]["content"] for _, _, body in server.asked]
    return [text.rpartition("model response `")[2].partition("`")[0] for text in sent]


@pytest.mark.finding("A8")
@pytest.mark.parametrize("wrong", [status(404), status(302, Location="file:///")])
def test_a_refusal_costs_no_score(judge_command, server, tmp_path, wrong):
    data = save(tmp_path / "data.json", *[{**ENTRY, "model_response": str(i)} for i in range(4)])
    flags = ["--data", data, "--api", server.url(""), "--out", tmp_path / "out.json"]
    server.answers["/api/chat"] = in_turn(says("80"), says("70"), wrong, says("60"))
    code, _, errors = judge_command(*flags)
    assert code == 1
    assert f"2 of 4 entries are judged: the same command continues from {tmp_path / 'out.json'}.partial" in errors
    code, output, errors = judge_command(*flags)
    assert (code, questions(server)) == (0, ["0", "1", "2", "2", "3"])
    assert errors == f"continuing {tmp_path / 'out.json'}.partial: 2 of 4 entries are judged already\n"
    assert [row["score"] for row in json.loads((tmp_path / "out.json").read_text())] == [80, 70, 60, 60]
    assert "67.50 of 100, mean of 4" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "out.json"]


@pytest.mark.finding("A8")
def test_without_out_a_refusal_shows_what_was_found(judge_command, server, tmp_path):
    data = save(tmp_path / "data.json", *[ENTRY] * 3)
    server.answers["/api/chat"] = in_turn(says("80"), status(404))
    code, output, errors = judge_command("--data", data, "--api", server.url(""))
    assert code == 1
    assert "80.00 of 100, mean of 1" in output
    assert "1 of 3 entries are judged: with --out FILE the same command continues from there" in errors


@pytest.mark.finding("A8")
def test_questions_that_got_no_answer_are_asked_again(judge_command, server, tmp_path):
    data = save(tmp_path / "data.json", *[{**ENTRY, "model_response": str(i)} for i in range(5)])
    flags = ["--data", data, "--api", server.url(""), "--out", tmp_path / "out.json"]
    server.answers["/api/chat"] = in_turn(says("80"), *[status(500)] * 9, says("60"))
    code, output, errors = judge_command(*flags)
    assert code == 0
    assert "not asked" in output
    assert "1 of 5 entries are judged: the same command continues" in errors
    assert not (tmp_path / "out.json").exists()
    assert judge_command(*flags)[0] == 0
    assert questions(server)[10:] == ["1", "2", "3", "4"]
    assert [row["score"] for row in json.loads((tmp_path / "out.json").read_text())] == [80, 60, 60, 60, 60]


@pytest.mark.skipif(os.name != "posix", reason="there, a process that is sent a signal just ends")
@pytest.mark.slow
@pytest.mark.finding("A8")
def test_ctrl_c_costs_no_score(judge_command, server, tmp_path):
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
    assert "2 of 4 entries are judged: the same command continues" in errors
    assert judge_command(*flags)[0] == 0
    assert [row["score"] for row in json.loads((tmp_path / "out.json").read_text())] == [80, 70, 60, 60]


@pytest.mark.finding("A8")
@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("none/out.json", "none/out.json cannot be written, since there is no directory"),
        (".", "is a directory: name a file for the results"),
        ("there.json", "there.json exists already: name another file, or give --overwrite to replace it"),
        ("data.json", "data.json is the file to judge: name another file for --out"),
    ],
)
def test_where_it_cannot_write_is_said_before_a_question(judge_command, server, tmp_path, out, says):
    data = save(tmp_path / "data.json", ENTRY)
    (tmp_path / "there.json").write_text("mine")
    code, _, errors = judge_command("--data", data, "--api", server.url(""), "--out", tmp_path / out)
    assert code == 1
    assert says in errors
    assert server.asked == []
    assert (tmp_path / "there.json").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "there.json"]


@pytest.mark.finding("A8")
def test_a_call_that_fails_at_its_start_leaves_nothing(judge_command, server, tmp_path):
    data = save(tmp_path / "data.json", ENTRY)
    server.answers["/api/chat"] = status(404)
    for args in ([tmp_path / "none"], ["--api", server.url("")]):
        code, _, errors = judge_command(*args, "--data", data, "--out", tmp_path / "out.json")
        assert code == 1
        assert "entries are judged" not in errors
        assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_a_file_is_replaced_if_that_is_asked_for(judge_command, tmp_path):
    data = save(tmp_path / "data.json", ENTRY)
    (tmp_path / "there.json").write_text("mine")
    assert judge_command("--data", data, "--out", tmp_path / "there.json", "--overwrite")[0] == 0
    assert len(json.loads((tmp_path / "there.json").read_text())) == 1


# ----- the field with the answers ---------------------------------------------------------------------------------

BARE = {name: ENTRY[name] for name in ("instruction", "input", "output")}


@pytest.mark.finding("C13")
def test_the_field_of_the_books_response_file_is_found(judge_command, tmp_path):
    data = save(
        tmp_path / "data.json", {**BARE, "model 1 response": ENTRY["output"]}, {**BARE, "model 1 response": "x"}
    )
    code, output, errors = judge_command("--data", data, "--out", tmp_path / "out.json")
    assert (code, errors) == (0, "the answers are read from the field 'model 1 response'\n")
    assert "50.0%, 1 of 2" in output
    assert [row["model_response"] for row in json.loads((tmp_path / "out.json").read_text())] == [ENTRY["output"], "x"]


@pytest.mark.finding("C13")
@pytest.mark.parametrize(
    ("more", "flags", "says"),
    [
        ({"model 1 response": "a", "model 2 response": "b"}, [], "several fields with answers: give --response-key and "
         "one of model 1 response, model 2 response"),
        ({"answer": "a"}, ["--response-key", "reply"], "has the field 'reply': its fields are instruction, input, "
         "output, answer"),
        ({"answer": "a"}, [], "1 of 1 entries of {data} have no model_response: name a run"),
    ],
)  # fmt: skip
def test_which_fields_there_are_is_said(judge_command, tmp_path, more, flags, says):
    data = save(tmp_path / "data.json", {**BARE, **more})
    code, _, errors = judge_command("--data", data, *flags)
    assert code == 1
    assert says.format(data=data) in errors


@pytest.mark.finding("C13")
@pytest.mark.parametrize("as_lines", [False, True])
def test_a_field_is_chosen(judge_command, tmp_path, as_lines):
    entries = [{**BARE, "model 1 response": "no", "model 2 response": ENTRY["output"], "model_response": "no"}]
    data = tmp_path / "data.json"
    data.write_text("\n".join(map(json.dumps, entries)) if as_lines else json.dumps(entries))
    code, output, _ = judge_command("--data", data, "--response-key", "model 2 response")
    assert code == 0
    assert "100.0%, 1 of 1" in output
