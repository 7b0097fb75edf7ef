"""The table beside torch: values, gradients and second order of every op that both have; the adversarial palette."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from table import DIFFERENTIABLE

import tensorlite as tl
from tensorlite.testing import kinky, smooth

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[peers]'")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0:UserWarning")  # the variance of nothing
nn = torch.nn.functional
few = settings(max_examples=max(5, settings().max_examples // 5))
INF, NAN = math.inf, math.nan

# ----- the same ops in torch's words ------------------------------------------------------------------------------


def dims(x, axis):
    """NumPy's axis as torch's dim; torch takes an empty tuple for all axes, which NumPy does not."""
    if axis == ():
        reject()
    return tuple(range(x.ndim)) if axis is None else axis


def reduction(f):
    return lambda x, axis, keepdims, **meta: f(x, dim=dims(x, axis), keepdim=keepdims, **meta)


def prod(x, axis, keepdims):
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    for a in sorted((a % x.ndim for a in axes), reverse=True):
        x = torch.prod(x, a, keepdim=keepdims)
    return x


def cumulative(f):
    return lambda x, axis: f(x.flatten(), 0) if axis is None else f(x, axis)


def clip_to_arrays(x, low, high):
    """torch.clamp, whose backward fails where the limits widen x, with the gradient that it loses where both limits are
    equal and x is below: it goes to `low`."""
    x, low, high = torch.broadcast_tensors(x, low, high)
    below = torch.where((low == high) & (x < low), low - low.detach(), 0)
    return torch.clamp(x, low, high) + below


def clip(x, limits):
    return x.clone() if limits == (None, None) else torch.clamp(x, *limits)


def flip(x, axis):
    return torch.flip(x, (axis,) if isinstance(axis, int) else tuple(range(x.ndim)) if axis is None else axis)


def roll(x, shift, axis):
    return torch.roll(x, shift, axis) if x.numel() else x.clone()


def pad(x, widths, value):
    pairs = np.broadcast_to(np.array(widths), (x.ndim, 2))
    return nn.pad(x, [int(w) for pair in pairs[::-1] for w in pair], value=value)


def tile(x, reps):
    reps = reps if isinstance(reps, tuple) else (reps,)
    return torch.tile(x, reps)


def getitem(x, index):
    parts = index if isinstance(index, tuple) else (index,)
    assume(all(i.step is None or i.step > 0 for i in parts if isinstance(i, slice)))  # torch has no negative steps
    kinds = {type(i) for i in parts}
    assume(not kinds >= {int, torch.Tensor})  # beside an array NumPy takes an integer for one, torch does not
    return x[index]


def scatter_add(x, index, shape):
    places = torch.arange(math.prod(shape)).reshape(shape)
    return (
        torch.zeros(math.prod(shape), dtype=x.dtype)
        .index_add(0, getitem(places, index).flatten(), x.flatten())
        .view(shape)
    )


def attention(q, k, v, bias=None, *, mask=None, is_causal, scale, dropout_p, seed):
    assume(not dropout_p)
    T, S = q.shape[-2], k.shape[-2]
    if is_causal:  # torch aligns at the first position, we at the last
        seen = torch.ones(T, S, dtype=bool).tril(S - T)
        mask = seen if mask is None else mask & seen
    if bias is not None:
        mask = bias if mask is None else torch.where(mask, bias, -INF)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the only one with a second order
        return nn.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def projections(x, *parts):
    return torch.cat([nn.linear(x, *parts[i::3]) for i in range(3)], -1)


def multi_head_attention(qkv, *, n_head, **meta):
    q, k, v = (part.unflatten(-1, (n_head, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
    return attention(q, k, v, scale=None, **meta).transpose(1, 2).flatten(2)


def cross_entropy(logits, *probabilities, targets=None, **meta):
    """Torch wants the classes second, (N, C)."""
    C = logits.shape[-1]
    if probabilities:
        assume(logits.numel())
    target = probabilities[0].reshape(-1, C) if probabilities else targets.reshape(-1)
    out = nn.cross_entropy(logits.reshape(-1, C), target, **meta)
    return out.reshape(logits.shape[:-1]) if meta["reduction"] == "none" else out


def index_put(x, values, index):
    getitem(x, index)  # leaves out what torch does not take as an index
    out = x.clone()
    out[index] = values
    return out


def nll_loss(log_p, *, targets, **meta):
    """Torch wants the classes second, (N, C)."""
    out = nn.nll_loss(log_p.reshape(-1, log_p.shape[-1]), targets.reshape(-1), **meta)
    return out.reshape(log_p.shape[:-1]) if meta["reduction"] == "none" else out


def kl_div(log_q, p, reduction, log_target=False):
    """Reduced here: torch warns that its mean will change."""
    assume(log_target or (p > 0).all())  # torch's gradient in p at 0 is -inf
    losses = nn.kl_div(log_q, p, reduction="none", log_target=log_target)
    return {"mean": torch.mean, "sum": torch.sum, "none": torch.clone}[reduction](losses)


SAME = (
    "add sub mul div neg abs square sqrt rsqrt reciprocal exp expm1 log log1p sin cos tanh sigmoid erf maximum minimum "
    "sign floor ceil round pow matmul outer clone"
)
PEERS = {name: getattr(torch, name) for name in SAME.split()} | {
    "pow, to a number": lambda x, n: x**n,
    "pow, of a number": lambda x, b: b**x,
    "floor_divide": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "floor_divide, by a number": lambda x: torch.div(x, 1.0, rounding_mode="floor"),
    "remainder": torch.remainder,
    "remainder, by a number": lambda x: torch.remainder(x, 1.0),
    "log2": torch.log2,
    "softplus": nn.softplus,
    "softplus, of functional": nn.softplus,
    "logsigmoid": nn.logsigmoid,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "normalize": lambda x, axis: nn.normalize(x, dim=axis),
    "cosine_similarity": lambda x, y, axis: nn.cosine_similarity(x, y, dim=axis),
    "index_put": index_put,
    "scatter": lambda x, values, indices, axis: x.scatter(axis, indices, values),
    "nll_loss": nll_loss,
    "binary_cross_entropy_with_logits": nn.binary_cross_entropy_with_logits,
    "binary_cross_entropy_with_logits, weighted": nn.binary_cross_entropy_with_logits,
    "kl_div": kl_div,
    "kl_div, of logarithms": lambda log_q, log_p, reduction: kl_div(log_q, log_p, reduction, log_target=True),
    "clip": clip,
    "clip, to arrays": clip_to_arrays,
    "clip, to an array": lambda x, limit, side: torch.clamp(x, **{"min" if side == "low" else "max": limit}),
    "where": lambda x, y, condition: torch.where(condition, x, y),
    "sum": reduction(torch.sum),
    "mean": reduction(torch.mean),
    "var": reduction(lambda x, ddof, **options: torch.var(x, correction=ddof, **options)),
    "std": reduction(lambda x, ddof, **options: torch.std(x, correction=ddof, **options)),
    "norm": reduction(torch.linalg.vector_norm),
    "norm, of order 1": reduction(lambda x, **options: torch.linalg.vector_norm(x, 1, **options)),
    "norm, largest": reduction(lambda x, **options: torch.linalg.vector_norm(x, INF, **options)),
    "prod": prod,
    "max": reduction(torch.amax),
    "min": reduction(torch.amin),
    "logsumexp": reduction(torch.logsumexp),
    "cumsum": cumulative(torch.cumsum),
    "cumprod": cumulative(torch.cumprod),
    "sort": lambda x, axis: torch.sort(x, dim=axis, stable=True)[0],
    "topk": lambda x, k, axis: torch.sort(x, dim=axis, descending=True, stable=True)[0].narrow(axis, 0, k),
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, axes: x.permute(tuple(range(x.ndim))[::-1] if axes is None else axes),
    "swapaxes": lambda x, a, b: torch.swapaxes(x, a, b),
    "expand_dims": lambda x, axis: x.unsqueeze(axis),
    "squeeze": lambda x, axis: x.squeeze() if axis is None else x.squeeze(axis),
    "broadcast_to": lambda x, shape: torch.broadcast_to(x, shape),
    "concatenate": lambda *xs, axis: torch.cat(xs, axis),
    "stack": lambda *xs, axis: torch.stack(xs, axis),
    "split": lambda x, cut, axis, piece: torch.tensor_split(x, cut, axis)[piece],
    "repeat": lambda x, repeats, axis: torch.repeat_interleave(x, repeats, axis),
    "tile": tile,
    "flip": flip,
    "roll": roll,
    "pad": pad,
    "getitem": getitem,
    "scatter_add": scatter_add,
    "take_along_axis": lambda x, indices, axis: torch.take_along_dim(x, indices % x.shape[axis], axis),
    "masked_fill": lambda x, mask, value: torch.where(mask, value, x),
    "diagonal": lambda x, offset, axis1, axis2: torch.diagonal(x, offset, axis1, axis2),
    "tril": lambda x, k: torch.tril(x, k),
    "triu": lambda x, k: torch.triu(x, k),
    "einsum": lambda *xs, equation: torch.einsum(equation, *xs),
    "astype": lambda x: x.to(torch.float32),
    "relu": nn.relu,
    "gelu": lambda x: nn.gelu(x, approximate="tanh"),
    "gelu, erf": nn.gelu,
    "silu": nn.silu,
    "softmax": lambda x, axis: torch.softmax(x, axis),
    "log_softmax": lambda x, axis: torch.log_softmax(x, axis),
    "linear": nn.linear,
    "linear, no bias": nn.linear,
    "projections": projections,
    "projections, no bias": projections,
    "embedding": lambda weight, idx: nn.embedding(idx, weight),
    "layer_norm": lambda x, *vectors, eps: nn.layer_norm(x, x.shape[-1:], *vectors, eps=eps),
    "layer_norm, weight": lambda x, *vectors, eps: nn.layer_norm(x, x.shape[-1:], *vectors, eps=eps),
    "layer_norm, alone": lambda x, eps: nn.layer_norm(x, x.shape[-1:], eps=eps),
    "rms_norm": lambda x, weight, eps: nn.rms_norm(x, x.shape[-1:], weight, eps),
    "rms_norm, alone": lambda x, eps: nn.rms_norm(x, x.shape[-1:], None, eps),
    "scaled_dot_product_attention": attention,
    "scaled_dot_product_attention, boolean mask": attention,
    "scaled_dot_product_attention, added mask": attention,
    "multi_head_attention": multi_head_attention,
    "cross_entropy": cross_entropy,
    "cross_entropy, probabilities": cross_entropy,
    "linear_cross_entropy": lambda x, weight, **meta: cross_entropy(x @ weight.T, **meta),
    "linear_cross_entropy, probabilities": lambda x, weight, p, **meta: cross_entropy(x @ weight.T, p, **meta),
    "mse_loss": lambda x, y, reduction: nn.mse_loss(x, y, reduction=reduction),
}  # fmt: skip
# Dropout draws from torch's own generator: test_torch_random.py. A root's derivative at 0 is ours, as in std and norm.
ABSENT = {"identity", "to", "root", "dropout", "dropout, evaluating"}
ROWS = {row.name: row for row in DIFFERENTIABLE}


def test_every_differentiable_row_has_a_peer():
    assert PEERS.keys() | ABSENT == ROWS.keys()


# ----- both sides -------------------------------------------------------------------------------------------------


def over_there(x):
    """Arrays in metadata as torch's tensors."""
    if isinstance(x, np.ndarray):
        return torch.from_numpy(x.copy())
    return tuple(map(over_there, x)) if isinstance(x, tuple) else x


