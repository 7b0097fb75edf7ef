"""What may be left out means what it says, and Tensor's methods and operators are the functions of their names."""

import inspect
import math
import re

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import formulas as spec
from tensorlite import functional as F

X = np.array([[1.0, -2.0, 0.5], [3.0, 1.0, -1.5]])
CUBE = np.stack([X, X[::-1] + 0.25])  # whose last axis is not its axis 1
BOTH = [F, spec]


def t(values=X):
    return tl.tensor(values, requires_grad=True)


def same(got, expected):
    if isinstance(got, list | tuple):
        assert len(got) == len(expected)
        return [same(a, b) for a, b in zip(got, expected, strict=True)]
    got, expected = (np.asarray(v.data if isinstance(v, tl.Tensor) else v) for v in (got, expected))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-12)


# ----- functions: with nothing said, NumPy's default --------------------------------------------------------------


REDUCTIONS = ["sum", "mean", "var", "std", "prod", "max", "min", "argmax", "argmin", "all", "any", "cumsum", "cumprod"]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_reduce_everything(name):
    same(getattr(tl, name)(t()), getattr(np, name)(X))
    same(getattr(tl, name)(t(), axis=1), getattr(np, name)(X, axis=1))


DEFAULTS = {
    "logsumexp": (lambda: tl.logsumexp(t()), math.log(np.exp(X).sum())),
    "norm": (lambda: tl.norm(t()), math.sqrt((X * X).sum())),
    "norm, one axis": (lambda: tl.norm(t(), 1), np.sqrt((X * X).sum(1))),
    "sort": (lambda: tl.sort(t(CUBE)), np.sort(CUBE)),
    "argsort": (lambda: tl.argsort(t(CUBE)), np.argsort(CUBE)),
    "topk, last axis": (lambda: tl.topk(t(CUBE), 3)[1], np.argsort(-CUBE)),
    "topk": (lambda: tl.topk(t(), 2), ([[1, 0.5], [3, 1]], [[0, 2], [0, 1]])),
    "concatenate": (lambda: tl.concatenate([t(), t()]), np.concatenate([X, X])),
    "stack": (lambda: tl.stack([t(), t()]), np.stack([X, X])),
    "split": (lambda: tl.split(t(), 2), [X[:1], X[1:]]),
    "repeat": (lambda: tl.repeat(t(), 2), np.repeat(X, 2)),
    "flip": (lambda: tl.flip(t()), X[::-1, ::-1]),
    "roll": (lambda: tl.roll(t(), 2), np.roll(X, 2)),
    "transpose": (lambda: tl.transpose(t()), X.T),
    "squeeze": (lambda: tl.squeeze(t(X[:1])), X[0]),
    "reshape": (lambda: tl.reshape(t(), 6), X.ravel()),
    "reshape, a list": (lambda: tl.reshape(t(), [3, 2]), X.reshape(3, 2)),
    "tril": (lambda: tl.tril(t()), np.tril(X)),
    "triu": (lambda: tl.triu(t()), np.triu(X)),
    "diagonal": (lambda: tl.diagonal(t()), np.diagonal(X)),
    "pad": (lambda: tl.pad(t(), 1), np.pad(X, 1)),
    "clip": (lambda: tl.clip(t()), X),
    "clip, low": (lambda: tl.clip(t(), 0), np.clip(X, 0, None)),
    "clip, high": (lambda: tl.clip(t(), high=0), np.clip(X, None, 0)),
    "take_along_axis": (lambda: tl.take_along_axis(t(CUBE), np.argsort(CUBE)), np.sort(CUBE)),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_is_numpys(name):
    got, expected = DEFAULTS[name]
    same(got(), expected)


@pytest.mark.parametrize("layers", BOTH, ids=["fused", "specification"])
def test_the_defaults_of_layers_and_losses(layers):
    e = np.exp(CUBE)
    same(layers.softmax(t(CUBE)), e / e.sum(-1, keepdims=True))
    same(layers.log_softmax(t(CUBE)), CUBE - np.log(e.sum(-1, keepdims=True)))
    e = np.exp(X)
    same(layers.gelu(t()), layers.gelu(t(), approximate="tanh"))
    tiny = X * 1e-3  # so that eps counts
    centered = tiny - tiny.mean(-1, keepdims=True)
    same(layers.layer_norm(t(tiny)), centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5))
    same(layers.rms_norm(t(tiny)), tiny / np.sqrt((tiny**2).mean(-1, keepdims=True) + 1e-5))
    targets = np.array([0, -100])
    same(layers.cross_entropy(t(), targets), -(X - np.log(e.sum(-1, keepdims=True)))[0, 0])
    same(layers.mse_loss(t(), X + 2), 4.0)
    q, k, v = X[:, :2], X[:, 1:] * 2, X
    scores = q @ k.T / math.sqrt(2)
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    same(layers.scaled_dot_product_attention(t(q), t(k), t(v)), p @ v)
    side_by_side = np.concatenate([q, k, v[:, 1:]], axis=-1)[None]
    same(layers.multi_head_attention(t(side_by_side), 1), (p @ v[:, 1:])[None])
    tl.manual_seed(0)
    dropped = layers.dropout(t(np.ones(1000)))
    assert set(dropped.tolist()) == {0.0, 2.0}
    tl.manual_seed(0)
    same(layers.dropout(t(np.ones(1000)), 0.5, True, tl.default_generator), dropped.data)


