"""Pretraining: the next token of a text, at every place of random windows.

One idea: the text is all there is. Its first part is trained on, its last part tells learning from memorising; both are
files of token ids in the run.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from tensorlite import Tensor, backend
from tensorlite.data import TokenFile, default_collate, write_tokens
from tensorlite.devices.gpu import memory

from .. import tokenizer as tokenizers
from ..config import GPTConfig, TrainConfig
from ..data import corpus
from ..generate import generate
from ..model import GPT
from ..tokenizer import END_OF_TEXT, Tokenizer
from ..training import checkpoint
from ..training.progress import bar, counted, passing, visible
from ..training.task import Beginning, Say, eval_mode, second_stream, to_device

PARTS = ("train", "validation")  # of the text


class Pretraining:
    """The task of `gpt train`. A batch is inputs and targets, (B, T) each."""

    files: ClassVar = tuple(f"{part}.tokens" for part in PARTS)
    results: ClassVar[tuple[str, ...]] = ()
    unit = "tokens"

    @classmethod
    def begin(cls, config: TrainConfig, run: Path, say: Say) -> Beginning:
        """Text to tokens, and random weights."""
        tokenizer, data = prepare(config, run, say)
        model_config = config.model(tokenizer.vocab_size)
        check_memory(model_config, config)
        open_tokens(
            run, model_config.context_length, check=False
        )  # what is too short is refused before the model is made
        model = GPT(model_config)
        c = model_config
        shape = f"{counted(c.n_layer, 'layer')}, {counted(c.n_head, 'head')}, {c.n_embd} wide"
        say(f"model      {config.preset}: {shape}, context {c.context_length}: {model.num_parameters():,} parameters")
        return Beginning(tokenizer, model, {"data": data})

    @classmethod
    def rebuild(cls, config: TrainConfig, description: Mapping[str, Any]) -> GPT:
        return GPT(config.model(description["model"]["vocab_size"]))

    def __init__(self, config: TrainConfig, run: Path, tokenizer: Tokenizer, description: Mapping[str, Any]):
        self.config, self.tokenizer, self.data = config, tokenizer, description["data"]
        length = description["model"]["context_length"]
        self.tokens = open_tokens(run, length)
        self.windows = self.tokens["train"].windows(length, stride=1)
        self.batches = second_stream(config)  # draws where in the text the windows of a batch begin
        self.prompt = self.sample_prompt()  # one that the tokenizer does not know is refused before the first step
        self.steps, self.per_step = config.steps, config.batch_size * config.grad_accumulation * length

    def draw(self) -> tuple[Tensor, Tensor]:
        """A batch of windows from random places of the training text."""
        starts = self.batches.randint(0, len(self.windows), self.config.batch_size)
        return default_collate([self.windows[start] for start in starts])

    @staticmethod
    def targets(batch: tuple[Tensor, Tensor]) -> int:
        """Those of -100 are none."""
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
        """The prompt, and what the model continues it with."""
        seed, top_k = (self.config.seed + step) % 2**32, min(200, self.tokenizer.vocab_size)
        length = self.config.sample_tokens
        (new,) = generate(model, [self.prompt], length, temperature=0.7, top_k=top_k, seed=seed)
        return visible(self.tokenizer.decode(self.prompt + new).strip("\n"))

    def sample_prompt(self) -> list[int]:
        """What samples begin with: the prompt, a new line, or where no token is one the validation text's first."""
        if self.config.prompt is None:
            return new_line(self.tokenizer) or self.tokens["validation"][:1].tolist()
        ids = self.tokenizer.encode_ordinary(self.config.prompt)
        if not ids:
            raise ValueError(f"the prompt {self.config.prompt!r} has no token in it: give some text")
        return ids

    def finish(self, model: GPT) -> tuple[dict[str, Any], dict[str, str]]:
        """Over the validation text, or as much of it as `final_tokens` says."""
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


# ----- the text ---------------------------------------------------------------------------------------------------


def prepare(config: TrainConfig, run: Path, say: Say) -> tuple[Tokenizer, dict[str, Any]]:
    """Text to tokenizer, train.tokens and validation.tokens, never held whole; what came of it, for config.json."""
    began = time.monotonic()
    read = corpus.reader(config.text)
    # Only byte-pair encoding can encode what it was not made for, so only it is kept from seeing the validation text.
    whole = corpus.Counted(read())
    tokenizer = None
    with bar("reading the text") as advance:
        if config.tokenizer != "bpe":
            tokenizer = tokenizers.create(config.tokenizer, passing(whole, advance, len))
        for _ in passing(whole, advance, len):
            pass  # what the tokenizer did not want to see is counted
    name = ", ".join(map(str, config.text)) or "this Python's language reference"
    say(f"text       {name}: {counted(whole.characters, 'character')}")
    cut = corpus.cut(whole.characters, 1 - config.validation)
    if tokenizer is None:
        with bar("learning what tokens are", cut) as advance:
            training_text = passing(corpus.between(read(), 0, cut), advance, len)
            tokenizer = tokenizers.create("bpe", training_text, config.vocab_size)
    data = {}
    sizes = cut, whole.characters - cut
    for part, size, blocks in zip(PARTS, sizes, corpus.halves(read(), cut), strict=True):
        path, text = run / f"{part}.tokens", corpus.Counted(blocks)
        with bar(f"making tokens of the {part} text", size) as advance:
            ids = corpus.encode(tokenizer, passing(text, advance, len), allowed_special=set(tokenizer.special_tokens))
            count = write_tokens(path, ids, tokenizer.vocab_size)
        data[part] = {"tokens": count, "text_bytes": text.bytes, **checkpoint.fingerprint(path)}
    data["train"]["start"] = start_of(TokenFile(run / "train.tokens", check=False), tokenizer)
    counts = " + ".join(f"{data[part]['tokens']:,} {part}" for part in PARTS)
    say(f"tokens     {config.tokenizer} of {tokenizer.vocab_size:,}: {counts}; {time.monotonic() - began:.1f} s")
    return tokenizer, data


