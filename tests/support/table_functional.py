"""Rows of the table: the layers and losses of formulas.py, as functional.py computes them."""

import math

import numpy as np
from hypothesis import strategies as st
from rows import Row, arrays, booleans, broadcastable, fit, integers, local, move, reductions, shapes

import tensorlite as tl
from tensorlite import functional as F

ANY = {"avoid": ()}
NEAR = {"low": -3, "high": 3}  # softmax of products of larger numbers is 0 or 1 up to rounding
ANY_NEAR = ANY | NEAR
AWAY = {"gap": 0.3}
POSITIVE = {"low": 0.2, "high": 3.0, "avoid": ()}
AXIS = reductions(empty=False, tuples=False, none=False, keepdims=False, min_dims=1)
A, B = math.sqrt(2 / math.pi), 0.044715

# ----- activations ------------------------------------------------------------------------------------------------


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(A * (x + B * x**3)))


def gelu_tanh_slope(x):
    t = np.tanh(A * (x + B * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * A * (1 + 3 * B * x**2)


def gaussian(x):
    """The normal distribution's Phi."""
    return np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))), [float])(x)


def gelu_erf_slope(x):
    return gaussian(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def logistic(x):
    return 1 / (1 + np.exp(-x))


def silu_slope(x):
    return logistic(x) * (1 + x * (1 - logistic(x)))


# ----- softmax ----------------------------------------------------------------------------------------------------


def softmax(x, axis=-1):
    e = np.exp(x)
    return e / e.sum(axis, keepdims=True)


def softmax_gradient(g, x, axis):
    p = softmax(x, axis)
    return (p * (g - (g * p).sum(axis, keepdims=True)),)


def log_softmax_gradient(g, x, axis):
    return (g - softmax(x, axis) * g.sum(axis, keepdims=True),)


# ----- layers -----------------------------------------------------------------------------------------------------


@st.composite
def rows_and_vectors(draw, n, **meta):
    """(..., C) and `n` vectors (C)."""
    shape = draw(shapes(1, min_side=1, max_side=4))
    if len(shape) > 1 and draw(st.integers(0, 9)) == 9:
        shape = (0, *shape[1:])
    return (shape, *[shape[-1:]] * n), {name: draw(strategy) for name, strategy in meta.items()}


@st.composite
def linears(draw, bias):
    *stack, inner, outer = draw(shapes(2, 4))
    return ((*stack, inner), (outer, inner), *[(outer,)] * bias), {}


def linear_value(x, weight, bias=0.0):
    return np.einsum("...i,oi->...o", x, weight) + bias


def linear_gradient(g, x, weight, *bias):
    flat = math.prod(x.shape[:-1])
    g_rows, x_rows = g.reshape(flat, weight.shape[0]), x.reshape(flat, weight.shape[1])
    by_weight = (g_rows[:, :, None] * x_rows[:, None, :]).sum(0)
    return (g @ weight, by_weight, *[g_rows.sum(0) for _ in bias])


@st.composite
def three_linears(draw, bias):
    *stack, inner = draw(shapes(1, 3))
    outers = draw(st.lists(st.integers(1, 3), min_size=3, max_size=3))
    return ((*stack, inner), *[(n, inner) for n in outers], *[(n,) for n in outers] * bias), {}


def projections_value(x, *parts):
    return np.concatenate([linear_value(x, *parts[i::3]) for i in range(3)], axis=-1)


def projections_gradient(g, x, *parts):
    pieces = np.split(g, np.cumsum([len(weight) for weight in parts[:2]]), axis=-1)
    by_x, *by_parts = zip(*[linear_gradient(pieces[i], x, *parts[i::3]) for i in range(3)], strict=True)
    return sum(by_x), *[each for kind in by_parts for each in kind]


@st.composite
def lookups(draw):
    V, D = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    return ((V, D),), {"idx": draw(integers(draw(shapes(0, 2)), 0, V))}


def layer_norm_value(x, weight=1.0, bias=0.0, *, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def layer_norm_gradient(g, x, *vectors, eps):
    """With J = (I - 1/C - z z^T / C) / sqrt(var + eps), the Jacobian of a row."""
    C, z = x.shape[-1], layer_norm_value(x, eps=eps)
    h = g * vectors[0] if vectors else g
    jacobian = np.eye(C) - 1 / C - z[..., :, None] * z[..., None, :] / C
    by_x = np.einsum("...i,...ij->...j", h, jacobian) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return (by_x, fit(g * z, (C,)), fit(g, (C,)))[: 1 + len(vectors)]


def rms_norm_value(x, weight=1.0, *, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def rms_norm_gradient(g, x, *vectors, eps):
    C, z, rms = x.shape[-1], rms_norm_value(x, eps=eps), np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    h = g * vectors[0] if vectors else g
    by_x = np.einsum("...i,...ij->...j", h, np.eye(C) - z[..., :, None] * z[..., None, :] / C) / rms
    return (by_x, fit(g * z, (C,)))[: 1 + len(vectors)]


def drop_scale(shape, p, seed):
    """What a dropout multiplies with: 0 or 1 / (1 - p), the same draw as the op's."""
    return tl.Generator(seed).bernoulli_keep(p, shape) * (1 / (1 - p) if p < 1 else 0)


P = st.sampled_from([0.0, 0.25, 0.5, 1.0])
SEED = st.integers(0, 9)


def unit_value(x, axis):
    return x / np.maximum(np.sqrt((x * x).sum(axis, keepdims=True)), 1e-12)


def unit_gradient(g, x, axis):
    """(g - u (u . g)) / |x|, and g / eps where the norm is below eps."""
    norm, u = np.sqrt((x * x).sum(axis, keepdims=True)), unit_value(x, axis)
    return ((g - np.where(norm > 1e-12, u * (u * g).sum(axis, keepdims=True), 0)) / np.maximum(norm, 1e-12),)


@st.composite
def two_of_one_shape(draw):
    (shape,), meta = draw(AXIS)
    return (shape, shape), meta


def cosine_value(x, y, axis):
    return (x * y).sum(axis) / np.prod([np.maximum(np.sqrt((v * v).sum(axis)), 1e-8) for v in (x, y)], axis=0)


def cosine_gradient(g, x, y, axis):
    """By x: (y / |y| - x (x . y) / (|x|^2 |y|)) / |x|, where the second term is 0 for a norm below eps."""
    g, found = np.expand_dims(g, axis), []
    for one, other in ((x, y), (y, x)):
        a, b = (np.sqrt((v * v).sum(axis, keepdims=True)) for v in (one, other))
        dot, a0, b0 = (one * other).sum(axis, keepdims=True), np.maximum(a, 1e-8), np.maximum(b, 1e-8)
        found.append(g * (other / (a0 * b0) - np.where(a > 1e-8, dot * one / (a0**3 * b0), 0)))
    return tuple(found)


# ----- attention --------------------------------------------------------------------------------------------------


@st.composite
def attentions(draw, mask):
    """q (..., T, D), k (..., S, D), v (..., S, E); mask: None, "boolean", or "floating" (then it is a fourth array)."""
    T, S, D, E = [draw(st.integers(1, 3)) for _ in range(4)]
    stacks = draw(broadcastable(3, 2, 1, 2)) if draw(st.booleans()) else [draw(shapes(0, 2, 0, 2))] * 3
    q, k, v = [(*stack, *sides) for stack, sides in zip(stacks, [(T, D), (S, D), (S, E)], strict=True)]
    meta = {"is_causal": draw(st.booleans()), "scale": draw(st.sampled_from([None, 0.5]))}
    meta |= {"dropout_p": draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])), "seed": draw(SEED)}
    stack = np.broadcast_shapes(stacks[0], stacks[1])
    mask_shape = draw(st.sampled_from([(T, S), (*stack, T, S), (*stack, 1, S), (1, S)]))
    if mask == "boolean":
        meta["mask"] = draw(booleans(mask_shape))
    return (q, k, v, *[mask_shape] * (mask == "floating")), meta


