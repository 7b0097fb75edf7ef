"""Pictures of training.

One idea: a picture is drawn from files alone, so that it can be drawn again, and comes out the same. Nothing here shows
a window.
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TRAINING, VALIDATION, FAINT = "#8fb3d9", "#c2410c", "#6b7280"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; ValueError for one that is not such a file."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} is not a run's metrics: {error}") from None


def draw_run(run: Path) -> Path:
    """Draw RUN/loss.png from RUN/metrics.jsonl: the loss of every step and on validation; below, the learning rate."""
    lines = read_metrics(run / "metrics.jsonl")
    losses = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]
    validation = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    rates = [(line["step"], line["lr"]) for line in lines if "lr" in line]
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    if losses:
        axes.plot(*zip(*losses, strict=True), color=TRAINING, linewidth=0.8, label="training, each batch")
        below.plot(*zip(*rates, strict=True), color=FAINT, linewidth=1)
    steps, values = zip(*validation, strict=True)
    axes.plot(steps, values, color=VALIDATION, linewidth=1.6, marker="o", markersize=3, label="validation")
    axes.annotate(
        f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(4, 6), textcoords="offset points", color=VALIDATION
    )
    axes.set(ylabel="loss (nats per token)", title=run.name)
    axes.legend(frameon=False)
    below.set(xlabel="step", ylabel="lr")
    for each in (axes, below):
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    path = run / "loss.png"
    figure.savefig(path, metadata={"Software": None})  # the same picture from the same numbers, whatever draws it
    return path
