"""`gpt compare`: settings that differ and results in a terminal of 80 columns, and a picture."""

import json
import re
import shutil

import pytest
from runs import quickly_drawn, tiny, train

__all__ = ["quickly_drawn"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    train(tiny(folder, out=folder / "one", steps=4))
    train(tiny(folder, out=folder / "a run with a rather long name", steps=4, batch_size=4, dropout=0.0))
    return folder


@pytest.fixture
def compare(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *args: call("compare", *args)


def cells(output: str) -> dict[str, list[str]]:
    """The rows of the tables by their first cell."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in rows}


def test_only_settings_that_differ_are_shown(compare, folder):
    status, output, errors = compare(folder / "one", folder / "a run with a rather long name")
    assert (status, errors) == (0, "")
    rows = cells(output)
    assert rows["batch_size"] == ["2", "4"]
    assert rows["dropout"] == ["0.1", "0"]
    assert rows["steps"] == ["4", "4"]
    assert "seed" not in rows
    assert all(len(line) <= 80 for line in output.splitlines() if line.startswith("│"))
    assert "2  a run with a rather long name" in output  # the columns have numbers where names do not fit


def test_all_settings_are_marked_where_they_differ(compare, folder):
    rows = cells(compare(folder, "--all")[1])
    assert rows["≠ batch_size"] == ["4", "2"]  # a folder's runs are in the order of their names
    assert rows["seed"] == ["1337", "1337"]


def test_equal_settings_are_one_line(compare, folder, tmp_path):
    shutil.copytree(folder / "one", tmp_path / "two")
    assert "all settings are the same" in compare(folder / "one", tmp_path / "two")[1]


def test_no_picture_is_made_without_out(compare, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare(folder)
    assert not list(tmp_path.iterdir())


def test_a_picture_replaces_no_file(compare, folder, tmp_path):
    path = tmp_path / "curves.png"
    assert compare(folder, "--out", path)[0] == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    path.write_text("mine")
    status, output, errors = compare(folder, "--out", path)
    assert (status, output) == (1, "")
    assert errors == f"gpt: {path} exists already: name another file, or give --overwrite\n"
    assert path.read_text() == "mine"
    assert compare(folder, "--out", path, "--overwrite")[0] == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_one_sentence(compare, folder, tmp_path):
    status, _output, errors = compare(tmp_path, folder / "one")
    assert (status, errors) == (1, f"gpt: there is no run in {tmp_path}: name a run, or a folder of runs\n")
    assert compare(folder / "one")[2] == "gpt: 1 run given: name at least two runs, or a folder with several\n"
    assert compare()[2] == "gpt: 0 runs given: name at least two runs, or a folder with several\n"


def test_settings_that_only_some_of_the_runs_have_are_counted(compare, folder, tmp_path):
    shutil.copytree(folder / "one", tmp_path / "imported")
    config = tmp_path / "imported" / "config.json"
    described = json.loads(config.read_text(encoding="utf-8"))
    for part in ("training", "data", "made_with"):
        del described[part]
    config.write_text(json.dumps(described | {"imported": {"from": "elsewhere"}}), encoding="utf-8")
    output = compare(folder / "one", tmp_path / "imported")[1]
    assert "all settings that the runs share are the same" in output
    (shown,) = re.findall(r"(\d+) settings that only some of the runs have: --all shows them", output)
    everything = cells(compare(folder / "one", tmp_path / "imported", "--all")[1])
    assert everything["batch_size"] == ["2", "-"]
    assert int(shown) == sum(values[-1] == "-" for values in everything.values())
    assert "cannot be compared" not in output  # a run without validation data has none that differ


def test_a_narrow_terminal_has_a_line_for_each_value(compare, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = compare(folder)[1].splitlines()
    assert all(len(line) <= 40 for line in lines)
    at = lines.index("batch_size")
    assert lines[at + 1 : at + 3] == ["  a run with a rather long name: 4", "  one: 2"]
    assert not any("│" in line for line in lines)


def test_names_are_plain_text(compare, folder, tmp_path):
    for name in ("[b]x", "[red]\x1b[2J"):
        shutil.copytree(folder / "one", tmp_path / name)
    output = compare(tmp_path)[1]
    assert "[b]x" in output
    assert "\x1b" not in output


def test_many_runs_have_a_line_for_each_value(compare, folder, tmp_path):
    for i in range(7):
        shutil.copytree(folder / "one", tmp_path / f"r{i}")
    output = compare(tmp_path / "r0", *(tmp_path / f"r{i}" for i in range(1, 6)))[1]
    assert cells(output)["at step"] == ["4"] * 6  # 80 columns are enough for six
    output = compare(tmp_path)[1]
    assert "│" not in output
    assert re.search(r"^steps\n((  r\d: 4\n){7})", output, re.MULTILINE)


@pytest.mark.parametrize("name", ["c.jpg", "c", "c.png.txt"])
def test_a_picture_has_the_name_of_its_format(compare, folder, tmp_path, name):
    status, _, errors = compare(folder, "--out", tmp_path / name)
    assert status == 1
    assert errors == f"gpt: {tmp_path / name}: the curves are drawn as a PNG: give a name that ends in .png\n"
    assert not list(tmp_path.iterdir())
    assert compare(folder, "--out", tmp_path / "C.PNG")[0] == 0
