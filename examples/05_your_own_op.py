"""An op of your own: one forward line, one derivative rule, and a check that the rule is correct.

The op is `mish`, x tanh(log(1 + e^x)) (Misra, 2019), which tensorlite does not have. A rule gets the incoming gradient
`g` and, by parameter name, everything else that it needs: an argument, `out`, a keyword, or a shape such as `x_shape`.
Only these are kept until backward. `check_gradients` then compares the rule with finite differences under a random
incoming gradient, and at order 2 the derivative of the rule too. You will see the correct rule pass and three wrong
ones fail, each with a message that says where, and the cost of the rule compared with mish as a composition of ops.
With Hypothesis installed (`pip install 'tensorlite[testing]'`), `check_op` then draws inputs of all kinds: shapes,
ties, memory layouts, float32.

    python examples/05_your_own_op.py
"""

import numpy as np
import tyro

import tensorlite as tl
from tensorlite.backend import xp
from tensorlite.inspect import graph
from tensorlite.primitive import elementwise, primitive, publish
from tensorlite.testing import check_gradients


def softplus(x):
    """log(1 + e^x), in a form that never overflows."""
    return tl.maximum(x, 0) + tl.log1p(tl.exp(-tl.abs(x)))


def mish_slope(x):
    """The derivative of x t with t = tanh(softplus(x)): t + x (1 - t²) sigmoid(x)."""
    t = tl.tanh(softplus(x))
    return t + x * (1 - t * t) * tl.sigmoid(x)


# `xp(x)` is the library of the array x: NumPy here, CuPy on a GPU. A rule uses operators and ops instead:
# these work on arrays and on Tensors, so that the rule can be differentiated too.
mish = elementwise(lambda x: x * xp(x).tanh(softplus(x))).vjp(lambda g, x: g * mish_slope(x))
publish({"mish": mish})  # sets its name in errors and graphs

# Three common mistakes.
forgotten = elementwise(lambda x: x * xp(x).tanh(softplus(x))).vjp(lambda g, x: mish_slope(x))  # the chain rule
outer = primitive(lambda x, y: x[:, None] * y[None, :]).vjp(
    lambda g, y: g @ y,
    lambda g, x: g @ x,  # must be x @ g: the axes of g are swapped
)
detached = elementwise(lambda x: x * xp(x).tanh(softplus(x))).vjp(
    lambda g, x: g * tl.detach(mish_slope(x))  # correct at order 1, but its own derivative is incomplete
)
publish({"mish_without_g": forgotten, "outer_with_swapped_axes": outer, "mish_detached": detached})


def check_properties() -> None:
    """Every property of mish, beside its formula in NumPy. In a test module: test_ops = property_tests([ROW])."""
    try:
        from tensorlite.testing import Row, check_op
    except ImportError as error:
        print(f"{error}\n")
        return
    row = Row("mish", mish, value=lambda x: x * np.tanh(np.log1p(np.exp(x))))
    for name, examples in check_op(row, examples=10).items():
        print(f"mish: {name:12} holds in {examples} examples")
    print()


def main() -> None:
    x, y = np.linspace(-3, 3, 6), np.linspace(1, 2, 6)

    check_gradients(mish, x, order=3)
    print("mish: its rule agrees with finite differences, to order 3\n")

    for op, inputs in ((forgotten, [x]), (outer, [x, y]), (detached, [x])):
        try:
            check_gradients(op, *inputs, order=2)
        except AssertionError as error:
            print(f"{error}\n")
        else:
            raise SystemExit(f"{op.name} is wrong and was not caught")

    check_properties()

    try:
        elementwise(lambda x: x).vjp(lambda g, input: g)
    except TypeError as error:
        print(f"A rule can only ask for existing values: {error}\n")

    def composed(x):
        return x * tl.tanh(softplus(x))

    large = tl.randn(1000, 1000, requires_grad=True)
    ours, parts = mish(large), composed(large)
    assert np.allclose(ours.numpy(), parts.numpy(), atol=1e-6)
    print(f"as one op:           {graph(ours).summary}")
    print(f"as a composition:    {graph(parts).summary}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
