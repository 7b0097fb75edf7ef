"""Text to tokens: a tokenizer for the text, and two files of token ids, one to train on and one to validate on."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tensorlite.data import write_tokens

from .. import tokenizer as tokenizers
from ..console import bar, counted, passing
from ..fingerprint import fingerprint
from ..tokenizer import END_OF_TEXT, Tokenizer
from ..tokenizer.base import chunks
from . import corpus

PARTS = ("train", "validation")  # of the text


class Prepared(NamedTuple):
    """A prepared text; `data` and `texts` are for the run's config.json."""

    tokenizer: Tokenizer
    data: dict[str, Any]  # of each part: tokens, bytes of text, length and SHA-256 of its file
    texts: list[dict[str, Any]]  # path, length and SHA-256 of each file of text


def prepare(
    paths: Iterable[Path],
    kind: str | Tokenizer,
    vocab_size: int,
    validation: float,
    folder: Path,
    say: Callable[[str], None],
) -> Prepared:
    """Make a tokenizer of that kind, and folder/train.tokens and folder/validation.tokens of the text.

    `kind` may be a tokenizer too, which is used as it is. The text is read at most twice: for the tokenizer, and for
    encoding. The share `validation` at its end is the validation text. Only byte-pair encoding can encode text that it
    was not made for, so only its vocabulary is learned from the training text alone.
    """
    began, paths = time.monotonic(), list(paths)
    text = corpus.Text(paths)
    with bar("reading the text") as advance:
        blocks = passing(text, advance, len)
        seen = corpus.first_part(blocks, 1 - validation) if kind == "bpe" else blocks
        tokenizer = tokenizers.create(kind, seen, vocab_size) if isinstance(kind, str) else kind
        for _ in blocks:  # GPT-2's tokenizer, or one that exists, needs no text: the text is read for its length
            pass
    name = ", ".join(map(str, paths)) or "tiny Shakespeare, which comes with gpt"
    say(f"text       {name}: {counted(text.characters, 'character')}")
    cut = corpus.cut(text.characters, 1 - validation)
    data: dict[str, dict[str, Any]] = {}
    sizes = cut, text.characters - cut
    for part, size, half in zip(PARTS, sizes, corpus.halves(text, cut), strict=True):
        with bar(f"encoding the {part} text", size) as advance:
            data[part], start = encode_part(folder / f"{part}.tokens", tokenizer, passing(half, advance, len))
        if part == "train":
            data[part]["start"] = start
    counts = " + ".join(f"{data[part]['tokens']:,} {part}" for part in PARTS)
    name = kind if isinstance(kind, str) else "vocabulary"
    say(f"tokens     {name} of {tokenizer.vocab_size:,}: {counts}; {time.monotonic() - began:.1f} s")
    return Prepared(tokenizer, data, text.files)


def encode_part(path: Path, tokenizer: Tokenizer, blocks: Iterable[str]) -> tuple[dict[str, Any], list[int]]:
    """Write a part of the text as a token file; return its entry in config.json and the tokens before a new text.

    That is the end of a text, if this part has it, or else a new line. Where the tokenizer has neither
    (words, and characters of one line), it is this part's first token.
    """
    end, special = tokenizer.special_tokens.get(END_OF_TEXT), set(tokenizer.special_tokens)
    text_bytes, first, has_end = 0, list[int](), False

    def pieces() -> Iterator[list[int]]:
        nonlocal text_bytes, first, has_end
        for chunk in chunks(blocks, whole=tokenizer.special_tokens):
            ids = tokenizer.encode(chunk, special)
            text_bytes += len(chunk.encode())
            first, has_end = first or ids[:1], has_end or end in ids
            yield ids

    count = write_tokens(path, pieces(), tokenizer.vocab_size)
    start = [end] if end is not None and has_end else new_line(tokenizer) or first
    return {"tokens": count, "text_bytes": text_bytes, **fingerprint(path)}, start


def new_line(tokenizer: Tokenizer) -> list[int]:
    """The tokens of a new line, after which a text may begin; [] for a tokenizer without one."""
    try:
        return tokenizer.encode("\n")
    except ValueError:  # a character tokenizer of a text of one line
        return []
