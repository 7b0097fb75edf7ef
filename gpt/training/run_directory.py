"""The directory of a run: which files in it are gpt's, and how a new run replaces an old one.

    RUN/run.json    the names that gpt writes here, and after which step the run was finished
    RUN/lock        locked by the process that writes here (lockfile.py)
    RUN/.gpt-new/   with --overwrite, the new run until its first checkpoint is complete

Ownership. run.json is written before the first file that it lists, and never lists older files. Only the files that it
lists are deleted or replaced, and in checkpoints/ only folders named step_ and digits that hold only a
checkpoint's files. All other files in the directory are kept.

Replacing. With --overwrite the new run is written into RUN/.gpt-new; the old one is unchanged, and every
command reads it. When the new run's first checkpoint is complete, .gpt-new/replace.json lists what is to be deleted and
what is to be moved up. From then on (one rename) the new run is valid: it is read where its parts are, and the next
process that writes in RUN completes the moves. Without that file, the next process deletes .gpt-new.

Links. A run's own files are regular files: in a directory from others, a link could point to any of your files, so
links are refused before writing. The run's directory itself may be a link.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorlite.files import LEFTOVER, replacing

from .. import jsonfile
from ..system import sync

FILES = ("config.json", "tokenizer.json", "model.safetensors", "training.safetensors")  # of a checkpoint
LOGS = ("metrics.jsonl", "samples.txt")  # a checkpoint has their length and SHA-256
OTHERS = ("log.txt", "loss.png", "lock", "checkpoints")
RUN = (*FILES, *LOGS, *OTHERS)  # the files of every training; a task adds its own names

MANIFEST, STAGING, JOURNAL, CHECKPOINTS, LOCK = "run.json", ".gpt-new", "replace.json", "checkpoints", "lock"
VERSION = 1
STEP = re.compile(r"step_[0-9]{8,}")  # a checkpoint that was completed
STEP_FOLDER = re.compile(rf"{STEP.pattern}(\.tmp|\.damaged)?")
OLDER = (r"\.[0-9a-f]{16}\.tmp", r"tokenizer\.json\.tmp")  # left by killed processes of an older gpt
CHECKPOINT_FILE = re.compile("|".join((*map(re.escape, FILES), r"manifest\.json", LEFTOVER.pattern, *OLDER)))
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # a file in the same folder as run.json, not a path


class RunWarning(UserWarning):
    """A run or its directory is not as expected; the message says how it is handled."""


# ----- finding runs -----------------------------------------------------------------------------------------------


def steps(run: Path) -> list[Path]:
    """The completed checkpoints, newest first; while a run is being replaced they may be in RUN/.gpt-new."""
    if journal := _journal(run):
        places = [run / STAGING / name if exists(run / STAGING / name) else run / name for name in journal["new"]]
        found = [path for path in places if path.parent.name == CHECKPOINTS and path.is_dir()]
    else:
        found = [path for path in step_folders(run) if STEP.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def replaced(run: Path) -> bool:
    """True if a new run is valid but some of its files are not in their places yet."""
    return _journal(run) is not None


def is_run(run: Path) -> bool:
    """True for a directory where a checkpoint was completed."""
    return bool(steps(run))


def no_run(run: Path) -> FileNotFoundError:
    """The error for a directory without a checkpoint."""
    if not run.is_dir():
        return FileNotFoundError(f"there is no run {run}")
    return FileNotFoundError(f"{run} has no checkpoint: it is not a run, or it ended before its first checkpoint")


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(folder.name.removeprefix("step_"))


def unfinished(run: Path) -> list[Path]:
    """Unfinished checkpoints that a killed process has left."""
    return [path for path in step_folders(run) if path.suffix == ".tmp"]


def is_checkpoint_folder(folder: Path) -> bool:
    """True for a checkpoint's folder with only a checkpoint's files: it may be deleted."""
    if not STEP_FOLDER.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    return all(CHECKPOINT_FILE.fullmatch(name) and regular(folder / name) for name in os.listdir(folder))


def listed(run: Path) -> tuple[str, ...] | None:
    """The names that run.json lists; None where gpt wrote no run.json."""
    manifest = _manifest(run)
    return None if manifest is None else tuple(manifest["files"])


def owner(path: Path) -> Path | None:
    """The run that has a file or folder of this name, or would write one; None for any other path."""
    path = path.absolute()
    for folder in path.resolve().parents:
        names = listed(folder)
        if names is None and is_run(folder):
            names = ()  # of an older gpt
        first = path.resolve().relative_to(folder).parts[0]
        if names is not None and first in (*RUN, MANIFEST, STAGING, *names):
            return folder
    return None


def finished(run: Path) -> int | None:
    """The step after which the run was finished, its last figures included; None where it was not."""
    manifest = _manifest(run)
    return None if manifest is None else manifest["finished"]


def finish(run: Path, names: Iterable[str], step: int) -> None:
    """Record in run.json that the run, which writes `names`, has finished, including everything after its last step."""
    write_manifest(run, {*names, *(listed(run) or ())}, step)


def _manifest(run: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = jsonfile.read(run / MANIFEST)
        if value["format"] != "gpt.run.files":
            return None
        version, names, step = value["version"], value["files"], value["finished"]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, LookupError, TypeError):
        return None  # none, or another program's
    if version != VERSION:
        raise ValueError(f"{run / MANIFEST} has version {version!r:.80}, and this gpt reads version {VERSION}")
    whole = isinstance(names, list) and all(isinstance(name, str) and NAME.fullmatch(name) for name in names)
    if not whole or not (step is None or type(step) is int):
        return None
    return value


def write_manifest(run: Path, names: Iterable[str], finished: int | None = None) -> None:
    value = {"format": "gpt.run.files", "version": VERSION, "finished": finished, "files": sorted(names)}
    write(run / MANIFEST, value)


def write(path: Path, value: Any) -> None:
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def _journal(run: Path) -> dict[str, list[str]] | None:
    """The lists of RUN/.gpt-new/replace.json: "old" and "new" names; None where there is no such file."""
    path = run / STAGING / JOURNAL
    try:
        value = jsonfile.read_object(path)
        whole = isinstance(value["old"], list) and isinstance(value["new"], list)
        if not whole or not all(map(_ours_by_name, (*value["old"], *value["new"]))):
            raise ValueError
        if (value["format"], value["version"]) != ("gpt.run.replace", VERSION):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"{path} is damaged: move {path.parent} away, together with the new run's files in it"
        ) from None
    return {"old": value["old"], "new": value["new"]}


def _ours_by_name(name: Any) -> bool:
    """A name in the folder of run.json, or a checkpoint's folder."""
    start, _, folder = name.rpartition("/") if isinstance(name, str) else ("", "", "")
    return bool(STEP_FOLDER.fullmatch(folder) if start == CHECKPOINTS else not start and NAME.fullmatch(folder))


