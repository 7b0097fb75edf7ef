"""What a forward function accepts, its backward can handle: every op with 0-d, empty, and one-element arguments.

Each call either raises an error of its own at the forward, or gives gradients that agree with central differences.
"""

import itertools
import operator

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import derived, ops
from tensorlite import functional as F
from tensorlite.testing import check_gradients

SHAPES = [(), (1,), (3,), (0,), (2, 0), (0, 2), (1, 1), (2, 3), (2, 2), (2, 1, 3)]
AXES = [{}, *[{"axis": axis} for axis in (0, -1, 1, (), (0,), (0, 1), None)]]
KEPT = [{**meta, "keepdims": True} for meta in AXES]
PLACES = [np.zeros(shape, int) for shape in ((), (1,), (1, 1), (2, 1))]
NOT_SMOOTH = {"dropout"}  # another mask at each call
METADATA = {
    "sum": AXES + KEPT, "max": AXES + KEPT, "min": AXES + KEPT, "logsumexp": AXES + KEPT, "mean": AXES + KEPT,
    "prod": AXES + KEPT, "std": AXES + KEPT, "norm": AXES + KEPT, "var": [*AXES, {"ddof": 1}, {"ddof": 5}],
    "roll": [{"shift": 1}, {"shift": 1, "axis": 0}, {"shift": (1, 2), "axis": (0, -1)}],
    "repeat": [{"repeats": 2}, {"repeats": 0}, {"repeats": 2, "axis": 0}],
    "tile": [{"reps": 2}, {"reps": (2, 1)}, {"reps": ()}, {"reps": 0}],
    "pad": [{"widths": 1}, {"widths": (1, 0)}, {"widths": 0}, {"widths": [(1, 0), (0, 2)]}],
    "reshape": [{"shape": (-1,)}, {"shape": ()}, {"shape": (1, -1)}, {"shape": -1}, {"shape": (0,)}],
    "expand_dims": [{"axis": 0}, {"axis": -1}, {"axis": 1}],
    "broadcast_to": [{"shape": (2, 3)}, {"shape": (2, 2, 3)}, {"shape": 3}, {"shape": (0,)}, {"shape": ()}],
    "swapaxes": [{"a": 0, "b": -1}],
    "split": [{"sections": n, "axis": a} for n in (1, 2, [1], [0, 5], [-1], [2, 1], []) for a in (0, -1)],
    "topk": [{"k": 0}, {"k": 1}, {"k": 2, "axis": 0}],
    "tril": [{}, {"k": 1}, {"k": -5}], "triu": [{}, {"k": 1}, {"k": 5}],
    "diagonal": [{}, {"offset": 1}, {"offset": -9}, {"axis1": 1, "axis2": 0}],
    "getitem": [{"index": index} for index in (0, (), None, True, False, ..., [0, 0], [], (True, 0), (..., None))],
    "scatter_add": [
        {"index": index, "shape": shape}
        for index in (0, (), [0, 0], True, False, [], slice(None)) for shape in ((), (3,), (2, 3), (0,))
    ],
    "take_along_axis": [{"indices": places, "axis": axis} for places in PLACES for axis in (None, 0, 1)],
    "transpose": [{}, {"axes": ()}, {"axes": (0,)}, {"axes": (1, 0)}, {"axes": (0, 2, 1)}],
    "clip": [{}, {"low": 0.6}, {"high": 1.2}, {"low": 0.6, "high": 1.2}],
    "masked_fill": [{"mask": np.array(m), "value": 0.0} for m in (True, [True, False, True], [[False], [True]])],
    "astype": [{"dtype": np.float64}], "to": [{"device": "cpu"}],
    "cross_entropy": [{"targets": targets} for targets in (*PLACES, np.zeros(0, int), np.zeros(2, int))],
    "embedding": [{"idx": idx} for idx in (*PLACES, np.zeros(0, int))],
}  # fmt: skip


def values(shape, seed):
    """All different, away from the kinks that are tried."""
    size = int(np.prod(shape))
    return np.random.default_rng(seed).permutation(np.linspace(0.217, 1.913, max(size, 2)))[:size].reshape(shape)


def whole(out):
    """Several results as one."""
    if not isinstance(out, list | tuple):
        return out
    return (
        tl.concatenate([tl.reshape(part, -1) for part in out if part.dtype.kind == "f"]) if out else tl.zeros(0, float)
    )


def accepts_what_it_differentiates(f, xs) -> bool:
    """Whether the forward takes these arrays; then the gradients must be right."""
    leaves = [tl.tensor(x, requires_grad=True) for x in xs]
    try:
        out = whole(f(*leaves))
    except (TypeError, ValueError, IndexError):
        return False
    if out.dtype != np.float64 or not np.isfinite(out.data).all():
        return True
    if out.requires_grad:
        for x, by_x in zip(leaves, tl.grad(out, leaves, np.ones(out.shape), retain_graph=True), strict=True):
            assert (by_x.shape, by_x.dtype) == (x.shape, x.dtype)
    if out.requires_grad and out.size and any(x.size for x in leaves):  # else there is nothing to compare
        check_gradients(lambda *xs: whole(f(*xs)), *xs)
    return True


def numpy_takes(function, *args) -> bool:
    """Whether NumPy's function of the same name accepts these arguments."""
    try:
        function(*args)
    except (TypeError, ValueError, IndexError):
        return False
    return True


