"""The loop of `gpt data prepare`: documents to shards. The same command goes on where a killed one was.

A pair of shards, one of each part, is complete when it has `shard_tokens` tokens at the end of a batch; then the
manifest is written with the place in the sources. A killed process loses the pair that it was writing. Batches, and so
the bytes of the shards, depend on the sources and the settings alone.
"""

import os
import platform
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from tensorlite.data import token_writer

from ... import __version__, system
from ...console import bar, bytes_text, counted, in_shell
from ...fingerprint import fingerprint
from ...tokenizer import END_OF_TEXT, BPETokenizer, Tokenizer
from . import folder as folders
from .documents import Reading, items
from .encoding import PARTS, Batch, Ids, Place, batches, encoder
from .folder import Manifest, shard_name, totals
from .inputs import STDIN, Source, Survey, Unusable, sources, survey

LEARN = 1 << 25  # bytes of text that byte-pair encoding is learned from
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What is prepared, and how: the shards depend on nothing else."""

    paths: tuple[str, ...]  # files, folders, or "-" for standard input
    tokenizer: Tokenizer | None  # None: byte-pair encoding is learned from a sample of the text
    name: str  # of the tokenizer, for the manifest
    out: Path
    reading: Reading = field(default_factory=Reading)
    vocab_size: int | None = None  # of a tokenizer that is learned
    validation: float = 0.01  # share of the documents
    shard_tokens: int = 100_000_000

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("there is nothing to read: name files or folders, or - for standard input")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be between 0 and 1, such as 0.01, got {self.validation!r}")
        if self.paths.count(STDIN) > 1:
            raise ValueError("- is given twice: standard input can be read once")
        if self.tokenizer is None and STDIN in self.paths:
            raise ValueError("a tokenizer cannot be learned from standard input, which is read once: name one")
        if self.tokenizer is not None and END_OF_TEXT not in self.tokenizer.special_tokens:
            raise ValueError(f"the tokenizer has no {END_OF_TEXT}, which ends each document: use gpt2 or bpe")

    def sources(self) -> Iterator[Source]:
        return sources(self.paths, self.reading.suffixes, self.out)

    def how(self) -> dict[str, Any]:
        """The settings as JSON."""
        values = {**asdict(self.reading), "suffixes": list(self.reading.suffixes)}
        return {
            **values,
            "vocab_size": self.vocab_size,
            "validation": self.validation,
            "shard_tokens": self.shard_tokens,
        }


def prepare(job: Job, processes: int, overwrite: bool, say: Say) -> Manifest:
    """Write the shards of the text, or the rest of them, and return the manifest.

    ValueError or OSError, in one sentence, for paths, a tokenizer or a folder that cannot be used; everything is
    unchanged then. ImportError where an optional package is missing, RuntimeError where another process writes there.
    """
    for path in job.paths:
        check_path(path, job)
    folders.check_free(job.out)
    found = survey(job.sources())
    if not found.files:
        raise ValueError(f"there is no file to read in {', '.join(job.paths):.300}")
    job.out.mkdir(parents=True, exist_ok=True)
    with folders.locked(job.out, say):
        folders.take_next(job.out)  # of a process that was killed meanwhile
        replaces = overwrite and folders.is_prepared(job.out) and folders.read(job.out)["shards"]
        out = folders.next_folder(job.out) if replaces else job.out
        manifest = begun(job, out, found, say)
        if not manifest["complete"]:
            clock = write_shards(job, out, manifest, found, processes, say)
            if not manifest["complete"]:
                if replaces:
                    folders.remove_next(job.out)
                raise ValueError(incomplete(job, manifest))
            folders.take_next(job.out)
            report(job, manifest, clock, say)
        return manifest


def check_path(path: str, job: Job) -> None:
    """An error for a path that does not exist, and for a file with no text in its beginning."""
    if path == STDIN:
        if job.reading.format == "parquet":
            raise ValueError("Parquet cannot be read from standard input: name the file")
        return
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist: name files or folders, or - for standard input")
    if os.path.isdir(path):
        return
    if not os.path.isfile(path):
        raise OSError(f"{path} is no regular file: pipe it in, and name -")
    try:
        for _ in islice(items(Source(path, os.path.getsize(path), named=True), job.reading, lambda size: None), 1):
            pass
    except Unusable as error:
        raise ValueError(f"{path} {error}") from None


# ----- beginning and going on -------------------------------------------------------------------------------------


def begun(job: Job, out: Path, found: Survey, say: Say) -> Manifest:
    """The manifest to go on with: of a new folder, or of one with the same text and settings.

    `out` is the job's folder, or the one beside its shards where those that replace them are written.
    """
    origin = {"paths": [path if path == STDIN else os.path.abspath(path) for path in job.paths], **found._asdict()}
    if folders.is_prepared(out):
        manifest = folders.read(out)
        changes = differences(job, manifest, origin)
        if manifest["shards"] and not changes:
            return go_on(job, out, manifest, say)
        if manifest["shards"] and out == job.out:
            raise FileExistsError(
                f"{out} has another text already: {'; '.join(changes)}; name another folder, or give --overwrite"
            )
        folders.remove(out)
    folders.remove_leftovers(out)
    tokenizer = job.tokenizer or learned(job, found, say)
    folders.write(out, manifest := new_manifest(job, tokenizer, origin))
    tokenizer.save(out / folders.TOKENIZER)
    return manifest


def new_manifest(job: Job, tokenizer: Tokenizer, origin: dict[str, Any]) -> Manifest:
    described = {"name": job.name, "vocab_size": tokenizer.vocab_size, "sha256": sha256_of(tokenizer)}
    return {
        "format": folders.FORMAT, "version": folders.VERSION, "complete": False, "origin": origin, "how": job.how(),
        "tokenizer": described, "end_of_text": tokenizer.special_tokens[END_OF_TEXT],
        "made_with": {"gpt": __version__, "python": platform.python_version(), "tiktoken": version("tiktoken")},
        "place": Place()._asdict(), "skipped": {}, "shards": [], "files": [],
    }  # fmt: skip


def sha256_of(tokenizer: Tokenizer) -> str:
    """The SHA-256 of the file that the tokenizer would be saved as."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / folders.TOKENIZER)
        return str(fingerprint(Path(folder) / folders.TOKENIZER)["sha256"])


