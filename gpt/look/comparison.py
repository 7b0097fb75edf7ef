"""Several runs side by side: the settings in which they differ, their results, and their curves on one plot."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .charts import COLORS, line_chart
from .figures import figure_name, figure_text
from .metrics import SMOOTH, curve
from .run_list import CELL, Run, find_runs, html_table, readable, run, steps_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MISSING = "-"  # in place of a value that a run does not have


@dataclass(frozen=True)
class Row:
    """A setting or a result of each run, as text."""

    name: str
    values: list[str]

    @property
    def differs(self) -> bool:
        """Whether the runs that have it differ."""
        return len(set(self.values) - {MISSING}) > 1


@dataclass(frozen=True)
class Comparison:
    """Runs side by side."""

    runs: list[Run]
    names: list[str]  # of the runs, each different
    settings: list[Row]
    results: list[Row]
    notes: list[str]  # sentences on what cannot be compared

    @property
    def differences(self) -> list[Row]:
        """The settings in which the runs differ, of those that each has."""
        return [row for row in self.settings if row.differs]

    @property
    def partial(self) -> list[str]:
        """The names of settings that only some of the runs have: those of another task or of training."""
        return [row.name for row in self.settings if MISSING in row.values and not row.differs]

    def to_dict(self) -> dict[str, Any]:
        """The tables, ready for JSON."""
        rows = {
            kind: [{"name": row.name, "values": row.values, "differs": row.differs} for row in found]
            for kind, found in (("settings", self.settings), ("results", self.results))
        }
        return {"names": self.names, **rows, "notes": self.notes}

    def figure(self) -> "Figure":
        """A Matplotlib figure of all loss curves: validation with points, smoothed training loss thin."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        from ..training import plots

        figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for i, (one, name) in enumerate(zip(self.runs, self.names, strict=True)):
            color, marker = COLORS[i % len(COLORS)], "osD^vPX*"[i % 8]
            loss, validation = curve(one.metrics["loss"], 600, SMOOTH), one.metrics["validation_loss"]
            axes.plot(
                loss.steps, loss.smooth, color=color, linewidth=0.9, alpha=0.6, label=f"{name}: training, smoothed"
            )
            axes.plot(validation.steps, validation.values, color=color, linewidth=1.7, marker=marker, markersize=4,
                      label=f"{name}: validation")  # fmt: skip
        axes.set(xlabel="step", ylabel="loss (nats)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        style = plots.text_style("".join(self.names))
        legend = axes.legend(frameon=False, fontsize=9, loc="upper right")
        for text in legend.get_texts():
            text.set(**style)
        return figure

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the figure as a PNG. FileExistsError where there is a file already, unless `overwrite`."""
        from ..training import plots

        path = Path(path)
        check_png(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists already: name another file, or overwrite it with --overwrite")
        plots.save(self.figure(), path)
        return path

    def _repr_html_(self) -> str:
        head, tables = ["", *self.names], []
        for title, rows in (("results", self.results), ("settings that differ", self.differences)):
            tables.append(f"<b>{title}</b>{html_table(([row.name, *row.values] for row in rows), head)}")
        notes = "".join(f"<p {CELL}>{escape(note)}</p>" for note in self.notes)
        lines = [
            line
            for i, (one, name) in enumerate(zip(self.runs, self.names, strict=True))
            for line in one.lines(2 * i, f"{name}: ")
            if not line.faint
        ]
        return f"<div>{''.join(tables)}{notes}{line_chart(lines, 'step', 'loss (nats)')}</div>"


def check_png(path: Path) -> None:
    """ValueError for a name that other programs would read as another format."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the curves are drawn as a PNG: give a name that ends in .png")


