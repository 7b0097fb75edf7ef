"""The logit lens: what the model would predict if it stopped after an earlier layer.

    lens = look.logit_lens(model, "To be, or not to be")
    lens.layers[2].ids[5]      # the most probable next tokens at position 5, read from the stream after layer 1
    look.follow_tokens(model, "To be, or not to be", [" to"], position=5)

Every layer adds to the same residual stream, so the last LayerNorm and the head, which turn the final stream into
logits, can be applied to the stream after any layer (nostalgebraist, "interpreting GPT: the logit lens", 2020):

    logits_l = head(final_norm(stream_l))

After the last layer these are the model's logits. Layers are counted from 0, as in `model.blocks[0]`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import tensorlite as tl
from tensorlite import Tensor
from tensorlite import functional as F

from ..model import GPT, as_float32, inference_mode
from ..tasks.classify.batches import Row, encode
from . import charts, display
from .forward_trace import trace
from .loaded import LoadedModel
from .vocabulary import Token, token_id

MOST_LOGITS = 1 << 22  # held at a time: 16 MB, which the processor's cache holds in part


@dataclass(frozen=True)
class LensLayer:
    """What the stream after one layer predicts at T positions. The last position has no next token: None there."""

    name: str  # "embedding", "block 0", ...
    ids: list[list[int]]  # T lists: the k most probable next tokens, the most probable first
    probabilities: list[list[float]]  # theirs
    true_probability: list[float | None]  # T numbers: the probability of the text's own next token
    true_rank: list[int | None]  # its rank: 1 is the most probable

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class LogitLens:
    """The predictions after the embedding and after each of L layers, for a text of T tokens."""

    ids: list[int]  # T
    texts: dict[int, str]  # of every token id in `ids` and `layers`
    layers: list[LensLayer]  # L + 1; the last are the model's predictions

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are; `layers` as a list of objects."""
        return {"ids": self.ids, "texts": self.texts, "layers": [layer.to_dict() for layer in self.layers]}

    def _repr_html_(self) -> str:
        texts = self.texts
        rows = []
        for layer in self.layers:
            cells = []
            for t, (ids, shares) in enumerate(zip(layer.ids, layer.probabilities, strict=True)):
                best = [f"{display.visible_text(texts[id])} {p:.1%}" for id, p in zip(ids, shares, strict=True)]
                cells.append(charts.Cell(texts[ids[0]], shares[0], "\n".join(best), layer.true_rank[t] == 1))
            rows.append(cells)
        names = [layer.name for layer in self.layers]
        note = (
            "The most probable next token at each position, after each block. White is a probability of 0, blue of 1. "
            "A frame marks where this is the text's own next token, which the last row shows."
        )
        after = [texts[id] for id in self.ids[1:]] + [""]
        table = charts.token_table(rows, names, [texts[id] for id in self.ids], ("next token", after))
        return f"<div><p>{escape(note)}</p>{table}</div>"


@dataclass(frozen=True)
class FollowedTokens:
    """The probability and the rank of n tokens as the next one at one position, after the embedding and each layer."""

    position: int
    layers: list[str]  # L + 1 names
    ids: list[int]  # n
    texts: list[str]  # n
    probabilities: list[list[float]]  # n lists of L + 1
    ranks: list[list[int]]  # n lists of L + 1; 1 is the most probable token of the vocabulary

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_svg_(self) -> str:
        title = f"probability of the next token after position {self.position}"
        return charts.category_chart(self.layers, dict(zip(self.texts, self.probabilities, strict=True)), title=title)


@dataclass(frozen=True)
class LabelLens:
    """The labels' probabilities that a classifier's head reads from the embedding and from each layer."""

    layers: list[str]  # L + 1 names
    labels: list[str]
    probabilities: list[list[float]]  # L + 1 lists, a number for each label; the last are the classifier's
    position: str  # where the classifier reads: "last", "last-real", "first" or "mean"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_svg_(self) -> str:
        title = "probability of each label, read after each block"
        names = [name.replace(" ", "\u00a0") for name in self.layers]  # no token, whose spaces are shown as dots
        return display.heat_map(self.probabilities, names, self.labels, title=title, largest=1.0, cell=22)


def logit_lens(model: LoadedModel, text: str, k: int = 5) -> LogitLens:
    """The `k` most probable next tokens at every position, after the embedding and after each layer.

    ValueError for a text without tokens or longer than the context, and for a classifier, which has no head for tokens:
    see `label_lens`.
    """
    ids = model.encode(text)
    layers = list(lens_layers(model, ids, k))
    named = dict.fromkeys([*ids, *(id for layer in layers for best in layer.ids for id in best)])
    return LogitLens(ids, {id: model.text_of(id) for id in named}, layers)


def lens_layers(model: LoadedModel, ids: Sequence[int], k: int = 5) -> Iterator[LensLayer]:
    """The layers of `logit_lens` as they are computed. At most MOST_LOGITS logits, or one row, are held at a time."""
    check_predicts(model)
    gpt = model.model
    with inference_mode(gpt):
        stream = trace(gpt, ids, head=False).stream
    for name, x in zip(layer_names(gpt), stream, strict=True):
        with inference_mode(gpt):  # not around the yield
            layer = lens_layer(gpt, name, x[0], ids, k)
        yield layer


