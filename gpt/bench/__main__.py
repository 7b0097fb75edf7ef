"""`python -m gpt.bench`: the duels that the flags ask for, one after another, each written down as it ends."""

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from .. import bench
from . import duel, report, setup
from .duel import Row
from .setup import Job


@dataclass(frozen=True)
class Bench:
    """Time tensorlite beside its peers."""

    device: Literal["cpu"] = "cpu"  # where
    configs: str = "tiny"  # of recipe, tiny, char, gpt2, with commas
    peers: str = "torch"  # torch: all of its variants; or some, such as torch,torch-bf16-compile
    tasks: str = "train"  # of train, decode, overhead
    time_to: float | None = None  # instead of tasks: train by nanoGPT's recipe until this validation loss
    text: Path | None = None  # tiny Shakespeare, for --time-to
    seeds: int = 1  # how often, for --time-to
    threads: int = os.cpu_count() or 1  # the same for everyone
    turns: int = 9  # how often each contestant gets its turn
    seconds: float = 1.0  # about how long a turn takes; at least one step
    json: Path | None = None  # where to write the numbers; what is there already is not run again
    again: bool = False  # run it again


def main(args: list[str] | None = None) -> None:
    flags = tyro.cli(Bench, args=args, prog="python -m gpt.bench", description=bench.__doc__)
    try:
        jobs, rows = list(plan(flags)), report.read(flags.json)
    except ValueError as error:
        raise SystemExit(f"gpt.bench: {error}") from None
    for head, work in jobs:
        known = [row for row in rows if report.key(row) == report.key(head)]
        if known and not flags.again and "failed" not in known[0]:
            continue
        print(time.strftime("%H:%M:%S"), *head.values(), flush=True)
        where = {"machine": report.machine(flags.threads)}
        try:
            new = head | work() | where
        except duel.Failed as error:
            new = head | {"failed": str(error)} | where
        rows = [row for row in rows if report.key(row) != report.key(head)] + [new]
        if flags.json:
            report.write(flags.json, rows)
        print(report.markdown([new]), flush=True)
    print(report.markdown(rows))


def plan(flags: Bench) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """(what a row begins with, what gives the rest of it) for each duel."""
    if flags.time_to is not None:
        if flags.text is None or not flags.text.is_file():
            raise ValueError("--time-to needs --text, the file of tiny Shakespeare")
        for seed in range(flags.seeds):
            for who in setup.contestants("recipe", flags.peers):
                job = Job("recipe", who, "recipe", flags.threads, "", seed=seed)
                yield {"task": "recipe", "config": "recipe", "who": who, "seed": seed}, against_the_clock(job, flags)
        return
    for task in flags.tasks.split(","):
        if task not in ("train", "decode", "overhead"):
            raise ValueError(f"there is no task {task!r}: give train, decode, overhead")
        if task == "overhead":
            for op, who in itertools.product(setup.SMALL_OPS, setup.contestants(task, flags.peers)):
                job = Job(task, who, op, threads=1, folder="")
                yield {"task": task, "config": op, "who": who}, partial(duel.small_op, job, flags.turns, flags.seconds)
            continue
        for config in flags.configs.split(","):
            if config not in setup.CONFIGS:
                raise ValueError(f"there is no configuration {config!r}: give {', '.join(setup.CONFIGS)}")
            for who in setup.contestants(task, flags.peers):
                for batch in (1, setup.PROMPTS) if task == "decode" else (setup.CONFIGS[config][1],):
                    job = Job(task, who, config, flags.threads, "", batch=batch)
                    yield {"task": task, "config": config, "batch": batch, "who": who}, side_by_side(job, flags)


def side_by_side(job: Job, flags: Bench) -> Callable[[], Row]:
    def work() -> Row:
        with tempfile.TemporaryDirectory() as folder:
            duel.prepare(Path(folder), job.config)
            return duel.train_or_decode(job.at(folder), flags.turns, flags.seconds)

    return work


def against_the_clock(job: Job, flags: Bench) -> Callable[[], Row]:
    def work() -> Row:
        with tempfile.TemporaryDirectory() as folder:
            assert flags.text
            assert flags.time_to
            return duel.recipe(job.at(folder), flags.text, flags.time_to, every=50)

    return work


if __name__ == "__main__":
    clean = {name: value for name, value in os.environ.items() if name not in setup.UNWANTED}
    if len(clean) < len(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", "gpt.bench", *sys.argv[1:]], clean)
    main()
