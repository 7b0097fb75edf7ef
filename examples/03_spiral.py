"""A network learns to distinguish the arms of a spiral: modules, an optimizer, and pictures of the decision regions.

Three arms of points wind around each other, so no straight line separates them: a linear classifier, trained the same
way, is hardly better than guessing. A network with two hidden layers separates them. You will see both,
the loss during training, and the region in which each model predicts each arm. They are tested on points that they
were not trained on.

    python examples/03_spiral.py [--steps 400] [--out FOLDER]
"""

import tempfile
from pathlib import Path

import numpy as np
import tyro
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import tensorlite as tl
from tensorlite import functional as F
from tensorlite import nn, optim

OUT = Path(tempfile.gettempdir(), "tensorlite-examples")
COLOURS = ["#2f6fb5", "#d9791b", "#2f8f4e"]


def spiral(n: int, noise: float = 0.12) -> tuple[tl.Tensor, tl.Tensor]:
    """n points on each of three arms: coordinates (3 n, 2) and the arm of each (3 n,)."""
    radius = tl.rand(3, n)
    arm = tl.arange(3).reshape(3, 1)
    angle = 2 * np.pi / 3 * arm.astype(tl.float32) + 6 * radius + noise * tl.randn(3, n)
    points = tl.stack([radius * tl.cos(angle), radius * tl.sin(angle)], axis=-1)  # (3, n, 2)
    return points.reshape(3 * n, 2), arm.broadcast_to(3, n).reshape(3 * n)


def train(model: nn.Module, points: tl.Tensor, arms: tl.Tensor, steps: int) -> list[float]:
    """Train with full-batch AdamW; return the loss of every step."""
    optimizer = optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.01)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(points), arms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def accuracy(model: nn.Module, points: tl.Tensor, arms: tl.Tensor) -> float:
    with tl.no_grad():
        return (model(points).argmax(axis=-1) == arms).astype(tl.float32).mean().item()


def main(steps: int = 400, out: Path = OUT) -> None:
    tl.manual_seed(0)
    points, arms = spiral(150)
    unseen = spiral(150)
    linear = nn.Linear(2, 3)
    network = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))
    print(f"{'':<22}parameters   last loss   accuracy on unseen points")
    curves = {}
    for name, model in (("a linear classifier", linear), ("two hidden layers", network)):
        curves[name] = train(model, points, arms, steps)
        right = accuracy(model, *unseen)
        print(f"{name:<22}{model.num_parameters():>10}   {curves[name][-1]:>9.4f}   {right:.1%}")
    draw(linear, network, points, arms, curves, out)


def draw(linear, network, points, arms, curves, out: Path) -> None:
    figure = Figure(figsize=(12, 4), layout="constrained")
    *maps, right = figure.subplots(1, 3)
    side = np.linspace(-1.15, 1.15, 300, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    for axes, model, title in zip(maps, (linear, network), curves, strict=True):
        with tl.no_grad():
            regions = model(tl.tensor(grid)).argmax(axis=-1).numpy().reshape(300, 300)
        axes.imshow(regions, origin="lower", extent=(-1.15, 1.15) * 2, cmap=ListedColormap(COLOURS), alpha=0.3)
        axes.scatter(*points.numpy().T, c=[COLOURS[arm] for arm in arms.tolist()], s=9, linewidths=0)
        axes.set(title=title, xticks=[], yticks=[])
    for (name, losses), colour in zip(curves.items(), ("0.55", COLOURS[0]), strict=True):
        right.semilogy(losses, label=name, color=colour, linewidth=2)
    right.set(title="cross-entropy", xlabel="step")
    right.legend()
    right.grid(alpha=0.3)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "03_spiral.png", dpi=100)
    print(f"picture: {out / '03_spiral.png'}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
