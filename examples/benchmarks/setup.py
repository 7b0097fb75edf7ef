"""The configurations, the contestants, and the job of a contestant's process.

A contestant is identified by its name. "torch-bf16-compile" has the library and its options, so that a table, a file of
results and a command line use the same names.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from gpt.config import PRESETS, GPTConfig
from gpt.model import parameter_table

CONFIGS = {  # name: the model, and the batch size
    "recipe": (GPTConfig(vocab_size=65, context_length=64, n_layer=4, n_head=4, n_embd=128), 12),  # nanoGPT's for CPUs
    "calls": (GPTConfig(vocab_size=8, context_length=4, n_layer=4, n_head=4, n_embd=8), 1),  # the ops on tiny arrays
    "tiny": (GPTConfig(vocab_size=256, context_length=64, n_layer=4, n_head=4, n_embd=128), 16),
    "char": (GPTConfig(vocab_size=65, context_length=256, n_layer=6, n_head=6, n_embd=384), 8),
    "gpt2": (GPTConfig(vocab_size=50257, context_length=256, n_layer=12, n_head=12, n_embd=768, qkv_bias=True), 4),
    "small": (PRESETS["nano"], 2),  # what `gpt train` trains
    "chapter7": (replace(PRESETS["gpt2-medium"].with_dropout(0.0), context_length=64), 8),  # the book's fine-tuning
}
GPU_CONFIGS = {  # the presets, in batches that keep a GPU busy
    "gpt2": (PRESETS["gpt2"].with_dropout(0.0), 16),
    "nano": (replace(PRESETS["nano"], context_length=128), 64),
    "micro": (PRESETS["micro"], 32),
}
LR, BETAS, EPS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 1e-8, 0.1, 1.0
SCHEDULE: dict[str, Any] = {"lr": LR, "min_lr": 1e-4, "warmup": 100, "total": 2000}  # nanoGPT's recipe for CPUs
UNWANTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # some test machines set them, which makes NumPy slower
BATCHES = {"cpu": (1, 8, 32), "cuda": (1, 32)}  # prompts at once, when decoding
GPU = "cuda"  # device of the tensors in GPU duels (tests without a GPU use cpu)

TORCH = tuple(
    f"torch{dtype}{how}" for dtype in ("-fp32", "-bf16") for how in ("", "-malloc", "-compile", "-compile-malloc")
)
PEERS: dict[str, dict[str, tuple[str, ...]]] = {  # task: the variants of a library's name
    "train": {"torch": TORCH},
    "recipe": {"torch": ("torch-fp32", "torch-fp32-malloc")},
    "overhead": {"torch": ("torch-fp32",)},
    "decode": {"torch": ("transformers-fp32", "transformers-bf16")},
}
GPU_PEERS = {  # configuration or task: the same; small models also with a training step in one CUDA graph
    "gpt2": ("torch-bf16-compile", "torch-bf16"),
    "nano": ("torch-bf16-compile", "torch-bf16-compile-graph", "torch-bf16"),
    "micro": ("torch-bf16-compile", "torch-bf16-compile-graph", "torch-bf16"),
    "decode": ("transformers-bf16", "torch-bf16-graph"),
}
SERVICES = {"classify": "gpt2", "tokenize": "calls", "first-token": "gpt2"}  # and the model that each needs
SMALL_OPS = ("x * y", "x + y", "tanh(x)", "sum(x)")  # on 4 float32
OPTIONS = {  # options after the library's name; tensorlite-numpy: without numba's loops
    "torch": {"fp32", "bf16", "compile", "malloc"}, "transformers": {"fp32", "bf16", "malloc"},
    "tensorlite": {"numpy", "bf16"},
}  # fmt: skip
GPU_OPTIONS = {"torch": {"fp32", "tf32", "bf16", "compile", "graph"}, "transformers": {"fp32", "bf16"}}


@dataclass(frozen=True)
class Job:
    """The job of a contestant's process, which gets it as JSON."""

    task: str  # train, decode, recipe, overhead or service
    who: str  # the contestant
    config: str  # a name of CONFIGS, a small op, or a service
    threads: int
    folder: str  # folder of start.safetensors
    batch: int = 1  # prompts at once, when decoding
    seed: int = 0  # of the recipe's weights and batches
    vocab_size: int = 0  # of the recipe's text
    device: str = "cpu"  # or cuda
    weights: str = "float32"  # dtype of tensorlite's weights, when decoding on a CPU

    @property
    def library(self) -> str:
        return self.who.split("-")[0]

    @property
    def options(self) -> set[str]:
        return set(self.who.split("-")[1:])

    @property
    def model(self) -> GPTConfig:
        return configs(self.device)[SERVICES.get(self.config, self.config)][0]

    @property
    def rows(self) -> int:
        """Sequences in a training step."""
        return configs(self.device)[self.config][1]

    @property
    def dtype(self) -> str:
        """The dtype of products, under tensorlite's name."""
        return "bfloat16" if "bf16" in self.options else "tf32" if "tf32" in self.options else "float32"

    def ours(self) -> Self:
        """The variant of tensorlite for this contestant: products in the same dtype; decoding on a CPU, `weights`."""
        if self.task == "decode" and self.device == "cpu":
            return replace(self, who="tensorlite")
        return replace(
            self, who={"float32": "tensorlite", "tf32": "tensorlite-tf32"}.get(self.dtype, "tensorlite-bf16")
        )

    def at(self, folder: str) -> Self:
        """The same job with another folder."""
        return replace(self, folder=folder)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def configs(device: str) -> dict[str, tuple[GPTConfig, int]]:
    return CONFIGS if device == "cpu" else GPU_CONFIGS


