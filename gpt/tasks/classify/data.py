"""Labelled texts, the data of classification: read from a file, balanced, split.

The format of the file is detected (gpt/data/records.py). The columns of label and text are found by their names or, in
a file without names, by their content. Where that is ambiguous, the error lists the columns: nothing is guessed.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorlite.files import naming
from tensorlite.random import sample_rows

from ...config import listed
from ...data import records
from ...data.records import Note, Records
from ...tokenizer.base import check_text

LABELS = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent")  # names of columns
TEXTS = ("text", "texts", "message", "sms", "sentence", "review", "content", "title")
SHARES = (0.7, 0.1)  # of the entries, for training and validation; the rest is the test part


class Entry(NamedTuple):
    """A text and its label."""

    label: str
    text: str


# ----- reading ----------------------------------------------------------------------------------------------------


def read(
    path: Path, label_column: str | None = None, text_column: str | None = None, note: Note | None = None
) -> list[Entry]:
    """The entries of a file, in its order. Columns are named as in the file, or by their number from 1.

    Up to a tenth of the entries may be unusable: they are left out, and `note` is called with a sentence for each.
    OSError where the file cannot be read. ValueError, one sentence with the line, where it is empty, not UTF-8 or
    damaged, where it is unclear which column is which, or, without `note`, where an entry cannot be used.
    """
    found = records.read(path, (*LABELS, *TEXTS), [name for name in (label_column, text_column) if name])
    label, text = _columns(found, label_column, text_column)
    found = _without_header(found, label)
    return records.usable(found, lambda fields: _entry(fields, label, text), note)


def _columns(found: Records, label: str | None, text: str | None) -> tuple[str, str]:
    """The names of the columns of label and text.

    As given, else by well-known names; of two other columns, the one with fewer distinct values is the label.
    """
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
        raise ValueError(
            f"{path}: which column is the {what}? Say --{what}-column and one of {listed(names, 12, 60)}{shown}"
        )
    if label and label == text:
        raise ValueError(f"{path}: label and text are both {label!r:.80}: name two columns")
    return label or "", text or ""


def _by_name_or_number(found: Records, what: str, name: str | None) -> str | None:
    if name is None or name in found.names:
        return name
    if name.isdecimal() and 1 <= int(name) <= len(found.names):
        return found.names[int(name) - 1]
    columns = listed(found.names, 12, 60) or "none"
    raise ValueError(f"{found.path} has no column {name!r:.80} for the {what}: its columns are {columns}")


def _without_header(found: Records, label: str) -> Records:
    """`found` without its first line, if that is a header of unknown names: no other line has its "label"."""
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
    note = f"{found.path}, {first.where} is read as the names of the columns, {names:.120}, not as an entry"
    return found._replace(records=others, notes=[*found.notes, note])


def _entry(fields: Mapping[str, Any], *columns: str) -> Entry:
    values = []
    for what, column in zip(("label", "text"), columns, strict=True):
        if column not in fields:
            raise ValueError(
                f"the entry has no {what}: no field {column!r:.80} among {listed(list(fields), 12, 60) or 'none'}"
            )
        value = fields[column]
        if what == "label" and isinstance(value, bool | int):
            value = str(value)  # 0 and 1 are labels in many JSON files
        if not isinstance(value, str):
            raise ValueError(f"the {what} is not a string but {json.dumps(value):.40}")
        if not value.strip():
            raise ValueError(f"the {what} is empty")
        values.append(check_text(value))
    label, text = values
    return Entry(label.strip(), text)


# ----- choosing ---------------------------------------------------------------------------------------------------


def labels_of(path: Path, entries: Sequence[Entry]) -> list[str]:
    """The labels in alphabetical order; a ValueError where there is only one, or nearly as many labels as entries."""
    labels = sorted({entry.label for entry in entries})
    if len(labels) < 2:
        raise ValueError(f"{path} has only one label, {labels[0]!r:.60}: there is nothing to classify")
    if len(labels) > max(2, len(entries) // 2):
        raise ValueError(
            f"{path} has {len(labels)} labels in {len(entries)} entries: name the right column with --label-column"
        )
    return labels


def balanced(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """As many entries of each label as the rarest label has, sampled as by pandas' sample(n, random_state=seed).

    More frequent labels come first, their entries in the order of sampling; those of the rarest keep their order.
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
    """The parts "train", "validation" and "test": 70 %, 10 % and 20 % of the shuffled entries.

    Shuffled as by pandas' sample(frac=1, random_state=seed), and cut at int(0.7 n) and int(0.7 n) + int(0.1 n).
    ValueError where a part would be empty.
    """
    shuffled = [entries[int(i)] for i in sample_rows(len(entries), len(entries), seed)]
    first = int(SHARES[0] * len(entries))
    second = first + int(SHARES[1] * len(entries))
    parts = {"train": shuffled[:first], "validation": shuffled[first:second], "test": shuffled[second:]}
    for name, part in parts.items():
        if not part:
            raise ValueError(f"{len(entries)} entries are too few to split: none is left for the {name} part")
    return parts


def unique(entries: Sequence[Entry]) -> tuple[list[Entry], int]:
    """The first entry of each text, in order; and how many of the others have another label than the first."""
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(entry.text, entry)
    return list(first.values()), sum(first[entry.text].label != entry.label for entry in entries)


def repeated(parts: Mapping[str, Sequence[Entry]]) -> dict[str, list[bool]]:
    """For each part, which of its entries have a text that is also, verbatim, in an earlier part."""
    seen: set[str] = set()
    found = {}
    for name, entries in parts.items():
        found[name] = [entry.text in seen for entry in entries]
        seen |= {entry.text for entry in entries}
    return found


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Write the entries as JSON lines, which `read` reads."""
    lines = (json.dumps(entry._asdict(), ensure_ascii=False) for entry in entries)
    with naming(path):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
