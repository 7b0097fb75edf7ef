"""`look.run`, `look.runs` and `look.compare`: figures, differences, curves, notebooks and pictures."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from runs import quickly_drawn, tiny, train

from gpt import look
from gpt.look.charts import Line, line_chart, ticks
from gpt.look.figures import figure_text
from gpt.look.run_list import total_steps

__all__ = ["quickly_drawn"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two runs, `slow` and `fast`, which differ in lr and eval_every, and what training printed."""
    folder = tmp_path_factory.mktemp("trained")
    printed = [
        train(tiny(folder, out=folder / name, steps=20, **settings))
        for name, settings in (("slow", {"lr": 0.001}), ("fast", {"lr": 0.02, "eval_every": 10}))
    ]
    return folder, printed


class Well(HTMLParser):
    """Checks that every element that is opened is closed, and collects the text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


# ----- finding runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".tmp", ".damaged"])
def test_a_checkpoint_that_is_being_written_is_no_run(trained, tmp_path, ending):
    """`gpt look` once listed step_00000020.tmp as a run, and answered 404 when it was complete and had its name."""
    shutil.copytree(trained[0], tmp_path / "runs")
    checkpoints = tmp_path / "runs" / "slow" / "checkpoints"
    for folder in checkpoints.iterdir():
        folder.rename(f"{folder}{ending}")
    (tmp_path / "runs" / "slow" / "model.safetensors").unlink()  # written with the first complete checkpoint
    assert [run.name for run in look.runs(tmp_path / "runs")] == ["fast"]


def test_runs_are_found_three_levels_below(trained, tmp_path):
    """Also in a folder of the name "checkpoints" that is not a run's."""
    for place in ("here", "a/b/there", "a/b/c/too-deep", "checkpoints/mine", ".hidden/run"):
        shutil.copytree(trained[0] / "slow", tmp_path / place)
    assert [run.name for run in look.runs(tmp_path)] == ["there", "mine", "here"]
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileNotFoundError, match="there is no readable run in"):
        look.runs(tmp_path / "file")


def test_a_model_without_checkpoints_is_a_run(trained, tmp_path):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(trained[0] / "slow" / name, tmp_path / "bare")
    (found,) = look.runs(tmp_path)
    assert (found.name, found.steps) == ("bare", [])
    (tmp_path / "bare" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is no readable run in"):
        look.runs(tmp_path)


def test_a_run_that_is_deleted_while_runs_are_searched_for_is_passed_over(trained, tmp_path, monkeypatch):
    shutil.copytree(trained[0], tmp_path / "runs")
    empty = tmp_path / "runs" / "empty"
    empty.mkdir()
    listed = type(empty).iterdir

    def iterdir(folder):
        if folder == empty:
            folder.rmdir()
        return listed(folder)

    monkeypatch.setattr(type(empty), "iterdir", iterdir)
    assert [run.name for run in look.runs(tmp_path / "runs")] == ["fast", "slow"]


# ----- one run ------------------------------------------------------------------------------------------------------


def test_a_runs_figures_are_those_that_training_printed(trained):
    folder, printed = trained
    run = look.run(folder / "slow")
    loss, step = run.metrics["validation_loss"].lowest()
    (shown,) = re.findall(r"lowest validation loss on the way │\s*(\S+) at step (\d+)", printed[0])
    assert (f"{loss:.4f}", f"{step}") == shown
    (parameters,) = re.findall(r"parameters +│ +([\d,]+) │", printed[0])
    assert f"{run.parameters:,}" == parameters
    assert (run.last, run.total, run.finished, run.keep) == (20, 20, True, 2)
    assert run.steps == [16, 20]  # every fourth, and two are kept
    assert [sample.step for sample in run.samples] == [7, 14, 20]


def test_a_run_that_goes_on_is_not_finished(trained, tmp_path):
    run = shutil.copytree(trained[0] / "slow", tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 21, "loss": 1.0, "norm": 1.0, "lr": 0.1}\n')
    found = look.run(run)
    assert not found.finished
    assert found.figures()["steps"] == "21 of 20, not finished"


def test_tokens_of_a_step_are_those_of_the_batches(trained):
    run = look.run(trained[0] / "slow")
    (shown,) = re.findall(r"tokens trained on +│ +([\d,]+) │", trained[1][0])
    assert run.tokens_per_step * run.last == int(shown.replace(",", ""))


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"steps": 7, "batch_size": 2}, 7),
        ({"steps": 0, "epochs": 3, "batch_size": 4, "grad_accumulation": 2}, 3 * (11 // 4) // 2),
        ({"steps": 0, "epochs": 1, "batch_size": 8, "grad_accumulation": 9}, 1),
        ({"steps": 0, "batch_size": 0, "epochs": 1, "grad_accumulation": 1}, None),
        ({}, None),
    ],
)
def test_the_steps_of_a_fine_tuning_follow_from_its_epochs(training, expected):
    assert total_steps({"training": training, "data": {"train": {"entries": 11}}}) == expected


