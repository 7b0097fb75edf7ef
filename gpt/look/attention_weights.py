"""The attention weights of every head for one text, and what each head seems to do, measured from the weights.

    found = look.attention(model, "To be, or not to be")
    found.weights[1, 3]        # layer 1, head 3: a (T, T) Tensor, row t is what position t reads
    found.head(1, 3)           # the same as a labelled picture

Layers and heads are counted from 0, as in `model.blocks[0]`.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import tensorlite as tl
from tensorlite import Tensor

from ..model import inference_mode
from . import display
from .forward_trace import trace
from .loaded import LoadedModel

MOST_CELLS = 64  # rows of a picture in which each weight has a cell of its own
KINDS = {
    "previous": "the previous token",
    "first": "the first token",
    "itself": "the token itself",
    "same": "earlier occurrences of the same token",
    "after_same": "the token after an earlier occurrence of the same token",
}
FEWEST = 4  # positions from which a share must be measured before a head is described by it
EXCESS, RATIO = 0.1, 2  # over uniform attention, before a head is described by a share


@dataclass(frozen=True)
class HeadShares:
    """Where one head reads: shares of its weight from 0 to 1, each a mean over positions 1 to T - 1.

    Position 0 is left out: with a causal mask it can read only itself. `same` and `after_same` are means over the
    positions whose token occurred before. None where there is no such position.
    """

    layer: int
    head: int
    previous: float | None  # weight on the token one position before
    first: float | None  # weight on position 0
    itself: float | None  # weight on the position's own token
    same: float | None  # weight on all earlier occurrences of the position's token
    after_same: float | None  # weight on the tokens that follow these occurrences: high in an induction head
    distance: float | None  # mean of |t - k| under the weights of row t, in tokens
    kind: str = ""  # the name of the share that exceeds uniform attention most, if clearly; "" if none does


@dataclass(frozen=True)
class Head:
    """One head's weights for a text. A notebook shows them as a heat map with the tokens on both axes."""

    layer: int
    head: int
    texts: list[str]  # of the T tokens
    weights: Tensor  # (T, T): row t is what position t reads from each position, its sum is 1
    causal: bool
    shares: HeadShares

    def to_dict(self) -> dict[str, Any]:
        """layer, head, texts, causal, shares, and the weights as base64 of float32, row by row."""
        fields = {name: getattr(self, name) for name in ("layer", "head", "texts", "causal")}
        return {**fields, "shares": asdict(self.shares), "weights": as_base64(self.weights)}

    def _repr_svg_(self) -> str:
        T = len(self.texts)
        step = -(-T // MOST_CELLS)
        rows: list[list[float | None]] = block_maxima(self.weights, step).tolist()
        if self.causal:
            rows = [[None if j > i else value for j, value in enumerate(row)] for i, row in enumerate(rows)]
        labels = [f"{display.visible_text(self.texts[i])} {i}" for i in range(0, T, step)]
        title = f"attention weights, block {self.layer}, head {self.head}: row reads column"
        if step > 1:
            title += f"; a cell is the largest weight of {step} x {step}"
        return display.heat_map(rows, labels, labels, title=title, largest=1.0, color=scaled)


@dataclass(frozen=True)
class Attention:
    """The attention weights of L blocks with H heads each, for a text of T tokens."""

    ids: list[int]
    texts: list[str]  # of the T tokens
    weights: Tensor  # (L, H, T, T): [layer][head][query][key]; each row, over the keys, sums to 1
    causal: bool  # False: every position reads all of the text, also what follows
    shares: list[HeadShares]  # of all heads, block by block
    uniform: HeadShares  # of a head that gives every position that it may read the same weight, for comparison

    def head(self, layer: int, head: int) -> Head:
        """One head's weights, with a picture. IndexError unless 0 <= layer (a block's number) < L and 0 <= head < H."""
        L, H = self.weights.shape[:2]
        for name, value, count in (("block", layer, L), ("head", head, H)):
            if not 0 <= value < count:
                raise IndexError(f"there is no {name} {value}: the model has {count}, counted from 0")
        return Head(layer, head, self.texts, self.weights[layer, head], self.causal, self.shares[layer * H + head])

    def thumbnails(self, most: int = 64) -> tuple[int, bytes]:
        """All heads as small pictures: their side in pixels, at most `most`, and L * H * side * side bytes.

        A byte is 255 times the square root of a weight, which makes weights of 1 % visible. A text of more than `most`
        tokens is reduced: a pixel is the largest weight of a square.
        """
        step = -(-len(self.ids) // most)
        layers = [block_maxima(self.weights[layer], step) for layer in range(self.weights.shape[0])]
        shown = [(layer.sqrt() * 255).round().astype(tl.uint8).data.tobytes() for layer in layers]
        return layers[0].shape[-1], b"".join(shown)

    def to_dict(self) -> dict[str, Any]:
        """All fields; the weights as base64 of float32 in the order [layer][head][query][key], with their shape."""
        return {
            "ids": self.ids,
            "texts": self.texts,
            "causal": self.causal,
            "shape": list(self.weights.shape),
            "weights": as_base64(self.weights),
            "shares": [asdict(shares) for shares in self.shares],
            "uniform": asdict(self.uniform),
        }

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>head {head}</th>" for head in range(self.weights.shape[1]))
        note = (
            "Attention weights: a row of a picture is a token that reads, a column the token that it reads from. White "
            "is 0, the strongest blue 1; a colour's strength is the square root of the weight."
        )
        strip = display.token_strip(self.texts, [None] * len(self.texts), [f"token {i}" for i in range(len(self.ids))])
        return f"<div><p>{note}</p>{strip}<table><tr><th></th>{heads}</tr>{self._grid()}</table></div>"

    def _grid(self) -> str:
        """The pictures of all heads as rows of an HTML table."""
        L, H = self.weights.shape[:2]
        side, pixels = self.thumbnails(32)
        palette = [display.sequential(i / 255) for i in range(256)]
        area, width = side * side, max(40, min(96, 720 // H))
        rows = []
        for layer in range(L):
            cells = []
            for head in range(H):
                shares = self.shares[layer * H + head]
                cell = pixels[(layer * H + head) * area :][:area]
                picture = display.png([[palette[p] for p in cell[i : i + side]] for i in range(0, area, side)])
                note = f"block {layer}, head {head}: {described(shares, self.uniform)}"
                size = f'width="{width}" height="{width}" style="image-rendering:pixelated;border:1px solid #888"'
                cells.append(f'<td><img src="{picture}" alt="{escape(note)}" title="{escape(note)}" {size}/></td>')
            rows.append(f"<tr><th>block {layer}</th>{''.join(cells)}</tr>")
        return "".join(rows)


def attention(model: LoadedModel, text: str) -> Attention:
    """The attention weights of all blocks and heads for `text`.

    softmax(q k^T / sqrt(D)) of each head (Vaswani et al., "Attention is all you need", 2017, section 3.2.1), before
    dropout. A classifier's text is read without padding. ValueError for a text without tokens, or one that is longer
    than the model's context.
    """
    ids = model.encode(text)
    with inference_mode(model.model):
        blocks = trace(model.model, ids, head=False).blocks
        weights = tl.concatenate([block.weights for block in blocks], axis=0).to("cpu")  # (L, H, T, T)
        weights = weights if weights.dtype in (tl.float32, tl.float64) else weights.astype(tl.float32)
        causal = model.model.config.causal
        allowed = tl.ones((1, 1, len(ids), len(ids)), device="cpu")
        allowed = allowed.tril() if causal else allowed
        (uniform,) = measure(allowed / allowed.sum(axis=-1, keepdims=True), ids)
        texts = [model.text_of(id) for id in ids]
        return Attention(ids, texts, weights, causal, measure(weights, ids, uniform), uniform)


def measure(weights: Tensor, ids: Sequence[int], uniform: HeadShares | None = None) -> list[HeadShares]:
    """The shares of each head: weights (L, H, T, T) of a text with T token ids. A kind needs `uniform` to compare."""
    L, H, T, _ = weights.shape
    if T == 1:
        return [HeadShares(layer, head, None, None, None, None, None, None) for layer in range(L) for head in range(H)]
    earlier = [[k < t and ids[k] == ids[t] for k in range(T)] for t in range(T)]
    after = [[0 < k < t and row[k - 1] for k in range(T)] for t, row in enumerate(earlier)]
    places = {"same": places_in(earlier, weights.dtype), "after_same": places_in(after, weights.dtype)}
    counts = {name: len(rows) for name, (rows, _) in places.items()}
    measured = [name for name in KINDS if counts.get(name, T - 1) >= FEWEST]
    shares = []
    for layer in range(L):  # one by one: a copy of all weights of GPT-2 for a long text would take 600 MB
        found = shares_of_layer(weights[layer], places)
        for head in range(H):
            one = {name: None if values is None else values[head] for name, values in found.items()}
            kind = kind_of({name: one[name] for name in measured}, uniform) if uniform else ""
            shares.append(HeadShares(layer, head, **one, kind=kind))
    return shares


Places = tuple[list[int], Tensor]  # rows that have a chosen place; 1 at the chosen places of these rows, else 0


def places_in(where: Sequence[Sequence[bool]], dtype: Any) -> Places:
    """The rows of `where` (T, T) that have a true place, and these rows as numbers (rows, T)."""
    rows = [t for t, row in enumerate(where) if any(row)]
    return rows, tl.tensor([[float(place) for place in where[t]] for t in rows], dtype, "cpu")


def shares_of_layer(weights: Tensor, places: Mapping[str, Places]) -> dict[str, list[float] | None]:
    """The shares of H heads as lists: weights (H, T, T)."""
    positions = tl.arange(weights.shape[-1], device="cpu")
    distances = (positions - positions.expand_dims(1)).abs().astype(weights.dtype)  # (T, T)
    read = weights[:, 1:]  # (H, T - 1, T)
    found: dict[str, list[float] | None] = {
        "previous": weights.diagonal(-1, 1, 2).mean(axis=-1).tolist(),
        "first": read[..., 0].mean(axis=-1).tolist(),
        "itself": weights.diagonal(0, 1, 2)[..., 1:].mean(axis=-1).tolist(),
        "distance": (read * distances[1:]).sum(axis=-1).mean(axis=-1).tolist(),
    }
    for name, (rows, chosen) in places.items():
        found[name] = (weights[:, rows] * chosen).sum(axis=-1).mean(axis=-1).tolist() if rows else None
    return found


def kind_of(shares: Mapping[str, Any], uniform: HeadShares) -> str:
    """The name of the share with the largest excess over uniform attention; "" if none is clearly larger."""
    excess = {}
    for name, value in shares.items():
        base = getattr(uniform, name)
        if value - base >= EXCESS and value >= RATIO * base:
            excess[name] = value - base
    return max(excess, key=lambda name: excess[name], default="")


def described(shares: HeadShares, uniform: HeadShares) -> str:
    """A head in words: its most notable share with the number, and what uniform attention would give."""
    if not shares.kind:
        return "no share is clearly larger than with uniform attention"
    value, base = getattr(shares, shares.kind), getattr(uniform, shares.kind)
    return f"{value:.0%} of the weight on {KINDS[shares.kind]} (uniform attention: {base:.0%})"


def block_maxima(weights: Tensor, step: int) -> Tensor:
    """(..., T, T) -> (..., n, n) with n = ceil(T / step): the largest weight of each square of step x step."""
    if step == 1:
        return weights
    *batch, T, _ = weights.shape
    n = -(-T // step)
    widths = [(0, 0)] * len(batch) + [(0, n * step - T)] * 2
    return weights.pad(widths).reshape(*batch, n, step, n, step).max(axis=(-3, -1))


def as_base64(weights: Tensor) -> str:
    """The numbers as base64 of little-endian float32."""
    return b64encode(weights.astype(tl.float32).data.tobytes()).decode("ascii")


def scaled(weight: float) -> str:
    """The colour of a weight: by its square root, so that 1 % can be seen."""
    return display.sequential(max(weight, 0.0) ** 0.5)
