"""The embeddings: which tokens are near a token, and how the positions lie to each other.

    look.nearest_tokens(model, " king")
    look.positions(model)
    look.token_map(model, "To be, or not to be")

Two vectors are compared by the cosine of the angle between them: 1 for the same direction, 0 for orthogonal ones.
"""

from array import array
from base64 import b64encode
from dataclasses import asdict, dataclass
from html import escape
from itertools import zip_longest
from typing import Any

import tensorlite as tl
from tensorlite import Tensor

from ..config import check_integer
from ..model import as_float32
from . import charts, display
from .components import principal_components
from .loaded import LoadedModel
from .vocabulary import Token, token_id

MOST_POSITIONS = 256  # rows of the heat map of similarities
MOST_CELLS = 48  # the same in a notebook, where each number is an element


@dataclass(frozen=True)
class Near:
    """A token and the cosine similarity of its vector."""

    id: int
    text: str
    cosine: float


@dataclass(frozen=True)
class NearestTokens:
    """The tokens whose vectors have the largest cosine similarity to the embedding of one token."""

    id: int
    text: str
    norm: float  # Euclidean, of the token's embedding
    mean_norm: float  # over the vocabulary
    embedding: list[Near]  # rows of the token embedding, without the token itself
    head: list[Near] | None  # rows of an untied head; None where the head is the token embedding, or not of tokens

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_html_(self) -> str:
        columns = {"token embedding": self.embedding}
        if self.head is not None:
            columns["head"] = self.head
        titles = "".join(f'<th style="text-align:left">{title}</th>' for title in columns)
        rows = ""
        for line in zip_longest(*columns.values()):  # the head has one token more, if k is the whole vocabulary
            cells = [
                f"{display.visible_text(near.text)} ({near.id}) {near.cosine:.3f}" if near else "" for near in line
            ]
            rows += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        text = escape(display.visible_text(self.text))
        title = f"Tokens nearest to {text} (id {self.id}) by cosine similarity"
        return f"<div><p>{title}</p><table><tr>{titles}</tr>{rows}</table></div>"


@dataclass(frozen=True)
class PositionMap:
    """How the embeddings of the positions lie to each other. T is the model's context."""

    stride: int  # every stride-th position is in `similarity`
    similarity: list[list[float]]  # (n, n) cosine similarities of positions 0, stride, 2 * stride, ...
    components: list[list[float]]  # (T, 2): the coordinates of each position along the first two principal axes
    explained: list[float]  # shares of the variance, from 0 to 1, of the two axes

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are, but `similarity` as base64 of float32, row by row."""
        flat = array("f", (value for row in self.similarity for value in row))
        return {**vars(self), "similarity": b64encode(flat.tobytes()).decode("ascii")}

    def _repr_html_(self) -> str:
        step = -(-len(self.similarity) // MOST_CELLS)
        rows = [row[::step] for row in self.similarity[::step]]
        names = [str(i * step * self.stride) if i % 8 == 0 else "" for i in range(len(rows))]
        title = "cosine similarity of the position embeddings"
        picture = display.heat_map(rows, names, names, title=title, largest=1.0, color=display.diverging, cell=6)
        title = f"their first two principal components ({sum(self.explained):.0%} of the variance)"
        places = [(x, y, f"position {t}", t / len(self.components)) for t, (x, y) in enumerate(self.components)]
        return f"<div>{picture}{charts.scatter(places, title=title)}</div>"


@dataclass(frozen=True)
class TokenMap:
    """The embeddings of a text's n different tokens along their first two principal axes."""

    ids: list[int]  # n, in the order of the text
    texts: list[str]  # n
    counts: list[int]  # n: how often each occurs in the text
    components: list[list[float]]  # (n, 2)
    explained: list[float]  # shares of the variance, from 0 to 1, of the two axes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_svg_(self) -> str:
        title = f"principal components of the tokens' embeddings ({sum(self.explained):.0%} of the variance)"
        texts = map(display.visible_text, self.texts)
        places = [(x, y, text, 1.0) for (x, y), text in zip(self.components, texts, strict=True)]
        return charts.scatter(places, title=title, labels=True)


def nearest_tokens(model: LoadedModel, token: Token, k: int = 10) -> NearestTokens:
    """The `k` tokens nearest to `token` (an id or a text) in the token embedding, and of an untied head.

    The rows of the head are compared with the token's embedding, too: they are the directions in which the stream must
    point for a token to be predicted. ValueError for a token that is not in the vocabulary.
    """
    check_integer("k", k, low=1)
    k, gpt, chosen = int(k), model.model, token_id(model, token)
    with tl.no_grad():
        weight = as_float32(gpt.token_embedding.weight)  # (V, C)
        norms = tl.norm(weight, axis=-1)  # (V,)
        vector = weight[chosen]
        near = nearest(model, cosines(weight, norms, vector), k, without=chosen)
        head = None
        if gpt.head is not None:
            rows = as_float32(gpt.head.weight)
            head = nearest(model, cosines(rows, tl.norm(rows, axis=-1), vector), k)
        return NearestTokens(chosen, model.text_of(chosen), norms[chosen].item(), norms.mean().item(), near, head)


def positions(model: LoadedModel) -> PositionMap:
    """The cosine similarities of the position embeddings, and their first two principal components.

    Above MOST_POSITIONS positions, every second, third, ... one is compared, so that at most so many are.
    """
    weight = as_float32(model.model.position_embedding.weight.detach())  # (T, C)
    stride = -(-len(weight) // MOST_POSITIONS)
    unit = weight[::stride] / tl.maximum(tl.norm(weight[::stride], axis=-1, keepdims=True), 1e-30)
    components, explained = principal_components(weight)
    return PositionMap(stride, (unit @ unit.T).tolist(), components.tolist(), explained)


def token_map(model: LoadedModel, text: str) -> TokenMap:
    """The first two principal components of the embeddings of the text's different tokens.

    ValueError for a text without tokens or longer than the context.
    """
    ids = model.encode(text)
    different = list(dict.fromkeys(ids))
    weight = model.model.token_embedding.weight.detach()[different]  # (n, C)
    components, explained = principal_components(as_float32(weight))
    texts, counts = [model.text_of(id) for id in different], [ids.count(id) for id in different]
    return TokenMap(different, texts, counts, components.tolist(), explained)


def cosines(rows: Tensor, norms: Tensor, vector: Tensor) -> Tensor:
    """The cosine of the angle between a vector (C,) and each of the rows (V, C), whose norms are (V,): (V,)."""
    return rows @ vector / tl.maximum(norms * tl.norm(vector), 1e-30)


def nearest(model: LoadedModel, cosine: Tensor, k: int, without: int | None = None) -> list[Near]:
    """The k tokens of the largest cosines (V,), without one token."""
    k = min(k + (without is not None), len(cosine))
    values, ids = (found.tolist() for found in tl.topk(cosine, k))
    near = [Near(id, model.text_of(id), value) for id, value in zip(ids, values, strict=True) if id != without]
    return near[: k - 1] if without is not None else near
