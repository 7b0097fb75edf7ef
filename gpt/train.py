"""Pretraining: text in, a trained GPT in a directory out. One loop, read from top to bottom.

One idea: a step depends on nothing but what `Training` holds, and a checkpoint holds all of that. So a run that was
killed and resumed ends in the same bytes as one that was not. Evaluation reads fixed places of the validation text
and samples have their own seeds: how often one looks never changes what is looked at.
"""

import itertools
import json
import math
import platform
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

import tensorlite as tl
from tensorlite import Generator, Tensor, optim
from tensorlite.data import TokenFile, collate, write_tokens

from . import checkpoint, corpus
from . import tokenizer as tokenizers
from .config import TrainConfig
from .generate import generate
from .model import GPT
from .progress import Progress, peak_memory, result_table, say

PATIENCE = 3  # steps in a row that may be skipped because loss or gradient are not finite
PARTS = ("train", "validation")  # of the text
FIXED = (
    "text",
    "tokenizer",
    "vocab_size",
    "validation",
    "seed",
    "preset",
    "context_length",
    "n_layer",
    "n_head",
    "n_embd",
)


@dataclass
class Training:
    """All that a step depends on: settings, text, and what changes from step to step."""

    run: Path
    config: TrainConfig
    description: dict[str, Any]  # config.json: the settings, the model, the text, and what it was made with
    tokenizer: tokenizers.Tokenizer
    model: GPT
    optimizer: optim.AdamW
    tokens: dict[str, TokenFile]
    batches: Generator  # draws where in the text the next batch begins
    step: int = 0  # steps done
    skipped: int = 0  # of these, how many at the end were skipped
    best: tuple[float, int] = (math.inf, 0)  # lowest validation loss, and its step
    saved: int = -1  # the step of the newest checkpoint


class Result(NamedTuple):
    """How training ended: where its files are, and which signal stopped it before its last step, if one did."""

    run: Path
    stopped_by: int | None


# ----- the loop ---------------------------------------------------------------------------------------------------


def train(config: TrainConfig, console: Console | None = None) -> Result:
    """Train as `config` says. The first SIGINT or SIGTERM finishes the step and saves; a second one leaves at once.

    ValueError or OSError, in one sentence, for settings, texts and directories that do not do; FloatingPointError where
    loss or gradient stay nan or infinite; RuntimeError where another process trains there.
    """
    console = console or Console()
    run = config.resume or config.out or _free_name(config)
    if config.resume is None:
        checkpoint.create(run, config.overwrite)
    elif not checkpoint.is_run(run):
        checkpoint.newest(run)  # says what is missing
    with checkpoint.lock(run):
        t = begin(config, run, console) if config.resume is None else resume(config, run, console)
        tokens_per_step = config.batch_size * config.grad_accumulation * t.model.config.context_length
        show = Progress(t.step, config.steps, tokens_per_step, console, run / "log.txt")
        with show, stopping() as signals:
            if t.step == 0:
                append_metrics(t, {"step": 0, "validation_loss": watch(t, show, lr=0.0)})
                save(t)
            while t.step < config.steps and not signals:
                began = time.monotonic()
                line = update(t, show)
                show.step(t.step, line["loss"], time.monotonic() - began)
                if t.step % config.eval_every == 0 or t.step == config.steps:
                    line["validation_loss"] = watch(t, show, line["lr"])
                append_metrics(t, line)
                if config.sample_every and t.step % config.sample_every == 0:
                    append_sample(t, show.say)
                if t.step % config.checkpoint_every == 0:
                    save(t)
            if t.saved != t.step:
                save(t)
        if signals:
            show.say(f"stopped after step {t.step}, saved: go on with gpt train --resume {run}")
            return Result(run, signals[0])
        finish(t, show)
    return Result(run, None)