@pytest.mark.parametrize("layers", BOTH, ids=["fused", "specification"])
@pytest.mark.parametrize(("shape", "n_head"), [((2, 3, 8), 3), ((2, 3, 6), 0), ((3, 6), 1), ((1, 2, 3, 6), 1)], ids=str)
def test_heads_that_do_not_divide_are_refused(layers, shape, n_head):
    with pytest.raises(ValueError, match=re.escape(f"is wanted, not {shape} for n_head {n_head}")):
        layers.multi_head_attention(tl.ones(shape), n_head)


@pytest.mark.parametrize("layers", BOTH, ids=["fused", "specification"])
def test_more_defaults_of_losses_and_random_layers(layers):
    w, targets = np.array([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]]), np.array([1, -100])
    logits = (X @ w.T)[0]
    same(layers.linear_cross_entropy(t(), t(w), targets), np.log(np.exp(logits).sum()) - logits[1])
    for p, training in ((0.0, True), (0.5, False)):  # nothing is dropped: nothing is drawn
        generator = tl.Generator(3)
        x = t()
        assert layers.dropout(x, p, training, generator) is x
        assert generator.state_dict() == tl.Generator(3).state_dict()
    generator = tl.Generator(3)
    layers.scaled_dot_product_attention(t(), t(), t(), generator=generator)
    assert generator.state_dict() == tl.Generator(3).state_dict()
    assert not layers.scaled_dot_product_attention(t(), t(), t(), dropout_p=1.0).data.any()


@pytest.mark.parametrize("layers", BOTH, ids=["fused", "specification"])
def test_the_defaults_of_functions_without_a_kernel(layers):
    same(layers.leaky_relu(t()), np.where(X > 0, X, X * 0.01))
    same(layers.elu(t()), np.where(X > 0, X, np.expm1(X)))
    length = np.sqrt((CUBE**2).sum(-1, keepdims=True))
    same(layers.normalize(t(CUBE)), CUBE / length)
    same(layers.normalize(t(X * 1e-13)), X * 0.1)  # lengths below 1e-12 count as that
    products = (CUBE * CUBE[::-1]).sum(-1)
    same(layers.cosine_similarity(t(CUBE), t(CUBE[::-1])), products / (length * length[::-1])[..., 0])
    same(layers.cosine_similarity(t(X * 1e-9), t(X * 1e-9)), (X * X).sum(-1) * 1e-2)  # lengths below 1e-8
    same(layers.one_hot([2, 0]), [[0, 0, 1], [1, 0, 0]])
    assert layers.one_hot([]).shape == (0, 0)
    same(layers.nll_loss(t(), np.array([2, -100])), -X[0, 2])
    same(layers.nll_loss(t(), [2, 0]), -(X[0, 2] + X[1, 0]) / 2)
    same(layers.embedding(t(), [[1], [0]]), X[[[1], [0]]])
    p = np.array([[0.25, 0.75, 0.0], [0.5, 0.125, 0.375]])
    losses = p * np.log(1 + np.exp(-X)) + (1 - p) * np.log(1 + np.exp(X))
    same(layers.binary_cross_entropy_with_logits(t(), t(p)), losses.mean())
    divergence = np.where(p == 0, 0, p * (np.log(np.where(p == 0, 1, p)) - X))
    same(layers.kl_div(t(), t(p)), divergence.mean())
    same(layers.kl_div(t(), t(p), "batchmean"), divergence.sum() / 2)
    same(layers.kl_div(t(), t(X / 2), log_target=True), (np.exp(X / 2) * (X / 2 - X)).mean())