def attention(q, k, v, bias=None, *, mask=None, seed, **meta):
    mask = mask if bias is None else bias
    return F.scaled_dot_product_attention(q, k, v, mask=mask, generator=tl.Generator(seed), **meta)


def attention_parts(q, k, bias, mask, is_causal, scale, dropout_p, seed):
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ np.swapaxes(k, -1, -2) * scale + bias
    T, S = scores.shape[-2:]
    if is_causal:
        scores = np.where(np.tri(T, S, S - T, dtype=bool), scores, -math.inf)
    if mask is not None:
        scores = np.where(mask, scores, -math.inf)
    e = np.exp(scores)
    total = e.sum(-1, keepdims=True)
    weights = e / np.where(total == 0, 1, total)
    drop = drop_scale((*q.shape[:-1], S), dropout_p, seed) if dropout_p else 1.0
    return scale, weights, drop


def attention_value(q, k, v, bias=0.0, *, mask=None, **meta):
    _, weights, drop = attention_parts(q, k, bias, mask, **meta)
    return weights * drop @ v


def attention_gradient(g, q, k, v, *bias, mask=None, **meta):
    scale, weights, drop = attention_parts(q, k, bias[0] if bias else 0.0, mask, **meta)
    dweights = np.einsum("...te,...se->...ts", g, v) * drop
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    dq = np.einsum("...ts,...sd->...td", dscores, k) * scale
    dk = np.einsum("...ts,...td->...sd", dscores, q) * scale
    dv = np.einsum("...ts,...te->...se", weights * drop, g)
    return tuple([fit(d, x.shape) for d, x in zip((dq, dk, dv, dscores), (q, k, v, *bias), strict=False)])


