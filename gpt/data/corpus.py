"""Text to train on: a text that comes with this package, and UTF-8 files.

Text is a `str` with "\\n" line ends. Encodings are not guessed, and the content of files is not changed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import nullcontext
from io import IncrementalNewlineDecoder
from pathlib import Path
from typing import Any, Literal

from ..tokenizer.base import Tokenizer, chunks

AnyPath = str | os.PathLike[str]
BLOCK = 1 << 20  # bytes of a file that are read at once
HELD = 1 << 26  # bytes: the longest text that is kept in memory while it is prepared
STDIN = Path("-")  # standard input, read once
BUILTIN = "tinyshakespeare.txt.bz2"

# ----- the built-in text -------------------------------------------------------------------------------


def builtin() -> str:
    """Tiny Shakespeare: 1,115,394 characters of the plays, of 65 kinds, in ASCII.

    A selection by Andrej Karpathy, which much of the field trains its smallest models on; tinyshakespeare.md beside
    this file has its source. ImportError where Python was built without bzip2.
    """
    try:
        import bz2  # an optional module of the standard library, which only this function needs
    except ImportError:
        raise ImportError(
            "the built-in text is compressed, and this Python was built without bzip2 (the module bz2 of the standard "
            "library): give a text file with --text, or use a complete Python"
        ) from None
    return bz2.decompress(Path(__file__).with_name(BUILTIN).read_bytes()).decode("ascii")


# ----- files -------------------------------------------------------------------------------------------

_BEGINNINGS = {  # first bytes of files that are not text: the format, and what to do
    b"version https://git-lfs": "is a pointer of Git LFS and not the file itself: `git lfs pull` fetches that",
    b"\x1f\x8b": "is compressed (gzip): unpack it first",
    b"BZh": "is compressed (bzip2): unpack it first",
    b"\xfd7zXZ": "is compressed (xz): unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd): unpack it first",
    b"PK\x03\x04": "is a zip archive, or a document of an office program: unpack it, or save it as CSV or text",
    b"\xd0\xcf\x11\xe0": "is a document of an office program: save it as CSV or text",
    b"PAR1": "is a Parquet file: convert it to JSON lines or CSV",
    b"ARROW1": "is an Arrow file: convert it to JSON lines or CSV",
    b"SQLite format 3": "is a database: export the table as CSV",
    b"%PDF": "is a PDF: extract its text first",
    b"\x93NUMPY": "holds an array of NumPy and not text",
    b"\xff\xfe": "is UTF-16: convert it to UTF-8",
    b"\xfe\xff": "is UTF-16: convert it to UTF-8",
}


def foreign(begin: bytes, page: bool = False) -> str | None:
    """For the first bytes of a file that is not text: its format and what to do; with `page` also for a web page."""
    if begin[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "is UTF-32: convert it to UTF-8"
    if page and begin.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "is a web page (HTML): download the data that it shows"
    if found := next((said for magic, said in _BEGINNINGS.items() if begin.startswith(magic)), None):
        return found
    if len(begin) > 3 and (begin[:4:2] == b"\0\0" or begin[1:4:2] == b"\0\0"):
        return "looks like UTF-16: convert it to UTF-8"
    return None


def read_text(paths: AnyPath | Iterable[AnyPath], errors: str = "strict") -> str:
    """The text of one or more UTF-8 files, one after another, each ending its last line if more follow; "-": a pipe.

    A byte order mark is dropped, and the line ends CRLF and CR become "\\n"; nothing else is changed. Raises
    OSError (FileNotFoundError, IsADirectoryError, PermissionError, ...) for a file that cannot be read, and
    ValueError for one that is empty or not UTF-8, with the offset of the first wrong byte, and for no file. With the
    `errors` "surrogateescape" bytes that are not UTF-8 become lone surrogates, for a caller that reports their lines.
    """
    return "".join(blocks(paths, errors=errors))


def blocks(
    paths: AnyPath | Iterable[AnyPath], read: list[dict[str, Any]] | None = None, errors: str = "strict"
) -> Iterator[str]:
    """The text of `read_text` in blocks of at most a million characters, for text that does not fit in memory.

    Path, length in bytes and SHA-256 of each regular file are appended to `read` when it has been read.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not files:
        raise ValueError("no text files are given: name at least one")
    for path in files:
        end = ""
        hasher = hashlib.sha256()
        for block in _blocks(path, hasher.update, errors):
            yield block
            end = block[-1:] or end
        if read is not None and path.is_file():
            read.append({"path": str(path), "bytes": path.stat().st_size, "sha256": hasher.hexdigest()})
        if path is not files[-1] and end != "\n":
            yield "\n"


