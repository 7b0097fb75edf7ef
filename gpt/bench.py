"""How fast a training step is, beside PyTorch's: `python -m gpt.bench`.

One idea: ratios. Absolute times say something about a machine; two programs that take turns on it say something about
each other. So each contestant lives in a process of its own with the same threads, weights and tokens, computes the
same loss and gradients (checked before anything is timed), and then they take turns for some steps each: forward, loss,
backward, clipping to norm 1, AdamW. Shown is the median over the turns.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

import tensorlite as tl
from tensorlite import backend, io, optim

from .config import GPTConfig
from .model import GPT

CONFIGS = {  # name: the model, and the batch size
    "recipe": (GPTConfig(vocab_size=65, context_length=64, n_layer=4, n_head=4, n_embd=128), 12),  # nanoGPT's for CPUs
    "tiny": (GPTConfig(vocab_size=256, context_length=64, n_layer=4, n_head=4, n_embd=128), 16),
    "char": (GPTConfig(vocab_size=65, context_length=256, n_layer=6, n_head=6, n_embd=384), 8),
    "gpt2": (GPTConfig(vocab_size=50257, context_length=256, n_layer=12, n_head=12, n_embd=768, qkv_bias=True), 4),
}
LR, BETAS, EPS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 1e-8, 0.1, 1.0


@dataclass(frozen=True)
class Bench:
    """Time training steps side by side."""

    configs: tuple[str, ...] = ("recipe", "tiny")  # of recipe, tiny, char, gpt2
    peers: tuple[str, ...] = ("torch",)  # of torch, torch-compile, torch-bf16
    threads: int = os.cpu_count() or 1  # the same for everyone
    turns: int = 9  # how often each contestant gets its turn
    seconds: float = 1.0  # about how long a turn takes
    json: Path | None = None  # where to write the numbers
    worker: str | None = None  # used by the benchmark itself, to start a contestant
    folder: Path = Path()  # likewise


def main(args: list[str] | None = None) -> None:
    bench = tyro.cli(Bench, args=args, prog="python -m gpt.bench", description=__doc__)
    if bench.worker:
        serve(bench)
        return
    rows = [row for name in bench.configs for row in compare(name, bench)]
    report = {"machine": machine(bench), "rows": rows}
    if bench.json:
        bench.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report)


def compare(name: str, bench: Bench) -> list[dict]:
    """One configuration: the same weights and tokens for all, agreement first, then turns."""
    config, batch = CONFIGS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = GPT(config)
        tokens = tl.randint(0, config.vocab_size, (batch, config.context_length + 1))
        io.save(folder / "start.safetensors", model.state_dict() | {"tokens": tokens})
        players = {who: Player(who, name, bench, folder) for who in ("tensorlite", *bench.peers)}
        try:
            for who in bench.peers:
                agree(folder, who, tolerance=2e-2 if "bf16" in who else 1e-4)
            steps = {who: max(1, round(bench.seconds / player.run(2))) for who, player in players.items()}
            times: dict[str, list[float]] = {who: [] for who in players}
            for _ in range(bench.turns):
                for who, player in players.items():
                    times[who].append(player.run(steps[who]))
            peaks = {who: player.stop() for who, player in players.items()}
        finally:
            for player in players.values():
                player.process.kill()
    medians = {who: statistics.median(t) for who, t in times.items()}
    return [
        {
            "config": name,
            "who": who,
            "ms_per_step": 1e3 * medians[who],
            "spread_ms": [1e3 * min(times[who]), 1e3 * max(times[who])],
            "tokens_per_second": batch * config.context_length / medians[who],
            "peak_MiB": peaks[who],
            "times_as_fast": medians[who] / medians["tensorlite"],
        }
        for who in players
    ]


class Player:
    """A contestant in its own process: it says the seconds per step that it took for as many steps as it is told."""

    def __init__(self, who: str, config: str, bench: Bench, folder: Path):
        self.who = who
        environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
        environment |= {f"{library}_NUM_THREADS": str(bench.threads) for library in ("OMP", "OPENBLAS", "MKL")}
        command = [sys.executable, "-m", "gpt.bench", "--worker", who, "--configs", config, "--folder", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--threads", str(bench.threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.ask("ready")

    def ask(self, line: str) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.who} stopped before it answered: see its message above")
        return float(answer)

    def run(self, steps: int) -> float:
        return self.ask(str(steps)) / steps

    def stop(self) -> float:
        peak = self.ask("stop")
        self.process.wait()
        return peak


def agree(folder: Path, who: str, tolerance: float) -> None:
    """The peer's loss and every gradient are ours, relative to the gradient's length."""
    ours, theirs = io.load(folder / "tensorlite.safetensors"), io.load(folder / f"{who}.safetensors")
    for name, x in ours.items():
        error = ((x - theirs[name]).norm() / (x.norm() + 1e-12)).item()
        if not error <= tolerance:
            raise SystemExit(f"{who} differs in {name} by {error:.1e}, more than {tolerance:.0e}: nothing was timed")


# ----- the contestants --------------------------------------------------------------------------------------------


def serve(bench: Bench) -> None:
    """A contestant's process: load, compute the first gradients, then time as many steps as standard input says."""
    who, (config, _) = str(bench.worker), CONFIGS[bench.configs[0]]
    start = bench.folder / "start.safetensors"
    step = (tensorlite_step if who == "tensorlite" else torch_step)(who, config, start, bench)
    for line in sys.stdin:
        word = line.strip()
        if word == "stop":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
            return
        began = time.perf_counter()
        for _ in range(int(word) if word.isdigit() else 0):
            step()
        print(time.perf_counter() - began, flush=True)


