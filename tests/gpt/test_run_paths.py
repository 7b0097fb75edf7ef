"""A run's directory while it is trained: links that change, snapshots of it, names that are empty, moved directories."""

import os
import shutil
from pathlib import Path

import pytest
from runs import tiny, train
from test_rundir import everything

from gpt import checkpoint, plots, rundir, session
from gpt import train as training
from gpt.config import TrainConfig

SHORT = {"steps": 4, "eval_every": 2, "sample_every": 0, "checkpoint_every": 1}


@pytest.fixture(scope="module", autouse=True)
def quickly_drawn():
    """Drawing takes longer than a training of four steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw_run", lambda run: (run / "loss.png").write_bytes(b"a picture"))
        yield


@pytest.fixture(scope="module")
def short(tmp_path_factory, quickly_drawn):
    """A finished run of four steps: the folder that it lies in."""
    folder = tmp_path_factory.mktemp("short")
    train(tiny(folder, **SHORT))
    return folder


@pytest.fixture
def run(short, tmp_path):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(short / "run", tmp_path / "run"))


def longer(run: Path, steps: int = 8) -> TrainConfig:
    return TrainConfig(**{**vars(session.settings(run)), "steps": steps})


def at_first_step(monkeypatch, act):
    """Call `act` once, while training is between two steps."""
    real, done = training.update, []

    def update(s, step):
        if not done:
            done.append(act())
        return real(s, step)

    monkeypatch.setattr(training, "update", update)


# ----- links ------------------------------------------------------------------------------------------------------


@pytest.mark.finding("A1")
@pytest.mark.parametrize("way", ["resume", "out", "overwrite", "resume_if_exists"])
@pytest.mark.parametrize("linked", ["run", "parent"])
def test_a_link_that_is_pointed_elsewhere_during_training_changes_no_other_run(run, tmp_path, monkeypatch, way, linked):
    first, other, text = tmp_path / "a" / "run", tmp_path / "b" / "run", session.settings(run).text
    first.parent.mkdir()
    shutil.copytree(run, other)
    os.rename(run, first)
    if way == "out":
        shutil.rmtree(first)
        first.mkdir()
    link = tmp_path / "latest"
    link.symlink_to(first if linked == "run" else first.parent)
    given = link if linked == "run" else link / "run"
    before = everything(other)

    def point_elsewhere():
        link.unlink()
        link.symlink_to(other if linked == "run" else other.parent)

    at_first_step(monkeypatch, point_elsewhere)
    if way == "resume":
        train(longer(given))
    else:
        flag = {} if way == "out" else {way: True}
        train(tiny(tmp_path, **{**SHORT, "steps": 8, "out": given, "text": text, **flag}))
    assert everything(other) == before
    assert checkpoint.newest(first)[0].step == 8
    assert rundir.finished(first) == 8
