"""What a model is, as one frozen value that is checked when it is made.

One idea: a config is data. It says everything that decides the shape of the weights, it goes to JSON and back
unchanged, and no other code has to ask whether it makes sense. It refuses unknown names and never guesses a value.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, Self


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT. ValueError, one sentence that names field, value and what is allowed, if it makes no sense."""

    vocab_size: int  # how many token ids there are: the tokenizer decides it, training fills it in
    context_length: int  # the longest sequence: one learned position vector each; attention costs its square
    n_layer: int  # how many blocks: depth
    n_head: int  # attention heads per block, each n_embd / n_head wide; GPT-2's are 64 wide
    n_embd: int  # the width of the residual stream; parameters grow with its square
    embedding_dropout: float = 0.0  # on the sum of token and position embedding
    attention_dropout: float = 0.0  # on the attention weights after softmax
    residual_dropout: float = 0.0  # on what attention and feed-forward add to the residual stream
    qkv_bias: bool = False  # OpenAI's GPT-2 has these biases; the book's, as most models since, does without
    tie_head: bool = True  # logits from the token embedding's own matrix: vocab_size * n_embd fewer parameters
    init: Literal["torch", "gpt2"] = "gpt2"  # torch's defaults (the book), or N(0, 0.02), residual projections smaller

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            check_integer(name, getattr(self, name), low=1)
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            check_number(name, getattr(self, name), low=0, high=1, open_high=True)
        for name in ("qkv_bias", "tie_head"):
            check_choice(name, getattr(self, name), (True, False))
        check_choice("init", self.init, ("torch", "gpt2"))
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_head must divide n_embd, so that all heads are equally wide: got n_head={self.n_head}, "
                f"n_embd={self.n_embd}"
            )

    def with_dropout(self, p: float) -> Self:
        """The same config with all three dropouts at `p`."""
        return replace(self, embedding_dropout=p, attention_dropout=p, residual_dropout=p)

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the fields' names, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config that `to_dict` described. ValueError that names every unknown and every missing field."""
        check_names(cls, values)
        return cls(**values)


# ----- presets ----------------------------------------------------------------------------------------------------

_GPT2 = GPTConfig(
    vocab_size=50257, context_length=1024, n_layer=12, n_head=12, n_embd=768, qkv_bias=True
).with_dropout(0.1)  # fmt: skip

PRESETS: dict[str, GPTConfig] = {
    "nano": GPTConfig(vocab_size=1024, context_length=128, n_layer=4, n_head=4, n_embd=128),  # minutes on a laptop
    "micro": GPTConfig(vocab_size=4096, context_length=256, n_layer=6, n_head=6, n_embd=384),  # an hour, or a GPU
    "book-124m": replace(_GPT2, qkv_bias=False, tie_head=False, init="torch"),
    "gpt2": _GPT2,
    "gpt2-medium": replace(_GPT2, n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": replace(_GPT2, n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": replace(_GPT2, n_layer=48, n_head=25, n_embd=1600),
}

# ----- checks, each one sentence: what was given, and what is allowed -----------------------------------------------


def check_integer(name: str, value: Any, low: int) -> None:
    """`value` is an int (not a bool) of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, open_high: bool = False) -> None:
    """`value` is a finite int or float in [low, high], or in [low, high) if `open_high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (open_high and value == high):
        upper = "" if high == math.inf else f" and {'below' if open_high else 'at most'} {high}"
        raise ValueError(f"{name} must be a finite number of at least {low}{upper}, got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """`value` is one of `choices`, and of its type: 1 is not True."""
    if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_names(cls: type, values: Mapping[str, Any]) -> None:
    """The keys of `values` are fields of the dataclass `cls`, and no field without a default is missing."""
    known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(cls)}
    unknown = [repr(name) for name in values if name not in known]
    missing = [repr(name) for name, required in known.items() if required and name not in values]
    problems = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"missing {', '.join(missing)}"] * bool(missing)
    if problems:
        raise ValueError(f"{cls.__name__}: {'; '.join(problems)}; its fields are {', '.join(known)}")
