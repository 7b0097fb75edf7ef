"""The results of benchmarks: a file of rows that later runs extend, and the same as tables.

A row records where it was measured, so that rows of several days and machines can be in one file.
"""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpt.cli.doctor import cpu_name
from tensorlite import files
from tensorlite.devices.machine import blas

from . import gpu, setup
from .duel import Row

KEY = ("device", "task", "config", "batch", "who", "seed", "weights")


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """The CPU, its threads, and the versions of the libraries; for a GPU, its name and driver too."""
    found: dict[str, Any] = {"cpu": cpu_name(), "threads": threads, "python": platform.python_version()}
    if device == "cuda":
        return gpu.smi() | found | {name: which for name in GPU_PACKAGES if (which := installed(name)) != "missing"}
    found |= {name: installed(name) for name in CPU_PACKAGES}
    return found | {f"blas_{name}": value for name, value in blas().items() if name != "threads"}


CPU_PACKAGES = ("numpy", "numba", "tensorlite", "torch", "transformers", "onednn-cpu-gomp")
GPU_PACKAGES = (
    "tensorlite", "cupy-cuda13x", "cupy-cuda12x", "nvmath-python", "nvidia-cudnn-frontend", "nvidia-cudnn-cu13",
    "nvidia-cublas", "torch", "triton", "transformers",
)  # fmt: skip


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def key(row: Row) -> tuple:
    return tuple(row.get(name) for name in KEY)


