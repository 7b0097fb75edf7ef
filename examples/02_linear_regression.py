"""Gradient descent by hand: a line through points, compared with the solution of the normal equations.

The smallest model that learns, without optimizer or module: two numbers, w and b, a loss that measures their
error, and `tl.grad`, which gives the direction in which each of them increases it. You will see that autograd's
gradient equals the textbook formula, 2/n Xᵀ(Xθ - y); that descent converges to the point that the normal
equations XᵀX θ = Xᵀy give in closed form; and that each step finally reduces the error by the same factor, as in
theory: 1 - 2 * rate * (the smallest eigenvalue of XᵀX/n), that of the slowest direction.

    python examples/02_linear_regression.py [--out FOLDER]
"""

import tempfile
from pathlib import Path

import numpy as np
import tyro
from matplotlib import colormaps
from matplotlib.figure import Figure

import tensorlite as tl

OUT = Path(tempfile.gettempdir(), "tensorlite-examples")
STEPS, RATE = 250, 0.2


def loss(w: tl.Tensor, b: tl.Tensor, x: tl.Tensor, y: tl.Tensor) -> tl.Tensor:
    """The mean squared distance of the line w x + b from the points."""
    return tl.square(w * x + b - y).mean()


def descend(x: tl.Tensor, y: tl.Tensor) -> list[tuple[float, float]]:
    """All (w, b), starting at (0, 0), with one step against the gradient after another."""
    w, b = (tl.zeros((), dtype=tl.float64, requires_grad=True) for _ in range(2))
    path = [(w.item(), b.item())]
    for _ in range(STEPS):
        gradients = tl.grad(loss(w, b, x, y), [w, b])
        w, b = (tl.tensor(p.data - RATE * g.data, requires_grad=True) for p, g in zip((w, b), gradients, strict=True))
        path.append((w.item(), b.item()))
    return path


def main(out: Path = OUT) -> None:
    tl.manual_seed(0)
    x = tl.rand(60, dtype=tl.float64) * 3 - 1
    y = 1.5 * x - 0.7 + 0.4 * tl.randn(60, dtype=tl.float64)
    X = np.stack([x.numpy(), np.ones(60)], axis=1)  # a column for w and one for b

    # The gradient at the start, from autograd and from the textbook.
    w, b = (tl.zeros((), dtype=tl.float64, requires_grad=True) for _ in range(2))
    by_rules = np.array([g.item() for g in tl.grad(loss(w, b, x, y), [w, b])])
    by_book = 2 / 60 * X.T @ (X @ np.zeros(2) - y.numpy())
    print(f"gradient at (0, 0)   autograd {by_rules}   textbook {by_book}")
    assert np.allclose(by_rules, by_book, rtol=1e-12)

    solution = np.linalg.solve(X.T @ X, X.T @ y.numpy())
    path = np.array(descend(x, y))
    distance = np.linalg.norm(path - solution, axis=1)
    print(f"normal equations     w {solution[0]:.10f}   b {solution[1]:.10f}")
    print(f"gradient descent     w {path[-1, 0]:.10f}   b {path[-1, 1]:.10f}   after {STEPS} steps")
    print(f"distance between them {distance[-1]:.1e}")
    assert distance[-1] < 1e-8

    slowest = np.linalg.eigvalsh(X.T @ X / 60)[0]
    print(f"each step shrinks it by {distance[31] / distance[30]:.6f}; theory says {1 - 2 * RATE * slowest:.6f}")
    draw(x.numpy(), y.numpy(), path, distance, out)


def draw(x, y, path, distance, out: Path) -> None:
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    viridis = colormaps["viridis"]
    left.scatter(x, y, s=18, color="0.35", zorder=2)
    ends = np.array([x.min(), x.max()])
    for i, step in enumerate([0, 1, 2, 4, 8, 16, 32]):
        w, b = path[step]
        colour = viridis(1 - 0.15 * i)
        left.plot(ends, w * ends + b, color=colour, linewidth=2, label=f"step {step}")
    left.set(title="the line, step by step", xlabel="x", ylabel="y")
    left.legend(fontsize=8)
    right.semilogy(distance, color=viridis(0.3), linewidth=2)
    right.set(title="distance of (w, b) from the exact solution", xlabel="step")
    right.grid(alpha=0.3)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "02_regression.png", dpi=120)
    print(f"picture: {out / '02_regression.png'}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
