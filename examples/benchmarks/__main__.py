"""`python -m examples.benchmarks`: runs the selected duels; each is written to the file when it ends."""

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

from examples import benchmarks as bench
from tensorlite.devices import machine

from . import duel, gpu, report, setup
from .duel import Row
from .setup import Job


@dataclass(frozen=True)
class Bench:
    """Measure tensorlite and its peers in turns."""

    device: Literal["cpu", "cuda"] = "cpu"  # the next three have other defaults on a GPU
    # of recipe, calls, tiny, char, gpt2, small, chapter7, with commas; cuda: of gpt2, nano, micro, or all
    configs: str | None = None
    peers: str = "torch"  # torch: all of its variants; or some, such as torch-bf16-compile,tensorlite-numpy
    tasks: str | None = None  # of train, decode, overhead, service; cuda: train and decode
    batches: tuple[int, ...] = setup.BATCHES["cpu"]  # texts at once, for decode on a CPU
    weights: tuple[str, ...] = ("float32",)  # dtypes of tensorlite's weights for it: float32, bfloat16, int8
    time_to: float | None = None  # instead of tasks: train by nanoGPT's recipe until this validation loss
    text: Path | None = None  # tiny Shakespeare, for --time-to
    seeds: int = 1  # number of seeds, for --time-to
    threads: int = machine.usable_cores()  # the same for all contestants
    turns: int = 9  # turns per contestant
    seconds: float = 1.0  # approximate length of a turn; at least one step
    json: Path | None = None  # file for the numbers; results in it are not measured again
    again: bool = False  # measure them again
    profile: bool = False  # cuda: also measure time by kernel, with torch's profiler
    within: float | None = None  # seconds after which no further duel is started


def main(args: list[str] | None = None) -> None:
    flags = tyro.cli(Bench, args=args, prog="python -m examples.benchmarks", description=bench.__doc__)
    try:
        jobs, rows = list(plan(flags)), report.read(flags.json)
    except ValueError as error:
        raise SystemExit(f"examples.benchmarks: {error}") from None
    began = time.monotonic()
    for heads, work in jobs:
        known = {report.key(row) for row in rows if "failed" not in row}
        todo = [head for head in heads if flags.again or report.key(head) not in known]
        if not todo:
            continue
        if flags.within is not None and time.monotonic() - began > flags.within:
            print(f"{flags.within:.0f} s are over: the remaining duels are not started", flush=True)
            break
        for head in todo:
            print(time.strftime("%H:%M:%S"), *head.values(), flush=True)
        where = {"machine": report.machine(flags.threads, flags.device)}
        try:
            found = work(todo)
        except duel.Failed as error:
            found = [{"failed": str(error)} for _ in todo]
        new = [head | row | where for head, row in zip(todo, found, strict=True)]
        done = {report.key(head) for head in todo}
        rows = [row for row in rows if report.key(row) not in done] + new
        if flags.json:
            report.write(flags.json, rows)
        print(report.markdown(new), flush=True)
        for why in {row["our_no_graph"]: None for row in new if row.get("our_no_graph")}:
            print(f"tensorlite's step {why}", flush=True)
        print(*report.kernels(new), sep="\n", flush=True)
    print(report.markdown(rows))


Plan = Iterator[tuple[list[Row], Callable[[list[Row]], list[Row]]]]


def plan(flags: Bench) -> Plan:
    """(first fields of the rows, function for the rest of those still to measure) for each duel or bout."""
    if flags.device == "cuda":
        yield from gpu_plan(flags)
        return
    if flags.profile:
        raise ValueError("--profile is for a GPU: give it with --device cuda")
    for head, work in cpu_plan(flags):
        yield [head], partial(alone, work)


def alone(work: Callable[[], Row], heads: list[Row]) -> list[Row]:
    return [work() for _ in heads]