def open_tokens(run: Path, context_length: int, check: bool = True) -> dict[str, TokenFile]:
    """The token files of a run, their ids checked; a ValueError where one is too short to learn or to be tested on."""
    tokens = {part: TokenFile(run / f"{part}.tokens", check) for part in PARTS}
    for part, file in tokens.items():
        if len(file) <= context_length:
            raise ValueError(
                f"the {part} text has {counted(len(file), 'token')}, and context_length {context_length} needs more "
                "than as many: give more text, a smaller context_length, or another share with validation"
            )
    return tokens


def check_memory(model: GPTConfig, config: TrainConfig) -> None:
    """A ValueError where training would certainly need more memory than the machine has, or its GPU has free."""
    device = backend.use_device(config.device)
    if (found := memory(device)) is None:
        return
    # Weights, gradients, two averages; per layer at least 16 activations of the width and the attention weights; and
    # the logits with their gradient. All of it in float32. On a GPU attention keeps no weights, activations may take
    # half, logits go in pieces, and recomputed blocks keep one activation.
    c, gpu = model, device != "cpu"
    weights = c.n_layer * 12 * c.n_embd**2 + (c.vocab_size + c.context_length) * c.n_embd
    per_token = c.n_layer * (16 * c.n_embd + c.n_head * c.context_length) + 2 * c.vocab_size
    if gpu:
        kept = c.n_embd if config.checkpoint_blocks else 16 * c.n_embd
        per_token = c.n_layer * kept // (2 if config.dtype == "bfloat16" else 1)
    needed = 4 * (4 * weights + per_token * config.batch_size * c.context_length)
    limit = found[0] if gpu else found[1]
    if needed > limit:
        has = f"{device} has {limit / 2**30:,.1f} free" if gpu else f"this machine has {limit / 2**30:,.1f}"
        raise ValueError(
            f"training this takes at least {needed / 2**30:,.1f} GiB of memory and {has}: a smaller batch_size (with "
            "grad_accumulation), context or preset needs less"
        )


# ----- looking at it ----------------------------------------------------------------------------------------------


def evaluate(
    model: GPT, tokens: TokenFile, batch_size: int, batches: int | None = None,
    advance: Callable[[int], None] = lambda windows: None,
) -> float:  # fmt: skip
    """Mean cross-entropy in nats over the windows that cover the text, or over `batches` of them, evenly spread.

    The windows do not overlap: each token is predicted once (of the last ones, fewer than a window may be left out). No
    random numbers; dropout is off. `advance` is told after each batch how many windows it had.
    """
    windows = tokens.windows(model.config.context_length, model.config.context_length)
    count = len(windows) if batches is None else min(len(windows), batches * batch_size)
    chosen = [i * len(windows) // count for i in range(count)]
    total = 0.0
    with eval_mode(model):
        for i in range(0, count, batch_size):
            batch = default_collate([windows[index] for index in chosen[i : i + batch_size]])  # (B, T) each
            total += model.loss(*to_device(model, *batch)).item() * len(batch[0])
            advance(len(batch[0]))
    return total / count


# ----- where a text begins ----------------------------------------------------------------------------------------


def new_line(tokenizer: Tokenizer) -> list[int]:
    """A new line, after which a text may begin; [] for a tokenizer that does not know it."""
    try:
        return tokenizer.encode("\n")
    except ValueError:  # characters, of a text of one line
        return []


def start_of(tokens: TokenFile, tokenizer: Tokenizer) -> list[int]:
    """What a text without a prompt begins after: the end of a text, if the training text has it, or a new line.

    Where the tokenizer knows none (words, and characters of one line), it is the training text's first token.
    """
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    step = 1 << 20
    if end is not None and any((tokens[i : i + step] == end).any() for i in range(0, len(tokens), step)):
        return [end]
    return new_line(tokenizer) or [int(tokens[0])]


def start_of_run(description: Mapping[str, Any], tokenizer: Tokenizer) -> list[int]:
    """The same for a run, as its config.json has it; imported weights know the end of a text."""
    if found := description.get("data", {}).get("train", {}).get("start"):
        return found
    end = [tokenizer.special_tokens[END_OF_TEXT]] if END_OF_TEXT in tokenizer.special_tokens else []
    return (end if "imported" in description else []) or new_line(tokenizer) or end or [0]
