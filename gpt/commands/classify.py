"""`gpt classify`: a fine-tuned classifier labels texts."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from tensorlite import backend, machine

from .. import classify, corpus
from ..config import check_device


@dataclass(frozen=True)
class Classify:
    """Label texts with a run of `gpt finetune classify`: a line each, label, probability and text between tabs."""

    run: Positional[Path]  # directory of the run
    texts: Positional[tuple[str, ...]] = ()  # what to label; default: each line of standard input
    file: Path | None = None  # label each line of this file
    json: bool = False  # a JSON object a line, with the probabilities of all labels
    device: str = "auto"  # cpu, cuda or cuda:1, the second GPU; auto: the GPU if one answers

    def __post_init__(self) -> None:
        check_device(self.device)

    def __call__(self) -> int:
        machine.set_threads(machine.default_threads())
        trained = classify.load(self.run, backend.use_device(self.device))
        for text in self.lines():
            (p,) = classify.classify(trained, [text])
            sys.stdout.write(classify.answer(text, p, self.json) + "\n")
            sys.stdout.flush()
        return 0

    def lines(self):
        """The texts: given, of the file, or as they come in; lines without a visible character are passed over."""
        if self.texts and self.file:
            raise ValueError("give texts or --file, not both")
        source = self.texts or (corpus.read_text(self.file).split("\n") if self.file else sys.stdin)
        return (line.strip("\n") for line in source if self.texts or line.strip())
