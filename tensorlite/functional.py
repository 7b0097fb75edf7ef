"""The layers, attention and losses of neural networks as functions: the fast public API, usually imported as `F`.

Every function takes Tensors or arrays. Given a Tensor, it records how to differentiate the result, to any order; given
arrays alone, it returns an array. It computes the formula of the same name in formulas.py: by a kernel, if
kernels/table.py has attached one that supports the arguments, otherwise by that formula.

Floating dtypes: float32 and float64 are computed as they are, float16 and bfloat16 in float32, and the result is
rounded once. Unless a function says otherwise, integers become float32.
"""

# formulas.py returns an Array, which is Any to mypy: a Tensor if one was given.
# mypy: no-warn-return-any
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from . import formulas
from .autograd import Variable
from .backend import Array, is_array, ndarray
from .errors.layers import check_attention, check_heads, check_probability
from .errors.suggestions import explain_argument_errors, module_getattr
from .random import Generator
from .tensor import Tensor
from .typing import ArrayLike

__all__ = [
    "argmax", "binary_cross_entropy_with_logits", "cosine_similarity", "cross_entropy", "dropout", "elu", "embedding",
    "gelu", "kl_div", "layer_norm", "leaky_relu", "linear", "linear_cross_entropy", "log_softmax", "logsigmoid",
    "mse_loss", "multi_head_attention", "nll_loss", "normalize", "one_hot", "projections", "relu", "rms_norm",
    "scaled_dot_product_attention", "silu", "softmax", "softplus",
]  # fmt: skip

__getattr__ = module_getattr("functional")


def __dir__() -> list[str]:
    return sorted(__all__)


# ----- formula or kernel ------------------------------------------------------------------------------------------

F = TypeVar("F", bound=Callable[..., Any])


class Implementation:
    """How a function is computed: by `cpu` for NumPy's arrays, by `gpu` for all others. At first both are its body."""

    __slots__ = ("cpu", "gpu")

    def __init__(self, formula: Callable[..., Any]):
        self.cpu = self.gpu = formula


IMPLEMENTATIONS: dict[str, Implementation] = {}  # of each function by its name; kernels/table.py puts kernels here


def with_kernels(function: F) -> F:
    """`function`, computed by what stands under its name in IMPLEMENTATIONS for the device of its first argument.

    For the functions that have a row in kernels/table.py: the others need no more than `explain_argument_errors`.
    """
    chosen = IMPLEMENTATIONS[function.__name__] = Implementation(explain_argument_errors(function))
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def call(*args, **options):  # type: ignore[no-untyped-def]
        x = args[0] if args else options.get(first)
        if type(x.data if isinstance(x, Variable) else x) is ndarray:
            return chosen.cpu(*args, **options)
        return chosen.gpu(*args, **options)

    return cast(F, call)


# ----- activations ------------------------------------------------------------------------------------------------


@explain_argument_errors
def relu(x: ArrayLike) -> Tensor:
    """max(x, 0), elementwise: (...) -> (...), with derivative 0 at 0. A nan stays nan; integers stay integers."""
    return formulas.relu(x)


@with_kernels
def gelu(x: ArrayLike, *, approximate: str = "tanh") -> Tensor:
    """The Gaussian error linear unit, elementwise: (...) -> (...).

    x Phi(x), with the distribution function Phi of the normal distribution:

        "none":  0.5 x (1 + erf(x / sqrt(2)))
        "tanh":  0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))), the approximation that GPT-2 uses

    ValueError for another `approximate`. Hendrycks and Gimpel, "Gaussian error linear units", 2016.
    """
    return formulas.gelu(x, approximate=approximate)


@explain_argument_errors
def silu(x: ArrayLike) -> Tensor:
    """x sigmoid(x) = x / (1 + exp(-x)), elementwise: (...) -> (...). Also called swish.

    Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units", 2017.
    """
    return formulas.silu(x)


@explain_argument_errors
def softplus(x: ArrayLike) -> Tensor:
    """log(1 + exp(x)), elementwise: (...) -> (...), a smooth form of max(x, 0). It does not overflow."""
    return formulas.softplus(x)


@explain_argument_errors
def logsigmoid(x: ArrayLike) -> Tensor:
    """log(sigmoid(x)) = -softplus(-x), elementwise: (...) -> (...). It is finite where sigmoid(x) rounds to 0."""
    return formulas.logsigmoid(x)


