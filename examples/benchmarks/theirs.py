"""The peers' side of the duels: the same training step in torch, transformers' decoding, nanoGPT's recipe in torch.

One idea: each peer at its best. It uses its own fast paths (one product for query, key and value,
scaled_dot_product_attention, its fused AdamW, inference mode, a loop around transformers' cache without the overhead of
its `generate`), and if its name says so its compiler, bfloat16 and the allocator's settings that `gpt` uses.
"""

import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import torch as safetensors
from torch import nn
from torch.nn import functional as F

from gpt.config import GPTConfig
from tensorlite.devices import machine

from . import setup
from .setup import Job


class Contestant:
    def __init__(self, job: Job):
        self.job, self.folder = job, Path(job.folder)
        if "malloc" in job.options:
            machine.keep_freed_memory()
        torch.set_num_threads(job.threads)
        self.dtype = torch.bfloat16 if "bf16" in job.options else torch.float32
        self.operands: list[tuple] = []

    def autocast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16) if "bf16" in self.job.options else nullcontext()

    def state(self) -> dict[str, torch.Tensor]:
        """The weights of both sides, under tensorlite's names."""
        state = safetensors.load_file(self.folder / "start.safetensors")
        self.tokens = state.pop("tokens")
        return state


def joined(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """tensorlite's weights with W_query, W_key and W_value in one, W_qkv."""
    found = {}
    for name, value in state.items():
        if "W_query" in name:
            parts = [state[name.replace("W_query", f"W_{part}")] for part in ("query", "key", "value")]
            found[name.replace("W_query", "W_qkv")] = torch.cat(parts)
        elif "W_key" not in name and "W_value" not in name:
            found[name] = value
    return found


def parted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The way back."""
    found = {}
    for name, value in state.items():
        if "W_qkv" in name:
            for part, each in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[name.replace("W_qkv", f"W_{part}")] = each.contiguous()
        else:
            found[name] = value
    return found


# ----- training -------------------------------------------------------------------------------------------------------


def loss_of(p: dict[str, torch.Tensor], config: GPTConfig, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a GPT whose parameters have tensorlite's names, except W_qkv: x, y (B, T) -> a scalar."""
    B, T = x.shape

    def linear(h, name):
        return F.linear(h, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def norm(h, name):
        return F.layer_norm(h, (config.n_embd,), p[f"{name}.weight"], p[f"{name}.bias"])

    h = F.embedding(x, p["token_embedding.weight"]) + p["position_embedding.weight"][:T]
    for i in range(config.n_layer):
        n = norm(h, f"blocks.{i}.norm1")
        parts = linear(n, f"blocks.{i}.attention.W_qkv").chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (config.n_head, -1)).transpose(1, 2) for part in parts)  # (B, H, T, D)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + linear(a.transpose(1, 2).reshape(B, T, -1), f"blocks.{i}.attention.out_proj")  # (B, T, H * D)
        n = linear(norm(h, f"blocks.{i}.norm2"), f"blocks.{i}.feed_forward.expand")
        h = h + linear(F.gelu(n, approximate="tanh"), f"blocks.{i}.feed_forward.contract")
    logits = F.linear(norm(h, "final_norm"), p.get("head.weight", p["token_embedding.weight"]))
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())  # (B * T, V)


