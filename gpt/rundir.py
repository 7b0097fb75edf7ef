"""The directory of a run: which files in it are gpt's, who may write there, and how a new run takes an old one's place.

    RUN/run.json    the names that gpt writes here, and after which step the run was finished
    RUN/lock        held by the process that writes here; a kill releases it
    RUN/.gpt-new/   a new run, where one is replaced (--overwrite), until its first checkpoint is whole

Ownership. run.json is written before the first file that it lists, and never lists what was there before. Only what it
lists is deleted or replaced, and in checkpoints/ only a folder that is called step_ and digits and holds nothing but a
checkpoint's files. Everything else in the directory is left alone.

Replacing. With --overwrite the new run is written into RUN/.gpt-new; the old one stays as it is, and is what every
command reads. When the new run's first checkpoint is whole, .gpt-new/replace.json lists what is to be deleted and what
is to be moved up. With that file (one rename) the new run counts: it is read where its parts are, and whoever writes
next in RUN completes the moves. Without it, .gpt-new is deleted by whoever writes next.

Links. A run's own files are regular files: a directory from somebody else could name any file of yours by a link, so
who writes refuses links. The run's directory itself may be a link.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorlite.files import LEFTOVER, replacing

from . import jsonfile, system
from .system import sync

FILES = ("config.json", "tokenizer.json", "model.safetensors", "training.safetensors")  # of a checkpoint
LOGS = ("metrics.jsonl", "samples.txt")  # a checkpoint knows how long they were, and what they said
OTHERS = ("log.txt", "loss.png", "lock", "checkpoints")
RUN = (*FILES, *LOGS, *OTHERS)  # what every training writes; a task adds its own names

MANIFEST, STAGING, JOURNAL, CHECKPOINTS, LOCK = "run.json", ".gpt-new", "replace.json", "checkpoints", "lock"
VERSION = 1
STEP = re.compile(r"step_[0-9]{8,}")  # a checkpoint that was completed
STEP_FOLDER = re.compile(rf"{STEP.pattern}(\.tmp|\.damaged)?")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # a file beside run.json, and no path
HARMLESS = {  # what systems and editors leave in any directory
    ".DS_Store", ".localized", "Thumbs.db", "desktop.ini", ".directory", "lost+found", ".ipynb_checkpoints",
    ".gitignore", ".gitkeep",
}  # fmt: skip


# ----- what is there ----------------------------------------------------------------------------------------------


def steps(run: Path) -> list[Path]:
    """The completed checkpoints, newest first, wherever they are at the moment."""
    if journal := _journal(run):
        places = [run / STAGING / name if _there(run / STAGING / name) else run / name for name in journal["new"]]
        found = [path for path in places if path.parent.name == CHECKPOINTS and path.is_dir()]
    else:
        found = [path for path in _step_folders(run) if STEP.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def is_run(run: Path) -> bool:
    """True for a directory where a checkpoint was completed."""
    return bool(steps(run))


def no_run(run: Path) -> FileNotFoundError:
    """The error for a directory without a checkpoint."""
    if not run.is_dir():
        return FileNotFoundError(f"there is no run {run}")
    return FileNotFoundError(f"{run} has no checkpoint: it is no run, or one that ended before its first")


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(folder.name.removeprefix("step_"))


def ours(folder: Path) -> bool:
    """True for a checkpoint's folder that holds nothing else than a checkpoint's files: it may be deleted."""
    if not STEP_FOLDER.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    known = (*FILES, "manifest.json")
    return all((name in known or LEFTOVER.fullmatch(name)) and _regular(folder / name) for name in os.listdir(folder))


def listed(run: Path) -> tuple[str, ...] | None:
    """The names that run.json lists; None where there is no run.json of gpt's."""
    manifest = _manifest(run)
    return None if manifest is None else tuple(manifest["files"])


def finished(run: Path) -> int | None:
    """The step after which the run was finished, its last figures included; None where it was not."""
    manifest = _manifest(run)
    return None if manifest is None else manifest["finished"]


def finish(run: Path, step: int) -> None:
    """Note that the run has done its last step, and everything after it."""
    _write_manifest(run, listed(run) or (), step)


def _manifest(run: Path) -> dict[str, Any] | None:
    try:
        value = jsonfile.read(run / MANIFEST)
        if value["format"] != "gpt.run.files":
            return None
        version, names, step = value["version"], value["files"], value["finished"]
    except (OSError, ValueError, LookupError, TypeError):
        return None  # none, or another program's
    if version != VERSION:
        raise ValueError(f"{run / MANIFEST} has version {version!r:.80}, and this gpt reads version {VERSION}")
    whole = isinstance(names, list) and all(isinstance(name, str) and NAME.fullmatch(name) for name in names)
    if not whole or not (step is None or type(step) is int):
        return None
    return value


