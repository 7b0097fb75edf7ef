"""Labels of texts on a CPU: the last block computes only the position that is read, and each thread its own texts."""

from collections.abc import Sequence

import tensorlite as tl
from tensorlite import Tensor
from tensorlite import functional as F
from tensorlite.devices import machine

from ..attention import MultiHeadAttention, check_length
from ..model import GPT, Block, FeedForward
from ..tasks.classify.model import Classifier


def logits(model: Classifier, idx: Tensor, lengths: Sequence[int]) -> Tensor:
    """`model(idx, lengths)` up to rounding, without dropout: token ids (B, T) -> logits (B, labels)."""
    if not supports(model):
        return model(idx, lengths)
    B, T = idx.shape
    places = model.places(lengths, T)
    nanoseconds = machine.product_time(B * T * sum(p.size for p in model.body.blocks.parameters()))
    count = machine.threads() if machine.splits(B, nanoseconds) else 1
    cuts = [B * i // count for i in range(count + 1)]

    def part(thread: int) -> Tensor:
        rows = slice(cuts[thread], cuts[thread + 1])
        return model.head(features_at(model.body, idx[rows], places[rows]))

    return tl.concatenate(machine.in_threads(part, count))


def supports(model: Classifier) -> bool:
    """Whether one position is read, on a CPU, and the model's parts are those of this package."""
    body = model.body
    if not len(body.blocks) or model.position == "mean" or body.device != "cpu":
        return False
    *_, last = body.blocks
    parts = (body, GPT), (last, Block), (last.attention, MultiHeadAttention), (last.feed_forward, FeedForward)
    return all(type(module) is kind and "forward" not in vars(module) for module, kind in parts)


def features_at(body: GPT, idx: Tensor, places: list[int]) -> Tensor:
    """`body.hidden_states(idx)` (B, T, C) at one place of each text: (B, C)."""
    T = check_length(idx.shape[1], body.config.context_length)
    x: Tensor = body.token_embedding(idx) + body.position_embedding(body.positions(idx))  # (B, T, C)
    *blocks, last = body.blocks
    for block in blocks:
        x = block(x)
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
