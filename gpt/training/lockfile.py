"""A lock on a directory: one process writes there at a time."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tensorlite.files import naming

from .. import system
from . import run_directory


@dataclass
class Held:
    """A lock; with `remove` its file is deleted when it is released."""

    remove: bool = False


@contextmanager
def lock(folder: Path, doing: str = "training in") -> Iterator[Held]:
    """Keep other processes from writing in `folder`. RuntimeError where one does. The lock ends with the process."""
    path, held, file = folder / run_directory.LOCK, Held(), None
    while file is None:
        file = _acquire(path, doing)
    try:
        yield held
    finally:
        with naming(path), file:
            if held.remove:
                system.remove_open(file, path)


def _acquire(path: Path, doing: str) -> IO[str] | None:
    """The open lock, with the number of this process in it; None where its file was removed meanwhile."""
    new = not run_directory.exists(path)
    file = open(path, "a+")  # noqa: SIM115
    try:
        with naming(path):
            if not take(file, path.parent):
                new = False
                file.seek(0)
                process = file.read().strip("\0 ") or "?"
                raise RuntimeError(
                    f"process {process} is {doing} {path.parent}: wait for it, or name another directory"
                )
            if not system.is_open_at(file, path):
                file.close()
                return None
            if os.fstat(file.fileno()).st_nlink > 1:  # hard-linked in a snapshot of the run: replaced by an own file
                _replace(file, path)
                return None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        return file
    except BaseException:
        try:
            with naming(path):
                if new:
                    system.remove_open(file, path)
        finally:
            file.close()
        raise


def _replace(file: IO[str], path: Path) -> None:
    """Give this name of a locked file a file of its own, and close the old one.

    The lock is held meanwhile, but not on Windows, which replaces no open file. Another process may take it there, but
    has the file open as long as it holds the lock, and so keeps it from being replaced.
    """
    if not system.open_files_stay():
        run_directory.unshare(path)
        file.close()
        return
    file.close()
    try:
        run_directory.unshare(path)
    except PermissionError as error:
        raise RuntimeError(
            f"another process has {path} open: wait for it, or name another directory ({error.strerror})"
        ) from error


def take(file: IO[str], folder: Path) -> bool:
    """False where another process has the lock. A warning, and True, where the file system has no locks."""
    try:
        return system.lock(file)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        warnings.warn(
            f"the file system of {folder} has no locks ({error.strerror}): do not write there from two processes",
            run_directory.RunWarning,
            stacklevel=2,
        )
        return True