def _write_manifest(run: Path, names: Iterable[str], finished: int | None = None) -> None:
    value = {"format": "gpt.run.files", "version": VERSION, "finished": finished, "files": sorted(names)}
    _write(run / MANIFEST, value)


def _write(path: Path, value: Any) -> None:
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def _journal(run: Path) -> dict[str, list[str]] | None:
    """What RUN/.gpt-new/replace.json lists: "old" and "new" names; None where there is none."""
    path = run / STAGING / JOURNAL
    if not path.exists():
        return None
    try:
        value = jsonfile.read_object(path)
        names = [*value["old"], *value["new"]]
        if value["format"] != "gpt.run.replace" or value["version"] != VERSION or not all(map(_ours_by_name, names)):
            raise ValueError
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"{path} is damaged: move {path.parent} away, and what it holds of the new run with it"
        ) from None
    return {"old": value["old"], "new": value["new"]}


def _ours_by_name(name: Any) -> bool:
    """A name beside run.json, or a checkpoint's folder."""
    start, _, folder = str(name).rpartition("/")
    return bool(STEP_FOLDER.fullmatch(folder) if start == CHECKPOINTS else not start and NAME.fullmatch(folder))


def _step_folders(run: Path) -> list[Path]:
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if STEP_FOLDER.fullmatch(path.name) and path.is_dir()]


def _there(path: Path) -> bool:
    return os.path.lexists(path)


def _regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


# ----- what is refused --------------------------------------------------------------------------------------------


def keep_apart(out: Path, read: Path) -> None:
    """A ValueError where a new run in `out` could damage `read`, which it starts from."""
    if _inside(read, out):
        how = "is" if _inside(out, read) else "contains"
        raise ValueError(f"{out} {how} {read}, which is to be read: name another directory to write to")
    if _inside(out, read) and _inside(out, read / CHECKPOINTS):
        raise ValueError(f"{out} lies among the checkpoints of {read}: name another directory to write to")


def _inside(path: Path, folder: Path) -> bool:
    """True where `path` is `folder` or lies in it, also by other names for the same place."""
    path, folder = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    for place in (path, *path.parents):
        if place == folder or (place.exists() and folder.exists() and os.path.samefile(place, folder)):
            return True
    return False


def check_new(run: Path, overwrite: bool, names: Iterable[str]) -> None:
    """An error, in one sentence, where a new run that writes `names` cannot have the directory `run`.

    NotADirectoryError where it is a file; FileExistsError where it has a run or, unless `overwrite`, anything else that
    gpt did not write; ValueError for links.
    """
    if not run.is_dir():
        if _there(run):
            raise NotADirectoryError(f"{run} is a file: name a directory for the run")
        return
    entries = [name for name in sorted(os.listdir(run)) if not _harmless(name)]
    if LOCK in entries and not (_regular(run / LOCK) and re.fullmatch(rb"[0-9]{0,20}", (run / LOCK).read_bytes())):
        raise FileExistsError(f"{run / LOCK} is not gpt's: name another directory")
    if not (entries := [name for name in entries if name != LOCK]):
        return
    check_links(run, names)
    mine = listed(run)
    if _has_run(run) and not overwrite:
        raise FileExistsError(
            f"{run} has a run already: continue it with --resume {run} (or --resume-if-exists, which starts it where "
            "there is none), or give --overwrite"
        )
    foreign = entries if mine is None else sorted(({*names} - {*mine}) & {*entries})
    if foreign and not overwrite and not _has_run(run):
        raise FileExistsError(
            f"{run} is not empty and gpt did not write {foreign[0]}: name another directory, or give --overwrite, "
            "which replaces the files that a run needs and leaves all others"
        )
    _in_the_way(run, names)


def _harmless(name: str) -> bool:
    return name in HARMLESS or name.startswith("._") or name == STAGING or bool(LEFTOVER.fullmatch(name))


def _has_run(run: Path) -> bool:
    """A checkpoint, one that was set aside, or what a checkpoint shows in the directory of a run."""
    folders = [path for path in _step_folders(run) if path.suffix != ".tmp"]
    return is_run(run) or (listed(run) is not None and bool(folders or any(_there(run / name) for name in FILES)))


