"""What a model is, as one frozen value that is checked when it is made.

One idea: a config is data. It says everything that decides the shape of the weights, it goes to JSON and back
unchanged, and no other code has to ask whether it makes sense. It refuses unknown names and guesses nothing.
"""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from tensorlite import backend
from tensorlite.devices.machine import MOST_THREADS

LARGEST = 1 << 32  # of a model's sizes: a token file holds no larger id

# ----- checks, each one sentence: what was given, and what is allowed ---------------------------------------


def check_integer(name: str, value: Any, low: int) -> None:
    """`value` is an int (not a bool) of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r:.80}")


def check_number(name: str, value: Any, low: float, below: float = math.inf) -> None:
    """`value` is a finite int or float in [low, below)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value < below or value > sys.float_info.max:  # an int of 400 digits is no float
        limit = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"{name} must be a finite number of at least {low}{limit}, got {value!r:.80}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """`value` is one of `choices` and of its type, so that 1 is not taken for True."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r:.80}")


def check_device(device: Any) -> None:
    """`device` is "auto" or a device's name; whether it is there is asked when it is used."""
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
    causal: bool = True  # no position sees a later one: to write; only a classifier may do without
    init: Literal["torch", "gpt2"] = "gpt2"  # torch's defaults (the book's), or N(0, 0.02) as OpenAI's GPT-2

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            check_integer(name, getattr(self, name), low=1)
            if getattr(self, name) >= LARGEST:
                raise ValueError(f"{name} must be below 2**32, got {getattr(self, name)!r:.80}")
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            check_number(name, getattr(self, name), low=0, below=1)
        for name in ("qkv_bias", "tie_head", "causal"):
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
    return GPTConfig(
        vocab_size=50257, context_length=1024, n_layer=n_layer, n_head=n_head, n_embd=n_embd, qkv_bias=True
    ).with_dropout(0.1)


def _book(n_layer: int, n_head: int, n_embd: int, vocab_size: int = 50257, context_length: int = 1024) -> GPTConfig:
    return GPTConfig(
        vocab_size=vocab_size, context_length=context_length, n_layer=n_layer, n_head=n_head, n_embd=n_embd,
        tie_head=False, init="torch",
    )  # fmt: skip


PRESETS: dict[str, GPTConfig] = {
    # The first two are trained from nothing, so their vocab_size is only where a tokenizer is not yet known. They are
    # the book's model made small: a narrow one learns faster with a head of its own, and with its init (nanoGPT's
    # recipe for CPUs ends at a validation loss of 1.86; tied and with GPT-2's init, at 1.91).
    "nano": _book(4, 4, 128, vocab_size=2048, context_length=128),
    "micro": _book(6, 6, 384, vocab_size=4096, context_length=256),
    "book-124m": _book(12, 12, 768).with_dropout(0.1),
    "gpt2": _gpt2(12, 12, 768),
    "gpt2-medium": _gpt2(24, 16, 1024),
    "gpt2-large": _gpt2(36, 20, 1280),
    "gpt2-xl": _gpt2(48, 25, 1600),
}


