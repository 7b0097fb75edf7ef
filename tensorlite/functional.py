"""The names of formulas.py, fast: a kernel with one raw rule, and its specification beside it.

At order 1 the kernels run; where a gradient is to be differentiated in turn, the engine differentiates the
specification; what no kernel supports (other dtypes, other devices) takes the specification too. The tests hold that
nobody can tell the difference but by the clock.

A device is a row: what the CPU's kernel does not serve goes on to the GPU's, and from there to the specification.
"""

import importlib
from numbers import Real

from . import formulas as spec
from . import ops
from .autograd import Variable
from .backend import xp
from .errors.suggestions import explain
from .formulas import check_attention, check_heads, log_softmax, mse_loss, relu, rms_norm, silu, softmax  # not hot
from .kernels import cpu, cuda
from .primitive import fused, publish
from .random import stream

for _name in ("attention", "decode", "embedding", "layers", "losses", "philox"):  # until kernels/table.py loads them lazily
    importlib.import_module(f".kernels.cuda.{_name}", __package__)

__all__ = [
    "add", "argmax", "cross_entropy", "dropout", "embedding", "gelu", "layer_norm", "linear", "linear_cross_entropy", "log_softmax",
    "mse_loss", "multi_head_attention", "projections", "relu", "rms_norm", "scaled_dot_product_attention", "silu", "softmax",
]  # fmt: skip

# ----- GPU: what no kernel supports takes the specification ---------------------------------------------------------
# fmt: off
_linear              = fused(cuda.layers.linear,                spec.linear,                supports=cuda.layers.supports_linear, keeps=("rows", "matrix"))                            .vjp(cuda.layers.linear_vjp)
_projections         = fused(cuda.layers.projections,           spec.projections,           supports=cuda.layers.supports_projections, keeps=("rows", "matrix"))                       .vjp(cuda.layers.projections_vjp)
_embedding           = fused(cuda.embedding.embedding,          spec.embedding,             supports=cuda.embedding.supports_embedding)                                                .vjp(cuda.embedding.embedding_vjp)
_layer_norm          = fused(cuda.layers.layer_norm,            spec.layer_norm,            supports=cuda.layers.supports_layer_norm, keeps=("mean", "rstd"))                          .vjp(cuda.layers.layer_norm_vjp)
_gelu                = fused(cuda.layers.gelu,                  spec.gelu,                  supports=cuda.layers.supports_gelu)                                                        .vjp(cuda.layers.gelu_vjp)
_apply_dropout_mask             = fused(cuda.philox.apply_dropout_mask,               spec.apply_dropout_mask,               supports=cuda.philox.supports_apply_dropout_mask)                                                     .vjp(cuda.philox.apply_dropout_mask_vjp)
_attention           = fused(cuda.attention.attention,             spec.attention,             supports=cuda.attention.supports_attention, keeps=("weights", "used", "stats"))               .vjp(cuda.attention.attention_vjp)
_heads_attention     = fused(cuda.attention.heads_attention,       spec.heads_attention,       supports=cuda.attention.supports_heads, keeps=("weights", "used", "stats"))                   .vjp(cuda.attention.heads_attention_vjp)
_cross_entropy       = fused(cuda.losses.cross_entropy,         spec.cross_entropy,         supports=cuda.losses.supports_cross_entropy, keeps=("classes", "tops", "totals", "count")) .vjp(cuda.losses.cross_entropy_vjp)
_linear_cross_entropy= fused(cuda.losses.linear_cross_entropy,  spec.linear_cross_entropy,  supports=cuda.losses.supports_linear_cross_entropy, keeps=("dlogits", "features", "head")) .vjp(cuda.losses.linear_cross_entropy_vjp)
add                  = fused(cuda.layers.add,                   ops.add,                    supports=cuda.layers.supports_add)                                                         .vjp(cuda.layers.add_vjp)
# fmt: on
# ----- CPU: what no kernel supports goes on to the line above that has its name --------------------------------------
# fmt: off
linear               = fused(cpu.layers.linear,                _linear,                    supports=cpu.layers.supports_linear)                                                           .vjp(cpu.layers.linear_vjp)
projections          = fused(cpu.layers.projections,           _projections,               supports=cpu.layers.supports_projections)                                                      .vjp(cpu.layers.projections_vjp)
embedding            = fused(cpu.layers.embedding,             _embedding,                 supports=cpu.blocks.supports)                                                                  .vjp(cpu.layers.embedding_vjp)
layer_norm           = fused(cpu.layers.layer_norm,            _layer_norm,                supports=cpu.blocks.supports, keeps=("mean", "rstd"), recompute=True)                              .vjp(cpu.layers.layer_norm_vjp)
gelu                 = fused(cpu.layers.gelu,                  _gelu,                      supports=cpu.layers.supports_gelu, recompute=True)                                                 .vjp(cpu.layers.gelu_vjp)
apply_dropout_mask              = fused(cpu.layers.apply_dropout_mask,               _apply_dropout_mask,                 supports=cpu.blocks.supports)                                                                  .vjp(cpu.layers.apply_dropout_mask_vjp)
attention            = fused(cpu.attention.attention,             _attention,                 supports=cpu.attention.supports_attention, keeps=("weights",))                                    .vjp(cpu.attention.attention_vjp)
heads_attention      = fused(cpu.attention.heads_attention,       _heads_attention,           supports=cpu.attention.supports_heads, keeps=("weights",))                                        .vjp(cpu.attention.heads_attention_vjp)
cross_entropy        = fused(cpu.losses.cross_entropy,         _cross_entropy,             supports=cpu.losses.supports_cross_entropy, keeps=("p", "scale", "rows", "classes"))           .vjp(cpu.losses.cross_entropy_vjp)
linear_cross_entropy = fused(cpu.losses.linear_cross_entropy,  _linear_cross_entropy,      supports=cpu.losses.supports_linear_cross_entropy, keeps=("exps", "shares", "valid", "scale")) .vjp(cpu.losses.linear_cross_entropy_vjp)
# fmt: on


