"""Generation on a CPU: the step of one token for each text, computed on arrays.

For one token a model computes so little that much of its time is that of calling modules and ops. So a step calls the
kernels itself. They are those that GPT.hidden_states and its blocks call, in the same order: the scores have the same
bits.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tensorlite import Tensor, nn
from tensorlite.accelerate.quantized import QuantizedEmbedding, QuantizedLinear
from tensorlite.backend import Array, xp
from tensorlite.devices.memory import concatenated
from tensorlite.formulas import join_heads, split_heads
from tensorlite.kernels.cpu import attention, layers

from ..attention import MultiHeadAttention
from ..generation import Decoder
from ..model import GPT, Block, FeedForward

Function = Callable[[Array], Array]
OWN = (
    GPT, Block, MultiHeadAttention, FeedForward, nn.ModuleList, nn.Dropout, nn.LayerNorm, nn.Embedding, nn.Linear,
    QuantizedEmbedding, QuantizedLinear,
)  # fmt: skip


class CPUDecoder(Decoder):
    """A Decoder whose steps of one token are computed on arrays, where `is_plain` says that this is the same."""

    def __init__(self, model: GPT, batch_size: int, positions: int):
        super().__init__(model, batch_size, positions)
        self.parameters = list(model.parameters())
        self.read_weights()

    def read_weights(self) -> None:
        """Make the functions of a step from the model's arrays."""
        self.arrays = [p.data for p in self.parameters]
        self.blocks = [functions_of(block) for block in blocks_of(self.model)]
        self.final_norm, self.head = norm(self.model.final_norm), head_of(self.model)

    def logits(self, texts: Sequence[list[int]]) -> Tensor:
        if not self.reads_one(texts):
            return super().logits(texts)
        if not all(p.data is array for p, array in zip(self.parameters, self.arrays, strict=True)):
            self.read_weights()  # others were loaded
        return Tensor(self.step([text[-1] for text in texts], len(texts[0]) - 1))

    def reads_one(self, texts: Sequence[list[int]]) -> bool:
        """Whether the cache has read all but the last token of each text, and all texts are equally long."""
        assert self.cache is not None
        length = len(texts[0])
        same = all(len(text) == length for text in texts) and length <= self.model.config.context_length
        return same and self.cache[0].lengths == [length - 1] * len(texts) and length > 1

    def step(self, tokens: list[int], position: int) -> Array:
        """The scores (B, V) after one token for each of B texts, at that position."""
        assert self.cache is not None
        model, B = self.model, len(tokens)
        x = rows_of(model.token_embedding, tokens) + model.position_embedding.weight.data[position]  # (B, C)
        x = x.reshape(B, 1, -1)  # (B, C) -> (B, 1, C)
        for (norm1, project, out, norm2, expand, contract), cache in zip(self.blocks, self.cache, strict=True):
            cache.lengths = [position] * B
            q, k, v = split_heads(project(norm1(x)), model.config.n_head)  # (B, H, 1, D) each
            context, _ = attention.attention(q, *cache.append(k, v))  # (B, H, 1, D)
            x = x + out(join_heads(context))  # (B, 1, C)
            x = x + contract(layers.gelu(expand(norm2(x))))  # (B, 1, C)
        scores: Array = self.head(self.final_norm(x)[:, -1])  # (B, C) -> (B, V)
        return scores


# ----- the model's parts as functions of arrays ---------------------------------------------------------------------


def is_plain(model: GPT) -> bool:
    """Whether a step on arrays computes what the model's modules do: they are those of this package, in float32."""
    norms = [model.final_norm, *[x for block in blocks_of(model) for x in (block.norm1, block.norm2)]]
    return (
        all(type(module) in OWN and "forward" not in vars(module) for module in model.modules())
        and all(type(x) is nn.LayerNorm for x in norms)
        and all(p.dtype.name == "float32" for p in model.parameters())
    )


def blocks_of(model: GPT) -> list[Any]:
    """The model's blocks, each a Block."""
    return list(model.blocks)


def functions_of(block: Block) -> tuple[Function, ...]:
    """The six steps of a block that have weights."""
    a, network = block.attention, block.feed_forward
    return (
        norm(block.norm1), projection(a.W_query, a.W_key, a.W_value), linear(a.out_proj),
        norm(block.norm2), linear(network.expand), linear(network.contract),
    )  # fmt: skip


def norm(layer: nn.LayerNorm) -> Function:
    weight, bias = array_of(layer.weight), array_of(layer.bias)
    return lambda x: layers.layer_norm(x, weight, bias, eps=layer.eps)[0]


def linear(layer: nn.Linear | QuantizedLinear) -> Function:
    if isinstance(layer, QuantizedLinear):
        return partial(layer.matrix.linear, bias=array_of(layer.bias))
    return partial(layers.linear, weight=layer.weight.data, bias=array_of(layer.bias))


def projection(*parts: nn.Linear | QuantizedLinear) -> Function:
    """Queries, keys and values side by side: one product, or those of three quantized matrices."""
    if any(isinstance(part, QuantizedLinear) for part in parts):
        each = [linear(part) for part in parts]
        return lambda x: xp(x).concatenate([function(x) for function in each], axis=-1)
    biases = [part.bias.data for part in parts if part.bias is not None]
    weight, bias = concatenated(*[part.weight.data for part in parts]), concatenated(*biases) if biases else None
    return partial(layers.linear, weight=weight, bias=bias)


def head_of(model: GPT) -> Function:
    if model.head is not None:
        return linear(model.head)
    return partial(layers.linear, weight=model.token_embedding.weight.data)


def rows_of(table: nn.Embedding | QuantizedEmbedding, tokens: list[int]) -> Array:
    """The embeddings of tokens: (B, C)."""
    return table.matrix.rows(tokens) if isinstance(table, QuantizedEmbedding) else table.weight.data[tokens]


def array_of(x: Tensor | None) -> Array | None:
    return None if x is None else x.data
