"""Which words of a text decide what a classifier answers: gradient x input, and a check that leaves words out.

The score of a label is its logit minus the mean of the other logits. Its gradient with respect to the embedding of a
token says how the score changes with the embedding (Simonyan et al., "Deep inside convolutional networks", 2013); the
sum over the C channels of gradient times embedding is the token's share (Shrikumar et al., "Not just a black box",
2016). It is the first-order estimate of how much the score would fall if the embedding became zero, exact where the
score is linear in the embeddings; a network that is saturated, or attends differently without the token, deviates. So
the strongest words are also left out of the text, one at a time, and the label's probability is computed again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import tensorlite as tl
from tensorlite import Tensor

from ..model import as_float32
from ..tasks.classify.batches import Row, encode
from ..tasks.classify.inference import TrainedClassifier, probabilities
from ..tasks.classify.model import Classifier
from ..tokenizer import StreamDecoder
from .display import diverging, heat_map, token_strip
from .loaded import LoadedModel

LEFT_OUT = 8  # of the strongest words, one at a time


@dataclass(frozen=True)
class Word:
    """Consecutive tokens of a text that are one word, with the space before it."""

    text: str
    start: int  # its tokens are tokens[start:stop]
    stop: int
    value: float  # the sum of its tokens' values
    without: float | None = None  # the label's probability without this word; None: not computed


@dataclass(frozen=True)
class DecidingWords:
    """What a classifier answers for a text, and what each token contributes to the score of one label."""

    labels: list[str]
    probabilities: list[float]  # of each label
    logits: list[float]
    label: str  # the label that is explained
    score: float  # its logit minus the mean of the other logits
    tokens: list[str]
    values: list[float]  # gradient x input of each token, in logits: positive values speak for the label
    words: list[Word]
    padding: float  # the sum of the values of the padding that follows the text
    padding_tokens: int
    cut: int  # tokens at the end of the text that the model does not see

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        largest = max((abs(word.value) for word in self.words), default=0.0) or 1.0
        notes = [word_note(word, self) for word in self.words]
        rows = [[p] for p in self.probabilities]
        return (
            heat_map(rows, self.labels, ["probability"], largest=1.0, cell=22, form="{:.1%}".format)
            + f"<p>For (orange) and against (blue) the label {escape(self.label)}, gradient x input in logits:</p>"
            + token_strip(
                [word.text for word in self.words],
                [word.value / largest for word in self.words],
                notes,
                diverging,
            )
        )


def word_note(word: Word, found: DecidingWords) -> str:
    """The value of a word as a sentence, and the label's probability without it."""
    note = f"{word.text!r}: {word.value:+.3f}"
    if word.without is not None:
        now = found.probabilities[found.labels.index(found.label)]
        note += f"; probability of {found.label} {now:.1%}, without this word {word.without:.1%}"
    return note


def deciding_words(model: LoadedModel, text: str, label: str | None = None, left_out: int = LEFT_OUT) -> DecidingWords:
    """What each token of the text contributes to the score of `label` (None: the most probable label).

    The `left_out` strongest words are also left out of the text, one at a time. A text longer than the longest of
    training is cut, as in training. ValueError for a model that is no classifier, a label that it does not have, and a
    text without a token.
    """
    trained = model.classifier
    if trained is None:
        raise ValueError(f"{model.run} does not label texts: gpt finetune classify makes a model that does")
    if label is not None and label not in trained.labels:
        raise ValueError(f"label must be one of {', '.join(trained.labels)}, got {label!r:.80}")
    all_ids = encode(trained.tokenizer, text)
    ids = all_ids[: trained.padding.length]
    logits, values, chosen, score = gradient_times_input(trained, ids, label)
    (p,) = probabilities(trained.model, trained.padding, [Row(ids, 0)])
    words = words_of(pieces(trained, ids), values)
    return DecidingWords(
        labels=list(trained.labels),
        probabilities=p,
        logits=logits,
        label=trained.labels[chosen],
        score=score,
        tokens=[model.text_of(id) for id in ids],
        values=values[: len(ids)],
        words=leave_out(trained, ids, words, chosen, left_out),
        padding=sum(values[len(ids) :]),
        padding_tokens=len(values) - len(ids),
        cut=len(all_ids) - len(ids),
    )


def gradient_times_input(
    trained: TrainedClassifier, ids: Sequence[int], label: str | None
) -> tuple[list[float], list[float], int, float]:
    """The logits, the value of each of T positions (padding included), the index of the label, and its score."""
    model, device = trained.model, trained.model.body.device
    idx, lengths, _ = trained.padding.batch([Row(list(ids), 0)])
    with tl.no_grad():
        embedded = model.body.token_embedding(idx.to(device))  # (1, T, C)
    embedded.requires_grad = True
    logits = logits_of(model, embedded, lengths)  # (1, L)
    row: list[float] = logits[0].tolist()
    chosen = trained.labels.index(label) if label is not None else row.index(max(row))
    others = max(len(row) - 1, 1)
    weights = [1.0 if i == chosen else -1 / others for i in range(len(row))]
    score = (logits[0] * tl.tensor(weights, logits.dtype, logits.device)).sum()
    gradient = tl.grad(score, embedded)  # (1, T, C)
    values: list[float] = (gradient * embedded.detach()).sum(-1)[0].tolist()
    return row, values, chosen, score.item()


def logits_of(model: Classifier, embedded: Tensor, lengths: Sequence[int]) -> Tensor:
    """What the classifier computes from the embeddings of tokens (1, T, C): logits (1, L)."""
    body = model.body
    x = embedded + body.position_embedding(tl.arange(embedded.shape[1], device=embedded.device))  # (1, T, C)
    for block in body.blocks:
        x = block(x)
    return as_float32(model.head(model.read(as_float32(body.final_norm(x)), lengths)))


def pieces(trained: TrainedClassifier, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; "" where it ends inside a character."""
    decoder = StreamDecoder(trained.tokenizer)
    return [decoder.feed(id) for id in ids]


def words_of(texts: Sequence[str], values: Sequence[float]) -> list[Word]:
    """Tokens as words: one begins at white space after a visible character, and after white space that follows one."""
    starts, begun = [0], ""
    for i, text in enumerate(texts):
        visible = bool(begun.strip())
        if i and visible and (text[:1].isspace() or begun[-1:].isspace()):
            starts.append(i)
            begun = ""
        begun += text
    ends = [*starts[1:], len(texts)]
    return [Word("".join(texts[a:b]), a, b, sum(values[a:b])) for a, b in zip(starts, ends, strict=True)]


def leave_out(
    trained: TrainedClassifier, ids: Sequence[int], words: Sequence[Word], label: int, count: int
) -> list[Word]:
    """The words, the `count` strongest of them with the label's probability without their tokens."""
    strongest = sorted(range(len(words)), key=lambda i: -abs(words[i].value))[:count] if len(words) > 1 else []
    if not strongest:
        return list(words)
    rows = [Row([*ids[: words[i].start], *ids[words[i].stop :]], 0) for i in strongest]
    found = dict(zip(strongest, probabilities(trained.model, trained.padding, rows), strict=True))
    return [
        Word(w.text, w.start, w.stop, w.value, found[i][label] if i in found else None) for i, w in enumerate(words)
    ]
