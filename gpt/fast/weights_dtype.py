"""The dtype of a model's weights for generation, whose time is that of reading them: half or a quarter of the bytes."""

from typing import Literal

import tensorlite as tl
from tensorlite import Tensor, nn
from tensorlite.accelerate.quantized import Kind, QuantizedEmbedding, QuantizedLinear, QuantizedMatrix

from ..model import GPT

Dtype = Literal["float32", "bfloat16", "int8"]


def set_weights_dtype(model: GPT, dtype: Dtype) -> GPT:
    """Convert the weights of a model that generates, in place; return the model.

    On a CPU bfloat16 and int8 are quantized matrices (`quantize`); on a GPU all weights become bfloat16. ValueError for
    int8 on a GPU; errors as for `quantize`.
    """
    if dtype == "float32":
        return model
    if model.device == "cpu":
        return quantize(model, dtype)
    if dtype != "bfloat16":
        raise ValueError(
            f"dtype {dtype} is for a CPU, and the model is on {model.device}: use bfloat16 or --device cpu"
        )
    return model.to(tl.bfloat16)


def quantize(model: GPT, kind: Kind) -> GPT:
    """Replace the matrices of a model on the CPU by quantized ones, in place; return the model.

    Norms, biases and position embeddings stay float32. The model computes logits as before, and cannot be trained or
    saved any more: its matrices are no Parameters. ValueError for a model that is not float32 on the CPU, and where
    numba is missing.
    """
    for module in list(model.modules()):
        for name, layer in list(module.children()):
            if type(layer) is nn.Linear:
                setattr(module, name, QuantizedLinear(QuantizedMatrix(layer.weight.data, kind), layer.bias))
    table = QuantizedMatrix(model.token_embedding.weight.data, kind)
    replaced: dict[str, nn.Module] = {"token_embedding": QuantizedEmbedding(table)}
    if model.head is None:  # tied: the same matrix
        replaced["head"] = QuantizedLinear(table)
    for name, layer in replaced.items():
        setattr(model, name, layer)
    return model


def weight_bytes(model: nn.Module) -> int:
    """The bytes of a model's weights, quantized ones included."""
    held = {id(x): x for module in model.modules() for x in vars(module).values()}  # shared ones count once
    arrays = (x.data if isinstance(x, Tensor) else x for x in held.values() if isinstance(x, Tensor | QuantizedMatrix))
    return sum(x.nbytes for x in arrays)
