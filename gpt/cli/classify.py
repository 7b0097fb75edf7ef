"""`gpt classify`: label texts with a fine-tuned classifier."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from tensorlite import backend, set_matmul_dtype
from tensorlite.devices import machine

from .. import fast
from ..config import check_device
from ..console import bar, counted, show
from ..data import corpus
from ..tasks.classify import TrainedClassifier, load, predict, predict_lines
from ..tasks.classify.inference import format_prediction
from ..training import checkpoint

BATCH = 16  # longest texts per batch, or as many tokens of shorter ones
TOGETHER = 512  # lines that are sorted by length and labelled before their results are printed
MOST_KNOWN = 1 << 16  # different lines whose results are kept for lines that occur again

Result = tuple[dict[str, float] | ValueError | None, bool]  # of a line: as from `predict_lines`; whether it was cut


@dataclass(frozen=True)
class Classify:
    """Label texts with a run of `gpt finetune classify`: prints a line for each, label, probability and text.

    They are separated by tabs. Each line of a file or of standard input is a text; label and probability of a blank
    line are empty, and those of a line that is not UTF-8 or has no token: it is reported, and the exit status is 1.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]  # directory of the run
    # texts to label; default: each line of standard input
    texts: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT")] = ()
    file: Path | None = None  # label each line of this file
    step: str | None = None  # the model after this step, or best: with the lowest validation loss; default: the newest
    json: bool = False  # print JSON lines, with the probabilities of all labels
    dtype: Literal["float32", "tf32", "bfloat16"] = "float32"  # of matrix products; tf32, bfloat16: faster, less exact
    device: str = "auto"  # cpu, cuda or cuda:1 (the second GPU); auto: a GPU if one is usable

    def __post_init__(self) -> None:
        check_device(self.device)

    def __call__(self) -> int:
        if self.texts and self.file:
            raise ValueError("give texts or --file, not both")
        machine.set_threads(machine.default_threads())
        fast.attach_classify()
        device = backend.use_device(self.device)
        about_dtype = set_matmul_dtype(self.dtype, device)
        if self.dtype != "float32":
            print(f"dtype: {about_dtype}", file=sys.stderr)
        trained = load(self.run, device, checkpoint.folder_at(self.run, self.step))
        if self.texts:
            cut: set[int] = set()
            found = predict(trained, self.texts, BATCH, cut)
            for i, (text, p) in enumerate(zip(self.texts, found, strict=True)):
                show(format_prediction(text, p, self.json, i in cut) + "\n")
            report_cut(len(cut), trained)
            return 0
        if self.file:
            lines = corpus.read_text(self.file, "surrogateescape").removesuffix("\n").split("\n")
            batches, source, total = iter([lines]), str(self.file), len(lines)
        else:
            batches, source, total = incoming(), "standard input", None
        faults = number = cuts = 0
        known: dict[str, Result] = {}
        silent = total is None or sys.stdout.isatty()  # the lines themselves show the progress
        with nullcontext(lambda n: None) if silent else bar("labelling", total) as advance:
            for lines in batches:
                for start in range(0, len(lines), TOGETHER):
                    some = lines[start : start + TOGETHER]
                    wrong, cut_here = self.label(trained, some, known, f"{source}, line", number + 1)
                    faults, cuts = faults + wrong, cuts + cut_here
                    number += len(some)
                    advance(len(some))
        report_cut(cuts, trained)
        return 1 if faults else 0

    def label(
        self, trained: TrainedClassifier, lines: Sequence[str], known: dict[str, Result], where: str, number: int
    ) -> tuple[int, int]:
        """Label each line and print the results; return how many lines had no label, and how many were cut.

        A line with an entry in `known` is not computed again; the new ones are added.
        """
        if len(known) > MOST_KNOWN:
            known.clear()
        new, cut = [line for line in dict.fromkeys(lines) if line not in known], set[int]()
        for i, (line, p) in enumerate(zip(new, predict_lines(trained, new, BATCH, cut), strict=True)):
            known[line] = p, i in cut
        faults = cuts = 0
        for i, line in enumerate(lines):
            p, was_cut = known[line]
            if isinstance(p, ValueError):
                print(f"{where} {number + i}: {p}", file=sys.stderr)
                faults += 1
                p = None
            show(format_prediction(line, p, self.json, was_cut) + "\n")
            cuts += was_cut
        return faults, cuts


def report_cut(count: int, trained: TrainedClassifier) -> None:
    """Say on standard error how many texts were cut, if any."""
    if count:
        what = "1 text was" if count == 1 else f"{count:,} texts were"
        print(
            f"{what} longer than {counted(trained.padding.length, 'token')} and {what.split()[-1]} cut", file=sys.stderr
        )


def incoming() -> Iterator[list[str]]:
    """The lines of standard input, in lists of those that have arrived: there is no waiting for a full batch."""
    try:
        descriptor = sys.stdin.fileno()
    except (io.UnsupportedOperation, AttributeError):  # replaced by an object without a file
        yield [line.rstrip("\r\n") for line in sys.stdin]
        return
    held: list[bytes] = []  # the start of an incomplete line
    first = True
    while block := os.read(descriptor, 1 << 16):
        *ended, rest = block.split(b"\n")
        if ended:
            ended[0] = b"".join([*held, ended[0]])
            held = []
            if first:
                ended[0] = ended[0].removeprefix(b"\xef\xbb\xbf")
                first = False
            yield [text_of(line) for line in ended]
        held.append(rest)
    if line := b"".join(held):
        yield [text_of(line.removeprefix(b"\xef\xbb\xbf") if first else line)]


def text_of(line: bytes) -> str:
    """A line as text; bytes that are not UTF-8 become lone surrogates, which no tokenizer accepts."""
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")
