"""The residual stream: what each part of the model adds to it, in size and in effect on one logit.

    found = look.residual_stream(model, "To be, or not to be", position=-1)
    found.attribution.effects  # the parts of the logit of the most probable next token; their sum is the logit

The stream at a position is a sum: the token's embedding, the position's embedding, and what attention and the
feed-forward network of each block add. The last LayerNorm divides the centred sum by one number, its standard
deviation s. With s kept as it is, the logit of token v is linear in the parts (direct logit attribution; Elhage et al.,
"A mathematical framework for transformer circuits", 2021):

    logit_v = sum over parts of ((part - mean(part)) / s * w) . W_v  +  b . W_v

w and b are the norm's weight and bias, W_v is the head's row of v. Layers and heads are counted from 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import tensorlite as tl
from tensorlite import Tensor
from tensorlite import functional as F

from ..model import GPT, Block, as_float32, inference_mode
from . import charts, display
from .forward_trace import BlockTrace, Trace, trace
from .lens import check_position, probability_and_rank
from .loaded import LoadedModel
from .vocabulary import Token, token_id

CANDIDATES = 5  # of the most probable next tokens


@dataclass(frozen=True)
class Sizes:
    """Euclidean norms at T positions of one part and of the stream that it adds to."""

    name: str  # "token embedding", "position embedding", "attention 0", "feed-forward 0", ...
    added: list[float]  # of the vector that the part adds
    before: list[float]  # of the stream before; 0 for the token embedding
    after: list[float]  # of the stream after


@dataclass(frozen=True)
class Effect:
    """What one part contributes to a logit."""

    name: str
    logit: float  # to the logit of the chosen token
    mean: float  # to the mean of all logits of the vocabulary
    parts: tuple["Effect", ...] = ()  # of attention: each head, and the bias of the output projection

    @property
    def relative(self) -> float:
        """To the logit minus the mean logit. Softmax ignores what is added to all logits alike."""
        return self.logit - self.mean


@dataclass(frozen=True)
class Attribution:
    """The logit of one token at one position as a sum of effects. The last effect is that of the last norm's bias."""

    position: int
    token: int
    text: str  # of the token
    probability: float  # of the token as the next one
    rank: int  # 1: the most probable
    logit: float  # as the model computes it: the sum of `effects[i].logit`, except for rounding
    mean_logit: float  # of the vocabulary: the sum of `effects[i].mean`
    effects: list[Effect]
    candidates: list[tuple[int, str, float]]  # the most probable next tokens: id, text, probability


@dataclass(frozen=True)
class ResidualStream:
    """What the parts of the model add to the residual stream, for a text of T tokens."""

    ids: list[int]  # T
    texts: list[str]  # T
    sizes: list[Sizes]  # in the order of computation: two embeddings, then attention and feed-forward of each block
    attribution: Attribution | None  # None for a classifier, which has no logits of tokens

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_html_(self) -> str:
        layers = self.sizes[2:]  # without the embeddings
        rows = [
            [added / before if before else None for added, before in zip(size.added, size.before, strict=True)]
            for size in layers
        ]
        names = [size.name.replace(" ", "\u00a0") for size in layers]  # no token, whose spaces are shown as dots
        title = "norm of what each part adds / norm of the stream before it"
        parts = [display.heat_map(rows, names, self.texts, title=title)]
        if self.attribution is not None:
            found = self.attribution
            title = (
                f"logit of {display.visible_text(found.text)!r} minus the mean logit, at position {found.position}: "
                f"{found.logit - found.mean_logit:.3g}"
            )
            effects = {effect.name: effect.relative for effect in found.effects}
            parts.append(charts.waterfall(effects, title=title))
        return f"<div>{''.join(parts)}</div>"


def residual_stream(model: LoadedModel, text: str, position: int = -1, token: Token | None = None) -> ResidualStream:
    """What each part adds, and how much it contributes to the logit of `token` (an id or a text) after `position`.

    A negative position counts from the end; without a token it is the most probable next one. A classifier's text is
    read without padding, and has sizes only. ValueError for a text without tokens or longer than the context, a
    position outside it, or a token that is not in the vocabulary.
    """
    gpt, ids = model.model, model.encode(text)
    at = check_position(position, len(ids))
    with inference_mode(gpt):
        traced = trace(gpt, ids, head=False)
        parts = embedding_parts(gpt, ids)
        for i, block in enumerate(traced.blocks):
            parts |= {f"attention {i}": block.attention, f"feed-forward {i}": block.feed_forward}
        sizes = sizes_of(parts, traced)
        found = None
        if model.classifier is None:
            found = attribution(model, traced, {name: part[0, at] for name, part in parts.items()}, at, token)
    return ResidualStream(ids, [model.text_of(id) for id in ids], sizes, found)


