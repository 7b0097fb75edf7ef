"""Open the directory of a run for writing: a new run, which leaves it unchanged on failure, or a resumed one.

run_directory.py describes what may be replaced, and what happens after a kill.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tensorlite.files import LEFTOVER

from ..console import in_shell
from ..system import sync
from . import lockfile, run_directory
from .run_directory import CHECKPOINTS, FILES, JOURNAL, LOCK, LOGS, MANIFEST, STAGING, VERSION, exists, is_run, listed

HARMLESS = {  # files that systems and editors leave in any directory
    ".DS_Store", ".localized", "Thumbs.db", "desktop.ini", ".directory", "lost+found", ".ipynb_checkpoints",
    ".gitignore", ".gitkeep",
}  # fmt: skip


# ----- refusals ---------------------------------------------------------------------------------------------------


def check_separate(out: Path, read: Path) -> None:
    """A ValueError where a new run in `out` could damage `read`, which it starts from."""
    if _inside(read, out):
        why = "it is what is to be read" if _inside(out, read) else f"it contains {read}, which is to be read"
        raise ValueError(f"{out} cannot be written to, because {why}: name another directory")
    if _inside(out, read) and _inside(out, read / CHECKPOINTS):
        raise ValueError(f"{out} cannot be written to, because it is among the checkpoints of {read}: name another one")


def _inside(path: Path, folder: Path) -> bool:
    """True where `path` is `folder` or is in it, also by another path to the same place."""
    path, folder = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    for place in (path, *path.parents):
        if place == folder or (place.exists() and folder.exists() and os.path.samefile(place, folder)):
            return True
    return False


def check_new(run: Path, overwrite: bool, names: Iterable[str]) -> None:
    """Raise an error, in one sentence, where a new run that writes `names` cannot use the directory `run`.

    NotADirectoryError where it is a file; FileExistsError where it has a run or, unless `overwrite`, anything else that
    gpt did not write; ValueError for links.
    """
    if not run.is_dir():
        if exists(run):
            raise NotADirectoryError(f"{run} is a file: name a directory for the run")
        return
    entries = [name for name in sorted(os.listdir(run)) if not _harmless(name)]
    if LOCK in entries and not (
        run_directory.regular(run / LOCK) and re.fullmatch(rb"[0-9\0]{0,20}", (run / LOCK).read_bytes())
    ):
        raise FileExistsError(f"{run / LOCK} is not gpt's: name another directory")
    if not (entries := [name for name in entries if name != LOCK]):
        return
    run_directory.check_links(run, names)
    mine = listed(run)
    if _has_run(run) and not overwrite:
        if LOGS[0] not in names:  # it is not to be trained
            raise FileExistsError(f"{run} has a run already: name another directory, or give --overwrite")
        raise FileExistsError(
            f"{run} has a run already: continue it with --resume {in_shell(run)} (or --resume-if-exists, "
            "which starts it where there is none), or give --overwrite"
        )
    foreign = entries if mine is None else sorted(({*names} - {*mine}) & {*entries})
    if foreign and not overwrite and not _has_run(run):
        raise FileExistsError(
            f"{run} is not empty and gpt did not write {foreign[0]}: name another directory, or give --overwrite, "
            "which replaces the files that a run needs and leaves all others"
        )
    _to_be_replaced(run, names)


def _harmless(name: str) -> bool:
    return name in HARMLESS or name.startswith("._") or name == STAGING or bool(LEFTOVER.fullmatch(name))


def _has_run(run: Path) -> bool:
    """Whether there is a checkpoint, one that was set aside, or a file of one."""
    folders = [path for path in run_directory.step_folders(run) if path.suffix != ".tmp"]
    return is_run(run) or (listed(run) is not None and bool(folders or any(exists(run / name) for name in FILES)))


def _to_be_replaced(run: Path, names: Iterable[str]) -> list[str]:
    """The names that a new run would replace, including the old run's; an error for files that cannot be replaced."""
    wanted = dict.fromkeys((*names, *(listed(run) or ()), MANIFEST))
    found = [name for name in wanted if name not in (LOCK, CHECKPOINTS) and exists(run / name)]
    for name in (*found, CHECKPOINTS):
        if (run / name).is_dir() != (name == CHECKPOINTS) and exists(run / name):
            raise FileExistsError(
                f"{run / name} is {'a file' if name == CHECKPOINTS else 'a directory'}: name another directory for the "
                "run, or move it away"
            )
    for folder in run_directory.step_folders(run):
        if not run_directory.is_checkpoint_folder(folder):
            raise FileExistsError(
                f"{folder} has files that do not belong to a checkpoint: name another directory, or move it away"
            )
        found.append(f"{CHECKPOINTS}/{folder.name}")
    return found


# ----- writing ---------------------------------------------------------------------------------------------------


