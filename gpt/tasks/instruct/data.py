"""Instruction data: entries of {instruction, input, output}, and the prompt formats that make texts of them."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorlite.files import naming

from ...data import records
from ...data.records import Note
from ...tokenizer.base import check_text

Entry = Mapping[str, str]  # instruction, input ("" where there is none), output
FIELDS = ("instruction", "input", "output")


# ----- prompts ----------------------------------------------------------------------------------------------------


def format_alpaca(entry: Entry) -> str:
    """The prompt of Stanford's Alpaca, without the header of the response; an input has a header of its own."""
    about = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    asked = f"\n\n### Input:\n{entry['input']}" if entry.get("input") else ""
    return f"{about}\n\n### Instruction:\n{entry['instruction']}{asked}"


def format_phi3(entry: Entry) -> str:
    """A shorter prompt in the format of Phi-3, without the header of the response; an input is a line of its own."""
    asked = f"\n{entry['input']}" if entry.get("input") else ""
    return f"<|user|>\n{entry['instruction']}{asked}"


class Style(NamedTuple):
    """A prompt format: how an entry becomes a prompt, and the header that comes before the response."""

    format: Callable[[Entry], str]
    response_header: str

    def prompt(self, entry: Entry) -> str:
        """An entry's text up to its response."""
        return self.format(entry) + self.response_header


STYLES = {
    "alpaca": Style(format_alpaca, "\n\n### Response:\n"),
    "phi3": Style(format_phi3, "\n<|assistant|>:\n"),
}


# ----- entries ----------------------------------------------------------------------------------------------------


def read_entries(
    path: str | os.PathLike[str], also: Sequence[str] = (), note: Note | None = None
) -> list[dict[str, str]]:
    """The entries of a file, in its order, as {instruction, input, output}.

    The file is JSON (a list, or a list in an object), JSON lines, or a table whose first line names its columns.
    `input` may be missing or null; other fields are dropped, except those in `also`. Up to a tenth of the entries may
    be unusable (an instruction or output that is missing or empty): they are left out, and `note` is called with a
    sentence for each. OSError where the file cannot be read; ValueError, one sentence with the line, where it is
    damaged or, without `note`, where an entry cannot be used.
    """
    found = records.read(path, FIELDS)
    if not found.named:
        raise ValueError(
            f"{path} is neither JSON nor a table whose first line names the columns: its fields must be "
            f"{', '.join(FIELDS)}"
        )
    return records.usable(found, lambda fields: _checked(fields, also), note)


def _checked(fields: Mapping[str, Any], also: Sequence[str]) -> dict[str, str]:
    """The fields as an entry, or a ValueError that says what is wrong with them."""
    for name in ("instruction", "output"):
        if name not in fields:
            raise ValueError(f"the entry has no field {name!r}; its fields are {', '.join(fields) or 'none':.120}")
    entry = {name: fields.get(name, "") for name in FIELDS} | {name: fields[name] for name in also if name in fields}
    if entry["input"] is None:
        entry["input"] = ""
    for name, content in entry.items():
        if not isinstance(content, str):
            raise ValueError(f"{name} must be a string, not {json.dumps(content):.60}")
        if name in ("instruction", "output") and not content.strip():
            raise ValueError(f"{name} is empty")
        try:
            check_text(content)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return entry


class Split(NamedTuple):
    """Three parts of a file of entries, in the order of the file."""

    train: list[Entry]
    test: list[Entry]
    validation: list[Entry]


def split(entries: Sequence[Entry], train: float = 0.85, test: float = 0.1) -> Split:
    """The first 85 % for training, the next 10 % for testing, the rest for validation.

    The parts have int(n * share) entries, as in the book: 1,100 make 935, 110 and 55. ValueError for an empty part.
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


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Write the entries as JSON lines, which `read_entries` reads."""
    rows = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    with naming(path):
        path.write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
