"""The documents in a file, one after another, none of them held whole where it is long.

| the name ends in  | a document is                                                                        |
|-------------------|--------------------------------------------------------------------------------------|
| .jsonl, .ndjson   | the string in one field of each line's object                                        |
| .csv, .tsv        | one column of each row; the first row names the columns                              |
| .parquet          | one column of each row                                                               |
| anything else     | the whole text of the file, or with `split_on` each part between two of these strings |

.gz and .zst are read as what they contain. What cannot be used is left out, with its reason: a file that is not text,
a line without the field, an empty document.
"""

import csv
import os
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import IncrementalNewlineDecoder
from itertools import islice
from typing import Any, BinaryIO, Literal, NamedTuple

from ...config import check_choice
from ...jsonfile import parse
from ...tokenizer.base import chunks
from ..corpus import BLOCK, foreign
from ..records import DELIMITERS
from .inputs import STDIN, Seen, Source, Unusable, damaged, missing, opened, uncompressed

HELD = 16  # blocks of a text that are held while it is checked: a longer text is read twice
LONGEST = 1 << 26  # bytes of a line, characters of a cell and of a document between two separators
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Reading:
    """How files are read. The documents depend on these settings and on the files alone."""

    suffixes: tuple[str, ...] = ()  # of the files that are read in folders; none: all files
    format: Literal["auto", "text", "jsonl", "csv", "parquet"] = "auto"  # auto: by the name of a file
    field: str = "text"
    column: str = "text"
    split_on: str | None = None

    def __post_init__(self) -> None:
        check_choice("format", self.format, ("auto", "text", "jsonl", "csv", "parquet"))
        if self.split_on == "":
            raise ValueError("split_on is empty: give the text between two documents, such as <|endoftext|>")


class Piece(NamedTuple):
    """A document, or a part of a long one, cut where no token spans the cut."""

    text: str
    last: bool  # the document ends with it


class Skipped(NamedTuple):
    """Something that is left out."""

    reason: str


Item = Piece | Skipped


def items(source: Source, how: Reading, seen: Seen) -> Iterator[Item]:
    """The documents of a source and what is left out of it, always in the same order.

    Unusable for a source with no text to read, or none from some place on; OSError where it cannot be read.
    ImportError where a package is missing.
    """
    if source.skip:
        raise Unusable(source.skip)
    kind = kind_of(source, how)
    if kind == "parquet":
        yield from _parquet(source, how.column, seen)
        return
    with opened(source, seen) as file:
        try:
            if kind == "text":
                yield from _documents(_checked(file, source, seen), how.split_on)
            else:
                yield from _jsonl(file, how.field) if kind == "jsonl" else _csv(file, how.column)
        except Exception as error:
            if damaged(error):
                raise Unusable("damaged", f"is damaged: {error}") from None
            raise


def kind_of(source: Source, how: Reading) -> str:
    """ "text", "jsonl", "csv" or "parquet"."""
    return FORMATS.get(_suffix(source.path), "text") if how.format == "auto" else how.format


def _suffix(path: str) -> str:
    return os.path.splitext(uncompressed(path))[1].lower()


# ----- texts ------------------------------------------------------------------------------------------------------


def _checked(file: BinaryIO, source: Source, seen: Seen) -> Iterator[str]:
    """The text of a file in blocks. A fault in it is found before any of it is used, except in standard input."""
    blocks = _text(file)
    if source.path == STDIN:
        return blocks
    held = list(islice(blocks, HELD))
    if len(held) < HELD:
        return iter(held)
    for _ in blocks:
        pass
    return _again(source)


def _again(source: Source) -> Iterator[str]:
    with opened(source, lambda size: None) as file:
        yield from _text(file)


def _text(file: BinaryIO) -> Iterator[str]:
    """Blocks of UTF-8, without a byte order mark, CRLF and CR as "\\n"."""
    utf8, lines = getincrementaldecoder("utf-8-sig")(), IncrementalNewlineDecoder(None, translate=True)
    data, read = file.read(BLOCK), 0
    if said := foreign(data):
        raise Unusable("not text", said)
    while True:
        if b"\0" in data:
            raise Unusable("binary (it has NUL characters)", "is binary: it has NUL characters")
        try:
            yield lines.decode(utf8.decode(data, final=not data), final=not data)
        except UnicodeDecodeError as error:
            at = read + len(data) - len(error.object) + error.start
            raise Unusable("not UTF-8", f"is not UTF-8: byte {error.object[error.start]:#04x} at offset {at}") from None
        if not data:
            return
        read += len(data)
        data = file.read(BLOCK)


