"""Past one machine, on paper: `python -m examples.benchmarks.scaling` predicts a training step on 2 to 1,024 processes.

    python -m examples.benchmarks.scaling                       tables for the FLOP/s that a process reaches here
    python -m examples.benchmarks.scaling --flops 4.4e14        ... for another machine's, without measuring
    python -m examples.benchmarks.scaling --check --flops 4.4e14 --write docs/several-machines.md

--check also measures steps of two processes here, on one host and over links of limited rate (Linux, as root), and
compares them with what these formulas predict. --write replaces the part of a page between two comments. It needs the
extra `mpi`.

For N processes that each compute `sequences` x `passes` sequences in a step, P parameters, b bytes of a bucket, a link
of w bytes/s in each direction and messages of l seconds:

    compute      = FLOPs of the step, as `gpt params` counts them, / FLOP/s of a process
    exchange(b)  = 2 (N - 1) / N  b / w + 2 (N - 1) l                        a ring (Patarasu and Yuan, 2009)
    backward     = 2/3 compute / passes                                      of the last pass, which overlaps
    overlappable = backward after the first bucket is ready; the head and that bucket's own products come before
    exposed      = max(0, exchange of all buckets but the last - overlappable) + exchange of the last
    tokens/s     = N x tokens of a process / (compute + exposed)
    efficiency   = compute / (compute + exposed)
    memory       = 16 P bytes, or (8 + 8 / N) P with --shard-optimizer (Rajbhandari et al., 2020), + activations
    activations  = 4 bytes x tokens of a pass x (n_layer (16 C + n_head (T + 64) / 2) + 2 C + V)

Each bucket is a ring of its own, one after another. The last has the token embedding, whose gradient is complete only
at the end of the backward pass. Between processes of one host the processors themselves move the bytes, so nothing
overlaps there. Activations are what tensorlite's CPU kernels keep for the backward pass, in float32, without dropout.

A link's bandwidth is measured as nccl-tests' bus bandwidth: 2 (N - 1) / N x bytes of a sum / its time.

P. Patarasu and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", J. Parallel Distrib.
Comput. 69, 2009. S. Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", 2020.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt.config import PRESETS, GPTConfig
from gpt.model import parameter_table
from tensorlite import distributed, optim
from tensorlite.accelerate.reduce import BUCKET, Reducer

from . import processes
from .report import cpu_name, table

MODELS = {"124M": "gpt2", "355M": "gpt2-medium", "1.5B": "gpt2-xl"}
COUNTS = (2, 4, 8, 32, 128, 1024)
BEGIN, END = "<!-- examples.benchmarks.scaling: begin -->", "<!-- examples.benchmarks.scaling: end -->"


class Link(NamedTuple):
    """What joins the processes. `overlaps`: it moves bytes while the processors compute."""

    name: str
    bandwidth: float  # bytes/s of one process, in each direction
    latency: float  # seconds of one message
    overlaps: bool = True


LINKS = (Link("10 Gb/s", 1.25e9, 30e-6), Link("100 Gb/s", 12.5e9, 5e-6), Link("NVLink", 450e9, 2e-6))

# ----- formulas ---------------------------------------------------------------------------------------------------


def ring(nbytes: float, processes: int, link: Link) -> float:
    """Seconds of an all-reduce: each process sends 2 (N - 1) messages of nbytes / N."""
    return 2 * (processes - 1) * (nbytes / processes / link.bandwidth + link.latency)


def buckets(config: GPTConfig) -> list[int]:
    """Bytes of the buckets of gradients in the order in which they are sent (tensorlite/accelerate/reduce.py)."""
    C = config.n_embd
    block = [4 * C * C, 4 * C * C, C * C, C * C, C * C, C * C]  # contract, expand, out_proj, queries, keys, values
    sizes = [0]
    for size in [*config.n_layer * block, config.context_length * C, config.vocab_size * C]:
        if sizes[-1] >= BUCKET:
            sizes.append(0)
        sizes[-1] += size
    vectors = parameter_table(config)[-1].parameters - sum(sizes)  # norms and biases have a bucket of their own
    return [4 * size for size in (*sizes[:-1], vectors, sizes[-1])]


def exposed(config: GPTConfig, backward: float, processes: int, link: Link) -> float:
    """Seconds by which the exchange makes a step longer whose last backward pass takes `backward` seconds."""
    *early, last = buckets(config)
    *_, head, total = parameter_table(config)
    before = head.flops / total.flops
    before += (1 - before) * early[0] / sum(early)  # the share of the pass until the first bucket is ready
    overlappable = (1 - before) * backward * link.overlaps
    exchange = sum(ring(nbytes, processes, link) for nbytes in early)
    return max(0.0, exchange - overlappable) + ring(last, processes, link)


def activations(config: GPTConfig, sequences: int) -> float:
    """Bytes that the forward pass of so many full contexts keeps for the backward pass, on a CPU."""
    T, C = config.context_length, config.n_embd
    block = 16 * C + config.n_head * (T + 64) / 2  # attention's scores, in tiles of 64 up to the diagonal
    return 4 * sequences * T * (config.n_layer * block + 2 * C + config.vocab_size)


def memory(config: GPTConfig, sequences: int, shards: int) -> float:
    """Bytes of one process: weights, gradients, AdamW's two averages split over `shards` processes, activations."""
    return (8 + 8 / shards) * parameter_table(config)[-1].parameters + activations(config, sequences)


