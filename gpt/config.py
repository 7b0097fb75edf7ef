"""The shape of a model as one frozen dataclass, which is checked when it is made, and the presets.

A config has everything that decides the shape of the weights, and goes to JSON and back unchanged. Unknown names are
errors.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, Self

from tensorlite import backend

LARGEST = 1 << 32  # limit of a model's sizes: a token file cannot hold a larger id

# ----- checks: an error names the value and what is allowed -------------------------------------------------


def check_integer(name: str, value: Any, low: int) -> None:
    """`value` is an integer (not a bool) of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r:.80}")


def check_number(name: str, value: Any, low: float, below: float = math.inf) -> None:
    """`value` is a finite real number (not a bool) in [low, below)."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    value = float(value) if number and not isinstance(value, int) else value
    if not number or not low <= value < below or value > sys.float_info.max:  # a huge int does not fit a float
        limit = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"{name} must be a finite number of at least {low}{limit}, got {value!r:.80}")


def use_plain_numbers(config: Any) -> None:
    """Replace the numbers of NumPy among the fields of a frozen dataclass by Python's, which JSON has too."""
    for field in fields(config):
        value = getattr(config, field.name, None)
        if isinstance(value, Real) and not isinstance(value, int | float):
            object.__setattr__(config, field.name, int(value) if isinstance(value, Integral) else float(value))


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """`value` is one of `choices` and of its type, so that 1 is not taken for True."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r:.80}")


def check_device(device: Any) -> None:
    """`device` is "auto" or a device's name; whether it exists is checked when it is used."""
    if device != "auto":
        try:
            backend.check_device(device)
        except (ValueError, AttributeError):
            names = "auto, cpu, cuda or cuda:<index>"
            raise ValueError(f"device must be {names}, got {device!r:.80}") from None


def check_names(cls: type, values: Mapping[str, Any]) -> None:
    """The keys of `values` are fields of the dataclass `cls`, and no field without a default is missing."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{cls.__name__}: the fields must be a JSON object, got {values!r:.80}")
    known = [field.name for field in fields(cls)]
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    unknown = [name for name in values if name not in known]
    missing = [name for name in required if name not in values]
    problems = [f"{kind} {listed(names)}" for kind, names in (("unknown", unknown), ("missing", missing)) if names]
    if problems:
        raise ValueError(f"{cls.__name__}: {'; '.join(problems)}; its fields are {', '.join(known)}")


def listed(names: Sequence[Any], most: int = 8, width: int = 80, between: str = ", ") -> str:
    """The first names, each cut to `width` characters, and how many more there are: a file may have any number."""
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    return between.join([*(f"{name!s:.{width}}" for name in names[:most]), *more])


# ----- the model --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT. An invalid value is a ValueError with the field, the value and what is allowed."""

    vocab_size: int  # the number of token ids: decided by the tokenizer, filled in by training
    context_length: int  # the longest sequence; one learned vector per position, and attention costs its square
    n_layer: int  # number of blocks
    n_head: int  # attention heads per block, each n_embd / n_head wide; GPT-2's are 64 wide
    n_embd: int  # the width of the residual stream; parameters grow with its square
    embedding_dropout: float = 0.0  # on the sum of token and position embedding
    attention_dropout: float = 0.0  # on the attention weights after softmax
    residual_dropout: float = 0.0  # on the outputs of attention and feed-forward
    qkv_bias: bool = False  # True in OpenAI's GPT-2; False in the book and in most newer models
    tie_head: bool = True  # the token embedding's matrix computes the logits: vocab_size * n_embd fewer parameters
    causal: bool = True  # no position attends to a later one; False only for classifiers, which do not generate
    init: Literal["torch", "gpt2"] = "gpt2"  # torch's defaults (the book's), or N(0, 0.02) as OpenAI's GPT-2
    # standard deviation of the initial position embeddings where init is "torch", whose own is 1. Smaller ones suit
    # short training: a position is trained by one token of each window only, so noise in its embedding stays long
    position_std: float = 1.0

    def __post_init__(self) -> None:
        use_plain_numbers(self)
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            check_integer(name, getattr(self, name), low=1)
            if getattr(self, name) >= LARGEST:
                raise ValueError(f"{name} must be below 2**32, got {getattr(self, name)!r:.80}")
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            check_number(name, getattr(self, name), low=0, below=1)
        for name in ("qkv_bias", "tie_head", "causal"):
            check_choice(name, getattr(self, name), (True, False))
        check_choice("init", self.init, ("torch", "gpt2"))
        check_number("position_std", self.position_std, low=0)
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_head must divide n_embd, so that the heads are equally wide: "
                f"got n_head {self.n_head} and n_embd {self.n_embd}"
            )

    def with_dropout(self, p: float) -> Self:
        """The same config with all three dropouts at `p`."""
        return replace(self, embedding_dropout=p, attention_dropout=p, residual_dropout=p)

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the fields' names, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config that `to_dict` described; a ValueError names every unknown and every missing field."""
        check_names(cls, values)
        return cls(**values)


def _gpt2(n_layer: int, n_head: int, n_embd: int) -> GPTConfig:
    return GPTConfig(
        vocab_size=50257, context_length=1024, n_layer=n_layer, n_head=n_head, n_embd=n_embd, qkv_bias=True
    ).with_dropout(0.1)


def _book(
    n_layer: int, n_head: int, n_embd: int, vocab_size: int = 50257, context_length: int = 1024,
    position_std: float = 1.0,
) -> GPTConfig:  # fmt: skip
    return GPTConfig(
        vocab_size=vocab_size, context_length=context_length, n_layer=n_layer, n_head=n_head, n_embd=n_embd,
        tie_head=False, init="torch", position_std=position_std,
    )  # fmt: skip


PRESETS: dict[str, GPTConfig] = {
    # To train from scratch: small versions of the book's model, because narrow models learn faster with an untied
    # head and its initialization (nanoGPT's recipe for CPUs ends at a validation loss of 1.86; tied and with GPT-2's
    # init, at 1.91). Their vocab_size is a placeholder until the tokenizer is known. nano's position embeddings begin
    # small: 2.413 bits per byte after `gpt train`, 2.449 with torch's N(0, 1).
    "nano": _book(4, 4, 128, vocab_size=2048, context_length=256, position_std=0.1),
    "micro": _book(6, 6, 384, vocab_size=4096, context_length=256),
    # The book's model with new weights, and the four sizes of GPT-2.
    "book-124m": _book(12, 12, 768).with_dropout(0.1),
    "gpt2": _gpt2(12, 12, 768),
    "gpt2-medium": _gpt2(24, 16, 1024),
    "gpt2-large": _gpt2(36, 20, 1280),
    "gpt2-xl": _gpt2(48, 25, 1600),
}
