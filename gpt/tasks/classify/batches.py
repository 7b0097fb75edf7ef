"""Texts as token ids, and as padded batches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorlite as tl
from tensorlite import Tensor

from ...tokenizer import END_OF_TEXT, Tokenizer
from ..length_batches import length_batches


class Row(NamedTuple):
    """One text for the model."""

    ids: list[int]  # cut to the maximum length, not padded
    label: int


class Padding(NamedTuple):
    """The padding of rows in a batch: with `id` to `length`, or to the longest row where padding has no influence."""

    id: int
    length: int
    matters: bool

    def batches(self, rows: Sequence[Row], size: int) -> Iterator[list[int]]:
        """The numbers of the rows in batches of similar length, each of at most as many tokens as `size` rows have."""
        lengths = [len(row.ids) for row in rows]
        return length_batches(lengths, size * self.length, self.length if self.matters else None)

    def batch(self, rows: Sequence[Row]) -> tuple[Tensor, list[int], Tensor]:
        """Token ids (B, T), the lengths of the texts, labels (B)."""
        lengths = [len(row.ids) for row in rows]
        T = self.length if self.matters else max(lengths)
        idx = tl.tensor([row.ids + [self.id] * (T - len(row.ids)) for row in rows])
        return idx, lengths, tl.tensor([row.label for row in rows])


def padding_of(description: Mapping[str, Any]) -> Padding:
    """The Padding of a run, read from its config.json.

    Padding matters where the label is read from it, and where positions attend to those that come after them.
    """
    settings = description["training"]
    matters = settings["position"] == "last" or not settings["causal"]
    return Padding(description["padding"], description["length"], matters)


def padding_token(tokenizer: Tokenizer) -> int:
    """The id of the end of text; a ValueError for a tokenizer without one."""
    id = tokenizer.special_tokens.get(END_OF_TEXT)
    if id is None:
        raise ValueError(
            f"the run's tokenizer has no {END_OF_TEXT} to pad texts with: start from a run with a bpe, word or gpt2 "
            "tokenizer"
        )
    return id


def encode(tokenizer: Tokenizer, text: str, length: int | None = None) -> list[int]:
    """The token ids of a text, at least one and at most `length`; special tokens in it are read as ordinary text."""
    ids = tokenizer.encode_ordinary(text)
    if not ids:
        raise ValueError(f"the text {text!r} has no tokens: give some text")
    return ids[:length]