def ours(op, xs, meta, gs, order):
    tensors = [tl.Tensor(x, requires_grad=True) for x in xs]
    out = op(*tensors, **meta)
    gradients = tl.grad(out, tensors, gs(out.shape).astype(out.dtype), create_graph=order == 2)
    results = [out, *gradients]
    if order == 2:
        along = sum((p * gs(p.shape)).sum() for p in gradients)
        results += tl.grad(along, tensors) if along.requires_grad else [tl.zeros_like(x) for x in tensors]
    return [r.numpy() for r in results]


def theirs(op, xs, meta, gs, order):
    tensors = [torch.from_numpy(x.copy()).requires_grad_() for x in xs]
    out = op(*tensors, **{name: over_there(value) for name, value in meta.items()})
    options = {"allow_unused": True, "materialize_grads": True}
    g = torch.from_numpy(gs(tuple(out.shape))).to(out.dtype)
    gradients = torch.autograd.grad(out, tensors, g, create_graph=order == 2, **options)
    results = [out, *gradients]
    if order == 2:
        along = sum((p * torch.from_numpy(gs(tuple(p.shape)))).sum() for p in gradients)
        results += (
            torch.autograd.grad(along, tensors, **options) if along.requires_grad else map(torch.zeros_like, tensors)
        )
    return [r.detach().numpy(force=True) for r in results]


