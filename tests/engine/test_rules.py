"""Formulas shown by tensorlite.inspect: each text is evaluated as Python and compared with what the engine computes.

The names in a text stand for NumPy arrays and the few functions of `WORDS`, which are written here by hand. So a
formula that does not say what the op or its rule computes fails.
"""

import math
import re

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import functional as F
from tensorlite.inspect import graph, steps
from tensorlite.inspect.rules import FUSED, explain
from tensorlite.inspect.rules import WORDS as EXPLAINED
from tensorlite.kernels.table import ROWS

G = tl.Generator(3)
IDS = np.array([[2, 0, 4], [4, 4, 1]])


class Matrix(np.ndarray):
    """An array whose `.T` exchanges the last two axes, as in the formulas."""

    @property
    def T(self):
        return self.swapaxes(-1, -2)


def matrix(x):
    return np.asarray(x).view(Matrix)


def masked(x):
    return np.where(np.tri(*x.shape[-2:], dtype=bool), x, -np.inf)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return matrix(e / e.sum(-1, keepdims=True))


def split_heads(x, n_head=2):
    parts = [p.reshape(*p.shape[:2], n_head, -1).swapaxes(1, 2) for p in np.split(x, x.shape[-1] // 4, axis=-1)]
    return [matrix(p) for p in parts] if len(parts) > 1 else matrix(parts[0])


def join_heads(x):
    return matrix(x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1))


WORDS = {
    "rows": lambda x: matrix(x.reshape(-1, x.shape[-1])),
    "mean_of": lambda x: x.mean(-1, keepdims=True),
    "total_of": lambda x: x.sum(-1, keepdims=True),
    "join": lambda *xs: np.concatenate(xs, -1),
    "split": lambda x, n: [matrix(part) for part in np.split(x, n, axis=-1)],
    "one_hot": lambda i: matrix(np.eye(5)[np.asarray(i)]),
    "split_heads": split_heads,
    "join_heads": join_heads,
    "softmax": softmax,
    "masked": masked,
    "pi": math.pi,
    **{name: getattr(np, name) for name in ("exp", "log", "sqrt", "tanh", "where")},
    "eps": 1e-5,
    "p": 0.4,
    "N": IDS.size,
    "D": 2,
    "scale": 0.7,
}


def evaluate(text, names):
    """The value of 'expression, where a = ...; b = ...'."""
    expression, _, definitions = text.partition(", where ")
    known = {**WORDS, **{name: matrix(x) for name, x in names.items()}}
    exec(definitions, known)  # a text of this repository
    return eval(expression, known)


def normal(*shape):
    return tl.randn(*shape, generator=G, dtype=tl.float64, requires_grad=True)


CALLS = {  # op: (arguments by name, options)
    "linear": ({"x": normal(2, 3, 4), "weight": normal(5, 4), "bias": normal(5)}, {}),
    "projections": (
        {"x": normal(2, 3, 4)}
        | {name: normal(4, 4) for name in ("query", "key", "value")}
        | {f"{name}_bias": normal(4) for name in ("query", "key", "value")},
        {},
    ),
    "embedding": ({"weight": normal(5, 4), "idx": IDS}, {}),
    "layer_norm": ({"x": normal(2, 3, 4), "weight": normal(4), "bias": normal(4)}, {}),
    "gelu": ({"x": normal(2, 3, 4)}, {}),
    "apply_dropout_mask": ({"x": normal(2, 4), "keep": np.array([[True, False, True, True]] * 2)}, {"p": 0.4}),
    "attention": (
        {"q": normal(2, 3, 4), "k": normal(2, 3, 4), "v": normal(2, 3, 4), "keep": None, "mask": normal(3, 3) * 0},
        {"is_causal": True, "scale": 0.7},
    ),
    "heads_attention": ({"qkv": normal(2, 3, 12)}, {"n_head": 2, "is_causal": True}),
    "cross_entropy": ({"logits": normal(2, 3, 5), "targets": IDS}, {}),
    "linear_cross_entropy": ({"x": normal(2, 3, 4), "weight": normal(5, 4), "targets": IDS}, {}),
}


def test_every_kernel_with_a_rule_has_its_formulas():
    assert FUSED.keys() == {name for name, (cpu, gpu) in ROWS.items() if (cpu or gpu).differentiable} == CALLS.keys()


@pytest.mark.parametrize("name", CALLS)
def test_the_formulas_of_a_kernel_compute_what_it_computes(name):
    arguments, options = CALLS[name]
    out = getattr(F, name)(*arguments.values(), **options)
    (entry,) = [node for node in graph(out).nodes if node.op == name]
    raw = {key: x.numpy() if isinstance(x, tl.Tensor) else x for key, x in arguments.items() if x is not None}
    np.testing.assert_allclose(evaluate(entry.formula, raw), out.numpy(), rtol=1e-9, atol=1e-12)
    g = tl.randn(*out.shape, generator=G, dtype=tl.float64)
    first = next(steps(out, g))
    weights = softmax_of(name, raw)
    rank = raw["x"].shape[:-1] if name == "layer_norm" else None
    for piece in first.pieces:
        assert piece.asked == tuple(piece.values)
        asked = {key: value for key, value in piece.values.items() if hasattr(value, "shape")}
        if rank:
            asked |= {key: asked[key].reshape(*rank, 1) for key in ("mean", "rstd")}
        found = evaluate(piece.formula, raw | asked | weights | {"g": g.numpy()})
        expected = piece.gradient.numpy()
        found = found.sum(0) if piece.argument == "mask" else found  # it was broadcast over the batch
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def softmax_of(name, raw):
    """The residual `weights`, which the kernel stores tile by tile, as a stack of matrices."""
    if name == "attention":
        return {"weights": softmax(masked(0.7 * raw["q"] @ raw["k"].swapaxes(-1, -2)))}
    if name == "heads_attention":
        q, k, _ = split_heads(raw["qkv"])
        return {"weights": softmax(masked(q @ k.T / math.sqrt(2)))}
    return {}


def test_the_words_of_a_kernel_s_formula_are_explained():
    x, w = normal(3, 4), normal(4, 4)
    by_x, by_weight = next(steps(F.linear(x, w), tl.ones_like(x))).pieces
    assert by_x.note == explain("mask = scale * x") == ""
    assert by_weight.note == (
        ".T exchanges the last two axes; rows(x) is x with one row for each position: (..., C) -> (N, C)."
    )
    assert explain("masked(x @ weight.T)") == f"{EXPLAINED['.T']}; {EXPLAINED['masked']}."
    known = {"sqrt", "pi", "softmax", "log", "where", "tanh", "sum"} | set(EXPLAINED)
    for name, (forward, rules) in FUSED.items():
        for text in (forward, *rules.values()):
            assert set(re.findall(r"(\w+)\(", text)) <= known, name


def test_terms_of_arguments_that_were_left_out_are_omitted():
    x, w = normal(3, 4), normal(4, 4)
    assert graph(F.linear(x, w)).nodes[-1].formula == "x @ weight.T"
    step = next(steps(F.layer_norm(x), tl.ones_like(x)))
    assert step.pieces[0].formula.endswith("where h = g; z = (x - mean) * rstd")
    assert graph(F.layer_norm(x)).nodes[-1].formula.startswith("(x - mean) * rstd, where")
    assert graph(F.projections(x, w, w, w)).nodes[-1].formula == "join(x @ query.T, x @ key.T, x @ value.T)"


def test_formulas_of_ops_are_their_lines_of_the_table():
    x, y = normal(3), normal(3)
    shown = {}
    for out in (x + y, x * y, x / y, tl.tanh(x), tl.rsqrt(x * x), x.sum(), tl.exp(x), x.reshape(3, 1)):
        step = next(steps(out)) if out.size == 1 else next(steps(out, tl.ones_like(out)))
        shown[step.op] = (graph(out).nodes[-1].formula, *[piece.formula for piece in step.pieces])
    assert shown == {
        "add": ("x + y", "g", "g"),
        "mul": ("x * y", "g * y", "g * x"),
        "div": ("x / y", "g / y", "-g * out / y"),
        "tanh": ("tanh(x)", "g * (1 - out * out)"),
        "rsqrt": ("1 / sqrt(x)", "g * -0.5 * out * out * out"),
        "sum": ("sum(x, axis=axis, keepdims=keepdims)", "expand_like(g, x_shape, axis, keepdims)"),
        "exp": ("exp(x)", "g * out"),
        "reshape": ("x.reshape(shape)", "g.reshape(x_shape)"),
    }


def test_helpers_that_a_rule_calls_are_explained():
    x, y = normal(2, 3), normal(3, 2)
    by_x, by_y = next(steps(x @ y, tl.ones((2, 2), dtype=tl.float64))).pieces
    assert (by_x.formula, by_x.note) == ("_matmul_by_x(g, x_shape, y)", "_matmul_by_x: g @ y^T, in the shape of x.")
    assert by_y.note == "_matmul_by_y: x^T @ g, in the shape of y: the sum over all positions."
    assert (
        "Zeros of `shape` with `x` added at `index`" in next(steps(x[1], tl.ones(3, dtype=tl.float64))).pieces[0].note
    )
    joined = tl.concatenate([x, x])
    pieces = next(steps(joined, tl.ones_like(joined))).pieces
    assert [piece.values["index"] for piece in pieces] == [0, 1]
    assert next(steps(tl.tanh(x), tl.ones_like(x))).pieces[0].note == ""


def test_an_op_of_the_user_shows_its_rule(monkeypatch):
    cube = tl.primitive.elementwise(lambda x: x * x * x).vjp(lambda g, x: g * 3 * x * x)
    monkeypatch.setitem(tl.primitive.PRIMITIVES, "cube", cube)  # which removes it after the test
    tl.primitive.publish({"cube": cube})
    out = cube(normal(2)).sum()
    assert [(step.op, [piece.formula for piece in step.pieces]) for step in steps(out)][1] == (
        "cube",
        ["g * 3 * x * x"],
    )
    assert graph(out).nodes[1].formula == "x * x * x"


def test_a_piece_says_which_node_receives_it():
    x, y = normal(()), normal(())
    first, *_ = steps(x * y, names={"y": y})
    assert [(piece.to, piece.number) for piece in first.pieces] == [("#1", 1), ("y", 2)]
