"""Bouts on a GPU: tensorlite and several peers, each in one process from its first step to its last.

Starting is expensive there (libraries, kernels, torch's compiler), so a contestant is started once, in an
order that keeps the measurements separate. Alone on the GPU it computes its loss and gradients, which must
equal tensorlite's in float32 up to rounding, then it trains, which gives its memory on the device. Only then
do all take turns. No contestant waits for the device within a turn; a turn ends when the last loss is on the host.
"""

import ctypes
import json
import re
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gpt.config import GPTConfig
from gpt.model import parameter_table

from . import setup
from .duel import Failed, Player, Row, agree, prepare, take_turns
from .setup import Job

TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}  # of differences from tensorlite in float32


class Card(NamedTuple):
    """The limits of a GPU: the specified ones, and measured ones (8192^3 products, copies of 8 GB)."""

    peak: float  # FLOP/s, dense, bfloat16
    products: float  # FLOP/s
    bandwidth: float  # bytes/s, read and written


CARDS = {
    "NVIDIA H200": Card(989e12, 790e12, 4.3e12),
    "NVIDIA H100 80GB HBM3": Card(989e12, 798e12, 3.0e12),
}


def smi() -> dict[str, str]:
    """Name and driver of the first GPU, from nvidia-smi."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {"gpu": "a GPU that nvidia-smi does not name", "driver": "unknown"}
    name, _, driver = said.splitlines()[0].partition(", ")
    return {"gpu": name.strip(), "driver": driver.strip()}


def used() -> int:
    """Bytes of the GPU's memory in use by all processes, as reported by the driver, the same for all libraries."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    status = ctypes.CDLL("libcuda.so.1").cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    if status:
        raise RuntimeError(f"cuMemGetInfo gave error {status}: this thread has no CUDA context yet")
    return total.value - free.value


# ----- a bout ---------------------------------------------------------------------------------------------------------


def bout(peers: list[Job], turns: int, seconds: float, profile: bool = False) -> list[Row]:
    """tensorlite against all of `peers`, which have task, configuration, batch and dtype in common: a row for each."""
    mine, found = peers[0].ours(), {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        reference, player, *others = [
            stack.enter_context(closing(Player(job.at(folder))))
            for job in (replace(mine, who="tensorlite"), mine, *peers)
        ]
        prepare(Path(folder), mine.config, mine.device)  # while they load their libraries
        reference.answer()
        expected = Path(reference.ask("answers")).rename(Path(folder) / "expected")
        reference.close()  # frees its memory
        ours, alive = warm(player, mine, expected), []
        for job, other in zip(peers, others, strict=True):
            try:
                found[job.who] = warm(other, job, expected)
                alive.append((job, other))
            except Failed as error:
                found[job.who] = {"failed": str(error)}
                other.close()
        times = take_turns([player, *(other for _, other in alive)], turns, seconds) if alive else []
        facts = [(mine, player, ours), *((job, other, found[job.who]) for job, other in alive)]
        for (job, each, row), taken in zip(facts, times, strict=False):
            row |= rates(job, statistics.median(taken)) | {"ms_all": [round(1e3 * t, 4) for t in taken]}
            if job is mine and job.task == "train":
                row["no_graph"] = each.ask("no_graph")
            if profile and job.task == "train":
                try:
                    row["profile"] = each.ask("profile", 5)
                except Failed as error:  # the times are valid without it
                    print(f"{job.who} was not profiled: {error}", flush=True)
    return [found[job.who] if "failed" in found[job.who] else both(ours, found[job.who]) for job in peers]


def warm(player: Player, job: Job, expected: Path) -> Row:
    """Agreement, and the memory that the first steps take."""
    player.answer()  # its libraries are loaded
    difference = agree(str(expected), player.ask("answers"), TOLERANCE[job.dtype])
    player.ask("forget")
    player.ask("run", 5 if job.task == "train" else 1)  # compiled, recorded as a graph, caches filled
    return {"difference": difference, "peak_MiB": player.ask("peak") / 2**20}


def rates(job: Job, seconds: float) -> Row:
    """Tokens per second, MFU and related numbers from the time of a step."""
    if job.task == "decode":
        weights = setup.weights(job.model) * (2 if job.dtype == "bfloat16" else 4)
        return {"ms": 1e3 * seconds, "tokens_s": job.batch / seconds, "GBs": weights / seconds / 1e9}
    tokens = job.rows * job.model.context_length
    flops = parameter_table(job.model)[-1].flops * tokens  # PaLM's count includes all attention scores
    return {"ms": 1e3 * seconds, "tokens_s": tokens / seconds, "FLOPs_s": flops / seconds}


def both(ours: Row, theirs: Row) -> Row:
    row = {
        f"{side}_{name}": value for side, facts in (("our", ours), ("their", theirs)) for name, value in facts.items()
    }
    pairs = zip(ours["ms_all"], theirs["ms_all"], strict=True)
    return row | {"times_as_fast": statistics.median(b / a for a, b in pairs)}


# ----- lower bound of the time ----------------------------------------------------------------------------------------


def floor(config: GPTConfig, batch: int, card: Card) -> dict[str, float]:
    """A lower bound of the milliseconds of a training step in bfloat16: FLOPs at the speed of products, else bytes.

    Attention computes half of the scores, forward 2 products, backward 5. Further bytes read and written, for each of N
    positions: 16 C bytes a norm, forward and backward; 40 C for GELU and 18 C for the bias gradients of a layer; 6 V
    for the cross-entropy; and 34 for each parameter, in AdamW and the gradient's norm.
    """
    L, C, V, T = config.n_layer, config.n_embd, config.vocab_size, config.context_length
    N, P = batch * T, setup.weights(config)
    return {
        "products": 1e3 * setup.product_flops(config, batch) / card.products,
        "attention": 1e3 * 7 * L * C * T * N / card.products,
        "else": 1e3 * (N * (16 * C * (2 * L + 1) + 58 * C * L + 6 * V) + 34 * P) / card.bandwidth,
    }


# ----- where the time goes --------------------------------------------------------------------------------------------

ATTENTION = re.compile(r"flash|fmha|sdpa|attention|dot_do_o|convert_dq|matmul_dq", re.IGNORECASE)  # matched first
PRODUCTS = re.compile(r"gemm|gemv|nvjet|cutlass|xmma|cublas|splitk", re.IGNORECASE)


def kind(kernel: str) -> str:
    return "attention" if ATTENTION.search(kernel) else "products" if PRODUCTS.search(kernel) else "else"


def profiled(run: Callable[[int], float], steps: int) -> Row:
    """Milliseconds of a step in all kernels by kind, and [name, ms, times] of the longest, while `run(steps)` runs.

    torch's profiler uses CUPTI, which records every kernel of the process, from any library.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.zeros(1, device=setup.GPU)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run(steps)
    with tempfile.TemporaryDirectory() as folder:
        found.export_chrome_trace(path := str(Path(folder) / "trace.json"))
        events = json.loads(Path(path).read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return summary(events, steps)


def summary(events: list[dict], steps: int) -> Row:
    """The same from a trace's events, whose durations are microseconds."""
    spent: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            spent[event["name"]] += event["dur"]
            times[event["name"]] += 1
    if not spent:
        raise RuntimeError("the profiler saw no kernel")
    kinds = dict.fromkeys(("products", "attention", "else"), 0.0)
    for name, micros in spent.items():
        kinds[kind(name)] += micros / steps / 1e3
    return kinds | {
        "kernels": [[name[:200], us / steps / 1e3, times[name] / steps] for name, us in spent.most_common(40)]
    }
