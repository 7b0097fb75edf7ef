"""Figures of a run, drawn from its files alone, so that drawing is reproducible. No window is opened."""

import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tensorlite.files import replacing

from ..jsonfile import parse

# Fonts for characters that the default font does not have, if they are installed: Linux, Windows, macOS.
OTHER_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic",
    "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS", "Noto Color Emoji",
)  # fmt: skip
TRAINING, VALIDATION, FAINT = "#8fb3d9", "#c2410c", "#6b7280"


class NotebookFigure(Figure):
    """A Figure that a notebook shows as a PNG, also without pyplot and its inline backend."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        write(self, file)
        return file.getvalue()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; ValueError for any other file."""
    try:
        return [parse(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except ValueError as error:
        raise ValueError(f"{path} is not a run's metrics: {error}") from None


def draw_run(run: Path) -> Path:
    """Draw RUN/loss.png, the figure of `run_figure`."""
    path = run / "loss.png"
    save(run_figure(run), path)
    return path


def run_figure(run: Path) -> Figure:
    """A figure of RUN/metrics.jsonl: the loss of every step and on validation; below, the learning rate.

    Where accuracies were measured, they have a panel between the two.
    """
    lines = read_metrics(run / "metrics.jsonl")
    losses = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]
    validation = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    rates = [(line["step"], line["lr"]) for line in lines if "lr" in line]
    accuracies = {
        name: [(line["step"], line[f"{name}_accuracy"]) for line in lines if f"{name}_accuracy" in line]
        for name in ("training", "validation")
    }
    classified = bool(accuracies["validation"])
    figure = NotebookFigure(figsize=(8, 7 if classified else 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes, *middle, below = figure.subplots(
        3 if classified else 2, 1, sharex=True, height_ratios=(5, 3, 1) if classified else (5, 1)
    )
    for panel in middle:
        for name, points in accuracies.items():
            color = TRAINING if name == "training" else VALIDATION
            panel.plot(*zip(*points, strict=True), color=color, linewidth=1.6, marker="o", markersize=3)
        panel.set(ylabel="accuracy")
    if losses:
        axes.plot(*zip(*losses, strict=True), color=TRAINING, linewidth=0.8, label="training, each batch")
        below.plot(*zip(*rates, strict=True), color=FAINT, linewidth=1)
    steps, values = zip(*validation, strict=True)
    axes.plot(steps, values, color=VALIDATION, linewidth=1.6, marker="o", markersize=3, label="validation")
    axes.annotate(
        f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(4, 6), textcoords="offset points", color=VALIDATION
    )
    axes.set(ylabel="loss (nats)" if classified else "loss (nats per token)")
    axes.set_title(run.name, **text_style(run.name))
    axes.legend(frameon=False, loc="upper right")  # where curves that fall leave room; "best" is slow for long ones
    below.set(xlabel="step", ylabel="lr")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for each in (axes, *middle, below):
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    return figure


def draw_report(run: Path) -> Path:
    """Draw RUN/report.png, the figure of `report_figure`."""
    path = run / "report.png"
    save(report_figure(run), path)
    return path


def report_figure(run: Path) -> Figure:
    """A figure of RUN/report.json: the confusion matrix of a classifier on its test part."""
    report = parse((run / "report.json").read_text(encoding="utf-8"))
    labels, confusion = report["labels"], report["confusion"]
    side = max(3.6, 1.6 + 0.62 * len(labels))
    figure = NotebookFigure(figsize=(side + 0.6, side), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(confusion):
        for j, count in enumerate(row):
            color = "white" if shares[i][j] > 0.7 else "black"
            axes.text(j, i, f"{count}", ha="center", va="center", color=color, fontsize=12 if len(labels) < 8 else 8)
    names = text_style("".join(labels))
    axes.set_xticks(range(len(labels)), labels, rotation=45 if len(labels) > 4 else 0, **names)
    axes.set_yticks(range(len(labels)), labels, **names)
    axes.set(xlabel="predicted", ylabel="true")
    title = report_title(run, report)
    axes.set_title(title, **text_style(title))
    return figure


def report_title(run: Path, report: Mapping[str, Any]) -> str:
    """The run's name and its accuracy, and how many of the texts are in training or validation too."""
    title = f"{run.name}: accuracy {report['accuracy']:.1%} on the test texts"
    if again := report.get("repeated", 0):
        return f"{title}\n({again:,} of {sum(map(sum, report['confusion'])):,} also in training or validation)"
    return title


def text_style(text: str) -> dict[str, Any]:
    """Settings to draw any name: "$" does not begin a formula, and fallback fonts have further characters."""
    installed = [] if text.isascii() else font_manager.fontManager.get_font_names()
    return {"parse_math": False, "fontfamily": ["DejaVu Sans", *(name for name in OTHER_FONTS if name in installed)]}


def save(figure: Figure, path: Path) -> None:
    """Write the figure to a file; after a crash it is the old one, or there is none."""
    with replacing(path) as file:
        write(figure, file)


def write(figure: Figure, file: IO[bytes]) -> None:
    """Write the figure: the same bytes for the same numbers. Characters without a font are boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support")
        figure.savefig(file, format="png", metadata={"Software": None})
