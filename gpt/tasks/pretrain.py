"""Pretraining: predict the next token at every position of random windows of a text.

The first part of the text is for training; the last part, for validation, shows overfitting. Both are
files of token ids in the run's directory.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from tensorlite import Generator, Tensor, backend
from tensorlite.data import TokenFile, default_collate

from ..config import PRESETS, GPTConfig, check_choice, check_integer
from ..console import bar, counted, visible
from ..data.corpus import STDIN
from ..data.prepare import PARTS, new_line, prepare
from ..data.shards.folder import is_prepared
from ..data.shards.order import ShuffledWindows
from ..data.shards.read import TokenShards
from ..generation import generate
from ..model import GPT, inference_mode
from ..tokenizer import END_OF_TEXT, Tokenizer
from ..training import checkpoint, machine
from ..training.settings import Settings, as_paths, fine_tuning_lr
from ..training.task import NewRun, Say, batch_generator, to_device
from .changed_model import with_context_length, with_dropout, with_special_tokens
from .prepared import open_prepared, reopened

OPENING = "ROMEO:\n"  # begins samples of tiny Shakespeare: the name of who speaks, on a line of its own

# ----- settings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text and the model's shape: a base class of TrainConfig, so that these flags come first."""

    base: Path | None = None  # start from this run's weights and tokenizer, instead of random weights; it is only read
    add_token: tuple[str, ...] = ()  # special tokens to add to that run's vocabulary, such as "<|user|>"
    # UTF-8 files to learn from, one after another, - for standard input, or a folder of gpt data prepare; none: tiny
    # Shakespeare
    text: tuple[Path, ...] = ()
    tokenizer: Literal["bpe", "char", "word", "gpt2"] = "bpe"  # what a token is; bpe is trained on the text itself
    vocab_size: int = 2048  # how many tokens bpe makes; the other tokenizers have their own number
    validation: float = 0.1  # share of the text, at its end, that is not trained on but measures the loss

    # the model's shape: nano, micro, book-124m, gpt2, gpt2-medium, gpt2-large or gpt2-xl (gpt params PRESET shows it);
    # the next six replace single fields of it
    preset: str = "nano"
    # tokens the model sees at once; more take more time and memory. A run to start from may only be shortened
    context_length: int | None = None
    n_layer: int | None = None  # number of transformer blocks
    n_head: int | None = None  # attention heads per block; must divide the width
    n_embd: int | None = None  # width: the numbers that stand for each token
    dropout: float | None = None  # dropout probability in training, against memorising a small text
    # standard deviation of the initial position embeddings; default: that of the preset. Smaller ones learn faster in
    # short runs with a long context
    position_std: float | None = None

    eval_batches: int = 20  # batches per evaluation, spread evenly over the validation text
    final_tokens: int = 200_000  # tokens of the validation text in the last evaluation, spread evenly; 0: all of it
    sample_tokens: int = 200  # length of a sample
    # what samples begin with; default: "ROMEO:" and a new line for tiny Shakespeare, else a new line, if the tokenizer
    # has one
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings, TextConfig):
    """Train a GPT on text. (Every field is a flag of `gpt train`, and its comment is the flag's help.)"""

    task = "pretrain"
    task_class = "gpt.tasks.pretrain:Pretraining"
    fixed = (
        "base", "add_token", "text", "tokenizer", "vocab_size", "validation", "seed", "preset", "context_length",
        "n_layer", "n_head", "n_embd", "position_std",
    )  # fmt: skip

    # The defaults train tiny Shakespeare in at most 90 s on two cores: many small steps learn the most in that time.
    batch_size: int = 2  # sequences per pass: more give smoother steps and take less time per token, and more memory
    steps: int = 1950  # updates of the weights
    eval_every: int = 150  # steps between evaluations; they use no random numbers, so they do not change training
    sample_every: int = 650  # steps between samples in samples.txt; 0: only at the end
    # peak learning rate; default: 3e-3 from random weights, and for more than 128 wide models less, in proportion: 5e-4
    # for GPT-2's width; from another run's weights 5e-5 for GPT-2's width, and more for narrower models
    lr: float | None = None

    def __post_init__(self) -> None:
        as_paths(self, "base", "text", "out", "resume")
        super().__post_init__()
        check_choice("tokenizer", self.tokenizer, ("bpe", "char", "word", "gpt2"))
        check_choice("preset", self.preset, tuple(PRESETS))
        check_integer("eval_batches", self.eval_batches, low=1)
        check_integer("sample_tokens", self.sample_tokens, low=0)
        check_integer("final_tokens", self.final_tokens, low=0)
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be between 0 and 1, such as 0.1, got {self.validation!r}")
        self.model(vocab_size=self.vocab_size)  # checks the model's fields, before a text is read for it
        self.check_base()

    def check_base(self) -> None:
        """ValueError for settings that a run to start from decides, and for those that need one."""
        if self.resume is not None:  # they were checked when that run began, and cannot change
            return
        if self.base is None:
            if self.add_token:
                raise ValueError("add_token extends the vocabulary of a run: name it with --from")
            return
        if not self.text:
            raise ValueError("text is missing: gpt train --from RUN --text FILE learns another text")
        for name in ("tokenizer", "vocab_size", "preset", "n_layer", "n_head", "n_embd", "position_std"):
            if getattr(self, name) != TextConfig.__dataclass_fields__[name].default:
                raise ValueError(f"{name} is that of the run to start from: omit it, or omit --from")

    def prepared(self) -> Path | None:
        """The folder of `gpt data prepare` that is the text, if it is one; ValueError for settings that it decides."""
        folders = [path for path in self.text if path.is_dir()]
        if not folders:
            return None
        if len(self.text) > 1:
            raise ValueError(f"{folders[0]} is a folder: give one folder of gpt data prepare alone, or only text files")
        for name in ("tokenizer", "vocab_size", "validation") if is_prepared(folders[0]) else ():
            if getattr(self, name) != TextConfig.__dataclass_fields__[name].default:
                raise ValueError(f"{name} is that of the prepared text {folders[0]}: omit it")
        return folders[0]

    def reads(self) -> tuple[Path, ...]:
        """The run to start from, and the texts."""
        return (*([self.base] if self.base else []), *(path for path in self.text if path != STDIN))

    def name(self) -> str:
        """The name of the run to start from, if any, and of the first text."""
        text = "shakespeare" if not self.text else "stdin" if self.text[0] == STDIN else self.text[0].stem
        return f"{self.base.resolve().name}-{text}" if self.base else text

    def default_lr(self, n_embd: int = 768) -> float:
        """From random weights 3e-3 up to a width of 128, and then inversely proportional to the width.

        So it is 1e-3 for 384 and 5e-4 for 768, near nanoGPT's choices for these widths. From a run's weights, the rate
        of fine-tuning, so that they are not overwritten.
        """
        if self.base is not None:
            return fine_tuning_lr(n_embd)
        return float(f"{min(3e-3, 0.384 / n_embd):.1e}")

    def model(self, vocab_size: int) -> GPTConfig:
        """The preset's model for that many tokens, with the fields that are given here."""
        sizes = {
            name: getattr(self, name) for name in ("context_length", "n_layer", "n_head", "n_embd", "position_std")
        }
        changed = {name: value for name, value in sizes.items() if value is not None}
        config = replace(PRESETS[self.preset], vocab_size=vocab_size, **changed)
        return config if self.dropout is None else config.with_dropout(self.dropout)

    def model_to_resume(self, saved: GPTConfig) -> GPTConfig:
        """These settings' own model, with as many tokens as the saved one; the saved one if it came from a run."""
        if self.base is None:
            return self.model(saved.vocab_size)
        return saved if self.dropout is None else saved.with_dropout(self.dropout)


