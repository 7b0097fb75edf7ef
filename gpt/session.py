"""All that a training step depends on: begun from a text, saved in checkpoints, taken up again.

One idea: nothing else. What is not in a Session, and so in the checkpoint that it saves, does not influence a step: a
run that was killed and resumed ends in the same bytes as one that was not.
"""

import itertools
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tensorlite as tl
from tensorlite import Generator, backend, optim
from tensorlite.data import TokenFile, write_tokens

from . import checkpoint, corpus
from . import tokenizer as tokenizers
from .config import GPTConfig, TrainConfig
from .model import GPT

PARTS = ("train", "validation")  # of the text
FIXED = (  # settings that a begun run keeps
    "text", "tokenizer", "vocab_size", "validation", "seed", "preset", "context_length", "n_layer", "n_head", "n_embd",
)  # fmt: skip

Say = Callable[[str], None]  # prints a line


@dataclass
class Session:
    """A run between two steps."""

    run: Path
    config: TrainConfig
    description: dict[str, Any]  # config.json: the settings, the model, the text, and what it was made with
    tokenizer: tokenizers.Tokenizer
    model: GPT
    optimizer: optim.AdamW
    tokens: dict[str, TokenFile]
    batches: Generator  # draws where in the text the windows of a batch begin; dropout has the default generator
    step: int = 0  # steps done
    skipped: int = 0  # how many of the last ones were skipped, in a row
    best: tuple[float, int] = (math.inf, 0)  # lowest validation loss, and its step
    saved: int = -1  # the step of the newest checkpoint


def directory(config: TrainConfig) -> Path:
    """Where the run is or will be; without `out`, runs/ and the name of the text, with a number if that is taken."""
    if given := config.resume or config.out:
        return given
    name = config.text[0].stem if config.text else "reference"
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(run for run in (Path("runs") / name for name in names) if config.overwrite or not run.exists())


# ----- beginning --------------------------------------------------------------------------------------------------


def begin(config: TrainConfig, run: Path, say: Say) -> Session:
    """A new run: text to tokens, and random weights."""
    checkpoint.clear(run)
    tokenizer, data = prepare(config, run, say)
    model_config = config.model(tokenizer.vocab_size)
    check_memory(model_config, config.batch_size)
    tokens = open_tokens(run, model_config.context_length)
    tl.manual_seed(config.seed)  # of the weights, and then of dropout
    model = GPT(model_config)
    description = {
        "format": "gpt.run",
        "version": checkpoint.VERSION,
        "model": model_config.to_dict(),
        "training": config.to_dict(),
        "data": data,
        "made_with": made_with(),
    }
    c = model_config
    shape = f"{c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, context {c.context_length}"
    say(f"model      {config.preset}: {shape}: {model.num_parameters():,} parameters")
    say(f"run        {run}")
    optimizer = make_optimizer(model, config)
    return Session(run, config, description, tokenizer, model, optimizer, tokens, second_stream(config))