OPS = sorted({*ops.__all__, *derived.__all__} - {"where", "einsum", "concatenate", "stack", "detach"})
TWO_ARRAYS = [
    "add", "div", "equal", "floor_divide", "greater", "greater_equal", "less", "less_equal", "logical_and",
    "logical_or", "logical_xor", "matmul", "maximum", "minimum", "mul", "not_equal", "outer", "pow", "remainder", "sub",
    "functional.binary_cross_entropy_with_logits", "functional.cosine_similarity", "functional.kl_div",
    "functional.linear", "functional.mse_loss",
]  # fmt: skip
NOT_FLOATS = "bitwise_and", "bitwise_or", "bitwise_xor", "invert", "functional.one_hot"
MORE_ARRAYS = [  # most of them below
    "index_put", "scatter", "functional.linear_cross_entropy", "functional.nll_loss", "functional.projections",
    "functional.scaled_dot_product_attention",
]  # fmt: skip
LAYERS = sorted(set(F.__all__) - NOT_SMOOTH - {"argmax", "multi_head_attention"})


@pytest.mark.finding("C4")
@pytest.mark.parametrize(
    "name", sorted({*OPS, *[f"functional.{name}" for name in LAYERS]} - {*TWO_ARRAYS} - {*NOT_FLOATS} - {*MORE_ARRAYS})
)
def test_of_one_array(name):
    function = operator.attrgetter(name)(tl)
    metadata = METADATA.get(name.removeprefix("functional."), AXES)
    taken = 0
    for meta, shape in itertools.product(metadata, SHAPES):
        taken += accepts_what_it_differentiates(lambda x, meta=meta: function(x, **meta), [values(shape, 0)])
    assert taken


@pytest.mark.finding("C4")
@pytest.mark.parametrize("name", TWO_ARRAYS)
def test_of_two_arrays(name):
    """Ops that NumPy has accept the shapes that NumPy accepts; but its outer product flattens its arguments."""
    function, taken = operator.attrgetter(name)(tl), 0
    of_numpy = None if name == "outer" else getattr(np, name, None)
    if name in ("floor_divide", "remainder"):  # which jump where x is a multiple of y
        function = lambda x, y: getattr(tl, name)(x, y + 0.003)  # noqa: E731
    for shapes in itertools.product(SHAPES, repeat=2):
        xs = [values(shape, i) for i, shape in enumerate(shapes)]
        accepted = accepts_what_it_differentiates(function, xs)
        assert of_numpy is None or accepted == numpy_takes(of_numpy, *xs), shapes
        taken += accepted
    assert taken > 4


WEIGHTS = [(2, 3), (1, 1), (2, 2), (0, 2), (3,), ()]


@pytest.mark.finding("C4")
@pytest.mark.parametrize("name", ["linear", "layer_norm", "scaled_dot_product_attention", "linear_cross_entropy"])
def test_layers_of_three_arrays(name):
    function, taken = getattr(F, name), 0
    if name == "linear_cross_entropy":
        function = lambda x, w, t: F.linear_cross_entropy(x, w, np.zeros(t.shape, int)) + (t * 0.0).sum()  # noqa: E731
    for shapes in itertools.product(SHAPES, WEIGHTS, [(2,), (1,), (2, 2), (1, 1), ()]):
        taken += accepts_what_it_differentiates(function, [values(shape, i) for i, shape in enumerate(shapes)])
    assert taken > 2 or name == "layer_norm"


@pytest.mark.finding("C4")
def test_joins_and_choices():
    for f in (tl.concatenate, tl.stack):
        for axis in (0, -1, 1):
            for shapes in [*[(shape,) for shape in SHAPES], *itertools.product(SHAPES, repeat=2)]:
                xs = [values(shape, i) for i, shape in enumerate(shapes)]
                taken = accepts_what_it_differentiates(lambda *xs, f=f, axis=axis: f(xs, axis), xs)
                assert taken == numpy_takes(getattr(np, f.__name__), xs, axis)
    for condition in (True, [True, False, True], [[False], [True]], []):
        for shapes in itertools.product(SHAPES, repeat=2):
            xs = [values(shape, i) for i, shape in enumerate(shapes)]
            taken = accepts_what_it_differentiates(lambda x, y, c=condition: tl.where(np.array(c, bool), x, y), xs)
            assert taken == numpy_takes(np.where, np.array(condition, bool), *xs)


@pytest.mark.finding("C4")
def test_sums_of_products():
    for equation in (
        "->",
        "i->",
        "i->i",
        "ii->",
        "ij->ji",
        "...->...",
        ",->",
        "i,->i",
        "i,i->",
        "ij,jk->ik",
        "...i,...i->...",
    ):
        for shapes in itertools.product(SHAPES, repeat=equation.count(",") + 1):
            xs = [values(shape, i) for i, shape in enumerate(shapes)]
            taken = accepts_what_it_differentiates(lambda *xs, e=equation: tl.einsum(e, *xs), xs)
            assert taken == numpy_takes(np.einsum, equation, *xs), (equation, shapes)


@pytest.mark.finding("C4")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: tl.tril(x[0]), r"tril\(float64\[3\]\): a triangle needs two axes"),
        (lambda x: tl.triu(x[0, 0]), r"triu\(float64\[\]\): a triangle needs two axes"),
        (lambda x: F.embedding(x[0], np.array([0])), r"embedding: weight must have shape \(V, D\), .* not \(3,\)"),
        (
            lambda x: tl.formulas.embedding(x[None], np.array([0])),
            r"weight must have shape \(V, D\), .* not \(1, 2, 3\)",
        ),
        (
            lambda x: F.scaled_dot_product_attention(x, x, x[0]),
            r"v \(\.\.\., S, E\) are wanted, not shapes \(2, 3\), ",
        ),
        (lambda x: F.scaled_dot_product_attention(x, x[:, :2], x), "are wanted, not shapes"),
    ],
)
def test_what_has_no_derivative_is_refused_at_the_forward(call, message):
    with pytest.raises(ValueError, match=message):
        call(tl.tensor(values((2, 3), 0), requires_grad=True))
