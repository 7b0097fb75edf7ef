"""Answers: a prompt without its answer in, what the model goes on with out."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...generate import stream
from ...model import GPT
from ...tokenizer import END_OF_TEXT, Tokenizer
from ..results import Results
from .data import STYLES, Entry


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
        some = [STYLES[style].prompt(entry) for entry in entries[start : start + batch_size]]
        prompts = [tokenizer.encode_ordinary(prompt) for prompt in some]
        texts: list[list[int]] = [[] for _ in prompts]
        for step in stream(model, prompts, max_new_tokens, stop_token=end, **sampling):
            for text, token in zip(texts, step, strict=True):
                if token is not None:
                    text.append(token)
        yield from (tokenizer.decode(text).strip() for text in texts)


def save_responses(path: str | os.PathLike, entries: Sequence[Entry], responses: Iterable[str]) -> list[str]:
    """Write the entries, each with its "model_response", as a JSON list (the book's form); the responses.

    Each is written to PATH.partial as soon as it is there, and stays in it when a later one fails.
    """
    with Results(Path(path), entries, {}, overwrite=True) as results:
        for number, (_, text) in enumerate(zip(entries, responses, strict=True)):
            results.add(number, {"model_response": text})
        results.finish()
    return [row["model_response"] for row in results.rows]
