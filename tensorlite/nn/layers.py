"""Layers: each `forward` is one formula of `tensorlite.functional`.

Shapes: `...` is any number of axes, none too. Layers compute in the dtype of their Parameters, float32 unless `to` has
converted them.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from .. import functional as F
from .. import ops
from ..backend import float32, integers, to_device
from ..creation import ones, zeros
from ..errors.checks import checked_axis
from ..grad_mode import setting
from ..random import Generator, default_generator
from ..tensor import Tensor
from ..typing import ArrayLike
from .module import Module, Parameter, check_bool

# ----- initialization ---------------------------------------------------------------------------------------------

_init_is_skipped: ContextVar[bool] = ContextVar("init_is_skipped", default=False)


def skip_init() -> AbstractContextManager[None]:
    """`with skip_init():` layers start with zeros and draw no random numbers: for a model whose weights are loaded."""
    return setting(_init_is_skipped, True)


def _random_parameter(draw: Callable[[tuple[int, ...]], np.ndarray], shape: tuple[int, ...]) -> Parameter:
    """A Parameter of the values `draw(shape)`, on the default device."""
    if not _init_is_skipped.get():
        return Parameter(to_device(draw(shape), None))
    parameter = Parameter(to_device(np.zeros(0, float32), None))
    parameter.data = to_device(np.zeros(shape, float32), None)  # not copied: memory of zeros is only reserved
    return parameter


def _generator(layer: str, generator: Generator | None) -> Generator:
    """The generator that a layer draws from: its own, or the default one."""
    if not isinstance(generator, Generator | None):
        raise TypeError(f"{layer}: generator must be a tl.Generator, not {generator!r:.80}")
    return default_generator if generator is None else generator


def _check_sizes(layer: Module, **sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{type(layer).__name__}: {name} must be a positive integer, not {size!r}")


def _check_eps(layer: Module, eps: float) -> None:
    if not isinstance(eps, Real) or isinstance(eps, bool) or not 0 <= eps < math.inf:
        raise ValueError(f"{type(layer).__name__}: eps must be a number of at least 0, not {eps!r:.80}")


def as_indices(values: Any, device: str, name: str = "indices") -> Tensor:
    """Token ids or class indices as a Tensor: a Tensor as it is; a NumPy array or a nested list as int64 on `device`.

    TypeError for what is not of integers, ValueError for rows of different lengths; both call the values `name`.
    """
    if isinstance(values, Tensor):
        return values
    return Tensor(to_device(integers(name, values), device))


# ----- layers with parameters -------------------------------------------------------------------------------------


class Linear(Module):
    """x W^T + b: (..., in_features) -> (..., out_features).

    `weight` W (out_features, in_features) and `bias` b (out_features), None with bias=False. Both start uniform in
    +-1/sqrt(in_features), W drawn first (PyTorch's default).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, generator: Generator | None = None):
        _check_sizes(self, in_features=in_features, out_features=out_features)
        check_bool("Linear", "bias", bias)
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        draw = partial(_generator("Linear", generator).uniform, -bound, bound)
        self.weight = _random_parameter(draw, (out_features, in_features))
        self.bias = _random_parameter(draw, (out_features,)) if bias else None

    def forward(self, x: ArrayLike) -> Tensor:
        """x W^T + b. ValueError where the last axis of x is not in_features long."""
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A row of `weight` (num_embeddings, embedding_dim) per integer: (...) -> (..., embedding_dim). Starts as N(0, 1).

    The integers are a Tensor, a NumPy array or a nested list. Those outside 0 .. num_embeddings - 1 raise IndexError.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, generator: Generator | None = None):
        _check_sizes(self, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = _random_parameter(_generator("Embedding", generator).randn, (num_embeddings, embedding_dim))

    def forward(self, idx: Any) -> Tensor:
        """The rows weight[idx]: integers (...) -> (..., embedding_dim)."""
        return F.embedding(self.weight, as_indices(idx, self.weight.device))


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis, of length `dim`; var is the biased variance.

    Ba, Kiros and Hinton, "Layer normalization", 2016. `weight` starts as ones, `bias` as zeros (None with bias=False).
    Without `elementwise_affine` there is neither.
    """

    def __init__(self, dim: int, eps: float = 1e-5, *, elementwise_affine: bool = True, bias: bool = True):
        _check_sizes(self, dim=dim)
        _check_eps(self, eps)
        self.dim, self.eps = dim, eps
        check_bool("LayerNorm", "bias", bias)
        check_bool("LayerNorm", "elementwise_affine", elementwise_affine)
        self.weight = Parameter(ones(dim)) if elementwise_affine else None
        self.bias = Parameter(zeros(dim)) if bias and elementwise_affine else None

    def forward(self, x: ArrayLike) -> Tensor:
        """The formula above: (..., dim) -> (..., dim)."""
        return F.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """x / sqrt(mean(x**2) + eps) * weight over the last axis, of length `dim`. `weight` starts as ones.

    Without `elementwise_affine` there is no weight. Zhang and Sennrich, "Root mean square layer normalization", 2019.
    """

    def __init__(self, dim: int, eps: float = 1e-5, *, elementwise_affine: bool = True):
        _check_sizes(self, dim=dim)
        _check_eps(self, eps)
        check_bool("RMSNorm", "elementwise_affine", elementwise_affine)
        self.dim, self.eps = dim, eps
        self.weight = Parameter(ones(dim)) if elementwise_affine else None

    def forward(self, x: ArrayLike) -> Tensor:
        """The formula above: (..., dim) -> (..., dim)."""
        return F.rms_norm(x, self.weight, eps=self.eps)


# ----- layers without parameters ----------------------------------------------------------------------------------


class Dropout(Module):
    """In training, each element is 0 with probability `p` and otherwise scaled by 1 / (1 - p); in evaluation, x itself.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.
    """

    def __init__(self, p: float = 0.5, generator: Generator | None = None):
        if not isinstance(p, Real) or not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be a probability between 0 and 1, not {p!r:.80}")
        _generator("Dropout", generator)
        self.p: float = p
        self.generator: Generator | None = generator

    def forward(self, x: ArrayLike) -> Tensor:
        """x * mask / (1 - p) in training, of any shape."""
        return F.dropout(x, self.p, self.training, self.generator)


class GELU(Module):
    """x Phi(x), Phi the normal distribution function: approximate "tanh" (GPT-2's) or "none" (the error function).

    Hendrycks and Gimpel, "Gaussian error linear units", 2016.
    """

    def __init__(self, approximate: str = "tanh"):
        if approximate not in ("tanh", "none"):
            raise ValueError(f"GELU: approximate must be 'tanh' or 'none', not {approximate!r}")
        self.approximate = approximate

    def forward(self, x: ArrayLike) -> Tensor:
        """x Phi(x), elementwise."""
        return F.gelu(x, approximate=self.approximate)


class ReLU(Module):
    """max(x, 0)."""

    def __init__(self) -> None:
        """No options."""

    def forward(self, x: ArrayLike) -> Tensor:
        """max(x, 0), elementwise."""
        return F.relu(x)


class SiLU(Module):
    """x sigmoid(x)."""

    def __init__(self) -> None:
        """No options."""

    def forward(self, x: ArrayLike) -> Tensor:
        """x sigmoid(x), elementwise."""
        return F.silu(x)


class Tanh(Module):
    """tanh(x)."""

    def forward(self, x: ArrayLike) -> Tensor:
        """tanh(x), elementwise."""
        return ops.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: ArrayLike) -> Tensor:
        """1 / (1 + exp(-x)), elementwise."""
        return ops.sigmoid(x)


class LeakyReLU(Module):
    """x where x > 0, otherwise negative_slope x."""

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = negative_slope

    def forward(self, x: ArrayLike) -> Tensor:
        """The formula above, elementwise."""
        return F.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """x where x > 0, otherwise alpha (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def forward(self, x: ArrayLike) -> Tensor:
        """The formula above, elementwise."""
        return F.elu(x, self.alpha)


class Softplus(Module):
    """log(1 + exp(x))."""

    def forward(self, x: ArrayLike) -> Tensor:
        """log(1 + exp(x)), elementwise."""
        return F.softplus(x)


class LogSigmoid(Module):
    """log(1 / (1 + exp(-x)))."""

    def forward(self, x: ArrayLike) -> Tensor:
        """log(sigmoid(x)), elementwise."""
        return F.logsigmoid(x)


class Softmax(Module):
    """exp(x_i) / sum_j exp(x_j) along `axis`."""

    def __init__(self, axis: int = -1):
        self.axis = axis

    def forward(self, x: ArrayLike) -> Tensor:
        """Probabilities, in the shape of x."""
        return F.softmax(x, self.axis)


class LogSoftmax(Module):
    """log(softmax(x)) along `axis`."""

    def __init__(self, axis: int = -1):
        self.axis = axis

    def forward(self, x: ArrayLike) -> Tensor:
        """Log-probabilities, in the shape of x."""
        return F.log_softmax(x, self.axis)


class Identity(Module):
    """x: a layer that computes nothing, to stand in the place of another."""

    def forward(self, x: Tensor) -> Tensor:
        """x itself."""
        return x


class Flatten(Module):
    """The axes from `start_axis` to `end_axis` as one: (B, 2, 3) -> (B, 6)."""

    def __init__(self, start_axis: int = 1, end_axis: int = -1):
        self.start_axis, self.end_axis = start_axis, end_axis

    def forward(self, x: Tensor) -> Tensor:
        """The same elements in fewer axes. IndexError for an axis that x does not have."""
        start, end = checked_axis(self.start_axis, x.ndim), checked_axis(self.end_axis, x.ndim)
        if start > end:
            raise ValueError(f"Flatten: start_axis {self.start_axis} is after end_axis {self.end_axis} for {x.shape}")
        return x.reshape((*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))