def differences(job: Job, manifest: Manifest, origin: dict[str, Any]) -> list[str]:
    """What differs from the text and the settings of the shards in a folder."""
    then, now = manifest["how"], job.how()
    changes = [f"{name} was {then.get(name)!r} and is {now[name]!r}" for name in now if then.get(name) != now[name]]
    if manifest["origin"].get("paths") != origin["paths"]:
        changes.append("it was made from other paths")
    elif manifest["origin"] != origin:
        changes.append("files were added, removed or changed since")
    if job.tokenizer is not None and manifest["tokenizer"].get("sha256") != sha256_of(job.tokenizer):
        changes.append(f"its tokenizer is {manifest['tokenizer'].get('name')!r:.80}, and another one is given")
    return changes


def go_on(job: Job, out: Path, manifest: Manifest, say: Say) -> Manifest:
    """Check what is there, after which the rest can be written."""
    with bar("checking the shards", sum(shard["bytes"] for shard in manifest["shards"]), "bytes") as advance:
        folders.verify(out, manifest, advance)
    folders.remove_unfinished(out, manifest)
    done = "is complete" if manifest["complete"] else "is continued"
    say(f"folder     {job.out} {done}: {counted(len(manifest['shards']), 'shard')} verified")
    return manifest


def learned(job: Job, found: Survey, say: Say) -> Tokenizer:
    """Byte-pair encoding of a sample of the training documents: 32 MiB, chosen by a hash of each, or all of them."""
    share, started = LEARN / max(1, found.bytes), time.monotonic()
    size = 0

    def sample() -> Iterator[str]:
        nonlocal size
        with bar("learning the tokenizer", found.bytes, "bytes") as advance:
            for batch in batches(job.sources(), job.reading, job.validation, Place(), advance):
                for piece in batch.pieces:
                    data = piece.text.encode()
                    if piece.part == "train" and zlib.crc32(data) < share * 2**32:
                        size += len(data)
                        yield piece.text

    tokenizer = BPETokenizer.train(sample(), job.vocab_size or 0)
    if not size:
        raise ValueError("there is no document to learn a tokenizer from")
    say(f"tokenizer  {counted(tokenizer.vocab_size, 'token')} learned from {bytes_text(size)} of text; "
        f"{time.monotonic() - started:.1f} s")  # fmt: skip
    return tokenizer


# ----- writing ----------------------------------------------------------------------------------------------------


