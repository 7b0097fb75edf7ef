"""Entries as token ids, and as batches of inputs and targets."""

from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

import tensorlite as tl
from tensorlite import Tensor

from ...tokenizer import Tokenizer
from .data import STYLES, Entry


class Encoded(NamedTuple):
    """An entry as token ids, without an end of text: `collate` makes batches of these."""

    prompt_length: int  # how many of the ids are the prompt, including the header of the response
    ids: list[int]


def encode(entry: Entry, tokenizer: Tokenizer, style: str = "alpaca") -> Encoded:
    """The whole text of an entry, with its output; special tokens in it are read as ordinary text.

    ValueError for text that the tokenizer cannot encode.
    """
    prompt = STYLES[style].prompt(entry)
    ids = tokenizer.encode_ordinary(prompt + entry["output"])
    return Encoded(_common_prefix(tokenizer.encode_ordinary(prompt), ids), ids)


def _common_prefix(prompt: list[int], ids: list[int]) -> int:
    """The number of equal leading ids: a token may contain the end of the prompt and the start of the response."""
    return next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids)))


def encode_all(
    entries: Iterable[Entry], tokenizer: Tokenizer, style: str = "alpaca", context_length: int | None = None
) -> list[Encoded]:
    """Each entry encoded; ValueError where some, with their end of text, are longer than the context."""
    texts: list[Encoded] = []
    long: list[tuple[int, Entry, int]] = []
    for number, entry in enumerate(entries, 1):
        try:
            text = encode(entry, tokenizer, style)
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
        if context_length is not None and len(text.ids) > context_length:
            long.append((number, entry, len(text.ids)))
        texts.append(text)
    if long:
        number, entry, size = long[0]
        raise ValueError(
            f"{len(long):,} of {len(texts):,} entries are longer than the context of {context_length} tokens, the "
            f"first of them entry {number} ({entry['instruction']:.40}) with {size:,}: --max-length {context_length} "
            "cuts them, and a model with a longer context can read them whole"
        )
    return texts


def chain_turns(texts: Sequence[Encoded], end: int, turns: int, context_length: int, seed: int = 0) -> list[Encoded]:
    """Each text after 0 to `turns` - 1 randomly chosen other texts, as in a chat of several turns.

    Each earlier text is followed by `end`, and left out if it does not fit the context. Everything before the text's
    own response counts as its prompt. The choice is drawn from `seed`.
    """
    random = Random(seed)
    chained = []
    for text in texts:
        past: list[int] = []
        for _ in range(random.randrange(turns)):
            earlier = [*random.choice(texts).ids, end]
            if len(past) + len(earlier) + len(text.ids) <= context_length:
                past += earlier
        chained.append(Encoded(len(past) + text.prompt_length, past + text.ids))
    return chained


def collate(
    batch: Sequence[Sequence[int] | Encoded],
    pad: int = 50256,
    ignore_index: int = -100,
    allowed_max_length: int | None = None,
    mask_instruction: bool = False,
) -> tuple[Tensor, Tensor]:
    """Texts of token ids -> inputs (B, T) and targets (B, T), int64; T is the length of the longest text.

    One `pad` is appended to each text, and then pads up to the longest; inputs are all ids except the last, targets all
    except the first. The first pad in a row's targets stays, so that the model learns to end; those after it become
    `ignore_index`. With `mask_instruction` so do all targets that are part of the prompt; that needs Encoded, which
    know its length. `encode` counts the header of the response ("### Response:") as prompt. The book's exercise 7.2
    does not: for that, give Encoded(n, ids) with n the number of ids of `format_alpaca(entry)`. Finally both are cut
    to `allowed_max_length`.

    ValueError for an empty batch; TypeError for `mask_instruction` without Encoded.
    """
    rows = [item.ids if isinstance(item, Encoded) else list(item) for item in batch]
    if not rows:
        raise ValueError("an empty batch: give at least one text")
    if mask_instruction and not all(isinstance(item, Encoded) for item in batch):
        raise TypeError("mask_instruction needs the length of the prompt: give Encoded(prompt_length, ids)")
    width = max(map(len, rows))
    inputs, targets = [], []
    for item, ids in zip(batch, rows, strict=True):
        ids = [*ids, pad]
        target = ids[1:] + [ignore_index] * (width + 1 - len(ids))
        if mask_instruction and isinstance(item, Encoded):
            hidden = max(item.prompt_length - 1, 0)
            target = [ignore_index] * hidden + target[hidden:]
        inputs.append((ids + [pad] * width)[:width][:allowed_max_length])
        targets.append(target[:allowed_max_length])
    return tl.tensor(inputs, tl.int64), tl.tensor(targets, tl.int64)