# ----- a training run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every training has, whatever is learnt. (Every field is a flag, and its comment is the flag's help.)

    A task's own settings are a subclass: its `task` is what config.json calls the task, its `fixed` the settings that
    a begun run keeps.
    """

    task: ClassVar[str]
    fixed: ClassVar[tuple[str, ...]] = ("seed",)
    lowest: ClassVar[float] = 0.1  # min_lr where none is given, as a share of lr
    fewest: ClassVar[int] = 1  # steps

    batch_size: int = 8  # sequences per pass: more is smoother and faster per token, until memory ends
    grad_accumulation: int = 1  # passes per step: a batch as large as you like in the memory of one pass
    steps: int = 1200  # updates of the weights
    lr: float | None = None  # peak learning rate; default: what suits the task and the model, see default_lr
    min_lr: float | None = None  # where the cosine ends; default: a tenth of lr
    warmup: int | None = None  # steps of linear rise to lr, while Adam's averages settle; default: a tenth, at most 100
    beta1: float = 0.9  # Adam's memory of the gradient: about 1 / (1 - beta1) steps
    beta2: float = 0.99  # Adam's memory of its square; 0.95 to 0.999, longer where batches are small
    weight_decay: float = 0.1  # pull towards 0 on matrices; biases and norms are left alone
    clip: float = 1.0  # longest gradient that makes a step: one odd batch cannot throw the weights away; 0: no limit

    eval_every: int = 100  # steps between evaluations; they use no random numbers, so training is the same without
    sample_every: int = 300  # steps between samples in samples.txt; 0: only at the end
    checkpoint_every: int = 300  # steps between checkpoints: what a crash may cost you
    keep: int = 2  # checkpoints kept; an older one is there in case the newest is damaged

    seed: int = 1337  # of weights, batches, dropout and samples: the same seed gives the same run, bit for bit
    device: str = "auto"  # cpu, cuda or cuda:1, the second GPU; auto: the GPU if one answers (resume asks anew)
    dtype: Literal["float32", "tf32", "bfloat16"] = "float32"  # of what is multiplied; coarser is faster
    cuda_graph: bool = True  # on a GPU a step is recorded once and then replayed, which is faster; or else it is not
    checkpoint_blocks: bool = False  # compute blocks again in the backward pass: less memory, a third more work
    threads: int | None = None  # for large ops; default: OPENBLAS_NUM_THREADS, or the cores this process may use
    out: Path | None = None  # the run's directory; default: below runs/, named after what is learnt from
    resume: Path | None = None  # continue this run, with its own settings except for those that you give
    resume_if_exists: bool = False  # continue the run in `out` if there is one, else start it: for schedulers
    overwrite: bool = False  # replace the run or files in `out`, once the new run's first checkpoint is whole

    def __post_init__(self) -> None:
        for name in ("batch_size", "grad_accumulation", "eval_every", "checkpoint_every", "keep"):
            check_integer(name, getattr(self, name), low=1)
        for name, low in (("steps", self.fewest), ("sample_every", 0), ("seed", 0)):
            check_integer(name, getattr(self, name), low)
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), low=0, below=1)
        check_number("lr", self.peak_lr, low=0)
        for name in ("weight_decay", "clip"):
            check_number(name, getattr(self, name), low=0)
        check_choice("dtype", self.dtype, ("float32", "tf32", "bfloat16"))
        check_device(self.device)
        check_choice("cuda_graph", self.cuda_graph, (True, False))
        check_choice("checkpoint_blocks", self.checkpoint_blocks, (True, False))
        if self.threads is not None:
            check_integer("threads", self.threads, low=1)
            if self.threads > MOST_THREADS:
                raise ValueError(f"--threads must be an integer from 1 to {MOST_THREADS:,}, got {self.threads:,}")
        if self.min_lr is not None and not 0 <= self.min_lr <= (math.inf if self.lr is None else self.lr):
            raise ValueError(f"min_lr must be from 0 to lr, which is {self.peak_lr}, got {self.min_lr!r}")
        if self.warmup is not None and not 0 <= self.warmup <= (self.steps or self.warmup):
            raise ValueError(f"warmup must be from 0 to steps, which is {self.steps}, got {self.warmup!r}")
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, got {self.seed}")
        if self.resume is not None and (self.out is not None or self.overwrite or self.resume_if_exists):
            raise ValueError("resume continues a run where it is: omit out, overwrite and resume_if_exists")
        if self.resume_if_exists and self.overwrite:
            raise ValueError("resume_if_exists keeps a run and overwrite replaces it: omit one of them")

    @property
    def peak_lr(self) -> float:
        """`lr`, or the default for a model as wide as GPT-2's smallest."""
        return self.default_lr() if self.lr is None else self.lr

    def default_lr(self, n_embd: int = 768) -> float:
        """The peak learning rate for a model of that width, where none is given."""
        return 2e-3

    def name(self) -> str:
        """What a run is called that was given no directory."""
        return self.task

    def to_dict(self) -> dict[str, Any]:
        """The settings ready for JSON, without where the run is and how it was started: those it does not depend on.

        Nor is the device one of them: a run may go on with another one.
        """
        values = {name: _plain(value) for name, value in asdict(self).items()}
        started = ("device", "out", "resume", "resume_if_exists", "overwrite")
        return {name: value for name, value in values.items() if name not in started}

    def reads(self) -> tuple[Path, ...]:
        """The files and directories that a new run starts from."""
        return ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings that `to_dict` described; a ValueError names every unknown and every missing field."""
        check_names(cls, values)
        kinds = get_type_hints(cls)
        return cls(**{name: _from_plain(name, value, kinds[name]) for name, value in values.items()})


def as_paths(config: Any, *names: str) -> None:
    """Turn text in these fields of a frozen dataclass into Paths: in Python one writes text="a/b.txt"."""
    for name in names:
        value = getattr(config, name)
        if value == "" or (name == "text" and not isinstance(value, str | os.PathLike) and "" in value):
            raise ValueError(f"{name} is empty: name a file or a directory")
        if isinstance(value, str | os.PathLike):
            path = Path(value)
            object.__setattr__(config, name, (path,) if name == "text" else path)
        elif name == "text":
            object.__setattr__(config, name, tuple(map(Path, value)))


def command_of(task: str) -> str:
    """The command that trains it."""
    return "gpt train" if task == "pretrain" else f"gpt finetune {task}"


def _from_plain(name: str, value: Any, kind: Any) -> Any:
    """A field's value from JSON: text may be a Path, a list a tuple; a ValueError where the field has another type."""
    for one in get_args(kind) if get_origin(kind) is UnionType else (kind,):
        if one is Path and isinstance(value, str):
            return Path(value)
        if get_origin(one) is tuple and isinstance(value, list | tuple):
            return tuple(_from_plain(name, item, get_args(one)[0]) for item in value)
        if type(value) is one or (one is float and type(value) is int) or get_origin(one) is Literal:
            return value  # whether it is one of the choices is checked with the rest
    raise ValueError(f"{name} has the wrong type: got {value!r:.80}")


