"""Two processes that take turns, and the resulting measurements.

A result is a row of numbers under a key (task, configuration, batch, peer). A duel makes one row; one
that fails makes a row with the reason, so that the others continue.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorlite as tl
from gpt.data.corpus import split
from gpt.model import GPT
from gpt.tokenizer import create
from tensorlite import io
from tensorlite.data import write_tokens

from . import setup
from .setup import Job
from .worker import MARK

Row = dict[str, Any]


class Failed(Exception):
    """A contestant ended, or gave a wrong answer."""


class Player:
    """A contestant in its own process."""

    def __init__(self, job: Job):
        self.who = job.who
        environment = {name: value for name, value in os.environ.items() if name not in setup.UNWANTED}
        environment |= {f"{library}_NUM_THREADS": str(job.threads) for library in ("OMP", "OPENBLAS", "MKL")}
        if "numpy" in job.options:
            environment["TENSORLITE_NUMBA"] = "0"
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # close() does
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker", job.to_json()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment,
        )  # fmt: skip

    def ask(self, *words: object) -> Any:
        """Give a command and wait for the result."""
        assert self.process.stdin
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.who} ended before the command {words[0]!r}") from None
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(MARK):
                value = json.loads(line.removeprefix(MARK))
                if isinstance(value, dict) and "failed" in value:
                    raise Failed(value["failed"])
                return value
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        raise Failed(f"{self.who} ended with status {self.process.wait()}: {said[-1] if said else 'it said nothing'}")

    def close(self) -> None:
        """End the process; a second call has no effect."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


@contextmanager
def playing(*jobs: Job) -> Iterator[list[Player]]:
    """Players for the jobs, ended when the block ends."""
    players: list[Player] = []
    try:
        for job in jobs:
            players.append(Player(job))
        for player in players:
            player.answer()  # ready
        yield players
    finally:
        for player in players:
            player.close()


# ----- agreement ------------------------------------------------------------------------------------------------------


def prepare(folder: Path, config: str, device: str = "cpu") -> None:
    """Weights and tokens for all contestants of a configuration."""
    shape, batch = setup.configs(device)[config]
    tl.manual_seed(1)
    tokens = tl.randint(0, shape.vocab_size, (max(batch, *setup.BATCHES[device]), shape.context_length + 1))
    io.save(folder / "start.safetensors", GPT(shape).state_dict() | {"tokens": tokens})


def agree(ours: str, theirs: str, tolerance: float) -> float:
    """The largest difference between answers, relative to the norm of tensorlite's; Failed above the tolerance.

    The norm of a gradient counts as at least a thousandth of the global norm: some, such as that of the keys'
    bias, are zero up to rounding errors.
    """
    worst, mine, peers = 0.0, io.load(ours), io.load(theirs)
    whole = math.hypot(*(x.norm().item() for name, x in mine.items() if name not in ("loss", "tokens")))
    for name, x in mine.items():
        if x.dtype.kind in "iu":
            if x.tolist() != peers[name].tolist():
                raise Failed(f"its {name} differ from tensorlite's: nothing was timed")
            continue
        length = abs(x.item()) if name == "loss" else max(x.norm().item(), whole / 1000)
        error = (x - peers[name]).norm().item() / length
        if not error <= tolerance:
            raise Failed(f"it differs in {name} by {error:.1e}, more than {tolerance:.0e}: nothing was timed")
        worst = max(worst, error)
    return worst


# ----- duels ----------------------------------------------------------------------------------------------------------


def train_or_decode(job: Job, turns: int, seconds: float) -> Row:
    """tensorlite against job.who: agreement, then turns of about `seconds` each, then the memory of each; a row."""
    jobs = (job.ours(), job)
    row: Row = {"largest_difference": largest_difference(job)}
    with playing(*jobs) as players:
        times = take_turns(players, turns, seconds)
        row |= products_of(job, players, times, seconds) if job.task == "train" else bytes_read(players[0], times[0])
    for side, each, found in zip(("our", "their"), jobs, times, strict=True):
        row[f"{side}_ms"] = 1e3 * statistics.median(found)
        row[f"{side}_ms_all"] = [round(1e3 * t, 4) for t in found]
        with playing(each) as (player,):
            player.ask("run", 3 if job.task == "train" else 1)
            row[f"{side}_peak_MiB"] = player.ask("peak") / 2**20
    return row | {"times_as_fast": statistics.median(b / a for a, b in zip(*times, strict=True))}


