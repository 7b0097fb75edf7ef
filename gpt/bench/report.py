"""What a benchmark leaves: a file of rows that later runs add to, and the same as tables.

One idea: a row says by itself where it was measured, so that rows of several days and machines can lie together.
"""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tensorlite import backend, files

from ..doctor import cpu_name
from .duel import Row

KEY = ("task", "config", "batch", "who", "seed")


def machine(threads: int) -> dict[str, Any]:
    """The CPU, its threads, and the versions of what computes."""
    found: dict[str, Any] = {"cpu": cpu_name(), "threads": threads, "python": platform.python_version()}
    for name in ("numpy", "tensorlite", "torch", "transformers", "onednn-cpu-gomp"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found | {f"blas_{name}": value for name, value in backend.blas().items() if name != "threads"}


def key(row: Row) -> tuple:
    return tuple(row.get(name) for name in KEY)


def read(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != "gpt.bench":
        raise ValueError(f"{path} is no file of gpt.bench: name another")
    return found["rows"]


def write(path: Path, rows: list[Row]) -> None:
    """The rows to `path`, and their tables to the same name with .md; each replaced whole."""
    with files.replacing(path) as file:
        file.write((json.dumps({"format": "gpt.bench", "rows": rows}, indent=1) + "\n").encode())
    with files.replacing(path.with_suffix(".md")) as file:
        file.write(markdown(rows).encode())


# ----- tables ---------------------------------------------------------------------------------------------------------


def markdown(rows: list[Row]) -> str:
    """The tables of all tasks, and below them where the rows were measured."""
    found = [f"### {title}\n\n{table(header, lines)}\n" for title, header, lines in tables(rows)]
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
    "products' share",
    "peak, MiB",
]


def train_line(row: Row) -> list[str]:
    return [
        row["config"], row["who"], f"{row['our_ms']:.1f}", f"{row['their_ms']:.1f}", times(row),
        f"{row['our_GEMM_GFs']:.0f}, peer {row['their_GEMM_GFs']:.0f}",
        f"{row['our_GEMM_share']:.0%}, peer {row['their_GEMM_share']:.0%}",
        f"{row['our_peak_MiB']:,.0f}, peer {row['their_peak_MiB']:,.0f}",
    ]  # fmt: skip


DECODE = [
    "config",
    "against",
    "batch",
    "tensorlite, ms a step",
    "peer, ms a step",
    "tensorlite is",
    "weights read, GB/s",
    "peak, MiB",
]


def decode_line(row: Row) -> list[str]:
    return [
        row["config"], row["who"], str(row["batch"]), f"{row['our_ms']:.2f}", f"{row['their_ms']:.2f}", times(row),
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


def times(row: Row) -> str:
    return f"{row['times_as_fast']:.2f} x as fast"


def seconds(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f}"


def place(row: Row) -> str:
    where = row["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in where.items() if name not in ("cpu", "threads"))
    return f"{where['cpu']}, {where['threads']} threads, {versions}."
