"""tensorlite's side of the duels: a training step, decoding, and nanoGPT's recipe, as in `gpt`.

The benchmark uses only the code of `gpt train` and `gpt generate`.
"""

import math
import time
from pathlib import Path

import tensorlite as tl
from gpt import fast
from gpt.config import GPTConfig
from gpt.fast import divided_step
from gpt.fast.weights_dtype import set_weights_dtype, weight_bytes
from gpt.generation import stream
from gpt.model import GPT
from gpt.tasks.pretrain import Pretraining, TrainConfig
from tensorlite import Generator, Tensor, io, optim
from tensorlite import functional as F
from tensorlite.data import TokenFile, default_collate
from tensorlite.devices import machine
from tensorlite.kernels import precision

from . import setup
from .setup import Job


class Contestant:
    """Shared by the three: sets up the process and the dtype of products."""

    def __init__(self, job: Job):
        self.job, self.folder = job, Path(job.folder)
        machine.keep_freed_memory()
        self.device = "cpu" if job.device == "cpu" else setup.GPU
        said = precision.set_matmul_dtype(job.dtype, self.device)
        if precision.matmul_dtype() != job.dtype:
            raise RuntimeError(said)

    def model(self, config: GPTConfig) -> GPT:
        """The model with the weights of both sides."""
        state = io.entries(self.folder / "start.safetensors")
        self.tokens = state.pop("tokens").read()
        model = GPT.without_init(config)
        model.load_state_dict(state)
        return model.to(self.device)


class Train(Contestant):
    """Steps of training: forward, loss, backward, clipping, AdamW."""

    def __init__(self, job: Job):
        super().__init__(job)
        machine.set_threads(job.threads)
        self.network = self.model(job.model)
        self.x, self.y = self.tokens[: job.rows, :-1], self.tokens[: job.rows, 1:]
        self.parameters = list(self.network.parameters())
        self.optimizer = optim.AdamW(
            self.parameters, lr=setup.LR, betas=setup.BETAS, eps=setup.EPS, weight_decay=setup.WEIGHT_DECAY
        )
        self.operands: list[tuple] = []

    def gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the gradient of the loss to `.grad`; return the loss."""
        least = divided_step.least_tokens(self.network, len(x))
        return divided_step.accumulate(Pretraining, self.network, [(x, y)], [y.size], least)

    def update(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        self.gradients(x, y)
        self.optimizer.step(grad_scale=optim.clip_scale(self.optimizer.global_norm(), setup.CLIP))

    def step(self) -> None:
        self.update(self.x, self.y)

    def run(self, steps: int) -> float:
        """Seconds for that many steps."""
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        return time.perf_counter() - began

    def answers(self) -> dict[str, Tensor]:
        """Loss and gradients of the first batch."""
        self.optimizer.zero_grad()
        loss = self.gradients(self.x, self.y)
        return {"loss": loss} | {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}

    def products(self, times: int) -> float:
        """Seconds for the matrix products of a step alone, repeated that many times."""
        if not self.operands:
            for count, n, i, o in setup.products(self.job.model, self.job.rows):
                x, weight, g = (tl.randn(*shape).data for shape in ((n, i), (o, i), (n, o)))
                self.operands.append((count, ((x, weight), (g, weight.T), (g.T, x.T))))
        began = time.perf_counter()
        for _ in range(times):
            for count, pairs in self.operands:
                for _ in range(count):
                    for a, b in pairs:
                        F.linear(a, b)
        return time.perf_counter() - began


class Decode(Contestant):
    """Greedy texts, with the cache. The clock runs from each first new token to the last."""

    def __init__(self, job: Job):
        super().__init__(job)
        fast.attach_decode()
        machine.set_threads(job.threads)
        self.network = set_weights_dtype(self.model(job.model).eval(), job.weights)
        self.length = job.model.context_length
        self.prompts = self.tokens[: job.batch, : self.length // 4].tolist()
        self.new = self.length // 2
        self.texts: list = []

    def run(self, steps: int) -> float:
        """Seconds per token, over that many texts of `new` tokens."""
        seconds = 0.0
        for _ in range(steps):
            texts = stream(self.network, self.prompts, self.new + 1)
            self.texts = [next(texts)]
            began = time.perf_counter()
            self.texts += texts
            seconds += time.perf_counter() - began
        return seconds / self.new

    def answers(self) -> dict[str, Tensor]:
        self.run(1)
        return {"tokens": tl.tensor(self.texts)}

    def weight_bytes(self) -> int:
        """The bytes of the weights that a step reads."""
        return weight_bytes(self.network)

    def bandwidth(self) -> float:
        """This machine's memory bandwidth in GB/s: half a gigabyte of weights times a vector, the best of ten tries."""
        weight, x = tl.ones((1 << 17, 1 << 10)).data, tl.ones((1, 1 << 10)).data
        best = math.inf
        for _ in range(10):
            began = time.perf_counter()
            F.linear(x, weight)
            best = min(best, time.perf_counter() - began)
        return weight.nbytes / best / 1e9


class SmallOp(Contestant):
    """A small op on 4 float32, forward and backward."""

    def __init__(self, job: Job):
        super().__init__(job)
        self.x, self.y = (tl.tensor([0.1, 0.2, 0.3, 0.4], requires_grad=True) for _ in "xy")
        self.g = tl.ones(() if job.config.startswith("sum") else 4)
        ops = {"x * y": lambda x, y: x * y, "x + y": lambda x, y: x + y, "tanh(x)": lambda x, y: tl.tanh(x)}
        self.op = ops.get(job.config, lambda x, y: x.sum())

    def run(self, steps: int) -> float:
        x, y, g, op = self.x, self.y, self.g, self.op
        began = time.perf_counter()
        for _ in range(steps):
            x.grad = y.grad = None
            op(x, y).backward(g)
        return time.perf_counter() - began


class Recipe(Train):
    """nanoGPT's recipe for CPUs, with the model that our README trains with it."""

    def __init__(self, job: Job):
        Contestant.__init__(self, job)
        machine.set_threads(job.threads)
        self.files = {part: TokenFile(self.folder / f"{part}.tokens") for part in ("train", "validation")}
        self.config = TrainConfig(preset="nano", context_length=64, batch_size=12, dropout=0.0)
        tl.manual_seed(job.seed)
        self.network, self.draws = GPT(self.config.model(job.vocab_size)), Generator(job.seed)
        self.parameters = list(self.network.parameters())
        groups = optim.decay_groups(self.parameters, setup.WEIGHT_DECAY)
        self.optimizer, self.done = optim.AdamW(groups, lr=setup.LR, betas=setup.BETAS), 0

    def step(self) -> None:
        windows = self.files["train"].windows(64, stride=1)
        x, y = default_collate([windows[start] for start in self.draws.randint(0, len(windows), 12)])
        self.optimizer.lr = optim.warmup_cosine(self.done, **setup.SCHEDULE)
        self.update(x, y)
        self.done += 1

    def evaluate(self) -> float:
        """The loss over the whole validation text."""
        windows, total = self.files["validation"].windows(64, 64), 0.0
        with tl.no_grad():
            for start in range(0, len(windows), 64):
                x, y = default_collate([windows[i] for i in range(start, min(start + 64, len(windows)))])
                total += self.network.loss(x, y).item() * len(x)
        return total / len(windows)


TASKS = {"train": Train, "decode": Decode, "recipe": Recipe, "overhead": SmallOp}