def largest_difference(job: Job) -> float | None:
    """The differences between the answers of tensorlite in float32 and the peer's; Failed where they are too large.

    In bfloat16 tensorlite's are checked too, and gradients may differ by a tenth; texts of narrower weights are not
    compared: where one token differs, all later ones do.
    """
    half = "bf16" in job.options
    if job.task == "decode" and (half or job.weights != "float32"):
        return None
    with playing(replace(job, who="tensorlite")) as (reference,):
        expected = Path(reference.ask("answers")).rename(Path(job.folder) / "expected")
    with playing(*((job.ours(), job) if half else (job,))) as players:
        return [agree(str(expected), player.ask("answers"), 0.1 if half else 1e-4) for player in players][-1]


def take_turns(players: list[Player], turns: int, seconds: float) -> list[list[float]]:
    """Seconds per step of each player in each turn; the players alternate in starting a turn."""
    for player in players:
        player.ask("run", 1)  # compiles, fills caches
    steps = []
    for player in players:
        began = time.perf_counter()  # a step of decoding is a text, and its answer the seconds per token
        player.ask("run", 1)
        steps.append(max(1, round(seconds / (time.perf_counter() - began))))
    times: list[list[float]] = [[] for _ in players]
    for turn in range(turns):
        for i in range(len(players))[:: 1 if turn % 2 == 0 else -1]:
            times[i].append(players[i].ask("run", steps[i]) / steps[i])
    return times


def bytes_read(player: Player, times: list[float]) -> Row:
    """The rate at which decoding reads the weights, and this machine's memory bandwidth."""
    read = player.ask("weight_bytes") / statistics.median(times)
    return {"our_GBs": read / 1e9, "machine_GBs": player.ask("bandwidth")}


def products_of(job: Job, players: list[Player], times: list[list[float]], seconds: float) -> Row:
    """The speed of each at the products of a step alone, and their share of the step."""
    flops = setup.product_flops(job.model, setup.CONFIGS[job.config][1])
    row: Row = {}
    for side, player, found in zip(("our", "their"), players, times, strict=True):
        player.ask("products", 1)
        count = max(1, round(seconds / player.ask("products", 1)))
        alone = statistics.median(player.ask("products", count) / count for _ in range(3))
        row |= {f"{side}_GEMM_GFs": flops / alone / 1e9, f"{side}_GEMM_share": alone / statistics.median(found)}
    return row


def small_op(job: Job, turns: int, seconds: float) -> Row:
    """Forward and backward of one small op, over and over; a row."""
    with playing(job.ours(), job) as players:
        times = take_turns(players, turns, seconds)
    ours, theirs = (1e6 * statistics.median(found) for found in times)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    return {"our_us": ours, "their_us": theirs, "times_as_fast": ratio}


def service(job: Job, turns: int) -> Row:
    """Seconds of something that tensorlite does alone, the median over the turns; a row."""
    with playing(job) as (player,):
        found = [player.ask("run", 1) for _ in range(turns + 1)][1:]  # the first compiles and fills caches
    return {"our_s": statistics.median(found), "our_s_all": [round(s, 4) for s in found]}


def recipe(job: Job, text: Path, target: float, every: int) -> Row:
    """Both train by nanoGPT's recipe, `every` steps per turn; the seconds of training to validation loss `target`."""
    folder = Path(job.folder)
    tokenizer, parts = create("char", source := text.read_text(encoding="utf-8"), 0), split(source, 0.9)
    for name, part in zip(("train", "validation"), parts, strict=True):
        ids = tokenizer.encode(part)
        write_tokens(folder / f"{name}.tokens", [ids], tokenizer.vocab_size)
        (folder / f"{name}.bin").write_bytes(array("H", ids).tobytes())
    job = replace(job, vocab_size=tokenizer.vocab_size)
    curves: dict[str, list[tuple]] = {"our": [], "their": []}
    with playing(job.ours(), job) as players:
        spent = [0.0, 0.0]
        for step in range(0, setup.SCHEDULE["total"], every):
            for i, (curve, player) in enumerate(zip(curves.values(), players, strict=True)):
                spent[i] += player.ask("run", every)
                curve.append((step + every, spent[i], player.ask("evaluate")))
    row: Row = {"target": target, "seed": job.seed}
    for side, curve in curves.items():
        row[f"{side}_seconds"] = next((seconds for _, seconds, loss in curve if loss <= target), None)
        row[f"{side}_seconds_in_all"], row[f"{side}_loss_at_last"] = curve[-1][1:]
        row[f"{side}_curve"] = curve
    if row["our_seconds"] and row["their_seconds"]:
        row["times_as_fast"] = row["their_seconds"] / row["our_seconds"]
    return row
