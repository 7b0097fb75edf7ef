"""Entries to token ids, and to batches of inputs and targets.

What is refused: an entry that does not fit the context, and a tokenizer that has no way to end an answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

import tensorlite as tl
from tensorlite import Tensor

from ...model import GPT
from ...tokenizer import END_OF_TEXT, CharTokenizer, Tokenizer
from .data import STYLES, Entry


class Encoded(NamedTuple):
    """An entry as token ids, without an end: what collate makes batches of."""

    prompt: int  # how many of the ids are the prompt, the answer's header included
    ids: list[int]


def encode(entry: Entry, tokenizer: Tokenizer, style: str = "alpaca") -> Encoded:
    """The whole text of an entry, answer included; special tokens in it are text.

    ValueError for text that the tokenizer does not know.
    """
    prompt = STYLES[style].prompt(entry)
    ids = tokenizer.encode_ordinary(prompt + entry["output"])
    return Encoded(_shared(tokenizer.encode_ordinary(prompt), ids), ids)


def _shared(prompt: list[int], ids: list[int]) -> int:
    """How many ids both begin with: a pair of bytes may span the place where the answer begins."""
    return next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids)))


def encode_all(
    entries: Iterable[Entry], tokenizer: Tokenizer, style: str = "alpaca", context_length: int | None = None
) -> list[Encoded]:
    """Each entry encoded; ValueError where some, with their end of text, are longer than the context."""
    texts, long = [], []
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


def conversations(texts: Sequence[Encoded], end: int, turns: int, context_length: int, seed: int = 0) -> list[Encoded]:
    """Each text behind up to `turns` - 1 others, as a chat shows them: whole, an `end` behind each, as far as they fit.

    All that comes before the text's own answer is its prompt then. How many and which is drawn from `seed`.
    """
    random = Random(seed)
    chained = []
    for text in texts:
        past: list[int] = []
        for _ in range(random.randrange(turns)):
            earlier = [*random.choice(texts).ids, end]
            if len(past) + len(earlier) + len(text.ids) <= context_length:
                past += earlier
        chained.append(Encoded(len(past) + text.prompt, past + text.ids))
    return chained


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
    What `encode` makes counts the answer's header ("### Response:") as prompt. The book's exercise 7.2 does not: for
    that, give Encoded(n, ids) with n the number of ids of `format_alpaca(entry)`. At last both are cut to
    `allowed_max_length`.
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
    grown = GPT(replace(model.config, vocab_size=wider.vocab_size)).to(model.token_embedding.weight.device)
    for (_, p), (_, old) in zip(grown.named_parameters(), model.named_parameters(), strict=True):
        p.data[: len(old)] = old.data
        p.changed()
    return grown, wider
