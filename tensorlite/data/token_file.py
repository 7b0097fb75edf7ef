"""Token files: a text of any length as a flat file of ids that is mapped into memory, and windows cut from it."""

import itertools
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..files import StrPath, check_path, check_regular, naming, replacing
from ..tensor import Tensor

MAGIC = b"tltokens"
VERSION = 1
HEADER = struct.Struct("<8sIIQQ")  # magic, version, bytes per id (2 or 4), vocabulary size, number of ids; then the ids
CHUNK = 1 << 20  # ids held in memory at a time


def write_tokens(path: StrPath, ids: Iterable[Any], vocab_size: int) -> int:
    """Write token ids to a file for TokenFile, and return their number.

    `ids` yields ints, or arrays, Tensors or lists of ints (one per document, say); one of them is in memory at a time.
    Two bytes per id up to a vocabulary of 65,536, else four. ValueError names the first id outside 0 .. vocab_size - 1,
    TypeError values that are not integers. The file is complete or does not appear at all.
    """
    count = 0
    with token_writer(path, vocab_size) as write:
        for piece in _pieces(ids):
            count = write(piece)
    return count


@contextmanager
def token_writer(path: StrPath, vocab_size: int) -> Iterator[Callable[[Any], int]]:
    """Write a token file piece by piece, for ids that are not made by one loop: see `write_tokens`.

    Yields a function that writes an array or a list of ids and returns the number of ids written so far. The file
    appears at `path` when the block ends.
    """
    check_path("write_tokens", path)
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int | np.integer) or not 1 <= vocab_size <= 2**32:
        raise ValueError(f"write_tokens: vocab_size must be an integer from 1 to 2**32, not {vocab_size!r}")
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    count = 0
    with replacing(path) as file:

        def write(ids: Any) -> int:
            nonlocal count
            if (piece := np.asarray(ids)).size:
                _check_ids("write_tokens", piece, vocab_size, count)
                file.write(np.ascontiguousarray(piece, dtype).data)
                count += piece.size
            return count

        file.write(bytes(HEADER.size))
        yield write
        if not count:
            raise ValueError("write_tokens: there are no tokens to write")
        file.seek(0)
        file.write(HEADER.pack(MAGIC, VERSION, dtype.itemsize, vocab_size, count))


def _pieces(ids: Iterable[Any]) -> Iterator[np.ndarray]:
    """`ids` as 1-D arrays: up to CHUNK single ints together, arrays and lists as they are."""
    iterator = iter([ids] if isinstance(ids, np.ndarray | Tensor) else ids)
    for first in iterator:
        if isinstance(first, int | np.integer):
            yield np.array([first, *itertools.islice(iterator, CHUNK - 1)])
        elif (piece := np.asarray(first)).size:
            yield piece


def _check_ids(name: str, piece: np.ndarray, vocab_size: int, position: int) -> None:
    if piece.dtype.kind not in "iu" or piece.ndim != 1:
        raise TypeError(f"{name}: token ids must be integers in a row, not {piece.dtype} of shape {piece.shape}")
    if piece.min() < 0 or piece.max() >= vocab_size:
        i = int(np.argmax((piece < 0) | (piece >= vocab_size)))
        raise ValueError(f"{name}: token {position + i} is {piece[i]}, outside 0 .. {vocab_size - 1} (the vocabulary)")


