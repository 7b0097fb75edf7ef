"""When training ends and what it keeps: the best checkpoint, patience, minutes; unbroken and resumed runs agree."""

import json
import math
import time

import pytest
from runs import contents, flags, gpt, quickly_drawn, start, tiny, train

from gpt.tasks.pretrain import Pretraining
from gpt.training import checkpoint, loop, run_directory
from gpt.training.loop import Clock

LOSSES = {0: 4.0, 5: 3.0, 10: 2.0, 15: 2.5, 20: 2.0, 25: 2.2, 30: 1.9}  # of each evaluation


@pytest.fixture
def given_losses(monkeypatch):
    """Evaluations have these losses; the steps are as they are."""

    def give(losses):
        real = loop.evaluate

        def evaluate(s, show, lr):
            monkeypatch.setattr(s.task, "evaluate", lambda model: {"validation_loss": losses[s.step]}, raising=False)
            return real(s, show, lr)

        monkeypatch.setattr(loop, "evaluate", evaluate)

    return give


def kept(run):
    return sorted(map(run_directory.step_of, run_directory.steps(run)))


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# ----- the best checkpoint ------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path, given_losses):
    given_losses({**LOSSES, 30: 3.0})
    train(tiny(tmp_path, keep_best=True, keep=2))
    run = tmp_path / "run"
    assert kept(run) == [10, 28, 30]  # 10: its loss is the lowest; 20 has the same, later
    assert checkpoint.best_of(run) == (2.0, 10)
    assert checkpoint.folder_at(run, "best").name == "step_00000010"
    assert checkpoint.folder_at(run).name == "step_00000030"


def test_without_keep_best_the_best_is_named_but_not_there(tmp_path, given_losses):
    given_losses({**LOSSES, 30: 3.0})
    said = train(tiny(tmp_path))
    assert kept(tmp_path / "run") == [28, 30]
    assert "its checkpoint" not in said
    with pytest.raises(FileNotFoundError, match=r"was 2\.0000 at step 10, whose checkpoint .* keeps 28, 30.*keep-best"):
        checkpoint.folder_at(tmp_path / "run", "best")


def test_the_newest_may_be_the_best(tmp_path, given_losses):
    given_losses(LOSSES)
    assert "kept: --step best" in train(tiny(tmp_path, keep_best=True, keep=1))
    assert kept(tmp_path / "run") == [30]
    assert checkpoint.folder_at(tmp_path / "run", "best").name == "step_00000030"


def test_weights_of_the_best_step_are_those_that_had_the_loss(tmp_path):
    """Not given losses: the model of --step best is evaluated again."""
    train(tiny(tmp_path, keep_best=True, steps=60, lr=0.3, checkpoint_every=7))
    run = tmp_path / "run"
    loss, step = checkpoint.best_of(run)
    lowest = min(line["validation_loss"] for line in lines(run) if "validation_loss" in line)
    assert (loss, step in kept(run)) == (lowest, True)
    model, tokenizer = checkpoint.load_model(run, folder=checkpoint.folder_at(run, "best"))
    description = checkpoint.read_config(run / "config.json")
    task = Pretraining(tiny(tmp_path), run, tokenizer, description)
    assert task.evaluate(model)["validation_loss"] == loss


def test_a_step_that_is_none_is_refused(tmp_path):
    train(tiny(tmp_path, steps=4))
    for step in ("newest", "-1", "1.5", ""):
        with pytest.raises(ValueError, match="step must be a number or best"):
            checkpoint.folder_at(tmp_path / "run", step)
    with pytest.raises(FileNotFoundError, match="there is no run"):
        checkpoint.folder_at(tmp_path / "none", "best")


# ----- patience -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patience", "last"), [(1, 15), (2, 20), (3, 25), (4, 30)])
def test_training_ends_after_as_many_evaluations_without_a_lower_loss(tmp_path, given_losses, patience, last):
    given_losses(LOSSES)
    said = train(tiny(tmp_path, patience=patience))
    run = tmp_path / "run"
    assert max(line["step"] for line in lines(run)) == last
    assert "whole_validation_loss" in lines(run)[-1]
    assert run_directory.finished(run) == last
    assert kept(run)[-1] == last
    number = "1 evaluation" if patience == 1 else f"{patience} evaluations"
    assert (f"ended after step {last}: {number} without a validation loss below 2.0000, that of step 10" in said) == (
        last < 30
    )