def _documents(blocks: Iterator[str], split_on: str | None) -> Iterator[Item]:
    if split_on is None:
        yield from _pieces(blocks)
        return
    rest = ""
    for block in blocks:
        *whole, rest = (rest + block).split(split_on)
        for text in whole:
            yield from _pieces([text])
        if len(rest) > LONGEST:
            raise Unusable("no separator", f"has no {split_on!r} in {LONGEST:,} characters: --split-on must occur")
    if rest.strip():  # what follows the last separator may be a line end
        yield from _pieces([rest])


def _pieces(blocks: Iterable[str]) -> Iterator[Item]:
    """One document, which comes in blocks."""
    texts = chunks(blocks, whole=())
    before, following = next(texts), next(texts, None)
    if following is None and (not before or before.isspace()):
        yield Skipped("an empty document")
        return
    while following is not None:
        yield Piece(before, False)
        before, following = following, next(texts, None)
    yield Piece(before, True)


# ----- JSON lines -------------------------------------------------------------------------------------------------


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines. One that is too long to hold is cut off, and so is not JSON."""
    while line := file.readline(LONGEST):
        yield line
        while len(line) == LONGEST and not line.endswith(b"\n"):
            line = file.readline(LONGEST)


def _jsonl(file: BinaryIO, field: str) -> Iterator[Item]:
    first = True
    for line in _lines(file):
        if not line.strip():
            continue
        try:
            value: Any = parse(line.decode("utf-8-sig" if first else "utf-8"))
        except UnicodeDecodeError:
            yield Skipped("a line that is not UTF-8")
        except ValueError:
            yield Skipped("a line that is not JSON")
        else:
            if not isinstance(value, dict):
                yield Skipped("a line that is no JSON object")
            elif field in value:
                yield from _value(value[field], f"a line whose {field!r} is no text")
            elif first:
                names = ", ".join(map(repr, value)) or "no fields"
                raise Unusable(f"no field {field!r}", f"has no field {field!r} in its first line, but {names}: --field")
            else:
                yield Skipped(f"a line without {field!r}")
        first = False


def _value(value: Any, reason: str) -> Iterator[Item]:
    """The document that a field or a cell holds."""
    if value is None:
        yield Skipped("an empty document")
    elif not isinstance(value, str):
        yield Skipped(reason)
    elif not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        yield Skipped("a text that is not UTF-8")
    else:
        yield from _pieces([value])


# ----- tables -----------------------------------------------------------------------------------------------------


def _csv(file: BinaryIO, column: str) -> Iterator[Item]:
    lines = (line.decode("utf-8", "surrogateescape") for line in _lines(file))
    head = next(lines, "").removeprefix("\ufeff")
    found = {mark: next(csv.reader([head], delimiter=mark), []) for mark in DELIMITERS}
    tables: dict[str, list[str]] = {mark: [name.strip() for name in names] for mark, names in found.items()}
    mark = next((mark for mark, names in tables.items() if column in names), None)
    if mark is None:
        names = ", ".join(map(repr, sorted(tables.values(), key=len)[-1])) or "no columns"
        raise Unusable(
            f"no column {column!r}", f"has no column {column!r} in its first line, but {names:.300}: --column"
        )
    place, width = tables[mark].index(column), len(tables[mark])
    csv.field_size_limit(LONGEST)
    try:
        for row in csv.reader(lines, delimiter=mark):
            if not row:
                continue
            if len(row) != width:
                yield Skipped("a row with another number of columns")
            else:
                yield from _value(row[place].replace("\r\n", "\n").replace("\r", "\n"), "")
    except csv.Error as error:
        raise Unusable("damaged", f"is damaged: {error}; a quotation mark may not be closed") from None


def _parquet(source: Source, column: str, seen: Seen) -> Iterator[Item]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise missing("pyarrow", "reading Parquet") from None
    if source.path == STDIN or uncompressed(source.path) != source.path:
        raise Unusable("a compressed Parquet file", "must be a Parquet file on the disk, neither piped in nor packed")
    try:
        with parquet.ParquetFile(source.path, buffer_size=BLOCK, pre_buffer=False) as table:
            names = table.schema_arrow.names
            if column not in names:
                known = ", ".join(map(repr, names))
                raise Unusable(f"no column {column!r}", f"has no column {column!r}, but {known:.300}: --column")
            rows = max(1, table.metadata.num_rows)
            done = 0
            for batch in table.iter_batches(256, columns=[column], use_threads=False):
                for value in batch.column(0).to_pylist():
                    yield from _value(value, f"a row whose {column!r} is no text")
                done += batch.num_rows
                seen(source.size * done // rows - source.size * (done - batch.num_rows) // rows)
    except (pa.ArrowException, OSError) as error:
        raise Unusable("damaged", f"is no Parquet file, or is damaged: {error!s:.200}") from None
