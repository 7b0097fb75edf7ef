"""Shared by the tokenizers: the protocol, argument checks, decoding token by token, and the file format."""

from __future__ import annotations

import codecs
import json
import operator
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Literal, Protocol, TypeVar

from tensorlite.files import check_regular, replacing

from ..jsonfile import parse

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"
FORMAT = "gpt.tokenizer"
VERSION = 1

Piece = TypeVar("Piece")


class Tokenizer(Protocol):
    """Text to ids and back. Ids are 0 .. vocab_size - 1; special tokens have ids of their own.

    `encode` takes the special tokens in `allowed_special` ("all": all of them) for their ids; for others see each
    tokenizer. `encode_ordinary` takes none: text from a user stays text.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_tokens(self) -> dict[str, int]: ...

    def encode(self, text: str, allowed_special: Set[str] | Literal["all"] = frozenset()) -> list[int]: ...

    def encode_ordinary(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes: ...

    def save(self, path: str | os.PathLike[str]) -> None: ...


# ----- checks -----------------------------------------------------------------------------------------------


def check_text(text: str) -> str:
    """Return `text`; TypeError for another type, ValueError for a text with a lone surrogate.

    A lone surrogate is half of a UTF-16 pair. It has no UTF-8 form, so no byte-level token can encode it,
    no file can hold it, and replacing it silently would break decode(encode(text)) == text.
    """
    if not isinstance(text, str):
        raise TypeError(f"text is a str, got {type(text).__name__}: decode bytes first, join lists first")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # Python's escape of such a byte in arguments and input
            raise ValueError(
                f"the text is not UTF-8 (byte {code - 0xDC00:#04x} at position {error.start}): convert it to UTF-8"
            ) from None
        raise ValueError(
            f"the text has a lone surrogate, U+{code:04X}, at position {error.start}, which "
            'has no UTF-8 form: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") repairs it'
        ) from None
    return text


def allowed(allowed_special: Set[str] | Literal["all"], special_tokens: Iterable[str]) -> Set[str]:
    """`allowed_special` as a set, "all" as all of them; TypeError for any other str."""
    if not isinstance(allowed_special, str):
        return allowed_special
    if allowed_special != "all":
        raise TypeError(f'allowed_special is a set of special tokens, or "all": write {{{allowed_special!r}}}')
    return set(special_tokens)


def check_words(words: Sequence[str], what: str) -> None:
    """ValueError for words or special tokens that are empty, hold white space (where text is split) or repeat."""
    for word in words:
        if not isinstance(word, str) or not word or re.search(r"\s", word):
            raise ValueError(f"a {what} is a string with at least one character and no white space, got {word!r}")
        check_text(word)
    if len(set(words)) < len(words):
        twice = next(word for word, count in Counter(words).items() if count > 1)
        raise ValueError(f"the {what} {twice!r} occurs twice")


def special_pattern(special_tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds special tokens in text: the longer of two that begin alike; None without special tokens."""
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def check_ids(ids: Iterable[Any], vocab_size: int, where: str = "") -> list[int]:
    """Token ids of a list, an array, a Tensor or a slice of a TokenFile as a list of ints.

    ValueError for the first that is not an integer from 0 to vocab_size - 1; TypeError where `ids` is not iterable.
    """
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{where}a list of token ids is needed, not {values!r:.80}")
    checked = []
    for id in values:
        number = operator.index(id) if hasattr(id, "__index__") and not isinstance(id, bool) else -1
        if not 0 <= number < vocab_size:
            id = id if number == -1 else number
            raise ValueError(f"{where}id {id!r} is not in the vocabulary: ids are integers from 0 to {vocab_size - 1}")
        checked.append(number)
    return checked


def look_up(table: Mapping[int, Piece], ids: Iterable[int]) -> list[Piece]:
    """[table[id] for id in ids]; ValueError for an unknown id, with the range of ids."""
    return [table[id] for id in check_ids(ids, len(table))]


# ----- long text --------------------------------------------------------------------------------------------

SIZE = 1 << 20  # characters per part

