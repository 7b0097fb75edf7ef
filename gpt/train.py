"""Pretraining: text in, a trained GPT in a directory out. One loop, read from top to bottom.

One idea: looking changes nothing. Evaluation reads fixed places of the validation text, and a sample has a seed of its
own; so how often one looks never decides what is trained, and what is trained depends on the Session alone.
"""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

import tensorlite as tl
from tensorlite import Tensor, backend, optim
from tensorlite.data import TokenFile, default_collate

from . import checkpoint
from .config import TrainConfig
from .generate import generate
from .model import GPT
from .progress import Progress, peak_memory, result_table, say
from .session import Session, begin, directory, resume, save
from .tokenizer import Tokenizer

PATIENCE = 3  # steps in a row that may be skipped because loss or gradient are not finite


class Result(NamedTuple):
    """How training ended: where its files are, and which signal stopped it before its last step, if one did."""

    run: Path
    stopped_by: int | None


def train(config: TrainConfig, console: Console | None = None) -> Result:
    """Train as `config` says. The first SIGINT or SIGTERM finishes the step and saves; a second one leaves at once.

    ValueError or OSError, in one sentence, for settings, texts and directories that do not do; FloatingPointError where
    loss or gradient stay nan or infinite; RuntimeError where another process trains there.
    """
    console, run = console or Console(), directory(config)
    threads = config.threads or backend.default_threads()
    config, about_threads = replace(config, threads=threads), backend.set_threads(threads)
    if config.resume is None:
        checkpoint.create(run, config.overwrite)
    elif not checkpoint.is_run(run):
        checkpoint.newest(run)  # says what is missing
    with checkpoint.lock(run):
        tell = partial(say, console, run / "log.txt")
        s = begin(config, run, tell) if config.resume is None else resume(config, run, tell)
        tell(f"threads    {about_threads}")
        tokens_per_step = config.batch_size * config.grad_accumulation * s.model.config.context_length
        show = Progress(s.step, config.steps, tokens_per_step, console, run / "log.txt")
        with show, stopping() as signals:
            if s.saved < 0:  # a new run
                sample_prompt(s)  # one that the tokenizer does not know is refused now and not after the first steps
                append_metrics(s, {"step": 0, "validation_loss": watch(s, show, lr=0.0)})
                save(s)
            while s.step < config.steps and not signals:
                line = update(s, show)
                if s.step % config.eval_every == 0 or s.step == config.steps:
                    line["validation_loss"] = watch(s, show, line["lr"])
                append_metrics(s, line)
                if config.sample_every and s.step % config.sample_every == 0 and s.step < config.steps:
                    append_sample(s, show.say)
                if s.step % config.checkpoint_every == 0:
                    save(s)
            if s.saved != s.step:
                save(s)
        if signals:
            tell(f"stopped after step {s.step}, saved step {s.saved}: go on with gpt train --resume {run}")
        else:
            finish(s, show)
        from . import plots  # here and not above: matplotlib takes longer to load than all the rest

        plots.draw_run(run)
    return Result(run, signals[0] if signals else None)


# ----- a step -----------------------------------------------------------------------------------------------------


def update(s: Session, show: Progress) -> dict[str, Any]:
    """One step: the gradient of the next batches, clipped, moves the weights. Returns its line for metrics.jsonl."""
    config, began = s.config, time.monotonic()
    lr = learning_rate(config, s.step)
    batches = [draw(s) for _ in range(config.grad_accumulation)]
    s.optimizer.zero_grad()
    loss = accumulate(s.model, batches)
    norm = optim.grad_norm(s.model.parameters())
    s.step += 1
    if math.isfinite(loss) and math.isfinite(norm):
        s.optimizer.lr = lr
        s.optimizer.step(grad_scale=optim.clip_scale(norm, config.clip) if config.clip else 1.0)
        s.skipped = 0
        show.step(s.step, loss, time.monotonic() - began)
        return {"step": s.step, "loss": loss, "norm": norm, "lr": lr}
    s.skipped += 1
    what = f"step {s.step}: loss {loss}, gradient norm {norm} at lr {lr:.1e}; first not finite: {first_bad(s.model)}"
    if s.skipped > PATIENCE:
        raise FloatingPointError(
            f"{what}; that was {s.skipped} steps in a row: stopped. A lower lr may help; the checkpoint of step "
            f"{s.saved} is kept in {s.run}"
        )
    show.say(f"{what}; step skipped")
    return {"step": s.step, "loss": None, "norm": None, "lr": lr}


def draw(s: Session) -> tuple[Tensor, Tensor]:
    """A batch of windows from random places of the training text: inputs and targets, (B, T) each."""
    windows = s.tokens["train"].windows(s.model.config.context_length, stride=1)
    return default_collate([windows[start] for start in s.batches.randint(0, len(windows), s.config.batch_size)])


