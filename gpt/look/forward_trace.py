"""The forward pass of a GPT with everything on the way kept: attention weights and the residual stream.

It computes what `GPT.forward` computes, one block after another, in evaluation mode. Where gradients are recorded,
every Tensor here is part of the graph: `tl.grad(loss, trace.stream)` gives the gradient at each layer and position.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import tensorlite as tl
from tensorlite import Tensor

from ..model import GPT


@dataclass
class BlockTrace:
    """What one block computed for T positions, C channels and H heads. The first axis, of length 1, is the batch."""

    weights: Tensor  # (1, H, T, T): how much position t (row) reads from each position (column)
    attention: Tensor  # (1, T, C): what attention adds to the residual stream
    middle: Tensor  # (1, T, C): the residual stream between attention and the feed-forward network
    feed_forward: Tensor  # (1, T, C): what the feed-forward network adds
    out: Tensor  # (1, T, C): the residual stream after the block


@dataclass
class Trace:
    """A forward pass over T tokens."""

    ids: list[int]
    embedding: Tensor  # (1, T, C): token plus position, where the residual stream begins
    blocks: list[BlockTrace] = field(default_factory=list)
    final: Tensor | None = None  # (1, T, C): the stream after the last block, normalized
    logits: Tensor | None = None  # (1, T, V)

    @property
    def stream(self) -> list[Tensor]:
        """The residual stream before the first block and after each: n_layer + 1 Tensors (1, T, C)."""
        return [self.embedding, *(block.out for block in self.blocks)]


def trace(model: GPT, ids: Sequence[int], *, shortcuts: bool = True, norms: bool = True, head: bool = True) -> Trace:
    """Run the model on one text and keep what it computes on the way.

    Without `shortcuts`, a block's parts replace the residual stream instead of adding to it; without `norms`, the
    LayerNorms of the blocks and the last one are left out: a model that was trained with them then computes nonsense,
    but its gradients show what they are good for. Without `head` there are no logits: a classifier has none.
    ValueError where there is no token or more than the context.
    """
    idx = tl.tensor([list(ids)], device=model.device)  # (1, T)
    x = model.token_embedding(idx) + model.position_embedding(model.positions(idx))  # (1, T, C)
    found = Trace(list(ids), x)
    for block in model.blocks:
        read = block.norm1(x) if norms else x
        weights, attention = block.attention.weights(read), block.attention(read)
        middle = x + attention if shortcuts else attention
        feed_forward = block.feed_forward(block.norm2(middle) if norms else middle)
        x = middle + feed_forward if shortcuts else feed_forward
        found.blocks.append(BlockTrace(weights, attention, middle, feed_forward, x))
    found.final = model.final_norm(x) if norms else x
    found.logits = model.logits(found.final) if head else None
    return found
