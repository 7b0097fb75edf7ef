"""The two simple tokenizers: a token is a word, or a character."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence, Set
from typing import Any, Literal

from .base import (
    END_OF_TEXT,
    UNKNOWN,
    allowed,
    check_fields,
    check_text,
    check_words,
    chunks,
    look_up,
    special_pattern,
    write_fields,
)


class WordTokenizer:
    """A word or a punctuation mark is a token (the book's chapter 2).

    Text is split at white space, at `--` and at each of `, . : ; ? _ ! " ( ) '`; white space is then
    dropped. So decode(encode(text)) has the same words but not the same spacing: `decode` joins with single
    spaces and removes the space before punctuation.

    Version 1, without special tokens: an unknown word is an error. Version 2, with `<|endoftext|>` and
    `<|unk|>` as the last two ids: it becomes `<|unk|>`. As in the book, special tokens are words like any
    other: they are encoded where they are separate words, with or without `allowed_special`.
    """

    kind = "word"

    _SPLIT = re.compile(r"([,.:;?_!\"()']|--|\s)")

    def __init__(self, words: Sequence[str], unknown: bool = False):
        """`words`: the vocabulary in the order of its ids, without the special tokens."""
        if not words:
            raise ValueError("the vocabulary is empty: a word tokenizer needs at least one word")
        check_words(words, "word")
        specials = (END_OF_TEXT, UNKNOWN) if unknown else ()
        if clash := set(specials) & set(words):
            raise ValueError(f"{min(clash)!r} is a special token: leave it out of the words")
        self.unknown = unknown
        self._words = dict(enumerate([*words, *specials]))
        self._ids = {word: id for id, word in self._words.items()}
        self._ordinary = {word: id for id, word in enumerate(words)}

    @classmethod
    def train(cls, text: str | Iterable[str], unknown: bool = False) -> WordTokenizer:
        """The sorted set of the words of `text`; `unknown=True` appends `<|endoftext|>` and `<|unk|>`."""
        words = {word for part in chunks(text) for word in cls.words(check_text(part))}
        return cls(sorted(words - ({END_OF_TEXT, UNKNOWN} if unknown else set())), unknown)

    @classmethod
    def words(cls, text: str) -> list[str]:
        """The word tokens of `text` as strings."""
        return [word for part in cls._SPLIT.split(text) if (word := part.strip())]

    @property
    def vocab_size(self) -> int:
        return len(self._words)

    @property
    def special_tokens(self) -> dict[str, int]:
        return {token: self._ids[token] for token in (END_OF_TEXT, UNKNOWN)} if self.unknown else {}

    def encode(self, text: str, allowed_special: Set[str] | Literal["all"] = frozenset()) -> list[int]:
        """The ids of the words of `text`; an unknown word is `<|unk|>`, or without it a ValueError."""
        allowed(allowed_special, self.special_tokens)
        return self._encode(text, self._ids)

    def encode_ordinary(self, text: str) -> list[int]:
        """The same, but `<|endoftext|>` is a word like others: one that is not in the vocabulary."""
        return self._encode(text, self._ordinary)

    def _encode(self, text: str, ids: dict[str, int]) -> list[int]:
        words = self.words(check_text(text))
        if self.unknown:
            unknown = self._ids[UNKNOWN]
            return [ids.get(word, unknown) for word in words]
        try:
            return [ids[word] for word in words]
        except KeyError as error:
            word = error.args[0]
            raise ValueError(
                f"the word {word!r} (number {words.index(word) + 1} of {len(words)}) is not in the vocabulary "
                f"of {self.vocab_size}: train on text that has it, or with unknown=True for {UNKNOWN}"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The words joined by spaces, without the space before punctuation; ValueError for an unknown id."""
        marks = r",.:;?!\"()'" if self.unknown else r",.?!\"()'"  # as in the book: version 2 has two more
        return re.sub(rf"\s+([{marks}])", r"\1", " ".join(look_up(self._words, ids)))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """`decode` in UTF-8."""
        return self.decode(ids).encode("utf-8")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as JSON."""
        words = [word for word in self._ids if word not in self.special_tokens]
        write_fields(path, {"type": self.kind, "unknown": self.unknown, "words": words})

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> WordTokenizer:
        """Make a tokenizer from the fields of a saved file; ValueError, with the reason, for invalid fields."""
        check_fields(fields, unknown=bool, words=list)
        return cls(fields["words"], fields["unknown"])

    def __repr__(self) -> str:
        return f"WordTokenizer(vocab_size={self.vocab_size}, unknown={self.unknown})"


class CharTokenizer:
    """A character (a Unicode code point) is a token. decode(encode(text)) == text.

    Special tokens have the last ids. There are none by default; fine-tuning adds the end of text.
    """

    kind = "char"

    def __init__(self, characters: str, special_tokens: Sequence[str] = ()):
        """`characters`: the vocabulary in the order of its ids, each character once; special tokens follow."""
        check_text(characters)
        if not characters:
            raise ValueError("the vocabulary is empty: a character tokenizer needs at least one character")
        if len(set(characters)) < len(characters):
            twice = next(c for i, c in enumerate(characters) if c in characters[:i])
            raise ValueError(f"character {twice!r} (U+{ord(twice):04X}) is in the vocabulary twice")
        check_words(special_tokens, "special token")
        self.characters = characters
        self._characters = dict(enumerate([*characters, *special_tokens]))
        self._ids = {character: id for id, character in enumerate(characters)}
        self._special_tokens = {token: len(characters) + i for i, token in enumerate(special_tokens)}
        self._find_special = special_pattern(special_tokens).finditer

    def with_special_tokens(self, tokens: Sequence[str]) -> CharTokenizer:
        """A tokenizer with these special tokens too; their ids follow the last one. Errors as in the constructor."""
        return CharTokenizer(self.characters, (*self._special_tokens, *tokens))

    @classmethod
    def train(cls, text: str | Iterable[str]) -> CharTokenizer:
        """The sorted set of the characters of `text`."""
        return cls("".join(sorted(set().union(*[set(check_text(part)) for part in chunks(text)]))))

    @property
    def vocab_size(self) -> int:
        return len(self._characters)

    @property
    def special_tokens(self) -> dict[str, int]:
        return dict(self._special_tokens)

    def encode(self, text: str, allowed_special: Set[str] | Literal["all"] = frozenset()) -> list[int]:
        """One id per character; ValueError names the first unknown one and its position.

        A special token in `allowed_special` is one id; any other is encoded character by character.
        """
        allowed_special = allowed(allowed_special, self._special_tokens)
        ids: list[int] = []
        start = 0
        for found in self._find_special(check_text(text)):
            if found.group() in allowed_special:
                ids += [*self._encode(text, start, found.start()), self._special_tokens[found.group()]]
                start = found.end()
        return ids + self._encode(text, start, len(text))

    def encode_ordinary(self, text: str) -> list[int]:
        """The same without special tokens: one id per character."""
        return self._encode(check_text(text), 0, len(text))

    def _encode(self, text: str, start: int, end: int) -> list[int]:
        try:
            return [self._ids[character] for character in text[start:end]]
        except KeyError as error:
            unknown = error.args[0]
            raise ValueError(
                f"character {unknown!r} (U+{ord(unknown):04X}) at position {text.index(unknown, start)} is not in "
                f"the vocabulary of {self.vocab_size}: train on text that has it, or use the bpe tokenizer"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The characters; ValueError for an unknown id."""
        return "".join(look_up(self._characters, ids))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """`decode` in UTF-8."""
        return self.decode(ids).encode("utf-8")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as JSON."""
        special = {"special_tokens": list(self._special_tokens)} if self._special_tokens else {}
        write_fields(path, {"type": self.kind, "characters": self.characters, **special})

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> CharTokenizer:
        """Make a tokenizer from the fields of a saved file; ValueError, with the reason, for invalid fields."""
        special = {"special_tokens": list} if "special_tokens" in fields else {}
        check_fields(fields, characters=str, **special)
        return cls(fields["characters"], fields.get("special_tokens", ()))

    def __repr__(self) -> str:
        return f"CharTokenizer(vocab_size={self.vocab_size})"
