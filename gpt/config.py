"""What a model is, as one frozen value that is checked when it is made.

One idea: a config is data. It says everything that decides the shape of the weights, it goes to JSON and back
unchanged, and no other code has to ask whether it makes sense. It refuses unknown names and guesses nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, Self

# ----- checks, each one sentence: what was given, and what is allowed ---------------------------------------


def check_integer(name: str, value: Any, low: int) -> None:
    """`value` is an int (not a bool) of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")


def check_number(name: str, value: Any, low: float, below: float = math.inf) -> None:
    """`value` is a finite int or float in [low, below)."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value < below:
        limit = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"{name} must be a finite number of at least {low}{limit}, got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """`value` is one of `choices` and of its type, so that 1 is not taken for True."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_names(cls: type, values: Mapping[str, Any]) -> None:
    """The keys of `values` are fields of the dataclass `cls`, and no field without a default is missing."""
    known = [field.name for field in fields(cls)]
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    unknown = [name for name in values if name not in known]
    missing = [name for name in required if name not in values]
    problems = [
        f"{kind} {', '.join(names)}" for kind, names in (("unknown", unknown), ("missing", missing)) if names
    ]
    if problems:
        raise ValueError(f"{cls.__name__}: {'; '.join(problems)}; its fields are {', '.join(known)}")


# ----- the model --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT. What makes no sense is a ValueError: the field, its value and what is allowed."""

    vocab_size: int  # how many token ids there are: the tokenizer decides it, training fills it in
    context_length: int  # the longest sequence: one learned position vector each; attention costs its square
    n_layer: int  # how many blocks: depth
    n_head: int  # attention heads per block, each n_embd / n_head wide; GPT-2's are 64 wide
    n_embd: int  # the width of the residual stream; parameters grow with its square
    embedding_dropout: float = 0.0  # on the sum of token and position embedding
    attention_dropout: float = 0.0  # on the attention weights after softmax
    residual_dropout: float = 0.0  # on what attention and feed-forward add to the residual stream
    qkv_bias: bool = False  # OpenAI's GPT-2 has these biases; the book's, as most models since, has not
    tie_head: bool = True  # logits from the token embedding's matrix: vocab_size * n_embd fewer parameters
    init: Literal["torch", "gpt2"] = "gpt2"  # torch's defaults (the book's), or N(0, 0.02) as OpenAI's GPT-2

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            check_integer(name, getattr(self, name), low=1)
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            check_number(name, getattr(self, name), low=0, below=1)
        for name in ("qkv_bias", "tie_head"):
            check_choice(name, getattr(self, name), (True, False))
        check_choice("init", self.init, ("torch", "gpt2"))
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
    sizes = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    return GPTConfig(vocab_size=50257, context_length=1024, qkv_bias=True, **sizes).with_dropout(0.1)


PRESETS: dict[str, GPTConfig] = {
    # The first two are trained from nothing, so their vocab_size is only where a tokenizer is not yet known.
    "nano": GPTConfig(vocab_size=1024, context_length=128, n_layer=4, n_head=4, n_embd=128),
    "micro": GPTConfig(vocab_size=4096, context_length=256, n_layer=6, n_head=6, n_embd=384),
    "book-124m": replace(_gpt2(12, 12, 768), qkv_bias=False, tie_head=False, init="torch"),
    "gpt2": _gpt2(12, 12, 768),
    "gpt2-medium": _gpt2(24, 16, 1024),
    "gpt2-large": _gpt2(36, 20, 1280),
    "gpt2-xl": _gpt2(48, 25, 1600),
}
