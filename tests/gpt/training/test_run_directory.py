"""Whose the files of a directory are: nothing is lost that gpt did not write, and nothing that a failure interrupts."""

import errno
import os
import re
import shutil
import stat
import warnings
from pathlib import Path

import folders
import pytest
from runs import contents, quickly_drawn, short_run, tiny, train, write_text  # noqa: F401  a fixture
from trained import Killed, Trained, failing

import tensorlite as tl
from gpt import pretrained
from gpt.tasks import classify, instruct
from gpt.tasks.classify import ClassifyConfig
from gpt.tasks.instruct import InstructConfig
from gpt.tasks.pretrain import Pretraining, TrainConfig
from gpt.training import checkpoint, lockfile, open_run, run_directory, session
from gpt.training import loop as training

SHORT = {"steps": 2, "eval_every": 2, "sample_every": 0, "checkpoint_every": 1}
short, run = short_run(**SHORT)
NAMES = (*run_directory.RUN, "train.tokens")  # of a new run in these tests


def everything(folder: Path) -> dict[str, bytes | str | None]:
    """What is in a directory: each file's bytes, each link's target, and the directories."""

    def content(path: Path) -> bytes | str | None:
        return os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*"))}


def fill(folder: Path, *names: str) -> Path:
    """Somebody's files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"somebody's {name}", encoding="utf-8")
    return folder


# ----- somebody else's files --------------------------------------------------------------------------------------

FOREIGN = {
    "entries": ["train.jsonl", "validation.jsonl", "test.jsonl"],
    "model": ["config.json", "tokenizer.json", "model.safetensors"],
    "checkpoints": ["checkpoints/epoch_3/model.bin", "checkpoints/step_100/model.bin"],
    "steps": ["checkpoints/step_00000001/model.bin"],
    "temporary": [".notes.tmp"],
    "hidden": [".env"],
    "manifest": ["run.json"],
    "other": ["thesis.tex"],
}


@pytest.mark.finding("A1")
@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN)
def test_a_directory_with_files_of_others_is_refused_and_not_touched(tmp_path, names):
    out = fill(tmp_path / "out", *names)
    before = everything(out)
    says = "has a run already|is not empty and gpt did not write .*: name another directory, or give --overwrite"
    with pytest.raises(FileExistsError, match=says):
        train(tiny(tmp_path, out=out, **SHORT))
    with pytest.raises(FileExistsError, match=says):
        pretrained.import_folder(folders.write(tmp_path / "hf"), out)
    assert everything(out) == before


@pytest.mark.finding("A1")
def test_overwrite_replaces_the_names_that_a_run_needs_and_leaves_all_others(tmp_path):
    kept = [name for key in ("entries", "checkpoints", "temporary", "hidden", "other") for name in FOREIGN[key]]
    out = fill(tmp_path / "out", *kept, *FOREIGN["model"], "run.json", "checkpoints/step_00000001_best/model.bin")
    train(tiny(tmp_path, out=out, overwrite=True, **SHORT))
    assert checkpoint.newest(out)[0].step == 2
    for name in (*kept, "checkpoints/step_00000001_best/model.bin"):
        assert (out / name).read_text() == f"somebody's {name}"
    with pytest.raises(FileExistsError, match=r"step_00000001 has files that do not belong to a checkpoint"):
        train(tiny(tmp_path, out=fill(tmp_path / "steps", *FOREIGN["steps"]), overwrite=True, **SHORT))
    with pytest.raises(FileExistsError, match=r"lock is not gpt's: name another directory"):
        train(tiny(tmp_path, out=fill(tmp_path / "lock", "lock"), overwrite=True, **SHORT))
    with pytest.raises(FileExistsError, match=r"loss\.png is a directory: name another directory for the run"):
        train(tiny(tmp_path, out=fill(tmp_path / "folder", "loss.png/a"), overwrite=True, **SHORT))
    assert (tmp_path / "lock" / "lock").read_text() == "somebody's lock"


@pytest.mark.slow
@pytest.mark.finding("A1")
def test_what_somebody_puts_into_a_run_is_never_deleted_renamed_or_read(run, tmp_path):
    """Copies of checkpoints under other names, notes beside a checkpoint's files, a folder of temporary files."""
    kept = run / "checkpoints"
    shutil.copytree(kept / "step_00000002", kept / "step_00000002_best")
    shutil.copytree(kept / "step_00000002", kept / "step_00000099_keep")
    shutil.copytree(kept / "step_00000002", kept / "step_99")
    fill(run, "thesis.tex", "checkpoints/step_00000001/notes.txt", ".notes.tmp", "checkpoints/x.tmp/y", "report.json")
    mine = {name for name in everything(run) if re.search(r"best|keep|step_99|thesis|01|notes|x\.tmp|report", name)}
    before = {name: data for name, data in everything(run).items() if name in mine}
    train(TrainConfig(**{**vars(session.settings(run, TrainConfig)), "steps": 6}))
    assert {name: data for name, data in everything(run).items() if name in mine} == before
    assert checkpoint.newest(run)[0].step == 6
    assert not (kept / "step_00000002").exists()  # an old checkpoint without notes in it
    shutil.rmtree(kept / "step_00000001")
    train(tiny(tmp_path, overwrite=True, **SHORT))
    after = everything(run)
    assert {name: after.get(name) for name in mine if "000001/" not in name and not name.endswith("0001")} == {
        name: data for name, data in before.items() if "000001/" not in name and not name.endswith("0001")
    }


