"""Runs: what they were trained with, how far they are, their curves and samples."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from tensorlite import io

from ..training import checkpoint, run_directory
from .charts import Line, line_chart
from .figures import figure_text
from .loaded import kept_steps
from .metrics import METRICS, SMOOTH, Log, Metrics, Sample, curve, place_of

CELL = 'style="text-align:left;padding:2px 12px 2px 0;white-space:pre-wrap"'


@dataclass(frozen=True)
class Run:
    """A run, as its directory was when it was read."""

    path: Path
    task: str  # "pretrain", "instruct" or "classify"
    description: Mapping[str, Any]  # config.json
    steps: list[int]  # of the kept checkpoints, ascending
    metrics: Metrics
    samples: list[Sample]
    total: int | None  # the steps that it was started for; None for an imported one
    parameters: int
    finished: bool  # also true for an imported one
    changed: str  # when metrics.jsonl last changed: "2026-11-30 14:53"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def last(self) -> int:
        """The newest step that is known, from metrics.jsonl or the newest checkpoint."""
        return max(self.metrics.last, *self.steps, 0)

    @property
    def keep(self) -> int | None:
        """The number of checkpoints that the run keeps; None for an imported one."""
        training = self.description.get("training")
        keep = training.get("keep") if isinstance(training, dict) else None
        return keep if type(keep) is int else None

    @property
    def tokens_per_step(self) -> int | None:
        """The tokens of a training step; None where its sequences have several lengths."""
        try:
            training, length = self.description["training"], self.description["model"]["context_length"]
            count = training["batch_size"] * training["grad_accumulation"] * length
        except (LookupError, TypeError):
            return None
        return count if self.task == "pretrain" and type(count) is int else None

    def figures(self) -> dict[str, str]:
        """What a table of runs shows, as text."""
        lowest = self.metrics["validation_loss"].lowest()
        return {
            "run": self.name,
            "task": self.task,
            "steps": steps_text(self),
            "parameters": f"{self.parameters:,}",
            "lowest validation loss": lowest_text(lowest) if lowest else "none",
            "changed": self.changed,
        }

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        lowest = self.metrics["validation_loss"].lowest()
        return {
            "task": self.task,
            "last": self.last,
            "total": self.total,
            "parameters": self.parameters,
            "lowest": None if lowest is None else {"loss": lowest[0], "step": lowest[1]},
            "changed": self.changed,
            "finished": self.finished,
            "imported": "imported" in self.description,
        }

    def lines(self, number: int = 0, prefix: str = "") -> list[Line]:
        """Its loss curves for a chart: each step in the background, smoothed, and on validation."""
        loss, validation = curve(self.metrics["loss"], 300, SMOOTH), self.metrics["validation_loss"]
        raw = [
            point
            for s, low, high in zip(loss.steps, loss.low, loss.high, strict=True)
            for point in ((s, low), (s, high))
        ]
        smooth = list(zip(loss.steps, loss.smooth, strict=True))
        points = list(zip(validation.steps, validation.values, strict=True))
        return [
            Line("", raw, number, faint=True),
            Line(f"{prefix}training, smoothed", smooth, number),
            Line(f"{prefix}validation", points, number + 1),
        ]

    def _repr_html_(self) -> str:
        rows = {**self.figures(), "checkpoints": ", ".join(f"{step:,}" for step in self.steps) or "none"}
        return f"<div>{html_table(([name, text] for name, text in rows.items()))}{self._chart()}</div>"

    def _chart(self) -> str:
        return line_chart(self.lines(), "step", "loss (nats per token)" if self.task != "classify" else "loss (nats)")


@dataclass(frozen=True)
class Runs:
    """The runs below a folder."""

    folder: Path
    runs: list[Run]

    def __iter__(self) -> Any:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: int) -> Run:
        return self.runs[index]

    def _repr_html_(self) -> str:
        return html_table((list(run.figures().values()) for run in self.runs), list(self.runs[0].figures()))


def run(path: str | Path) -> Run:
    """The run in a directory: its settings, curves and samples.

    FileNotFoundError where there is none; ValueError where its files are damaged.
    """
    return described(Log(Path(path)).update())


def runs(folder: str | Path) -> Runs:
    """All runs in a folder and up to three levels below it, without those that cannot be read.

    FileNotFoundError where there is none.
    """
    found = [one for path in find_runs(Path(folder)) if (one := readable(path))]
    if not found:
        raise FileNotFoundError(f"there is no readable run in {folder}: gpt train makes one")
    return Runs(Path(folder), found)


def readable(path: Path) -> Run | None:
    """The run in a directory; None where it cannot be read."""
    try:
        return run(path)
    except (OSError, ValueError):
        return None


def find_runs(folder: Path, depth: int = 3) -> Iterable[Path]:
    """The folder, if it is a run, else the runs up to `depth` levels below it, by name."""
    if run_directory.is_run(folder) or is_bare_run(folder):
        return [folder]
    if depth == 0 or not folder.is_dir():
        return []
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))
    except FileNotFoundError:  # moved or deleted meanwhile
        return []
    return [run for path in below for run in find_runs(path, depth - 1)]


def is_hidden(folder: Path) -> bool:
    """Whether the folder is no place for runs: a name with a dot first, or a checkpoint, perhaps unfinished."""
    is_checkpoint = folder.parent.name == run_directory.CHECKPOINTS and run_directory.STEP_FOLDER.fullmatch(folder.name)
    return folder.name.startswith(".") or bool(is_checkpoint)


def is_bare_run(folder: Path) -> bool:
    """Whether a folder holds a run's model without checkpoints: other programs, too, write a model.safetensors."""
    try:
        return (folder / "model.safetensors").is_file() and bool(checkpoint.read_config(folder / "config.json"))
    except (OSError, ValueError):
        return False


