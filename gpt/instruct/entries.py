"""Entries: what is asked, what is expected, and the text that both become.

What is refused: a file that is not JSON, and an entry that lacks a field, asks nothing or answers nothing.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..tokenizer.base import check_text

Entry = Mapping[str, str]  # instruction, input ("" where there is none), output
FIELDS = ("instruction", "input", "output")


# ----- prompts ----------------------------------------------------------------------------------------------------


def format_alpaca(entry: Entry) -> str:
    """The prompt of Stanford's Alpaca up to the answer's header; the input, if there is any, has a header too."""
    about = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    asked = f"\n\n### Input:\n{entry['input']}" if entry.get("input") else ""
    return f"{about}\n\n### Instruction:\n{entry['instruction']}{asked}"


def format_phi3(entry: Entry) -> str:
    """The shorter prompt in the style of Phi-3, up to the answer's header; the input is a line of its own."""
    asked = f"\n{entry['input']}" if entry.get("input") else ""
    return f"<|user|>\n{entry['instruction']}{asked}"


class Style(NamedTuple):
    """A form of text: how it asks, and the header that the answer follows."""

    format: Callable[[Entry], str]
    answer: str

    def prompt(self, entry: Entry) -> str:
        """All of an entry's text that comes before its answer."""
        return self.format(entry) + self.answer


STYLES = {
    "alpaca": Style(format_alpaca, "\n\n### Response:\n"),
    "phi3": Style(format_phi3, "\n<|assistant|>:\n"),
}


# ----- entries ----------------------------------------------------------------------------------------------------


def read_entries(path: str | os.PathLike, also: Sequence[str] = ()) -> list[dict[str, str]]:
    """The entries of a JSON file (one list) or of JSON lines (one entry a line), as {instruction, input, output}.

    `input` may be left out; other fields are dropped, but for those that `also` names. A ValueError says in one
    sentence what is wrong where: the line and column of what is no JSON, the number of an entry (from 1) that is none.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}"
        ) from None
    values = _parse(path, text)
    if not values:
        raise ValueError(f"{path} has no entries: there is nothing to learn from it")
    return [_checked(path, number, value, also) for number, value in enumerate(values, 1)]


def _parse(path: Path, text: str) -> list[Any]:
    """The values of one JSON list, or of one JSON value a line; which it is, the first character says."""
    if text.lstrip()[:1] == "[":
        return list(_json(path, text, 0))
    lines = [(number, line) for number, line in enumerate(text.split("\n")) if line.strip()]
    return [_json(path, line, number) for number, line in lines]


def _json(path: Path, text: str, lines_before: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno + lines_before}, column {error.colno}"
        raise ValueError(f"{path} is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON that can be read: it nests too deeply") from None


def _checked(path: Path, number: int, value: Any, also: Sequence[str]) -> dict[str, str]:
    """An entry with its fields, or a ValueError that says what it lacks."""
    where = f"{path}: entry {number}"
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object with the fields {', '.join(FIELDS)} but {json.dumps(value):.60}")
    for name in ("instruction", "output"):
        if name not in value:
            raise ValueError(f"{where} has no field {name!r}; its fields are {', '.join(value) or 'none'}")
    entry = {name: value.get(name, "") for name in FIELDS} | {name: value[name] for name in also if name in value}
    for name, content in entry.items():
        if not isinstance(content, str):
            raise ValueError(f"{where}: {name} must be a string, not {json.dumps(content):.60}")
        if name in ("instruction", "output") and not content.strip():
            raise ValueError(f"{where}: {name} is empty")
        try:
            check_text(content)
        except ValueError as error:
            raise ValueError(f"{where}: {name}: {error}") from None
    return entry


class Split(NamedTuple):
    """Three parts of a file of entries, in its order."""

    train: list[Entry]
    test: list[Entry]
    validation: list[Entry]


def split(entries: Sequence[Entry], train: float = 0.85, test: float = 0.1) -> Split:
    """The first 85 % for training, the next 10 % for testing, the rest for validation.

    The parts end at int(n * share), as in the book: 1,100 entries make 935, 110 and 55. ValueError where one would be
    empty.
    """
    first, second = int(len(entries) * train), int(len(entries) * test)
    parts = Split(list(entries[:first]), list(entries[first : first + second]), list(entries[first + second :]))
    if not all(parts):
        sizes = ", ".join(str(len(part)) for part in parts)
        raise ValueError(
            f"{len(entries)} entries make {sizes} for training, testing and validation, and none may be empty: "
            "give more entries"
        )
    return parts