def test_a_path_without_a_run_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no run"):
        look.run(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="there is no readable run"):
        look.runs(tmp_path)


def test_a_run_shows_itself_with_its_curves(trained):
    html = look.run(trained[0] / "slow")._repr_html_()
    page = Well(html)
    assert "slow" in page.text
    assert html.count("<polyline") == 3  # each step, smoothed, validation
    points = re.findall(r'<polyline points="([^"]*)"', html)
    assert len(points[1].split()) == 20
    assert len(points[2].split()) == 5  # evaluated at 0, 5, ..., 20


# ----- several runs -------------------------------------------------------------------------------------------------


def test_all_runs_of_a_folder_without_those_that_cannot_be_read(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "all")
    shutil.copytree(trained[0] / "slow", tmp_path / "all" / "damaged")
    (tmp_path / "all" / "damaged" / "config.json").write_text("{")
    found = look.runs(tmp_path / "all")
    assert [run.name for run in found] == ["fast", "slow"]
    assert len(found) == 2
    assert Well(found._repr_html_()).text.count("pretrain") == 2


def test_the_settings_that_differ_are_those_that_were_changed(trained):
    found = look.compare([trained[0] / "slow", trained[0] / "fast"])
    assert {row.name: row.values for row in found.differences} == {"lr": ["0.001", "0.02"], "eval_every": ["5", "10"]}
    assert {"seed", "n_embd", "tokenizer", "train tokens"} <= {row.name for row in found.settings}
    assert found.notes == []
    assert json.loads(json.dumps(found.to_dict()))["names"] == ["slow", "fast"]


