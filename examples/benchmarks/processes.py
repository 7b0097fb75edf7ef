"""Processes against threads on one machine, and the memory of a sharded optimizer: one model, several ways to train it.

    python -m examples.benchmarks.processes                                nanoGPT's recipe for CPUs
    python -m examples.benchmarks.processes --width 384 --layers 6 --rows 4 --turns 2 --processes 4

The ways take turns, each in processes of its own, and the table shows medians. `no exchange` is the lower limit: the
processes compute their share and never talk. `CPU per step` is the processor time of all processes together, so waiting
for another process counts only as far as it is spent on looking for it. It needs the extra `mpi`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from gpt.system import peak_memory
from tensorlite import distributed, optim
from tensorlite.accelerate import parallel
from tensorlite.accelerate.reduce import Reducer
from tensorlite.accelerate.shard import shard
from tensorlite.devices import machine
from tensorlite.distributed import World
from tensorlite.tensor import Tensor

WAYS = {  # processes (0: as many as asked for), threads of each, exchange
    "1 process, 1 thread": (1, 1, "none"),
    "1 process, {n} threads, each op split": (1, 0, "none"),
    "1 process, {n} threads, the batch divided": (1, 0, "divide"),
    "{n} processes, no exchange": (0, 1, "none"),
    "{n} processes": (0, 1, "sum"),
    "{n} processes, --shard-optimizer": (0, 1, "shard"),
}


def config(args: argparse.Namespace) -> GPTConfig:
    """The model's shape."""
    shape = {"n_layer": args.layers, "n_head": args.heads, "n_embd": args.width, "context_length": args.context}
    return GPTConfig(vocab_size=65, tie_head=True, **shape)


def prepare(args: argparse.Namespace, world: World | None) -> tuple[GPT, optim.AdamW, Callable[..., Tensor]]:
    """The model, its optimizer, and a function of this process' share of the loss, or of a part of the share."""
    machine.keep_freed_memory()
    machine.set_threads(args.threads)
    tl.manual_seed(1)
    model = GPT(config(args))
    optimizer = optim.AdamW(optim.decay_groups(model.parameters(), 0.1), lr=1e-3)
    rank, rows = (world.rank if world else 0), args.rows // args.processes
    tokens = np.random.default_rng(0).integers(0, 65, (args.rows, args.context + 1))[rank * rows : (rank + 1) * rows]
    idx, targets = tl.tensor(tokens[:, :-1]), tl.tensor(tokens[:, 1:])

    def loss(part: int = 0, parts: int = 1) -> Tensor:
        of = slice(rows * part // parts, rows * (part + 1) // parts)
        return model.loss(idx[of], targets[of]) * ((of.stop - of.start) / args.rows)

    return model, optimizer, loss


def child(args: argparse.Namespace) -> None:
    """One process of one way: train `steps` steps; process 0 prints what it measured."""
    world = distributed.join() if args.processes > 1 else None
    model, optimizer, compute_loss = prepare(args, world)
    reducer = Reducer(world, optimizer) if world and args.exchange in ("sum", "shard") else None
    if reducer and args.exchange == "shard":
        shard(reducer)
    times, begun, sent = [], 0.0, 0.0
    for step in range(args.steps + 3):
        if step == 3:
            begun, sent = time.process_time(), world.payload if world else 0.0
        began = time.perf_counter()
        optimizer.zero_grad()
        if args.exchange == "divide":
            parallel.backward([partial(compute_loss, i, args.threads) for i in range(args.threads)])
        elif reducer:
            reducer.backward(compute_loss())
        else:
            compute_loss().backward()
        optimizer.step(grad_scale=optim.clip_scale(optimizer.global_norm(), 1.0))
        times.append(time.perf_counter() - began)
    arrays = [part.state.values() for part in optimizer._storage.parts] if args.exchange == "shard" else [
        state.values() for state in optimizer._storage.arrays
    ]  # fmt: skip
    found = {
        "seconds": statistics.median(times[3:]),
        "cpu": (time.process_time() - begun) / args.steps,
        "sent": 2 * (args.processes - 1) / args.processes * ((world.payload if world else 0.0) - sent) / args.steps,
        "state": sum(array.nbytes for each in arrays for array in each),
        "memory": peak_memory(),
        "parameters": model.num_parameters(),
    }
    every = world.collect(found) if world else [found]
    if not world or world.rank == 0:
        print(json.dumps({**found, "cpu": sum(each["cpu"] for each in every)}))


def launcher() -> tuple[str | None, str]:
    """mpiexec, None where there is none, and the PATH that it was looked for on: first the folder of this Python."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return shutil.which("mpiexec", path=path), path


def mpi_problem() -> str | None:
    """Why processes cannot be started together here, and what to do; None where they can."""
    if launcher()[0] is None:
        return "mpiexec is not on the PATH: pip install 'tensorlite[mpi]' or, on a cluster, load its MPI"
    if subprocess.run([sys.executable, "-c", "from mpi4py import MPI"], capture_output=True).returncode:
        return (
            "mpi4py is not installed or finds no MPI library: pip install 'tensorlite[mpi]' or, on a cluster, load its "
            "MPI and pip install mpi4py"
        )
    return None


def start(module: str, flags: Sequence[str], processes: int, link: str = "") -> Any:
    """Run a module of this package in some processes, and return the JSON that its process 0 prints.

    `link` is a queueing discipline of tc: each process is then on a host of its own, as hosts.sh makes them.
    """
    mpiexec, path = launcher()
    before = [mpiexec or "mpiexec", "-n", str(processes)] if processes > 1 else []
    if link:
        before = [str(Path(__file__).with_name("hosts.sh")), str(processes), link]
    command = [*before, sys.executable, "-m", f"{__package__}.{module}", *flags]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path})
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def measure(args: argparse.Namespace, processes: int, threads: int, exchange: str) -> dict[str, float]:
    """Start the processes of one way, and read what process 0 measured."""
    values = {**vars(args), "processes": processes, "threads": threads, "exchange": exchange}
    flags = [f"--{name}={value}" for name, value in values.items() if name not in ("child", "turns")]
    found: dict[str, float] = start("processes", ["--child", *flags], processes)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {
        "layers": 4,
        "heads": 4,
        "width": 128,
        "context": 64,
        "rows": 12,
        "steps": 40,
        "turns": 5,
        "processes": 2,
    }
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--exchange", default="none", choices=("none", "sum", "shard", "divide"), help=argparse.SUPPRESS
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    if args.processes > 1 and (problem := mpi_problem()):
        parser.error(problem)
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.turns):
        for way, (processes, threads, exchange) in WAYS.items():
            name = way.format(n=args.processes)
            found.setdefault(name, []).append(
                measure(args, processes or args.processes, threads or args.processes, exchange)
            )
    print(f"{found[name][0]['parameters']:,.0f} parameters, {args.rows} sequences of {args.context} tokens per step")
    print("| way | ms per step | CPU ms per step | sent per step | optimizer state | peak memory |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, rows in found.items():
        ms, cpu, sent, state, memory = (
            statistics.median(row[key] for row in rows) for key in ("seconds", "cpu", "sent", "state", "memory")
        )
        mib = f"{sent / 2**20:.2f} MiB | {state / 2**20:.2f} MiB | {memory / 2**20:.0f} MiB"
        print(f"| {name} | {1e3 * ms:.1f} | {1e3 * cpu:.1f} | {mib} |")


if __name__ == "__main__":
    main()