def update(t: Training, show: Progress) -> dict[str, Any]:
    """One step: the gradient of the next batches, clipped, moves the weights. Returns its line for metrics.jsonl."""
    config = t.config
    lr = learning_rate(config, t.step)
    batches = [draw(t) for _ in range(config.grad_accumulation)]
    t.optimizer.zero_grad()
    loss = accumulate(t.model, batches)
    norm = optim.grad_norm(t.model.parameters())
    t.step += 1
    line = {"step": t.step, "loss": loss, "norm": norm, "lr": lr}
    if math.isfinite(loss) and math.isfinite(norm):
        t.skipped = 0
        t.optimizer.lr = lr
        t.optimizer.step(grad_scale=optim.clip_scale(norm, config.clip) if config.clip else 1.0)
        return line
    t.skipped += 1
    what = f"step {t.step}: loss {loss}, gradient norm {norm} at lr {lr:.1e}; first not finite: {_first_bad(t.model)}"
    if t.skipped > PATIENCE:
        raise FloatingPointError(
            f"{what}; {t.skipped} steps in a row: stopped; a lower lr may help, and {_last_good(t)}"
        )
    show.say(f"{what}: step skipped")
    return line | {"loss": None, "norm": None, "skipped": True}


def accumulate(model: GPT, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Add to `.grad` the gradient of the mean loss over all targets of all batches, and return that loss.

    Each batch counts by its number of targets (those of -100 are none), so that several batches are the same as one
    large one, also where they differ in how many they have.
    """
    counts = [(y != -100).sum().item() for _, y in batches]
    total, mean = max(sum(counts), 1), 0.0
    for (x, y), count in zip(batches, counts, strict=True):
        _, loss = model(x, y)
        loss = loss * (count / total)
        loss.backward()
        mean += loss.item()
    return mean


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of the step after `step` steps: a linear rise, then a cosine to min_lr at the last step."""
    warmup = min(100, config.steps // 10) if config.warmup is None else config.warmup
    min_lr = config.lr / 10 if config.min_lr is None else config.min_lr
    return optim.warmup_cosine(step, lr=config.lr, min_lr=min_lr, warmup=warmup, total=config.steps)


@contextmanager
def stopping() -> Iterator[list[int]]:
    """A list that the first SIGINT or SIGTERM goes into. A second one raises SystemExit. Then all is as before.

    Only Python's main thread may handle signals; in another one they are left alone.
    """
    received: list[int] = []

    def handle(number, frame):
        if received:
            raise SystemExit(128 + number)
        received.append(number)

    mine = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handle) for number in mine}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ----- looking at it ----------------------------------------------------------------------------------------------


def watch(t: Training, show: Progress, lr: float) -> float:
    """The validation loss, shown, and remembered if it is the best."""
    loss = evaluate(t.model, t.tokens["validation"], t.config.batch_size, t.config.eval_batches)
    t.best = min(t.best, (loss, t.step))
    show.evaluated(t.step, loss, lr)
    return loss


