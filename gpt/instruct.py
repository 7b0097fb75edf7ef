"""Instructions: the second fine-tuning task. Entries in, a model that answers out.

One idea: an instruction, an optional input and the expected answer are one text in a fixed form, and what follows the
form's last header is the answer. Training is next-token prediction on such texts; asking is to write all but the
answer and let the model go on until it writes the end of text.

What it refuses: entries that lack a field, ask nothing or answer nothing, and entries that do not fit the context.
Semantics: Raschka, "Build a Large Language Model (From Scratch)", chapter 7.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import tensorlite as tl
from tensorlite import Tensor

from .generate import stream
from .model import GPT
from .tokenizer import END_OF_TEXT, CharTokenizer, Tokenizer

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


def read_entries(path: str | os.PathLike) -> list[dict[str, str]]:
    """The entries of a JSON file (one list) or of JSON lines (one entry a line), as {instruction, input, output}.

    `input` may be left out; other fields are dropped. A ValueError says in one sentence what is wrong where: the line
    and column of what is no JSON, the number of an entry (from 1) that is not one.
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
    return [_checked(path, number, value) for number, value in enumerate(values, 1)]


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


def _checked(path: Path, number: int, value: Any) -> dict[str, str]:
    """An entry with its three fields, or a ValueError that says what it lacks."""
    where = f"{path}: entry {number}"
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object with the fields {', '.join(FIELDS)} but {json.dumps(value):.60}")
    for name in ("instruction", "output"):
        if name not in value:
            raise ValueError(f"{where} has no field {name!r}; its fields are {', '.join(value) or 'none'}")
    entry = {name: value.get(name, "") for name in FIELDS}
    for name, content in entry.items():
        if not isinstance(content, str):
            raise ValueError(f"{where}: {name} must be a string, not {json.dumps(content):.60}")
        if name != "input" and not content.strip():
            raise ValueError(f"{where}: {name} is empty")
    return entry


def split(entries: Sequence[Entry], train: float = 0.85, test: float = 0.1) -> tuple[list, list, list]:
    """(training, validation, test) entries in their order: the first 85 %, then 10 % for testing, and the rest.

    Cut points are int(n * share), as in the book: 1,100 entries make 935, 55 and 110. ValueError where a part would be
    empty.
    """
    first, second = int(len(entries) * train), int(len(entries) * test)
    parts = list(entries[:first]), list(entries[first + second :]), list(entries[first : first + second])
    if not all(parts):
        sizes = ", ".join(str(len(part)) for part in parts)
        raise ValueError(
            f"{len(entries)} entries make {sizes} for training, validation and testing, and none may be empty: "
            "give more entries"
        )
    return parts


# ----- texts to batches -------------------------------------------------------------------------------------------


class Encoded(NamedTuple):
    """An entry as token ids, without an end: what collate makes batches of."""

    prompt: int  # how many of the ids are the prompt, the answer's header included
    ids: list[int]


def encode(entry: Entry, tokenizer: Tokenizer, style: str = "alpaca") -> Encoded:
    """The whole text of an entry, answer included. ValueError for text that the tokenizer does not know."""
    prompt = STYLES[style].prompt(entry)
    ids = tokenizer.encode(prompt + entry["output"])
    return Encoded(_shared(tokenizer.encode(prompt), ids), ids)


def _shared(prompt: list[int], ids: list[int]) -> int:
    """How many ids both begin with: a pair of bytes may span the place where the answer begins."""
    return next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids)))


def encode_all(
    entries: Iterable[Entry], tokenizer: Tokenizer, style: str = "alpaca", context_length: int | None = None
) -> list[Encoded]:
    """Each entry encoded; ValueError for one that, with its end of text, is longer than the context."""
    texts = []
    for number, entry in enumerate(entries, 1):
        try:
            text = encode(entry, tokenizer, style)
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
        if context_length is not None and len(text.ids) > context_length:
            raise ValueError(
                f"entry {number} ({entry['instruction']:.40}) takes {len(text.ids)} tokens and the context has "
                f"{context_length}: shorten or remove it, cut with max_length, or use a model with a longer context"
            )
        texts.append(text)
    return texts


