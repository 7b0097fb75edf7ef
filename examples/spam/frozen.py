"""Time and memory of a fine-tuning step for each choice of trained layers.

    python examples/spam/frozen.py

A frozen weight has no gradient and no averages in the optimizer, and below the first trained layer the forward pass
keeps no activations. The models take turns step by step, and the table gives ratios to
training everything. Memory is the peak allocation of the step, and the state of the optimizer.
"""

import json
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tyro

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.tasks.classify import Classification, ClassifyConfig
from gpt.tasks.classify.model import build, freeze
from gpt.training.session import make_optimizer
from tensorlite.devices import machine

LAYERS = ("head", "last-block", "last-2", "lora", "all")


@dataclass
class Frozen:
    """Time and memory of a fine-tuning step for each choice of trained layers."""

    n_layer: int = 6  # blocks
    n_embd: int = 384  # width
    length: int = 120  # tokens of a text: the book's
    batch_size: int = 8  # texts of a step
    turns: int = 7  # steps of each, taking turns
    out: Path = Path(__file__).parent / "frozen.json"

    def __call__(self) -> None:
        machine.set_threads(1)
        machine.keep_freed_memory()
        tl.manual_seed(1)
        steps = {layers: Step(self, layers) for layers in LAYERS}
        times: dict[str, list[float]] = {layers: [] for layers in LAYERS}
        for turn in range(self.turns + 1):
            for layers, step in steps.items():
                began = time.process_time()
                step()
                if turn:  # the first one fills the caches
                    times[layers].append(time.process_time() - began)
        results = {layers: step.sizes() for layers, step in steps.items()}
        for layers in LAYERS:
            ratios = [mine / whole for mine, whole in zip(times[layers], times["all"], strict=True)]
            results[layers] |= {"seconds": median(times[layers]), "time_to_all": median(ratios)}
        settings = {name: value for name, value in vars(self).items() if name != "out"}
        self.out.write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")
        print(table(results))


class Step:
    """A partly frozen model, and one step of fine-tuning it."""

    def __init__(self, settings: Frozen, layers: Any):
        config = ClassifyConfig(layers=layers)
        shape = GPTConfig(
            vocab_size=4096, context_length=settings.length, n_layer=settings.n_layer, n_head=6, n_embd=settings.n_embd
        )
        self.model = build(config, shape, 2)
        freeze(self.model, config)
        self.optimizer = make_optimizer(self.model, config)
        size = (settings.batch_size, settings.length)
        self.batch = (tl.randint(0, 4096, size), [settings.length] * size[0], tl.randint(0, 2, size[:1]))

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        Classification.loss(self.model, self.batch).backward()
        self.optimizer.step()

    def sizes(self) -> dict[str, int]:
        """Peak bytes that a step allocates, bytes of the optimizer's state, and the number of trained parameters."""
        self.optimizer.zero_grad()
        tracemalloc.start()
        self()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        kept = sum(tensor.data.nbytes for tensor in self.optimizer.state_dict()["tensors"].values())
        return {
            "learning": sum(p.size for p in self.model.parameters() if p.requires_grad),
            "step_bytes": peak,
            "optimizer_bytes": kept,
        }


def table(results: dict[str, dict[str, Any]]) -> str:
    """In Markdown, each row compared with `all`."""
    lines = ["| trained | parameters | time of a step | memory of a step | optimizer |", "|---|---|---|---|---|"]
    whole = results["all"]
    for layers, r in results.items():
        lines.append(
            f"| {layers} | {r['learning']:,} | {r['time_to_all']:.2f} | {r['step_bytes'] / whole['step_bytes']:.2f} "
            f"({r['step_bytes'] / 2**20:,.0f} MiB) | {r['optimizer_bytes'] / 2**20:,.1f} MiB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(tyro.cli(Frozen, description=__doc__)())