@st.composite
def side_by_side(draw):
    """(B, T, 3 H D)"""
    B, T, H, D = draw(st.integers(0, 2)), *[draw(st.integers(1, 3)) for _ in range(3)]
    meta = {"n_head": H, "is_causal": draw(st.booleans()), "dropout_p": draw(st.sampled_from([0.0, 0.5]))}
    return ((B, T, 3 * H * D),), meta | {"seed": draw(SEED)}


def multi_head_attention(qkv, *, n_head, seed, **meta):
    return F.multi_head_attention(qkv, n_head, generator=tl.Generator(seed), **meta)


def apart(qkv, n_head):
    """Queries, keys and values, each (B, H, T, D)."""
    heads = np.split(qkv, 3 * n_head, axis=-1)
    return [np.stack(heads[i * n_head : (i + 1) * n_head], axis=1) for i in range(3)]


def multi_head_value(qkv, *, n_head, **meta):
    out = attention_value(*apart(qkv, n_head), scale=None, **meta)
    return np.concatenate([out[:, h] for h in range(n_head)], axis=-1)


def multi_head_gradient(g, qkv, *, n_head, **meta):
    g = np.stack(np.split(g, n_head, axis=-1), axis=1)
    pieces = attention_gradient(g, *apart(qkv, n_head), scale=None, **meta)
    return (np.concatenate([piece[:, h] for piece in pieces for h in range(n_head)], axis=-1),)


# ----- losses -----------------------------------------------------------------------------------------------------

REDUCTION = st.sampled_from(["mean", "sum", "none"])


@st.composite
def pairs(draw):
    shape = draw(shapes())
    return (shape, shape), {"reduction": draw(REDUCTION)}


def reduced(losses, reduction):
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](losses)


def mse_gradient(g, x, y, reduction):
    by_x = g * 2 * (x - y) / (x.size if reduction == "mean" else 1)
    return by_x, -by_x


def binary_value(x, t, reduction):
    return weighted_binary_value(x, t, reduction, 1.0)


def binary_gradient(g, x, t, reduction):
    return weighted_binary_gradient(g, x, t, reduction, 1.0)


@st.composite
def weighted_pairs(draw):
    shapes, meta = draw(pairs())
    return shapes, meta | {"pos_weight": np.array(draw(st.sampled_from([0.5, 2.5])))}


def weighted_binary_value(x, t, reduction, pos_weight):
    w = pos_weight
    return reduced(-(w * t * np.log(logistic(x)) + (1 - t) * np.log(logistic(-x))), reduction)


def weighted_binary_gradient(g, x, t, reduction, pos_weight):
    w = pos_weight
    g = g / (x.size if reduction == "mean" else 1)
    return g * ((1 - t) * logistic(x) - w * t * logistic(-x)), g * (-w * np.log(logistic(x)) + np.log(logistic(-x)))


def xlogx(p):
    return p * np.log(np.where(p == 0, 1, p))


def kl_value(log_q, p, reduction):
    return reduced(xlogx(p) - np.where(p == 0, 0, p * log_q), reduction)


def kl_gradient(g, log_q, p, reduction):
    g = g / (p.size if reduction == "mean" else 1)
    return -g * p, np.where(p == 0, 0, g * (np.log(np.where(p == 0, 1, p)) + 1 - log_q))


