"""gpt/tasks/results.py: each result is in a file as soon as it is there."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ollama import ENTRY

from gpt import system
from gpt.tasks import instruct
from gpt.tasks import results as results_file
from gpt.tasks.results import Results

ENTRIES = [{"name": str(i)} for i in range(4)]
ABOUT = {"data": "x", "run": None}
ADDED = st.lists(
    st.tuples(st.integers(0, 3), st.dictionaries(st.sampled_from("abc"), st.text() | st.integers(), max_size=2)),
    min_size=1,
    max_size=6,
)


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


def test_a_call_may_be_killed_several_times(tmp_path):
    """What is continued and ended without a result keeps the results before it."""
    path = tmp_path / "out.json"
    for number in range(4):
        with Results(path, ENTRIES, ABOUT, False) as results:
            assert results.continued == number
            results.add(number, {"score": number})
        with Results(path, ENTRIES, ABOUT, False) as results:
            assert results.continued == number + 1
            assert [row.get("score") for row in results.rows] == [*range(number + 1), None, None, None][:4]


def test_a_file_that_another_process_removes_while_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    """As one does that has finished, or has failed at its start: what is written after that would be lost."""
    path, real, removed = tmp_path / "out.json", results_file.lock, []

    def lock(file):
        if not removed:
            removed.append((tmp_path / "out.json.partial").unlink())
        return real(file)

    monkeypatch.setattr(results_file, "lock", lock)
    with Results(path, ENTRIES, ABOUT, False) as results:
        results.add(1, {"score": 3})
    with Results(path, ENTRIES, ABOUT, False) as again:
        assert again.rows[1]["score"] == 3


@pytest.mark.parametrize("finished", [False, True])
def test_the_lock_is_held_until_the_file_is_gone(tmp_path, monkeypatch, finished):
    """Or another process might begin to write into a file that is then removed."""
    path, free = tmp_path / "out.json", []
    real = Path.unlink

    def unlink(self, *args, **kwargs):
        with open(self, "a+b") as another:
            free.append(system.lock(another))
        return real(self, *args, **kwargs)

    with Results(path, ENTRIES, ABOUT, False) as results:
        monkeypatch.setattr(Path, "unlink", unlink)
        if finished:
            results.add(0, {"score": 1})
            results.finish()
    assert free == [False]


def test_a_call_without_results_ends(tmp_path):
    with Results(tmp_path / "out.json", [], ABOUT, False) as results:
        results.finish()
    assert json.loads((tmp_path / "out.json").read_text()) == []
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.finding("A8")
@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"out.json": "mine"}, "out.json exists already: name another file, or give --overwrite"),
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
