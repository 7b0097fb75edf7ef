"""What must hold whatever the rules are: chain rule on random graphs, symmetry, sums, invariances, causality."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite import functional as F
from tensorlite.testing import check_gradients, smooth

few = settings(max_examples=max(5, settings().max_examples // 5))
SHAPE = (2, 3)
MASK = np.array([[True, False, True], [False, True, True]])
STEPS = {  # functions of two (2, 3) Tensors that neither grow nor have kinks: any number of them may be chained
    "add": lambda x, y: (x + y) * 0.5,
    "sub": lambda x, y: (x - y) * 0.5,
    "mul": lambda x, y: tl.sin(x * y),
    "div": lambda x, y: x / (2 + tl.cos(y)),
    "pow": lambda x, y: (1.5 + tl.sin(x)) ** tl.tanh(y),
    "tanh": lambda x, y: tl.tanh(x),
    "sigmoid, log": lambda x, y: tl.log(0.5 + tl.sigmoid(x)),
    "exp, erf": lambda x, y: tl.exp(tl.erf(x)) - 1,
    "sqrt": lambda x, y: tl.sqrt(1 + tl.square(tl.sin(x))),
    "where": lambda x, y: tl.where(MASK, x, y),
    "sum": lambda x, y: y - x.sum(axis=1, keepdims=True) / 3,
    "mean, var": lambda x, y: tl.tanh((x - x.mean()) / (0.5 + x.var())),
    "logsumexp": lambda x, y: tl.logsumexp(x, axis=0) - 0.5 * y,
    "cumsum": lambda x, y: tl.cumsum(x, axis=1) / 3,
    "prod": lambda x, y: tl.prod(tl.sin(x), axis=0, keepdims=True) + 0.5 * y,
    "matmul": lambda x, y: tl.tanh(x @ y.T) @ x * 0.3,
    "einsum": lambda x, y: tl.tanh(tl.einsum("ij,kj->ik", x, y)) @ y * 0.3,
    "reshape, transpose": lambda x, y: x.reshape(3, 2).T,
    "getitem": lambda x, y: x[::-1, [2, 0, 0]],
    "concatenate": lambda x, y: tl.concatenate([x, y], axis=0)[1:3],
    "stack": lambda x, y: tl.stack([x, y])[[1, 0], [0, 1]],
    "roll, flip": lambda x, y: tl.flip(tl.roll(x, 1, 1), 0),
    "broadcast": lambda x, y: tl.broadcast_to(x[1], SHAPE) * 0.5 + y[:, :1] * 0.5,
    "gelu": lambda x, y: F.gelu(x),
    "softmax": lambda x, y: F.softmax(x) * y,
    "layer_norm": lambda x, y: F.layer_norm(x, tl.cos(y[0]), y[1], eps=0.5),
    "linear": lambda x, y: tl.tanh(F.linear(x, tl.concatenate([y, x[:1]]))),
    "attention": lambda x, y: F.scaled_dot_product_attention(x, y, x, is_causal=True),
    "cross_entropy": lambda x, y: y * tl.sin(F.cross_entropy(x, np.array([2, 0]))),
}


@st.composite
def programs(draw, longest=30):
    """A function of two (2, 3) Tensors: up to 30 steps, each on any two of the values so far."""
    steps = [
        (draw(st.sampled_from(sorted(STEPS))), draw(st.integers(0, i + 1)), draw(st.integers(0, i + 1)))
        for i in range(draw(st.integers(1, longest)))
    ]

    def program(*values):
        values = list(values)
        for name, i, j in steps:
            values.append(STEPS[name](values[i], values[j]))
        return values[-1] + 0.1 * values[len(values) // 2]

    program.__name__ = repr(steps)
    return program


XY = smooth(SHAPE, SHAPE, low=-1.5, high=1.5, avoid=())


@given(program=programs(), xs=XY, seed=st.integers(0, 99))
def test_the_chain_rule_on_random_graphs(program, xs, seed):
    check_gradients(program, *xs, rtol=1e-5, atol=1e-6, seed=seed)


@few
@given(program=programs(12), xs=XY, seed=st.integers(0, 99))
def test_hessians_of_random_graphs_are_symmetric_and_right(program, xs, seed):
    check_gradients(program, *xs, order=2, rtol=1e-5, atol=1e-6, seed=seed)
    x, y = [tl.Tensor(a, requires_grad=True) for a in xs]
    u, v = np.random.default_rng(seed).standard_normal((2, *SHAPE))
    by_x, by_y = tl.grad(program(x, y).sum(), [x, y], create_graph=True)
    along_x, along_y = (by_x * u).sum(), (by_y * v).sum()
    mixed = [
        tl.grad(a, b, retain_graph=True).data if a.requires_grad else np.zeros(SHAPE)
        for a, b in ((along_x, y), (along_y, x))
    ]
    np.testing.assert_allclose((mixed[0] * v).sum(), (mixed[1] * u).sum(), rtol=1e-8, atol=1e-8)


@few
@given(f=programs(8), h=programs(8), xs=XY)
def test_the_gradient_of_a_sum_is_the_sum_of_the_gradients(f, h, xs):
    tensors = [tl.Tensor(a, requires_grad=True) for a in xs]

    def gradients(function):
        return [p.data for p in tl.grad(function(*tensors).sum(), tensors)]

    together = gradients(lambda x, y: 2 * f(x, y) - 3 * h(x, y))
    for total, a, b in zip(together, gradients(f), gradients(h), strict=True):
        np.testing.assert_allclose(total, 2 * a - 3 * b, rtol=1e-9, atol=1e-9)


@few
@given(program=programs(), xs=XY)
def test_backward_grad_and_unfused_agree(program, xs):
    x, y = [tl.Tensor(a, requires_grad=True) for a in xs]
    program(x, y).sum().backward()
    returned = tl.grad(program(x, y).sum(), [x, y])
    recorded = tl.grad(program(x, y).sum(), [x, y], create_graph=True)
    with tl.unfused():
        unfused = tl.grad(program(x, y).sum(), [x, y])
    for i, leaf in enumerate((x, y)):
        got = np.zeros(SHAPE) if leaf.grad is None else leaf.grad.data
        np.testing.assert_array_equal(returned[i].data, got)
        np.testing.assert_allclose(recorded[i].data, got, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(unfused[i].data, got, rtol=1e-9, atol=1e-12)


# ----- layers -----------------------------------------------------------------------------------------------------


def weights(rng, *shapes):
    return [tl.tensor(rng.standard_normal(shape), requires_grad=True) for shape in shapes]


def test_permuting_the_batch_permutes_the_gradient():
    rng = np.random.default_rng(5)
    x, w, v = rng.standard_normal((5, 4)), *weights(rng, (6, 4), (6,))
    targets, order = rng.integers(0, 6, 5), rng.permutation(5)

    def gradients(x, targets):
        x = tl.tensor(x, requires_grad=True)
        loss = F.cross_entropy(F.layer_norm(F.gelu(F.linear(x, w)), v), targets)
        return [p.data for p in tl.grad(loss, [x, w, v])]

    by_x, by_w, by_v = gradients(x, targets)
    permuted_x, permuted_w, permuted_v = gradients(x[order], targets[order])
    np.testing.assert_allclose(permuted_x, by_x[order], rtol=1e-12)
    np.testing.assert_allclose(permuted_w, by_w, rtol=1e-9)
    np.testing.assert_allclose(permuted_v, by_v, rtol=1e-9)


@pytest.mark.parametrize("layers", [F, tl.formulas], ids=["fused", "specification"])
@pytest.mark.parametrize("T", range(4))
def test_a_causal_output_has_no_gradient_at_all_by_later_inputs(layers, T):
    rng = np.random.default_rng(T)
    x, q, k, v = weights(rng, (2, 4, 3), (3, 3), (3, 3), (3, 3))
    y = layers.scaled_dot_product_attention(
        layers.linear(x, q), layers.linear(x, k), layers.linear(x, v), is_causal=True
    )
    by_x = tl.grad((y[:, T] * rng.standard_normal(3)).sum(), x).data
    assert (by_x[:, T + 1 :] == 0).all()
    assert (by_x[:, : T + 1] != 0).any(axis=-1).all()


@few
@given(shift=st.floats(-50, 50), scale=st.floats(0.5, 50), seed=st.integers(0, 99))
def test_invariances_of_softmax_and_norms(shift, scale, seed):
    x, targets = np.random.default_rng(seed).standard_normal((3, 4)), np.array([0, 3, 2])
    moved = tl.tensor(x + shift, requires_grad=True)
    loss = F.cross_entropy(moved, targets)
    np.testing.assert_allclose(loss.data, F.cross_entropy(x, targets), rtol=1e-9)
    np.testing.assert_allclose(tl.grad(loss, moved).data.sum(axis=-1), 0, atol=1e-12)  # shifting changes nothing
    np.testing.assert_allclose(F.softmax(x + shift), F.softmax(x), rtol=1e-9)
    np.testing.assert_allclose(F.layer_norm(scale * x + shift, eps=1e-12), F.layer_norm(x, eps=1e-12), rtol=1e-6)
    np.testing.assert_allclose(F.rms_norm(scale * x, eps=1e-12), F.rms_norm(x, eps=1e-12), rtol=1e-6)
    z = tl.tensor(x, requires_grad=True)
    by_z = tl.grad((F.layer_norm(z, eps=0.0) * np.arange(4.0)).sum(), z).data
    np.testing.assert_allclose(by_z.sum(axis=-1), 0, atol=1e-12)  # no slope along a shift
    np.testing.assert_allclose((by_z * x).sum(axis=-1), by_z.sum(axis=-1) * x.mean(axis=-1), atol=1e-10)  # nor a scale


@few
@given(cuts=st.lists(st.integers(0, 8), max_size=3), seed=st.integers(0, 99), smoothing=st.sampled_from([0.0, 0.1]))
def test_micro_batches_add_up_to_the_batch_with_unequal_ignored_counts(cuts, seed, smoothing):
    rng = np.random.default_rng(seed)
    x, targets = rng.standard_normal((8, 5)), rng.integers(0, 3, 8)
    targets[rng.random(8) < 0.4] = -100
    targets[0] = 1  # at least one counts
    (w,) = weights(rng, (3, 5))
    whole = F.cross_entropy(F.linear(x, w), targets, label_smoothing=smoothing)
    by_w = tl.grad(whole, w).data
    count, total = float((targets != -100).sum()), 0.0
    for a, b in itertools.pairwise([0, *sorted(cuts), 8]):
        options = {"reduction": "sum", "label_smoothing": smoothing}
        part = F.cross_entropy(F.linear(x[a:b], w), targets[a:b], **options) / count
        part.backward()
        total += part.item()
    np.testing.assert_allclose(total, whole.item(), rtol=1e-12)
    np.testing.assert_allclose(w.grad.data, by_w, rtol=1e-9, atol=1e-12)
