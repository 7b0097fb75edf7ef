"""A GPT as a classifier: the features of one position, and a Linear that maps them to a logit for each label.

Source: Raschka, "Build a Large Language Model (From Scratch)", chapter 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import tensorlite as tl
from tensorlite import Tensor, nn

from ... import lora
from ...config import GPTConfig
from ...model import GPT, as_float32
from .settings import ClassifyConfig


class Classifier(nn.Module):
    """A GPT without its language-model head, and a Linear that reads a label at one position of its features.

    `position` says which: "last" is the last position of the padded text (as in the book), "last-real" the text's own
    last token, "first" the first token, and "mean" the average over the text's own tokens. With a causal mask the first
    position has attended only to itself.
    """

    def __init__(self, config: GPTConfig, labels: int, position: str):
        self.config, self.position = replace(config, tie_head=True), position
        self.body = GPT(self.config)  # a tied head has no weights of its own, and this one is never used
        self.head = nn.Linear(config.n_embd, labels)

    def forward(self, idx: Tensor, lengths: Sequence[int]) -> Tensor:
        """Token ids (B, T), padded on the right, and the length of each text -> logits (B, labels)."""
        return as_float32(self.head(self.read(as_float32(self.body.hidden_states(idx)), lengths)))

    def read(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """Features (B, T, C) -> those at the position that is read, (B, C)."""
        T = features.shape[1]
        if self.position == "mean":
            shares = [[1 / n if t < n else 0.0 for t in range(T)] for n in lengths]
            weights = tl.tensor(shares, features.dtype, features.device).expand_dims(1)  # (B, 1, T)
            return (weights @ features).squeeze(1)  # (B, 1, T) @ (B, T, C)
        return features[list(range(len(lengths))), self.places(lengths, T)]

    def places(self, lengths: Sequence[int], T: int) -> list[int]:
        """The position that is read in each of the texts, padded to T, where it is one."""
        of = {"first": [0] * len(lengths), "last": [T - 1] * len(lengths), "last-real": [n - 1 for n in lengths]}
        return of[self.position]


def build(config: ClassifyConfig, shape: GPTConfig, labels: int) -> Classifier:
    """A Classifier with random weights, all of them trainable."""
    shape = replace(shape, causal=config.causal)
    shape = shape if config.dropout is None else shape.with_dropout(config.dropout)
    return Classifier(shape, labels, config.position)


def freeze(model: Classifier, config: ClassifyConfig) -> None:
    """Freeze every parameter that `config.layers` does not train; "lora" freezes all and adds trainable matrices."""
    if config.layers == "lora":
        lora.apply(model, config.rank, config.alpha)
        return
    blocks = {"head": 0, "last-block": 1, "last-2": 2, "all": 0}[config.layers]
    for p in model.parameters():
        p.requires_grad = config.layers == "all"
    trained = [*list(model.body.blocks)[len(model.body.blocks) - blocks :], model.head]
    for module in (*trained, *([model.body.final_norm] if blocks else [])):
        for p in module.parameters():
            p.requires_grad = True


def rebuild(config: ClassifyConfig, description: Mapping[str, Any]) -> Classifier:
    """The model that a run's config.json describes, with the same parameters frozen and random weights."""
    model = build(config, GPTConfig.from_dict(description["model"]), len(description["labels"]))
    freeze(model, config)
    return model
