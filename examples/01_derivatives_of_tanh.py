"""Higher derivatives: tanh, differentiated four times, compared with the closed forms.

A derivative rule of tensorlite is made of ops that are differentiable themselves. So `grad(..., create_graph=True)`
returns a gradient that can be differentiated again, to any order. You will see the four derivatives agree with the
closed forms to the last digits of a double; how many nodes the graph of each order has (it is the
chain rule, written out); and why finite differences are not an
alternative: for the fourth derivative even the best step size gives only three or four correct digits.

    python examples/01_derivatives_of_tanh.py [--out FOLDER]
"""

import tempfile
from pathlib import Path

import numpy as np
import tyro
from matplotlib import colormaps
from matplotlib.figure import Figure

import tensorlite as tl
from tensorlite.inspect import graph

OUT = Path(tempfile.gettempdir(), "tensorlite-examples")

# With t = tanh(x), dt/dx = 1 - t**2: each line is the derivative of the previous one.
CLOSED_FORMS = [
    ("tanh x", lambda t: t),
    ("1 - t²", lambda t: 1 - t**2),
    ("-2t (1 - t²)", lambda t: -2 * t * (1 - t**2)),
    ("(6t² - 2)(1 - t²)", lambda t: (6 * t**2 - 2) * (1 - t**2)),
    ("(16t - 24t³)(1 - t²)", lambda t: (16 * t - 24 * t**3) * (1 - t**2)),
]


def derivatives(x: tl.Tensor, order: int) -> list[tl.Tensor]:
    """tanh(x) and its derivatives up to `order`, elementwise: those of each element are the gradient of the sum."""
    results = [tl.tanh(x)]
    for _ in range(order):
        results.append(tl.grad(results[-1].sum(), x, create_graph=True))
    return results


def fourth_difference(f, x: np.ndarray, h: float) -> np.ndarray:
    """The fourth derivative by central differences of five values, with error h**2 / 6 times the sixth derivative."""
    return (f(x - 2 * h) - 4 * f(x - h) + 6 * f(x) - 4 * f(x + h) + f(x + 2 * h)) / h**4


def main(out: Path = OUT) -> None:
    x = tl.tensor(np.linspace(-4, 4, 801), requires_grad=True)  # float64, as in the array
    results = derivatives(x, order=4)
    t = np.tanh(x.numpy())

    print("order  largest error against the closed form   ops in its graph")
    for order, (result, (name, formula)) in enumerate(zip(results, CLOSED_FORMS, strict=True)):
        error = np.abs(result.numpy() - formula(t)).max()
        ops = sum(bool(node.op) for node in graph(result).nodes)
        print(f"{order:>5}  {error:<10.1e} {name:<28}  {ops}")
        assert error < 1e-13

    exact = CLOSED_FORMS[4][1](t)
    errors = {h: np.abs(fourth_difference(np.tanh, x.numpy(), h) - exact).max() for h in 10.0 ** np.arange(-5, 0)}
    print("\nThe fourth derivative by finite differences, step size h:")
    print("\n".join(f"  h = {h:.0e}: largest error {error:.1e}" for h, error in errors.items()))

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["viridis"](np.linspace(0, 0.9, 5))
    for order, (result, (name, _)) in enumerate(zip(results, CLOSED_FORMS, strict=True)):
        label = "t = tanh x" if order == 0 else f"order {order}:  {name}"
        axes.plot(x.numpy(), result.numpy(), color=colours[order], linewidth=2, label=label)
    axes.axhline(0, color="grey", linewidth=0.6)
    axes.set(title="tanh and its derivatives, by automatic differentiation", xlabel="x", xlim=(-4, 4))
    axes.legend(loc="lower right", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "01_tanh.png", dpi=120)
    print(f"\npicture: {out / '01_tanh.png'}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