def test_a_run_that_patience_ended_goes_on_with_more(tmp_path, given_losses):
    given_losses(LOSSES)
    train(tiny(tmp_path, out=tmp_path / "whole"))
    train(tiny(tmp_path, patience=2))
    run = tmp_path / "run"
    before = contents(run)
    train(tiny(tmp_path, out=None, resume=run, patience=2))  # nothing is left to do
    assert contents(run) == before
    train(tiny(tmp_path, out=run, resume_if_exists=True, patience=2))
    assert contents(run) == before
    train(tiny(tmp_path, out=None, resume=run, patience=4))
    assert lines(run) == lines(tmp_path / "whole")
    for name in ("model.safetensors", "samples.txt"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("stopped", [6, 11, 17, 20])
def test_resumed_runs_count_patience_and_keep_the_best_as_unbroken_ones(tmp_path, given_losses, monkeypatch, stopped):
    """The process ends after a step; another one resumes from the newest checkpoint."""
    given_losses(LOSSES)
    options = {"patience": 3, "keep_best": True, "keep": 1}
    train(tiny(tmp_path, out=tmp_path / "whole", **options))

    class Gone(BaseException):
        pass

    real = loop.record

    def record(s, show, results, evaluation_due=False):
        if s.step == stopped:
            raise Gone
        real(s, show, results, evaluation_due)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "record", record)
        with pytest.raises(Gone):
            train(tiny(tmp_path, **options))
    assert kept(tmp_path / "run")[-1] < stopped
    train(tiny(tmp_path, out=None, resume=tmp_path / "run", **options))
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert kept(tmp_path / "whole") == [10, 25]


def test_a_loss_that_is_not_a_number_is_not_lower(tmp_path, given_losses):
    given_losses({**LOSSES, 15: math.nan, 20: math.nan})
    with pytest.raises(FloatingPointError, match=r"step 20, the last one .*: the validation loss is nan"):
        train(tiny(tmp_path, patience=2))


@pytest.mark.parametrize(("name", "value"), [("patience", 0), ("patience", 1.5), ("max_minutes", -1), ("keep_best", 1)])
def test_wrong_values_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        tiny(tmp_path, **{name: value})


# ----- minutes ------------------------------------------------------------------------------------------------------


def test_no_time_leaves_the_first_checkpoint(tmp_path):
    said = train(tiny(tmp_path, max_minutes=0))
    run = tmp_path / "run"
    assert kept(run) == [0]
    assert f"stopped after step 0, as 0 minutes are over, saved step 0: go on with gpt train --resume {run}" in said
    assert run_directory.finished(run) is None


def test_a_run_that_was_stopped_in_time_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    train(tiny(tmp_path, out=tmp_path / "whole"))
    left = iter([True] * 13 + [False])
    with monkeypatch.context() as patch:
        patch.setattr(Clock, "has_time", lambda clock: next(left))
        result = loop.train(tiny(tmp_path, max_minutes=5))
    assert (result.stopped_by, result.finished, kept(tmp_path / "run")[-1]) == (None, False, 13)
    assert loop.train(tiny(tmp_path, out=None, resume=tmp_path / "run")).finished
    for name in ("model.safetensors", "metrics.jsonl", "samples.txt", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_clock_leaves_time_for_the_longest_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(deadline=10.0)
    for moment, expected in ((0.0, True), (3.0, True), (4.0, True), (6.9, True), (7.5, False)):
        now[0] = moment
        assert clock.has_time() == expected, moment


@pytest.mark.slow
def test_max_minutes_stops_a_process_in_time(tmp_path):
    began = time.monotonic()
    status, output, errors = gpt(*flags(tmp_path, steps=1_000_000), "--out", tmp_path / "run", "--max-minutes", 0.05)
    assert (status, errors) == (0, "")
    assert "as 0.05 minutes are over" in output
    assert time.monotonic() - began < 60
    assert kept(tmp_path / "run")[-1] > 0


@pytest.mark.slow
def test_a_signal_and_a_limit_of_time_together(tmp_path):
    """The signal's status wins."""
    with start(*flags(tmp_path, steps=1_000_000), "--out", tmp_path / "run", "--max-minutes", 60) as process:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            time.sleep(0.05)
        process.terminate()
        output, errors = process.communicate()
    assert (process.returncode, errors) == (143, "")
    assert "go on with gpt train --resume" in output


assert quickly_drawn  # used by pytest
