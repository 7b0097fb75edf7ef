"""How long the page of `gpt look` takes for each of its answers: `python -m examples.benchmarks.look`.

It makes two runs with random weights, the model `nano` and GPT-2 with 124M parameters, starts `gpt look`, and sends the
requests that the page sends for a text of 64 tokens, each time with another text, so that no answer is one from before.
The times are those of the client, with the transfer. The first request for a model, which loads it, is not counted.
Every limit is one of the issue that introduced the page. The exit status is 1 where a time is above its limit.

    python -m examples.benchmarks.look                  both models
    python -m examples.benchmarks.look --models nano    one of them
    python -m examples.benchmarks.look --run RUN        also a run of yours, with nano's limits
"""

import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import tyro

import tensorlite as tl
from gpt import tokenizer as tokenizers
from gpt.config import PRESETS, GPTConfig
from gpt.model import GPT
from gpt.tokenizer import BPETokenizer
from gpt.training import checkpoint
from tensorlite import io
from tensorlite.devices import machine

from .report import table
from .setup import UNWANTED

TOKENS = 64
BLOCK = 1  # whose backward pass is shown


class Measured(NamedTuple):
    """One line of the table: requests that are sent one after another, and the longest time for all of them."""

    name: str
    requests: tuple[tuple[str, dict[str, Any]], ...]  # path, and the fields of the body besides run and text
    limit: dict[str, float | None]  # seconds, by model; None: no limit
    first: bool = False  # only until the first line of the answer


ATTENTION = ("/api/attention", {"layer": 0, "head": 0})
LENS = ("/api/lens", {"k": 5})
RESIDUAL = ("/api/residual", {})
EMBEDDINGS = (
    ("/api/embeddings/positions", {}),
    ("/api/embeddings/map", {}),
    ("/api/embeddings/nearest", {"token": 5}),
)
LOOK = (ATTENTION, LENS, RESIDUAL, *EMBEDDINGS)
STEP = ("/api/learn/step", {"optimizer": "adamw", "moments": "fresh", "count": 1})
PAGE = 0.15  # seconds for every view of a small model

TABLE = (
    Measured("first token after the click", (("/api/generate", {"tokens": 100}),), {"nano": PAGE, "gpt2": 1.0}, True),
    Measured("look inside 64 tokens, all views", LOOK, {"nano": None, "gpt2": 3.0}),
    Measured("a step of learning", (STEP,), {"nano": PAGE, "gpt2": 10.0}),
    Measured("tokens", (("/api/tokens", {}),), {"nano": PAGE, "gpt2": None}),
    Measured("attention", (ATTENTION,), {"nano": PAGE, "gpt2": None}),
    Measured("logit lens", (LENS,), {"nano": PAGE, "gpt2": None}),
    Measured("residual stream", (RESIDUAL,), {"nano": PAGE, "gpt2": None}),
    Measured("embeddings", EMBEDDINGS, {"nano": PAGE, "gpt2": None}),
    Measured("learn, before the step", (("/api/learn/before", {}),), {"nano": PAGE, "gpt2": None}),
    Measured("gradients by layer", (("/api/learn/gradients", {}),), {"nano": PAGE, "gpt2": None}),
    Measured("backward, node by node", (("/api/backward", {"block": BLOCK}),), {"nano": PAGE, "gpt2": None}),
    Measured("the runs", (("/api/runs", {}),), {"nano": PAGE, "gpt2": None}),
)


@dataclass(frozen=True)
class Flags:
    """Measure the answers of `gpt look`."""

    models: str = "nano,gpt2"  # of nano, gpt2, with commas
    run: Path | None = None  # also a run of yours
    times: int = 5  # requests for each number; the median is shown
    only: str | None = None  # only the lines of the table with this text in their names


def main(args: list[str] | None = None) -> int:
    flags = tyro.cli(Flags, args=args, prog="python -m examples.benchmarks.look", description=__doc__)
    names = [name for name in flags.models.split(",") if name]
    if unknown := [name for name in names if name not in ("nano", "gpt2")]:
        raise SystemExit(f"there is no model {unknown[0]!r}: give nano, gpt2")
    with tempfile.TemporaryDirectory() as folder:
        runs = [make_run(Path(folder) / name, config(name)) for name in names] + ([flags.run] if flags.run else [])
        rows = [row for run in runs for row in measure(run, flags.times, flags.only)]
    header = ["model", "view", "ms", "limit, ms", ""]
    print(table(header, [row.cells() for row in rows]))
    return int(any(row.over for row in rows))


