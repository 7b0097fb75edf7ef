"""Documents to token ids, in several processes; the results come in the order of the documents.

The reading process makes batches of about a million characters, decides for each document which part it belongs to, and
keeps at most two batches a process waiting. So memory does not grow with the text, and neither batches nor tokens
depend on the number of processes.
"""

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import zlib
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ... import tokenizer as tokenizers
from ...tokenizer import END_OF_TEXT, Tokenizer
from .documents import Item, Piece, Reading, Skipped, items
from .inputs import STDIN, Seen, Source, Unusable

PARTS = ("train", "validation")
BATCH = 1 << 20  # characters
MOST = 1 << 12  # documents of a batch
Ids = Mapping[str, "array[int]"]  # by part

# ----- which part ---------------------------------------------------------------------------------------------------


def part_of(text: bytes, validation: float) -> str:
    """The part of a document that begins with `text`, its first piece: "validation" for a share of all documents.

    The first 64 bits of the SHA-256, as a fraction of 2**64, are below `validation`. So equal documents are in one
    part, and the part of a document does not depend on its place.
    """
    fraction = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
    return PARTS[fraction < validation]


# ----- batches ------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A place in the sources: behind that many items of a source, whose texts have this CRC-32."""

    source: int = 0
    items: int = 0
    crc32: int = 0


class Encodable(NamedTuple):
    """A piece of a document for a process that encodes it."""

    text: str
    part: str
    last: bool
    path: str


@dataclass
class Batch:
    """What is encoded at once, and what was left out on the way."""

    end: Place
    pieces: list[Encodable] = field(default_factory=list)
    characters: int = 0
    documents: Counter[str] = field(default_factory=Counter)  # that end in the batch, by part
    text_bytes: Counter[str] = field(default_factory=Counter)  # of UTF-8, by part
    skipped: Counter[str] = field(default_factory=Counter)  # by reason
    examples: dict[str, str] = field(default_factory=dict)  # a path for each reason

    def add(self, piece: Encodable, size: int) -> None:
        self.pieces.append(piece)
        self.characters += len(piece.text)
        self.text_bytes[piece.part] += size
        self.documents[piece.part] += piece.last

    def skip(self, reason: str, path: str) -> None:
        self.skipped[reason] += 1
        self.examples.setdefault(reason, path)

    def add_counts(self, other: "Batch") -> None:
        """Add the counts of the batch that follows this one."""
        self.end = other.end
        for mine, theirs in zip((self.documents, self.text_bytes, self.skipped),
                                (other.documents, other.text_bytes, other.skipped), strict=True):  # fmt: skip
            mine.update(theirs)
        self.examples = {**other.examples, **self.examples}

    def full(self) -> bool:
        return self.characters >= BATCH or len(self.pieces) + self.skipped.total() >= MOST


def batches(sources: Iterable[Source], how: Reading, validation: float, begin: Place, seen: Seen) -> Iterator[Batch]:
    """The documents of the sources from a place on, in batches, the last of which may be empty.

    ValueError where the text before `begin` is not the text that was there when the place was noted.
    """
    batch, part = Batch(begin), ""
    for number, source in enumerate(sources):
        if number < begin.source:
            seen(source.size)
            continue
        place, behind = Place(number), begin if number == begin.source else Place(number)
        for item in readable_items(source, how, seen):
            if place.items == behind.items:
                check_same(place, behind, source)
            new = place.items >= behind.items
            if isinstance(item, Piece):
                data = item.text.encode()
                part = part or part_of(data, validation)
                place = Place(number, place.items + 1, zlib.crc32(data, place.crc32))
                if new:
                    batch.add(Encodable(item.text, part, item.last, source.path), len(data))
                part = "" if item.last else part
            else:
                place = Place(number, place.items + 1, place.crc32)
                if new:
                    batch.skip(item.reason, source.path)
            if new:
                batch.end = place
                if batch.full():
                    yield batch
                    batch = Batch(place)
        if place.items <= behind.items:
            check_same(place, behind, source)
        if part:
            raise ValueError(f"{source.path} was changed while it was read: start again with --overwrite")
    yield batch


def check_same(place: Place, noted: Place, source: Source) -> None:
    """A ValueError where another text was read up to the place that was noted."""
    if place != noted:
        name = "standard input" if source.path == STDIN else source.path
        raise ValueError(
            f"{name} is not the text that it was before: give it unchanged, or start again with --overwrite"
        )


def readable_items(source: Source, how: Reading, seen: Seen) -> Iterator[Item]:
    """The items of a source; what cannot be read of it is one more that is skipped. A fault in a pipe is an error.

    `seen` gets the size of a source in all, also where a part of it is not read.
    """
    rest = source.size

    def read(size: int) -> None:
        nonlocal rest
        rest -= size
        seen(size)

    try:
        yield from items(source, how, read)
    except Unusable as error:
        if source.path == STDIN:
            raise ValueError(f"standard input {error}") from None
        yield Skipped(error.reason)
    except OSError as error:
        if source.path == STDIN:
            raise
        yield Skipped(f"cannot be read ({error.strerror or error})")
    if rest > 0:
        seen(rest)


# ----- processes ----------------------------------------------------------------------------------------------------


@contextmanager
def encoder(tokenizer: Path, processes: int) -> Iterator[Callable[[Iterator[Batch]], Iterator[tuple[Batch, Ids]]]]:
    """Yields a function that adds to each batch the ids of its documents, by part, in the order of the batches.

    `tokenizer` is a file. With one process the work is done in this one. ValueError, with the path, for a document
    that the tokenizer cannot encode; RuntimeError where a process is killed.
    """
    if processes == 1:
        _begin(tokenizer)
        yield lambda batches: ((batch, _encode(batch.pieces)) for batch in batches)
        return
    context = multiprocessing.get_context("spawn")  # not fork: this process has threads
    with ProcessPoolExecutor(processes, context, _begin_process, (tokenizer,)) as pool:
        try:
            yield partial(_in_order, pool, 2 * processes)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, most: int, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Ids]]:
    waiting: deque[tuple[Batch, Future[Ids]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(_encode, batch.pieces)))
            batch.pieces = []
            while len(waiting) >= most or (waiting and waiting[0][1].done()):
                done, ids = waiting.popleft()
                yield done, ids.result()
        for done, ids in waiting:
            yield done, ids.result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a process that encodes text has ended, perhaps for want of memory: the same command "
            "continues after the last complete shard, and fewer --processes need less memory"
        ) from None


_tokenizer: Tokenizer  # of a process


def _begin(tokenizer: Path) -> None:
    global _tokenizer
    _tokenizer = tokenizers.load(tokenizer)


def _begin_process(tokenizer: Path) -> None:
    """In a new process: Ctrl-C is for the process that reads; the end of that, also by SIGKILL, ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
    _begin(tokenizer)


def _encode(pieces: Iterable[Encodable]) -> Ids:
    """The ids of the pieces by part, as integers of 2 or 4 bytes. Special tokens in a text are read as text."""
    end = _tokenizer.special_tokens[END_OF_TEXT]
    found = {part: array("H" if _tokenizer.vocab_size <= 2**16 else "I") for part in PARTS}
    for piece in pieces:
        try:
            found[piece.part].fromlist(_tokenizer.encode_ordinary(piece.text))
        except ValueError as error:
            raise ValueError(f"{piece.path}: {error}") from None
        if piece.last:
            found[piece.part].append(end)
    return found
