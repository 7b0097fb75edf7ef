"""A run's directory while it is trained: links that change, snapshots, empty names, checkpoints that are gone."""

import errno
import io
import os
import re
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console
from runs import quickly_drawn, short_run, tiny, train  # noqa: F401  a fixture
from test_run_directory import everything

from gpt import pretrained
from gpt.tasks.pretrain import TrainConfig
from gpt.training import checkpoint, lockfile, open_run, plots, run_directory, session
from gpt.training import loop as training

SHORT = {"steps": 4, "eval_every": 2, "sample_every": 0, "checkpoint_every": 1}
short, run = short_run(**SHORT)


def longer(run: Path, steps: int = 8) -> TrainConfig:
    return TrainConfig(**{**vars(session.settings(run, TrainConfig)), "steps": steps})


def at_first_step(monkeypatch, act):
    """Call `act` once, while training is between two steps."""
    real, done = training.update, []

    def update(s, step):
        if not done:
            done.append(act())
        return real(s, step)

    monkeypatch.setattr(training, "update", update)


# ----- links ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.finding("A1")
@pytest.mark.parametrize("way", ["resume", "out", "overwrite", "resume_if_exists"])
@pytest.mark.parametrize("linked", ["run", "parent"])
def test_a_link_that_is_pointed_elsewhere_during_training_changes_no_other_run(run, tmp_path, monkeypatch, way, linked):
    first, other, text = tmp_path / "a" / "run", tmp_path / "b" / "run", session.settings(run, TrainConfig).text
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
    assert run_directory.finished(first) == 8


# ----- snapshots of hard links ------------------------------------------------------------------------------------


def snapshot(run: Path, to: Path) -> Path:
    """As `cp -al` makes it."""
    return Path(shutil.copytree(run, to, copy_function=os.link))


@pytest.mark.slow
@pytest.mark.finding("A1")
@pytest.mark.parametrize("trained", ["run", "snapshot"])
def test_a_snapshot_of_hard_links_is_not_changed_by_training(run, tmp_path, monkeypatch, trained):
    with open(run / "samples.txt", "a") as file:
        file.write("cut off when training goes on")
    other = snapshot(run, tmp_path / "snapshot")
    mine, kept = (run, other) if trained == "run" else (other, run)
    before = everything(kept)
    train(longer(mine))
    assert everything(kept) == before
    assert checkpoint.newest(mine)[0].step == 8
    before = everything(mine)
    train(longer(kept, 12))
    assert everything(mine) == before


def test_a_snapshot_is_not_locked_by_training_in_the_run_afterwards(run, tmp_path):
    other = snapshot(run, tmp_path / "snapshot")
    with lockfile.lock(run), lockfile.lock(other):
        assert not os.path.samefile(run / "lock", other / "lock")
        for folder in (run, other):
            with pytest.raises(RuntimeError, match="is training in"), lockfile.lock(folder):
                pass


@pytest.mark.skipif(os.name != "posix", reason="Windows does not replace a file that is open")
def test_the_lock_of_a_snapshot_is_held_until_it_has_a_file_of_its_own(run, tmp_path, monkeypatch):
    """Or two processes might both have it: one in the file that the other one then replaces."""
    snapshot(run, tmp_path / "snapshot")
    real, free = run_directory.unshare, []

    def unshare(path):
        with open(path, "a+") as another:
            free.append(lockfile.take(another, run))
        real(path)

    monkeypatch.setattr(run_directory, "unshare", unshare)
    with lockfile.lock(run):
        assert free == [False]


@pytest.mark.finding("A4")
def test_a_picture_that_cannot_be_written_is_a_warning(run, monkeypatch):
    def fail(run):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run / "loss.png"))

    monkeypatch.setattr(plots, "draw_run", fail)
    screen = train(longer(run))
    assert re.search(r"warning: .*loss\.png is not drawn: No space left on device", screen)
    assert run_directory.finished(run) == 8


