"""Byte-level byte-pair encoding: trained here, or GPT-2's own; encoding runs on tiktoken's core.

A token is a byte string. Ids: the 256 single bytes, then the merged tokens in the order of their merges, then
the special tokens. The rank of a merge is the id of its token, so the list of tokens determines the tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence, Set
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import regex
import tiktoken

from .. import download_dir
from .base import END_OF_TEXT, allowed, check_fields, check_text, check_words, look_up, special_pattern, write_fields
from .training import count_pieces, learn_merges

# GPT-2's rule for cutting text into pieces that no merge may cross (Radford et al. 2019, encoder.py of the
# release): English contractions; letters, digits or other signs, each with at most one space before them;
# white space, whose last character belongs to the word that follows. The possessive ++ and the branch with $
# change no match; they avoid backtracking, so that a piece may have any length.
GPT2_PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s+"

# \s is the same in `regex` and tiktoken; in `re` it has four more characters.
_LONG_SPACE = regex.compile(r"(?<!\s)\s{10000,}")


def _may_have_long_space(text: str) -> bool:
    """False only for text that _LONG_SPACE does not match, in 1/1000 of its time.

    10,000 characters cover one of the blocks of 5,000; `isspace` ends at the first character that is no white space.
    """
    return len(text) >= 10_000 and any(text[i : i + 5000].isspace() for i in range(0, len(text), 5000))


class BPETokenizer:
    """Byte-level BPE with GPT-2's split pattern. decode(encode(text)) == text for every text.

    "Every text" is every str that has a UTF-8 form; a lone surrogate has none: ValueError with its
    position. There are no unknown characters: bytes that no merge covers are encoded one by one.
    """

    kind = "bpe"

    def __init__(self, tokens: Sequence[bytes], special_tokens: Sequence[str] = (END_OF_TEXT,)):
        """`tokens` in the order of their ids: the 256 single bytes, then each made of two earlier ones."""
        _check_tokens(tokens)
        check_words(special_tokens, "special token")
        self.tokens = list(tokens)
        self._special_tokens = {token: len(tokens) + i for i, token in enumerate(special_tokens)}
        self._bytes = dict(enumerate([*tokens, *(token.encode("utf-8") for token in special_tokens)]))
        self._find_special = special_pattern(special_tokens).finditer
        ranks = {token: id for id, token in enumerate(tokens)}
        core = tiktoken.Encoding("gpt", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
        self._encode_pieces = core.encode_ordinary

    @classmethod
    def train(
        cls, texts: str | Iterable[str], vocab_size: int, special_tokens: Sequence[str] = (END_OF_TEXT,)
    ) -> BPETokenizer:
        """Learn merges from the texts until the vocabulary, special tokens included, has `vocab_size` tokens.

        The vocabulary (`.vocab_size`) stays smaller where the texts have no pair left that occurs twice. The same
        texts give the same tokenizer, in any order; among pairs that are equally frequent the one with the
        lowest ids is merged (training.py). ValueError for a `vocab_size` below 256 + the special tokens.
        """
        check_words(special_tokens, "special token")
        if isinstance(vocab_size, bool) or not isinstance(vocab_size, Integral):
            raise TypeError(f"vocab_size is an int, got {vocab_size!r}")
        vocab_size = int(vocab_size)
        least = 256 + len(special_tokens)
        if vocab_size < least:
            special = f"{len(special_tokens)} special token{'s' if len(special_tokens) != 1 else ''}"
            raise ValueError(f"vocab_size is {vocab_size}: 256 bytes and {special} need {least}")
        texts = [texts] if isinstance(texts, str) else texts
        pieces = count_pieces(map(check_text, texts), GPT2_PATTERN, special_tokens)
        tokens = [bytes([byte]) for byte in range(256)]
        for left, right in learn_merges(pieces, vocab_size - least):
            tokens.append(tokens[left] + tokens[right])
        return cls(tokens, special_tokens)

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def with_special_tokens(self, tokens: Sequence[str]) -> BPETokenizer:
        """A tokenizer with these special tokens too; their ids follow the last one. Errors as in the constructor."""
        return BPETokenizer(self.tokens, (*self._special_tokens, *tokens))

    @property
    def special_tokens(self) -> dict[str, int]:
        return dict(self._special_tokens)

    def encode(self, text: str, allowed_special: Set[str] | Literal["all"] = frozenset()) -> list[int]:
        """The ids of `text`; ValueError where it holds a special token that is not in `allowed_special`.

        The error prevents text of a user or file from inserting special tokens. For `encode_ordinary` all text
        is ordinary. An allowed special token is encoded as its id.
        """
        check_text(text)
        allowed_special = allowed(allowed_special, self._special_tokens)
        ids: list[int] = []
        start = 0
        for found in self._find_special(text):
            token = found.group()
            if token not in allowed_special:
                raise ValueError(
                    f"the text holds the special token {token!r} at position {found.start()}: pass "
                    f"allowed_special={{{token!r}}} to encode it as id {self._special_tokens[token]}, or use "
                    "encode_ordinary to encode it as text"
                )
            ids += self._encode_ordinary(text[start : found.start()])
            ids.append(self._special_tokens[token])
            start = found.end()
        return ids + self._encode_ordinary(text[start:])

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of `text`, where special tokens are encoded as ordinary text."""
        return self._encode_ordinary(check_text(text))

    def _encode_ordinary(self, text: str) -> list[int]:
        # The pattern backtracks only in white space before a word, and where that is about a
        # million characters long tiktoken panics, with an exception that `except Exception` does not catch.
        # All of it except the last character is one piece in any case, so it is cut out and encoded alone.
        ids: list[int] = []
        start = 0
        for space in _LONG_SPACE.finditer(text) if _may_have_long_space(text) else ():
            if space.end() < len(text):
                ids += self._encode_pieces(text[start : space.start()])
                ids += self._encode_pieces(text[space.start() : space.end() - 1])
                start = space.end() - 1
        return ids + self._encode_pieces(text[start:])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. ValueError for an unknown id."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`; may begin or end inside a character. ValueError for an unknown id."""
        return b"".join(look_up(self._bytes, ids))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokens as JSON, each byte as the character with its number (Latin-1)."""
        fields = {
            "type": self.kind,
            "special_tokens": list(self._special_tokens),
            "tokens": [token.decode("latin-1") for token in self.tokens],
        }
        write_fields(path, fields)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> BPETokenizer:
        """Make a tokenizer from the fields of a saved file; ValueError, with the reason, for invalid fields."""
        check_fields(fields, special_tokens=list, tokens=list)
        try:
            tokens = [token.encode("latin-1") for token in fields["tokens"]]
        except UnicodeEncodeError as error:
            raise ValueError(f"its token {error.object!r} has a character that does not encode a byte") from None
        return cls(tokens, fields["special_tokens"])

    def __repr__(self) -> str:
        return f"BPETokenizer(vocab_size={self.vocab_size}, special_tokens={list(self._special_tokens)})"


def _check_tokens(tokens: Sequence[bytes]) -> None:
    """ValueError for lists that no training gives: encoding with them would be wrong or fail inside tiktoken."""
    if sorted(tokens[:256]) != [bytes([byte]) for byte in range(256)]:
        raise ValueError("the first 256 tokens are not the 256 single bytes, each once")
    seen = set(tokens[:256])
    lengths = {1}  # of the tokens in `seen`: far fewer than the positions where a long token could be cut
    for id, token in enumerate(tokens[256:], 256):
        if token in seen:
            raise ValueError(f"token {id}, {token!r}, occurs twice: the same merge comes earlier")
        cuts = (n for n in range(1, len(token)) if n in lengths)
        if not any(token[:n] in seen and token[n:] in seen for n in cuts):
            raise ValueError(f"token {id}, {token!r}, is not a merge of two earlier tokens")
        seen.add(token)
        lengths.add(len(token))


# ----- GPT-2's own ------------------------------------------------------------------------------------------

# OpenAI's files write a byte as its Latin-1 character where that is visible, and the others as U+0100, U+0101, ...
_VISIBLE = [byte for byte in range(256) if chr(byte).isprintable() and byte != 0x20]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
BYTE_OF = {chr(byte): byte for byte in _VISIBLE} | {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}

SECONDS = 120.0  # the limit for tiktoken to fetch 1.5 MB
_GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
_GPT2_SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


def gpt2(folder: str | os.PathLike[str] | None = None) -> BPETokenizer:
    """GPT-2's tokenizer: 50,257 tokens, `<|endoftext|>` is 50256.

    Looks for OpenAI's two files, vocab.bpe and encoder.json, in `folder`, or else in the one that the environment
    variable TIKTOKEN_CACHE_DIR names, and then where `gpt data fetch gpt2-tokenizer` puts them. Unless both are
    there, tiktoken reads them from its cache or downloads them (1.5 MB). Raises OSError when that
    fails as well, and ValueError for files that are not GPT-2's.
    """
    for place in (folder or os.environ.get("TIKTOKEN_CACHE_DIR"), download_dir.folder() / "gpt2-tokenizer"):
        if place and all((Path(place) / name).is_file() for name in _GPT2_SHA256):
            return BPETokenizer(_read_gpt2(Path(place)))
    from ..http_deadline import in_thread  # takes a while to import, and is rarely needed

    try:  # tiktoken has no timeout
        (encoding,) = in_thread((tiktoken.get_encoding(name) for name in ("gpt2",)), SECONDS)
    except OSError as error:
        raise OSError(
            f"GPT-2's tokenizer needs two files that could not be fetched ({type(error).__name__}): "
            f"{' and '.join(_GPT2_URL + name for name in _GPT2_SHA256)}; download them where there is a network, put "
            "them into a folder, and name it in gpt2(folder=...) or in the environment variable TIKTOKEN_CACHE_DIR"
        ) from error
    return BPETokenizer(encoding.decode_tokens_bytes(range(50256)))


def _read_gpt2(folder: Path) -> list[bytes]:
    """GPT-2's tokens in the order of their ids, from OpenAI's files; ValueError for files with another SHA-256."""
    for name, expected in _GPT2_SHA256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(
                f"{str(folder / name)!r} is not GPT-2's {name}: its SHA-256 is {found[:12]}..., not "
                f"{expected[:12]}...; download it again from {_GPT2_URL}{name}"
            )
    ids = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    del ids[END_OF_TEXT]
    return [bytes(BYTE_OF[c] for c in token) for token in sorted(ids, key=ids.__getitem__)]