def gpu_contestants(task: str, config: str, names: str) -> list[str]:
    """As `contestants`, for a GPU: `torch` stands for GPU_PEERS. A name without a dtype is float32."""
    found: list[str] = []
    for name in names.split(","):
        library, *options = name.split("-")
        if name != "torch" and not (options and GPU_OPTIONS.get(library, set()).issuperset(options)):
            raise ValueError(
                f"there is no peer {name!r} on a GPU: give torch, or variants such as torch-bf16-compile-graph"
            )
        if library == "torch" or task == "decode":
            meant = GPU_PEERS["decode" if task == "decode" else config] if name == "torch" else (name,)
            found += [each for each in meant if each not in found]
    return found


def contestants(task: str, names: str) -> list[str]:
    """Every variant in a comma-separated list of names; ValueError for an unknown name."""
    found: list[str] = []
    for name in names.split(","):
        library, *options = name.split("-")
        if name not in PEERS[task] and (not options or not OPTIONS.get(library, set()).issuperset(options)):
            raise ValueError(
                f"there is no peer {name!r}: give torch for all of its variants, or some of them, such as {TORCH[-1]}"
            )
        if name in PEERS[task] or (library == "transformers") == (task == "decode"):
            found += [each for each in PEERS[task].get(name, (name,)) if each not in found]
    return found


def products(config: GPTConfig, batch: int) -> list[tuple[int, int, int, int]]:
    """(count, N, I, O) of the products (N, I) @ (I, O) in a forward pass, except those between positions in attention.

    The backward pass has two more of each: dx = g W and dW = g^T x.
    """
    n, C = batch * config.context_length, config.n_embd
    return [
        (config.n_layer, n, C, 3 * C),  # query, key, value
        (config.n_layer, n, C, C),
        (config.n_layer, n, C, 4 * C),
        (config.n_layer, n, 4 * C, C),
        (1, n, C, config.vocab_size),
    ]


def weights(config: GPTConfig) -> int:
    return parameter_table(config)[-1].parameters


def product_flops(config: GPTConfig, batch: int) -> float:
    return 3 * sum(2.0 * count * n * i * o for count, n, i, o in products(config, batch))