def evaluate(model: GPT, tokens: TokenFile, batch_size: int, batches: int | None = None) -> float:
    """Mean cross-entropy in nats over the windows that cover the text, or over `batches` of them, evenly spread.

    The windows do not overlap: each token is predicted once (of the last ones, fewer than a window may be left out). No
    random numbers; dropout is off.
    """
    windows = tokens.windows(model.config.context_length, model.config.context_length)
    count = len(windows) if batches is None else min(len(windows), batches * batch_size)
    chosen = [i * len(windows) // count for i in range(count)]
    total = 0.0
    model.eval()
    with tl.no_grad():
        for i in range(0, count, batch_size):
            x, y = collate([windows[index] for index in chosen[i : i + batch_size]])  # (B, T)
            total += model(x, y)[1].item() * len(x)
    model.train()
    return total / count


def append_sample(t: Training, show) -> None:
    """Let the model write, as it stands; to samples.txt and to the screen."""
    prompt = prompt_ids(t)
    seed = (t.config.seed + t.step) % 2**32
    (new,) = generate(
        t.model, [prompt], t.config.sample_tokens, temperature=0.8, top_k=min(200, t.tokenizer.vocab_size), seed=seed
    )
    text = t.tokenizer.decode(prompt + new).strip("\n")
    with open(t.run / "samples.txt", "a", encoding="utf-8", newline="\n") as file:
        file.write(f"----- step {t.step}\n{text}\n\n")
    show(f"----- a sample at step {t.step}\n{text}\n-----")


def prompt_ids(t: Training) -> list[int]:
    """What samples begin with: the prompt, or a new line, or, where no token is one, the validation text's start."""
    if t.config.prompt is None:
        return new_line(t.tokenizer) or t.tokens["validation"][:1].tolist()
    ids = t.tokenizer.encode(t.config.prompt)
    if not ids:
        raise ValueError(f"the prompt {t.config.prompt!r} has no token in it: give some text")
    return ids


def new_line(tokenizer: tokenizers.Tokenizer) -> list[int]:
    """A new line, after which a text may begin; [] for a tokenizer that does not know it."""
    try:
        return tokenizer.encode("\n")
    except ValueError:  # characters, of a text of one line
        return []


def append_metrics(t: Training, line: dict[str, Any]) -> None:
    with open(t.run / "metrics.jsonl", "a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(line) + "\n")


def finish(t: Training, show: Progress) -> None:
    """The whole validation text, a last sample, and the table."""
    loss = evaluate(t.model, t.tokens["validation"], t.config.batch_size)
    tokens, size = (t.description["data"]["validation"][key] for key in ("tokens", "text_bytes"))
    bits = loss / math.log(2) * tokens / size
    append_metrics(t, {"step": t.step, "whole_validation_loss": loss, "bits_per_byte": bits})
    append_sample(t, show.say)
    rows = {
        "parameters": f"{t.model.num_parameters():,}",
        "tokens trained on": f"{t.step * show.tokens_per_step:,}",
        "tokens per second": f"{show.tokens_per_second():,.0f}" if show.done else "trained before",
        "validation loss, whole text": f"{loss:.4f}",
        "lowest on the way": f"{t.best[0]:.4f} at step {t.best[1]:,}",
        "perplexity": f"{math.exp(loss):,.2f}",
        "bits per byte": f"{bits:.3f}",
        "peak memory": f"{peak_memory() / 2**20:,.0f} MiB",
    }
    table = result_table(f"{t.run}", rows)
    show.console.print(table)


# ----- beginning and going on -------------------------------------------------------------------------------------


def begin(config: TrainConfig, run: Path, console: Console) -> Training:
    """A new run: text to tokens, and random weights."""
    checkpoint.clear(run)
    tokenizer, data = prepare(config, run, console)
    model_config = config.model(tokenizer.vocab_size)
    tokens = open_tokens(run, model_config.context_length)
    tl.manual_seed(config.seed)  # weights, then dropout
    model = GPT(model_config)
    description = {
        "format": "gpt.run",
        "version": checkpoint.VERSION,
        "model": model_config.to_dict(),
        "training": config.to_dict(),
        "data": data,
        "made_with": made_with(),
    }
    t = Training(
        run, config, description, tokenizer, model, make_optimizer(model, config), tokens, second_stream(config)
    )
    prompt_ids(t)  # a prompt that the tokenizer does not know is better told now than after the first steps
    c = model_config
    shape = f"{c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, context {c.context_length}"
    say(console, run / "log.txt", f"model      {config.preset}: {shape}: {model.num_parameters():,} parameters")
    say(console, run / "log.txt", f"run        {run}")
    return t


def prepare(config: TrainConfig, run: Path, console: Console) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Read the text, make the tokenizer, write train.tokens and validation.tokens; say what came of it."""
    log, began = run / "log.txt", time.monotonic()
    text = corpus.read_text(config.text) if config.text else corpus.builtin()
    name = ", ".join(map(str, config.text)) or "this Python's language reference"
    say(console, log, f"text       {name}: {len(text):,} characters")
    parts = dict(zip(PARTS, corpus.split(text, 1 - config.validation), strict=True))
    # Only byte-pair encoding can encode what it was not trained on, and so is kept from seeing the validation text.
    seen = parts["train"] if config.tokenizer == "bpe" else text
    tokenizer = tokenizers.create(config.tokenizer, seen, config.vocab_size)
    data = {}
    for part, piece in parts.items():
        path = run / f"{part}.tokens"
        write_tokens(path, corpus.encode(tokenizer, piece, set(tokenizer.special_tokens)), tokenizer.vocab_size)
        data[part] = {"tokens": len(TokenFile(path)), "text_bytes": len(piece.encode()), **checkpoint.fingerprint(path)}
    counts = " + ".join(f"{data[part]['tokens']:,} {part}" for part in PARTS)
    seconds = time.monotonic() - began
    say(console, log, f"tokens     {config.tokenizer} of {tokenizer.vocab_size:,}: {counts} tokens, {seconds:.1f} s")
    return tokenizer, data


def resume(config: TrainConfig, run: Path, console: Console) -> Training:
    """The run as its newest whole checkpoint left it, with the settings of `config`."""
    log = run / "log.txt"
    found, problems = checkpoint.newest(run, logs=True)
    description = checkpoint.read_config(found.folder / "config.json")
    changes = allowed_changes(run, description, config, found.step)
    for part in PARTS:
        if checkpoint.fingerprint(run / f"{part}.tokens") != {
            k: description["data"][part][k] for k in ("bytes", "sha256")
        }:
            raise ValueError(f"{run / part}.tokens is not what the run was begun with: it is damaged, start anew")
    model_config = config.model(description["model"]["vocab_size"])
    model = GPT(model_config)
    optimizer = make_optimizer(model, config)
    state = checkpoint.restore(run, found, model, optimizer, config.keep)
    description |= {"model": model_config.to_dict(), "training": config.to_dict(), "made_with": made_with()}
    tokens = open_tokens(run, model_config.context_length)
    tokenizer = tokenizers.load(found.folder / "tokenizer.json")
    t = Training(run, config, description, tokenizer, model, optimizer, tokens, second_stream(config))
    t.step = t.saved = found.step
    t.skipped, t.best = state["skipped"], tuple(state["best"])
    t.batches.load_state_dict(state["batches"])
    tl.default_generator.load_state_dict(state["default_generator"])
    for line in (*problems, f"resumed    {run} after step {t.step}", *changes):
        say(console, log, line)
    return t


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
            lines.append(f"warning: {name} was {before} and is {after}: the last bits may differ from an unbroken run")
    return lines


def made_with() -> dict[str, str]:
    """What the last bits of the numbers depend on."""
    versions = {name: version(name) for name in ("tensorlite", "numpy")}
    return {"python": platform.python_version(), **versions, "machine": platform.machine()}


def make_optimizer(model: GPT, config: TrainConfig) -> optim.AdamW:
    """AdamW with decay on matrices and embeddings alone: biases and norms have no size to keep small."""
    groups = optim.decay_groups(model.parameters(), config.weight_decay)
    return optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))


def second_stream(config: TrainConfig) -> Generator:
    """A stream for the batches alone, so that neither dropout nor the weights' number decides what is read."""
    return Generator(Generator(config.seed).loader_seed())


def draw(t: Training) -> tuple[Tensor, Tensor]:
    """A batch of windows from random places of the training text: inputs and targets, (B, T) each."""
    windows = t.tokens["train"].windows(t.model.config.context_length, stride=1)
    return collate([windows[start] for start in t.batches.randint(0, len(windows), t.config.batch_size)])


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


def save(t: Training) -> None:
    """A checkpoint, unless the last step was skipped: what is good on the disk stays there."""
    if t.skipped:
        return
    state = {"skipped": t.skipped, "best": t.best, "batches": t.batches.state_dict()}
    state["default_generator"] = tl.default_generator.state_dict()
    checkpoint.save(
        t.run, t.step, config=t.description, tokenizer=t.tokenizer, model=t.model, optimizer=t.optimizer, state=state,
        keep=t.config.keep,
    )  # fmt: skip
    t.saved = t.step


def _first_bad(model: GPT) -> str:
    """The first parameter that is not finite itself, or whose gradient is not."""
    for name, p in model.named_parameters():
        for what, tensor in (("weight", p), ("gradient of", p.grad)):
            if tensor is not None and not tl.isfinite(tensor).all().item():
                return f"{what} {name}"
    return "the loss alone"


def _last_good(t: Training) -> str:
    return f"the checkpoint of step {t.saved} is kept in {t.run}"


def _free_name(config: TrainConfig) -> Path:
    """runs/NAME after the text, with a number where that is taken."""
    name = config.text[0].stem if config.text else "reference"
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(run for run in (Path("runs") / name for name in names) if config.overwrite or not run.exists())
