"""Text to train on: a corpus that every Python carries, and anybody's own files.

Text is a `str` with "\\n" line ends. What is refused: guessing an encoding, and changing what a file says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from .tokenizer.base import Tokenizer, chunks

AnyPath = str | os.PathLike[str]

_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "..."})
_RULE_OR_TABLE = re.compile(r"\s*([*=~^-])\1{2,}\s*|\s*[|+].*[|+]\s*")  # below a title; a row of a drawn table
_SENTENCE_GAP = re.compile(r"(?<=\S[.!?:]) {2,}(?=\S)")


# ----- the built-in corpus -----------------------------------------------------------------------------


def builtin() -> str:
    """CPython's language reference, as this Python's `pydoc_data.topics` has it: about 350,000 characters.

    Topics in alphabetical order, two empty lines between them. Cleaned for readers and learners: ASCII quotes
    and dashes, one space after a sentence, no rules under titles, no drawn tables, and each paragraph only
    once, because topics repeat each other and a validation text must not be one that was trained on. One
    Python always gives the same text; versions of Python differ a little. Raises ImportError where a Python
    was packed without it.
    """
    try:
        from pydoc_data.topics import topics  # half a megabyte that only this function needs
    except ImportError:
        raise ImportError(
            "the built-in corpus is Python's language reference, which this Python comes without (the package "
            "pydoc_data of the standard library): give a text file instead, or use a complete Python"
        ) from None
    seen: set[str] = set()
    cleaned = [_clean(topics[name], seen) for name in sorted(topics)]
    return "\n\n\n".join(topic for topic in cleaned if topic) + "\n"


def _clean(topic: str, seen: set[str]) -> str:
    """One topic without the paragraphs that are in `seen`, to which its own are added."""
    lines = [
        _SENTENCE_GAP.sub(" ", line.rstrip())
        for line in topic.translate(_ASCII).split("\n")
        if not _RULE_OR_TABLE.fullmatch(line) and not line.startswith("Related help topics:")
    ]
    paragraphs = []
    for paragraph in re.split(r"\n{2,}", "\n".join(lines).strip("\n")):
        if paragraph not in seen:
            seen.add(paragraph)
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


# ----- files -------------------------------------------------------------------------------------------


def read_text(paths: AnyPath | Iterable[AnyPath]) -> str:
    """The text of one or more UTF-8 files, one after another, each ending its last line if more follow.

    A byte order mark is dropped, and the line ends CRLF and CR become "\\n"; nothing else is changed. Raises
    OSError (FileNotFoundError, IsADirectoryError, PermissionError, ...) for a file that cannot be read, and
    ValueError for one that is empty or not UTF-8, with the offset of the first wrong byte, and for no file.
    """
    texts = [_read_file(Path(path)) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not texts:
        raise ValueError("no text files are given: name at least one")
    ended = [text if text.endswith("\n") else text + "\n" for text in texts[:-1]]
    return "".join([*ended, texts[-1]])


def _read_file(path: Path) -> str:
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory: name the text files in it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise type(error)(f"the text file {str(path)!r} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        hint = "it looks like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "it may be Latin-1 or no text"
        # The codec counts from after the byte order mark; the offset in the file is what an editor can find.
        offset = error.start + len(data) - len(error.object)
        raise ValueError(
            f"the text file {str(path)!r} is not UTF-8: byte 0x{data[offset]:02x} at offset {offset} "
            f"({hint}); convert it to UTF-8"
        ) from None
    if not text or text.isspace():
        raise ValueError(f"the text file {str(path)!r} is empty: there is nothing to learn from it")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


# ----- to the model ------------------------------------------------------------------------------------


def split(text: str, fraction: float = 0.9) -> tuple[str, str]:
    """(training text, validation text): cut by characters at int(fraction * n), as the book does.

    Raises ValueError where `fraction` is not between 0 and 1, or a part would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction!r}, but has to be between 0 and 1, say 0.9")
    cut = int(fraction * len(text))
    if not 0 < cut < len(text):
        raise ValueError(
            f"a text of {len(text)} characters is too short to split at {fraction}: one part would be empty"
        )
    return text[:cut], text[cut:]


def encode(tokenizer: Tokenizer, text: str, allowed_special: Set[str] = frozenset()) -> Iterator[int]:
    """The ids of tokenizer.encode(text, allowed_special) one by one, for text too long to hold them all.

    A Python list takes about 40 bytes a token; a token file, which this feeds, takes 2 or 4. Positions in
    error messages count from the start of a part of about a million characters.
    """
    for chunk in chunks(text):
        yield from tokenizer.encode(chunk, allowed_special)