def embedding_parts(gpt: GPT, ids: Sequence[int]) -> dict[str, Tensor]:
    """The two summands of the stream before the first block, (1, T, C) each."""
    idx = tl.tensor([list(ids)], device=gpt.device)
    position = gpt.position_embedding(gpt.positions(idx)).expand_dims(0)
    return {"token embedding": gpt.token_embedding(idx), "position embedding": position}


def sizes_of(parts: dict[str, Tensor], traced: Trace) -> list[Sizes]:
    """The norms of the parts (1, T, C) and of the stream after each."""
    streams = [parts["token embedding"], traced.embedding]
    for block in traced.blocks:
        streams += [block.middle, block.out]
    norms: list[list[float]] = [tl.norm(as_float32(x)[0], axis=-1).tolist() for x in streams]
    before = [[0.0] * len(norms[0]), *norms]
    added = (tl.norm(as_float32(part)[0], axis=-1).tolist() for part in parts.values())
    return [Sizes(*values) for values in zip(parts, added, before, norms, strict=False)]


# ----- direct logit attribution -----------------------------------------------------------------------------------


def attribution(
    model: LoadedModel, traced: Trace, parts: dict[str, Tensor], at: int, token: Token | None
) -> Attribution:
    """The effects of the parts, (C,) each, on a token's logit at position `at`."""
    gpt = model.model
    assert traced.final is not None
    logits = as_float32(gpt.logits(traced.final[:, at]))  # (1, V)
    _, best = tl.topk(logits, min(CANDIDATES, logits.shape[-1]))
    candidates: list[int] = best[0].tolist()
    chosen = candidates[0] if token is None else token_id(model, token)
    asked = tl.tensor([[chosen, *candidates]], device=logits.device)  # (1, 1 + CANDIDATES)
    p, rank = probability_and_rank(logits, logits.logsumexp(axis=-1, keepdims=True), asked)
    probabilities: list[float] = p[0].tolist()
    return Attribution(
        position=at,
        token=chosen,
        text=model.text_of(chosen),
        probability=probabilities[0],
        rank=int(rank[0, 0].item()),
        logit=logits[0, chosen].item(),
        mean_logit=logits.mean().item(),
        effects=effects_of(gpt, traced, parts, at, chosen),
        candidates=[(id, model.text_of(id), share) for id, share in zip(candidates, probabilities[1:], strict=True)],
    )


def effects_of(gpt: GPT, traced: Trace, parts: dict[str, Tensor], at: int, token: int) -> list[Effect]:
    """The effect of each part (C,), of the heads of each block's attention, and of the last norm's bias."""
    vectors, heads = dict(parts), {}
    for i, (block, found, x) in enumerate(zip(gpt.blocks, traced.blocks, traced.stream, strict=False)):
        assert isinstance(block, Block)
        heads[f"attention {i}"] = head_parts(block, found, x, at)
        vectors |= {f"attention {i}, {name}": vector for name, vector in heads[f"attention {i}"].items()}
    weight = gpt.token_embedding.weight if gpt.head is None else gpt.head.weight  # (V, C)
    rows = tl.stack([weight[token], weight.mean(axis=0)])  # (2, C): for the logit, and for the mean logit
    norm, x = gpt.final_norm, traced.stream[-1][0, at]
    scale = tl.rsqrt(tl.square(x - x.mean()).mean() + norm.eps)
    stacked = tl.stack(list(vectors.values()))  # (n, C)
    projected = F.linear((stacked - stacked.mean(axis=-1, keepdims=True)) * (scale * norm.weight), rows)  # (n, 2)
    values: dict[str, tuple[float, float]] = dict(zip(vectors, map(tuple, projected.tolist()), strict=True))
    effects = []
    for name in parts:
        details = [Effect(detail, *values[f"{name}, {detail}"]) for detail in heads.get(name, ())]
        effects.append(Effect(name, *values[name], parts=tuple(details)))
    bias, bias_mean = F.linear(norm.bias, rows).tolist()
    return [*effects, Effect("final norm's bias", bias, bias_mean)]


def head_parts(block: Block, found: BlockTrace, x: Tensor, at: int) -> dict[str, Tensor]:
    """What each head of a block adds at position `at`, (C,) each, and the output projection's bias.

    x (1, T, C) is the stream before the block. Head h adds the product of its context with its columns of W_out.
    """
    attention = block.attention
    H = attention.num_heads
    values = attention.heads(attention.W_value(block.norm1(x)))[0]  # (H, T, D)
    contexts = found.weights[0, :, at : at + 1] @ values  # (H, 1, T) @ (H, T, D) -> (H, 1, D)
    alone = tl.eye(H, dtype=contexts.dtype, device=contexts.device).expand_dims(-1) * contexts  # (H, H, D)
    added = F.linear(alone.reshape(H, -1), attention.out_proj.weight)  # (H, H D) -> (H, C)
    parts = {f"head {h}": added[h] for h in range(H)}
    return parts if attention.out_proj.bias is None else parts | {"bias": attention.out_proj.bias}
