"""Text to token ids and back. Four tokenizers, one protocol.

| name | class           | a token is                          | unknown text             | vocabulary       |
|------|-----------------|-------------------------------------|--------------------------|------------------|
| word | `WordTokenizer` | a word or a punctuation mark        | `<|unk|>`, or an error   | the text's words |
| char | `CharTokenizer` | a character                         | an error                 | its characters   |
| bpe  | `BPETokenizer`  | a byte string found by pair merging | none: every byte has one | of any size      |
| gpt2 | `gpt2()`        | the same, by GPT-2's merges         | none                     | 50,257           |

Code that uses a tokenizer relies on the protocol `Tokenizer` alone. Text is never normalised (case, Unicode
forms): what is encoded is what is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .base import END_OF_TEXT, StreamDecoder, Tokenizer, chunks, read_fields
from .bpe import GPT2_PATTERN, BPETokenizer, gpt2
from .simple import CharTokenizer, WordTokenizer

__all__ = [
    "END_OF_TEXT",
    "GPT2_PATTERN",
    "BPETokenizer",
    "CharTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "WordTokenizer",
    "create",
    "gpt2",
    "load",
]

NAMES = ("word", "char", "bpe", "gpt2")
_CLASSES = {cls.kind: cls for cls in (WordTokenizer, CharTokenizer, BPETokenizer)}


def create(name: str, text: str | Iterable[str], vocab_size: int = 4096) -> Tokenizer:
    """A new tokenizer of the given kind for `text`, which may be given in pieces of any length.

    `name` is one of "word", "char", "bpe", "gpt2"; ValueError for others. `vocab_size` is the size that "bpe"
    trains to; "word" and "char" take theirs from the text, and "gpt2" ignores both. "word" has `<|unk|>`;
    "char" can encode only characters of `text`, so give it training and validation text together.
    """
    if name == "word":
        return WordTokenizer.train(text, unknown=True)
    if name == "char":
        return CharTokenizer.train(text)
    if name == "bpe":
        return BPETokenizer.train(chunks(text), vocab_size)
    if name == "gpt2":
        return gpt2()
    raise ValueError(f"no tokenizer is called {name!r}: choose one of {', '.join(NAMES)}")


def load(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer that `save` wrote to `path`.

    OSError where the file cannot be read; ValueError, which names the file and the fault, where it is not what
    `save` of this or an earlier version writes.
    """
    fields = read_fields(path)
    kind = fields.pop("type", None)
    try:
        if not isinstance(kind, str) or kind not in _CLASSES:
            raise ValueError(f"its type is {kind!r}, not one of {', '.join(_CLASSES)}")
        return _CLASSES[kind].from_fields(fields)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} is not a usable tokenizer file: {error!s:.600}") from None
