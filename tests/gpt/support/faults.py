"""Calls to the file system below a directory, seen before they are made: one may fail, or they are written down.

One idea: the commands run as they are. `watching(root, see)` replaces the functions of os, io, builtins, fcntl, mmap,
numpy and safetensors through which this repository reaches files; each call with a path below `root` is first shown to
`see` as a Call. What `see` raises, the caller gets in place of a result. An fsync is only shown: no test loses power.
"""

import builtins
import errno
import io
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors

try:
    import fcntl
except ImportError:
    fcntl = None  # on Windows, whose locks are not shown

READING = ("open", "read", "list", "map", "lock", "room")
GROWING = ("create", "write", "mkdir", "link")  # what a full disk refuses
CHANGING = (*GROWING, "overwrite", "truncate", "fsync", "close", "rename", "unlink", "rmdir")
NAMELESS = ("write", "read", "fsync", "close", "truncate", "map", "lock")  # their errors name no file


class Call(NamedTuple):
    """`create`: open for writing where no file is; `overwrite`: where one is; `open`: for reading; `rename`: also
    os.replace; `list`: of a directory; `room`: how much is free."""

    name: str
    path: str  # absolute
    to: str = ""  # of a link or rename
    data: bytes = b""  # of a write
    offset: int = 0  # of a write; the new length for truncate
    empties: bool = False  # an overwrite that begins by cutting the file to nothing

    @property
    def writes(self) -> bool:
        return self.name in CHANGING


See = Callable[[Call], None]


@contextmanager
def watching(root: Path, see: See) -> Iterator[None]:
    """Show every call below `root` to `see`, before it is made, while the block runs."""
    watch = _Watch(str(root), see)
    with pytest.MonkeyPatch.context() as patch:
        watch.install(patch)
        try:
            yield
        finally:
            watch.shown_to = lambda call: None  # files that are still open