def _in_the_way(run: Path, names: Iterable[str]) -> list[str]:
    """What a new run that writes `names` would replace, the old run's files included; an error for what it cannot."""
    wanted = dict.fromkeys((*names, *(listed(run) or ()), MANIFEST))
    found = [name for name in wanted if name not in (LOCK, CHECKPOINTS) and _there(run / name)]
    for name in (*found, CHECKPOINTS):
        if (run / name).is_dir() != (name == CHECKPOINTS) and _there(run / name):
            raise FileExistsError(
                f"{run / name} is {'a file' if name == CHECKPOINTS else 'a directory'}: name another directory for the "
                "run, or move it away"
            )
    for folder in _step_folders(run):
        if not ours(folder):
            raise FileExistsError(
                f"{folder} has files that are no checkpoint's: name another directory, or move it away"
            )
        found.append(f"{CHECKPOINTS}/{folder.name}")
    return found


def check_links(run: Path, names: Iterable[str] = ()) -> None:
    """A ValueError for a link, or whatever else is neither file nor directory, where a run has files of its own."""
    wanted = {*RUN, *names, *(listed(run) or ()), MANIFEST, JOURNAL}
    for place in (run, run / STAGING):
        for name in (STAGING, CHECKPOINTS, *sorted(wanted)):
            _refuse_link(place / name)
        for folder in _step_folders(place):
            for path in (folder, *(folder / name for name in (*FILES, "manifest.json"))):
                _refuse_link(path)


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise ValueError(
            f"{path} is a symbolic link, and gpt does not write through links inside a run: put the file itself there, "
            "or let the run's whole directory be a link"
        )
    if _there(path) and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is neither a file nor a directory: move it away")


# ----- who may write ----------------------------------------------------------------------------------------------


@dataclass
class Held:
    """A lock: with `remove` its file goes too when it is released."""

    remove: bool = False


@contextmanager
def lock(folder: Path, doing: str = "training in") -> Iterator[Held]:
    """Keep every other process from writing in `folder`; a RuntimeError says which one does. A kill unlocks."""
    path, held = folder / LOCK, Held()
    while True:
        file = open(path, "a+")  # noqa: SIM115
        if not system.lock(file):
            with file:
                file.seek(0)
                raise RuntimeError(
                    f"process {file.read().strip() or '?'} is {doing} {folder}: wait for it, or name another directory"
                )
        if system.is_open_at(file, path):
            break
        file.close()  # whoever had it removed it meanwhile
    with file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield held
        finally:
            if held.remove:
                system.remove_open(file, path)


@dataclass
class Place:
    """Where a run's files are written: `folder` is `run`, or a folder in it until `commit`."""

    run: Path
    folder: Path
    names: tuple[str, ...]
    begun: bool = False
    committed: bool = False

    def commit(self) -> None:
        """The first checkpoint is whole: the new run takes the place of what was there. No file of it may be open."""
        if self.folder != self.run:
            old = _in_the_way(self.run, self.names)
            new = [name for name in (*self.names, MANIFEST) if name != CHECKPOINTS and _there(self.folder / name)]
            new = [*(f"{CHECKPOINTS}/{folder.name}" for folder in _step_folders(self.folder)), *new]
            sync(self.folder)
            sync(self.run)
            _write(self.folder / JOURNAL, {"format": "gpt.run.replace", "version": VERSION, "old": old, "new": new})
            self.committed = True
            _complete(self.run)
            self.folder = self.run
        self.committed = True


@contextmanager
def start(run: Path, overwrite: bool, names: Iterable[str], reads: Iterable[Path] = ()) -> Iterator[Place]:
    """A place for a new run that writes `names` and starts from `reads`.

    If the block raises before the new run's first checkpoint is whole, and committed, everything is as it was before.
    Errors as `check_new` and `keep_apart`; RuntimeError where another process is writing there.
    """
    names = tuple(names)
    for read in reads:
        keep_apart(run, read)
    check_new(run, overwrite, names)
    made: list[Path] = []
    try:
        make(run, made)
        with lock(run) as held:
            place = Place(run, run, names)
            try:
                settle(run)
                check_new(run, overwrite, names)
                _begin(place)
                yield place
            except BaseException as error:
                if not place.committed and not (place.begun and place.folder == run and is_run(run)):
                    try:
                        _undo(place)
                        held.remove = listed(run) is None and not is_run(run)
                    except OSError as another:
                        error.add_note(f"what was begun in {run} is removed by the next start there: {another}")
                raise
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