def _blocks(path: Path, see: Callable[[bytes], object], errors: str) -> Iterator[str]:
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory: name the text files in it")
    try:
        opened = nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb")
    except OSError as error:
        raise type(error)(f"the text file {str(path)!r} cannot be read: {error.strerror}") from None
    with opened as file:
        data, read, blank = file.read(BLOCK), 0, True
        if said := foreign(data):
            raise ValueError(f"the text file {str(path)!r} {said}")
        utf8, lines = getincrementaldecoder("utf-8-sig")(errors), IncrementalNewlineDecoder(None, translate=True)
        while True:
            read += len(data)
            see(data)
            try:
                text = lines.decode(utf8.decode(data, final=not data), final=not data)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"the text file {str(path)!r} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset "
                    f"{read - len(error.object) + error.start} (it may be Latin-1, or not a text); convert it to UTF-8"
                ) from None
            blank = blank and (not text or text.isspace())
            yield text
            if not data:
                break
            data = file.read(BLOCK)
    if blank:
        raise ValueError(f"the text file {str(path)!r} is empty, or white space alone: give a file with text")


class Text:
    """The text of files, or the built-in text without files, in blocks: iterating reads it from its beginning.

    A text of at most HELD bytes is read once and kept, as is what can be read only once, such as a pipe. Longer files
    are read again each time, so that they are never held whole. After the first reading `characters` is the length of
    the text, and `files` has path, length in bytes and SHA-256 of each regular file. Errors as `read_text`.
    """

    def __init__(self, paths: Iterable[AnyPath] = ()):
        self.paths = [Path(path) for path in paths]
        self.characters, self.files = 0, list[dict[str, Any]]()
        self._kept: list[str] | None = None
        if not self.paths:
            self._kept = [builtin()]
        elif not all(map(os.path.isfile, self.paths)) or sum(map(os.path.getsize, self.paths)) <= HELD:
            self._kept = [block for block in blocks(self.paths, self.files) if block]
        self.characters = sum(map(len, self._kept or ()))

    def __iter__(self) -> Iterator[str]:
        if self._kept is not None:
            yield from self._kept
            return
        characters, files = 0, list[dict[str, Any]]()
        for block in blocks(self.paths, files):
            characters += len(block)
            yield block
        self.characters, self.files = characters, files


# ----- to the model ------------------------------------------------------------------------------------


def split(text: str, fraction: float = 0.9) -> tuple[str, str]:
    """(training text, validation text): cut by characters at int(fraction * n), as the book does.

    Raises ValueError where `fraction` is not between 0 and 1, or a part would be empty.
    """
    place = cut(len(text), fraction)
    return text[:place], text[place:]


def cut(length: int, fraction: float) -> int:
    """The position at which `split` cuts a text of that many characters."""
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, such as 0.9, got {fraction!r}")
    place = int(fraction * length)
    if not 0 < place < length:
        size = f"{length:,} character{'s' * (length != 1)}"
        raise ValueError(f"a text of {size} is too short to split at {fraction}: one part would be empty")
    return place


def first_part(blocks: Iterable[str], fraction: float) -> Iterator[str]:
    """The part of a text before its `cut`, in blocks, reading the text once.

    The position of the cut is known only at the end of the text. Text that may lie after it is held: at most a block
    more than the share 1 - fraction of the text.
    """
    waiting: deque[str] = deque()
    length = given = 0
    for block in blocks:
        waiting.append(block)
        length += len(block)
        while waiting and given + len(waiting[0]) <= int(fraction * length):
            given += len(waiting[0])
            yield waiting.popleft()
    rest = cut(length, fraction) - given
    for block in waiting:
        yield block[:rest]
        rest -= min(rest, len(block))


def halves(blocks: Iterable[str], place: int) -> tuple[Iterator[str], Iterator[str]]:
    """The parts of a text before and from a position, in blocks, reading once: use the first before the second."""
    source, rest = iter(blocks), [""]

    def first() -> Iterator[str]:
        at = 0
        for block in source:
            yield block[: place - at]
            at += len(block)
            if at >= place:
                rest[0] = block[len(block) - (at - place) :]
                return

    def second() -> Iterator[str]:
        yield rest[0]
        yield from source

    return first(), second()


def encode(
    tokenizer: Tokenizer, text: str | Iterable[str], allowed_special: Set[str] | Literal["all"] = frozenset()
) -> Iterator[int]:
    """The ids of tokenizer.encode(text, allowed_special) one by one, for text too long to hold them all.

    The text may come in blocks, cut anywhere. A Python list takes about 40 bytes a token; a token file, which this
    feeds, takes 2 or 4. Positions in error messages count from the start of a part of about a million characters. A
    stretch of more than a million characters without a space or newline is cut, as `chunks` says.
    """
    for chunk in chunks(text, whole=tokenizer.special_tokens):
        yield from tokenizer.encode(chunk, allowed_special)
