"""What a model is to predict for a text, and its loss: each next token or, for a classifier, the text's label."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import tensorlite as tl
from tensorlite import Tensor
from tensorlite import functional as F

from ..model import GPT, as_float32
from ..tasks.classify.batches import Row, encode
from ..tasks.classify.inference import TrainedClassifier, probabilities
from ..tasks.classify.model import Classifier
from .forward_trace import trace
from .loaded import LoadedModel

Network = GPT | Classifier


@dataclass(frozen=True)
class Example:
    """A text for a model that writes: it reads all tokens but the last, and predicts all but the first.

    For a classifier the text is cut and padded as in training. It reads all tokens and predicts one label.
    """

    ids: list[int]  # what the model reads, T tokens
    targets: list[int]  # T next tokens, or the number of the label
    tokens: list[str]  # the text of `ids`, and of the last target where tokens are predicted
    length: int  # tokens before the padding
    labels: list[str]  # of a classifier, otherwise []
    label: str | None  # the one to predict; None where tokens are predicted


class Outcome(NamedTuple):
    """How well a model predicts the targets of an Example."""

    losses: list[float]  # nats, of each target
    probabilities: list[float]  # of each label of a classifier, otherwise []


def example(model: LoadedModel, text: str, label: str | None = None) -> Example:
    """The text and what `model` is to predict; `label` is for a classifier, by default its most probable one.

    ValueError for a label that the model does not have, a text without a token, and, where tokens are predicted, fewer
    than two tokens or more than the context.
    """
    if model.classifier is not None:
        return labelled(model, model.classifier, text, label)
    if label is not None:
        raise ValueError("label is for a classifier, and this model predicts tokens: omit it")
    ids = model.encode(text)
    if len(ids) < 2:
        raise ValueError("the text has one token: give at least two, so that there is a next token to predict")
    return Example(ids[:-1], ids[1:], [model.text_of(id) for id in ids], len(ids) - 1, [], None)


def labelled(model: LoadedModel, trained: TrainedClassifier, text: str, label: str | None) -> Example:
    """`example` for a classifier."""
    if label is not None and label not in trained.labels:
        raise ValueError(f"label must be one of {', '.join(trained.labels)}, got {label!r:.80}")
    row = Row(encode(trained.tokenizer, text, trained.padding.length), 0)
    if label is None:
        (p,) = probabilities(trained.model, trained.padding, [row])
        label = trained.labels[max(range(len(p)), key=p.__getitem__)]
    idx, (length,), _ = trained.padding.batch([row])
    ids: list[int] = idx[0].tolist()
    return Example(
        ids, [trained.labels.index(label)], [model.text_of(id) for id in ids], length, list(trained.labels), label
    )


def network(model: LoadedModel) -> Network:
    """The module whose parameters learn: the GPT, or the classifier around it."""
    return model.model if model.classifier is None else model.classifier.model


def body(net: Network) -> GPT:
    """The GPT of a network."""
    return net.body if isinstance(net, Classifier) else net


def losses(net: Network, final: Tensor, given: Example, reduction: str) -> Tensor:
    """Cross-entropy in nats of the normalized residual stream (1, T, C) after the last block.

    (), or with reduction "none" (T,) for next tokens and (1,) for a label.
    """
    if isinstance(net, Classifier):
        targets = tl.tensor(given.targets, device=final.device)
        return F.cross_entropy(label_logits(net, final, given), targets, reduction=reduction)
    head = (net.token_embedding if net.head is None else net.head).weight  # as GPT.loss
    found = F.linear_cross_entropy(final, head, tl.tensor([given.targets], device=final.device), reduction=reduction)
    return found if reduction != "none" else found.squeeze(0)  # (1, T) -> (T,)


def label_logits(net: Classifier, final: Tensor, given: Example) -> Tensor:
    """The logits of the labels (1, labels), as Classifier.forward computes them."""
    return as_float32(net.head(net.read(as_float32(final), [given.length])))


def outcome(net: Network, final: Tensor, given: Example) -> Outcome:
    """The losses of the targets and the probabilities of the labels; nothing is recorded."""
    with tl.no_grad():
        shares = F.softmax(label_logits(net, final, given))[0].tolist() if isinstance(net, Classifier) else []
        return Outcome(losses(net, final, given, "none").tolist(), shares)


def predict(net: Network, given: Example, shortcuts: bool = True, norms: bool = True) -> Outcome:
    """The outcome of a forward pass, without shortcut connections or LayerNorms if so wanted (trace.py)."""
    with tl.no_grad():
        final = trace(body(net), given.ids, shortcuts=shortcuts, norms=norms, head=False).final
    assert final is not None
    return outcome(net, final, given)


@contextmanager
def trainable(parameters: Iterable[Tensor]) -> Iterator[None]:
    """All of these have a gradient inside the block, also those that fine-tuning has frozen."""
    frozen = [p for p in parameters if not p.requires_grad]
    for p in frozen:
        p.requires_grad = True
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad = False
