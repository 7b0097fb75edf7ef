"""One run by 1, 2 and 4 processes, which mpiexec starts: the same losses, weights and files."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import several
from rich.console import Console
from runs import quickly_drawn  # noqa: F401
from safetensors.numpy import load_file

from gpt.tasks.pretrain import TrainConfig
from gpt.training import loop, session
from gpt.training.plots import read_metrics

pytestmark = pytest.mark.slow
LAUNCHED = {4: ("again", "sharded", "long", "rows"), 2: (*several.RUNS, "again=36")}
BY_FOUR = set(LAUNCHED[4]) - {"again"}
PAIRS = [(2, name) for name in several.RUNS if name != "again"] + [
    (4, name) for name in several.RUNS if name in BY_FOUR
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs: FOLDER/PROCESSES/NAME; FOLDER/again was trained by 4, by 1 and by 2 processes in turn."""
    several.mpiexec()
    folder = tmp_path_factory.mktemp("several")
    several.write_inputs(folder)
    for name in several.RUNS:
        several.alone(folder, name)
    several.start(folder, 4, *LAUNCHED[4])
    shutil.copytree(folder / "4" / "again", folder / "again")
    resume(folder / "again", 24)
    resume(folder / "1" / "again", 36)
    several.start(folder, 2, *LAUNCHED[2])
    return folder


def resume(run: Path, steps: int) -> None:
    config = replace(session.settings(run, TrainConfig), steps=steps)
    loop.train(config, Console(file=io.StringIO()))


def losses(run: Path) -> np.ndarray:
    return np.array([line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line])


@pytest.mark.parametrize(("processes", "name"), PAIRS)
def test_the_losses_are_those_of_one_process(runs, processes, name):
    expected = losses(runs / "1" / name)
    assert len(expected) == several.RUNS[name][1]["steps"]
    np.testing.assert_allclose(losses(runs / str(processes) / name), expected, rtol=1e-6)
    first, last = (read_metrics(runs / str(n) / name / "metrics.jsonl")[-1] for n in (1, processes))
    assert first == {key: pytest.approx(value, rel=1e-5) for key, value in last.items()}


@pytest.mark.parametrize("name", ["two-passes", "two-passes-dropout"])
def test_two_processes_with_two_passes_write_the_same_bytes(runs, name):
    for file in ("model.safetensors", "training.safetensors", "metrics.jsonl", "samples.txt", "train.tokens"):
        assert (runs / "2" / name / file).read_bytes() == (runs / "1" / name / file).read_bytes(), file


@pytest.mark.parametrize(("processes", "name"), PAIRS)
def test_the_weights_and_averages_are_those_of_one_process(runs, processes, name):
    for file in ("model.safetensors", "training.safetensors"):
        expected, found = (load_file(runs / str(n) / name / file) for n in (1, processes))
        assert expected.keys() == found.keys()
        for key, x in expected.items():
            assert np.abs(found[key] - x).max() <= 1e-4 * np.abs(x).max(), key


def test_a_run_goes_on_with_another_number_of_processes(runs):
    np.testing.assert_allclose(losses(runs / "again"), losses(runs / "1" / "again"), rtol=1e-6)
    assert "warning: processes was 1 and is 2" in (runs / "again" / "log.txt").read_text()


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("name", ["long", "sharded"])
def test_the_bytes_of_a_step_are_counted(runs, processes, name):
    """Every parameter once, in float32, and the loss of each pass in float64; each sends 2 (N - 1) / N of it."""
    parameters = sum(x.size for x in load_file(runs / "1" / name / "model.safetensors").values())
    counted = json.loads((runs / str(processes) / f"{name}.json").read_text())
    steps, passes = several.RUNS[name][1]["steps"], several.RUNS[name][1]["grad_accumulation"]
    exact = steps * (4 * parameters + 8 * passes)
    if name == "sharded":  # the norm's square, padding, and the averages that checkpoints gather
        assert exact < counted["payload"] < 1.2 * exact
    else:
        assert counted["payload"] == exact


def test_the_log_says_what_each_process_computes(runs):
    assert "2 on 1 host, each computes 2 of 4 passes of a step" in (runs / "2" / "long" / "log.txt").read_text()
    rows = "4 on 1 host, each computes 1 of 1 passes, 2 of their 8 sequences of a step"
    assert rows in (runs / "4" / "rows" / "log.txt").read_text()