def predicted(flops: float, sequences: int, passes: int) -> str:
    """The table of all models, processes and links, for processes that reach `flops` FLOP/s."""
    header = ["model", "processes", *(f"{link.name}: tokens/s" for link in LINKS), "memory", "`--shard-optimizer`"]
    lines = []
    for name, preset in MODELS.items():
        config = PRESETS[preset]
        tokens = sequences * passes * config.context_length
        compute = parameter_table(config)[-1].flops * tokens / flops
        for N in COUNTS:
            times = [compute + exposed(config, 2 / 3 * compute / passes, N, link) for link in LINKS]
            cells = [f"{N * tokens / seconds:,.0f} ({compute / seconds:.0%})" for seconds in times]
            sizes = [f"{memory(config, sequences, shards) / 2**30:.1f} GiB" for shards in (1, N)]
            lines.append([name, f"{N:,}", *cells, *sizes])
    return (
        f"For processes that reach {flops / 1e9:,.0f} GFLOP/s, each with {passes} passes of {sequences} sequences a "
        f"step (in parentheses: efficiency):\n\n{table(header, lines)}\n"
    )


# ----- measuring --------------------------------------------------------------------------------------------------

SMALL = {"layers": 4, "heads": 4, "width": 128, "context": 64, "rows": 12, "steps": 20}
LARGE = {"layers": 6, "heads": 4, "width": 256, "context": 64, "rows": 12, "steps": 6}
WIDE = {"layers": 2, "heads": 12, "width": 768, "context": 256, "rows": 4, "steps": 5}  # as wide as GPT-2
SIZES = 1 << 12, 1 << 22  # bytes of the sums that measure a link's latency and bandwidth


def rate() -> float:
    """FLOP/s of a training step of one process with all of the machine's cores."""
    args = argparse.Namespace(**WIDE)
    found = processes.measure(args, 1, os.cpu_count() or 1, "none")
    return parameter_table(processes.config(args))[-1].flops * args.rows * args.context / found["seconds"]


