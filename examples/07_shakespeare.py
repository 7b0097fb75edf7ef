"""Train a small GPT on Shakespeare, in a loop that fits on a screen.

Characters are the tokens. The model sees 64 of them and says, at every position, how probable each character is as the
next one; the loss is the average of -log(probability of the true next one). Its exponential, the perplexity, is the
number of equally likely characters with that loss. Three tables without a network give reference values: a uniform
guess costs log(number of characters), the frequencies of characters cost less, the frequencies of pairs still less. You
will see the model start at the uniform guess, pass the tables one after another on text that it was not trained on, and
a sample of its text before and after training.

This is the whole of training: draw a batch, forward, backward, clip, step. `gpt train` adds what a long run needs
(checkpoints, resuming, gradient accumulation, a live display).

    python examples/07_shakespeare.py [--steps 1000] [--text FILE] [--out FOLDER]
"""

import math
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.data import corpus
from gpt.generation import generate
from gpt.model import GPT
from gpt.tokenizer import CharTokenizer
from tensorlite import optim

OUT = Path(tempfile.gettempdir(), "tensorlite-examples")
PLAY = Path(__file__).with_name("coriolanus.txt")  # the whole tragedy; any UTF-8 text can be used
T, B = 64, 16  # characters that the model sees, and windows per step


def windows(ids: np.ndarray, random: np.random.Generator) -> tuple[tl.Tensor, tl.Tensor]:
    """(B, T) tokens from random positions, and the token that follows each of them."""
    places = random.integers(0, len(ids) - T, B)[:, None] + np.arange(T)
    return tl.tensor(ids[places]), tl.tensor(ids[places + 1])


def train(model: GPT, ids: np.ndarray, held_out: np.ndarray, steps: int) -> tuple[list[float], dict[int, float]]:
    """Train; return the training loss of every step, and the held-out loss at some steps."""
    random = np.random.default_rng(0)
    optimizer = optim.AdamW(optim.decay_groups(model.parameters(), 0.1), lr=3e-3, betas=(0.9, 0.99))
    losses, checks = [], {}
    for step in range(steps + 1):
        if step % max(1, steps // 10) == 0:
            checks[step] = evaluate(model, held_out)
            print(f"step {step:>5}   loss on held-out text {checks[step]:.3f}")
        x, y = windows(ids, random)
        _, loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.lr = optim.warmup_cosine(step, lr=3e-3, min_lr=3e-4, warmup=steps // 20 + 1, total=steps + 1)
        optimizer.step(grad_scale=optim.clip_scale(optim.grad_norm(model.parameters()), 1.0))
        losses.append(loss.item())
    return losses, checks


def evaluate(model: GPT, ids: np.ndarray, batches: int = 10) -> float:
    """The mean loss over fixed windows."""
    random = np.random.default_rng(1)
    with tl.no_grad():
        return sum(model(*windows(ids, random))[1].item() for _ in range(batches)) / batches


def tables(ids: np.ndarray, held_out: np.ndarray, V: int) -> dict[str, float]:
    """The held-out loss of three tables of frequencies; counts start at 1, so that no probability is 0."""
    ones, pairs = np.ones(V), np.ones((V, V))
    np.add.at(ones, ids, 1)
    np.add.at(pairs, (ids[:-1], ids[1:]), 1)
    single = ones / ones.sum()
    after = pairs / pairs.sum(axis=1, keepdims=True)
    return {
        "blind guessing": math.log(V),
        "how often each occurs": -np.log(single[held_out]).mean(),
        "which follows which": -np.log(after[held_out[:-1], held_out[1:]]).mean(),
    }


def main(steps: int = 1000, text: Path = PLAY, out: Path = OUT) -> None:
    tl.manual_seed(0)
    train_text, held_out_text = corpus.split(corpus.read_text(text))
    tokenizer = CharTokenizer.train(train_text + held_out_text)
    ids, held_out = (np.array(tokenizer.encode(part)) for part in (train_text, held_out_text))
    if len(held_out) <= T:
        raise SystemExit(f"{text} is too short: a tenth of it is held out and must be longer than {T} characters")
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=T, n_layer=2, n_head=4, n_embd=64))
    print(f"{len(ids):,} characters for training, {tokenizer.vocab_size} different ones")
    print(f"a GPT of {model.num_parameters():,} parameters")
    marks = tables(ids, held_out, tokenizer.vocab_size)
    print("\n".join(f"   {name:<24} costs {loss:.3f}" for name, loss in marks.items()))

    def sample() -> str:
        (written,) = generate(model, [ids[:1].tolist()], 300, temperature=0.8, seed=1)
        return tokenizer.decode(written)

    before, start = sample(), time.perf_counter()
    losses, checks = train(model, ids, held_out, steps)
    elapsed = time.perf_counter() - start
    print(f"{(steps + 1) * B * T / elapsed:,.0f} characters a second, {elapsed:.0f} s")
    beaten = [name for name, loss in marks.items() if checks[max(checks)] < loss]
    print(f"better than: {', '.join(beaten) or 'nothing yet'}")
    print(f"\n----- before -----\n{before}\n\n----- after -----\n{sample()}")
    draw(losses, checks, marks, out)


def draw(losses: list[float], checks: dict[int, float], marks: dict[str, float], out: Path) -> None:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(losses, color="#2f6fb5", alpha=0.35, linewidth=1, label="each training batch")
    axes.plot(list(checks), list(checks.values()), "o-", color="#2f6fb5", linewidth=2, label="held-out text")
    for name, loss in marks.items():
        axes.axhline(loss, color="0.5", linewidth=1, linestyle="--")
        axes.text(len(losses) - 1, loss + 0.03, name, ha="right", fontsize=9, color="0.35")
    axes.set(title="a GPT and three tables", xlabel="step", ylabel="cross-entropy per character")
    axes.legend(loc=(0.4, 0.68))
    axes.spines[["top", "right"]].set_visible(False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "07_shakespeare.png", dpi=120)
    print(f"\npicture: {out / '07_shakespeare.png'}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