def lens_layer(gpt: GPT, name: str, x: Tensor, ids: Sequence[int], k: int) -> LensLayer:
    """The predictions of one layer's stream x (T, C)."""
    T, V = len(ids), gpt.config.vocab_size
    step = max(1, MOST_LOGITS // V)
    targets = [*ids[1:], 0]  # the last is not used
    found = LensLayer(name, [], [], [], [])
    for t in range(0, T, step):
        logits = lens_logits(gpt, x[t : t + step])  # (n, V)
        total = logits.logsumexp(axis=-1, keepdims=True)  # (n, 1)
        values, best = tl.topk(logits, min(k, V))  # (n, k)
        target = tl.tensor(targets[t : t + step], device=logits.device).expand_dims(1)  # (n, 1)
        p, rank = probability_and_rank(logits, total, target)
        found.ids.extend(best.tolist())
        found.probabilities.extend((values - total).exp().tolist())
        found.true_probability.extend(p[:, 0].tolist())
        found.true_rank.extend(rank[:, 0].tolist())
    found.true_probability[-1] = found.true_rank[-1] = None
    return found


def follow_tokens(model: LoadedModel, text: str, tokens: Sequence[Token], position: int = -1) -> FollowedTokens:
    """The probability and rank of `tokens` (ids or texts) as the next token after `position`, through the layers.

    A negative position counts from the end. ValueError as in `logit_lens`, for a position outside the text, and for a
    token that is not in the vocabulary.
    """
    check_predicts(model)
    gpt, ids = model.model, model.encode(text)
    wanted = [token_id(model, token) for token in tokens]
    at = check_position(position, len(ids))
    with inference_mode(gpt):
        x = tl.concatenate([x[:, at] for x in trace(gpt, ids, head=False).stream], axis=0)  # (L + 1, C)
        logits = lens_logits(gpt, x)  # (L + 1, V)
        target = tl.tensor([wanted] * x.shape[0], tl.int64, logits.device)  # (L + 1, n)
        total = logits.logsumexp(axis=-1, keepdims=True)
        p, rank = probability_and_rank(logits, total, target)  # (L + 1, n)
        texts = [model.text_of(id) for id in wanted]
        return FollowedTokens(at, layer_names(gpt), wanted, texts, p.T.tolist(), rank.T.tolist())


def label_lens(model: LoadedModel, text: str) -> LabelLens:
    """The probabilities of a classifier's labels, with its head applied to the stream after each layer.

    The text is cut and padded as in `gpt classify`. ValueError for a model that is not a classifier.
    """
    classifier = model.classifier
    if classifier is None:
        raise ValueError(f"{model.run.name} is not a classifier: its logit lens shows tokens")
    row = Row(encode(classifier.tokenizer, text, classifier.padding.length), 0)
    idx, lengths, _ = classifier.padding.batch([row])
    net = classifier.model
    with inference_mode(net):
        shares = []
        for x in trace(net.body, idx.tolist()[0], head=False).stream:
            features = net.read(as_float32(net.body.final_norm(x)), lengths)  # (1, C)
            shares.append(F.softmax(as_float32(net.head(features)))[0].tolist())
        return LabelLens(layer_names(net.body), classifier.labels, shares, net.position)


# ----- parts ------------------------------------------------------------------------------------------------------


def check_predicts(model: LoadedModel) -> None:
    """ValueError for a classifier: its GPT has no trained head for tokens."""
    if model.classifier is not None:
        raise ValueError(f"{model.run.name} is a classifier: it predicts labels, not tokens")


def check_position(position: int, T: int) -> int:
    """The position counted from 0; ValueError unless the text of T tokens has it."""
    if isinstance(position, bool) or not isinstance(position, int) or not -T <= position < T:
        allowed = f"from {-T} to {T - 1} for a text of {T} tokens"
        raise ValueError(f"position must be an integer {allowed}, got {position!r:.80}")
    return position % T


def layer_names(gpt: GPT) -> list[str]:
    """The names of the places of the residual stream: the embedding, and each block, after which it is read."""
    return ["embedding", *(f"block {i}" for i in range(len(gpt.blocks)))]


def lens_logits(gpt: GPT, x: Tensor) -> Tensor:
    """The logits (n, V) that the last norm and the head read from streams x (n, C)."""
    return as_float32(gpt.logits(gpt.final_norm(x)))


def probability_and_rank(logits: Tensor, total: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of the tokens target (n, m) in logits (n, V), whose logsumexp is total (n, 1): probabilities and ranks (n, m).

    The rank is 1 plus the number of tokens with a larger logit.
    """
    values = logits.take_along_axis(target, -1)  # (n, m)
    ranks = [(logits > values[:, i : i + 1]).sum(axis=-1, keepdims=True) + 1 for i in range(target.shape[-1])]
    return (values - total).exp(), tl.concatenate(ranks, axis=-1)