def test_whose_file_a_name_is(run):
    for name in ("config.json", "run.json", "checkpoints/step_00000002/model.safetensors", ".gpt-new/config.json"):
        assert run_directory.owner(run / name) == run
    for name in ("scores.json", "notes/config.json", "../config.json"):
        assert run_directory.owner(run / name) is None


@pytest.mark.finding("A1")
def test_what_systems_leave_in_any_directory_is_no_obstacle(tmp_path):
    litter = [".DS_Store", ".ipynb_checkpoints/x.ipynb", "Thumbs.db", "desktop.ini", "._run", ".gitignore"]
    out = fill(tmp_path / "out", *litter)
    train(tiny(tmp_path, out=out, **SHORT))
    assert all((out / name).read_text() == f"somebody's {name}" for name in litter)


@pytest.mark.finding("A1")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_is_never_written_over_what_it_is_made_from(short, run, tmp_path, overwrite, monkeypatch):
    """The text, the entries, the base and the source; also by a link, a relative path or a directory around them."""
    text = write_text(tmp_path)
    fill(tmp_path / "data", "train.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    fill(tmp_path / "outer" / "inner", "train.jsonl")
    (tmp_path / "shortcut").symlink_to(tmp_path / "outer" / "inner")
    through = {"overwrite": overwrite, "base": run, "data": tmp_path / "shortcut" / "train.jsonl"}
    hf = folders.write(tmp_path / "hf")
    before = everything(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = {"overwrite": overwrite, "base": run, "data": tmp_path / "data" / "train.jsonl"}
    configs = [
        (tiny(tmp_path, out=Path("."), text=(text,), overwrite=overwrite), Pretraining),
        (InstructConfig(out=Path("data"), **given), instruct.Instructions),
        (InstructConfig(out=tmp_path / "link", **given), instruct.Instructions),
        (InstructConfig(out=tmp_path / "outer", **through), instruct.Instructions),
        (ClassifyConfig(out=run, **given), classify.Classification),
        (ClassifyConfig(out=run / "checkpoints" / "step_00000002", **given), classify.Classification),
        (ClassifyConfig(out=tmp_path, **given), classify.Classification),
    ]
    for config, task in configs:
        with pytest.raises(ValueError, match=r"cannot be written to, because it (is|contains) .*: name another"):
            train(config, task)
    for source, out in ((hf, hf), (hf, Path("hf")), (hf, tmp_path)):
        with pytest.raises(ValueError, match="cannot be written to, because it"):
            pretrained.import_folder(source, out, overwrite)
    for out in (run, tmp_path, run / "checkpoints" / "new"):
        with pytest.raises(ValueError, match="cannot be written to, because it"):
            pretrained.export_run(run, out)
    assert everything(tmp_path) == before


# ----- a start that fails -----------------------------------------------------------------------------------------


def stop_at(monkeypatch, where, name: str, error: BaseException) -> None:
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(where, name, fail)


def killed(monkeypatch, config) -> None:
    """Train until the process is killed in its first evaluation, before there is a checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(open_run, "_undo", lambda place: None)
        stop_at(patch, training, "evaluate", Killed())
        with pytest.raises(Killed):
            train(config)


FAILURES = {  # what fails, and the error that ends training
    "text": (lambda patch, folder: (folder / "bottles.txt").write_bytes(b"\xff"), ValueError, "is not UTF-8"),
    "short": (lambda patch, folder: (folder / "bottles.txt").write_text("too short"), ValueError, "needs at least"),
    "model": (
        lambda patch, _: stop_at(patch, session, "make_optimizer", MemoryError("no room")),
        MemoryError,
        "no room",
    ),
    "ctrl-c": (lambda patch, _: stop_at(patch, training, "evaluate", KeyboardInterrupt()), KeyboardInterrupt, None),
    "exit": (lambda patch, _: stop_at(patch, training, "evaluate", SystemExit(143)), SystemExit, "143"),
    "disk": (lambda patch, _: stop_at(patch, os, "rename", OSError(errno.ENOSPC, "No space")), OSError, "No space"),
}


@pytest.mark.finding("E12")
@pytest.mark.parametrize(("fail", "error", "says"), FAILURES.values(), ids=FAILURES)
def test_a_start_that_fails_leaves_nothing(tmp_path, monkeypatch, fail, error, says):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "litter", ".DS_Store")
    for out in (folder / "deep" / "run", tmp_path / "empty", tmp_path / "litter"):
        config = tiny(folder, out=out, **SHORT)
        before = everything(tmp_path)
        with monkeypatch.context() as patch:
            fail(patch, folder)
            with pytest.raises(error, match=says):
                train(config)
        after = everything(tmp_path)
        assert {name for name in after if "bottles" not in name} == {name for name in before if "bottles" not in name}


@pytest.mark.finding("E12")
def test_a_name_that_was_chosen_is_not_used_up_by_a_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        train(tiny(tmp_path, out=None, text=(Path("bottles.txt"), Path("nowhere.txt")), **SHORT))
    assert not (tmp_path / "runs").exists()
    killed(monkeypatch, tiny(tmp_path, out=None, **SHORT))
    assert (tmp_path / "runs" / "bottles" / "train.tokens").exists()  # a kill leaves it, and the name is free
    for _ in range(2):
        train(tiny(tmp_path, out=None, **SHORT))
    fill(tmp_path / "runs" / "bottles-3", "thesis.tex")
    train(tiny(tmp_path, out=None, **SHORT))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "bottles", "bottles-2", "bottles-3", "bottles-4",
    ]  # fmt: skip
    assert [*everything(tmp_path / "runs" / "bottles-3")] == ["thesis.tex"]


@pytest.mark.slow
@pytest.mark.finding("A2")
@pytest.mark.parametrize(("fail", "error", "says"), FAILURES.values(), ids=FAILURES)
def test_overwrite_that_fails_leaves_the_old_run_as_it_was(short, run, tmp_path, monkeypatch, fail, error, says):
    fill(run, "thesis.tex")
    config, before = tiny(tmp_path, overwrite=True, seed=2, **SHORT), everything(run)
    with monkeypatch.context() as patch:
        fail(patch, tmp_path)
        with pytest.raises(error, match=says):
            train(config)
    assert everything(run) | {"lock": b""} == before | {"lock": b""}
    train(tiny(tmp_path, overwrite=True, seed=2, **SHORT))
    train(tiny(tmp_path, out=tmp_path / "other", seed=2, **SHORT))
    mine, fresh = contents(run), contents(tmp_path / "other")
    assert mine.pop("thesis.tex")
    assert mine == fresh  # nothing of the old one is left in it


@pytest.mark.finding("A2")
def test_an_import_that_fails_leaves_what_was_there(run, tmp_path, call):
    tensors = folders.weights(folders.CONFIG)
    tensors["h.1.mlp.c_fc.bias"][3] = float("inf")
    bare = fill(tmp_path / "bare", *FOREIGN["model"])
    for number, out in enumerate((run, bare)):
        before = everything(out)
        with pytest.raises(FloatingPointError, match="not finite: nothing was imported"):
            pretrained.import_folder(folders.write(tmp_path / f"bad{number}", tensors=tensors), out, True)
        assert everything(out) | {"lock": b""} == before | {"lock": b""}
    good = folders.write(tmp_path / "good")
    pretrained.import_folder(good, bare, True)
    folders.same_bits(checkpoint.load_model(bare)[0], folders.ours(folders.weights(folders.CONFIG)))


# ----- replacing, interrupted anywhere ----------------------------------------------------------------------------


def a_run(folder: Path, first: int, names: tuple[str, ...] = NAMES) -> list:
    """A run of two steps, with a data file; its weights."""
    tl.manual_seed(first)
    with open_run.create(folder, False, names) as place:
        trained = Trained(place.folder)
        (place.folder / "train.tokens").write_text(f"data {first}")
        for step in (first, first + 1):
            trained.step(step)
            trained.save(step)
        place.commit()
    return trained.weights()


def replace(run: Path) -> None:
    """A new run in place of what is there."""
    tl.manual_seed(7)
    with open_run.create(run, True, NAMES) as place:
        trained = Trained(place.folder)
        run_directory.write(place.folder / "train.tokens", "data 0")
        trained.step(1)
        trained.save(0)
        place.commit()


def weights_of(run: Path) -> list:
    return [p.tolist() for p in checkpoint.load_model(run)[0].parameters()]


@pytest.mark.finding("A2")
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), Killed()], ids=["error", "killed"])
@pytest.mark.slow
def test_a_failure_at_any_call_leaves_the_old_run_or_the_new_one(tmp_path, monkeypatch, error):
    """The new one only when its first checkpoint is whole. Reading changes nothing; who writes next completes it."""
    names = (*NAMES, "report.json")
    weights = {"old": a_run(tmp_path / "old", 0, names)}
    fill(tmp_path / "old", "report.json", "thesis.tex", "checkpoints/step_00000001_best/model.bin")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    replace(tmp_path / "new")
    weights["new"] = weights_of(tmp_path / "new")
    states = {name: everything(tmp_path / name) | {"lock": b""} for name in weights}
    assert "report.json" not in states["new"]
    seen = []
    for at in range(1, 300):
        run = Path(shutil.copytree(tmp_path / "old", tmp_path / "run"))
        with failing(monkeypatch, run, at, error) as calls, warnings.catch_warnings():
            warnings.simplefilter("ignore", checkpoint.RunWarning)
            if isinstance(error, Killed):
                monkeypatch.setattr(open_run, "_undo", lambda place: None)
            try:
                replace(run)
            except (OSError, Killed):
                pass
            else:
                if len(calls) < at:
                    break
            monkeypatch.undo()
        before, found = everything(run), weights_of(run)
        assert everything(run) == before, (at, calls)
        which = "new" if found == weights["new"] else "old"
        assert found == weights[which], (at, calls)
        seen.append(which)
        if which == "old" and isinstance(error, OSError) and not (run / ".gpt-new").exists():
            assert before | {"lock": b""} == states["old"], (at, calls)
        with open_run.resume(run, NAMES):
            pass
        after = {name: data for name, data in everything(run).items() if name != "run.json"} | {"lock": b""}
        assert after == {name: data for name, data in states[which].items() if name != "run.json"}, (at, calls)
        shutil.rmtree(run)
    else:
        pytest.fail("replacing never came to its end")
    if isinstance(error, Killed):  # an error of a link does no harm: a copy is made
        assert seen == sorted(seen, reverse=True)  # first the old one, then the new one
    assert seen.count("new") > 10
    assert seen.count("old") > 30


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="it is Linux that says what is open")
def test_no_file_is_open_while_it_is_moved(run, tmp_path, monkeypatch):
    """Windows would refuse."""
    real, seen = run_directory.complete, []

    def complete(run):
        paths = [Path("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
        names = [os.readlink(path) for path in paths if path.is_symlink()]
        lines = (*names, *Path("/proc/self/maps").read_text().splitlines())
        seen.append([line for line in lines if str(run / ".gpt-new") in line])  # not what another test has left open
        real(run)

    monkeypatch.setattr(run_directory, "complete", complete)
    train(tiny(tmp_path, overwrite=True, **SHORT))
    assert seen == [[]]


@pytest.mark.slow
@pytest.mark.finding("A2")
def test_a_killed_start_is_taken_up_by_the_next(run, tmp_path, monkeypatch):
    """Killed while it evaluated, before its first checkpoint: the old run is read, and a new start begins afresh."""
    old = weights_of(run)
    for overwrite, out in ((True, run), (False, tmp_path / "fresh")):
        killed(monkeypatch, tiny(tmp_path, out=out, overwrite=overwrite, seed=2, **SHORT))
    assert weights_of(run) == old
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        checkpoint.load_model(tmp_path / "fresh")
    fill(tmp_path / "fresh", "thesis.tex")
    with pytest.raises(ValueError, match="tokens, and context_length 9999"):
        train(tiny(tmp_path, out=tmp_path / "fresh", context_length=9999))
    assert [*everything(tmp_path / "fresh")] == ["thesis.tex"]  # what the kill left is gone too
    (tmp_path / "fresh" / "thesis.tex").unlink()
    killed(monkeypatch, tiny(tmp_path, out=tmp_path / "fresh", seed=2, **SHORT))
    fill(tmp_path / "fresh", "thesis.tex")
    train(tiny(tmp_path, out=tmp_path / "fresh", **SHORT))
    assert checkpoint.newest(tmp_path / "fresh")[0].step == 2
    train(TrainConfig(**{**vars(session.settings(run, TrainConfig)), "steps": 3}))
    assert not (run / ".gpt-new").exists()
    assert checkpoint.newest(run)[0].step == 3


def test_what_an_interrupted_overwrite_left_is_no_obstacle(tmp_path):
    """The folder of the new run's files, in a directory where nothing else is."""
    out = tmp_path / "out"
    (out / ".gpt-new").mkdir(parents=True)
    assert open_run.is_free(out, NAMES)
    with open_run.create(out, False, NAMES) as place:
        assert place.folder == out
        place.commit()
    assert not (out / ".gpt-new").exists()


def test_overwrite_removes_files_of_the_old_run_that_the_new_one_does_not_write(run):
    """A run of another task has other files: those of the old run must not look like the new one's."""
    fill(run, "thesis.tex")
    with open_run.create(run, True, ("config.json",)) as place:
        (place.folder / "config.json").write_text("new")
        place.commit()
    assert (run / "config.json").read_text() == "new"
    assert (run / "thesis.tex").read_text() == "somebody's thesis.tex"
    assert not [name for name in ("train.tokens", "metrics.jsonl", "model.safetensors") if (run / name).exists()]


# ----- who may write ----------------------------------------------------------------------------------------------


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    real, removed = lockfile.system.lock, []

    def lock(file, wait=False):
        if not removed:
            removed.append((tmp_path / "lock").unlink())
        return real(file, wait)

    monkeypatch.setattr(lockfile.system, "lock", lock)
    with lockfile.lock(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_trained_on_with_a_warning(tmp_path, monkeypatch, number):
    stop_at(monkeypatch, lockfile.system, "lock", OSError(number, os.strerror(number)))
    with pytest.warns(run_directory.RunWarning, match="has no locks .*: do not write there from two processes"):
        train(tiny(tmp_path, **SHORT))
    assert checkpoint.newest(tmp_path / "run")[0].step == 2


@pytest.mark.finding("E12")
def test_a_lock_that_fails_leaves_no_directory(tmp_path, monkeypatch):
    stop_at(monkeypatch, lockfile.system, "lock", OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match=r"Input/output error: '.*/run/lock'"):
        train(tiny(tmp_path, **SHORT))
    assert not (tmp_path / "run").exists()


# ----- a run from somebody else -----------------------------------------------------------------------------------


STEP = "checkpoints/step_00000002"


@pytest.mark.slow
@pytest.mark.finding("A7")
@pytest.mark.parametrize(
    "name", [*run_directory.RUN, "run.json", "train.tokens", ".gpt-new", STEP, f"{STEP}/manifest.json"]
)
def test_a_link_in_a_run_is_refused_and_never_written_through(run, tmp_path, name, call):
    outside = tmp_path / "outside"
    if (run / name).is_dir():
        os.rename(run / name, outside)
    elif (run / name).exists():
        shutil.copy(run / name, outside)
        (run / name).unlink()
    else:
        outside.mkdir()
    (run / name).symlink_to(outside)
    before = outside.read_bytes() if outside.is_file() else everything(outside)
    status, _, errors = call("train", "--resume", run, "--steps", 4)
    assert status == 1
    assert re.search(rf"gpt: .*{re.escape(name)} is a symbolic link, and gpt does not write through links", errors)
    status, _, errors = call("train", "--text", write_text(tmp_path), "--out", run, "--overwrite")
    assert (status, bool(re.search("is a symbolic link|lock is not gpt's", errors))) == (1, True)
    assert (outside.read_bytes() if outside.is_file() else everything(outside)) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
@pytest.mark.finding("A7")
def test_a_pipe_in_a_run_is_refused(run):
    (run / "log.txt").unlink()
    os.mkfifo(run / "log.txt")
    with pytest.raises(ValueError, match=r"log\.txt is neither a file nor a directory"):
        train(TrainConfig(**{**vars(session.settings(run, TrainConfig)), "steps": 4}))
    assert stat.S_ISFIFO((run / "log.txt").stat().st_mode)


@pytest.mark.finding("A7")
def test_a_run_that_is_a_link_as_a_whole_is_fine(run, tmp_path):
    elsewhere = tmp_path / "disk" / "elsewhere"
    elsewhere.parent.mkdir()
    os.rename(run, elsewhere)
    run.symlink_to(elsewhere)
    train(TrainConfig(**{**vars(session.settings(run, TrainConfig)), "steps": 4}))
    assert checkpoint.newest(elsewhere)[0].step == 4
    assert run.is_symlink()


@pytest.mark.finding("A7")
@pytest.mark.parametrize("names", [["../thesis.tex"], ["/etc/hosts"], ["a/b"], [".."], [3], "x", ["a\\b"]])
def test_a_list_of_files_that_reaches_elsewhere_is_not_believed(tmp_path, names):
    fill(tmp_path, "thesis.tex")
    out = tmp_path / "out"
    out.mkdir()
    run_directory.write(out / "run.json", {"format": "gpt.run.files", "version": 1, "finished": None, "files": names})
    assert run_directory.listed(out) is None
    run_directory.remove(out)
    assert (tmp_path / "thesis.tex").read_text() == "somebody's thesis.tex"
    (out / ".gpt-new").mkdir()
    run_directory.write(
        out / ".gpt-new" / "replace.json", {"format": "gpt.run.replace", "version": 1, "old": names, "new": []}
    )
    with pytest.raises(ValueError, match=r"replace\.json is damaged"):
        run_directory.complete_interrupted(out)
    assert (tmp_path / "thesis.tex").exists()


# ----- a run of an older gpt --------------------------------------------------------------------------------------


def test_a_run_without_a_list_of_its_files_goes_on_and_gets_one(run):
    (run / "run.json").unlink()
    fill(run / "checkpoints" / "step_00000003.tmp", "tokenizer.json.tmp", ".0123456789abcdef.tmp", "config.json")
    train(TrainConfig(**{**vars(session.settings(run, TrainConfig)), "steps": 3}))
    assert {*run_directory.listed(run)} == {*run_directory.RUN, "train.tokens", "validation.tokens"}
    (run / "run.json").write_text("somebody's")
    with pytest.raises(ValueError, match=r"run\.json is damaged, or not gpt's: move it away"):
        train(TrainConfig(**{**vars(session.settings(run, TrainConfig)), "steps": 4}))


def test_a_list_that_lacks_files_gets_them_when_the_run_goes_on(run):
    """As after an upgrade to a gpt that writes more files: all that it writes is known to be gpt's."""
    older = [name for name in run_directory.listed(run) if name != "log.txt"]
    run_directory.write_manifest(run, older)
    with open_run.resume(run, run_directory.RUN):
        assert {*run_directory.listed(run)} == {*older, "log.txt"}
