"""`gpt compare`: settings that differ and results in a terminal of 80 columns, and a picture."""

import json
import re
import shutil

import pytest
from runs import quickly_drawn, tiny, train

from gpt import look

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
    assert (
        compare(folder / "one")[2]
        == "gpt: a comparison needs two different runs, got 1: name them, or a folder with several\n"
    )
    assert compare()[2] == "gpt: a comparison needs two different runs, got 0: name them, or a folder with several\n"


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


# ----- results ----------------------------------------------------------------------------------------------------


@pytest.fixture
def made(folder, tmp_path):
    """made(name, lines, task): a run of 40 steps with these lines of metrics.jsonl; an imported one for None."""

    def made(name, lines, task="pretrain"):
        run = shutil.copytree(folder / "one", tmp_path / name)
        described = json.loads((run / "config.json").read_text(encoding="utf-8"))
        described["training"]["steps"] = 40
        shutil.rmtree(run / "checkpoints")
        if lines is None:
            del described["training"]
            described["imported"] = {"from": "elsewhere"}
            (run / "metrics.jsonl").unlink()
        else:
            (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        (run / "config.json").write_text(json.dumps(described | {"task": task}), encoding="utf-8")
        manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
        manifest["finished"] = 40 if lines and len(lines) == 40 else None
        (run / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
        return run

    return made


def steps(count, **evaluations):
    """Lines with a loss of 3 at steps up to 10 and of 2, 2.01, 2.02, ... after them, and figures by their steps."""
    lines = [
        {"step": s, "loss": 3.0 if s <= 10 else 2 + (s - 11) / 100, "norm": 1.5, "lr": 0.01}
        for s in range(1, count + 1)
    ]
    for name, values in evaluations.items():
        for step, value in values.items():
            lines[step - 1][name] = value
    return lines


VALIDATION = {10: 2.75, 20: 2.123456, 40: 2.5}


def test_a_run_without_a_validation_loss_has_a_dash_for_it(compare, made):
    runs = made("with", steps(40, validation_loss=VALIDATION)), made("without", steps(40))
    status, output, errors = compare(*runs)
    assert (status, errors) == (0, "")
    rows = cells(output)
    assert rows["lowest validation loss"] == ["2.1235", "-"]
    assert rows["at step"] == ["20", "-"]
    assert rows["training loss, last 30 steps"] == ["2.1450", "2.1450"]  # the mean of 2.00 to 2.29
    assert rows["steps"] == ["40", "40"]
    assert not {"loss", "norm", "lr", "validation loss"} & rows.keys()  # figures of single steps are no results


def test_runs_without_a_validation_loss_have_their_other_results(compare, made):
    rows = cells(compare(made("1", steps(40)), made("2", steps(12)))[1])
    assert (rows["lowest validation loss"], rows["at step"]) == (["-", "-"], ["-", "-"])
    assert rows["training loss, last 30 steps"] == ["2.1450", f"{(10 * 3 + 2 + 2.01) / 12:.4f}"]
    assert rows["steps"] == ["40", "12 of 40, not finished"]


def test_a_run_without_a_step_has_no_result(compare, made):
    runs = made("trained", steps(40, validation_loss=VALIDATION)), made("new", []), made("imported", None)
    status, output, errors = compare(*runs)
    assert (status, errors) == (0, "")
    rows = cells(output)
    assert rows["steps"] == ["40", "0 of 40, not finished", "0"]
    for name, value in (
        ("lowest validation loss", "2.1235"), ("at step", "20"), ("training loss, last 30 steps", "2.1450")
    ):  # fmt: skip
        assert rows[name] == [value, "-", "-"]


def test_figures_of_one_task_are_a_dash_in_runs_of_another(compare, made):
    final = {"test_accuracy": {40: 0.953}, "test_loss": {40: 0.25}, "test_repeated": {40: 3}}
    classifier = made("spam", steps(40, validation_loss=VALIDATION, **final), task="classify")
    text = made("text", steps(40, whole_validation_loss={20: 2.2, 40: 2.4444}))
    output = compare(classifier, text)[1]
    rows = cells(output)
    assert rows["test accuracy"] == ["95.3 %", "-"]
    assert rows["test loss"] == ["0.2500", "-"]
    assert next(values for name, values in rows.items() if name.startswith("test entries")) == ["3", "-"]
    assert rows["validation loss, whole text"] == ["-", "2.4444"]  # the newest
    assert rows["task"] == ["classify", "pretrain"]
    assert "The tasks differ, so the losses are of different things and cannot be compared." in output


def test_the_lowest_validation_loss_is_the_same_text_in_every_command(call, compare, made, tmp_path):
    """Four decimals, without a comma in a large one."""
    made("b", steps(40, validation_loss=VALIDATION))
    run = made("a", steps(40, validation_loss={10: 12345.67891, 20: 123456.78}))
    for lowest, step, name in (("12345.6789", 10, "a"), ("2.1235", 20, "b")):
        assert f"{lowest} @ {step}" in call("runs", tmp_path)[1]
        assert f"{lowest} at step {step}\n" in call("show", tmp_path / name)[1]
        assert look.run(tmp_path / name).figures()["lowest validation loss"] == f"{lowest} at step {step}"
    assert cells(compare(run, tmp_path / "b")[1])["lowest validation loss"] == ["12345.6789", "2.1235"]


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