# \S and \s are Python's here, which count four control characters as white space that GPT-2's pattern does
# not: a character visible to Python is visible to both.
_CUT = re.compile(r"(?<=\S)(?=[ \n])")
_BORDER = re.compile(r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")  # where pieces of byte-level BPE begin, too


def chunks(
    text: str | Iterable[str], size: int = SIZE, whole: Collection[str] = (END_OF_TEXT, UNKNOWN)
) -> Iterator[str]:
    """Split `text` into parts of about `size` characters; the tokens of the parts, in order, are those of the text.

    A text may come in pieces of any length: at most about three times `size` characters, or one piece, are in memory,
    and each character is read at most three times. A cut is before a space or newline that follows a visible character.
    No token of any tokenizer here spans such a place: words and GPT-2's pieces begin there, and special tokens hold no
    white space.

    Where `size` characters have no such place (DNA, base64), the part is cut between a letter and a digit, or anywhere.
    The decoded text stays the same, but the tokens at such a cut may differ from those of the whole text, except where
    a token is a character. The special tokens `whole` are never cut.
    """
    ahead = max(map(len, whole), default=0)  # seen beyond a cut, in order not to cut a special token
    rest = ""
    for block in _joined([text] if isinstance(text, str) else text, size):
        rest, start = rest + block, 0
        while (cut := _cut(rest, start, size, ahead, whole)) is not None:
            yield rest[start:cut]
            start = cut
        rest = rest[start:]
    start = 0
    while (cut := _cut(rest, start, size, 0, whole)) is not None:
        yield rest[start:cut]
        start = cut
    yield rest[start:]


def _joined(pieces: Iterable[str], size: int) -> Iterator[str]:
    """The same text in pieces of at least `size` characters, except the last: adding many short ones costs more."""
    held, length = [], 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length >= size:
            yield "".join(held)
            held, length = [], 0
    yield "".join(held)


def _cut(text: str, start: int, size: int, ahead: int, whole: Collection[str]) -> int | None:
    """The end of the part that begins at `start`; None where more text is needed to decide."""
    if len(text) - start <= size:
        return None
    last = start + 2 * size
    if found := _CUT.search(text, start + size, last + 1):
        return found.start()
    if len(text) <= last + ahead:
        return None
    borders = list(_BORDER.finditer(text, max(start + size, last - 1000), last + 1))
    return _before_special(text, borders[-1].start() if borders else last, start, whole)


def _before_special(text: str, cut: int, start: int, whole: Collection[str]) -> int:
    """`cut`, or where it would cut a special token the beginning of that (its end, if the part begins with it)."""
    for token in whole:
        at = text.find(token, max(start, cut - len(token) + 1), cut + len(token) - 1)
        if 0 <= at < cut:
            return at if at > start else at + len(token)
    return cut


# ----- streaming --------------------------------------------------------------------------------------------


class StreamDecoder:
    """Decode ids one at a time, with whole characters only.

        "".join(decoder.feed(id) for id in ids) + decoder.flush() == tokenizer.decode(ids)

    A token may end inside a character's UTF-8 bytes; these are kept until the next token.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._last: list[int] = []

    def feed(self, id: int) -> str:
        """The text that `id` completes; "" while a character is unfinished."""
        # A word's spelling depends on the word before it (the space between them), and on nothing earlier.
        before = self._tokenizer.decode_bytes(self._last)
        now = self._tokenizer.decode_bytes([*self._last, id])
        self._last = [id]
        return self._utf8.decode(now[len(before) :])

    def flush(self) -> str:
        """The end of the text: U+FFFD for an unfinished character, else "". The decoder can then be used again."""
        self._last = []
        return self._utf8.decode(b"", final=True)


# ----- files ------------------------------------------------------------------------------------------------


def write_fields(path: str | os.PathLike[str], fields: Mapping[str, Any]) -> None:
    """Write a tokenizer's fields as JSON; after a crash the file is the old one, or there is none."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **fields}, indent=1)
    with replacing(path) as file:
        file.write(f"{text}\n".encode("ascii"))


def read_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields that `write_fields` wrote; ValueError for another format or a newer version."""
    check_regular(path)
    with open(path, encoding="utf-8") as file:
        try:
            fields = parse(file.read())
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)!r} is not a tokenizer file: it is not JSON ({error})") from None
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise ValueError(f'{os.fspath(path)!r} is not a tokenizer file: it lacks "format": "{FORMAT}"')
    version = fields.pop("version", None)
    if type(version) is not int or version < 1:
        raise ValueError(
            f"{os.fspath(path)!r} is not a usable tokenizer file: its version is {version!r}, not {VERSION}"
        )
    if version > VERSION:
        raise ValueError(
            f"{os.fspath(path)!r} has format version {version}, written by a newer gpt; this one reads up to "
            f"{VERSION}: upgrade it"
        )
    return fields


def check_fields(fields: Mapping[str, Any], **kinds: type) -> None:
    """ValueError unless `fields` has exactly the names in `kinds`, with those types; a `list` holds strings."""
    if wrong := sorted(kinds.keys() ^ fields.keys()):
        raise ValueError(f"it has the fields {sorted(fields)}, not {sorted(kinds)} (see {', '.join(wrong)})")
    for name, kind in kinds.items():
        value = fields[name]
        strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not (strings if kind is list else isinstance(value, kind)):
            wanted = {str: "a string", bool: "true or false", list: "a list of strings"}[kind]
            raise ValueError(f"its {name} is not {wanted}")
