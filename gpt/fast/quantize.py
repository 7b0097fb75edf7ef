"""A model with quantized weights, for generation on a CPU: half (bfloat16) or a quarter (int8) of the bytes to read."""

from tensorlite import nn
from tensorlite.accelerate.quantized import Kind, QuantizedEmbedding, QuantizedLinear, QuantizedMatrix

from ..model import GPT


def quantize(model: GPT, kind: Kind) -> GPT:
    """Replace the matrices of a model on the CPU by quantized ones, in place; return the model.

    Norms and position embeddings stay float32. The model cannot be trained, saved or read part by part any more.
    ValueError for a model on a GPU, in another dtype or with LoRA adapters, and where numba is missing.
    """
    if model.device != "cpu":
        raise ValueError("quantized weights are for the CPU: omit quantize, or choose the device cpu")
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
    matrices = {id(m): m for module in model.modules() if (m := vars(module).get("matrix")) is not None}
    return sum(p.data.nbytes for p in model.parameters()) + sum(m.nbytes for m in matrices.values())