def dropout(x, p=0.5, training=True, generator=None):
    if not training or (type(p) is not float and not isinstance(p, Real)) or not 0 < p <= 1:
        return spec.dropout(x, p, training)
    return apply_dropout_mask(x, keep_mask(x, x.shape, p, generator), p=p)


def keep_mask(x, shape, p, generator):
    """The specification's; on a GPU from the generator's counter-based stream, where the values are needed."""
    raw = x.data if isinstance(x, Variable) else x
    if not cuda.launch.on_gpu(raw):
        return spec.keep_mask(x, shape, p, generator)
    return cuda.philox.keep_mask(stream(generator).far(xp(raw)), p, shape)


def scaled_dot_product_attention(
    q, k, v, *, mask=None, is_causal=False, dropout_p=0.0, scale=None, generator=None
):  # fmt: skip
    check_attention(q, k, v)
    keep = keep_mask(q, (*q.shape[:-1], k.shape[-2]), dropout_p, generator) if dropout_p else None
    return attention(q, k, v, keep, mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)


def multi_head_attention(qkv, n_head, *, is_causal=False, dropout_p=0.0, generator=None):
    check_heads(qkv, n_head)
    keep = keep_mask(qkv, (len(qkv), n_head, *[qkv.shape[1]] * 2), dropout_p, generator) if dropout_p else None
    return heads_attention(qkv, keep, n_head=n_head, is_causal=is_causal, dropout_p=dropout_p)


def argmax(x):
    """Where the largest of each row is, (..., C) -> (...): the first of equals, nan before all; a row is not empty."""
    raw = x.data if isinstance(x, Variable) else x
    if not cuda.decode.supports_argmax(raw):
        return ops.argmax(x, axis=-1)
    found = cuda.decode.argmax(raw)
    return Variable.result(found) if isinstance(x, Variable) else found


dropout.__doc__ = spec.dropout.__doc__
multi_head_attention.__doc__ = spec.multi_head_attention.__doc__
scaled_dot_product_attention.__doc__ = spec.scaled_dot_product_attention.__doc__
publish(globals())
explain(globals(), __all__)