@explain_argument_errors
def leaky_relu(x: ArrayLike, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, otherwise negative_slope x, elementwise: (...) -> (...). Its derivative at 0 is `negative_slope`.

    Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.
    """
    return formulas.leaky_relu(x, negative_slope)


@explain_argument_errors
def elu(x: ArrayLike, alpha: float = 1.0) -> Tensor:
    """x where x > 0, otherwise alpha (exp(x) - 1), elementwise: (...) -> (...). Its derivative at 0 is `alpha`.

    Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential linear units", 2016.
    """
    return formulas.elu(x, alpha)


# ----- softmax ----------------------------------------------------------------------------------------------------


@explain_argument_errors
def softmax(x: ArrayLike, axis: int = -1) -> Tensor:
    """exp(x_i) / sum_j exp(x_j) along `axis`: probabilities of the shape of `x`.

    The maximum is subtracted first, so exp does not overflow; that cancels. A row with +inf or nan in it, or of -inf
    alone, is nan throughout. IndexError for an axis that `x` does not have.
    """
    return formulas.softmax(x, axis)


@explain_argument_errors
def log_softmax(x: ArrayLike, axis: int = -1) -> Tensor:
    """log(softmax(x)) = x_i - log(sum_j exp(x_j)) along `axis`: the shape of `x`.

    It is finite where a probability would round to 0. A row with inf or nan in it is nan throughout. IndexError for an
    axis that `x` does not have.
    """
    return formulas.log_softmax(x, axis)


@with_kernels
def argmax(x: ArrayLike) -> Tensor:
    """The index of the largest element along the last axis: (..., C) -> (...) int64.

    The first of equals; nan counts as the largest. It has no derivative. ValueError if C is 0.
    """
    return formulas.argmax(x)


# ----- layers -----------------------------------------------------------------------------------------------------


@with_kernels
def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Tensor:
    """x W^T + b: x (..., n_in), weight (n_out, n_in), bias (n_out) -> (..., n_out).

    ValueError where the shapes do not fit. Gradients: dx = g W, dW = g^T x, db = the sum of the rows of g.
    """
    return formulas.linear(x, weight, bias)


@with_kernels
def projections(
    x: ArrayLike,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    query_bias: ArrayLike | None = None,
    key_bias: ArrayLike | None = None,
    value_bias: ArrayLike | None = None,
) -> Tensor:
    """Three `linear`s of one x, side by side: queries, keys and values as `multi_head_attention` takes them.

    x (..., n_in), weights (n_out, n_in) each, biases (n_out) each -> (..., 3 n_out). ValueError where the shapes do not
    fit. A kernel computes one product where the weights lie next to each other in memory.
    """
    return formulas.projections(x, query, key, value, query_bias, key_bias, value_bias)


@with_kernels
def embedding(weight: ArrayLike, idx: ArrayLike) -> Tensor:
    """weight[idx]: rows of a table `weight` (V, D) at the integers `idx` (...) -> (..., D).

    `idx` is an array, a Tensor or a nested list. Rows that are used more than once add up their gradients. IndexError
    for an index outside 0 .. V - 1, TypeError for indices that are not integers, ValueError unless `weight` has two
    axes. On a GPU the values are not checked, since that would wait for the device: check ids where they are read.
    """
    return formulas.embedding(weight, idx)


@with_kernels
def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis: x (..., C), weight and bias (C) -> (..., C).

    `var` is the biased variance, the mean of (x - mean)**2. ValueError for a weight or bias of another shape.
    Ba, Kiros and Hinton, "Layer normalization", 2016.
    """
    return formulas.layer_norm(x, weight, bias, eps=eps)


@explain_argument_errors
def rms_norm(x: ArrayLike, weight: ArrayLike | None = None, *, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x**2) + eps) * weight over the last axis: x (..., C), weight (C) -> (..., C).

    ValueError for a weight of another shape. Zhang and Sennrich, "Root mean square layer normalization", 2019.
    """
    return formulas.rms_norm(x, weight, eps=eps)


@explain_argument_errors
def dropout(x: ArrayLike, p: float = 0.5, training: bool = True, generator: Generator | None = None) -> Tensor:
    """Each element is 0 with probability `p`, otherwise scaled by 1 / (1 - p), so that its expectation is `x`.

    (...) -> (...). Without `training` or with p = 0 it is `x` itself. The mask is drawn from `generator`, by default
    tensorlite's own: on a CPU torch's stream, on a GPU a counter-based one (Philox). ValueError for a `p` outside
    0 .. 1. Srivastava et al., "Dropout", 2014.
    """
    check_probability("dropout", p)
    if not training or p == 0:
        return cast(Tensor, x)
    return apply_dropout_mask(x, keep_mask(x, x.shape, p, generator), p=p)


@with_kernels
def apply_dropout_mask(x: ArrayLike, keep: Array, *, p: float) -> Tensor:
    """x / (1 - p) where `keep`, otherwise 0: dropout once its mask is drawn. `keep` has the shape of `x`."""
    return formulas.apply_dropout_mask(x, keep, p=p)


@with_kernels
def keep_mask(x: ArrayLike, shape: tuple[int, ...], p: float, generator: Generator | None) -> Array:
    """A random mask of `shape`, an array of booleans on the device of `x`: True with probability 1 - p."""
    return formulas.keep_mask(x, shape, p, generator)


@explain_argument_errors
def normalize(x: ArrayLike, axis: int = -1, ord: float = 2, eps: float = 1e-12) -> Tensor:
    """x / max(norm(x), eps) along `axis`: vectors of length 1, in the shape of `x`. `ord` as in tl.norm.

    (torch's default is the second axis.) ValueError for another `ord`, IndexError for an axis that `x` does not have.
    """
    return formulas.normalize(x, axis, ord, eps)


@explain_argument_errors
def cosine_similarity(x: ArrayLike, y: ArrayLike, axis: int = -1, eps: float = 1e-8) -> Tensor:
    """x . y / (|x| |y|) along `axis`, from -1 to 1: x and y (..., C), which broadcast -> (...).

    Norms below `eps` count as `eps`. (torch's default is the second axis.) IndexError for an axis that they do not have.
    """
    return formulas.cosine_similarity(x, y, axis, eps)


@explain_argument_errors
def one_hot(idx: ArrayLike, num_classes: int | None = None) -> Tensor:
    """1 at the class, 0 elsewhere: integers `idx` (...) -> int64 (..., num_classes).

    `num_classes` defaults to the largest index + 1. IndexError for an index outside 0 .. num_classes - 1, TypeError for
    indices that are not integers. Not differentiable.
    """
    found = formulas.one_hot(idx, num_classes)
    return found if is_array(idx) and not isinstance(idx, Variable) else Tensor(found)


# ----- attention --------------------------------------------------------------------------------------------------


@explain_argument_errors
def scaled_dot_product_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v: for each query an average of the values, weighted by how well their keys fit.

    q (..., T, D), k (..., S, D), v (..., S, E) -> (..., T, E); leading axes broadcast. `scale` defaults to 1/sqrt(D).
    `mask`, broadcast to (..., T, S), is boolean (True: may attend) or floating (added to the scores). `is_causal`:
    position t of the last T of S positions sees the positions up to its own. A row that may attend to nothing gives 0,
    and no gradient. `dropout_p` drops attention weights, with a mask drawn from `generator`.

    ValueError where the shapes do not fit, TypeError for a mask of integers.
    Vaswani et al., "Attention is all you need", 2017.
    """
    check_attention(q, k, v)
    keep = _attention_mask(q, (*q.shape[:-1], k.shape[-2]), dropout_p, generator)
    return attention(q, k, v, keep, mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)


@with_kernels
def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    keep: Array | None = None,
    mask: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """scaled_dot_product_attention once its dropout mask `keep` (..., T, S) is drawn."""
    return formulas.attention(q, k, v, keep, mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)


@explain_argument_errors
def multi_head_attention(
    qkv: ArrayLike, n_head: int, *, is_causal: bool = False, dropout_p: float = 0.0, generator: Generator | None = None
) -> Tensor:
    """Scaled dot-product attention within each of `n_head` heads: (B, T, 3 C) -> (B, T, C), C = n_head D.

    In the last axis queries, keys and values lie side by side, as `projections` makes them, and in each of them the
    heads. Options as in `scaled_dot_product_attention`. ValueError for a shape that does not divide so.
    Vaswani et al., "Attention is all you need", 2017, section 3.2.2, without the projections.
    """
    check_heads(qkv, n_head)
    B, T = qkv.shape[:2]
    keep = _attention_mask(qkv, (B, n_head, T, T), dropout_p, generator)
    return heads_attention(qkv, keep, n_head=n_head, is_causal=is_causal, dropout_p=dropout_p)


@with_kernels
def heads_attention(
    qkv: ArrayLike, keep: Array | None = None, *, n_head: int, is_causal: bool = False, dropout_p: float = 0.0
) -> Tensor:
    """multi_head_attention once its dropout mask `keep` (B, n_head, T, T) is drawn."""
    return formulas.heads_attention(qkv, keep, n_head=n_head, is_causal=is_causal, dropout_p=dropout_p)


# ----- losses -----------------------------------------------------------------------------------------------------


@explain_argument_errors
def mse_loss(x: ArrayLike, y: ArrayLike, reduction: str = "mean") -> Tensor:
    """(x - y)**2, elementwise, and its "mean", its "sum", or ("none") as it is: x and y of one shape -> () or (...).

    ValueError where the shapes differ, since a loss does not broadcast, or for another `reduction`.
    """
    return formulas.mse_loss(x, y, reduction)


@explain_argument_errors
def binary_cross_entropy_with_logits(
    logits: ArrayLike, targets: ArrayLike, reduction: str = "mean", pos_weight: ArrayLike | None = None
) -> Tensor:
    """-(t log p + (1 - t) log(1 - p)) for p = sigmoid(logits): logits and targets t of one shape -> () or (...).

    `targets` are probabilities, such as 0.0 and 1.0. `pos_weight`, which broadcasts, scales the first term. `reduction`
    is "mean", "sum" or "none". The logarithms are computed from the logits, so no probability rounds to 0. ValueError
    where the shapes differ, or for another `reduction`.
    """
    return formulas.binary_cross_entropy_with_logits(logits, targets, reduction, pos_weight)


@explain_argument_errors
def kl_div(log_q: ArrayLike, p: ArrayLike, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """The Kullback-Leibler divergence p (log p - log q), elementwise and reduced: two of one shape -> () or (...).

    `log_q` are log-probabilities; `p` are probabilities or, with `log_target`, log-probabilities too. Where p is 0, the
    term and its gradients are 0. `reduction` is "mean" over all elements, "sum", "none", or "batchmean": the sum
    divided by the length of the first axis, which is the divergence as mathematics defines it. ValueError where the
    shapes differ, or for another `reduction`. Kullback and Leibler, "On information and sufficiency", 1951.
    """
    return formulas.kl_div(log_q, p, reduction, log_target)


@explain_argument_errors
def nll_loss(
    log_p: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> Tensor:
    """-log_p[target], the negative log-likelihood: log-probabilities (..., C), class indices (...) -> () or (...).

    cross_entropy(x, targets) is nll_loss(log_softmax(x), targets). Options and errors as there; targets are integers.
    """
    return formulas.nll_loss(log_p, targets, ignore_index=ignore_index, reduction=reduction, weight=weight)


@with_kernels
def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    weight: ArrayLike | None = None,
) -> Tensor:
    """-log(softmax(logits)[target]): logits (..., C) -> (), or (...) with `reduction` "none".

    `targets` are class indices (...), also as a nested list, or probabilities (..., C); with probabilities p the loss
    is -sum_c p_c log(softmax(logits)_c). Where an index equals `ignore_index` there is no loss and no gradient, and it
    does not count in the mean (all ignored: nan, with gradient 0, as in torch). `label_smoothing` s mixes the target
    with the uniform distribution: (1 - s) target + s / C. `weight` (C) scales each class; the mean over indices then
    divides by the weights of the targets. `reduction` is "mean", "sum" or "none".

    ValueError where shapes or options do not fit, IndexError for a class outside 0 .. C - 1 (on a GPU values are not
    checked), TypeError for targets that are neither integers nor floats.
    """
    return formulas.cross_entropy(
        logits,
        targets,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        weight=weight,
    )


@with_kernels
def linear_cross_entropy(
    x: ArrayLike, weight: ArrayLike, targets: ArrayLike, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """cross_entropy(linear(x, weight), targets): a model's head and its loss in one.

    x (..., n_in), weight (C, n_in), targets (...) -> (), or (...) with `reduction` "none". A kernel never holds all
    logits at once, or writes their gradient over them. Options and errors as in `cross_entropy`.
    """
    return formulas.linear_cross_entropy(x, weight, targets, ignore_index=ignore_index, reduction=reduction)


def _attention_mask(x: ArrayLike, shape: tuple[int, ...], p: float, generator: Generator | None) -> Array | None:
    """The mask of attention weights that dropout keeps; None without dropout."""
    return keep_mask(x, shape, p, generator) if p else None