def test_results_are_those_of_the_runs(trained):
    found = look.compare([trained[0]])  # a folder, in the order of names
    for folder in (trained[0], str(trained[0])):  # alone, as gpt compare FOLDER
        assert look.compare(folder).names == found.names
    rows = {row.name: row.values for row in found.results}
    lines = [json.loads(line) for line in (trained[0] / "slow" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert found.names == ["fast", "slow"]
    assert rows["training loss, last 30 steps"][1] == f"{sum(losses) / len(losses):.4f}"
    assert rows["lowest validation loss"][1] == f"{min(line.get('validation_loss', 9) for line in lines):.4f}"
    assert rows["bits per byte"][1] == f"{lines[-1]['bits_per_byte']:.4f}"


def test_what_cannot_be_compared_is_said(trained, tmp_path):
    train(tiny(tmp_path, out=tmp_path / "words", tokenizer="word", steps=2))
    train(tiny(tmp_path, out=tmp_path / "part", validation=0.3, steps=2))
    slow = trained[0] / "slow"
    assert "tokenizers differ" in look.compare([slow, tmp_path / "words"]).notes[0]
    assert "validation data differ" in look.compare([slow, tmp_path / "part"]).notes[0]


def test_errors_of_a_comparison_are_one_sentence(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        look.compare([trained[0] / "slow", tmp_path])
    with pytest.raises(ValueError, match="a comparison needs two different runs, got 1"):
        look.compare([trained[0] / "slow", trained[0] / "slow"])


def test_runs_of_one_name_are_told_apart_by_their_paths(trained, tmp_path):
    shutil.copytree(trained[0] / "slow", tmp_path / "slow")
    found = look.compare([trained[0] / "slow", tmp_path / "slow"])
    assert found.names == [str(trained[0] / "slow"), str(tmp_path / "slow")]
    assert found.differences == []


# ----- pictures -----------------------------------------------------------------------------------------------------


def test_the_figure_has_the_curves_of_every_run(trained):
    found = look.compare([trained[0]])
    (axes,) = found.figure().axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert set(drawn) == {f"{name}: {kind}" for name in found.names for kind in ("training, smoothed", "validation")}
    for run in found.runs:
        lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        expected = [[line["step"], line["validation_loss"]] for line in lines if "validation_loss" in line]
        assert drawn[f"{run.name}: validation"] == expected
        assert [x for x, _ in drawn[f"{run.name}: training, smoothed"]] == list(range(1, 21))
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(drawn)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss (nats)")


def test_the_figure_tells_eight_runs_apart_and_draws_any_name(trained, tmp_path):
    """What stands between "$" is no formula."""
    for i in range(8):
        shutil.copytree(trained[0] / "slow", tmp_path / rf"{i} $\name_$ 漢")
    found = look.compare([tmp_path])
    (axes,) = found.figure().axes
    validation = [line for line in axes.lines if "validation" in line.get_label()]
    assert len({line.get_marker() for line in validation}) == len({line.get_color() for line in validation}) == 8
    assert not any(text.get_parse_math() for text in axes.get_legend().get_texts())


def test_counts_are_whole_numbers_and_shares_are_percentages():
    shown = {0.0: "0.0000", 0.5: "0.5000", 1.0: "1.0000", 1.25: "1.2500", 2.0: "2", 12345.0: "12,345"}
    assert {value: figure_text("bits_per_byte", value) for value in shown} == shown
    shares = {0.0: "0.0 %", 0.0001: "0.01 %", 0.0025: "0.3 %", 0.953: "95.3 %", 0.9996: ">99.9 %", 1.0: "100.0 %"}
    for name in ("test_accuracy", "exact_match"):
        assert {value: figure_text(name, value) for value in shares} == shares
    assert [figure_text("test_loss", value) for value in (2.0, 0.00004, 4.28277)] == ["2.0000", "0.0000", "4.2828"]
    assert [figure_text("test_repeated", value) for value in (0, 1, 1234)] == ["0", "1", "1,234"]
    for name in ("test_loss", "perplexity", "test_accuracy", "test_repeated"):
        assert {figure_text(name, value) for value in (math.inf, -math.inf, math.nan)} == {"not finite"}


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node, to run the page's script")
def test_figures_are_written_as_the_page_writes_them():
    shares = [k / n for n in (3, 7, 80, 400, 1000, 4000, 30_000) for k in (0, 1, 2, n // 3, n // 2, n - 1, n)]
    others = [4.28277, 10.98061, 0.00004, 1e-9, 2.0, 55.0, 12345.0, 123456.789, math.inf, math.nan]
    cases = [(name, value) for name in ("test_accuracy", "exact_match") for value in shares]
    cases += [
        (name, value) for name in ("loss", "validation_loss", "perplexity", "entries") for value in others + shares
    ]
    cases += [("test_repeated", value) for value in (0, 1, 12345, math.inf)]
    script = Path(look.__file__).parents[1] / "serve/static/js/ui.js"
    code = (
        f"import {{ figure }} from {json.dumps(script.as_uri())};"
        f"console.log(JSON.stringify({json.dumps(cases)}.map(([name, value]) => figure(name, value))))"
    )
    ran = subprocess.run(["node", "--input-type=module", "-e", code], capture_output=True, text=True, check=True)
    assert [figure_text(name, value) for name, value in cases] == json.loads(ran.stdout)


def test_a_picture_is_not_overwritten(trained, tmp_path):
    found = look.compare([trained[0]])
    path = tmp_path / "compare.png"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        found.save(path)
    assert path.read_text() == "mine"
    found.save(path, overwrite=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_names_in_notebooks_are_escaped(trained, tmp_path):
    run = shutil.copytree(trained[0] / "slow", tmp_path / "<b>&")
    found = look.compare([run, trained[0] / "fast"])
    for html in (look.run(run)._repr_html_(), found._repr_html_()):
        assert "<b>&" not in html
        assert "<b>&" in Well(html).text
    assert found._repr_html_().count("<polyline") == 4


def test_ticks_are_round_numbers():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(1.7, 4.1) == [2, 2.5, 3, 3.5, 4]
    assert ticks(0, 0.003) == [0, 0.001, 0.002, 0.003]


def test_a_chart_without_points_is_empty():
    assert line_chart([Line("x", [])], "step", "loss") == ""
    assert "polyline" in line_chart([Line("x", [(1, 2.0), (2, 2.0)])], "step", "loss")  # a constant