def collate(
    batch: Sequence[Sequence[int] | Encoded],
    pad: int = 50256,
    ignore_index: int = -100,
    allowed_max_length: int | None = None,
    mask_instruction: bool = False,
) -> tuple[Tensor, Tensor]:
    """Texts of token ids -> inputs (B, T) and targets (B, T), int64; T the longest text's length.

    Each text is padded by one `pad` and then to the longest; inputs are all but the last id, targets all but the first.
    The first pad in a row's targets stays, so that the model learns to end; those behind it become `ignore_index`. With
    `mask_instruction` so do all targets that are part of the prompt: that asks for Encoded, which know where it ends.
    At last both are cut to `allowed_max_length`.
    """
    rows = [item.ids if isinstance(item, Encoded) else list(item) for item in batch]
    if not rows:
        raise ValueError("an empty batch: give at least one text")
    if mask_instruction and not all(isinstance(item, Encoded) for item in batch):
        raise TypeError("mask_instruction: bare ids do not say where the prompt ends: give Encoded(prompt, ids)")
    width = max(map(len, rows))
    inputs, targets = [], []
    for item, ids in zip(batch, rows, strict=True):
        ids = [*ids, pad]
        wanted = ids[1:] + [ignore_index] * (width + 1 - len(ids))
        if mask_instruction and isinstance(item, Encoded):
            hidden = max(item.prompt - 1, 0)
            wanted = [ignore_index] * hidden + wanted[hidden:]
        inputs.append((ids + [pad] * width)[:width][:allowed_max_length])
        targets.append(wanted[:allowed_max_length])
    return tl.tensor(inputs, tl.int64), tl.tensor(targets, tl.int64)


# ----- the end of a text ------------------------------------------------------------------------------------------


def with_end_of_text(model: GPT, tokenizer: Tokenizer) -> tuple[GPT, Tokenizer]:
    """Model and tokenizer that know the end of text: the same where they do, else with one token more.

    Characters have no such token. It becomes the last id, and its row of the embedding (and of the head) is drawn as
    those of a new model; all other weights are the same. ValueError for another tokenizer without an end.
    """
    if END_OF_TEXT in tokenizer.special_tokens:
        return model, tokenizer
    if not isinstance(tokenizer, CharTokenizer):
        raise ValueError(f"{tokenizer} has no {END_OF_TEXT} token, and so no way to end an answer: use bpe or char")
    wider = CharTokenizer(tokenizer.characters, special_tokens=(END_OF_TEXT,))
    grown = GPT(replace(model.config, vocab_size=wider.vocab_size))
    for (_, p), (_, old) in zip(grown.named_parameters(), model.named_parameters(), strict=True):
        p.data[: len(old)] = old.data
        p.changed()
    return grown, wider


# ----- answers ----------------------------------------------------------------------------------------------------


def answers(
    model: GPT,
    tokenizer: Tokenizer,
    entries: Sequence[Entry],
    style: str = "alpaca",
    max_new_tokens: int = 256,
    batch_size: int = 16,
    **sampling: Any,
) -> Iterator[str]:
    """What the model answers to each entry, in order: to the end of text, or `max_new_tokens`; no surrounding space.

    Greedy, unless `sampling` (temperature, top_k, top_p, seed) says otherwise. Several at once are faster and give
    each the answer that it gets alone.
    """
    end = tokenizer.special_tokens[END_OF_TEXT]
    for start in range(0, len(entries), batch_size):
        prompts = [tokenizer.encode(STYLES[style].prompt(entry)) for entry in entries[start : start + batch_size]]
        texts: list[list[int]] = [[] for _ in prompts]
        for step in stream(model, prompts, max_new_tokens, stop_token=end, **sampling):
            for text, token in zip(texts, step, strict=True):
                if token is not None:
                    text.append(token)
        yield from (tokenizer.decode(text).strip() for text in texts)


def save_responses(path: str | os.PathLike, entries: Iterable[Entry], responses: Iterable[str]) -> None:
    """Write the entries, each with its "model_response", as a JSON list (the book's form)."""
    rows = [{**entry, "model_response": text} for entry, text in zip(entries, responses, strict=True)]
    Path(path).write_text(json.dumps(rows, indent=4, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
