"""Responses of a fine-tuned model to many entries: prompts without their answers in, answers out."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...generation import generate
from ...model import GPT
from ...tokenizer import END_OF_TEXT, Tokenizer
from ..length_batches import longest_first
from ..results import Results
from .data import STYLES, Entry

BATCHES = 4  # whose prompts are sorted by length: that many batches of responses are lost where one fails


def generate_responses(
    model: GPT,
    tokenizer: Tokenizer,
    entries: Sequence[Entry],
    style: str = "alpaca",
    max_new_tokens: int = 256,
    batch_size: int = 16,
    **sampling: Any,
) -> Iterator[str]:
    """The model's response to each entry, in order: up to the end of text or `max_new_tokens`, stripped.

    Greedy, unless `sampling` (temperature, top_k, top_p, seed) is given. A batch is faster than single entries,
    and each response equals the one for the entry alone. Of BATCHES batches in a row, prompts of similar length are
    answered together; then their responses follow.
    """
    end = tokenizer.special_tokens[END_OF_TEXT]
    for start in range(0, len(entries), BATCHES * batch_size):
        some = entries[start : start + BATCHES * batch_size]
        prompts = [tokenizer.encode_ordinary(STYLES[style].prompt(entry)) for entry in some]
        order = longest_first(list(map(len, prompts)))
        texts: dict[int, list[int]] = {}
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            new = generate(model, [prompts[i] for i in batch], max_new_tokens, stop_token=end, **sampling)
            texts |= zip(batch, new, strict=True)
        yield from (tokenizer.decode(texts[i]).strip() for i in range(len(some)))


def save_responses(path: str | os.PathLike[str], entries: Sequence[Entry], responses: Iterable[str]) -> list[str]:
    """Write the entries, each with its "model_response", as a JSON list (the book's format); return the responses.

    Each response is written to PATH.partial at once, so that a later failure does not lose it.
    """
    with Results(Path(path), entries, {}, overwrite=True) as results:
        for number, (_, text) in enumerate(zip(entries, responses, strict=True)):
            results.add(number, {"model_response": text})
        results.finish()
    return [row["model_response"] for row in results.rows]