def read(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != "examples.benchmarks":
        raise ValueError(f"{path} is not a file of examples.benchmarks: name another")
    return found["rows"]


def write(path: Path, rows: list[Row]) -> None:
    """Write the rows to `path` and their tables to the same name with .md; each file is replaced atomically."""
    with files.replacing(path) as file:
        file.write((json.dumps({"format": "examples.benchmarks", "rows": rows}, indent=1) + "\n").encode())
    with files.replacing(path.with_suffix(".md")) as file:
        file.write(markdown(rows).encode())


# ----- tables ---------------------------------------------------------------------------------------------------------


def markdown(rows: list[Row]) -> str:
    """The tables of all tasks, followed by the machines on which the rows were measured."""
    cpu, cuda = ([row for row in rows if row.get("device", "cpu") == device] for device in ("cpu", "cuda"))
    found = [f"### {title}\n\n{table(header, lines)}\n" for title, header, lines in (*tables(cpu), *gpu_tables(cuda))]
    places = list(dict.fromkeys(place(row) for row in rows))
    return "\n".join([*found, *(f"{text}\n" for text in places)])


def table(header: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] * 2 + ["---:"] * (len(header) - 2)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def tables(rows: list[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, lines) for each task that has rows."""
    kinds = (
        ("train", "A training step: forward, loss, backward, clipping, AdamW", TRAIN, train_line),
        ("decode", "Decoding: greedy, with the cache, after a prompt of a quarter of the context", DECODE, decode_line),
        ("recipe", "nanoGPT's recipe for CPUs: seconds of training to a validation loss", RECIPE, recipe_line),
        ("overhead", "A small op, forward and backward", OVERHEAD, overhead_line),
        ("service", "What a user waits for: 200 labels, 100 MB as tokens, a first token", SERVICE, service_line),
    )  # fmt: skip
    found = []
    for task, title, header, line in kinds:
        if mine := [row for row in rows if row["task"] == task]:
            found.append((title, header, [failed(row, header) if "failed" in row else line(row) for row in mine]))
    return found


def failed(row: Row, header: list[str]) -> list[str]:
    return [row["config"], row["who"], row["failed"].replace("|", "/"), *[""] * (len(header) - 3)]


TRAIN = [
    "config",
    "against",
    "tensorlite, ms",
    "peer, ms",
    "tensorlite is",
    "products, GF/s",
    "of the limit",
    "peak, MiB",
]


def train_line(row: Row) -> list[str]:
    limit = min(row[f"{side}_GEMM_share"] * row[f"{side}_ms"] for side in ("our", "their"))  # by the better BLAS
    return [
        row["config"], row["who"], f"{row['our_ms']:.1f}", f"{row['their_ms']:.1f}", times(row),
        f"{row['our_GEMM_GFs']:.0f}, peer {row['their_GEMM_GFs']:.0f}",
        f"{limit / row['our_ms']:.0%}, peer {limit / row['their_ms']:.0%}",
        f"{row['our_peak_MiB']:,.0f}, peer {row['their_peak_MiB']:,.0f}",
    ]  # fmt: skip


DECODE = [
    "config",
    "against",
    "weights",
    "batch",
    "tensorlite, ms a step",
    "peer, ms a step",
    "tensorlite is",
    "weights read, GB/s",
    "peak, MiB",
]


def decode_line(row: Row) -> list[str]:
    return [
        row["config"], row["who"], row.get("weights", "float32"), str(row["batch"]), f"{row['our_ms']:.2f}",
        f"{row['their_ms']:.2f}", times(row),
        f"{row['our_GBs']:.1f} of {row['machine_GBs']:.1f}",
        f"{row['our_peak_MiB']:,.0f}, peer {row['their_peak_MiB']:,.0f}",
    ]  # fmt: skip


RECIPE = ["config", "against", "target", "tensorlite, s", "peer, s", "tensorlite is", "2,000 steps, s", "loss at last"]


def recipe_line(row: Row) -> list[str]:
    return [
        row["config"], row["who"], f"{row['target']}", seconds(row["our_seconds"]), seconds(row["their_seconds"]),
        times(row) if "times_as_fast" in row else "",
        f"{row['our_seconds_in_all']:.1f}, peer {row['their_seconds_in_all']:.1f}",
        f"{row['our_loss_at_last']:.3f}, peer {row['their_loss_at_last']:.3f}",
    ]  # fmt: skip


OVERHEAD = ["op", "against", "tensorlite, us", "peer, us", "tensorlite is"]


def overhead_line(row: Row) -> list[str]:
    return [row["config"], row["who"], f"{row['our_us']:.2f}", f"{row['their_us']:.2f}", times(row)]


SERVICE = ["what", "who", "tensorlite, s"]


def service_line(row: Row) -> list[str]:
    return [row["config"], row["who"], f"{row['our_s']:.2f}"]


def times(row: Row) -> str:
    return f"{row['times_as_fast']:.2f} x as fast"


# ----- on a GPU -------------------------------------------------------------------------------------------------------

GPU_TRAIN = [
    "config",
    "against",
    "tensorlite, tokens/s",
    "peer, tokens/s",
    "tensorlite is",
    "ms a step",
    "MFU",
    "GPU memory, MiB",
]
GPU_DECODE = [
    "config",
    "against",
    "batch",
    "tensorlite, tokens/s",
    "peer, tokens/s",
    "tensorlite is",
    "weights read, GB/s",
    "GPU memory, MiB",
]
GPU_TIME = ["config", "who", "a step", "products", "attention", "everything else", "waiting"]


def gpu_tables(rows: list[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    kinds = (
        ("train", "A training step on a GPU: forward, loss, backward, clipping, AdamW", GPU_TRAIN, gpu_train_line),
        ("decode", "Decoding on a GPU: greedy, with the cache, after a prompt of a quarter of the context", GPU_DECODE,
         gpu_decode_line),
    )  # fmt: skip
    found = []
    for task, title, header, line in kinds:
        if mine := [row for row in rows if row["task"] == task]:
            found.append((title, header, [failed(row, header) if "failed" in row else line(row) for row in mine]))
    if lines := time_lines([row for row in rows if "our_profile" in row]):
        found.append(("Where a training step's time goes, ms in kernels", GPU_TIME, lines))
    return found


def gpu_train_line(row: Row) -> list[str]:
    card = card_of(row)
    mfu = (
        f"{row['our_FLOPs_s'] / card.peak:.1%}, peer {row['their_FLOPs_s'] / card.peak:.1%}" if card else "unknown card"
    )
    return [
        row["config"], row["who"], f"{row['our_tokens_s']:,.0f}", f"{row['their_tokens_s']:,.0f}", times(row),
        f"{row['our_ms']:.2f}{' without a graph' if row.get('our_no_graph') else ''}, peer {row['their_ms']:.2f}", mfu,
        f"{row['our_peak_MiB']:,.0f}, peer {row['their_peak_MiB']:,.0f}",
    ]  # fmt: skip


def gpu_decode_line(row: Row) -> list[str]:
    return [
        row["config"], row["who"], str(row["batch"]), f"{row['our_tokens_s']:,.0f}", f"{row['their_tokens_s']:,.0f}",
        times(row), f"{row['our_GBs']:,.0f}, peer {row['their_GBs']:,.0f}",
        f"{row['our_peak_MiB']:,.0f}, peer {row['their_peak_MiB']:,.0f}",
    ]  # fmt: skip


def time_lines(rows: list[Row]) -> list[list[str]]:
    """For each configuration: tensorlite's time, the peers', and the lower bound on that card."""
    lines = []
    for config in dict.fromkeys(row["config"] for row in rows):
        mine = [row for row in rows if row["config"] == config]
        for who, side, row in [("tensorlite", "our", mine[-1]), *((row["who"], "their", row) for row in mine)]:
            spent, step = row[f"{side}_profile"], row[f"{side}_ms"]
            parts = [spent[name] for name in ("products", "attention", "else")]
            lines.append([config, who, *(f"{ms:.2f}" for ms in (step, *parts, max(0.0, step - sum(parts))))])
        if card := card_of(mine[0]):
            parts = list(gpu.floor(*setup.GPU_CONFIGS[config], card).values())
            lines.append([config, "the card's limit", *(f"{ms:.2f}" for ms in (sum(parts), *parts, 0.0))])
    return lines


def kernels(rows: list[Row], most: int = 25) -> list[str]:
    """The longest kernels of a step, for the terminal: tensorlite's once, then each peer's."""
    rows = [row for row in rows if "our_profile" in row]
    lines = []
    for who, side, row in [
        *(("tensorlite", "our", row) for row in rows[:1]),
        *((row["who"], "their", row) for row in rows),
    ]:
        lines.append(f"{row['config']} {who}: ms a step, launches, kernel")
        lines += [
            f"{ms:9.3f} {count:6.0f}  {name[:110]}" for name, ms, count in row[f"{side}_profile"]["kernels"][:most]
        ]
    return lines


def card_of(row: Row) -> gpu.Card | None:
    return gpu.CARDS.get(row["machine"]["gpu"])


# ----- words ----------------------------------------------------------------------------------------------------------


def seconds(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f}"


def place(row: Row) -> str:
    where = row["machine"]
    if "gpu" in where:
        rest = ", ".join(f"{name} {value}" for name, value in where.items() if name not in ("gpu", "cpu", "threads"))
        card, mfu = card_of(row), ""
        if card:
            mfu = (
                f" MFU: the model's FLOPs, as `gpt params` counts them, over {card.peak / 1e12:.0f} TFLOP/s, the card's"
            )
            mfu += " dense bfloat16. GPU memory: what the process holds after its first steps, without CUDA's context."
        return f"{where['gpu']}, {rest}, on {where['cpu']} with {where['threads']} threads.{mfu}"
    versions = ", ".join(f"{name} {value}" for name, value in where.items() if name not in ("cpu", "threads"))
    return f"{where['cpu']}, {where['threads']} threads, {versions}."