@contextmanager
def resume(run: Path, names: Iterable[str]) -> Iterator[Place]:
    """The place of a run that has a checkpoint, to write `names` there. Errors as `lock` and `check_links`."""
    if not is_run(run):
        raise no_run(run)
    check_links(run, names)
    with lock(run):
        settle(run)
        mine = listed(run)
        if mine is None and _there(run / MANIFEST):
            raise ValueError(f"{run / MANIFEST} is damaged, or not gpt's: move it away, and it is written anew")
        if mine is None or not {*names} <= {*mine}:  # a run of an older gpt
            _write_manifest(run, {*(mine or ()), *names}, finished(run))
        yield Place(run, run, tuple(names), committed=True)


def is_free(run: Path, names: Iterable[str]) -> bool:
    """True where a new run can have the directory without replacing anything, and nobody is writing there."""
    try:
        check_new(run, False, names)
    except (OSError, ValueError):
        return False
    if not (run / LOCK).is_file():
        return True
    with open(run / LOCK, "a+") as file:
        return system.lock(file)


def make(folder: Path, made: list[Path]) -> None:
    """Make the directory; into `made` go all that were made for it, outermost first."""
    for path in [path for path in (folder, *folder.parents) if not path.exists()][::-1]:
        path.mkdir(exist_ok=True)
        made.append(path)
        sync(path.parent)


def _begin(place: Place) -> None:
    """Choose where the new run is written, and write run.json there."""
    if listed(place.run) is not None and not _has_run(place.run):
        remove(place.run)  # a start that was killed before its first checkpoint
    _sweep(place.run)
    if _in_the_way(place.run, place.names):
        place.folder = place.run / STAGING
    place.begun = True
    if place.folder != place.run:
        place.folder.mkdir()
    _write_manifest(place.folder, place.names)


def _undo(place: Place) -> None:
    if place.begun:
        remove(place.folder)
    if place.folder != place.run and place.folder.is_dir():
        place.folder.rmdir()


# ----- completing and removing ------------------------------------------------------------------------------------


def settle(run: Path) -> None:
    """Complete what a kill has interrupted: move a new run to its place, or delete what never became one."""
    staging = run / STAGING
    if not staging.is_dir():
        return
    if _journal(run):
        _complete(run)
        return
    remove(staging)
    left = os.listdir(staging)
    if left:
        raise FileExistsError(f"{staging} has files that are not gpt's, such as {left[0]}: move it away")
    staging.rmdir()


def _complete(run: Path) -> None:
    """Do what the journal says, from wherever it was left: delete the old run's files, move the new one's up."""
    staging, journal = run / STAGING, _journal(run)
    assert journal is not None
    for name in journal["old"]:
        if name not in journal["new"]:
            _delete(run / name)
    for name in journal["new"]:
        if not _there(staging / name):
            continue  # moved already
        if name.startswith(CHECKPOINTS):
            (run / CHECKPOINTS).mkdir(exist_ok=True)
            _delete(run / name)
            os.rename(staging / name, run / name)
        else:
            os.replace(staging / name, run / name)
    for folder in (run / CHECKPOINTS, run, staging / CHECKPOINTS, staging):
        if folder.is_dir():
            sync(folder)
    remove(staging)
    staging.rmdir()
    sync(run)


def remove(folder: Path) -> None:
    """Delete the files of a run from its directory by its list, and no others. The list goes last."""
    (folder / JOURNAL).unlink(missing_ok=True)
    for step in _step_folders(folder):
        if ours(step):
            _delete(step)
    for name in listed(folder) or ():
        if name not in (LOCK, CHECKPOINTS):
            (folder / name).unlink(missing_ok=True)
    for place in (folder / CHECKPOINTS, folder):
        if place.is_dir():
            _sweep(place)
    with suppress(OSError):  # none, or not empty
        (folder / CHECKPOINTS).rmdir()
    if listed(folder) is not None:
        (folder / MANIFEST).unlink()


def _delete(path: Path) -> None:
    """A file, or a checkpoint's folder, its manifest first: what is left of it then is no checkpoint."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if not ours(path):
        raise FileExistsError(f"{path} has files that are no checkpoint's: move it away")
    for name in sorted(os.listdir(path), key=lambda name: name != "manifest.json"):
        (path / name).unlink()
    path.rmdir()


def delete_checkpoint(folder: Path) -> None:
    """Delete a checkpoint's folder, unless somebody put files of his own into it."""
    if ours(folder):
        _delete(folder)


def _sweep(folder: Path) -> None:
    """Delete what killed processes left of files that they were writing."""
    for name in os.listdir(folder):
        if LEFTOVER.fullmatch(name):
            (folder / name).unlink()
