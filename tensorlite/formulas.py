"""Executable specifications: each function is its formula, made of ops.

Nothing here is fast on purpose. `functional.py` has the same names with kernels behind them; these say what they must
equal, in value and in derivatives of every order. Read this file to know what a layer computes.
"""

import math
from numbers import Real

from . import derived, ops
from .autograd import Variable
from .backend import device_of, integers, is_array, is_floating, xp
from .primitive import floating, wide
from .random import Generator, stream

# ----- activations ------------------------------------------------------------------------------------------------


def relu(x):
    """max(x, 0), with derivative 0 at 0."""
    return ops.where(x <= 0, 0, x)  # this way around, nan stays nan


@floating
def gelu(x, *, approximate: str = "tanh"):
    """x times the normal distribution's Phi(x). Hendrycks and Gimpel, "Gaussian error linear units", 2016.

    "tanh" (GPT-2's): 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3))); "none": 0.5 x (1 + erf(x / sqrt(2))).
    """
    if approximate == "none":
        return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))
    if approximate != "tanh":
        raise ValueError(f"gelu: approximate must be 'tanh' or 'none', not {approximate!r:.80}")
    return 0.5 * x * (1 + ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


@floating
def silu(x):
    """x sigmoid(x)."""
    return x * ops.sigmoid(x)


# ----- softmax ----------------------------------------------------------------------------------------------------


@floating
def softmax(x, axis: int = -1):
    """exp(x_i) / sum_j exp(x_j) along `axis`. The shift by the maximum cancels; it only keeps exp from overflowing."""
    e = ops.exp(x - ops.detach(x).max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@floating
def log_softmax(x, axis: int = -1):
    """log(softmax(x)), without the log of a number that rounds to 0. A row with inf or nan in it is nan throughout."""
    x = x - ops.detach(x).max(axis=axis, keepdims=True)  # as in softmax
    return x - ops.logsumexp(x, axis=axis, keepdims=True)


# ----- layers -----------------------------------------------------------------------------------------------------


@wide
def linear(x, weight, bias=None):
    """x W^T + b: x (..., n_in), weight (n_out, n_in), bias (n_out) -> (..., n_out)."""
    y = ops.matmul(x, weight.swapaxes(0, 1))
    return y if bias is None else y + bias


@wide
def projections(x, query, key, value, query_bias=None, key_bias=None, value_bias=None):
    """Three `linear`s of one x, side by side: x (..., n_in), weights (n_out, n_in) each -> (..., 3 n_out)."""
    parts = (query, query_bias), (key, key_bias), (value, value_bias)
    return ops.concatenate([linear(x, weight, bias) for weight, bias in parts], axis=-1)


def embedding(weight, idx):
    """Rows of `weight` (V, D) at the integers `idx` (...): (..., D). Rows used more than once add up their gradients.

    `idx` is an array or a nested list. An index outside 0 .. V - 1 raises IndexError. On a GPU values
    are not checked, which would wait for it: check ids where they are read.
    """
    idx = as_array("embedding", idx, weight)
    check_table("embedding", weight)
    check_indices("embedding", idx, weight.shape[0])
    return ops.getitem(weight, idx)


@floating
def layer_norm(x, weight=None, bias=None, *, eps: float = 1e-5):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis, var biased. Ba, Kiros and Hinton, 2016."""
    check_last_axis("layer_norm", x, weight, bias)
    centered = x - derived.mean(x, axis=-1, keepdims=True)
    y = centered * ops.rsqrt(derived.mean(centered * centered, axis=-1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@floating
def rms_norm(x, weight=None, *, eps: float = 1e-5):
    """x / sqrt(mean(x**2) + eps) * weight over the last axis. Zhang and Sennrich, 2019."""
    check_last_axis("rms_norm", x, weight)
    y = x * ops.rsqrt(derived.mean(x * x, axis=-1, keepdims=True) + eps)
    return y if weight is None else y * weight


def dropout(x, p: float = 0.5, training: bool = True, generator: Generator | None = None):
    """Each element is 0 with probability `p`, otherwise scaled by 1 / (1 - p); nothing happens unless `training`."""
    if not isinstance(p, Real) or not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be a probability between 0 and 1, not {p!r:.80}")
    if not training or p == 0:
        return x
    return apply_dropout_mask(x, keep_mask(x, x.shape, p, generator), p=p)


@floating
def apply_dropout_mask(x, keep, *, p: float):
    """x / (1 - p) where `keep`, otherwise 0: dropout once its mask is drawn."""
    return ops.where(keep, x * (1 / (1 - p) if p < 1 else 0.0), 0)


def keep_mask(x, shape, p: float, generator: Generator | None):
    """A random mask beside `x`: True where an element survives a dropout of `p`."""
    raw = x.data if isinstance(x, Variable) else x
    keep = stream(generator).bernoulli_keep(p, shape)
    return keep if isinstance(raw, type(keep)) else xp(raw).asarray(keep)


# ----- attention --------------------------------------------------------------------------------------------------


def scaled_dot_product_attention(
    q, k, v, *, mask=None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None,
    generator: Generator | None = None,
):  # fmt: skip
    """softmax(q k^T * scale) v. Vaswani et al., "Attention is all you need", 2017.

    q (..., T, D), k (..., S, D), v (..., S, E) -> (..., T, E); `scale` defaults to 1/sqrt(D). `mask` (broadcast to
    (..., T, S)) is boolean, True = may attend, or floating, added to the scores. `is_causal`: position t of the last T
    of S positions sees the positions up to its own. A row that may attend to nothing gives 0, and no gradient.
    `dropout_p` drops attention weights.
    """
    check_attention(q, k, v)
    keep = keep_mask(q, (*q.shape[:-1], k.shape[-2]), dropout_p, generator) if dropout_p else None
    return attention(q, k, v, keep, mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)


@floating
def attention(q, k, v, keep=None, mask=None, *, is_causal=False, dropout_p=0.0, scale=None):
    """The above once the dropout mask `keep` is drawn: a function of its arguments alone."""
    raw = q.data if isinstance(q, Variable) else q
    check_mask("scaled_dot_product_attention", mask)
    scores = ops.matmul(q, k.swapaxes(-1, -2)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    allowed = causal_mask(raw, q.shape[-2], k.shape[-2]) if is_causal else None
    if mask is not None and mask.dtype == bool:
        mask = mask.data if isinstance(mask, Variable) else mask
        allowed = mask if allowed is None else allowed & mask
    elif mask is not None:
        scores = scores + mask
    if allowed is not None:
        scores = ops.where(allowed, scores, -math.inf)
    shift = 0
    if k.shape[-2]:
        top = ops.detach(scores).max(axis=-1, keepdims=True)
        shift = ops.where(top == -math.inf, 0, top)
    e = ops.exp(scores - shift)
    total = e.sum(axis=-1, keepdims=True)
    weights = e / ops.where(total == 0, 1, total)
    if keep is not None:
        weights = ops.where(keep, weights * (1 / (1 - dropout_p) if dropout_p < 1 else 0.0), 0)
    return ops.matmul(weights, v)


def multi_head_attention(
    qkv, n_head: int, *, is_causal: bool = False, dropout_p: float = 0.0, generator: Generator | None = None
):
    """Attention within each of `n_head` heads, (B, T, 3 C) -> (B, T, C): queries, keys and values of C = n_head D each
    lie side by side, as `projections` makes them, and so do the heads in each. ValueError for what does not divide so.
    """
    check_heads(qkv, n_head)
    keep = keep_mask(qkv, (len(qkv), n_head, *[qkv.shape[1]] * 2), dropout_p, generator) if dropout_p else None
    return heads_attention(qkv, keep, n_head=n_head, is_causal=is_causal, dropout_p=dropout_p)


def heads_attention(qkv, keep=None, *, n_head, is_causal=False, dropout_p=0.0):
    """The above once the dropout mask `keep` (B, n_head, T, T) is drawn."""
    q, k, v = split_heads(qkv, n_head)
    return join_heads(attention(q, k, v, keep, is_causal=is_causal, dropout_p=dropout_p))


def split_heads(qkv, n_head: int):
    """(B, T, 3 C) -> queries, keys and values, (B, n_head, T, D) each."""
    parts = qkv.reshape((*qkv.shape[:2], 3, n_head, qkv.shape[2] // (3 * n_head)))  # (B, T, 3, H, D)
    return tuple([parts[:, :, i].swapaxes(1, 2) for i in range(3)])


def join_heads(x):
    """(B, H, T, D) -> (B, T, H * D)"""
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape((B, T, H * D))  # (B, T, H, D) -> (B, T, C)


def check_heads(qkv, n_head: int) -> None:
    if qkv.ndim != 3 or n_head < 1 or qkv.shape[2] % (3 * n_head):
        raise ValueError(f"multi_head_attention: (B, T, 3 * n_head * D) is wanted, not {qkv.shape} for n_head {n_head}")


def causal_mask(x, T: int, S: int):
    """(T, S) booleans: position t of the last T of S may see position s."""
    return xp(x).arange(S)[None, :] <= xp(x).arange(S - T, S)[:, None]


# ----- losses -----------------------------------------------------------------------------------------------------


@floating
def mse_loss(x, y, reduction: str = "mean"):
    """The mean of (x - y)**2. ValueError where the shapes differ: a loss does not broadcast."""
    check_same_shape("mse_loss", x, y)
    return _reduce(ops.square(x - y), reduction)


@wide
def cross_entropy(
    logits, targets, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0, weight=None
):
    """-log softmax(logits)[target], averaged.

    logits (..., C). `targets` are class indices (...), also as a nested list, or probabilities (..., C). Where an index
    equals `ignore_index` there is no loss and no gradient, and it does not count in the mean (all ignored: nan, with
    gradient 0, as in torch). `label_smoothing` s mixes the target with the uniform distribution:
    (1 - s) target + s / C. `weight` (C) scales each class; the mean over indices then divides by the weights of the
    targets. `reduction`: mean, sum, none.
    """
    C, targets = logits.shape[-1], as_array("cross_entropy", targets, logits)
    check_cross_entropy(logits.shape, targets, ignore_index, reduction, label_smoothing, weight)
    log_p = log_softmax(logits)
    if is_floating(targets.dtype):
        smooth = targets * (1 - label_smoothing) + label_smoothing / C if label_smoothing else targets
        smooth = smooth if weight is None else smooth * weight
        # a class of probability 0 costs nothing, even if its logit is -inf
        log_p = ops.where((smooth == 0) & (log_p == -math.inf), 0, log_p)
        losses = -ops.sum(smooth * log_p, axis=-1)
        return _reduce(losses, reduction)
    valid = targets != ignore_index
    index = ops.where(valid, targets, 0)
    picked = ops.take_along_axis(log_p, ops.expand_dims(index, -1), -1).reshape(targets.shape)
    scale = valid.astype(logits.dtype) if weight is None else ops.where(valid, weight[index], 0)
    losses = ops.where(valid, -picked if weight is None else -picked * scale, 0)
    if label_smoothing:
        every = log_p.sum(axis=-1) if weight is None else (log_p * weight).sum(axis=-1)
        losses = losses * (1 - label_smoothing) - ops.where(valid, every, 0) * (label_smoothing / C)
    if reduction == "mean":
        return losses.sum() / scale.sum()
    return _reduce(losses, reduction)


@wide
def linear_cross_entropy(x, weight, targets, *, ignore_index: int = -100, reduction: str = "mean"):
    """The cross-entropy of the logits x W^T, a model's head and its loss in one: x (..., C), weight (V, C)."""
    return cross_entropy(linear(x, weight), targets, ignore_index=ignore_index, reduction=reduction)


def _reduce(losses, reduction: str):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r:.80}")
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


# ----- checks at the door -----------------------------------------------------------------------------------------


def check_same_shape(name: str, x, y) -> None:
    for each in (x, y):
        if isinstance(each, (list, tuple)):
            raise TypeError(f"{name}: give Tensors, not a {type(each).__name__}: write tl.tensor(...)")
    a, b = getattr(x, "shape", ()), getattr(y, "shape", ())
    if a != b:
        fix = f"y.reshape({a})" if math.prod(a) == math.prod(b) else f"y.broadcast_to({a}) if that is meant"
        raise ValueError(f"{name}: x has shape {a} and y {b}, but they must be equal: write {fix}")


def check_mask(name: str, mask) -> None:
    """Attention masks are boolean or floating: TypeError for integers, which would be added to the scores."""
    if mask is not None and mask.dtype != bool and not is_floating(mask.dtype):
        raise TypeError(
            f"{name}: the mask must be boolean (True: may attend) or floating (added to the scores), not {mask.dtype}: "
            "of a mask of 0 and 1 make mask == 1"
        )


def check_last_axis(name: str, x, *vectors) -> None:
    for vector in vectors:
        if vector is not None and vector.shape != x.shape[-1:]:
            raise ValueError(
                f"{name}: weight and bias must have shape {x.shape[-1:]}, the last axis of x, not {vector.shape}"
            )


def as_array(name: str, idx, like):
    """A nested list of integers as an array beside `like`; what is an array or a Tensor already stays as it is."""
    if isinstance(idx, Variable) or is_array(idx):
        return idx
    return xp(like.data if isinstance(like, Variable) else like).asarray(integers(name, idx))


def check_table(name: str, weight) -> None:
    if weight.ndim != 2:
        raise ValueError(f"{name}: weight must have shape (V, D), one row for each index, not {weight.shape}")


def check_attention(q, k, v) -> None:
    shapes = [x.shape for x in (q, k, v)]
    fit = min(map(len, shapes)) >= 2 and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
    if not fit:
        raise ValueError(
            "scaled_dot_product_attention: q (..., T, D), k (..., S, D) and v (..., S, E) are wanted, not shapes "
            f"{', '.join(map(str, shapes))}"
        )


def check_indices(name: str, idx, size: int, ignore_index: int | None = None) -> None:
    """Integers in 0 .. size - 1 (or `ignore_index`), or a TypeError or IndexError that names the first that is not.

    The values are looked at on the CPU only: anywhere else that would be a wait for the device at each step.
    """
    raw = idx.data if isinstance(idx, Variable) else idx
    if raw.dtype.kind not in "iu":
        raise TypeError(f"{name}: indices must be integers, not {raw.dtype}")
    if device_of(raw) != "cpu":
        return
    wrong = (raw < 0) | (raw >= size)
    if ignore_index is not None:
        wrong &= raw != ignore_index
    if wrong.any():
        first = raw[wrong][0]
        allowed = "" if ignore_index is None else f" (or ignore_index {ignore_index})"
        raise IndexError(f"{name}: index {first} is out of range: there are {size} classes, 0 to {size - 1}{allowed}")


def check_cross_entropy(shape, targets, ignore_index, reduction, label_smoothing=0.0, weight=None) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: reduction must be 'mean', 'sum' or 'none', not {reduction!r:.80}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be between 0 and 1, not {label_smoothing}")
    if weight is not None and weight.shape != shape[-1:]:
        raise ValueError(f"cross_entropy: weight must have one value per class, {shape[-1:]}, not {weight.shape}")
    expected = shape if is_floating(targets.dtype) else shape[:-1]
    if targets.shape != expected:
        kind = "probabilities" if is_floating(targets.dtype) else "class indices"
        raise ValueError(f"cross_entropy: {kind} for logits {shape} must have shape {expected}, not {targets.shape}")
    if not is_floating(targets.dtype):
        check_indices("cross_entropy", targets, shape[-1], ignore_index)