def write_shards(job: Job, out: Path, manifest: Manifest, found: Survey, processes: int, say: Say) -> "Clock":
    """Write the shards that are missing, and the manifest after each pair; returns the clock of this."""
    clock = Clock(found.bytes if STDIN not in job.paths else None)
    sources, place = job.sources(), Place(**manifest["place"])
    with bar("encoding", clock.total, "bytes") as advance, encoder(out / folders.TOKENIZER, processes) as encode:

        def seen(size: int) -> None:
            clock.read(size)
            advance(size)

        results = encode(batches(sources, job.reading, job.validation, place, seen))
        ended = False
        while not ended:
            number = len({shard["name"].rpartition("-")[2] for shard in manifest["shards"]})
            shards, total, ended = write_pair(job, out, manifest, number, results)
            manifest["shards"] += shards
            manifest["place"] = total.end._asdict()
            for reason, count in total.skipped.items():
                known = manifest["skipped"].setdefault(reason, {"count": 0, "example": total.examples[reason]})
                known["count"] += count
            manifest["complete"] = ended and all(totals(manifest, part)["tokens"] for part in PARTS)
            folders.write(out, manifest)
            if shards and not ended:
                sizes = " + ".join(f"{shard['tokens']:,} {shard['part']}" for shard in shards)
                say(f"shards {number:<4}{sizes} tokens; {clock}")
    return clock


def write_pair(
    job: Job, out: Path, manifest: Manifest, number: int, results: Iterator[tuple[Batch, Ids]]
) -> tuple[list[dict[str, Any]], Batch, bool]:
    """Write the next shard of each part: their entries in the manifest, the sums of the batches, if it was the last."""
    total, tokens, write = Batch(Place(**manifest["place"])), Counter[str](), dict[str, Callable[[Any], int]]()
    vocab_size, ended = manifest["tokenizer"]["vocab_size"], True
    with ExitStack() as stack:
        for batch, ids in results:
            total.add_counts(batch)
            for part in (part for part in PARTS if ids[part]):
                if part not in write:
                    path = out / shard_name(part, number)
                    write[part] = stack.enter_context(token_writer(path, vocab_size))
                tokens[part] = write[part](ids[part])
            if tokens.total() >= job.shard_tokens:
                ended = False
                break
    shards = [
        {"name": shard_name(part, number), "part": part, "documents": total.documents[part], "tokens": tokens[part],
         "text_bytes": total.text_bytes[part], **fingerprint(out / shard_name(part, number))}
        for part in PARTS if part in write
    ]  # fmt: skip
    system.sync(out)
    return shards, total, ended


def incomplete(job: Job, manifest: Manifest) -> str:
    """What to do about a text of which a part has no document."""
    documents = {part: totals(manifest, part)["documents"] for part in PARTS}
    if not any(documents.values()):
        why = "".join(f"; left out {one['count']:,}: {reason}" for reason, one in manifest["skipped"].items())
        where = ", ".join("standard input" if path == STDIN else path for path in job.paths)
        return f"there is no text in {where:.300}{why:.300}"
    missing = next(part for part, count in documents.items() if not count)
    total = sum(documents.values())
    found = "the only document is in one part" if total == 1 else f"all {total:,} documents are in one part"
    return (
        f"{found}, and none is {missing} text: give more documents (--split-on cuts texts into several) or another "
        "--validation, and --overwrite"
    )


def report(job: Job, manifest: Manifest, clock: "Clock", say: Say) -> None:
    for reason, one in sorted(manifest["skipped"].items(), key=lambda pair: -pair[1]["count"]):
        say(f"left out   {one['count']:,}: {reason}, such as {one['example']}")
    for part in PARTS:
        sums = totals(manifest, part)
        say(f"{part:11}{counted(sums['tokens'], 'token')} of {counted(sums['documents'], 'document')}, "
            f"{bytes_text(sums['text_bytes'])} of text, in {counted(sums['shards'], 'shard')}")  # fmt: skip
    say(f"folder     {job.out}, {clock}: gpt train --text {in_shell(job.out)}")


class Clock:
    """How fast the sources are read, and how long the rest will take."""

    def __init__(self, total: int | None):
        self.total, self.bytes, self.started = total, 0, time.monotonic()

    def read(self, size: int) -> None:
        self.bytes += size

    def __str__(self) -> str:
        seconds = max(1e-9, time.monotonic() - self.started)
        rate = self.bytes / seconds
        text = f"{seconds:,.1f} s, {rate / 1e6:,.1f} MB/s"
        if self.total is None or self.bytes >= self.total or not rate:
            return text
        return f"{text}, {(self.total - self.bytes) / rate:,.0f} s left"
