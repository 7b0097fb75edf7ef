"""The peers' side of the duels on a GPU: torch's training step, transformers' decoding, and a decoder in torch.

One idea: each peer at its best, as its users write it for speed. Training follows nanoGPT: bfloat16 autocast, one
product for query, key and value, scaled_dot_product_attention, fused AdamW, a vocabulary padded to a multiple of 128,
and if the name says so torch.compile, or the whole step as one CUDA graph. TF32 is on except for -fp32. Decoding has
its weights in bfloat16; torch's own has a cache of fixed size, so that a step can be a CUDA graph.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import torch as safetensors
from torch import nn
from torch.nn import functional as F

from gpt.config import GPTConfig

from . import gpu, setup
from .setup import Job
from .theirs import gpt2_names, joined, parted

PAD = 128  # V is padded to a multiple of it: for odd row lengths, such as 50257, products do not use their fast kernels


class Network(nn.Module):
    """A GPT with tensorlite's names, except W_qkv: x, y (B, T) -> a scalar loss."""

    def __init__(self, config: GPTConfig, vocab_size: int):
        super().__init__()
        C = config.n_embd
        self.token_embedding = nn.Embedding(vocab_size if config.tie_head else config.vocab_size, C)
        self.position_embedding = nn.Embedding(config.context_length, C)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.final_norm = nn.LayerNorm(C)
        self.head = None if config.tie_head else nn.Linear(C, vocab_size, bias=False)

    def forward(self, x, y):
        h = self.token_embedding(x) + self.position_embedding.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return F.cross_entropy(self.logits(self.final_norm(h)).flatten(0, 1), y.flatten())  # (B * T, V)

    def logits(self, h):
        return F.linear(h, (self.token_embedding if self.head is None else self.head).weight)


class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attention = nn.ModuleDict(
            {"W_qkv": nn.Linear(C, 3 * C, bias=config.qkv_bias), "out_proj": nn.Linear(C, C)}
        )
        self.feed_forward = nn.ModuleDict({"expand": nn.Linear(C, 4 * C), "contract": nn.Linear(4 * C, C)})

    def heads(self, x):
        """(B, T, C) -> query, key, value (B, H, T, D) each"""
        parts = self.attention["W_qkv"](self.norm1(x)).chunk(3, dim=-1)
        return [part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in parts]

    def rest(self, x, context):
        """The rest of a block after attention: x (B, T, C) and the heads' averages (B, H, T, D)."""
        x = x + self.attention["out_proj"](context.transpose(1, 2).flatten(2))
        h = F.gelu(self.feed_forward["expand"](self.norm2(x)), approximate="tanh")
        return x + self.feed_forward["contract"](h)

    def forward(self, x):
        return self.rest(x, F.scaled_dot_product_attention(*self.heads(x), is_causal=True))