def _plain(value: Any) -> Any:
    """Paths as text, also in a tuple."""
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """What a GPT learns from, and its shape: a part of TrainConfig, so that these flags come first."""

    text: tuple[Path, ...] = ()  # UTF-8 files to learn from, one after another; none: this Python's language reference
    tokenizer: Literal["bpe", "char", "word", "gpt2"] = "bpe"  # what a token is; bpe is trained on the text itself
    vocab_size: int = 2048  # how many tokens bpe makes; the other tokenizers have their own number
    validation: float = 0.1  # the last part of the text, never trained on: it tells learning from memorising

    preset: str = "nano"  # the model's shape, see `gpt params`; the next five replace single fields of it
    context_length: int | None = None  # tokens the model sees at once: longer remembers more and costs more
    n_layer: int | None = None  # blocks
    n_head: int | None = None  # attention heads per block; must divide n_embd
    n_embd: int | None = None  # width
    dropout: float | None = None  # share of activations dropped in training: against memorising a small text

    eval_batches: int = 20  # batches per evaluation, spread evenly over the validation text
    final_tokens: int = 200_000  # tokens of the validation text in the last evaluation, spread evenly; 0: all of it
    sample_tokens: int = 200  # length of a sample
    prompt: str | None = None  # what samples begin with; default: a new line, where the tokenizer knows one


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings, TextConfig):
    """Train a GPT on text. (Every field is a flag of `gpt train`, and its comment is the flag's help.)"""

    task = "pretrain"
    fixed = (
        "text", "tokenizer", "vocab_size", "validation", "seed", "preset", "context_length", "n_layer", "n_head",
        "n_embd",
    )  # fmt: skip

    lr: float = 2e-3  # peak learning rate; small models bear more, 124M about 6e-4

    def __post_init__(self) -> None:
        as_paths(self, "text", "out", "resume")
        super().__post_init__()
        check_choice("tokenizer", self.tokenizer, ("bpe", "char", "word", "gpt2"))
        check_choice("preset", self.preset, tuple(PRESETS))
        check_integer("eval_batches", self.eval_batches, low=1)
        check_integer("sample_tokens", self.sample_tokens, low=0)
        check_integer("final_tokens", self.final_tokens, low=0)
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be between 0 and 1, say 0.1, got {self.validation!r}")
        self.model(vocab_size=self.vocab_size)  # checks the model's fields, before a text is read for it

    def reads(self) -> tuple[Path, ...]:
        """The texts."""
        return tuple(map(Path, self.text))

    def name(self) -> str:
        """That of the first text."""
        return self.text[0].stem if self.text else "reference"

    def model(self, vocab_size: int) -> GPTConfig:
        """The preset's model for that many tokens, with the fields that are given here in place of its own."""
        sizes = {name: getattr(self, name) for name in ("context_length", "n_layer", "n_head", "n_embd")}
        changed = {name: value for name, value in sizes.items() if value is not None}
        config = replace(PRESETS[self.preset], vocab_size=vocab_size, **changed)
        return config if self.dropout is None else config.with_dropout(self.dropout)


