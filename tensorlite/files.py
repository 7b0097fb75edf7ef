"""Replacing a file atomically: after any failure, the path holds the complete old or the complete new file.

The new bytes are written to a temporary file in the same folder and synced to disk (fsync); then it takes the old
file's name in one step (rename), and the folder is synced too.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

StrPath: TypeAlias = str | os.PathLike[str]
LEFTOVER = re.compile(r"\.tensorlite-[0-9a-f]{16}\.tmp")  # names of temporary files that a killed process leaves


def temporary_beside(path: Path) -> Path:
    """A new name in the folder of `path`, matched by `LEFTOVER`, for a file that will replace it."""
    return path.with_name(f".tensorlite-{secrets.token_hex(8)}.tmp")


def check_path(what: str, path: Any) -> None:
    """A TypeError or ValueError that starts with `what` unless `path` can be a path (an int is a file descriptor)."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{what}: path must be a string or a pathlib.Path, not {type(path).__name__}")
    if "\0" in str(path):
        raise ValueError(f"{what}: path has a NUL character, which is invalid in file names: {str(path)!r:.80}")


@contextmanager
def naming(path: StrPath) -> Iterator[None]:
    """In the block, an OSError of the system without a file name (of a write, say) gets that of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


@contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
    """`with replacing(path) as file:` write bytes to `file`; they become the file at `path` when the block ends.

    If anything fails, in the block or after it, the file at `path` stays as it was, and the temporary file is removed
    (a killed process leaves it: `.tensorlite-<16 hex digits>.tmp`). A failed write is an OSError that names `path`.

    The new file has the mode of the old one, or 0666 without the umask's bits, and the owner and group of a new file. A
    symlink stays, and its target is replaced. Another hard link to the old file keeps the old bytes. The errors of
    `check_replaceable` are raised before the block is entered.
    """
    target = Path(os.path.realpath(path))
    mode = check_replaceable(path)
    temporary = temporary_beside(target)
    try:
        with open(temporary, "xb") as file:
            if mode is not None:
                os.chmod(temporary, mode)  # before it has content
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            old = "" if mode is None else ", the old file is unchanged"
            reason = f"{os.strerror(error.errno)}: not written{old}"
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


def check_regular(path: StrPath) -> None:
    """An OSError if `path` is neither a file nor a folder: reading a pipe or /dev/zero might never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(f"{os.fspath(path)} is not a regular file")


def check_replaceable(path: StrPath) -> int | None:
    """The mode of the file at `path`; None if there is no file. An error unless it can be replaced.

    OSError for a folder, a pipe, a device and symlinks in a loop; PermissionError for a read-only file, even where the
    process is privileged or may write to the folder.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None  # a missing folder is an error when the new file is made
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: it cannot be replaced by a file", str(path)) from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder: give the path of a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file and is not replaced: give another path", str(path))
    if not mode & 0o222 or not os.access(path, os.W_OK):
        reason = "it is read-only and is not replaced: give another path, or make it writable"
        raise PermissionError(errno.EACCES, reason, str(path))
    return stat.S_IMODE(mode) & 0o777