class Contestant:
    def __init__(self, job: Job):
        self.job, self.model = job, job.model
        torch.set_float32_matmul_precision("highest" if job.dtype == "float32" else "high")
        torch.zeros(1, device=setup.GPU)  # creates CUDA's context, which is not counted
        self.before = gpu.used()
        self.state = safetensors.load_file(Path(job.folder) / "start.safetensors")
        self.tokens = self.state.pop("tokens").to(setup.GPU)

    def network(self, pad: bool) -> Network:
        """The model with the weights of both sides, in float32."""
        c, state = self.model, joined(self.state)
        self.head = "token_embedding.weight" if c.tie_head else "head.weight"
        vocab_size = -(-c.vocab_size // PAD) * PAD if pad else c.vocab_size
        state[self.head] = F.pad(state[self.head], (0, 0, 0, vocab_size - c.vocab_size))
        with torch.device(setup.GPU):
            network = Network(c, vocab_size)
        network.load_state_dict(state)
        return network

    def peak(self) -> int:
        """Peak bytes, since its allocator keeps freed memory."""
        return gpu.used() - self.before

    def forget(self) -> None:
        """Free cached memory, since the memory of the answers does not belong to a step."""
        if setup.GPU == "cuda":
            torch.cuda.empty_cache()


def recorded(step):
    """The function as a CUDA graph, and its result; after three calls on a side stream, as torch requires."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph, result


# ----- training -------------------------------------------------------------------------------------------------------


class Train(Contestant):
    """Steps of training: forward, loss, backward, clipping, AdamW (torch's fused one)."""

    def __init__(self, job: Job):
        super().__init__(job)
        self.net = self.network(pad=job.dtype != "float32")
        self.parameters = list(self.net.parameters())
        self.x, self.y = self.tokens[: job.rows, :-1].contiguous(), self.tokens[: job.rows, 1:].contiguous()
        self.forward = torch.compile(self.net) if "compile" in job.options else self.net
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=setup.LR, betas=setup.BETAS, eps=setup.EPS, weight_decay=setup.WEIGHT_DECAY,
            fused=True, capturable="graph" in job.options,
        )  # fmt: skip
        self.replay: Callable | None = None

    def autocast(self):
        if self.job.dtype != "bfloat16":
            return nullcontext()
        return torch.autocast(setup.GPU, torch.bfloat16, cache_enabled="graph" not in self.job.options)

    def backward(self):
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.forward(self.x, self.y)
        loss.backward()
        return loss.detach()

    def step(self):
        loss = self.backward()
        nn.utils.clip_grad_norm_(self.parameters, setup.CLIP)
        self.optimizer.step()
        return loss

    def run(self, steps: int) -> float:
        if "graph" in self.job.options and self.replay is None:
            graph, self.loss = recorded(self.step)
            self.replay = lambda: (graph.replay(), self.loss)[1]
        step = self.replay or self.step
        began = time.perf_counter()
        for _ in range(steps):
            loss = step()
        loss.item()  # waits for it, and so for all steps
        return time.perf_counter() - began

    def answers(self) -> dict[str, torch.Tensor]:
        loss = self.backward()
        grads = {name: p.grad for name, p in self.net.named_parameters()}
        grads[self.head] = grads[self.head][: self.model.vocab_size]  # without the padding
        found = {"loss": loss} | parted(grads)
        return {name: value.float().cpu().contiguous() for name, value in found.items()}

    def forget(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        super().forget()

    def profile(self, steps: int) -> dict:
        return gpu.profiled(self.run, steps)


# ----- decoding -------------------------------------------------------------------------------------------------------


class Decode(Contestant):
    """Greedy texts of an eighth of the context, each token copied to the host.

    A subclass defines `read` (prompts -> scores (B, V)) and `step` (tokens (B,) -> scores).
    """

    read: Callable[..., torch.Tensor]
    step: Callable[..., torch.Tensor]

    def __init__(self, job: Job):
        super().__init__(job)
        self.length = self.model.context_length
        self.prompts = self.tokens[: job.batch, : self.length // 4]
        self.new = self.length // 8
        self.dtype = torch.bfloat16 if job.dtype == "bfloat16" else torch.float32

    def next(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B,): the most probable ones."""
        return self.step(tokens).argmax(-1)

    @torch.inference_mode()
    def run(self, steps: int) -> float:
        """Seconds per token, over that many texts."""
        seconds = 0.0
        for _ in range(steps):
            tokens = self.read().argmax(-1)
            self.texts = [tokens.tolist()]
            began = time.perf_counter()
            for _ in range(self.new):
                tokens = self.next(tokens)
                self.texts.append(tokens.tolist())
            seconds += time.perf_counter() - began
        return seconds / self.new

    @torch.inference_mode()
    def answers(self) -> dict[str, torch.Tensor]:
        """The scores after the prompts, and those after one more token."""
        first = self.read().float().cpu()
        second = self.step(self.tokens[: self.job.batch, self.length // 4]).float().cpu()
        return {"first": first.contiguous(), "second": second.contiguous()}


class Transformers(Decode):
    """Its GPT2LMHeadModel with its cache, without the overhead of its `generate`."""

    def __init__(self, job: Job):
        super().__init__(job)
        import transformers

        c, self.new_cache = self.model, transformers.DynamicCache
        with torch.device(setup.GPU):
            self.net = transformers.GPT2LMHeadModel(
                transformers.GPT2Config(
                    vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.n_embd, n_layer=c.n_layer,
                    n_head=c.n_head,
                )
            )  # fmt: skip
        self.net.load_state_dict(gpt2_names(self.state, c), strict=False)
        self.net.to(dtype=self.dtype)  # type: ignore[call-arg,arg-type]
        self.net.eval()

    def read(self) -> torch.Tensor:
        self.cache = self.new_cache(config=self.net.config)  # passed by position: its name differs between versions
        return self.net(self.prompts, self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.net(tokens[:, None], self.cache, use_cache=True).logits[:, -1]


class Torch(Decode):
    """A static cache: keys and values are in arrays of fixed size, so that each step has the same shapes."""

    def __init__(self, job: Job):
        super().__init__(job)
        self.net = self.network(pad=False).to(self.dtype).eval()
        c, read = self.model, self.length // 4
        room = (job.batch, c.n_head, read + self.new + 1, c.n_embd // c.n_head)
        self.cache = [[torch.zeros(room, dtype=self.dtype, device=setup.GPU) for _ in "kv"] for _ in self.net.blocks]
        self.places = torch.arange(room[2], device=setup.GPU)
        self.token = torch.zeros(job.batch, 1, dtype=torch.int64, device=setup.GPU)
        self.at = torch.zeros(1, dtype=torch.int64, device=setup.GPU)
        self.forward = torch.compile(self.scores) if "compile" in job.options else self.scores
        self.replay: Callable | None = None

    def scores(self, idx, at):
        """Tokens (B, T) at the positions `at` (T,) -> scores (B, V) of the token after the last."""
        h = self.net.token_embedding(idx) + self.net.position_embedding(at)
        mask = self.places <= at[:, None]  # (T, S): no position attends to a later one
        for block, (keys, values) in zip(self.net.blocks, self.cache, strict=True):
            q, k, v = block.heads(h)
            keys.index_copy_(2, at, k)
            values.index_copy_(2, at, v)
            h = block.rest(h, F.scaled_dot_product_attention(q, keys, values, attn_mask=mask))
        return self.net.logits(self.net.final_norm(h[:, -1]))

    def read(self) -> torch.Tensor:
        read = self.prompts.shape[1]
        self.at.fill_(read)
        return self.scores(self.prompts, self.places[:read])

    def both(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and the best tokens, which are the next ones."""
        scores = self.forward(self.token, self.at)
        self.at += 1
        best = scores.argmax(-1)
        self.token.copy_(best[:, None])
        return scores, best

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.after(tokens)[0]

    def next(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.after(tokens)[1]

    def after(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and the best tokens."""
        if "graph" in self.job.options and self.replay is None:
            graph, found = recorded(self.both)
            self.at -= 3  # they have written to the positions of this token and the next ones
            self.replay = lambda: (graph.replay(), found)[1]
        self.token.copy_(tokens[:, None])
        return (self.replay or self.both)()

    def begin(self) -> Callable[[], list[int]]:
        """Begin the next token: a function that waits for it on the host."""
        there = torch.empty(self.job.batch, dtype=torch.int64, pin_memory=setup.GPU == "cuda")
        there.copy_((self.replay or self.both)()[1], non_blocking=True)
        if setup.GPU != "cuda":
            return there.tolist
        event = torch.cuda.Event()
        event.record()
        return lambda: (event.synchronize(), there.tolist())[1]

    @torch.inference_mode()
    def run(self, steps: int) -> float:
        """A graph needs nothing from the host, so the GPU continues while the host reads the previous token."""
        if "graph" not in self.job.options:
            return super().run(steps)
        seconds = 0.0
        for _ in range(steps):
            tokens = self.read().argmax(-1)
            self.texts = [tokens.tolist()]
            began = time.perf_counter()
            self.texts.append(self.next(tokens).tolist())
            following = self.begin()
            for left in range(self.new - 2, -1, -1):
                begun, following = following, self.begin() if left else following
                self.texts.append(begun())
            seconds += time.perf_counter() - began
        return seconds / self.new


def decode(job: Job) -> Decode:
    return Transformers(job) if job.library == "transformers" else Torch(job)


TASKS = {"train": Train, "decode": decode}