def step_folders(run: Path) -> list[Path]:
    try:
        names = os.listdir(run / CHECKPOINTS)
    except (FileNotFoundError, NotADirectoryError):
        return []  # other errors are raised
    paths = [run / CHECKPOINTS / name for name in sorted(names) if STEP_FOLDER.fullmatch(name)]
    return [path for path in paths if path.is_dir()]


def exists(path: Path) -> bool:
    """Whether a file, folder or link has this name; an error where that is unknown (os.path.lexists returns False)."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


# ----- links ------------------------------------------------------------------------------------------------------


def check_links(run: Path, names: Iterable[str] = ()) -> None:
    """A ValueError where one of the run's own names is a link, or anything but a file or a directory."""
    wanted = sorted({*RUN, *names, *(listed(run) or ()), MANIFEST})
    for place, more in ((run, STAGING), (run / STAGING, JOURNAL)):
        for name in (more, *wanted):
            _refuse_link(place / name)
        for folder in step_folders(place):
            for path in (folder, *(folder / name for name in (*FILES, "manifest.json"))):
                _refuse_link(path)


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise ValueError(
            f"{path} is a symbolic link, and gpt does not write through links inside a run: put the file itself there, "
            "or let the run's whole directory be a link"
        )
    if exists(path) and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is neither a file nor a directory: move it away")


# ----- completing and removing ------------------------------------------------------------------------------------


def complete_interrupted(run: Path) -> None:
    """Complete the work of a killed process: move a new run to its place, or delete it if it has no checkpoint."""
    staging = run / STAGING
    if not staging.is_dir():
        return
    if _journal(run):
        complete(run)
        return
    remove(staging)
    left = os.listdir(staging)
    if left:
        raise FileExistsError(f"{staging} has files that are not gpt's, such as {left[0]}: move it away")
    staging.rmdir()


def complete(run: Path) -> None:
    """Carry out the rest of replace.json: delete the old run's files, move the new one's up."""
    staging, journal = run / STAGING, _journal(run)
    assert journal is not None
    for name in journal["old"]:
        if name not in journal["new"]:
            _delete(run / name)
    for name in journal["new"]:
        if not exists(staging / name):
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
    """Delete the files that run.json lists, and no others, and then run.json."""
    (folder / JOURNAL).unlink(missing_ok=True)
    for step in step_folders(folder):
        if is_checkpoint_folder(step):
            _delete(step)
    for name in listed(folder) or ():
        if name not in (LOCK, CHECKPOINTS):
            (folder / name).unlink(missing_ok=True)
    for place in (folder / CHECKPOINTS, folder):
        if place.is_dir():
            delete_leftovers(place)
    with suppress(OSError):  # none, or not empty
        (folder / CHECKPOINTS).rmdir()
    if listed(folder) is not None:
        (folder / MANIFEST).unlink()


def _delete(path: Path) -> None:
    """Delete a file, or a checkpoint's folder, its manifest first: the rest alone is not a checkpoint."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if not is_checkpoint_folder(path):
        raise FileExistsError(f"{path} has files that do not belong to a checkpoint: move it away")
    for name in sorted(os.listdir(path), key=lambda name: name != "manifest.json"):
        (path / name).unlink()
    path.rmdir()


def delete_checkpoint(folder: Path) -> None:
    """Delete a checkpoint's folder, unless it has other files too."""
    if is_checkpoint_folder(folder):
        _delete(folder)


def unshare(path: Path) -> None:
    """Where a file has other names (hard links of a snapshot), give this name a copy of its own."""
    if regular(path) and path.stat().st_nlink > 1:
        with replacing(path) as copy, open(path, "rb") as file:  # closed before it is replaced, as Windows requires
            shutil.copyfileobj(file, copy)


def delete_leftovers(folder: Path) -> None:
    """Delete temporary files that killed processes have left."""
    for name in os.listdir(folder):
        if LEFTOVER.fullmatch(name):
            (folder / name).unlink()