def log_kl_div(log_q, log_p, reduction):
    return F.kl_div(log_q, log_p, reduction, log_target=True)


def log_kl_value(log_q, log_p, reduction):
    return reduced(np.exp(log_p) * (log_p - log_q), reduction)


def log_kl_gradient(g, log_q, log_p, reduction):
    g = g / (log_p.size if reduction == "mean" else 1) * np.exp(log_p)
    return -g, g * (1 + log_p - log_q)


@st.composite
def classes(draw, probabilities=False, smoothing=True):
    """Logits (..., C); the targets as metadata, or probabilities (..., C) as a second array."""
    shape, C = draw(shapes(0, 2)), draw(st.integers(1, 4))
    meta = {"reduction": draw(REDUCTION), "label_smoothing": draw(st.sampled_from([0.0, 0.0, 0.3]))}
    third = 0.25 if meta["reduction"] == "mean" else 0.0  # a mean over weights of 0 in all is no number
    weight = np.array([0.5, 2.0, third, 1.0])[:C]
    meta["weight"] = weight if draw(st.integers(0, 3)) == 3 else None
    if probabilities:
        return ((*shape, C), (*shape, C)), meta
    if not smoothing:
        del meta["label_smoothing"]
    meta["ignore_index"] = draw(st.sampled_from([-100, -100, 0, 1, 255]))
    targets = draw(integers(shape, 0, C))
    ignored = draw(booleans(shape)) if draw(st.booleans()) else np.zeros(shape, bool)
    return ((*shape, C),), meta | {"targets": np.where(ignored, meta["ignore_index"], targets)}


def cross_entropy(logits, *probabilities, targets=None, **meta):
    return F.cross_entropy(logits, *(probabilities or (targets,)), **meta)


def one_hot(targets, C, smoothing, ignore_index):
    """What the loss weighs -log p with (0 where ignored), and which targets count."""
    valid = targets != ignore_index
    hot = np.arange(C) == targets[..., None]
    return (hot * (1 - smoothing) + smoothing / C) * valid[..., None], valid


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def cross_entropy_parts(logits, targets, label_smoothing, weight, ignore_index, reduction):
    C = logits.shape[-1]
    weight = np.ones(C) if weight is None else weight
    q, valid = one_hot(targets, C, label_smoothing, ignore_index)
    count = np.take(weight, np.where(valid, targets, 0))[valid].sum() if reduction == "mean" else 1.0
    return q * weight, count


def cross_entropy_value(logits, targets, reduction, **meta):
    q, count = cross_entropy_parts(logits, targets, reduction=reduction, **meta)
    losses = -(q * log_softmax(logits)).sum(-1)
    return losses if reduction == "none" else np.divide(losses.sum(), count)


def cross_entropy_gradient(g, logits, targets, reduction, **meta):
    q, count = cross_entropy_parts(logits, targets, reduction=reduction, **meta)
    by_row = softmax(logits) * q.sum(-1, keepdims=True) - q
    by_row = by_row * (g[..., None] if reduction == "none" else g / count)
    return (np.where(targets[..., None] == meta["ignore_index"], 0, by_row),)


def nll_loss(log_p, targets, **meta):
    return F.nll_loss(log_p, targets, **meta)


def nll_value(log_p, targets, reduction, **meta):
    q, count = cross_entropy_parts(log_p, targets, label_smoothing=0.0, reduction=reduction, **meta)
    losses = -(q * log_p).sum(-1)
    return losses if reduction == "none" else np.divide(losses.sum(), count)


def nll_gradient(g, log_p, targets, reduction, **meta):
    q, count = cross_entropy_parts(log_p, targets, label_smoothing=0.0, reduction=reduction, **meta)
    return (np.where(q == 0, 0, -q * (g[..., None] if reduction == "none" else g / count)),)


@st.composite
def heads(draw):
    """Features (..., D), a head (C, D), and the targets as metadata."""
    ((*shape, C),), meta = draw(classes())
    D = draw(st.integers(1, 3))
    return ((*shape, D), (C, D)), {name: meta[name] for name in ("targets", "ignore_index", "reduction")}


def linear_cross_entropy(x, weight, targets, **meta):
    return F.linear_cross_entropy(x, weight, targets, **meta)