# ----- fine-tuning ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Source:
    """What fine-tuning starts from: a part of FineTuneConfig, so that these flags come first."""

    base: Path | None = None  # the run to start from; it is only read
    data: Path | None = None  # the entries to learn from
    epochs: int = 5  # passes over the training entries


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(Settings, Source):
    """What every fine-tuning has: a run to start from, entries to learn from, and gentler defaults."""

    fixed: ClassVar[tuple[str, ...]] = ("base", "data", "seed", "batch_size")
    lowest = 1.0  # of lr: it stays as it is
    fewest = 0

    steps: int = 0  # updates of the weights, in place of epochs; 0: as many as epochs make
    # peak learning rate; default: 8e-4 with LoRA; without, 5e-5 for GPT-2's widths, and more for a narrower model: 6e-4
    # where it is 64 wide
    lr: float | None = None
    min_lr: float | None = None  # where a cosine ends; default: lr, which then stays as it is
    warmup: int | None = 0  # steps of linear rise to lr
    beta2: float = 0.999  # Adam's memory of the gradient's square
    eval_every: int = 50  # steps between evaluations; they use no random numbers, so training is the same without
    sample_every: int = 0  # steps between samples in samples.txt; 0: only at the end

    def __post_init__(self) -> None:
        as_paths(self, "base", "data", "out", "resume")
        super().__post_init__()
        check_integer("epochs", self.epochs, low=1)

    def default_lr(self, n_embd: int = 768) -> float:
        """8e-4 with LoRA; without, the book's 5e-5, and more in proportion for what is narrower than 768.

        A weight of a narrow model has fewer others beside it that move the same sum, so it must move further. LoRA's
        correction begins at zero and needs 16 times as much to come as far in as many steps.
        """
        return 8e-4 if self.adapts else float(f"{5e-5 * max(1.0, 768 / n_embd):.1e}")

    @property
    def adapts(self) -> bool:
        """Whether LoRA's matrices are what learns."""
        return False

    def reads(self) -> tuple[Path, ...]:
        """The run it starts from, and the entries."""
        return tuple(path for path in (self.base, self.data) if path is not None)

    def name(self) -> str:
        """That of the run it starts from, and the task."""
        return f"{self.base.resolve().name}-{self.task}" if self.base else self.task

    def total_steps(self, batches: int) -> int:
        """How many steps there are, where an epoch has that many batches."""
        return self.steps or max(1, self.epochs * batches // self.grad_accumulation)