class TokenFile:
    """A file made by `write_tokens`, mapped into memory: `len`, `[i]`, `[a:b]` read only what they need.

    `.tokens` is the read-only map (uint16 or uint32, little-endian), `.vocab_size` the size of the vocabulary. Opening
    checks the header and the length of the file and, with `check`, that every id is in the vocabulary. That reads the
    whole file: give check=False for a file that was just written or was checked before. ValueError says what is wrong;
    OSError where the file cannot be read.
    """

    def __init__(self, path: StrPath, check: bool = True):
        check_path("TokenFile", path)
        self.path = Path(path)
        check_regular(self.path)
        with naming(self.path), open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = file.read(HEADER.size)
        itemsize, self.vocab_size, count = self._parse(header)
        if size != HEADER.size + count * itemsize:
            raise self._error(
                f"its header says {count} ids of {itemsize} bytes, but {size - HEADER.size} bytes follow it: the file "
                "was cut off or changed"
            )
        with naming(self.path):  # some file systems cannot map files
            self.tokens = np.memmap(self.path, f"<u{itemsize}", "r", HEADER.size, (count,))
        for start in range(0, count if check else 0, CHUNK):
            _check_ids(str(self.path), self.tokens[start : start + CHUNK], self.vocab_size, start)

    def _parse(self, header: bytes) -> tuple[int, int, int]:
        """(bytes per id, vocabulary size, number of ids) of the header."""
        if len(header) < HEADER.size:
            raise self._error(f"it is empty or too short for a header ({len(header)} bytes)")
        magic, version, itemsize, vocab_size, count = HEADER.unpack(header)
        if magic != MAGIC:
            raise self._error(f"it starts with {magic!r}, not with {MAGIC!r}: make one with write_tokens")
        if version != VERSION:
            raise self._error(f"it has format version {version}, and this tensorlite reads version {VERSION}")
        if itemsize not in (2, 4) or not 1 <= vocab_size <= 256**itemsize or not count:
            raise self._error(f"its header is invalid: {itemsize} bytes per id, vocabulary {vocab_size}, {count} ids")
        return itemsize, vocab_size, count

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"{self.path} is not a token file that can be used: {reason}")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> Any:
        return self.tokens[index]

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies and pickle: a copy maps the same file, without checking or copying the tokens."""
        return TokenFile, (self.tokens.filename, False)  # an absolute path

    def read_ahead(self, start: int, stop: int) -> None:
        """Ask the system to read tokens[start:stop] from the disk in the background, one after another.

        Where the system takes no such advice (Windows), nothing happens: each token is read when it is needed.
        """
        memory = getattr(self.tokens, "_mmap", None)
        if memory is not None and hasattr(mmap, "MADV_WILLNEED"):
            first, last = (HEADER.size + i * self.tokens.itemsize for i in (start, min(stop, len(self))))
            first -= first % mmap.PAGESIZE
            memory.madvise(mmap.MADV_WILLNEED, first, last - first)

    def windows(self, length: int, stride: int) -> "Windows":
        """The whole file as training examples; for a part of it, use `Windows(file[a:b], length, stride)`."""
        return Windows(self, length, stride)


class Windows:
    """A dataset of training examples (x, y) cut from n tokens: a TokenFile, a slice of one, an array or a list.

    For i = 0, stride, 2 stride, ...: x = tokens[i : i + length] and y = tokens[i + 1 : i + 1 + length], int64 arrays of
    shape (length,). There are ceil((n - length) / stride) of them. ValueError if n is at most `length`, TypeError for
    tokens that are not integers.
    """

    def __init__(self, tokens: Any, length: int, stride: int):
        for name, value in (("length", length), ("stride", stride)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"Windows: {name} must be a positive integer, not {value!r}")
        row = tokens.tokens if isinstance(tokens, TokenFile) else np.asarray(tokens)
        self.tokens = tokens if isinstance(tokens, TokenFile) else row  # keep the file, so that a copy maps it again
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise TypeError(f"Windows: tokens must be integers in a row, not {row.dtype} {row.shape}")
        if len(row) <= length:
            raise ValueError(
                f"Windows: {len(self.tokens)} tokens are too few: a window of {length} and the token after it need "
                f"{length + 1}; give more text or a shorter length"
            )
        self.length, self.stride = length, stride

    def __len__(self) -> int:
        return -(-(len(self.tokens) - self.length) // self.stride)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            start = range(len(self))[index] * self.stride
        except IndexError:
            raise IndexError(f"Windows: index {index} is out of range: there are {len(self)} windows") from None
        window = np.array(self.tokens[start : start + self.length + 1], np.int64)
        return window[:-1], window[1:]