def head_loss(x, weight, **meta):
    return cross_entropy_value(x @ weight.T, label_smoothing=0.0, weight=None, **meta)


def head_gradient(g, x, weight, **meta):
    (by_logits,) = cross_entropy_gradient(g, x @ weight.T, label_smoothing=0.0, weight=None, **meta)
    return linear_gradient(by_logits, x, weight)


@st.composite
def soft_heads(draw):
    """The same with the probabilities (..., C) as a third array."""
    shape, C, D = draw(shapes(0, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return ((*shape, D), (C, D), (*shape, C)), {"reduction": draw(REDUCTION)}


def soft_value(logits, targets, label_smoothing, weight, reduction):
    q = targets * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    return reduced(-(q * (1 if weight is None else weight) * log_softmax(logits)).sum(-1), reduction)


def soft_gradient(g, logits, targets, label_smoothing, weight, reduction):
    weight = 1 if weight is None else weight
    q = (targets * (1 - label_smoothing) + label_smoothing / logits.shape[-1]) * weight
    g = g[..., None] if reduction == "none" else g / (math.prod(logits.shape[:-1]) if reduction == "mean" else 1)
    by_logits = g * (softmax(logits) * q.sum(-1, keepdims=True) - q)
    return by_logits, -g * (1 - label_smoothing) * weight * log_softmax(logits)


def soft_head_loss(x, weight, targets, reduction):
    return soft_value(x @ weight.T, targets, 0.0, None, reduction)


def soft_head_gradient(g, x, weight, targets, reduction):
    by_logits, by_targets = soft_gradient(g, x @ weight.T, targets, 0.0, None, reduction)
    return (*linear_gradient(by_logits, x, weight), by_targets)


EPS = st.sampled_from([0.1, 1.0])  # large, so that differences see a smooth function
# fmt: off
FUNCTIONAL = [
    Row("relu",               F.relu,                                           lambda x: np.maximum(x, 0),              local(lambda x: ~(x <= 0)),   arrays(1), exact=True, covers=("where",)),
    Row("gelu",               F.gelu,                                           gelu_tanh,                               local(gelu_tanh_slope),   arrays(1), ANY),
    Row("gelu, erf",          lambda x: F.gelu(x, approximate="none"),          lambda x: x * gaussian(x),               local(gelu_erf_slope),    arrays(1), ANY, covers=("erf",)),
    Row("silu",               F.silu,                                           lambda x: x * logistic(x),               local(silu_slope),        arrays(1), ANY, covers=("sigmoid",)),
    Row("softplus, of functional", F.softplus,                                       lambda x: np.log(1 + np.exp(x)),         local(logistic),          arrays(1), ANY),
    Row("logsigmoid",         F.logsigmoid,                                     lambda x: np.log(logistic(x)),           local(lambda x: logistic(-x)), arrays(1), ANY, covers=("softplus",)),
    Row("leaky_relu",         F.leaky_relu,                                     lambda x, negative_slope: np.where(x > 0, x, negative_slope * x), local(lambda x, negative_slope: np.where(x > 0, 1, negative_slope)), arrays(1, negative_slope=st.sampled_from([0.25, 0.0, 1.5])), exact=True, covers=("where",)),
    Row("elu",                F.elu,                                            lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(x) - 1)), local(lambda x, alpha: np.where(x > 0, 1, alpha * np.exp(x))), arrays(1, alpha=st.sampled_from([1.0, 0.5])), covers=("expm1",)),
    Row("softmax",            F.softmax,                                        softmax,                                 softmax_gradient,         AXIS, ANY, covers=("exp",)),
    Row("log_softmax",        F.log_softmax,                                    lambda x, axis: np.log(softmax(x, axis)), log_softmax_gradient,    AXIS, ANY, covers=("logsumexp",)),
    Row("linear",             F.linear,                                         linear_value,                            linear_gradient,          linears(bias=True), step=1.0),
    Row("linear, no bias",    F.linear,                                         linear_value,                            linear_gradient,          linears(bias=False), covers=("linear",), step=1.0),
    Row("projections",        F.projections,                                    projections_value,                       projections_gradient,     three_linears(bias=True), step=1.0),
    Row("projections, no bias", F.projections,                                  projections_value,                       projections_gradient,     three_linears(bias=False), covers=("projections",), step=1.0),
    move("embedding",         F.embedding,                                      lambda weight, idx: weight[idx],         lookups()),
    Row("layer_norm",         F.layer_norm,                                     layer_norm_value,                        layer_norm_gradient,      rows_and_vectors(2, eps=EPS)),
    Row("layer_norm, weight", F.layer_norm,                                     layer_norm_value,                        layer_norm_gradient,      rows_and_vectors(1, eps=EPS), covers=("layer_norm",)),
    Row("layer_norm, alone",  F.layer_norm,                                     layer_norm_value,                        layer_norm_gradient,      rows_and_vectors(0, eps=EPS), covers=("layer_norm",)),
    Row("rms_norm",           F.rms_norm,                                       rms_norm_value,                          rms_norm_gradient,        rows_and_vectors(1, eps=EPS), covers=("rsqrt",)),
    Row("rms_norm, alone",    F.rms_norm,                                       rms_norm_value,                          rms_norm_gradient,        rows_and_vectors(0, eps=EPS), covers=("rsqrt",)),
    Row("normalize",          F.normalize,                                      unit_value,                              unit_gradient,            AXIS, AWAY, covers=("div",)),
    Row("cosine_similarity",  F.cosine_similarity,                              cosine_value,                            cosine_gradient,          two_of_one_shape(), AWAY, covers=("div",)),
    Row("one_hot",            lambda x: F.one_hot((abs(x) * 16).astype(np.int64), 2000), lambda x: np.eye(2000, dtype=np.int64)[(np.abs(x) * 16).astype(np.int64)], None, arrays(1), covers=()),
    Row("dropout",            lambda x, p, seed: F.dropout(x, p, generator=tl.Generator(seed)), lambda x, p, seed: x * drop_scale(x.shape, p, seed), local(lambda x, p, seed: drop_scale(x.shape, p, seed)), arrays(1, p=P, seed=SEED), ANY, covers=("apply_dropout_mask",)),
    Row("dropout, evaluating", lambda x: F.dropout(x, 0.5, training=False),     np.positive,                             local(lambda x: 1),       arrays(1), ANY, covers=()),
    Row("scaled_dot_product_attention",               attention,                attention_value,                         attention_gradient,       attentions(None), ANY_NEAR, covers=("attention",)),
    Row("scaled_dot_product_attention, boolean mask", attention,                attention_value,                         attention_gradient,       attentions("boolean"), ANY_NEAR, covers=("attention",)),
    Row("scaled_dot_product_attention, added mask",   attention,                attention_value,                         attention_gradient,       attentions("floating"), ANY_NEAR, covers=("attention",)),
    Row("multi_head_attention",         multi_head_attention,                   multi_head_value,                        multi_head_gradient,      side_by_side(), ANY_NEAR, covers=("heads_attention",)),
    Row("cross_entropy",                cross_entropy,                          cross_entropy_value,                     cross_entropy_gradient,   classes(), ANY),
    Row("cross_entropy, probabilities", cross_entropy,                          soft_value,                              soft_gradient,            classes(probabilities=True), POSITIVE, covers=("logsumexp",)),
    Row("linear_cross_entropy",         linear_cross_entropy,                   head_loss,                               head_gradient,            heads(), NEAR),
    Row("linear_cross_entropy, probabilities", F.linear_cross_entropy,          soft_head_loss,                          soft_head_gradient,       soft_heads(), POSITIVE, covers=("logsumexp",)),
    Row("nll_loss",           nll_loss,                                         nll_value,                               nll_gradient,             classes(smoothing=False), ANY, covers=("getitem",)),
    Row("binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits, binary_value,                            binary_gradient,          pairs(), ANY, covers=("softplus",)),
    Row("binary_cross_entropy_with_logits, weighted", F.binary_cross_entropy_with_logits, weighted_binary_value,         weighted_binary_gradient, weighted_pairs(), ANY, covers=("softplus",)),
    Row("kl_div",             F.kl_div,                                         kl_value,                                kl_gradient,              pairs(), POSITIVE, covers=("log",)),
    Row("kl_div, of logarithms", log_kl_div,                                    log_kl_value,                            log_kl_gradient,          pairs(), ANY, covers=("exp",)),
    Row("mse_loss",           F.mse_loss,                                       lambda x, y, reduction: reduced((x - y) ** 2, reduction), mse_gradient, pairs(), covers=("square",), step=1.0),
]
# fmt: on