@pytest.mark.parametrize("name", [name for name in spec.__all__ if hasattr(F, name)])
def test_a_function_and_its_formula_take_the_same_arguments(name):
    function, formula = [inspect.signature(getattr(where, name)).parameters.values() for where in BOTH]
    assert [(p.name, p.kind, p.default) for p in function] == [(p.name, p.kind, p.default) for p in formula]


WEIGHTS = np.array([1.0, 2.0, 3.0])
OPTIONS = {
    "gelu": ((X,), {"approximate": "none"}),
    "layer_norm": ((X, WEIGHTS, WEIGHTS / 2), {"eps": 0.5}),
    "apply_dropout_mask": ((X, X > 0), {"p": 0.25}),
    "attention": ((X, X, X, np.tri(2) == 1, X[:, :2]), {"is_causal": True, "dropout_p": 0.25, "scale": 0.5}),
    "heads_attention": ((CUBE.repeat(2, -1), np.tri(2) == 1), {"n_head": 2, "is_causal": True, "dropout_p": 0.25}),
    "cross_entropy": (
        (X, np.array([0, 2])),
        {"ignore_index": 2, "reduction": "sum", "label_smoothing": 0.25, "weight": WEIGHTS},
    ),
    "linear_cross_entropy": ((X, CUBE[0], np.array([0, 1])), {"ignore_index": 1, "reduction": "sum"}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_where_no_kernel_is_attached_the_formula_gets_every_option(name):
    args, options = OPTIONS[name]
    expected = getattr(spec, name)(*args, **options)
    same(getattr(F, name).__wrapped__(*args, **options), expected)


@pytest.mark.parametrize("layers", BOTH, ids=["fused", "specification"])
@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda F: F.embedding(t(), np.array([0, 2])), IndexError, "embedding: index 2 .* 2 classes, 0 to 1$"),
        (lambda F: F.embedding(t(), np.array([0.0])), TypeError, "embedding: indices must be integers, not float64"),
        (lambda F: F.cross_entropy(t(), np.array([0, 3])), IndexError, r"index 3 .* 0 to 2 \(or ignore_index -100\)"),
        (lambda F: F.cross_entropy(t(), np.array([-1, 0])), IndexError, "cross_entropy: index -1 is out of range"),
        (lambda F: F.cross_entropy(t(), np.array([0])), ValueError, r"class indices for .* shape \(2,\), not \(1,\)"),
        (lambda F: F.cross_entropy(t(), X[:1]), ValueError, r"probabilities for .* have shape \(2, 3\), not \(1, 3\)"),
        (lambda F: F.layer_norm(t(), t(np.ones(1))), ValueError, r"layer_norm: weight and bias must have shape \(3,\)"),
        (lambda F: F.layer_norm(t(), t(np.ones(3)), t(np.ones(1))), ValueError, "layer_norm: weight and bias"),
        (lambda F: F.rms_norm(t(), t(np.ones(1))), ValueError, "rms_norm: weight and bias"),
        (lambda F: F.dropout(t(), 1.5), ValueError, "dropout: p must be a probability between 0 and 1, not 1.5"),
        (lambda F: F.dropout(t(), -0.5, training=False), ValueError, "dropout: p must be .* not -0.5"),
        (lambda F: F.linear(t(), t(np.ones(3))), ValueError, r"linear: weight must have shape .* not \(3,\)"),
        (lambda F: F.linear_cross_entropy(t(), t(np.ones(3)), np.array([0, 1])), ValueError, "weight must have shape"),
        (lambda F: F.linear_cross_entropy(t(), t(), np.array([0, 2])), IndexError, "index 2 .* 2 classes, 0 to 1"),
        (lambda F: F.linear_cross_entropy(t(), t(), np.array([0])), ValueError, r"must have shape \(2,\), not \(1,\)"),
        (lambda F: F.linear_cross_entropy(t(), t(np.ones((0, 3))), np.array([-100] * 2)), ValueError, "axis is empty"),
        (lambda F: F.scaled_dot_product_attention(t(X[0]), t(), t()), ValueError, r"not shapes \(3,\), \(2, 3\)"),
        (lambda F: F.one_hot([3, 0], 3), IndexError, "one_hot: index 3 .* 3 classes, 0 to 2$"),
        (lambda F: F.nll_loss(t(), np.array([0, 3])), IndexError, r"nll_loss: index 3 .* \(or ignore_index -100\)"),
        (lambda F: F.kl_div(t(), t(X[:1])), ValueError, r"kl_div: x has shape \(2, 3\) and y \(1, 3\)"),
        (lambda F: F.kl_div(t(), t(), "average"), ValueError, "kl_div: reduction must be"),
        (lambda F: F.binary_cross_entropy_with_logits(t(), t(X[:1])), ValueError, r"\(2, 3\) and y \(1, 3\), but they"),
        (lambda F: F.binary_cross_entropy_with_logits(t(), t(), "batchmean"), ValueError, "reduction must be 'mean'"),
        (lambda F: F.mse_loss(t(), t(), "batchmean"), ValueError, "mse_loss: reduction must be 'mean', 'sum' or 'none"),
    ],
)  # fmt: skip
def test_what_a_layer_refuses(layers, call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(layers)


@pytest.mark.finding("B7")
@pytest.mark.parametrize("layers", BOTH, ids=["fused", "specification"])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_a_mask_of_integers_is_refused(layers, dtype):
    """Hugging Face's tokenizers make masks of 0 and 1: added to the scores they would say next to nothing."""
    mask, q = np.array([[1, 0]] * 2, dtype), t(X[:, :2])
    for given in (mask, tl.tensor(mask)):
        for f in (layers.scaled_dot_product_attention, lambda q, k, v, mask: layers.attention(q, k, v, None, mask)):
            with pytest.raises(
                TypeError, match=rf"the mask must be boolean .* or floating .*, not {dtype}: .* mask == 1"
            ):
                f(q, q, q, mask=given)
        with pytest.raises(TypeError, match=f"masked_fill: the mask must be boolean, not {dtype}: .* mask == 1"):
            q.masked_fill(given, 0.0)
    same(layers.scaled_dot_product_attention(q, q, q, mask=mask == 1), X[[0, 0], :2])
    same(q.masked_fill(mask == 1, 7.0), np.where(mask == 1, 7, X[:, :2]))
    same(tl.where(tl.tensor(mask), q, 7.0), np.where(mask, X[:, :2], 7))  # a condition is true where it is not 0


@pytest.mark.finding("B9")
@pytest.mark.parametrize("layers", BOTH, ids=["fused", "specification"])
def test_a_loss_of_two_shapes_is_refused(layers):
    column, row, number = t(np.ones((3, 1))), t(np.ones(3)), t(np.array(1.0))
    for x, y, sentence in [
        (column, row, r"mse_loss: x has shape \(3, 1\) and y \(3,\), but they must be equal: write y.reshape\(\(3, 1"),
        (row, column, r"x has shape \(3,\) and y \(3, 1\), .* y.reshape\(\(3,\)\)"),
        (row, number, r"x has shape \(3,\) and y \(\), .* y.broadcast_to\(\(3,\)\) if that is meant"),
        (column, 1.0, r"x has shape \(3, 1\) and y \(\)"),
        (row, np.ones(3)[None], r"x has shape \(3,\) and y \(1, 3\)"),
    ]:  # fmt: skip
        for reduction in ("mean", "sum", "none"):
            with pytest.raises(ValueError, match=sentence):
                layers.mse_loss(x, y, reduction)
    assert layers.mse_loss(column, row.reshape((3, 1))).item() == 0


def test_what_a_composition_refuses():
    for join in (tl.stack, tl.concatenate):
        with pytest.raises(ValueError, match="concatenate: give at least one Tensor"):
            join([])
    for equation, shapes, sentence in [
        ("ii", [(2, 3)], "label 'i' of 'ii' is both 3 and 2 long"),
        ("ij,jk->ik", [(2, 3), (4, 5)], "label 'j' of 'ij,jk->ik' is both 3 and 4 long"),
        ("ii,i->i", [(1, 3), (3,)], "label 'i' of 'ii,i->i' is both 3 and 1 long"),
        ("i,ii->i", [(3,), (1, 3)], "label 'i' of 'i,ii->i' is both 3 and 1 long"),
        ("ij->", [(3,)], r"term 'ij' of 'ij->' does not fit an argument of shape \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            tl.einsum(equation, *[t(np.ones(shape)) for shape in shapes])


@pytest.mark.parametrize("name", ["sum", "max", "min"])
def test_the_axis_of_a_number_is_0(name):
    x = t(np.array(2.0))
    y = getattr(tl, name)(x, axis=0)
    assert (y.item(), y.shape, tl.grad(y, x).item()) == (2, (), 1)


def test_a_composition_at_its_edges():
    for cuts in (1, 2, 3):
        assert [part.shape for part in tl.split(tl.zeros((0, 2)), cuts)] == [(0, 2)] * cuts
    assert [part.shape for part in tl.split(tl.zeros(6), 3)] == [(2,)] * 3
    assert tl.stack([tl.zeros(6)]).shape == (1, 6)
    assert tl.pad(tl.tensor(2.0), 1).item() == tl.pad(tl.tensor(2.0), []).item() == 2
    for widths in ([1, 2], [[1, 2], [0, 3]], [(1, 2), [0, 3]]):  # lists as well as tuples
        same(tl.pad(t(), widths), np.pad(X, widths))
    for shift, axis in (((), 1), (1, ()), ((), ()), ((), None)):  # nothing to shift
        same(tl.roll(t(), shift, axis), X)


def test_einsum_broadcasts_an_axis_of_length_1_wherever_it_stands():
    x, y, ones = t(X[:, :2]), t(X[:1, 1:]), np.ones((2, 2))
    for equation, args in (("ij,jk->ik", (x, y)), ("jk,ij->ik", (y, x))):
        by_x, by_y = tl.grad(tl.einsum(equation, *args).sum(), [x, y])
        same(by_x, ones @ np.broadcast_to(y.data, (2, 2)).T)
        same(by_y, (x.data.T @ ones).sum(axis=0, keepdims=True))


# ----- methods ----------------------------------------------------------------------------------------------------

ARGUMENTS = {  # of methods that take some, in their order: the method's arguments, the function's keywords
    "sum": [((1, True), {"axis": 1, "keepdims": True})],
    "mean": [((1, True), {"axis": 1, "keepdims": True})],
    "var": [((1, 1, True), {"axis": 1, "ddof": 1, "keepdims": True})],
    "std": [((1, 1, True), {"axis": 1, "ddof": 1, "keepdims": True})],
    "prod": [((1, True), {"axis": 1, "keepdims": True})],
    "max": [((1, True), {"axis": 1, "keepdims": True})],
    "min": [((1, True), {"axis": 1, "keepdims": True})],
    "argmax": [((1, True), {"axis": 1, "keepdims": True})],
    "argmin": [((1, True), {"axis": 1, "keepdims": True})],
    "all": [((1, True), {"axis": 1, "keepdims": True})],
    "any": [((1, True), {"axis": 1, "keepdims": True})],
    "logsumexp": [((1, True), {"axis": 1, "keepdims": True})],
    "norm": [((1, True), {"axis": 1, "keepdims": True})],
    "cumsum": [((1,), {"axis": 1})],
    "cumprod": [((1,), {"axis": 1})],
    "sort": [((0,), {"axis": 0})],
    "argsort": [((0,), {"axis": 0})],
    "topk": [((1, 0), {"k": 1, "axis": 0}), ((2,), {"k": 2})],
    "transpose": [((1, 0), {"axes": (1, 0)}), (((0, 1),), {"axes": (0, 1)})],
    "reshape": [((3, 2), {"shape": (3, 2)}), (((3, -1),), {"shape": (3, 2)}), ((6,), {"shape": 6})],
    "broadcast_to": [((4, 2, 3), {"shape": (4, 2, 3)}), (((2, 3),), {"shape": (2, 3)})],
    "swapaxes": [((0, 1), {"a": 0, "b": 1})],
    "expand_dims": [((1,), {"axis": 1})],
    "squeeze": [((), {})],
    "split": [((3, 1), {"sections": 3, "axis": 1})],
    "repeat": [((2, 1), {"repeats": 2, "axis": 1})],
    "tile": [(((2, 1),), {"reps": (2, 1)})],
    "flip": [((1,), {"axis": 1})],
    "roll": [((1, 1), {"shift": 1, "axis": 1})],
    "pad": [((1, 2.0), {"widths": 1, "value": 2.0})],
    "tril": [((1,), {"k": 1})],
    "triu": [((1,), {"k": 1})],
    "diagonal": [((1, 1, 0), {"offset": 1, "axis1": 1, "axis2": 0})],
    "take_along_axis": [((np.array([[1, 0, 1]]), 0), {"indices": np.array([[1, 0, 1]]), "axis": 0})],
    "masked_fill": [((X > 0, 7.0), {"mask": X > 0, "value": 7.0})],
    "clip": [((-1, 1), {"low": -1, "high": 1})],
    "maximum": [((0.5,), {"y": 0.5})],
    "minimum": [((0.5,), {"y": 0.5})],
    "matmul": [((X.T,), {"y": X.T})],
    "astype": [((np.float32,), {"dtype": np.float32}), (("float32",), {"dtype": np.float32})],
    "to": [(("cpu",), {"device": "cpu"})],
}  # fmt: skip
APART = {"item", "tolist", "numpy", "backward", "changed", "outer"}  # no ops, or (outer) of vectors
METHODS = [
    name
    for name, member in vars(tl.Tensor).items()
    if inspect.isfunction(member) and not name.startswith("_") and name not in APART
]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_the_function_of_its_name(name):
    for args, keywords in ARGUMENTS.get(name, [((), {})]):
        same(getattr(t(), name)(*args), getattr(tl, name)(t(), **keywords))
    if all(p.default is not p.empty for p in [*inspect.signature(getattr(tl.Tensor, name)).parameters.values()][1:]):
        same(getattr(t(), name)(), getattr(tl, name)(t()))


def test_outer_and_the_transpose():
    same(t(X[0]).outer(X[1]), np.outer(X[0], X[1]))
    same(t().T, X.T)


def test_operators_are_ops_from_either_side():
    x, y, a, b = t(), t(np.abs(X) + 0.5), X, np.abs(X) + 0.5
    for got, expected in [
        (x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b), (y**x, b**a), (x @ y.T, a @ b.T), (-x, -a),
        (+x, a), (abs(x), abs(a)), (2 + x, 2 + a), (2 - x, 2 - a), (2 * x, 2 * a), (2 / y, 2 / b), (2**x, 2**a),
        (x**2, a**2), (a.T @ x, a.T @ a), (x == y, a == b), (x != y, a != b), (x < y, a < b), (x <= y, a <= b),
        (x > y, a > b), (x >= y, a >= b), (x > 0.5, a > 0.5), (x[1], a[1]), (x[:, None, ::-1], a[:, None, ::-1]),
    ]:  # fmt: skip
        same(got, expected)
    p, q, u, v = tl.tensor(a > 0), tl.tensor(b > 1), a > 0, b > 1
    for got, expected in [(p & q, u & v), (p | q, u | v), (p ^ q, u ^ v), (~p, ~u)]:
        same(got, expected)
    for got, expected in [(u & q, u & v), (u | q, u | v), (u ^ q, u ^ v)]:
        same(got, expected)


def test_a_tensor_is_a_sequence_of_its_rows_and_a_number_if_it_has_one_element():
    x = t()
    assert len(x) == 2
    same(list(x), [X[0], X[1]])
    assert [bool(v) for v in (tl.tensor(1), tl.tensor([0.0]), tl.tensor([[True]]))] == [True, False, True]
    assert x[0, 0].item() == 1.0
    with pytest.raises(ValueError, match=r"shape \(2, 3\) is ambiguous"):
        bool(x)
    with pytest.raises(ValueError, match=r"item: only a Tensor of one element is a number, not shape \(2, 3\)"):
        x.item()
    with pytest.raises(TypeError, match="len of a 0-d Tensor"):
        len(x.sum())


TOPK = [
    [1, 3, 3, 2, 3], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1], [3, 2, 2, 2, 0],
    [math.nan, 1, math.nan, 2, math.nan], [-math.inf, 7, -math.inf, math.inf, 7],
]  # fmt: skip


@pytest.mark.parametrize("values", TOPK)
def test_topk_is_the_beginning_of_a_stable_descending_sort(values):
    """For every k; nan is the largest, and of equals the lower index comes first."""
    x = np.array([values, values[::-1]], np.float32)
    expected = [sorted(range(5), key=lambda i: -math.inf if math.isnan(row[i]) else -row[i]) for row in x.tolist()]
    for row, order in zip(x.tolist(), expected, strict=True):
        order.sort(key=lambda i: not math.isnan(row[i]))  # before infinity
    for k in range(6):
        found, places = tl.topk(t(x), k)
        same(places, np.array(expected)[:, :k])
        np.testing.assert_array_equal(found.numpy(), np.take_along_axis(x, np.array(expected)[:, :k], -1))


@pytest.mark.parametrize("k", [1, 7, 600, 1500, 1999, 2000])
def test_topk_of_long_rows(k):
    """Short rows are sorted by a partition too, whatever it is asked for."""
    x = np.array([[997 * i % 2000 // 2 for i in range(2000)], [1003 * i % 2000 for i in range(2000)]], float)
    found, places = tl.topk(t(x), k)
    expected = np.argsort(-x, kind="stable")[:, :k]
    same((found, places), (np.take_along_axis(x, expected, -1), expected))