class Train(Contestant):
    """Steps of training: forward, loss, backward, clipping, AdamW (torch's fused one)."""

    def __init__(self, job: Job):
        super().__init__(job)
        p = {name: value.requires_grad_() for name, value in joined(self.state()).items()}
        batch, config = setup.CONFIGS[job.config][1], job.model
        self.x, self.y = self.tokens[:batch, :-1].contiguous(), self.tokens[:batch, 1:].contiguous()
        self.named, self.parameters = p, list(p.values())

        def forward(x, y):
            return loss_of(p, config, x, y)

        self.forward = torch.compile(forward) if "compile" in job.options else forward
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=setup.LR, betas=setup.BETAS, eps=setup.EPS, weight_decay=setup.WEIGHT_DECAY, fused=True
        )

    def backward(self, x, y):
        self.optimizer.zero_grad()
        with self.autocast():
            loss = self.forward(x, y)
        loss.backward()
        return loss

    def step(self) -> None:
        self.backward(self.x, self.y)
        nn.utils.clip_grad_norm_(self.parameters, setup.CLIP)
        self.optimizer.step()

    def run(self, steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        return time.perf_counter() - began

    def answers(self) -> dict[str, torch.Tensor]:
        loss = self.backward(self.x, self.y)
        grads = parted({name: p.grad for name, p in self.named.items() if p.grad is not None})
        return {"loss": loss.detach()} | {name: grad.contiguous() for name, grad in grads.items()}

    @torch.inference_mode()
    def products(self, times: int) -> float:
        if not self.operands:
            for count, n, i, o in setup.products(self.job.model, setup.CONFIGS[self.job.config][1]):
                x, weight, g = (torch.randn(*shape, dtype=self.dtype) for shape in ((n, i), (o, i), (n, o)))
                self.operands.append((count, ((x, weight.T), (g, weight), (g.T, x))))
        began = time.perf_counter()
        for _ in range(times):
            for count, pairs in self.operands:
                for _ in range(count):
                    for a, b in pairs:
                        torch.mm(a, b)
        return time.perf_counter() - began


# ----- decoding -------------------------------------------------------------------------------------------------------


class Decode(Contestant):
    """transformers' GPT2LMHeadModel with its cache, greedy. The clock runs from each first new token to the last."""

    def __init__(self, job: Job):
        super().__init__(job)
        import transformers

        c, self.cache = job.model, transformers.DynamicCache
        self.network = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.n_embd, n_layer=c.n_layer,
                n_head=c.n_head,
            )
        )  # fmt: skip
        self.network.load_state_dict(gpt2_names(self.state(), c), strict=False)
        self.network.to(dtype=self.dtype)  # type: ignore[call-arg,arg-type]
        self.network.eval()
        self.length = c.context_length
        self.prompts = self.tokens[: job.batch, : self.length // 4]
        self.texts: list[torch.Tensor] = []

    @torch.inference_mode()
    def run(self, steps: int) -> float:
        seconds, tokens = 0.0, self.length // 2
        for _ in range(steps):
            cache = self.cache(config=self.network.config)  # passed by position: its name differs between versions
            found = self.network(self.prompts, cache, use_cache=True, logits_to_keep=1)
            self.texts = [found.logits[:, -1].argmax(-1)]
            began = time.perf_counter()
            for _ in range(tokens):
                found = self.network(self.texts[-1][:, None], cache, use_cache=True)
                self.texts.append(found.logits[:, -1].argmax(-1))
            seconds += time.perf_counter() - began
        return seconds / tokens

    def answers(self) -> dict[str, torch.Tensor]:
        self.run(1)
        return {"tokens": torch.stack(self.texts)}


def gpt2_names(state: dict[str, torch.Tensor], config: GPTConfig) -> dict[str, torch.Tensor]:
    """tensorlite's weights under transformers' names: query, key and value in one matrix, matrices (in, out)."""
    names = {"norm1": "ln_1", "norm2": "ln_2", "attention.out_proj": "attn.c_proj"}
    names |= {"feed_forward.expand": "mlp.c_fc", "feed_forward.contract": "mlp.c_proj"}
    found = {
        "lm_head.weight": state["token_embedding.weight"],
        "transformer.wte.weight": state["token_embedding.weight"],
    }
    found["transformer.wpe.weight"] = state["position_embedding.weight"]
    for kind in ("weight", "bias"):
        found[f"transformer.ln_f.{kind}"] = state[f"final_norm.{kind}"]
        for i in range(config.n_layer):
            ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
            for name, other in names.items():
                value = state[f"{ours}.{name}.{kind}"]
                found[f"{theirs}.{other}.{kind}"] = value.T.contiguous() if value.ndim == 2 else value
            none = torch.zeros(config.n_embd)
            parts = [state.get(f"{ours}.attention.W_{part}.{kind}", none) for part in ("query", "key", "value")]
            found[f"{theirs}.attn.c_attn.{kind}"] = (
                torch.cat(parts).T.contiguous() if kind == "weight" else torch.cat(parts)
            )
    return found


class SmallOp(Contestant):
    """A small op on 4 float32, forward and backward."""

    def __init__(self, job: Job):
        super().__init__(job)
        self.x, self.y = (torch.tensor([0.1, 0.2, 0.3, 0.4], requires_grad=True) for _ in "xy")
        self.g = torch.ones(() if job.config.startswith("sum") else 4)
        ops = {"x * y": lambda x, y: x * y, "x + y": lambda x, y: x + y, "tanh(x)": lambda x, y: torch.tanh(x)}
        self.op = ops.get(job.config, lambda x, y: x.sum())

    def run(self, steps: int) -> float:
        x, y, g, op = self.x, self.y, self.g, self.op
        began = time.perf_counter()
        for _ in range(steps):
            x.grad = y.grad = None
            op(x, y).backward(g)
        return time.perf_counter() - began


# ----- nanoGPT's recipe -----------------------------------------------------------------------------------------------


class Recipe(Train):
    """nanoGPT's recipe for CPUs and its model: tied head, no biases, exact GELU, N(0, 0.02) and scaled projections."""

    def __init__(self, job: Job):
        Contestant.__init__(self, job)
        torch.manual_seed(job.seed)
        self.files = {}
        for part in ("train", "validation"):
            path = self.folder / f"{part}.bin"
            self.files[part] = torch.from_file(str(path), size=path.stat().st_size // 2, dtype=torch.int16)
        self.named = nanogpt(job.vocab_size)
        self.parameters = list(self.named.values())
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": setup.WEIGHT_DECAY},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer, self.done = torch.optim.AdamW(groups, lr=setup.LR, betas=setup.BETAS), 0
        self.forward = torch.compile(self.loss) if "compile" in job.options else self.loss

    def loss(self, x, y):
        p, (B, T) = self.named, x.shape
        h = F.embedding(x, p["wte"]) + p["wpe"][:T]
        for i in range(4):
            q, k, v = F.linear(F.layer_norm(h, (128,), p[f"{i}.norm1"]), p[f"{i}.qkv"]).split(128, dim=2)
            q, k, v = (part.view(B, T, 4, 32).transpose(1, 2) for part in (q, k, v))  # (B, H, T, D)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + F.linear(a.transpose(1, 2).reshape(B, T, 128), p[f"{i}.proj"])  # (B, T, H * D)
            n = F.linear(F.layer_norm(h, (128,), p[f"{i}.norm2"]), p[f"{i}.expand"])
            h = h + F.linear(F.gelu(n), p[f"{i}.contract"])
        logits = F.linear(F.layer_norm(h, (128,), p["norm"]), p["wte"])
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())  # (B * T, V)

    def windows(self, part: str, starts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        data = self.files[part]
        x, y = (torch.stack([data[s + by : s + by + 64].long() for s in starts]) for by in (0, 1))
        return x, y

    def step(self) -> None:
        starts = torch.randint(len(self.files["train"]) - 64, (12,)).tolist()
        lr = schedule(self.done, **setup.SCHEDULE)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.backward(*self.windows("train", starts))
        nn.utils.clip_grad_norm_(self.parameters, setup.CLIP)
        self.optimizer.step()
        self.done += 1

    @torch.inference_mode()
    def evaluate(self) -> float:
        starts, total = list(range(0, len(self.files["validation"]) - 64, 64)), 0.0
        for first in range(0, len(starts), 64):
            x, y = self.windows("validation", starts[first : first + 64])
            with self.autocast():
                total += self.loss(x, y).item() * len(x)
        return total / len(starts)


def nanogpt(vocab_size: int) -> dict[str, torch.Tensor]:
    """Its parameters at 4 layers of width 128 and 64 positions, in a plain dict."""
    p = {"wte": (vocab_size, 128), "wpe": (64, 128)}
    for i in range(4):
        p |= {f"{i}.qkv": (384, 128), f"{i}.proj": (128, 128), f"{i}.expand": (512, 128), f"{i}.contract": (128, 512)}
    made = {
        name: torch.randn(*shape) * (0.02 / math.sqrt(8) if name.endswith(("proj", "contract")) else 0.02)
        for name, shape in p.items()
    }
    made |= {name: torch.ones(128) for i in range(4) for name in (f"{i}.norm1", f"{i}.norm2")} | {
        "norm": torch.ones(128)
    }
    return {name: value.requires_grad_() for name, value in made.items()}


def schedule(step: int, *, lr: float, min_lr: float, warmup: int, total: int) -> float:
    """Linear rise, then half a cosine."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


TASKS = {"train": Train, "decode": Decode, "recipe": Recipe, "overhead": SmallOp}