def tensorlite_step(who: str, config: GPTConfig, start: Path, bench: Bench):
    backend.keep_freed_memory()
    backend.set_threads(bench.threads)
    state = io.load(start)
    tokens = state.pop("tokens")
    x, y = tokens[:, :-1], tokens[:, 1:]
    model = GPT(config)
    model.load_state_dict(state)
    parameters = list(model.parameters())
    optimizer = optim.AdamW(parameters, lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)

    def step(update=True):
        optimizer.zero_grad()
        loss = model(x, y)[1]
        loss.backward()
        if update:
            optimizer.step(grad_scale=optim.clip_scale(optim.grad_norm(parameters), CLIP))
        return loss

    loss = step(update=False)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    io.save(bench.folder / f"{who}.safetensors", {"loss": loss, **gradients})
    return step


def torch_step(who: str, config: GPTConfig, start: Path, bench: Bench):
    import torch
    from safetensors import torch as safetensors
    from torch.nn import functional as F

    torch.set_num_threads(bench.threads)
    p = safetensors.load_file(start)
    tokens = p.pop("tokens")
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    p = {name: value.requires_grad_() for name, value in p.items()}

    def linear(h, name):
        return F.linear(h, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def norm(h, name):
        return F.layer_norm(h, (config.n_embd,), p[f"{name}.weight"], p[f"{name}.bias"])

    def loss_of(x, y):
        B, T = x.shape
        h = F.embedding(x, p["token_embedding.weight"]) + p["position_embedding.weight"][:T]
        for i in range(config.n_layer):
            n = norm(h, f"blocks.{i}.norm1")
            q, k, v = (
                linear(n, f"blocks.{i}.attention.W_{part}").view(B, T, config.n_head, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + linear(a.transpose(1, 2).reshape(B, T, -1), f"blocks.{i}.attention.out_proj")
            n = linear(norm(h, f"blocks.{i}.norm2"), f"blocks.{i}.feed_forward.expand")
            h = h + linear(F.gelu(n, approximate="tanh"), f"blocks.{i}.feed_forward.contract")
        logits = F.linear(norm(h, "final_norm"), p["token_embedding.weight"])
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    forward = torch.compile(loss_of) if who == "torch-compile" else loss_of
    parameters = list(p.values())
    optimizer = torch.optim.AdamW(parameters, lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)

    def step(update=True):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=who == "torch-bf16"):
            loss = forward(x, y)
        loss.backward()
        if update:
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
        return loss

    loss = step(update=False)
    gradients = {name: value.grad.contiguous() for name, value in p.items() if value.grad is not None}
    safetensors.save_file({"loss": loss.detach(), **gradients}, bench.folder / f"{who}.safetensors")
    return step


# ----- the report -------------------------------------------------------------------------------------------------


def machine(bench: Bench) -> dict:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.partition(":")[2].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0] if names else cpu
    libraries = ["numpy", "tensorlite"] + (["torch"] if bench.peers else [])
    return {
        "cpu": cpu,
        "threads": bench.threads,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "settings": {k: str(v) for k, v in asdict(bench).items() if k in ("turns", "seconds")},
    }


def show(report: dict) -> None:
    where = report["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in where.items() if k not in ("cpu", "threads", "settings"))
    table = Table(
        title="a training step, float32 unless it says otherwise",
        caption=f"{where['cpu']}, {where['threads']} threads, {versions}",
    )
    for column in ("config", "who", "ms a step", "tokens/s", "peak MiB", "tensorlite is"):
        table.add_column(column, justify="left" if column in ("config", "who") else "right")
    for row in report["rows"]:
        table.add_row(
            row["config"], row["who"], f"{row['ms_per_step']:.1f}", f"{row['tokens_per_second']:,.0f}",
            f"{row['peak_MiB']:,.0f}", "" if row["who"] == "tensorlite" else f"{row['times_as_fast']:.2f} x as fast",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
