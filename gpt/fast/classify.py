"""Labels of texts on a CPU: each thread computes its own texts, and no more of the blocks than the labels need.

The last block computes only the position that is read. The first one, up to its attention, depends on token and
position alone: where all texts of a batch end with the same padding, it is computed for one of them.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import tensorlite as tl
from tensorlite import Tensor
from tensorlite import functional as F
from tensorlite.devices import machine

from ..attention import MultiHeadAttention, check_length
from ..model import GPT, Block, FeedForward, inference_mode
from ..tasks.classify.batches import Padding, Row
from ..tasks.classify.inference import probabilities, probabilities_in_batches
from ..tasks.classify.model import Classifier

# ----- texts over threads -----------------------------------------------------------------------------------------


def in_batches(model: Classifier, padding: Padding, batches: Sequence[Sequence[Row]]) -> list[list[float]]:
    """`probabilities_in_batches`, where each thread computes its own parts of the batches.

    A thread takes the next part as soon as it is done with one: none waits for the others before the end.
    """
    weights = sum(p.size for p in model.body.blocks.parameters())
    count = machine.threads() if model.body.device == "cpu" else 1
    parts = [part for batch in batches for part in divided(batch, count, padding, weights)]
    if len(parts) == len(batches):
        return probabilities_in_batches(model, padding, batches)
    found: list[list[list[float]]] = [[] for _ in parts]
    left = iter(range(len(parts)))

    def compute(thread: int) -> None:
        try:
            for i in left:
                found[i] = probabilities(model, padding, parts[i])
        except BaseException:
            list(left)  # the other threads find nothing left to do
            raise

    with inference_mode(model):
        machine.in_threads(compute, count)
    return [p for part in found for p in part]


def divided(batch: Sequence[Row], count: int, padding: Padding, weights: int) -> list[Sequence[Row]]:
    """A batch in at most `count` parts; whole where its products with so many weights take too little time."""
    longest = padding.length if padding.matters else max(len(row.ids) for row in batch)
    if count == 1 or not machine.splits(len(batch), machine.product_time(len(batch) * longest * weights)):
        return [batch]
    count = min(count, len(batch))
    cuts = [len(batch) * i // count for i in range(count + 1)]
    return [batch[start:stop] for start, stop in itertools.pairwise(cuts)]


# ----- one batch --------------------------------------------------------------------------------------------------


def logits(model: Classifier, idx: Tensor, lengths: Sequence[int]) -> Tensor:
    """`model(idx, lengths)` up to rounding, without dropout: token ids (B, T) -> logits (B, labels)."""
    if not supports(model):
        return model(idx, lengths)
    return model.head(features_at(model.body, idx, model.places(lengths, idx.shape[1])))


def supports(model: Classifier) -> bool:
    """Whether one position is read, on a CPU, and the model's parts are those of this package."""
    body = model.body
    if not len(body.blocks) or model.position == "mean" or body.device != "cpu":
        return False
    first, *_, last = [*body.blocks, *body.blocks]
    parts: list[tuple[Any, type]] = [(body, GPT)]
    for block in (first, last):
        parts += [(block, Block), (block.attention, MultiHeadAttention), (block.feed_forward, FeedForward)]
    return all(type(module) is kind and "forward" not in vars(module) for module, kind in parts)


def features_at(body: GPT, idx: Tensor, places: list[int]) -> Tensor:
    """`body.hidden_states(idx)` (B, T, C) at one place of each text: (B, C)."""
    T = check_length(idx.shape[1], body.config.context_length)
    x: Tensor = body.token_embedding(idx) + body.position_embedding(body.positions(idx))  # (B, T, C)
    *blocks, last = body.blocks
    for i, block in enumerate(blocks):
        x = block(x) if i else first_block(block, x, common_end(idx))
    a, at = last.attention, (list(range(len(places))), places)
    h = last.norm1(x)  # (B, T, C)
    q = a.heads(a.W_query(h[at].expand_dims(1)))  # (B, 1, C) -> (B, H, 1, D)
    k, v = a.heads(a.W_key(h)), a.heads(a.W_value(h))  # (B, H, T, D)
    seen = tl.arange(T) <= tl.tensor(places).reshape(-1, 1, 1, 1)  # (B, 1, 1, T)
    mask = seen if a.causal and min(places) < T - 1 else None
    context = F.scaled_dot_product_attention(q, k, v, mask=mask)  # (B, H, 1, D)
    x = x[at] + a.out_proj(context.reshape(len(places), -1))  # (B, H, 1, D) -> (B, C)
    x = x + last.feed_forward(last.norm2(x))
    features: Tensor = body.final_norm(x)
    return features


def common_end(idx: Tensor) -> int:
    """The position from which all texts (B, T) have the same tokens: T where the last ones differ."""
    differ = (idx != idx[:1]).any(axis=0).tolist()  # (T,)
    return max((t + 1 for t, different in enumerate(differ) if different), default=0)


def first_block(block: Any, x: Tensor, end: int) -> Tensor:
    """`block(x)` for embeddings x (B, T, C) that are the same for all texts from position `end` on."""
    a, (B, T, _) = block.attention, x.shape
    qkv = a.project(block.norm1(x[:, :end]))  # (B, end, 3 C)
    if end < T:
        same = a.project(block.norm1(x[:1, end:]))  # (1, T - end, 3 C)
        qkv = tl.concatenate([qkv, tl.broadcast_to(same, (B, *same.shape[1:]))], axis=1)  # (B, T, 3 C)
    context = F.multi_head_attention(qkv, a.num_heads, is_causal=a.causal)  # (B, T, C)
    x = x + a.out_proj(context)
    x = x + block.feed_forward(block.norm2(x))
    return x