# ----- the task ---------------------------------------------------------------------------------------------------


class Pretraining:
    """The task of `gpt train`. A batch is inputs and targets, (B, T) each."""

    files: ClassVar = tuple(f"{part}.tokens" for part in PARTS)
    results: ClassVar[tuple[str, ...]] = ()
    unit = "tokens"

    @classmethod
    def begin(cls, config: TrainConfig, run: Path, say: Say) -> NewRun:
        """Encode the text, and make a model with random weights or those of the run to start from."""
        c = config
        loaded = None if c.base is None else checkpoint.load_model(c.base)
        base = None if loaded is None else extended(*loaded, c)
        kind = base[1] if base else c.tokenizer
        if (folder := c.prepared()) is not None:
            bases = [loaded[1], base[1]] if loaded and base else []
            tokenizer, found = open_prepared(folder, bases, say)
        else:
            tokenizer, data, texts = prepare(c.text, kind, c.vocab_size, c.validation, run, say)
            found = {"data": data, "texts": texts}
        shape = base[0].config if base else config.model(tokenizer.vocab_size)
        check_memory(shape, config)
        check_lengths(found["data"], shape.context_length)
        model = base[0] if base else GPT(shape)
        about = f"{counted(shape.n_layer, 'layer')}, {counted(shape.n_head, 'head')}, {shape.n_embd} wide"
        parameters = f"{model.num_parameters():,} parameters"
        say(f"model      {c.base or c.preset}: {about}, context {shape.context_length}: {parameters}")
        return NewRun(tokenizer, model, found)

    @classmethod
    def rebuild(cls, config: TrainConfig, description: Mapping[str, Any]) -> GPT:
        return GPT(config.model_to_resume(GPTConfig.from_dict(description["model"])))

    def __init__(self, config: TrainConfig, run: Path, tokenizer: Tokenizer, description: Mapping[str, Any]):
        self.config, self.tokenizer, self.data = config, tokenizer, description["data"]
        length = description["model"]["context_length"]
        self.tokens: Mapping[str, TokenFile | TokenShards]
        self.batches: RandomWindows | ShuffledWindows
        if "prepared" in description:
            self.tokens = shards = reopened(description["prepared"])
            self.batches = ShuffledWindows(shards["train"].shards, length, config.seed)
        else:
            self.tokens = files = {part: TokenFile(run / f"{part}.tokens", check=False) for part in PARTS}  # verified
            self.batches = RandomWindows(files["train"], length, batch_generator(config))
        self.prompt = self.sample_prompt()  # an invalid prompt is refused before the first step
        self.steps, self.per_step = config.steps, config.batch_size * config.grad_accumulation * length

    def draw(self) -> tuple[Tensor, Tensor]:
        """A batch of windows from random positions of the training text, or the next ones of a prepared text."""
        batch: tuple[Tensor, Tensor] = default_collate(self.batches.draw(self.config.batch_size))
        return batch

    @staticmethod
    def targets(batch: tuple[Tensor, Tensor]) -> int:
        """The number of targets that count: those of -100 do not."""
        return int((batch[1] != -100).sum().item())

    @staticmethod
    def loss(model: GPT, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy in nats."""
        return model.loss(*to_device(model, *batch))

    def evaluate(self, model: GPT) -> dict[str, float]:
        """Over `eval_batches` batches of the validation text."""
        c = self.config
        return {"validation_loss": evaluate(model, self.tokens["validation"], c.batch_size, c.eval_batches)}

    def sample(self, model: GPT, step: int) -> str:
        """The prompt and the model's continuation."""
        seed, top_k = (self.config.seed + step) % 2**32, min(40, self.tokenizer.vocab_size)
        length = self.config.sample_tokens
        (new,) = generate(model, [self.prompt], length, temperature=0.6, top_k=top_k, seed=seed)
        return visible(self.tokenizer.decode(self.prompt + new).strip("\n"))

    def sample_prompt(self) -> list[int]:
        """The beginning of samples: the prompt, a new line, or, without a token for it, the first validation token."""
        prompt = OPENING if self.config.prompt is None and not self.config.text else self.config.prompt
        if prompt is None:
            return new_line(self.tokenizer) or [int(self.tokens["validation"][0])]
        try:
            ids = self.tokenizer.encode_ordinary(prompt)
        except ValueError as error:
            raise ValueError(f"prompt {prompt!r:.80}: {error}") from None
        if not ids:
            raise ValueError(f"the prompt {self.config.prompt!r} has no tokens: give some text")
        return ids

    def finish(self, model: GPT) -> tuple[dict[str, Any], dict[str, str]]:
        """The loss on the validation text, or on `final_tokens` of it."""
        length, batch_size = model.config.context_length, self.config.batch_size
        windows, wanted = len(self.tokens["validation"].windows(length, length)), self.config.final_tokens
        count = min(windows, max(1, wanted // length)) if wanted else windows
        batches = None if count == windows else -(-count // batch_size)
        count = windows if batches is None else min(windows, batches * batch_size)
        whole = count == windows
        with bar("last evaluation", count) as advance:
            loss = evaluate(model, self.tokens["validation"], batch_size, batches, advance)
        data = self.data["validation"]
        bits = loss / math.log(2) * data["tokens"] / data["text_bytes"]
        about = "whole text" if whole else f"{count * length:,} of {data['tokens']:,} tokens"
        return {"whole_validation_loss" if whole else "final_validation_loss": loss, "bits_per_byte": bits}, {
            f"validation loss, {about}": f"{loss:.4f}",
            "perplexity": f"{math.exp(min(loss, 700)):,.2f}",
            "bits per byte": f"{bits:.3f}",
        }

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches.load_state_dict(state["batches"])


class RandomWindows:
    """Windows (x, y) from random positions of a token file, each drawn independently of the others."""

    def __init__(self, tokens: TokenFile, length: int, generator: Generator):
        self.windows, self.generator = tokens.windows(length, stride=1), generator

    def draw(self, count: int) -> list[Any]:
        """The next windows."""
        return [self.windows[start] for start in self.generator.randint(0, len(self.windows), (count,))]

    def state_dict(self) -> dict[str, Any]:
        return self.generator.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.load_state_dict(state)


def extended(model: GPT, tokenizer: Tokenizer, config: TrainConfig) -> tuple[GPT, Tokenizer]:
    """The model and tokenizer of a run to start from, with the changes that the settings name."""
    if config.add_token:
        model, tokenizer = with_special_tokens(model, tokenizer, config.add_token)
    if config.context_length is not None:
        model = with_context_length(model, config.context_length)
    return (model if config.dropout is None else with_dropout(model, config.dropout)), tokenizer


# ----- before the first step --------------------------------------------------------------------------------------


def check_lengths(data: Mapping[str, Any], context_length: int) -> None:
    """A ValueError where a part of the text has too few tokens to train or to be evaluated on."""
    for part in PARTS:
        if data[part]["tokens"] <= context_length:
            raise ValueError(
                f"the {part} text has {counted(data[part]['tokens'], 'token')}, and context_length {context_length} "
                "needs at least one more: give more text, a smaller context_length, or another share with --validation"
            )


def check_memory(model: GPTConfig, config: TrainConfig) -> None:
    """A ValueError where training would certainly need more memory than the machine has, or its GPU has free."""
    device = backend.use_device(config.device)
    if (found := machine.memory(device)) is None:
        return
    # Weights, gradients, two averages; per layer at least 16 activations of the width and the attention weights; and
    # the logits with their gradient. All of it in float32. On a GPU attention keeps no weights, activations may take
    # half, logits go in pieces, and recomputed blocks keep one activation.
    c, gpu = model, device != "cpu"
    weights = c.n_layer * 12 * c.n_embd**2 + (c.vocab_size + c.context_length) * c.n_embd
    per_token = c.n_layer * (16 * c.n_embd + c.n_head * c.context_length) + 2 * c.vocab_size
    if gpu:
        kept = c.n_embd if config.activation_checkpointing else 16 * c.n_embd
        per_token = c.n_layer * kept // (2 if config.dtype == "bfloat16" else 1)
    needed = 4 * (4 * weights + per_token * config.batch_size * c.context_length)
    limit = found[0] if gpu else found[1]
    if needed > limit:
        has = f"{device} has {limit / 2**30:,.1f} free" if gpu else f"this machine has {limit / 2**30:,.1f}"
        raise ValueError(
            f"training this takes at least {needed / 2**30:,.1f} GiB of memory and {has}: a smaller batch_size (with "
            "grad_accumulation), context or preset needs less"
        )


# ----- evaluation -------------------------------------------------------------------------------------------------


def evaluate(
    model: GPT, tokens: TokenFile | TokenShards, batch_size: int, batches: int | None = None,
    advance: Callable[[int], None] = lambda windows: None,
) -> float:  # fmt: skip
    """Mean cross-entropy in nats over the windows that cover the text, or over `batches` of them, evenly spread.

    The windows do not overlap: each token is predicted once (the last ones, fewer than a window, may be left out). No
    random numbers are used; dropout is off. `advance` gets the number of windows of each batch.
    """
    windows = tokens.windows(model.config.context_length, model.config.context_length)
    count = len(windows) if batches is None else min(len(windows), batches * batch_size)
    chosen = [i * len(windows) // count for i in range(count)]
    total = 0.0
    with inference_mode(model):
        for i in range(0, count, batch_size):
            batch = default_collate([windows[index] for index in chosen[i : i + batch_size]])  # (B, T) each
            total += model.loss(*to_device(model, *batch)).item() * len(batch[0])
            advance(len(batch[0]))
    return total / count


# ----- beginning of a text ----------------------------------------------------------------------------------------


def start_of_run(description: Mapping[str, Any], tokenizer: Tokenizer) -> list[int]:
    """The tokens after which a text without a prompt begins, as the run's config.json has them (see `encode_part`).

    Where it has none: for imported weights the end of a text, else a new line.
    """
    found: list[int] = description.get("data", {}).get("train", {}).get("start")
    if found:
        return found
    end = [tokenizer.special_tokens[END_OF_TEXT]] if END_OF_TEXT in tokenizer.special_tokens else []
    return (end if "imported" in description else []) or new_line(tokenizer) or end or [0]
