"""One run for people: its model, tokenizer, data, settings, results, checkpoints and size, as numbers and texts."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import tokenizer as tokenizers
from ..console import bytes_text, counted
from ..tasks.classify import ClassifyConfig
from ..tasks.instruct import InstructConfig
from ..tasks.pretrain import TrainConfig
from ..training import checkpoint, run_directory
from ..training.session import default_keep
from ..training.settings import Settings
from .comparison import dict_at, setting_text
from .figures import figure_name, figure_text
from .metrics import SMOOTH, place_of
from .run_list import Run, lowest_text, run, steps_text

SETTINGS: dict[str, type[Settings]] = {
    "pretrain": TrainConfig, "classify": ClassifyConfig, "instruct": InstructConfig,
}  # fmt: skip
EACH_STEP = ("loss", "norm", "lr", "validation_loss")


@dataclass(frozen=True)
class Summary:
    """A run, described. `to_dict` has numbers, `sections` has texts."""

    run: Run
    best: tuple[float, int] | None  # the lowest validation loss up to the newest checkpoint, and its step
    tokenizer: Mapping[str, Any]
    checkpoints: list[tuple[int, int]]  # step and bytes of each, ascending
    size: int  # bytes on disk; a file with several names counts once

    @property
    def changed_settings(self) -> dict[str, Any]:
        """The settings that are not the defaults of the command, and not what it chooses for the model and machine."""
        training = dict_at(self.run.description, "training")
        kind = SETTINGS.get(self.run.task)
        if kind is None:
            return training
        usual = kind().to_dict() | {"keep": default_keep(self.run.parameters), "threads": training.get("threads")}
        with suppress(ValueError, KeyError):  # settings of another version
            width = dict_at(self.run.description, "model")["n_embd"]
            usual["lr"] = kind.from_dict(training).default_lr(width)
        return {name: value for name, value in training.items() if name not in usual or value != usual[name]}

    def results(self) -> dict[str, float]:
        """The newest of each figure of the evaluations, the validation loss aside."""
        series = self.run.metrics.series
        return {name: found.values[-1] for name, found in series.items() if name not in EACH_STEP and found.values}

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        one, description = self.run, self.run.description
        return {
            "run": str(one.path),
            **one.to_dict(),
            "model": dict_at(description, "model"),
            "from": source_of(description),
            "tokenizer": dict(self.tokenizer),
            "texts": description.get("texts", []),
            "data": dict_at(description, "data"),
            "training": dict_at(description, "training"),
            "results": self.results(),
            "checkpoints": [
                {"step": step, "bytes": size, "best": self.is_best(step)} for step, size in self.checkpoints
            ],
            "bytes": self.size,
            "made_with": dict_at(description, "made_with"),
        }

    def is_best(self, step: int) -> bool:
        """Whether a step is the one with the lowest validation loss."""
        return self.best is not None and self.best[1] == step

    def sections(self, all_settings: bool = False) -> dict[str, dict[str, str]]:
        """The texts of a report: sections of names and values."""
        training = dict_at(self.run.description, "training")
        chosen = training if all_settings else self.changed_settings
        settings = {name: setting_text(value) for name, value in chosen.items()}
        if training and not settings:
            settings = {"all": "defaults"}
        made_with = dict_at(self.run.description, "made_with")
        return {
            "run": self._run_rows(),
            "model": self._model_rows(),
            "data": self._data_rows(),
            "settings" if all_settings else "settings that are not defaults": settings,
            "results": self._result_rows(),
            "files": self._file_rows(),
            "made with": {name: str(value) for name, value in made_with.items()},
        }

    def _run_rows(self) -> dict[str, str]:
        one, source = self.run, source_of(self.run.description)
        state = "imported" if "imported" in one.description else "finished" if one.finished else "not finished"
        rows = {"directory": str(one.path), "task": one.task, "state": state, "changed": one.changed}
        return rows | ({"started from": source} if source else {})

    def _model_rows(self) -> dict[str, str]:
        model = dict_at(self.run.description, "model")
        shape = ("n_layer", "n_head", "n_embd")
        whole = [model[name] if type(model.get(name)) is int else 0 for name in shape]
        about = [counted(whole[0], "layer"), counted(whole[1], "head"), f"{whole[2]} wide"]
        rest = {name: setting_text(value) for name, value in model.items() if name not in shape}
        kind, tokens, special = (self.tokenizer[name] for name in ("kind", "tokens", "special_tokens"))
        named = f", with {', '.join(special[:4])}{' ...' if len(special) > 4 else ''}" if special else ""
        return {
            "parameters": f"{self.run.parameters:,}",
            "shape": ", ".join(about),
            **rest,
            "tokenizer": f"{kind}, {tokens:,} tokens{named}",
        }

    def _data_rows(self) -> dict[str, str]:
        rows = {}
        for i, text in enumerate(self.run.description.get("texts") or ()):
            size = f" ({bytes_text(text['bytes'])})" if type(text.get("bytes")) is int else ""
            rows["learnt from" if i == 0 else f"and {i}"] = f"{text.get('path')}{size}"
        for part, about in dict_at(self.run.description, "data").items():
            if not isinstance(about, dict):
                continue
            units = {"tokens": ("token", "tokens"), "entries": ("entry", "entries")}
            found = {unit: about[unit] for unit in units if type(about.get(unit)) is int}
            sizes = [f"{count:,} {units[unit][count != 1]}" for unit, count in found.items()]
            rest = [f"{name} {value}" for name, value in dict_at(about, "labels").items()]
            rows[part] = ", ".join(sizes + rest)
        if labels := self.run.description.get("labels"):
            rows["labels"] = ", ".join(map(str, labels))
        return rows

    def _result_rows(self) -> dict[str, str]:
        one, last = self.run, self.run.metrics["loss"].values[-SMOOTH:]
        lowest = one.metrics["validation_loss"].lowest()
        rows = {"steps": steps_text(one)}
        if one.tokens_per_step:
            rows["tokens trained on"] = f"{one.tokens_per_step * one.last:,}"
        if last:
            rows[f"training loss, last {SMOOTH} steps"] = figure_text("loss", sum(last) / len(last))
        if lowest:
            rows["lowest validation loss"] = lowest_text(lowest)
            rows["newest validation loss"] = figure_text("validation_loss", one.metrics["validation_loss"].values[-1])
        return rows | {figure_name(name): figure_text(name, value) for name, value in self.results().items()}

    def _file_rows(self) -> dict[str, str]:
        kept = [f"{step:,}{' (best)' if self.is_best(step) else ''}" for step, _ in self.checkpoints]
        rows = {"checkpoints": ", ".join(kept) or "none"}
        if self.checkpoints:
            rows["each"] = bytes_text(self.checkpoints[-1][1])
        return rows | {"on disk": bytes_text(self.size)}


def summary(path: str | Path) -> Summary:
    """What there is to know about a run. FileNotFoundError where there is none; ValueError where it is damaged."""
    path = Path(path)
    one = run(path)
    read = tokenizers.load(place_of(path, "tokenizer.json"))
    tokenizer = {
        "kind": getattr(read, "kind", type(read).__name__),
        "tokens": read.vocab_size,
        "special_tokens": list(read.special_tokens),
    }
    folders = sorted(run_directory.steps(path), key=run_directory.step_of)
    checkpoints = [(run_directory.step_of(folder), size_of(folder)) for folder in folders]
    return Summary(one, checkpoint.best_of(path), tokenizer, checkpoints, size_of(path))


def source_of(description: Mapping[str, Any]) -> str | None:
    """What a run's weights began as: another run, or imported files; None for random weights."""
    imported = dict_at(description, "imported").get("from")
    base = dict_at(description, "training").get("base")
    found = imported or base
    return str(found) if found else None


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder; a file with several names counts once, and links are not followed."""
    seen: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                about = os.lstat(os.path.join(place, name))
            except OSError:  # deleted meanwhile, as by training
                continue
            seen[about.st_dev, about.st_ino] = about.st_size
    return sum(seen.values())