@pytest.mark.finding("A1")
def test_a_picture_is_replaced_and_not_written_into(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    path.write_bytes(b"of a snapshot")
    os.link(path, tmp_path / "snapshot.png")
    figure = plots.Figure()
    plots.FigureCanvasAgg(figure)
    plots.save(figure, path)
    assert (tmp_path / "snapshot.png").read_bytes() == b"of a snapshot"
    assert path.read_bytes().startswith(b"\x89PNG")

    def fail(*args, **kwargs):
        args[0].write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = path.read_bytes()
    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        plots.save(figure, path)
    assert path.read_bytes() == before


# ----- checkpoints that are gone ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.finding("A3")
@pytest.mark.parametrize("how", ["deleted", "renamed", "without a manifest"])
def test_every_reader_says_that_the_newest_checkpoint_is_missing(run, call, how):
    newest = run / "checkpoints" / "step_00000004"
    if how == "renamed":
        newest.rename(newest.with_name("step_00000004 (copy)"))
    elif how == "deleted":
        shutil.rmtree(newest)
    else:
        (newest / "manifest.json").unlink()
    found, problems = checkpoint.newest(run)
    assert (found.step, len(problems)) == (3, 1)
    status, _, errors = call("generate", run, "--prompt", "9", "--max-new-tokens", 1)
    assert status == 0
    assert re.search(r"step_00000004 is (missing|damaged)", errors), errors
    assert "step_00000003 is read instead" in errors
    assert re.search(r"warning: .*step_00000004 is (missing|damaged)", train(longer(run)))
    assert checkpoint.newest(run)[1] == []


@pytest.mark.finding("A3")
def test_a_checkpoint_that_was_not_yet_shown_is_no_loss(run):
    """A kill between the rename of a checkpoint and the display of its files: the run shows an older step."""
    shutil.copyfile(run / "checkpoints" / "step_00000003" / "training.safetensors", run / "t")
    os.replace(run / "t", run / "training.safetensors")
    assert checkpoint.newest(run)[0].step == 4
    assert checkpoint.newest(run)[1] == []


# ----- what is cut off logs ---------------------------------------------------------------------------------------


@pytest.mark.finding("A3")
def test_what_is_cut_off_a_log_is_kept_and_told(run):
    """The last sample and figures of a finished run that goes on, and what somebody wrote behind them."""
    for name in run_directory.LOGS:
        with open(run / name, "ab") as file:
            file.write("my notes: größer\n\x1b[31m\nno line end \xff".encode("latin-1" if "s.t" in name else "utf-8"))
    found, _ = checkpoint.newest(run)
    cut = {name: (run / name).read_bytes()[entry["bytes"] :] for name, entry in found.logs.items()}
    assert b"final" in cut["metrics.jsonl"] or b"whole_validation_loss" in cut["metrics.jsonl"]
    assert b"----- step 4" in cut["samples.txt"]
    screen, log = train(longer(run)), (run / "log.txt").read_text(encoding="utf-8")
    for name, data in cut.items():
        assert f"moved      {len(data):,} bytes of {name} that were written after step 4 to log.txt" in screen
        assert (run / name).read_bytes().find(b"my notes") < 0
        lines = [line.removeprefix(f"{name}: ") for line in log.splitlines() if line.startswith(f"{name}: ")]
        assert lines[-3:][0].startswith("my notes: gr")
        assert lines[-2:] == ["\\x1b[31m", "no line end \\xff" if name == "samples.txt" else "no line end ÿ"]
        whole = data.decode(errors="backslashreplace").replace("\x1b", "\\x1b").splitlines()
        assert lines == [line.rstrip() for line in whole]


# ----- the text that a run was begun with -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", ["resume", "resume_if_exists"])
@pytest.mark.parametrize("size", ["same size", "longer"])
def test_a_text_that_has_changed_since_the_run_was_begun_is_told(tmp_path, way, size):
    train(tiny(tmp_path, **SHORT))
    text, run = tmp_path / "bottles.txt", tmp_path / "run"
    before = (run / "train.tokens").read_bytes()
    config = longer(run) if way == "resume" else tiny(tmp_path, **{**SHORT, "steps": 8, "resume_if_exists": True})
    text.write_text(text.read_text().replace("60 bottles", "61 bottles") + "more" * (size == "longer"))
    screen = train(config)
    assert screen.count(f"warning: {text} has changed since the run was started; the run keeps its own copy") == 1
    assert (run / "train.tokens").read_bytes() == before


@pytest.mark.slow
def test_a_text_that_is_as_it_was_or_gone_is_no_warning(tmp_path, monkeypatch):
    """Also one that is given by another path."""
    monkeypatch.chdir(tmp_path)
    train(tiny(Path("."), **SHORT))
    text = tmp_path / "bottles.txt"
    screen = train(tiny(tmp_path, **{**SHORT, "steps": 6, "text": text, "resume_if_exists": True}))
    assert "resumed" in screen
    assert "warning" not in screen
    text.unlink()
    assert "warning" not in train(longer(tmp_path / "run"))


def test_a_data_file_of_a_run_that_is_missing_is_said_to_be(run):
    (run / "train.tokens").unlink()
    with pytest.raises(ValueError, match=r"train\.tokens is missing: the run cannot continue without it"):
        train(longer(run))


# ----- directories that are gone, space, names --------------------------------------------------------------------


@pytest.mark.finding("A6")
def test_a_run_that_is_moved_during_training_is_said_to_be(run, tmp_path, monkeypatch):
    at_first_step(monkeypatch, lambda: os.rename(run, tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"run was moved or deleted during training"):
        train(longer(run))
    assert not run.exists()
    monkeypatch.undo()
    train(longer(tmp_path / "elsewhere"))
    assert checkpoint.newest(tmp_path / "elsewhere")[0].step == 8


@pytest.mark.finding("A4")
def test_what_fits_is_not_refused(run, monkeypatch):
    """Half a MiB is enough for a run of a few KiB."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30 - 2**19, 2**19))
    train(longer(run))
    assert checkpoint.newest(run)[0].step == 8


def test_dots_in_a_path_make_no_directories(run, tmp_path):
    pretrained.export_run(run, tmp_path / "new" / ".." / "exported")
    train(tiny(tmp_path, **{**SHORT, "out": tmp_path / "new" / ".." / "other"}))
    assert checkpoint.is_run(tmp_path / "other")
    assert (tmp_path / "exported" / "model.safetensors").exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signals")
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGXCPU"])
def test_what_schedulers_send_before_the_time_is_over_saves_and_stops(run, monkeypatch, name):
    number = getattr(signal, name)
    at_first_step(monkeypatch, lambda: os.kill(os.getpid(), number))
    config = longer(run, 200)
    assert training.train(config, Console(file=io.StringIO())).stopped_by == number
    assert checkpoint.newest(run)[0].step == 5


def locked(folder: Path):
    folder.mkdir(parents=True)
    return lockfile.lock(folder)


def test_a_chosen_name_that_is_taken_at_the_same_moment_is_no_failure(tmp_path, monkeypatch):
    """Another process locks runs/bottles, and one has a run in runs/bottles-2, after they were found to be free."""
    monkeypatch.chdir(tmp_path)
    config = tiny(tmp_path, **{**SHORT, "out": None})
    real, other = open_run.create, ExitStack()

    def start(run, *args):
        if run.name == "bottles":
            run.mkdir(parents=True)
            other.enter_context(lockfile.lock(run))
        elif run.name == "bottles-2":
            run.mkdir()
            (run / "thesis.tex").write_text("of another process")
        return real(run, *args)

    monkeypatch.setattr(open_run, "create", start)
    with other:
        result = training.train(config, Console(file=io.StringIO()))
    assert result.run == Path("runs") / "bottles-3"
    assert checkpoint.newest(result.run)[0].step == 4
    with pytest.raises(RuntimeError, match="is training in"), locked(tmp_path / "runs" / "given"):
        train(tiny(tmp_path, **{**SHORT, "out": tmp_path / "runs" / "given"}))