def described(log: Log) -> Run:
    """The run of a log. Errors as `run`."""
    path = log.run
    if not run_directory.is_run(path) and not (path / "model.safetensors").is_file():
        raise run_directory.no_run(path)
    description = checkpoint.read_config(place_of(path, "config.json"))
    entries = io.entries(place_of(path, "model.safetensors"))
    when = place_of(path, METRICS if place_of(path, METRICS).exists() else "config.json").stat().st_mtime
    return Run(
        path=path,
        task=str(description.get("task", "pretrain")),
        description=description,
        steps=kept_steps(path),
        metrics=log.metrics,
        samples=log.samples,
        total=total_steps(description),
        parameters=sum(math.prod(entry.shape) for entry in entries.values()),
        finished="imported" in description or (run_directory.finished(path) or -1) >= log.metrics.last,
        changed=f"{datetime.fromtimestamp(when):%Y-%m-%d %H:%M}",
    )


def total_steps(description: Mapping[str, Any]) -> int | None:
    """The steps that a run was started for: its setting, or its epochs times the batches of one."""
    try:
        training = description["training"]
        steps, batch_size = training["steps"], training["batch_size"]
        if not steps:
            batches = description["data"]["train"]["entries"] // batch_size
            steps = max(1, training["epochs"] * batches // training["grad_accumulation"])
        return int(steps)
    except (LookupError, TypeError, ArithmeticError, ValueError):
        return None


def steps_text(run: Run) -> str:
    """ "300", or "120 of 300, not finished"."""
    total = f" of {run.total:,}" if run.total and run.total != run.last else ""
    return f"{run.last:,}{total}{'' if run.finished else ', not finished'}"


def lowest_text(lowest: tuple[float, int]) -> str:
    """A validation loss and its step: "1.2345 at step 300"."""
    return f"{figure_text('validation_loss', lowest[0])} at step {lowest[1]:,}"


def html_table(rows: Iterable[Iterable[str]], head: Iterable[str] = ()) -> str:
    """An HTML table of texts, all escaped."""
    top = "".join(f"<th {CELL}>{escape(text)}</th>" for text in head)
    body = "".join(f"<tr>{''.join(f'<td {CELL}>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if top else ''}<tbody>{body}</tbody></table>"