def accumulate(model: GPT, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Add to `.grad` the gradient of the mean loss over all targets of all batches, and return that loss.

    Each batch counts by its number of targets (those of -100 are none), so that several batches are the same as one
    large one, also where they differ in how many they have.
    """
    counts = [(y != -100).sum().item() for _, y in batches]
    mean = 0.0
    for (x, y), count in zip(batches, counts, strict=True):
        if count:
            loss = model(x, y)[1] * (count / sum(counts))
            loss.backward()
            mean += loss.item()
    return mean


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of the step that follows `step` steps: a linear rise, then a cosine to min_lr at the last step."""
    warmup = min(100, config.steps // 10) if config.warmup is None else config.warmup
    min_lr = config.lr / 10 if config.min_lr is None else config.min_lr
    return optim.warmup_cosine(step, lr=config.lr, min_lr=min_lr, warmup=warmup, total=config.steps)


def first_bad(model: GPT) -> str:
    """The first parameter that is not finite itself, or whose gradient is not."""
    for name, p in model.named_parameters():
        for what, tensor in (("the weight", p), ("the gradient of", p.grad)):
            if tensor is not None and not tl.isfinite(tensor).all().item():
                return f"{what} {name}"
    return "the loss"


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


def watch(s: Session, show: Progress, lr: float) -> float:
    """The validation loss, shown, and remembered if it is the best."""
    loss = evaluate(s.model, s.tokens["validation"], s.config.batch_size, s.config.eval_batches)
    s.best = min(s.best, (loss, s.step))
    show.evaluated(s.step, loss, lr)
    return loss


def evaluate(model: GPT, tokens: TokenFile, batch_size: int, batches: int | None = None) -> float:
    """Mean cross-entropy in nats over the windows that cover the text, or over `batches` of them, evenly spread.

    The windows do not overlap: each token is predicted once (of the last ones, fewer than a window may be left out). No
    random numbers; dropout is off.
    """
    windows = tokens.windows(model.config.context_length, model.config.context_length)
    count = len(windows) if batches is None else min(len(windows), batches * batch_size)
    chosen = [i * len(windows) // count for i in range(count)]
    total, training = 0.0, model.training
    model.eval()
    with tl.no_grad():
        for i in range(0, count, batch_size):
            x, y = default_collate([windows[index] for index in chosen[i : i + batch_size]])  # (B, T)
            total += model(x, y)[1].item() * len(x)
    model.train(training)
    return total / count


def append_sample(s: Session, show) -> None:
    """Let the model write, as it stands; to samples.txt and to the screen."""
    prompt, seed = sample_prompt(s), (s.config.seed + s.step) % 2**32
    top_k = min(200, s.tokenizer.vocab_size)
    (new,) = generate(s.model, [prompt], s.config.sample_tokens, temperature=0.7, top_k=top_k, seed=seed)
    text = s.tokenizer.decode(prompt + new).strip("\n")
    with open(s.run / "samples.txt", "a", encoding="utf-8", newline="\n") as file:
        file.write(f"----- step {s.step}\n{text}\n\n")
    show(f"----- a sample at step {s.step}\n{text}\n-----")


def sample_prompt(s: Session) -> list[int]:
    """What samples begin with: the prompt, or a new line, or, where no token is one, the validation text's start."""
    if s.config.prompt is None:
        return new_line(s.tokenizer) or s.tokens["validation"][:1].tolist()
    ids = s.tokenizer.encode(s.config.prompt)
    if not ids:
        raise ValueError(f"the prompt {s.config.prompt!r} has no token in it: give some text")
    return ids


def new_line(tokenizer: Tokenizer) -> list[int]:
    """A new line, after which a text may begin; [] for a tokenizer that does not know it."""
    try:
        return tokenizer.encode("\n")
    except ValueError:  # characters, of a text of one line
        return []


def append_metrics(s: Session, line: dict[str, Any]) -> None:
    with open(s.run / "metrics.jsonl", "a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(line) + "\n")


def finish(s: Session, show: Progress) -> None:
    """The whole validation text, a last sample, and the table."""
    loss = evaluate(s.model, s.tokens["validation"], s.config.batch_size)
    data = s.description["data"]["validation"]
    bits = loss / math.log(2) * data["tokens"] / data["text_bytes"]
    append_metrics(s, {"step": s.step, "whole_validation_loss": loss, "bits_per_byte": bits})
    append_sample(s, show.say)
    rows = {
        "parameters": f"{s.model.num_parameters():,}",
        "tokens trained on": f"{s.step * show.tokens_per_step:,}",
        "tokens per second": f"{show.tokens_per_second():,.0f}" if show.done else "trained before",
        "validation loss, whole text": f"{loss:.4f}",
        "lowest on the way": f"{s.best[0]:.4f} at step {s.best[1]:,}",
        "perplexity": f"{math.exp(min(loss, 700)):,.2f}",
        "bits per byte": f"{bits:.3f}",
        "peak memory": f"{peak_memory() / 2**20:,.0f} MiB",
    }
    show.console.print(result_table(f"{s.run}", rows))