def child(args: argparse.Namespace) -> None:
    """One of two processes: sums, steps without exchange, and steps with it, in turns; process 0 prints medians.

    A step takes as long as that of the slower process.
    """
    world = distributed.join()
    _, optimizer, compute_loss = processes.prepare(args, world)
    reducer = Reducer(world, optimizer)
    arrays = [np.zeros(size // 4, np.float32) for size in SIZES]
    times: dict[str, list[float]] = {}

    def step(backward: Any, name: str) -> None:
        optimizer.zero_grad()
        began = time.perf_counter()
        loss = compute_loss()
        forward = time.perf_counter()
        backward(loss)
        times.setdefault(f"{name} backward", []).append(time.perf_counter() - forward)
        optimizer.step(grad_scale=optim.clip_scale(optimizer.global_norm(), 1.0))
        times.setdefault(name, []).append(time.perf_counter() - began)

    for _ in range(args.steps + 2):
        for array in arrays:
            world.all_reduce(arrays[0])  # so that all begin at the same time
            began = time.perf_counter()
            world.all_reduce(array)
            times.setdefault(str(array.nbytes), []).append(time.perf_counter() - began)
        for name, backward in (("alone", lambda loss: loss.backward()), ("together", reducer.backward)):
            world.all_reduce(arrays[0])
            before = world.sent()
            step(backward, name)
            sent = world.sent() - before
    every = world.collect(times)
    if world.rank == 0:
        slowest = {name: np.max([each[name] for each in every], axis=0)[2:] for name in times}
        found = {name: statistics.median(map(float, values)) for name, values in slowest.items()}
        print(json.dumps({**found, "sent": sent}))


def checked() -> str:
    """A table of steps of two processes: measured, and predicted from a step alone and from sums over the link."""
    lines, load = [], os.getloadavg()[0]
    for megabits in (0, 1000, 500, 200):
        name = f"{megabits:,} Mb/s" if megabits else "one host"
        for shape in (SMALL, LARGE):
            args = argparse.Namespace(**shape, processes=2, threads=1)
            queue = f"tbf rate {megabits}mbit burst 64kb latency 400ms" if megabits else ""
            found = processes.start("scaling", ["--child", json.dumps(vars(args))], 2, queue)
            short, long = (found[str(size)] for size in SIZES)
            link = Link(name, SIZES[1] / (long - short), short / 2, overlaps=bool(megabits))
            config = processes.config(args)
            more = exposed(config, found["alone backward"], 2, link)
            alone, together = found["alone"], found["together"]
            speed = [f"{link.bandwidth * 8e-6:,.0f} Mb/s", f"{link.latency * 1e6:.0f} us"]
            counts = [f"{parameter_table(config)[-1].parameters:,}", f"{found['sent'] / 2**20:.2f} MiB"]
            times = [f"{1e3 * seconds:.1f}" for seconds in (alone, alone + more, together)]
            lines.append([name, *speed, *counts, *times, f"{(alone + more) / together - 1:+.0%}"])
    header = ["link", "bandwidth", "latency", "parameters", "sent", "ms alone", "predicted", "measured", "error"]
    return (
        "Two processes of one thread, 12 sequences of 64 tokens a step, on links of limited rate. Bandwidth and "
        "latency are those of sums of 4 MiB and 4 KiB;\n`sent` is by each, `alone` a step that exchanges nothing:\n\n"
        f"{table(header, lines)}\n\n{os.cpu_count()} cores, {cpu_name()}, load {load:.1f} before.\n"
    )


def page_parts(page: Path) -> tuple[str, str]:
    """The text of a page before and after the tables, with the comments that enclose them."""
    try:
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        _, after = rest.split(END)
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, OSError) else f"it does not have the lines {BEGIN} and {END} once each"
        raise SystemExit(f"--write: cannot replace the tables of {page}: {reason}") from None
    return before + BEGIN, END + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flops", type=float, nargs="+", default=[], help="of a process; default: measured here")
    parser.add_argument("--sequences", type=int, default=8, help="in a pass of a process")
    parser.add_argument("--passes", type=int, default=4, help="of a process in a step")
    parser.add_argument("--check", action="store_true", help="measure two processes, and compare with the formulas")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the tables of this page")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(argparse.Namespace(**args.child))
        return
    if min([*args.flops, args.sequences, args.passes]) <= 0:
        parser.error("--flops, --sequences and --passes must be above 0")
    if args.check and not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("tc") and shutil.which("ip")):
        parser.error("--check limits the rate of links between network namespaces: it needs Linux, root, and ip and tc")
    if args.check and (problem := processes.mpi_problem()):
        parser.error(f"--check starts two processes: {problem}")
    before, after = page_parts(args.write) if args.write else ("", "")
    rates = [*([] if args.flops and not args.check else [rate()]), *args.flops]
    parts = [*([checked()] if args.check else []), *(predicted(each, args.sequences, args.passes) for each in rates)]
    text = "\n".join(parts)
    if args.write:
        args.write.write_text(f"{before}\n\n{text}\n{after}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