@dataclass
class Place:
    """The place where a run's files are written: `folder`, which is `run`, or until `commit` a folder in it."""

    run: Path
    folder: Path
    names: tuple[str, ...]
    begun: bool = False
    committed: bool = False

    def commit(self) -> None:
        """After the first checkpoint: the new run replaces the old files. None of its files may be open."""
        if self.folder != self.run:
            old = _to_be_replaced(self.run, self.names)
            new = [name for name in (*self.names, MANIFEST) if name != CHECKPOINTS and exists(self.folder / name)]
            new = [*(f"{CHECKPOINTS}/{folder.name}" for folder in run_directory.step_folders(self.folder)), *new]
            sync(self.folder)
            sync(self.run)
            run_directory.write(
                self.folder / JOURNAL, {"format": "gpt.run.replace", "version": VERSION, "old": old, "new": new}
            )
            self.committed = True
            run_directory.complete(self.run)
            self.folder = self.run
        self.committed = True


@contextmanager
def create(run: Path, overwrite: bool, names: Iterable[str], reads: Iterable[Path] = ()) -> Iterator[Place]:
    """A place for a new run that writes `names` and starts from `reads`.

    If the block raises before the new run's first checkpoint is complete and committed, everything is unchanged.
    Errors as `check_new` and `check_separate`; RuntimeError where another process is writing there.
    """
    run, names = real_path(run), tuple(names)
    for read in reads:
        check_separate(run, read)
    check_new(run, overwrite, names)
    made: list[Path] = []
    try:
        make_folder(run, made)
        with lockfile.lock(run) as held:
            place = Place(run, run, names)
            try:
                run_directory.complete_interrupted(run)
                check_new(run, overwrite, names)
                _begin(place)
                yield place
            except BaseException as error:
                if not place.committed and not (place.begun and place.folder == run and is_run(run)):
                    try:
                        _undo(place)
                        held.remove = listed(run) is None and not is_run(run)
                    except OSError as another:
                        error.add_note(f"the unfinished files in {run} are removed by the next start there: {another}")
                raise
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


@contextmanager
def resume(run: Path, names: Iterable[str]) -> Iterator[Place]:
    """The place of a run that has a checkpoint, to write `names` there. Errors as `lock` and `check_links`."""
    run = real_path(run)
    if not is_run(run):
        raise run_directory.no_run(run)
    run_directory.check_links(run, names)
    with lockfile.lock(run):
        run_directory.complete_interrupted(run)
        run_directory.delete_leftovers(run)
        for name in names:
            if not name.endswith((".safetensors", ".tokens")):  # these are large, and never written in place
                run_directory.unshare(run / name)
        mine = listed(run)
        if mine is None and exists(run / MANIFEST):
            raise ValueError(f"{run / MANIFEST} is damaged, or not gpt's: move it away, and it is written again")
        if mine is None or not {*names} <= {*mine}:  # a run of an older gpt
            run_directory.write_manifest(run, {*(mine or ()), *names}, run_directory.finished(run))
        yield Place(run, run, tuple(names), committed=True)


@contextmanager
def report_missing_directory(run: Path) -> Iterator[None]:
    """An OSError in the block says that the run's directory is gone, if it is."""
    try:
        yield
    except OSError as error:
        if run.is_dir():
            raise
        raise FileNotFoundError(
            f"{run} was moved or deleted during training: continue at its new place with --resume"
        ) from error


def real_path(run: Path) -> Path:
    """`run` with links and ".." in its path resolved, since a link may be changed during training."""
    real = Path(os.path.realpath(run))
    return run if ".." not in run.parts and real == Path(os.path.abspath(run)) else real


def is_free(run: Path, names: Iterable[str]) -> bool:
    """True where a new run can have the directory without replacing anything, and no other process writes there."""
    try:
        check_new(run, False, names)
    except (OSError, ValueError):
        return False
    if not (run / LOCK).is_file():
        return True
    with open(run / LOCK, "a+") as file:
        return lockfile.take(file, run)


def make_folder(folder: Path, made: list[Path]) -> None:
    """Make the directory; the directories created are added to `made`, outermost first."""
    for path in [path for path in (folder, *folder.parents) if not path.exists()][::-1]:
        path.mkdir(exist_ok=True)
        made.append(path)
        sync(path.parent)


def _begin(place: Place) -> None:
    """Choose where the new run is written, and write run.json there."""
    if listed(place.run) is not None and not _has_run(place.run):
        run_directory.remove(place.run)  # of a start that was killed before its first checkpoint
    run_directory.delete_leftovers(place.run)
    if _to_be_replaced(place.run, place.names):
        place.folder = place.run / STAGING
    place.begun = True
    if place.folder != place.run:
        place.folder.mkdir()
    run_directory.write_manifest(place.folder, place.names)


def _undo(place: Place) -> None:
    if place.begun:
        run_directory.remove(place.folder)
    if place.folder != place.run and place.folder.is_dir():
        place.folder.rmdir()
