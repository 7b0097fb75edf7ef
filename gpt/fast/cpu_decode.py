"""Generation on a CPU: the step of one token for each text, as one call of a compiled function.

For one token a model computes so little that much of its time is that of calling modules and ops, and of handing parts
to threads. tensorlite.kernels.cpu.decode computes what the modules of GPT do, up to rounding.
"""

from collections.abc import Sequence
from typing import Any

from tensorlite import Tensor, nn
from tensorlite.accelerate.quantized import QuantizedEmbedding, QuantizedLinear
from tensorlite.backend import Array
from tensorlite.kernels.cpu import decode
from tensorlite.kernels.cpu.decode import Layer, Matrix, Norm

from ..attention import MultiHeadAttention
from ..generation import Decoder
from ..model import GPT, Block, FeedForward

OWN = (
    GPT, Block, MultiHeadAttention, FeedForward, nn.ModuleList, nn.Dropout, nn.LayerNorm, nn.Embedding, nn.Linear,
    QuantizedEmbedding, QuantizedLinear,
)  # fmt: skip


class CPUDecoder(Decoder):
    """A Decoder whose steps of one token are compiled, where `supports` says that this computes the same."""

    def __init__(self, model: GPT, batch_size: int, positions: int):
        super().__init__(model, batch_size, positions)
        self.batch_size, self.parameters = batch_size, list(model.parameters())
        self.read_weights()

    def read_weights(self) -> None:
        """Make the step from the model's arrays; None where they are such that the modules have to compute it."""
        self.arrays = [p.data for p in self.parameters]
        self.step: decode.TokenStep | None = None
        if supports(self.model, self.batch_size):
            self.step = decode.TokenStep(*weights_of(self.model), self.model.config.n_head, self.model.final_norm.eps)

    def logits(self, texts: Sequence[list[int]]) -> Tensor:
        if not self.reads_one(texts):
            return super().logits(texts)
        if not all(p.data is array for p, array in zip(self.parameters, self.arrays, strict=True)):
            self.read_weights()  # others were loaded, or the model was moved to another dtype
        if self.step is None:
            return super().logits(texts)
        assert self.cache is not None
        positions = [len(text) - 1 for text in texts]
        x = rows_of(self.model.token_embedding, [text[-1] for text in texts])  # (B, C)
        x = x + self.model.position_embedding.weight.data[positions]
        keys, values = ([getattr(layer, name).data for layer in self.cache] for name in ("keys", "values"))
        return Tensor(self.step(x, keys, values, positions))  # (B, V)

    def reads_one(self, texts: Sequence[list[int]]) -> bool:
        """Whether a step reads one token of each text: the cache has read the rest, and has room."""
        assert self.cache is not None
        first = self.cache[0]
        longest = max(map(len, texts))
        return max(first.lengths) > 0 and longest <= min(self.model.config.context_length, first.shape[2])


def supports(model: GPT, batch_size: int) -> bool:
    """Whether CPUDecoder computes what the model's modules do, and pays: they are those of this package, in float32."""
    norms = [model.final_norm, *[x for block in blocks_of(model) for x in (block.norm1, block.norm2)]]
    return (
        batch_size <= decode.MOST_TEXTS
        and all(type(module) in OWN and "forward" not in vars(module) for module in model.modules())
        and all(type(x) is nn.LayerNorm and x.eps == norms[0].eps for x in norms)
        and all(x.weight is not None and x.bias is not None for x in norms)
        and all(p.dtype.name == "float32" for p in model.parameters())
        and decode.supports(*weights_of(model))
    )


# ----- the model's arrays -------------------------------------------------------------------------------------------


def weights_of(model: GPT) -> tuple[list[Layer], Norm, Matrix]:
    """The weights of the blocks, of the last norm and of the head."""
    head = model.head or model.token_embedding
    return [layer_of(block) for block in blocks_of(model)], norm_of(model.final_norm), matrix_of(head)


def blocks_of(model: GPT) -> list[Any]:
    """The model's blocks, each a Block."""
    return list(model.blocks)


def layer_of(block: Block) -> Layer:
    a, network = block.attention, block.feed_forward
    query, key, value, out = (matrix_of(part) for part in (a.W_query, a.W_key, a.W_value, a.out_proj))
    expand, contract = matrix_of(network.expand), matrix_of(network.contract)
    return Layer(norm_of(block.norm1), query, key, value, out, norm_of(block.norm2), expand, contract)


def matrix_of(layer: Any) -> Matrix:
    """The weights of a linear layer or an embedding, quantized or not."""
    bias = getattr(layer, "bias", None)
    weight = layer.matrix if hasattr(layer, "matrix") else layer.weight.data
    return decode.matrix(weight, None if bias is None else bias.data)


def norm_of(layer: nn.LayerNorm) -> Norm:
    assert layer.weight is not None
    assert layer.bias is not None
    return Norm(layer.weight.data, layer.bias.data)


def rows_of(table: nn.Embedding | QuantizedEmbedding, tokens: list[int]) -> Array:
    """The embeddings of tokens: (B, C)."""
    return table.matrix.rows(tokens) if isinstance(table, QuantizedEmbedding) else table.weight.data[tokens]
