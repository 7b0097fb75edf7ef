"""`gpt classify`: a fine-tuned classifier labels texts."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from tensorlite import backend
from tensorlite.devices import machine

from ..config import check_device
from ..console import bar, counted, show
from ..data import corpus
from ..tasks.classify import task as classify

BATCH = 16  # texts that are labelled together


@dataclass(frozen=True)
class Classify:
    """Label texts with a run of `gpt finetune classify`: a line each, label, probability and text between tabs.

    Each line of a file or of standard input gives a line; label and probability of a blank one are empty.
    """

    run: Positional[Path]  # directory of the run
    texts: Positional[tuple[str, ...]] = ()  # what to label; default: each line of standard input
    file: Path | None = None  # label each line of this file
    json: bool = False  # a JSON object a line, with the probabilities of all labels
    device: str = "auto"  # cpu, cuda or cuda:1, the second GPU; auto: the GPU if one answers

    def __post_init__(self) -> None:
        check_device(self.device)

    def __call__(self) -> int:
        if self.texts and self.file:
            raise ValueError("give texts or --file, not both")
        machine.set_threads(machine.default_threads())
        trained = classify.load(self.run, backend.use_device(self.device))
        if self.texts:
            cut: set[int] = set()
            found = classify.classify(trained, self.texts, BATCH, cut)
            for i, (text, p) in enumerate(zip(self.texts, found, strict=True)):
                show(classify.answer(text, p, self.json, i in cut) + "\n")
            say_cut(len(cut), trained)
            return 0
        if self.file:
            lines = corpus.read_text(self.file).removesuffix("\n").split("\n")
            batches, source, total = iter([lines]), str(self.file), len(lines)
        else:
            batches, source, total = incoming(), "standard input", None
        faults = number = cuts = 0
        silent = total is None or sys.stdout.isatty()  # the lines themselves show how far it is
        with nullcontext(lambda n: None) if silent else bar("labelling", total) as advance:
            for lines in batches:
                for start in range(0, len(lines), BATCH):
                    some = lines[start : start + BATCH]
                    wrong, cut_here = self.label(trained, some, f"{source}, line", number + 1)
                    faults, cuts = faults + wrong, cuts + cut_here
                    number += len(some)
                    advance(len(some))
        say_cut(cuts, trained)
        return 1 if faults else 0

    def label(self, trained: classify.Trained, lines: Sequence[str], where: str, number: int) -> tuple[int, int]:
        """Answer each line; how many could not be labelled, and how many were cut."""
        faults, cut = 0, set[int]()
        for i, (line, p) in enumerate(zip(lines, classify.classify_lines(trained, lines, BATCH, cut), strict=True)):
            if isinstance(p, ValueError):
                print(f"{where} {number + i}: {p}", file=sys.stderr)
                faults += 1
                p = None
            show(classify.answer(line, p, self.json, i in cut) + "\n")
        return faults, len(cut)


def say_cut(count: int, trained: classify.Trained) -> None:
    """On standard error, if there are any."""
    if count:
        what = "1 text was" if count == 1 else f"{count:,} texts were"
        print(
            f"{what} longer than {counted(trained.padding.length, 'token')} and {what.split()[-1]} cut", file=sys.stderr
        )


def incoming() -> Iterator[list[str]]:
    """The lines of standard input in lists, each of what has come by then: nobody waits for a batch to be full."""
    try:
        descriptor = sys.stdin.fileno()
    except (io.UnsupportedOperation, AttributeError):  # no file: text that was put there
        yield [line.rstrip("\r\n") for line in sys.stdin]
        return
    held: list[bytes] = []  # of a line whose end has not come
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
    """A line as text; bytes that are not UTF-8 become lone surrogates, which no tokenizer takes."""
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")
