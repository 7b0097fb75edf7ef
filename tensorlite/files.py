"""Replacing a file so that there is always a whole one: the old or the new, whatever fails and whenever.

One idea: write beside, then rename. The new bytes go to a temporary file in the same folder, reach the disk (fsync),
and only then take the old file's name in one step (rename), which reaches the disk too.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LEFTOVER = re.compile(r"\.tensorlite-[0-9a-f]{16}\.tmp")  # what a killed process leaves; nobody else names files so


def temporary_beside(path: Path) -> Path:
    """A new name in the folder of `path` for a file that will take its place; `LEFTOVER` matches it."""
    return path.with_name(f".tensorlite-{secrets.token_hex(8)}.tmp")


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """An error of the system in the block that names no file (of a write, say) names `path`; a sentence stays one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """`with replacing(path) as file:` write bytes to `file`; they become the file at `path` when the block ends.

    If anything fails, in the block or after, the file at `path` is what it was, and the temporary one is removed (a
    killed process leaves it: `.tensorlite-<16 hex digits>.tmp`). A symlink stays, its target is replaced. The mode is
    that of any new file, 0666 without the umask's bits. A failed write is an OSError that names `path`.
    """
    target = Path(os.path.realpath(path))
    temporary = temporary_beside(target)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            reason = f"{os.strerror(error.errno)}: not written, what was there before still is"
            raise OSError(error.errno, reason, str(path)) from error
        raise
    _fsync_folder(target.parent)


def _fsync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened; the rename is left to the system
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_regular(path: str | os.PathLike) -> None:
    """An OSError where `path` is there and is neither a file nor a folder: a pipe never ends, nor does /dev/zero."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(f"{os.fspath(path)} is not a regular file")