@dataclass(frozen=True)
class Row:
    """A line of the result."""

    model: str
    name: str
    seconds: float | None  # None: the server's sentence is in `note`
    limit: float | None
    note: str = ""

    @property
    def over(self) -> bool:
        return self.seconds is None or (self.limit is not None and self.seconds > self.limit)

    def cells(self) -> list[str]:
        took = "" if self.seconds is None else f"{1000 * self.seconds:,.0f}"
        limit = "" if self.limit is None else f"{1000 * self.limit:,.0f}"
        return [self.model, self.name, took, limit, self.note or ("over" if self.over else "")]


# ----- the runs ---------------------------------------------------------------------------------------------------


def config(name: str) -> GPTConfig:
    return PRESETS[name].with_dropout(0.0)


def make_run(run: Path, shape: GPTConfig) -> Path:
    """A run of random weights, whose tokens are bytes and pairs of bytes."""
    pairs = [bytes([a, b]) for a in range(32, 256) for b in range(32, 256)]
    tokenizer = BPETokenizer([bytes([i]) for i in range(256)] + pairs[: shape.vocab_size - 257])
    shape = replace(shape, vocab_size=tokenizer.vocab_size)
    run.mkdir(parents=True)
    for log in checkpoint.LOGS:
        (run / log).touch()
    tl.manual_seed(0)
    model = GPT(shape)
    description = {"format": "gpt.run", "version": checkpoint.VERSION, "model": shape.to_dict()}
    with checkpoint.writing(run, 0, 4 * model.num_parameters()) as folder:
        checkpoint.write_json(folder / "config.json", description)
        tokenizer.save(folder / "tokenizer.json")
        io.save(folder / "model.safetensors", model.state_dict())
        io.save(folder / "training.safetensors", {}, {"training": json.dumps({"step": 0})})
    return run


def texts(run: Path) -> Iterator[str]:
    """Texts of TOKENS tokens each, without end."""
    tokenizer = tokenizers.load(run / "tokenizer.json")
    words = "to be or not that is the question whether tis nobler in mind to suffer slings and arrows".split()  # noqa: SIM905
    chance = random.Random(0)
    while True:
        text = ""
        while len(tokenizer.encode(longer := f"{text}{chance.choice(words)} ")) < TOKENS:
            text = longer
        while len(tokenizer.encode(text)) < TOKENS:
            text += chance.choice("abcdefghij")
        yield text


# ----- the server -------------------------------------------------------------------------------------------------


@contextmanager
def served(run: Path) -> Iterator[http.client.HTTPConnection]:
    """A connection to `gpt look` for that run, in a process of its own, with the threads that a user's would have."""
    command = [sys.executable, "-m", "gpt", "look", str(run), "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().strip().rstrip("/")
            yield http.client.HTTPConnection(address.removeprefix("http://"), timeout=600)
        finally:
            process.terminate()


def measure(run: Path, times: int, only: str | None = None) -> Iterator[Row]:
    """The rows of a run."""
    more = texts(run)
    model = run.name if run.name in ("nano", "gpt2") else "nano"
    with served(run) as connection:
        ask(connection, run.name, "/api/tokens", {"text": next(more)}, False)  # loads the model
        for line in TABLE:
            if only and only not in line.name:
                continue
            try:
                taken = [once(connection, run.name, line, next(more)) for _ in range(times + 1)]
            except RuntimeError as error:
                yield Row(run.name, line.name, None, line.limit[model], str(error))
                continue
            yield Row(run.name, line.name, statistics.median(taken[1:]), line.limit[model])


def once(connection: http.client.HTTPConnection, run: str, line: Measured, text: str) -> float:
    """Seconds for the requests of a line of the table."""
    began = time.perf_counter()
    for path, fields in line.requests:
        ask(connection, run, path, {"text": text, **fields}, line.first)
    return time.perf_counter() - began


def ask(connection: http.client.HTTPConnection, run: str, path: str, fields: dict[str, Any], first: bool) -> None:
    """Send a request and read its answer, or only its first line. RuntimeError with the server's sentence."""
    if path == "/api/runs":
        connection.request("GET", path)
    else:
        body = json.dumps({"run": run, "step": None, "session": None, **fields})
        connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if first:
        text = answer.readline()
        connection.close()  # which stops the computation
    else:
        text = answer.read()
    if answer.status != 200 or b'"error":' in text[-500:]:
        raise RuntimeError(f"{path}: {answer.status}: {text[-200:].decode(errors='replace').strip()}")


if __name__ == "__main__":
    clean = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    if len(clean) < len(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", "examples.benchmarks.look", *sys.argv[1:]], clean)
    machine.set_threads(machine.default_threads())
    sys.exit(main())
