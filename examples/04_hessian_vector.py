"""Second derivatives without the matrix: Hessian-vector products, and Newton's method that uses only these.

The Hessian of a function of n variables has n² entries: for a million, 8 terabytes. But its product with a vector v
is only the gradient of one number, <gradient, v> (Pearlmutter, "Fast exact multiplication by the Hessian", 1994), and
costs about as much as two gradients. You will see that the product agrees with the explicit matrix of a logistic
regression, Xᵀ diag(p (1 - p)) X / n + c I; its cost for a hundred thousand variables; and Newton's method, which solves
its linear system by conjugate gradients, on a problem that is too ill-conditioned for gradient descent.

    python examples/04_hessian_vector.py [--out FOLDER]
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

import tensorlite as tl

OUT = Path(tempfile.gettempdir(), "tensorlite-examples")
C = 1e-3  # weight of the penalty, which makes the minimum unique


def logistic(X: tl.Tensor, y: tl.Tensor) -> Callable[[tl.Tensor], tl.Tensor]:
    """The loss of a logistic regression with labels y in {-1, 1}, as a function of its weights."""
    return lambda w: tl.log1p(tl.exp(-y * (X @ w))).mean() + C / 2 * tl.square(w).sum()


def gradient(f: Callable, w: np.ndarray) -> np.ndarray:
    leaf = tl.tensor(w, requires_grad=True)
    return tl.grad(f(leaf), leaf).numpy()


def hessian_vector(f: Callable, w: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(the Hessian of f at w) v, by two passes through the graph."""
    leaf = tl.tensor(w, requires_grad=True)
    g = tl.grad(f(leaf), leaf, create_graph=True)  # recorded, so that it can be differentiated
    return tl.grad((g * v).sum(), leaf).numpy()


def newton(f: Callable, w: np.ndarray, steps: int) -> list[float]:
    """The norm of the gradient after each Newton step, without forming a matrix."""
    norms = [np.linalg.norm(gradient(f, w))]
    for _ in range(steps):
        w = w - conjugate_gradients(partial(hessian_vector, f, w), gradient(f, w))
        norms.append(np.linalg.norm(gradient(f, w)))
    return norms


def conjugate_gradients(product: Callable, b: np.ndarray) -> np.ndarray:
    """Solve product(x) = b for x (Hestenes and Stiefel, 1952)."""
    x, r = np.zeros_like(b), b
    p = r
    while np.linalg.norm(r) > 1e-10 * np.linalg.norm(b):
        Ap = product(p)
        step = r @ r / (p @ Ap)
        x, r, before = x + step * p, r - step * Ap, r
        p = r + r @ r / (before @ before) * p
    return x


def main(out: Path = OUT) -> None:
    random = np.random.default_rng(0)
    n, d = 400, 30
    X = random.standard_normal((n, d)) * np.geomspace(3, 0.03, d)  # columns of very different scale
    y = np.sign(X @ (random.standard_normal(d) / np.geomspace(3, 0.03, d)) + random.standard_normal(n))
    f, w = logistic(tl.tensor(X), tl.tensor(y)), random.standard_normal(d)

    p = 1 / (1 + np.exp(-X @ w))
    explicit = X.T @ (X * (p * (1 - p))[:, None]) / n + C * np.eye(d)
    columns = np.stack([hessian_vector(f, w, unit) for unit in np.eye(d)], axis=1)
    error = np.abs(columns - explicit).max()
    print(f"{d} products with unit vectors against the explicit Hessian: largest difference {error:.1e}")
    assert error < 1e-13

    large = 100_000
    Z = tl.tensor(random.standard_normal((50, large)) / np.sqrt(large))
    g, v, start = logistic(Z, tl.tensor(np.sign(random.standard_normal(50)))), np.ones(large), np.zeros(large)
    once, twice = seconds(lambda: gradient(g, start)), seconds(lambda: hessian_vector(g, start, v))
    print(f"{large:,} variables: a gradient takes {1e3 * once:.0f} ms, a product {1e3 * twice:.0f} ms; ", end="")
    print(f"the matrix would take {8 * large**2 / 1e9:.0f} GB")

    newtons = newton(f, np.zeros(d), steps=7)
    descents = descent(f, np.zeros(d), 4 / np.linalg.eigvalsh(X.T @ X / n)[-1], steps=400)
    print("norm of the gradient, Newton:", " ".join(f"{norm:.0e}" for norm in newtons))
    print(f"norm of the gradient, {len(descents) - 1} steps of gradient descent: {descents[-1]:.0e}")
    assert newtons[-1] < 1e-12 < descents[-1]
    draw(explicit, newtons, descents, out)


def descent(f: Callable, w: np.ndarray, rate: float, steps: int) -> list[float]:
    norms = []
    for _ in range(steps + 1):
        g = gradient(f, w)
        norms.append(np.linalg.norm(g))
        w = w - rate * g
    return norms


def seconds(function: Callable) -> float:
    """The fastest of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def draw(explicit, newtons, descents, out: Path) -> None:
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    image = left.imshow(np.log10(np.abs(explicit)), cmap="viridis")
    figure.colorbar(image, ax=left, label="log10 |entry|")
    left.set(title="the Hessian, column by column", xticks=[], yticks=[])
    right.semilogy(descents, color="0.55", linewidth=2, label="gradient descent")
    right.semilogy(newtons, "o-", color="#2f6fb5", markersize=4, linewidth=2, label="Newton by products")
    right.set(title="norm of the gradient", xlabel="step")
    right.set_xscale("symlog", linthresh=10)
    right.grid(alpha=0.3)
    right.legend(loc="center right", fontsize=9)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "04_hessian.png", dpi=120)
    print(f"picture: {out / '04_hessian.png'}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