def prepare(config: TrainConfig, run: Path, say: Say) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Read the text, make the tokenizer, write train.tokens and validation.tokens; what came of it, for config.json."""
    began = time.monotonic()
    text = corpus.read_text(config.text) if config.text else corpus.builtin()
    name = ", ".join(map(str, config.text)) or "this Python's language reference"
    say(f"text       {name}: {len(text):,} characters")
    parts = dict(zip(PARTS, corpus.split(text, 1 - config.validation), strict=True))
    # Only byte-pair encoding can encode what it was not made for, so only it is kept from seeing the validation text.
    seen = parts["train"] if config.tokenizer == "bpe" else text
    tokenizer = tokenizers.create(config.tokenizer, seen, config.vocab_size)
    data = {}
    for part, piece in parts.items():
        path = run / f"{part}.tokens"
        ids = corpus.encode(tokenizer, piece, allowed_special=set(tokenizer.special_tokens))
        count = write_tokens(path, ids, tokenizer.vocab_size)
        data[part] = {"tokens": count, "text_bytes": len(piece.encode()), **checkpoint.fingerprint(path)}
    counts = " + ".join(f"{data[part]['tokens']:,} {part}" for part in PARTS)
    say(f"tokens     {config.tokenizer} of {tokenizer.vocab_size:,}: {counts}; {time.monotonic() - began:.1f} s")
    return tokenizer, data


def open_tokens(run: Path, context_length: int) -> dict[str, TokenFile]:
    """The token files of a run; a ValueError where one is too short to learn from or to be tested on."""
    tokens = {part: TokenFile(run / f"{part}.tokens") for part in PARTS}
    for part, file in tokens.items():
        if len(file) <= context_length:
            raise ValueError(
                f"the {part} text has {len(file)} tokens, and context_length {context_length} needs more than as many: "
                "give more text, a smaller context_length, or another share with validation"
            )
    return tokens


def check_memory(config: GPTConfig, batch_size: int) -> None:
    """A ValueError where training would certainly need more memory than the machine has."""
    # Weights, gradients, two averages; per layer at least 16 activations of the width and the attention weights; and
    # the logits with their gradient. All of it in float32.
    weights = config.n_layer * 12 * config.n_embd**2 + (config.vocab_size + config.context_length) * config.n_embd
    per_token = config.n_layer * (16 * config.n_embd + config.n_head * config.context_length) + 2 * config.vocab_size
    needed = 4 * (4 * weights + per_token * batch_size * config.context_length)
    if not hasattr(os, "sysconf"):
        return
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > present:
        raise ValueError(
            f"training this takes at least {needed / 2**30:,.1f} GiB of memory and this machine has "
            f"{present / 2**30:,.1f}: a smaller batch_size (with grad_accumulation), context or preset needs less"
        )


def make_optimizer(model: GPT, config: TrainConfig) -> optim.AdamW:
    """AdamW with decay on matrices and embeddings alone: biases and norms have no size to keep small."""
    groups = optim.decay_groups(model.parameters(), config.weight_decay)
    return optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))


def second_stream(config: TrainConfig) -> Generator:
    """A stream for the batches alone, so that neither dropout nor the number of weights decides what is read."""
    return Generator(Generator(config.seed).loader_seed())


def made_with() -> dict[str, str]:
    """What the last bits of the numbers depend on."""
    versions = {name: version(name) for name in ("tensorlite", "numpy")}
    blas = {f"blas {name}": value for name, value in backend.blas().items()}
    return {"python": platform.python_version(), **versions, **blas, "machine": platform.machine()}


# ----- saving and going on ----------------------------------------------------------------------------------------


def save(s: Session) -> None:
    """A checkpoint, unless the last step was skipped: what is good on the disk stays there."""
    if s.skipped:
        return
    state = {
        "best": s.best,
        "batches": s.batches.state_dict(),
        "default_generator": tl.default_generator.state_dict(),
    }
    checkpoint.save(
        s.run, s.step, config=s.description, tokenizer=s.tokenizer, model=s.model, optimizer=s.optimizer, state=state,
        keep=s.config.keep,
    )  # fmt: skip
    s.saved = s.step


def resume(config: TrainConfig, run: Path, say: Say) -> Session:
    """The run as its newest whole checkpoint left it, with the settings of `config`."""
    found, problems = checkpoint.newest(run, logs=True)
    description = checkpoint.read_config(found.folder / "config.json")
    changes = allowed_changes(run, description, config, found.step)
    for part in PARTS:
        path = run / f"{part}.tokens"
        written = {key: description["data"][part][key] for key in ("bytes", "sha256")}
        if checkpoint.fingerprint(path) != written:
            raise ValueError(f"{path} is not the file that the run was begun with: it is damaged, start another run")
    model_config = config.model(description["model"]["vocab_size"])
    model = GPT(model_config)
    optimizer = make_optimizer(model, config)
    state = checkpoint.restore(run, found, model, optimizer, config.keep)
    description |= {"model": model_config.to_dict(), "training": config.to_dict(), "made_with": made_with()}
    tokens = open_tokens(run, model_config.context_length)
    tokenizer = tokenizers.load(found.folder / "tokenizer.json")
    s = Session(run, config, description, tokenizer, model, optimizer, tokens, second_stream(config))
    s.step = s.saved = found.step
    s.best = tuple(state["best"])
    s.batches.load_state_dict(state["batches"])
    tl.default_generator.load_state_dict(state["default_generator"])
    for line in (*(f"warning: {problem}" for problem in problems), f"resumed    {run} after step {s.step}", *changes):
        say(line)
    return s


def settings(run: Path) -> TrainConfig:
    """What a run was started with, as the settings to resume it."""
    found, _ = checkpoint.newest(run, logs=True)
    return replace(TrainConfig.from_dict(checkpoint.read_config(found.folder / "config.json")["training"]), resume=run)


def allowed_changes(run: Path, description: dict[str, Any], config: TrainConfig, step: int) -> list[str]:
    """One line for each setting that is not as before; a ValueError for those that a begun run cannot change."""
    lines = []
    for name, after in config.to_dict().items():
        before = description["training"].get(name)
        if before != after and name in FIXED:
            raise ValueError(
                f"{run} was begun with {name} {before!r} and cannot go on with {after!r}: start another run"
            )
        if before != after:
            lines.append(f"changed    {name} from {before} to {after}, from step {step} on")
    if config.steps < step:
        raise ValueError(f"{run} has done {step} steps already: steps cannot be {config.steps}")
    for name, after in made_with().items():
        if (before := description["made_with"].get(name)) != after:
            lines.append(
                f"warning: {name} was {before} and is {after}: the last bits may differ from an unbroken run's"
            )
    return lines
