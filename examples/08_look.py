# %% [markdown]
# # Look inside a model while it learns
#
# Each `# %%` begins a cell: Jupyter (with jupytext), VS Code and PyCharm open this file as a notebook, in which the
# pictures appear below the cells.

# %%
"""Attention, at every checkpoint of a small run: which heads come to read the previous character.

A run keeps checkpoints; `gpt.look` opens its model at any of them. You will see a small model of characters being
trained for 300 steps, the share of its weight that each head puts on the previous token at each checkpoint, next to
what uniform attention would give, and the weights of the clearest head as a picture before and after. `gpt look FOLDER`
shows the same, and more, in the browser.

    python examples/08_look.py [--steps 300] [--out FOLDER]
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from gpt import look
from gpt.tasks.pretrain import TrainConfig
from gpt.training import loop

TEXT = "Before we proceed any further, hear me speak."
PLAY = Path("coriolanus.txt" if Path("coriolanus.txt").exists() else "examples/coriolanus.txt")
IN_NOTEBOOK = "ipykernel" in sys.modules


@dataclass
class Options:
    """Attention, at every checkpoint of a small run."""

    steps: int = 300
    out: Path = Path(tempfile.gettempdir(), "tensorlite-examples")


options = Options() if IN_NOTEBOOK else tyro.cli(Options, description=__doc__)
options.out.mkdir(parents=True, exist_ok=True)


def show(picture: Any, name: str) -> None:
    """In a notebook below the cell, otherwise as a file."""
    if IN_NOTEBOOK:
        from IPython.display import display

        display(picture)
    else:
        path = options.out / f"08_{name}.svg"
        path.write_text(picture._repr_svg_(), encoding="utf-8")
        print(f"picture: {path}")


# %% [markdown]
# ## A run that keeps its checkpoints
#
# `gpt train --keep 4` does the same on the command line.

# %%
run = options.out / "08_run"
config = TrainConfig(
    text=(PLAY,), out=run, overwrite=True, tokenizer="char", n_layer=2,
    n_head=4, n_embd=64, context_length=64, batch_size=16, steps=options.steps, lr=3e-3,
    checkpoint_every=options.steps // 3, eval_every=options.steps, sample_every=options.steps, keep=4,
)  # fmt: skip
loop.train(config)
steps = look.kept_steps(run)
print(f"checkpoints: {steps}")

# %% [markdown]
# ## What each head reads, step by step

# %%
found = {step: look.attention(look.load(run, step), TEXT) for step in steps}
heads = " ".join(f"{one.layer}.{one.head:<4}" for one in found[steps[0]].shares)
print(f"share of the weight on the previous token, by layer.head; uniform: {found[steps[0]].uniform.previous:.2f}")
print(f"step      {heads}")
for step, attention in found.items():
    print(f"{step:>5}     " + " ".join(f"{one.previous:<6.2f}" for one in attention.shares))

# %% [markdown]
# ## The clearest head, before and after
#
# A row is a character that reads, a column the character that it reads from.

# %%
best = max(found[steps[-1]].shares, key=lambda one: one.previous or 0.0)
print(f"layer {best.layer}, head {best.head} puts {best.previous:.2f} of its weight on the previous token")
show(found[steps[0]].head(best.layer, best.head), "first")
show(found[steps[-1]].head(best.layer, best.head), "last")
