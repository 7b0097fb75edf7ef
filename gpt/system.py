"""Functions that differ between Linux, macOS and Windows: file locks that end with their process, flushing to the disk,
and the most memory that a process has held.
"""

import ctypes
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tensorlite.files import naming

LOCKED = 1 << 30  # the byte that is locked on Windows, where a locked byte cannot be read: far beyond the content


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Lock an open file for this process until it is closed; False where another holds it and `wait` is False."""
    if sys.platform == "win32":
        return _lock_on_windows(file.fileno(), wait)
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _lock_on_windows(descriptor: int, wait: bool) -> bool:
    import msvcrt

    here = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        while True:
            os.lseek(descriptor, LOCKED, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
                return True
            except OSError:
                if not wait:
                    return False
            time.sleep(0.2)
    finally:
        os.lseek(descriptor, here, os.SEEK_SET)


def is_open_at(file: IO[Any], path: Path) -> bool:
    """True while the open file is the one that has this name: another process may have removed or replaced it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def open_files_stay() -> bool:
    """Whether a file that is open can be neither replaced nor removed, as on Windows."""
    return sys.platform == "win32"


def remove_open(file: IO[Any], path: Path) -> None:
    """Close a file and remove its name: in this order on Windows, and elsewhere so that a lock on it covers both.

    On Windows another process may open the file in between: then it stays, for that process.
    """
    if open_files_stay():
        file.close()
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
        return
    path.unlink(missing_ok=True)
    file.close()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk.

    Windows cannot open a directory and syncs only files open for writing; there a rename is left to the file system.
    """
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    with naming(path):
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    if sys.platform == "win32":
        return _peak_on_windows()
    status = Path("/proc/self/status")
    if status.exists():  # Linux: its getrusage also counts the process that started this one
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, in bytes


class _Counters(ctypes.Structure):  # PROCESS_MEMORY_COUNTERS of Windows
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        *((name, ctypes.c_size_t) for name in ("peak", "held", "a", "b", "c", "d", "pages", "most_pages")),
    )


def _peak_on_windows() -> int:
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    counters = _Counters(size=ctypes.sizeof(_Counters))
    if not kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size):
        raise OSError("Windows does not say how much memory this process has held")
    return int(counters.peak)