def gpu_plan(flags: Bench) -> Plan:
    """The most informative ones first. Peers of one dtype are compared together."""
    if flags.time_to is not None:
        raise ValueError("--time-to is nanoGPT's recipe for CPUs: give it without --device cuda")
    for task in (flags.tasks or "train,decode").split(","):
        if task not in ("train", "decode"):
            raise ValueError(f"there is no task {task!r} on a GPU: give train, decode")
        for config in (flags.configs or ("gpt2,nano,micro" if task == "train" else "gpt2")).split(","):
            if config not in setup.GPU_CONFIGS:
                raise ValueError(f"there is no configuration {config!r} on a GPU: give {', '.join(setup.GPU_CONFIGS)}")
            who = setup.gpu_contestants(task, config, flags.peers)
            for batch in setup.BATCHES["cuda"] if task == "decode" else (setup.GPU_CONFIGS[config][1],):
                head = {"device": "cuda", "task": task, "config": config, "batch": batch}
                jobs = [Job(task, each, config, flags.threads, "", batch=batch, device="cuda") for each in who]
                for dtype in dict.fromkeys(job.dtype for job in jobs):
                    peers = {job.who: job for job in jobs if job.dtype == dtype}
                    yield [{**head, "who": each} for each in peers], together(peers, flags)


def together(peers: dict[str, Job], flags: Bench) -> Callable[[list[Row]], list[Row]]:
    def work(heads: list[Row]) -> list[Row]:
        return gpu.bout([peers[head["who"]] for head in heads], flags.turns, flags.seconds, flags.profile)

    return work


def cpu_plan(flags: Bench) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """(first fields of a row, function for the rest of it) for each duel."""
    if flags.time_to is not None:
        if flags.text is None or not flags.text.is_file():
            raise ValueError("--time-to needs --text, the file of tiny Shakespeare")
        for seed in range(flags.seeds):
            for who in setup.contestants("recipe", flags.peers):
                job = Job("recipe", who, "recipe", flags.threads, "", seed=seed)
                yield {"task": "recipe", "config": "recipe", "who": who, "seed": seed}, against_the_clock(job, flags)
        return
    for task in (flags.tasks or "train").split(","):
        if task not in ("train", "decode", "overhead", "service"):
            raise ValueError(f"there is no task {task!r}: give train, decode, overhead, service")
        if task == "service":
            for config in setup.SERVICES:
                job = Job(task, "tensorlite", config, flags.threads, "")
                yield {"task": task, "config": config, "who": "alone"}, service_alone(job, flags)
            continue
        if task == "overhead":
            for op, who in itertools.product(setup.SMALL_OPS, setup.contestants(task, flags.peers)):
                job = Job(task, who, op, threads=1, folder="")
                yield {"task": task, "config": op, "who": who}, partial(duel.small_op, job, flags.turns, flags.seconds)
            continue
        for config in (flags.configs or "tiny").split(","):
            if config not in setup.CONFIGS:
                raise ValueError(f"there is no configuration {config!r}: give {', '.join(setup.CONFIGS)}")
            for who in setup.contestants(task, flags.peers):
                decode = task == "decode"
                for batch in flags.batches if decode else (setup.CONFIGS[config][1],):
                    for weights in flags.weights if decode else ("float32",):
                        job = Job(task, who, config, flags.threads, "", batch=batch, weights=weights)
                        head = {"task": task, "config": config, "batch": batch, "who": who}
                        yield head | ({"weights": weights} if decode else {}), side_by_side(job, flags)


def side_by_side(job: Job, flags: Bench) -> Callable[[], Row]:
    def work() -> Row:
        with tempfile.TemporaryDirectory() as folder:
            duel.prepare(Path(folder), job.config)
            return duel.train_or_decode(job.at(folder), flags.turns, flags.seconds)

    return work


def service_alone(job: Job, flags: Bench) -> Callable[[], Row]:
    def work() -> Row:
        with tempfile.TemporaryDirectory() as folder:
            duel.prepare(Path(folder), setup.SERVICES[job.config])
            return duel.service(job.at(folder), flags.turns)

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
        os.execve(sys.executable, [sys.executable, "-m", "examples.benchmarks", *sys.argv[1:]], clean)
    main()