def compare(runs: str | Path | Iterable[str | Path | Run]) -> Comparison:
    """Compare runs: paths of runs or of folders of runs, or Run objects; a path alone is that of a folder.

    Runs in a folder that cannot be read are left out.
    FileNotFoundError for a path without a run; ValueError where there are fewer than two runs.
    """
    found: list[Run] = []
    for one in [runs] if isinstance(runs, str | Path) else runs:
        if isinstance(one, Run):
            found.append(one)
            continue
        paths = list(find_runs(Path(one)))
        if not paths:
            raise FileNotFoundError(f"there is no run in {one}: name a run, or a folder of runs")
        read = [run(paths[0])] if paths == [Path(one)] else [each for path in paths if (each := readable(path))]
        found += [each for each in read if each.path not in {other.path for other in found}]
    if len(found) < 2:
        raise ValueError(
            f"a comparison needs two different runs, got {len(found)}: name them, or a folder with several"
        )
    return compared(found, distinct(found))


def compared(runs: list[Run], names: list[str]) -> Comparison:
    """The comparison of runs under these names."""
    settings = [settings_of(one) for one in runs]
    order = dict.fromkeys(name for one in settings for name in one)
    rows = [Row(name, [one.get(name, MISSING) for one in settings]) for name in order]
    return Comparison(runs, names, rows, results_of(runs), notes_of(runs))


def distinct(runs: Sequence[Run]) -> list[str]:
    """The runs' names; the path where several have the same name."""
    names = [one.name for one in runs]
    return [str(one.path) if names.count(one.name) > 1 else one.name for one in runs]


def settings_of(one: Run) -> dict[str, str]:
    """All settings of a run as text: its model's, its training's, its data and the versions it was made with."""
    description = one.description
    training, model, data = (dict_at(description, name) for name in ("training", "model", "data"))
    made_with = dict_at(description, "made_with")
    values: dict[str, Any] = {"task": one.task, "parameters": f"{one.parameters:,}", **model}
    values |= {name: value for name, value in training.items() if name not in model}
    for part in ("train", "validation", "test"):
        about = dict_at(data, part)
        values |= {
            f"{part} {unit}": f"{about[unit]:,}" for unit in ("tokens", "entries") if type(about.get(unit)) is int
        }
    values |= {name: made_with[name] for name in ("device", "tensorlite") if name in made_with}
    return {name: setting_text(value) for name, value in values.items()}


def dict_at(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def setting_text(value: Any) -> str:
    """A setting as the command line has it."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "default"
    return f"{value:g}" if isinstance(value, float) else str(value)


def results_of(runs: Sequence[Run]) -> list[Row]:
    """Steps, losses and the figures of the final evaluations."""

    def lowest(one: Run) -> str:
        found = one.metrics["validation_loss"].lowest()
        return figure_text("validation_loss", found[0]) if found else MISSING

    def lowest_at(one: Run) -> str:
        found = one.metrics["validation_loss"].lowest()
        return f"{found[1]:,}" if found else MISSING

    def training(one: Run) -> str:
        last = one.metrics["loss"].values[-SMOOTH:]
        return figure_text("loss", sum(last) / len(last)) if last else MISSING

    def newest(name: str) -> Callable[[Run], str]:
        return lambda one: figure_text(name, values[-1]) if (values := one.metrics[name].values) else MISSING

    columns: dict[str, Callable[[Run], str]] = {
        "steps": steps_text,
        "lowest validation loss": lowest,
        "at step": lowest_at,
        f"training loss, last {SMOOTH} steps": training,
    }
    others = dict.fromkeys(name for one in runs for name in one.metrics.series)
    known = {"loss", "norm", "lr", "validation_loss"}
    columns |= {figure_name(name): newest(name) for name in others if name not in known}
    return [Row(name, [text(one) for one in runs]) for name, text in columns.items()]


def notes_of(runs: Sequence[Run]) -> list[str]:
    """Sentences on losses that are not comparable."""

    def differ(value: Callable[[Run], Any]) -> bool:
        return len({str(found) for one in runs if (found := value(one)) is not None}) > 1

    def validation(one: Run) -> Any:
        return dict_at(dict_at(one.description, "data"), "validation").get("sha256")

    if differ(lambda one: one.task):
        return ["The tasks differ, so the losses are of different things and cannot be compared."]
    if differ(lambda one: dict_at(one.description, "model").get("vocab_size")):
        return ["The tokenizers differ, so losses per token cannot be compared: compare bits per byte."]
    if differ(validation):
        return ["The validation data differ, so the validation losses cannot be compared exactly."]
    return []
