"""What the tests of checkpoints share: a model whose state differs from step to step; calls that fail on purpose."""

import builtins
import io
import os
from contextlib import contextmanager
from pathlib import Path

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from gpt.tokenizer import CharTokenizer
from gpt.training import checkpoint
from tensorlite.optim import AdamW

CONFIG = GPTConfig(vocab_size=5, context_length=4, n_layer=1, n_head=1, n_embd=4)
DESCRIPTION = {"format": "gpt.run", "version": 1, "model": CONFIG.to_dict()}
TOKENIZER = CharTokenizer.train("abcde")


class Trained:
    """A model that learns nothing, whose state still differs from step to step."""

    def __init__(self, run: Path):
        self.run, self.model = run, GPT(CONFIG)
        self.optimizer = AdamW(self.model.parameters(), lr=0.1)

    def step(self, step: int) -> None:
        for p in self.model.parameters():
            p.grad = tl.full(p.shape, float(step))
        self.optimizer.step()
        for log in checkpoint.LOGS:
            with open(self.run / log, "a", encoding="utf-8") as file:
                file.write(f"step {step}\n")

    def save(self, step: int, keep: int = 2) -> None:
        checkpoint.save(
            self.run, step, config=DESCRIPTION, tokenizer=TOKENIZER, model=self.model, optimizer=self.optimizer,
            state={"said": f"after {step}"}, keep=keep,
        )  # fmt: skip

    def weights(self) -> list:
        return [p.tolist() for p in self.model.parameters()]


def restored(run: Path) -> tuple[Trained, dict]:
    """What a new process finds."""
    found, _ = checkpoint.newest(run)
    fresh = Trained(run)
    return fresh, checkpoint.restore(run, found, fresh.model, fresh.optimizer)


class Killed(BaseException):
    """Stands for a process that ends here: no handler for errors sees it."""


@contextmanager
def failing(monkeypatch, folder: Path, at: int, error: BaseException):
    """The `at`-th call that changes something below `folder` raises; yields the list of calls."""
    calls = []

    def count(name, path):
        if str(path).startswith(str(folder)) or isinstance(path, int):
            calls.append(name)
            if len(calls) == at:
                raise error

    def counting(module, name):
        real = getattr(module, name)

        def call(path, *args, **kwargs):
            count(name, path)
            return real(path, *args, **kwargs)

        return call

    class CountedFile(io.FileIO):
        def write(self, data):
            count("write", self.name)
            return super().write(data)

    real_open = builtins.open

    def counted_open(path, mode="r", *args, **kwargs):
        if not set(mode) & set("wax+"):
            return real_open(path, mode, *args, **kwargs)
        count("open", path)
        file = io.BufferedWriter(CountedFile(path, mode.replace("b", "").replace("t", "")))
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=True)

    with monkeypatch.context() as patch:
        for name in ("fsync", "rename", "replace", "link", "unlink", "mkdir", "rmdir"):
            patch.setattr(os, name, counting(os, name))
        patch.setattr(builtins, "open", counted_open)
        patch.setattr(io, "open", counted_open)
        yield calls
