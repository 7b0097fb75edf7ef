"""Train a GPT on Shakespeare's characters in a plain loop of 15 lines, as fast as `gpt train` where both split each op.

Nothing has to be set for speed: the first optimizer of a program sets the number of threads and keeps freed memory for
reuse. You will see the loss fall and a sample; with --compare, the time of a step in turns with the plain steps of
`gpt train`. (For a small model, it gives each thread its own sequences instead:
`tensorlite.accelerate.parallel.backward`.)

    python examples/09_plain_loop.py [--steps 500] [--compare 20]
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import tyro

import tensorlite as tl
from gpt.config import PRESETS
from gpt.data import corpus
from gpt.generation import generate
from gpt.model import GPT
from gpt.tokenizer import CharTokenizer
from tensorlite import optim
from tensorlite.data import DataLoader, Windows

T, B = 64, 12  # characters that the model sees, and windows per step: nanoGPT's recipe for CPUs


def train(steps: int) -> Iterator[tuple[GPT, CharTokenizer, float]]:
    """The plain loop; yields the model, the tokenizer and the loss after each step."""
    tl.manual_seed(1337)
    text = corpus.builtin()
    tokenizer = CharTokenizer.train(text)
    loader = DataLoader(Windows(np.array(tokenizer.encode(text)), T, stride=1), batch_size=B, shuffle=True)
    model = GPT(replace(PRESETS["nano"], vocab_size=tokenizer.vocab_size, context_length=T))
    optimizer = optim.AdamW(optim.decay_groups(model.parameters(), 0.1), lr=1e-3, betas=(0.9, 0.99))
    for step, (x, y) in zip(range(steps), loader, strict=False):
        optimizer.lr = optim.warmup_cosine(step, lr=1e-3, min_lr=1e-4, warmup=steps // 20, total=steps)
        loss = model.loss(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(grad_scale=optim.clip_scale(optimizer.global_norm(), 1.0))
        yield model, tokenizer, loss.item()


def gpt_train(steps: int, folder: Path) -> Iterator[float]:
    """The same steps by `gpt train`'s own code, without its evaluations and files."""
    from gpt.tasks.pretrain import Pretraining, TrainConfig
    from gpt.training import loop, session

    config = TrainConfig(
        tokenizer="char", context_length=T, batch_size=B, steps=steps, lr=1e-3, min_lr=1e-4, warmup=steps // 20
    )
    run = session.begin(Pretraining, config, folder, lambda line: None)
    own = loop.PlainSteps(run, print)
    for _ in range(steps):
        (result,) = own.next(read=True)
        yield result.loss


def main(steps: int = 500, compare: int = 0) -> None:
    if compare:
        print(ratios(compare, steps=10))
        return
    for step, (model, tokenizer, loss) in enumerate(train(steps), start=1):  # noqa: B007
        if step == 1 or step % max(1, steps // 10) == 0:
            print(f"step {step:>5}   loss {loss:.3f}")
    (written,) = generate(model, [tokenizer.encode("\n")], 300, temperature=0.8, seed=1)
    print(f"----- a sample\n{tokenizer.decode(written)}")


def ratios(turns: int, steps: int) -> str:
    """The time of a step of both loops, in turns of that many steps; the first turn prepares and is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        loops = {"this loop": train((turns + 1) * steps), "gpt train": gpt_train((turns + 1) * steps, Path(folder))}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
        for _ in range(turns + 1):
            for name, steps_of in loops.items():
                began, used = time.perf_counter(), time.process_time()
                for _ in range(steps):
                    next(steps_of)
                taken[name].append((time.perf_counter() - began, time.process_time() - used))
    lines = []
    for i, what in enumerate(("time", "processor time of all threads")):
        ours, theirs = ([turn[i] for turn in taken[name][1:]] for name in loops)
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        times = f"{1e3 * median(ours) / steps:.1f} ms and {1e3 * median(theirs) / steps:.1f} ms of gpt train"
        lines.append(f"{what} of a step, median of {turns} turns: {times}, ratio {ratio:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