def assert_agree(name, xs, meta, seed, order, tolerance=1e-9):
    def gs(shape):
        return np.asarray(np.random.default_rng([seed, *shape]).integers(-48, 49, shape) / 16)

    for got, expected in zip(
        ours(ROWS[name].op, xs, meta, gs, order), theirs(PEERS[name], xs, meta, gs, order), strict=True
    ):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", sorted(PEERS))
@few
@given(data=st.data(), seed=st.integers(0, 999))
def test_value_gradient_and_second_order_are_torchs(name, data, seed):
    shapes, meta = data.draw(ROWS[name].inputs)
    assert_agree(name, data.draw(smooth(*shapes, **ROWS[name].domain)), meta, seed, order=2)


@pytest.mark.parametrize("name", sorted(PEERS))
@few
@given(data=st.data(), seed=st.integers(0, 999))
def test_value_and_gradient_are_torchs_at_ties_and_zeros(name, data, seed):
    shapes, meta = data.draw(ROWS[name].inputs)
    assert_agree(name, data.draw(kinky(*shapes)), meta, seed, order=1)


PALETTE = np.array([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -2.5, 800.0, -800.0, 1e-300, -1e-300, 1e-8, INF, -INF, NAN])
UNARY = (
    "neg square sqrt rsqrt reciprocal exp expm1 log log1p sin cos tanh sigmoid erf floor ceil round relu silu abs sign"
)
BINARY = "add sub mul div pow maximum minimum"
ROWWISE = "sum mean var std norm prod max min logsumexp cumsum cumprod sort softmax log_softmax"
APART = {  # where neither is wrong: what is left out, and why
    "abs": np.isnan,  # torch's sign of nan is 0, NumPy's is nan
    "sign": np.isnan,
    "cumprod": lambda x: ~np.isfinite(x),  # torch's gradient steps around zeros, and so around nan beside them
    "var": np.isinf,  # the variance is nan; torch's gradient is infinite, ours nan
    "log_softmax": lambda x: x == INF,  # all is lost; torch's gradient is nan in one place, ours everywhere
}


@pytest.mark.parametrize("name", [*UNARY.split(), "gelu", "gelu, erf", *BINARY.split()])
def test_the_palette_elementwise(name):
    values = PALETTE[~APART[name](PALETTE)] if name in APART else PALETTE
    xs = [a.ravel() for a in np.meshgrid(values, values)] if name in BINARY.split() else [values]
    assert_agree(name, xs, {}, 0, order=1)


@pytest.mark.parametrize("name", ROWWISE.split())
def test_the_palette_in_rows(name):
    values = np.array([0.0, 1.0, 800.0, -800.0, 1e-8, INF, -INF, NAN])
    rows = np.stack(np.meshgrid(values, values, [0.0, 1.0, NAN]), -1).reshape(-1, 3)
    if name in APART:
        rows = rows[~APART[name](rows).any(axis=1)]
    meta = {} if name in ("cumsum", "cumprod", "sort", "softmax", "log_softmax") else {"keepdims": False}
    assert_agree(name, [rows], {"axis": 1} | meta | ({"ddof": 0} if name in ("var", "std") else {}), 0, order=1)
