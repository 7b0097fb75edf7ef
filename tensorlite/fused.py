"""The names of functional.py, fast: a kernel with one raw rule, and its specification beside it.

At order 1 the kernels run; where a gradient is to be differentiated in turn, the engine differentiates the
specification; what no kernel serves (other dtypes, other devices) takes the specification too. The tests hold that
nobody can tell the difference but by the clock.
"""

from . import functional as spec
from .functional import dropout, keep_mask, log_softmax, mse_loss, relu, rms_norm, silu, softmax  # not hot
from .kernels.cpu import layers, losses, scores
from .kernels.cpu.blocks import serves
from .primitive import fused, publish

__all__ = [
    "cross_entropy", "dropout", "embedding", "gelu", "layer_norm", "linear", "linear_cross_entropy", "log_softmax",
    "mse_loss", "relu", "rms_norm", "scaled_dot_product_attention", "silu", "softmax",
]  # fmt: skip

# fmt: off
linear               = fused(layers.linear,               spec.linear,               serves=layers.serves_linear)                                            .vjp(layers.linear_vjp)
embedding            = fused(layers.embedding,            spec.embedding,            serves=serves)                                                          .vjp(layers.embedding_vjp)
layer_norm           = fused(layers.layer_norm,           spec.layer_norm,           serves=serves,                             keeps=("mean", "rstd"))      .vjp(layers.layer_norm_vjp)
gelu                 = fused(layers.gelu,                 spec.gelu,                 serves=layers.serves_gelu)                                              .vjp(layers.gelu_vjp)
attention            = fused(scores.attention,            spec.attention,            serves=serves,                             keeps=("weights",))          .vjp(scores.attention_vjp)
cross_entropy        = fused(losses.cross_entropy,        spec.cross_entropy,        serves=losses.serves_cross_entropy,        keeps=("p", "scale", "rows", "classes")).vjp(losses.cross_entropy_vjp)
linear_cross_entropy = fused(losses.linear_cross_entropy, spec.linear_cross_entropy, serves=losses.serves_linear_cross_entropy, keeps=("exps", "shares", "valid", "scale")).vjp(losses.linear_cross_entropy_vjp)
# fmt: on


def scaled_dot_product_attention(
    q, k, v, *, mask=None, is_causal=False, dropout_p=0.0, scale=None, generator=None
):  # fmt: skip
    keep = keep_mask(q, (*q.shape[:-1], k.shape[-2]), dropout_p, generator) if dropout_p else None
    return attention(q, k, v, keep, mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)


scaled_dot_product_attention.__doc__ = spec.scaled_dot_product_attention.__doc__
publish(globals())
