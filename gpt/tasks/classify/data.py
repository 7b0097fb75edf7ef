"""Labelled texts: read from a file, balanced, split. What classification learns from.

The file says what it is (records.py), and the columns of label and text are found by their names, or, without names, by
what they hold. What cannot be told is an error that names the choices: nothing is guessed between two.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorlite.files import naming
from tensorlite.random import sample_rows

from ...data import records
from ...data.records import Note, Records
from ...tokenizer.base import check_text

LABELS = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent")  # names of columns
TEXTS = ("text", "texts", "message", "sms", "sentence", "review", "content", "title")
SHARES = (0.7, 0.1)  # of the entries, for training and validation; the rest is for testing


class Entry(NamedTuple):
    """A text and its label."""

    label: str
    text: str


# ----- reading ----------------------------------------------------------------------------------------------------


def read(
    path: Path, label_column: str | None = None, text_column: str | None = None, note: Note | None = None
) -> list[Entry]:
    """The entries of a file, in its order. Columns are named as in the file, or by their number from 1.

    `note` takes a sentence for each entry that cannot be used and is left out, up to a tenth of them. OSError where the
    file cannot be read; ValueError, in one sentence with the line, where it is empty, not UTF-8, damaged, its columns
    cannot be told apart, or, without `note`, an entry cannot be used.
    """
    found = records.read(path, (*LABELS, *TEXTS), [name for name in (label_column, text_column) if name])
    label, text = _columns(found, label_column, text_column)
    found = _without_line_of_names(found, label)
    return records.usable(found, lambda fields: _entry(fields, label, text), note)


def _columns(found: Records, label: str | None, text: str | None) -> tuple[str, str]:
    """Which column is the label and which the text: as named, by well-known names, or, of two, by their variety."""
    path, names = found.path, found.names
    label, text = _by_name_or_number(found, "label", label), _by_name_or_number(found, "text", text)
    label = label or next((name for name in names if name.lower() in LABELS and name != text), None)
    text = text or next((name for name in names if name.lower() in TEXTS and name != label), None)
    if len(names) == 2 and not (label and text):
        values = {
            name: {str(r.fields.get(name)) for r in found.records if isinstance(r.fields, dict)} for name in names
        }
        fewest = min(names, key=lambda name: len(values[name]))
        label = label or (fewest if text is None else next(name for name in names if name != text))
        text = text or next(name for name in names if name != label)
    if names and not (label and text):
        what = "text" if label else "label"
        shown = "" if found.named else f"; its first line is {' | '.join(found.records[0].fields.values())!r:.60}"
        raise ValueError(f"{path}: which column is the {what}? Say --{what}-column and one of {_listed(names)}{shown}")
    if label and label == text:
        raise ValueError(f"{path}: label and text are both {label!r:.80}: name two columns")
    return label or "", text or ""


def _by_name_or_number(found: Records, what: str, name: str | None) -> str | None:
    if name is None or name in found.names:
        return name
    if name.isdecimal() and 1 <= int(name) <= len(found.names):
        return found.names[int(name) - 1]
    raise ValueError(f"{found.path} has no column {name!r:.80} for the {what}: its columns are {_listed(found.names)}")


def _listed(names: Sequence[str]) -> str:
    return (
        ", ".join(f"{name:.60}" for name in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        or "none"
    )


def _without_line_of_names(found: Records, label: str) -> Records:
    """Without a first line whose names are not known: its "label" is nowhere else, while those of the others recur."""
    if found.named or len(found.records) < 3:
        return found
    first, *others = found.records
    labels = {record.fields[label].strip() for record in others}
    if first.fields[label].strip() in labels:
        return found
    if len(labels) == len(others):
        raise ValueError(
            f"{found.path} has {len(labels) + 1} labels in {len(labels) + 1} entries: name the right column with "
            "--label-column, or, if the first line names the columns, call them label and text there"
        )
    names = " and ".join(repr(value) for value in first.fields.values())
    note = f"{found.path}, {first.where} is read as the names of the columns, {names:.120}, and not as an entry"
    return found._replace(records=others, notes=[*found.notes, note])


def _entry(fields: Mapping[str, Any], *columns: str) -> Entry:
    values = []
    for what, column in zip(("label", "text"), columns, strict=True):
        if column not in fields:
            raise ValueError(f"the entry has no {what}: no field {column!r:.80} among {_listed(list(fields))}")
        value = fields[column]
        if what == "label" and isinstance(value, bool | int):
            value = str(value)  # 0 and 1 are labels in many a JSON file
        if not isinstance(value, str):
            raise ValueError(f"the {what} is not a string but {json.dumps(value):.40}")
        if not value.strip():
            raise ValueError(f"the {what} is empty")
        values.append(check_text(value))
    label, text = values
    return Entry(label.strip(), text)


# ----- choosing ---------------------------------------------------------------------------------------------------


def labels_of(path: Path, entries: Sequence[Entry]) -> list[str]:
    """The labels in alphabetical order; a ValueError where there is only one, or nearly as many as entries."""
    labels = sorted({entry.label for entry in entries})
    if len(labels) < 2:
        raise ValueError(f"{path} has one label alone, {labels[0]!r:.60}: there is nothing to tell apart")
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


def unique(entries: Sequence[Entry]) -> tuple[list[Entry], int]:
    """The first entry of each text, in their order; and how many of the others have another label than it."""
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(entry.text, entry)
    return list(first.values()), sum(first[entry.text].label != entry.label for entry in entries)


def repeated(parts: Mapping[str, Sequence[Entry]]) -> dict[str, list[bool]]:
    """For each part, of which of its entries the text is also, word for word, in a part before it."""
    seen: set[str] = set()
    found = {}
    for name, entries in parts.items():
        found[name] = [entry.text in seen for entry in entries]
        seen |= {entry.text for entry in entries}
    return found


def write(path: Path, entries: Sequence[Entry]) -> None:
    """As JSON lines, which `read` reads."""
    lines = (json.dumps(entry._asdict(), ensure_ascii=False) for entry in entries)
    with naming(path):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
