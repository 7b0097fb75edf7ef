"""Records of a data file: JSON, JSON lines, or a table with its columns between tabs, commas, semicolons or bars.

The content decides the format; a file whose name ends in .csv or .tsv is a table. A record keeps the
place where it begins, so that an error names file and line. A file that cannot be read as a whole (a
damaged JSON list, a quotation mark that is never closed) raises ValueError.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .corpus import foreign

Item = TypeVar("Item")
Note = Callable[[str], None]  # takes one sentence

DELIMITERS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
ALIKE = 0.9  # share of the rows that have as many columns as the first, where a character separates columns
LEFT_OUT = 0.1  # largest share of unusable entries that may be left out: more of them mean that the file is misread
SHOWN = 5  # number of left-out entries that are reported one by one


class Record(NamedTuple):
    """One entry of the file."""

    where: str  # "line 7", or in a wrapped list "entry 3"
    fields: Any  # a dict unless the JSON value is not an object; in a table all values are strings


class Records(NamedTuple):
    """The records of a file, and its problems and peculiarities."""

    path: Path
    names: list[str]  # of the fields, the most frequent first; "1", "2", ... where a table does not name them
    named: bool  # False for a table without a line of names
    records: list[Record]
    problems: list[str]  # one sentence for each place that holds no record
    notes: list[str]  # one sentence for each thing that may be read differently from what the user expects


class Repeated(dict[str, Any]):
    """A JSON object in which a field occurs twice."""


def read(path: str | os.PathLike[str], known: Collection[str], wanted: Collection[str] = ()) -> Records:
    """The records of a file.

    `known` are names of fields in lower case, by which a line of names and a wrapped list are found; `wanted` are
    further names from the user. OSError where the file cannot be read; ValueError, in one sentence that names the
    file and, where it can, the line: not text in UTF-8, empty, damaged.
    """
    path = Path(path)
    text = _text(path)
    if path.suffix.lower() not in (".csv", ".tsv") and text.lstrip()[0] in "[{":
        return _json(path, text, {*known, *wanted})
    return _table(path, text, known, wanted)


def usable(found: Records, make: Callable[[dict[str, Any]], Item], note: Note | None) -> list[Item]:
    """make(fields) of each record; an unusable one, for which `make` raises ValueError, is left out and noted.

    ValueError with the first problem where `note` is None, where more than a tenth of the
    entries is unusable, and where there are none.
    """
    items, problems = [], list(found.problems)
    for where, fields in found.records:
        try:
            if not isinstance(fields, dict):
                raise ValueError(f"an entry is an object with named fields, not {json.dumps(fields):.40}")
            if isinstance(fields, Repeated):
                raise ValueError("a field of the object occurs twice")
            items.append(make(fields))
        except ValueError as error:
            problems.append(f"{found.path}, {where}: {error}")
    total = len(items) + len(problems)
    if not total:
        raise ValueError(f"{found.path} has no entries: there is nothing to learn from it")
    if problems and (note is None or len(problems) > LEFT_OUT * total):
        others = len(problems) - 1
        more = f"; nor can {others:,} other{'s' * (others > 1)} of {total:,} entries be used" if others else ""
        raise ValueError(f"{problems[0]}{more}")
    if note is not None:
        for sentence in (*found.notes, *(f"{problem}; left out" for problem in problems[:SHOWN])):
            note(f"warning: {sentence}")
        if len(problems) > SHOWN:
            note(f"warning: {found.path}: {len(problems) - SHOWN:,} more of {total:,} entries cannot be used; left out")
    return items


# ----- text -------------------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    """The text of the file, with "\\n" at the ends of lines."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name the file in it that has the entries")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror}") from None
    if said := foreign(data, page=True):
        raise ValueError(f"{path} {said}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(error.object)  # the mark in front is no longer part of the object
        line = 1 + data[:at].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")
        raise ValueError(
            f"{path}, line {line} is not UTF-8: byte {data[at]:#04x} at offset {at}; it may be Latin-1 or "
            "Windows-1252: convert the file to UTF-8"
        ) from None
    if "\0" in text:
        line = 1 + text.count("\n", 0, text.index("\0"))
        raise ValueError(f"{path}, line {line} has a NUL character: the file is not text, or not in UTF-8")
    if not text.strip():
        raise ValueError(f"{path} is empty: there is nothing to learn from it")
    return text.replace("\r\n", "\n").replace("\r", "\n")


# ----- JSON -------------------------------------------------------------------------------------------------------

PIECE = 1 << 13  # characters that are decoded at once, where they hold an entry


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else Repeated(fields)


_decode = json.JSONDecoder(object_pairs_hook=_object).raw_decode


def _json(path: Path, text: str, known: Collection[str]) -> Records:
    """One list of objects, or a sequence of objects, each on one line or on several."""
    problems: list[str] = []
    values = _elements(path, text) if text.lstrip()[0] == "[" else _sequence(path, text, problems)
    records = [Record(f"line {line}", value) for line, value in values]
    if len(records) == 1 and not problems:
        records = _unwrapped(path, records[0], known)
    counts = Counter(name for record in records if isinstance(record.fields, dict) for name in record.fields)
    return Records(path, [name for name, _ in counts.most_common()], True, records, problems, [])


class _Text:
    """A text that is read from its beginning, with the number of the current line."""

    def __init__(self, path: Path, text: str):
        self.path, self.text, self.at, self.line = path, text, 0, 1

    def go(self, at: int, beyond: str = " \t\n") -> str:
        """Move to a position, and from there to the first character not in `beyond`; return that, or "" at the end."""
        while self.text[at : at + 1] and self.text[at] in beyond:
            at += 1
        self.line += self.text.count("\n", self.at, at)
        self.at = at
        return self.text[at : at + 1]

    def value(self) -> tuple[Any, int]:
        """The JSON value at the current position, and where it ends.

        The decoder gets a piece of the text, and a longer one if that may have cut the value: an error of json counts
        the lines of all that it was given, and a file may have an error on each of its lines.
        """
        size = PIECE
        while True:
            piece = self.text[self.at : self.at + size]
            try:
                value, end = _decode(piece, 0)
                return value, self.at + end
            except json.JSONDecodeError as error:
                cut = error.pos > size - 32 or error.msg.startswith("Unterminated")
                if cut and len(piece) == size:
                    size *= 4
                    continue
                begun = f", in what begins on line {self.line}" if "\n" in piece[: error.pos] else ""
                raise self.error(error.msg + begun, self.at + error.pos) from None
            except RecursionError:
                raise self.error("it nests too deeply") from None
            except ValueError:  # a number of thousands of digits
                raise self.error("it has a number with too many digits") from None

    def error(self, reason: str, at: int | None = None) -> ValueError:
        at = self.at if at is None else at
        line, column = self.line + self.text.count("\n", self.at, at), at - self.text.rfind("\n", 0, at)
        return ValueError(f"{self.path} is not JSON at line {line}, column {column}: {reason}")


def _elements(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of each element of the list that the text is."""
    here = _Text(path, text)
    here.go(0)
    following = here.go(here.at + 1)
    while following != "]":
        value, end = here.value()
        yield here.line, value
        following = here.go(end)
        if following == ",":
            following = here.go(here.at + 1)
            if following == "]":
                raise here.error("there is a comma after the last entry")
        elif following != "]":
            raise here.error("Expecting ',' delimiter" if following else "the list has no end")
    if here.go(here.at + 1):
        raise here.error("there is text after the end of the list")


def _sequence(path: Path, text: str, problems: list[str]) -> Iterator[tuple[int, Any]]:
    """(line, value) of each JSON value; after a damaged one, reading continues with the next line."""
    here, between = _Text(path, text), " \t\n,"  # commas between JSON lines are ignored
    following = here.go(0, between)
    while following:
        try:
            value, end = here.value()
            yield here.line, value
        except ValueError as error:
            problems.append(str(error))
            end = text.find("\n", here.at) + 1 or len(text)
        following = here.go(end, between)


def _unwrapped(path: Path, only: Record, known: Collection[str]) -> list[Record]:
    """The records of {"data": [...]}: an object that is not an entry itself and has one list of objects."""
    fields = only.fields
    if not isinstance(fields, dict) or {name.lower() for name in fields} & set(known):
        return [only]
    lists = {n: v for n, v in fields.items() if isinstance(v, list) and v and all(isinstance(i, dict) for i in v)}
    if len(lists) > 1:
        raise ValueError(
            f"{path} has several lists of entries, {', '.join(lists):.120}: write one of them to its own file"
        )
    return [Record(f"entry {i} of {name!r:.80}", v) for name in lists for i, v in enumerate(lists[name], 1)] or [only]


# ----- tables -----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    line: int  # on which it begins
    end: int  # on which it ends
    cells: list[str]


def _table(path: Path, text: str, known: Collection[str], wanted: Collection[str]) -> Records:
    delimiter, rows = _delimited(path, text, known)
    notes = _check_quotes(path, text, delimiter, rows)
    width = len(rows[0].cells)
    names = [name.strip() for name in rows[0].cells]
    named = bool(set(wanted) & set(names)) or _names_columns(names, rows[1:], known)
    body, problems = [], []
    for row in rows[1:] if named else rows:
        if any(cell.strip() for cell in row.cells[width:]) or len(row.cells) < width:
            have = f"{len(row.cells)} column{'s' * (len(row.cells) > 1)}"
            problems.append(
                f"{path}, line {row.line} has {have}, and the first line has {width}: a text with one of the "
                f"{DELIMITERS[delimiter]} in it must be in quotation marks"
            )
        else:
            body.append(row)
    if not body and not problems:
        raise ValueError(f"{path} has a line of names and no entries: there is nothing to learn from it")
    used = [i for i in range(width) if (named and names[i]) or any(row.cells[i].strip() for row in body)]
    names = [names[i] if named and names[i] else str(i + 1) for i in range(width)]
    if twice := [name for name, count in Counter(names[i] for i in used).items() if count > 1]:
        raise ValueError(f"{path} has two columns named {twice[0]!r:.80}: give each a name of its own")
    records = [Record(f"line {row.line}", {names[i]: row.cells[i] for i in used}) for row in body]
    return Records(path, [names[i] for i in used], named, records, problems, notes)


def _rows(text: str, delimiter: str) -> list[Row]:
    """The rows that are not blank."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter)
    rows, before = [], 0
    for cells in reader:
        if any(cell.strip() for cell in cells):
            rows.append(Row(before + 1, reader.line_num, cells))
        before = reader.line_num
    return rows


def _delimited(path: Path, text: str, known: Collection[str]) -> tuple[str, list[Row]]:
    """The character that separates columns, and the rows: with it nearly all rows are as wide as the first."""
    first = next(line for line in text.split("\n") if line.strip())
    found = {delimiter: _rows(text, delimiter) for delimiter in DELIMITERS if delimiter in first}
    found = {delimiter: rows for delimiter, rows in found.items() if rows and len(rows[0].cells) > 1}
    if not found:
        raise ValueError(
            f"{path} is neither JSON nor a table with several columns: separate them by tabs or commas, or write a "
            "JSON object on each line"
        )
    alike = {d: sum(len(row.cells) == len(rows[0].cells) for row in rows) / len(rows) for d, rows in found.items()}
    naming = [d for d, rows in found.items() if {cell.strip().lower() for cell in rows[0].cells} & set(known)]
    good = [d for d in naming or found if alike[d] >= ALIKE]
    if len(good) > 1 and "\t" not in good:
        raise ValueError(
            f"{path} has {' or '.join(DELIMITERS[d] for d in good)} between its columns, which is ambiguous: put "
            "texts in quotation marks, or write the names of the columns into the first line"
        )
    chosen = good[0] if good else max(naming or found, key=lambda d: (d == "\t", alike[d]))
    return chosen, found[chosen]


def _check_quotes(path: Path, text: str, delimiter: str, rows: Sequence[Row]) -> list[str]:
    """A note for each text in quotation marks that seems to contain other entries.

    ValueError where a quotation mark is never closed, and where such texts contain more than a tenth of the lines.
    (The SMS Spam Collection has one that contains two entries; the book counts it as one.)
    """
    lines, notes, taken_in = text.split("\n"), [], 0
    for row in rows:
        if row.end == row.line and row is not rows[-1]:
            continue
        fault = _fault("\n".join(lines[row.line - 1 : row.end]), delimiter)
        unclosed = "end of data" in fault
        opened = row.end - row.cells[-1].removesuffix("\n").count("\n") if unclosed else row.line
        inside = [line for cell in row.cells for line in cell.split("\n")[1:]]
        if unclosed or (fault and inside):
            taken_in += len(inside)
            if unclosed or taken_in > LEFT_OUT * len(lines):
                raise ValueError(
                    f"{path}, line {opened}: a quotation mark opens a text there and is not closed before the end of "
                    f"line {row.end}: close it, or double it where it belongs to the text"
                )
        if inside and (fault or sum(delimiter in line for line in inside) * 2 > len(inside)):
            notes.append(
                f"{path}: lines {row.line} to {row.end} are read as one text, because a quotation mark opens it, "
                "though they look like several entries"
            )
    return notes


def _fault(raw: str, delimiter: str) -> str:
    """The problem with the quotation marks of a row; "" if there is none."""
    try:
        list(csv.reader(io.StringIO(raw, newline="\n"), delimiter=delimiter, strict=True))
    except csv.Error as error:
        return str(error)
    return ""


def _names_columns(first: Sequence[str], others: Sequence[Row], known: Collection[str]) -> bool:
    """Whether the first line names the columns: a name in it is known, and none of its cells occurs again below."""
    if not {name.lower() for name in first} & set(known):
        return False
    below = [{row.cells[i].strip() for row in others if i < len(row.cells)} for i in range(len(first))]
    return not any(name and name in column for name, column in zip(first, below, strict=True))
