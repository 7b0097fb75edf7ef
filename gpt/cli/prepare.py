"""`gpt data prepare`: text of any size as shards of token ids, to train on with `gpt train --text DIR`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from tensorlite.devices import machine

from ..config import check_integer
from ..console import Output, say
from ..data.shards.documents import Reading
from ..data.shards.write import Job, prepare
from ..tokenizer import Tokenizer
from .tokenize import tokenizer_of


@dataclass(frozen=True, kw_only=True)
class DataPrepare:
    """Encode text of any size once, as shards of tokens that `gpt train --text DIR` maps into memory.

    A PATH is a file, a folder, whose files are all read, or - for standard input. What is not text is left out and
    counted. A command that was killed goes on when it is given again.
    """

    usual: ClassVar = "--out"
    groups: ClassVar = {
        "what is read": ("suffix", "format", "field", "column", "split_on"),
        "what is written": ("tokenizer", "vocab_size", "validation", "shard_tokens", "out", "overwrite"),
    }

    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="PATH")] = ()  # files, folders, or - (standard input)
    # gpt2, a run or a folder of shards, whose tokenizer is used, or bpe, which is learned from the text
    tokenizer: Annotated[str, arg(metavar="gpt2|bpe|RUN")]
    out: Annotated[Path, arg(metavar="DIR")]  # the folder of the shards
    vocab_size: int = 2048  # how many tokens bpe makes
    validation: float = 0.01  # share of the documents that are not trained on but measure the loss
    shard_tokens: int = 100_000_000  # tokens of a shard: a killed command loses at most one
    overwrite: bool = False  # replace the shards of another text in DIR; its other files are kept

    suffix: tuple[str, ...] = ()  # of the files that are read in folders, such as .py .md; default: all
    # auto: .jsonl and .ndjson are JSON lines, .csv and .tsv tables, .parquet Parquet, all others text
    format: Literal["auto", "text", "jsonl", "csv", "parquet"] = "auto"
    field: str = "text"  # the field of JSON lines that holds a document
    column: str = "text"  # the column of CSV and Parquet that holds a document
    # in a text: what separates documents, such as "<|endoftext|>"; default: a file is one document
    split_on: str | None = None
    processes: int | None = None  # default: the cores of this process; the result does not depend on it

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("paths is missing: name files or folders, or - for standard input")
        check_integer("shard_tokens", self.shard_tokens, low=1)
        if self.processes is not None:
            check_integer("processes", self.processes, low=1)
        if self.tokenizer == "bpe":
            check_integer("vocab_size", self.vocab_size, low=257)
        elif self.vocab_size != 2048:
            raise ValueError("vocab_size is that of the tokenizer, except for --tokenizer bpe: omit it")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be between 0 and 1, such as 0.01, got {self.validation!r}")
        self.reading()

    def reading(self) -> Reading:
        suffixes = tuple(f".{suffix.removeprefix('.')}".lower() for suffix in self.suffix)
        return Reading(suffixes, self.format, self.field, self.column, self.split_on)

    def chosen(self) -> Tokenizer:
        """The tokenizer that is not to be learned. FileNotFoundError where there is none of that name."""
        try:
            return tokenizer_of(self.tokenizer)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}: --tokenizer is gpt2, bpe, a run, or a folder of shards") from None

    def __call__(self) -> int:
        learn = self.tokenizer == "bpe"
        job = Job(
            self.paths, None if learn else self.chosen(), self.tokenizer, self.out, self.reading(),
            self.vocab_size if learn else None, self.validation, self.shard_tokens,
        )  # fmt: skip
        console = Output()
        prepare(job, self.processes or machine.usable_cores(), self.overwrite, lambda line: say(console, None, line))
        return 0