class _Watch:
    def __init__(self, root: str, see: See):
        self.root, self.shown_to = root, see
        self.names: dict[int, str] = {}  # of open files, by descriptor

    def see(self, name: str, path: str, **more) -> None:
        if self.covers(path) or self.covers(more.get("to", "")):
            self.shown_to(Call(name, path, **more))

    def covers(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + os.sep)

    def full(self, path, dir_fd: int | None = None) -> str:
        """The absolute path of an argument of a function of os."""
        if isinstance(path, int):
            return self.names.get(path, "")
        base = os.getcwd() if dir_fd is None else self.names.get(dir_fd, "")
        return os.path.normpath(os.path.join(base, os.fsdecode(path)))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for function, name in (("unlink", "unlink"), ("remove", "unlink"), ("rmdir", "rmdir"), ("mkdir", "mkdir")):
            patch.setattr(os, function, self.of_one_path(getattr(os, function), name))
        for function, name in (("scandir", "list"), ("listdir", "list"), ("statvfs", "room")):
            patch.setattr(os, function, self.of_one_path(getattr(os, function), name))
        for function, name in (("rename", "rename"), ("replace", "rename"), ("link", "link")):
            patch.setattr(os, function, self.of_two_paths(getattr(os, function), name))
        patch.setattr(os, "truncate", self.truncate(os.truncate))
        patch.setattr(os, "open", self.os_open(os.open))
        patch.setattr(os, "fsync", self.fsync)
        if fcntl is not None:
            patch.setattr(fcntl, "flock", self.of_a_file(fcntl.flock, "lock"))
        patch.setattr(mmap, "mmap", self.of_a_file(mmap.mmap, "map"))
        patch.setattr(np, "fromfile", self.of_a_file(np.fromfile, "read"))
        patch.setattr(safetensors, "safe_open", self.of_one_path(safetensors.safe_open, "open"))
        opened = self.open(builtins.open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        for shortcut in ("_USE_CP_SENDFILE", "_USE_CP_COPY_FILE_RANGE"):  # copies go through read and write
            patch.setattr(shutil, shortcut, False, raising=False)  # the second is of Python 3.14

    def of_one_path(self, real, name: str):
        def call(path=".", *args, dir_fd=None, **kwargs):
            self.see(name, self.full(path, dir_fd))
            return real(path, *args, **kwargs) if dir_fd is None else real(path, *args, dir_fd=dir_fd, **kwargs)

        return call

    def of_two_paths(self, real, name: str):
        def call(path, to, *args, **kwargs):
            self.see(name, self.full(path, kwargs.get("src_dir_fd")), to=self.full(to, kwargs.get("dst_dir_fd")))
            return real(path, to, *args, **kwargs)

        return call

    def of_a_file(self, real, name: str):
        def call(file, *args, **kwargs):
            self.see(name, self.full(file if isinstance(file, int) else file.fileno()))
            return real(file, *args, **kwargs)

        return call

    def truncate(self, real):
        def call(path, length):
            self.see("truncate", self.full(path), offset=length)
            return real(path, length)

        return call

    def fsync(self, file) -> None:
        self.see("fsync", self.full(file if isinstance(file, int) else file.fileno()))

    def os_open(self, real):
        def call(path, flags, *args, dir_fd=None, **kwargs):
            full = self.full(path, dir_fd)
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            self.see(self.kind(full) if writes else "open", full)
            descriptor = real(path, flags, *args, dir_fd=dir_fd, **kwargs)
            self.names[descriptor] = full
            return descriptor

        return call

    def kind(self, path: str) -> str:
        return "overwrite" if os.path.exists(path) else "create"

    def open(self, real):
        def call(path, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if isinstance(path, int) or opener or not self.covers(full := self.full(path)):
                return real(path, mode, buffering, encoding, errors, newline, closefd, opener)
            if set(mode) & set("wax+"):
                self.see(self.kind(full), full, empties="w" in mode)
            else:
                self.see("open", full)
            raw = _File(self, full, mode.replace("b", "").replace("t", ""))
            buffered = (
                io.BufferedRandom(raw) if "+" in mode else
                io.BufferedReader(raw) if mode.startswith("r") else io.BufferedWriter(raw)
            )  # fmt: skip
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

        return call


class _File(io.FileIO):
    def __init__(self, watch: _Watch, path: str, mode: str):
        self.watch, self.path, self.changes = watch, path, mode != "r"
        super().__init__(path, mode)
        watch.names[self.fileno()] = path

    def write(self, data):
        offset = os.fstat(self.fileno()).st_size if "a" in self.mode else self.tell()
        self.watch.see("write", self.path, data=bytes(data), offset=offset)
        return super().write(data)

    def truncate(self, size=None):
        self.watch.see("truncate", self.path, offset=self.tell() if size is None else size)
        return super().truncate(size)

    def readinto(self, buffer):
        self.watch.see("read", self.path)
        return super().readinto(buffer)

    def readall(self):
        self.watch.see("read", self.path)
        return super().readall()

    def close(self):
        first = not self.closed
        super().close()
        if first and self.changes:  # a network file system says only now that a write failed
            self.watch.see("close", self.path)


# ----- what may go wrong ------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a process that has ended: no handler of errors sees it, and no later call has an effect."""


ERRNOS = {  # what each call may say; the first is the likeliest
    "open": ("EIO", "EACCES", "EMFILE"), "read": ("EIO",), "list": ("EIO", "EACCES"), "map": ("ENODEV", "ENOMEM"),
    "lock": ("ENOLCK", "ENOSYS"), "room": ("EIO", "ENOSYS"), "create": ("ENOSPC", "EACCES", "EDQUOT"),
    "overwrite": ("EACCES", "EIO"), "write": ("ENOSPC", "EIO", "EFBIG"), "mkdir": ("ENOSPC", "EACCES"),
    "link": ("EXDEV", "EPERM", "ENOSYS", "EACCES", "EOPNOTSUPP", "EMLINK"), "truncate": ("EIO", "EACCES"),
    "fsync": ("EIO", "ENOSPC"), "close": ("EIO", "EDQUOT"), "rename": ("EIO", "EACCES", "EXDEV"),
    "unlink": ("EACCES", "EIO"), "rmdir": ("EACCES", "EBUSY"),
}  # fmt: skip
CONCERNED = {  # the calls that may fail
    "once": (*READING, *CHANGING), "full": GROWING, "interrupted": CHANGING, "killed": CHANGING,
    "read-only": (*GROWING, "overwrite", "truncate", "rename", "unlink", "rmdir"),
}  # fmt: skip
MODES = tuple(CONCERNED)


class Failing:
    """What `watching` shows calls to: the `at`-th that `mode` concerns fails. `at` 0: none does, they are counted.

    once: that call alone, with one of its errnos · full, read-only: and all later ones that grow, or change, the disk ·
    interrupted: KeyboardInterrupt, once · killed: and no later call has an effect.
    """

    def __init__(self, mode: str, at: int = 0, choice: int = 0):
        self.mode, self.at, self.choice = mode, at, choice
        self.concerned = CONCERNED[mode]
        self.calls: list[Call] = []

    def __call__(self, call: Call) -> None:
        if call.name not in self.concerned:
            return
        self.calls.append(call)
        number, lasting = len(self.calls), self.mode not in ("once", "interrupted")
        if self.at and (number == self.at or (lasting and number > self.at)):
            raise self.error(call)

    @property
    def reached(self) -> bool:
        """True where something did fail."""
        return 0 < self.at <= len(self.calls)

    def error(self, call: Call) -> BaseException:
        if self.mode == "interrupted":
            return KeyboardInterrupt()
        if self.mode == "killed":
            return Killed()
        names = {"full": ("ENOSPC",), "read-only": ("EROFS",)}.get(self.mode) or ERRNOS[call.name]
        number = getattr(errno, names[self.choice % len(names)])
        path = () if call.name in NAMELESS else (call.path,)
        return OSError(number, os.strerror(number), *path)
