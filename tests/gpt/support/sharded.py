"""For the tests of `gpt data prepare`: a small tokenizer, the same by tiktoken alone, and shards read by NumPy."""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiktoken

from gpt.data.shards.documents import Reading
from gpt.data.shards.write import Job, prepare
from gpt.tokenizer import BPETokenizer

SPOKEN = "the cat sat on the mat, and it isn't 1234 cats; it was the dogs and the other birds that sat.\n" * 3
TOKENIZER = BPETokenizer.train(SPOKEN, 290)
END = 289
assert TOKENIZER.special_tokens == {"<|endoftext|>": END}
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # as OpenAI published it
ORACLE = tiktoken.Encoding(
    "oracle", pat_str=PATTERN, mergeable_ranks={token: i for i, token in enumerate(TOKENIZER.tokens)}, special_tokens={}
)


def part_of(document: str, validation: float) -> str:
    """The documented rule: the first 64 bits of the SHA-256, as a fraction."""
    number = int(hashlib.sha256(document.encode()).hexdigest()[:16], 16)
    return "validation" if number / 16**16 < validation else "train"


def expected(documents: list[str], validation: float) -> dict[str, list[int]]:
    """The tokens of each part: those of tiktoken, each document with its end."""
    found: dict[str, list[int]] = {"train": [], "validation": []}
    for document in documents:
        found[part_of(document, validation)] += [*ORACLE.encode_ordinary(document), END]
    return found


def stored(folder: Path) -> dict[str, list[int]]:
    """The tokens of each part: what follows the header in its files, in the order of their names."""
    return {
        part: [
            int(i) for path in sorted(folder.glob(f"{part}-*.tokens")) for i in np.fromfile(path, "<u2", offset=32)
        ]
        for part in ("train", "validation")
    }  # fmt: skip


def job(out: Path, *paths, **changes) -> Job:
    """A job with the small tokenizer, where half of all documents are for validation."""
    reading = {name: changes.pop(name) for name in list(changes) if name in Reading.__dataclass_fields__}
    return Job(
        **{
            "paths": tuple(map(str, paths)), "tokenizer": TOKENIZER, "name": "small", "out": out,
            "reading": Reading(**reading), "validation": 0.5, **changes,
        }
    )  # fmt: skip


def run(job: Job, processes: int = 1, overwrite: bool = False) -> list[str]:
    """Prepare; the lines that were printed."""
    lines: list[str] = []
    prepare(job, processes, overwrite, lines.append)
    return lines


# ----- files of documents, each written by its own library --------------------------------------------------------


def text_files(folder: Path, documents: list[str]) -> list[Path]:
    paths = [folder / f"{i:04d}.txt" for i in range(len(documents))]
    for path, document in zip(paths, documents, strict=True):
        path.write_bytes(document.encode())
    return paths


def json_lines(path: Path, documents: list[str]) -> list[Path]:
    path.write_text("".join(json.dumps({"id": i, "text": d}) + "\n" for i, d in enumerate(documents)), encoding="utf-8")
    return [path]


def parquet(path: Path, documents: list[str]) -> list[Path]:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": list(range(len(documents))), "text": documents}), path, row_group_size=3)
    return [path]


def csv_file(path: Path, documents: list[str]) -> list[Path]:
    import csv

    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([i, document] for i, document in enumerate(documents))])
    return [path]


def packed(path: Path, pack: Callable[[bytes], bytes]) -> list[Path]:
    path.with_name(f"{path.name}.packed").write_bytes(pack(path.read_bytes()))
    return [path.with_name(f"{path.name}.packed").rename(path.with_name(f"{path.name}.{suffix(pack)}"))]


def suffix(pack: Callable[[bytes], bytes]) -> str:
    return "gz" if pack is gzip.compress else "zst"
