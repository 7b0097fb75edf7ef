"""Labelled texts: read from a file, balanced, split. What classification learns from.

One idea: the file says what it is. Tab-separated (as the SMS corpus comes), CSV and JSON lines are told apart by their
content, and the columns of label and text by their names, or, without names, by what they hold. What cannot be told is
an error that names the choices, and nothing is guessed between two.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorlite.random import sample_rows

LABELS = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent")  # names of columns
TEXTS = ("text", "texts", "message", "sms", "sentence", "review", "content", "title")
SHARES = (0.7, 0.1)  # of the entries, for training and validation; the rest is for testing


class Entry(NamedTuple):
    """A text and its label."""

    label: str
    text: str


# ----- reading ----------------------------------------------------------------------------------------------------


def read(path: Path, label_column: str | None = None, text_column: str | None = None) -> list[Entry]:
    """The entries of a file, in its order.

    OSError where it cannot be read; ValueError, in one sentence with the line, where it is empty, not UTF-8, no such
    file, or its columns cannot be told apart.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name the file in it that has the entries")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}; convert it to UTF-8"
        ) from None
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise ValueError(f"{path} is empty: there is nothing to learn from it")
    if text.lstrip()[0] in "[{":
        names, rows = _json(path, text)
    else:
        names, rows = _table(path, text, bool(label_column or text_column))
    columns = _columns(path, names, rows, label_column, text_column)
    return [_entry(path, line, [row[column] for column in columns]) for line, row in rows]


Rows = list[tuple[int, Mapping[str, Any]]]  # each with the line that it stands on


def _json(path: Path, text: str) -> tuple[list[str], Rows]:
    """A list of objects, or an object a line; the names that they all have."""
    try:
        if text.lstrip()[0] == "[":
            rows: Rows = list(enumerate(json.loads(text), 1))
        else:
            rows = []
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    rows.append((number, json.loads(line)))
    except json.JSONDecodeError as error:
        at = error.lineno if text.lstrip()[0] == "[" else number
        raise ValueError(f"{path} is not JSON at line {at}, column {error.colno}: {error.msg}") from None
    what = "entry" if text.lstrip()[0] == "[" else "line"
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{path}: {what} {number} is no object with a label and a text: {row!r:.40}")
    if not rows:
        raise ValueError(f"{path} has no entries: there is nothing to learn from it")
    names = [name for name in rows[0][1] if all(name in row for _, row in rows)]
    return names, rows


def _table(path: Path, text: str, named: bool) -> tuple[list[str], Rows]:
    """Tab-separated where the first line has a tab, else CSV. Names are its first line, where that looks like names."""
    first = text.split("\n", 1)[0]
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text), delimiter="\t" if "\t" in first else ",", quotechar='"')
    try:
        found = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    width = len(found[0][1])
    if width < 2:
        raise ValueError(
            f"{path} has one column, and a label and a text are needed: separate them by a tab or a comma, or write "
            'JSON lines like {"label": "ham", "text": "..."}'
        )
    for line, row in found:
        if len(row) != width:
            raise ValueError(f"{path}, line {line} has {len(row)} columns, and the first line has {width}")
    names = [name.strip() for name in found[0][1]]
    if named or {name.lower() for name in names} & {*LABELS, *TEXTS}:
        rows: Rows = [(line, dict(zip(names, row, strict=True))) for line, row in found[1:]]
        if not rows:
            raise ValueError(f"{path} has a line of names and no entries: there is nothing to learn from it")
        return names, rows
    numbers = [str(i) for i in range(1, width + 1)]
    return numbers, [(line, dict(zip(numbers, row, strict=True))) for line, row in found]


def _columns(path: Path, names: list[str], rows: Rows, label: str | None, text: str | None) -> tuple[str, str]:
    """Which column is the label and which the text: as named, by well-known names, or, of two, by their variety."""
    listed = ", ".join(names) or "none that all entries have"
    for what, name in (("label", label), ("text", text)):
        if name is not None and name not in names:
            raise ValueError(f"{path} has no column {name!r} for the {what}: its columns are {listed}")
    label = label or next((name for name in names if name.lower() in LABELS and name != text), None)
    text = text or next((name for name in names if name.lower() in TEXTS and name != label), None)
    if len(names) == 2 and not (label and text):
        fewest = min(names, key=lambda name: len({str(row[name]) for _, row in rows}))
        label = label or (fewest if text is None else next(name for name in names if name != text))
        text = text or next(name for name in names if name != label)
    for what, name in (("label", label), ("text", text)):
        if name is None:
            raise ValueError(f"{path}: which column is the {what}? Say --{what}-column and one of {listed}")
    if label == text:
        raise ValueError(f"{path}: label and text are both {label!r}: name two columns")
    return label, text  # type: ignore[return-value]


def _entry(path: Path, line: int, values: list[Any]) -> Entry:
    label, text = values
    if isinstance(label, bool | int):
        label = str(label)  # 0 and 1 are labels in many a JSON file
    for what, value in (("label", label), ("text", text)):
        if not isinstance(value, str):
            raise ValueError(f"{path}, line {line}: the {what} is no text but {value!r:.40}")
        if not value.strip():
            raise ValueError(f"{path}, line {line}: the {what} is empty")
    return Entry(label.strip(), text)


# ----- choosing ---------------------------------------------------------------------------------------------------


def labels_of(path: Path, entries: Sequence[Entry]) -> list[str]:
    """The labels in alphabetical order; a ValueError where there is but one, or nearly as many as entries."""
    labels = sorted({entry.label for entry in entries})
    if len(labels) < 2:
        raise ValueError(f"{path} has one label alone, {labels[0]!r}: there is nothing to tell apart")
    if len(labels) > max(2, len(entries) // 2):
        raise ValueError(
            f"{path} has {len(labels)} labels in {len(entries)} entries: name the right column with --label-column"
        )
    return labels


def balanced(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """As many entries of every label as the rarest has, drawn as pandas' sample(n, random_state=seed) does.

    The more frequent labels come first, each in its drawn order, then the rarest as it stood.
    """
    groups: dict[str, list[Entry]] = {label: [] for label, _ in Counter(e.label for e in entries).most_common()}
    for entry in entries:
        groups[entry.label].append(entry)
    fewest = min(map(len, groups.values()))
    return [
        group[int(i)]
        for group in groups.values()
        for i in (range(fewest) if len(group) == fewest else sample_rows(len(group), fewest, seed))
    ]


def split(entries: Sequence[Entry], seed: int) -> dict[str, list[Entry]]:
    """Shuffled (pandas' sample(frac=1, random_state=seed)) and cut at int(0.7 n) and int(0.7 n) + int(0.1 n)."""
    shuffled = [entries[int(i)] for i in sample_rows(len(entries), len(entries), seed)]
    first = int(SHARES[0] * len(entries))
    second = first + int(SHARES[1] * len(entries))
    parts = {"train": shuffled[:first], "validation": shuffled[first:second], "test": shuffled[second:]}
    for name, part in parts.items():
        if not part:
            raise ValueError(f"{len(entries)} entries are too few to split: none is left for the {name} part")
    return parts


def write(path: Path, entries: Sequence[Entry]) -> None:
    """As JSON lines, which `read` reads."""
    lines = (json.dumps(entry._asdict(), ensure_ascii=False) for entry in entries)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
