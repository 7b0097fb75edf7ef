"""Check that a file can hold the weights of a model, before memory is allocated for it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tensorlite.io import Entry

from ..config import GPTConfig
from ..model import parameter_table

SLACK = 100_000  # allowed difference, in numbers


def config_of(description: Mapping[str, Any], entries: Mapping[str, Entry], path: Path) -> GPTConfig:
    """The model's config in a run's config.json, checked against the weights' file at `path`.

    A config may ask for any number of blocks and any width. ValueError where the model would have more parameters
    than the file, or adapters of another rank. (A difference of up to SLACK is left to the loading of the
    weights, whose error has names and shapes.)
    """
    config = GPTConfig.from_dict(description["model"])
    needed = parameter_table(replace(config, tie_head=True))[
        -1
    ].parameters  # a classifier does not have the model's head
    there = sum(math.prod(entry.shape) for entry in entries.values())
    if needed > there + SLACK:
        raise ValueError(
            f"{path} does not hold the weights of the model in config.json: it has {there:,} numbers, and the model "
            f"has {needed:.4g} parameters or more"
        )
    training = description.get("training")
    adapters = description.get("lora")
    if isinstance(training, dict) and training.get("layers") == "lora":  # a classifier adapts all its Linears
        adapters = {"rank": training.get("rank"), "alpha": training.get("alpha"), "targets": ["*"]}
    if adapters:
        ranks = {entry.shape[-1] for name, entry in entries.items() if name.endswith("lora_A") and entry.shape}
        if not _fits(adapters, ranks):
            raise ValueError(f"{path} does not hold the LoRA adapters that config.json describes: {adapters!r:.80}")
    return config


def _fits(adapters: Any, ranks: set[int]) -> bool:
    """Whether these are the settings of `lora.apply`, with one of the ranks."""
    if not isinstance(adapters, dict) or not adapters.keys() <= {"rank", "alpha", "targets"}:
        return False
    rank, targets = adapters.get("rank"), adapters.get("targets", [])
    return (
        type(rank) is int and rank in ranks and isinstance(targets, list) and all(isinstance(t, str) for t in targets)
    )
