"""The files that `gpt data prepare` reads: found below folders in a fixed order, and decompressed as they are read."""

import gzip
import hashlib
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from ... import jsonfile
from ..corpus import BLOCK

STDIN = "-"
COMPRESSED = (".gz", ".zst")
ZSTD_PIECE = 1 << 12  # compressed bytes that are unpacked at once: they may become 32,000 times as many
LISTS = {"run.json": ("gpt.run.files",), "data.json": ("gpt.data",)}  # of what gpt wrote: name, formats
LARGEST_LIST = 1 << 26  # bytes
Seen = Callable[[int], None]  # gets the number of bytes that were read


class Unusable(ValueError):
    """A file or a part of one that has no text to read: `reason` counts it together with others like it."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(detail or reason)
        self.reason = reason


class Source(NamedTuple):
    """A file, standard input, or an entry of a folder that is not read, with the reason in `skip`."""

    path: str  # "-": standard input
    size: int = 0  # bytes on disk
    modified: int = 0  # nanoseconds
    named: bool = False  # given by the user, not found in a folder
    skip: str = ""


class Survey(NamedTuple):
    """What the paths lead to: how much there is to read, and a digest of all names, sizes and times."""

    files: int
    bytes: int
    sha256: str


# ----- which files ------------------------------------------------------------------------------------------------


def sources(paths: Iterable[str], suffixes: tuple[str, ...], out: Path) -> Iterator[Source]:
    """The files of these paths, in the order of the paths; those below a folder sorted by name, level by level.

    Entries of a folder that are left out have a reason: hidden ones, links, pipes and devices, empty files, folders
    that gpt wrote, and with `suffixes` files with other names. The folder `out` is left out too. OSError for a path
    that does not exist.
    """
    for path in paths:
        if path == STDIN:
            yield Source(STDIN, named=True)
        elif os.path.isdir(path):
            yield from _below(path, suffixes, os.path.realpath(out))
        else:
            found = os.stat(path)
            yield Source(path, found.st_size, found.st_mtime_ns, named=True)


def _below(folder: str, suffixes: tuple[str, ...], out: str) -> Iterator[Source]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield Source(folder, skip=f"a folder that cannot be read ({error.strerror})")
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            if os.path.realpath(entry.path) == out:
                continue
            if written_by_gpt(entry.path):
                yield Source(entry.path, skip="a run or a prepared text of gpt")
            else:
                yield from _below(entry.path, suffixes, out)
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError as error:
            yield Source(entry.path, skip=f"cannot be read ({error.strerror})")
            continue
        reason = _left_out(entry.name, found, suffixes)
        yield Source(entry.path, skip=reason) if reason else Source(entry.path, found.st_size, found.st_mtime_ns)


def written_by_gpt(folder: str) -> bool:
    """Whether a folder is a run or was made by `gpt data prepare`: its lists, logs and samples are no text to learn."""
    for name in LISTS:
        path = Path(folder, name)
        try:
            if path.stat().st_size <= LARGEST_LIST and str(jsonfile.read_object(path).get("format")) in LISTS[name]:
                return True
        except (OSError, ValueError):
            continue
    return False


def _left_out(name: str, found: os.stat_result, suffixes: tuple[str, ...]) -> str:
    """Why an entry of a folder is not read; "" for a file that is."""
    if name.startswith("."):
        return "hidden"
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(found.st_mode):
        return "no regular file"
    if suffixes and not uncompressed(name).lower().endswith(suffixes):
        return "another suffix"
    return "" if found.st_size else "empty"


def uncompressed(name: str) -> str:
    """The name without .gz or .zst: what its content is called."""
    root, suffix = os.path.splitext(name)
    return root if suffix.lower() in COMPRESSED else name


def survey(found: Iterable[Source]) -> Survey:
    """Counts and a digest of all sources. The digest changes where a file is added, removed or written to."""
    files = size = 0
    hasher = hashlib.sha256()
    for source in found:
        hasher.update(repr(tuple(source)).encode("utf-8", "surrogateescape"))
        files += not source.skip
        size += source.size
    return Survey(files, size, hasher.hexdigest())


# ----- their bytes ------------------------------------------------------------------------------------------------


def opened(source: Source, seen: Seen) -> BinaryIO:
    """The content of a file or of standard input, decompressed where its first bytes say so.

    `seen` gets the number of bytes read from the disk. OSError where the file cannot be opened; ImportError where the
    package zstandard is needed and not installed. Reading raises what `damaged` lists where the data are damaged.
    """
    raw = sys.stdin.buffer if source.path == STDIN else open(source.path, "rb", buffering=0)  # noqa: SIM115
    file = io.BufferedReader(_Counted(cast(BinaryIO, raw), seen), BLOCK)
    begin = file.peek(4)[:4]
    if begin.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if begin == b"\x28\xb5\x2f\xfd":
        return cast(BinaryIO, io.BufferedReader(_Zstd(file), BLOCK))
    return cast(BinaryIO, file)


def damaged(error: BaseException) -> bool:
    """Whether an error of reading means that compressed data are damaged or end too early."""
    return isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)) or type(error).__name__ == "ZstdError"


def missing(package: str, what: str) -> ImportError:
    """The error for an optional package that is not installed."""
    return ImportError(f"{what} needs the package {package}, which is not installed: pip install 'tensorlite[data]'")


class _Counted(io.RawIOBase):
    """A file that says how much of it is read."""

    def __init__(self, file: BinaryIO, seen: Seen):
        self.file, self.seen = file, seen

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self.file.read(len(buffer))
        buffer[: len(block)] = block
        self.seen(len(block))
        return len(block)

    def close(self) -> None:
        if not self.closed and self.file is not sys.stdin.buffer:
            self.file.close()
        super().close()


class _Zstd(io.RawIOBase):
    """The content of a file of zstd frames. EOFError where the last is cut off, which zstandard's reader ignores."""

    def __init__(self, file: BinaryIO | io.BufferedReader):
        try:
            import zstandard
        except ImportError:
            raise missing("zstandard", "reading .zst") from None
        self.file, self.frame = file, zstandard.ZstdDecompressor().decompressobj
        self.frames: Any = self.frame()
        self.inside = False  # a frame
        self.waiting, self.content = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.content:
            self.waiting = self.waiting or self.file.read(ZSTD_PIECE)
            if not self.waiting:
                if self.inside:
                    raise EOFError("the last frame is cut off")
                return 0
            self.content = memoryview(self.frames.decompress(self.waiting))
            self.inside, self.waiting = not self.frames.eof, self.frames.unused_data
            if self.frames.eof:
                self.frames = self.frame()
        size = min(len(buffer), len(self.content))
        buffer[:size] = self.content[:size]
        self.content = self.content[size:]
        return size
