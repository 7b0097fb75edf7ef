"""A GPT: the whole model, one block, and the parts of a block, in this order.

One idea: the residual stream. Every position carries a vector of n_embd numbers, at first the sum of its token's and
its position's embedding. Each block reads the normalized vector and adds to it: first what attention computes from the
positions up to this one, then what a small network computes from this position alone. The scores of the next
token are the products of the final vector with one row of the head per token of the vocabulary.

The same class is the GPT of Raschka's book and OpenAI's GPT-2 (Radford et al., "Language models are unsupervised
multitask learners", 2019): they differ in fields of GPTConfig. Shapes: B texts, T positions, C = n_embd channels,
V tokens in the vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import tensorlite as tl
from tensorlite import Tensor, nn
from tensorlite import functional as F

from .attention import MultiHeadAttention, check_length
from .config import GPTConfig
from .kv_cache import KVCache


class GPT(nn.Module):
    """A decoder-only transformer that predicts the next token at every position.

    Initial weights are drawn from tensorlite's default generator: call `tl.manual_seed(seed)` before to repeat them.
    """

    activation_checkpointing = False  # True: keep no activations inside the blocks, compute them again in backward

    def __init__(self, config: GPTConfig):
        if not isinstance(config, GPTConfig):
            raise TypeError(f"GPT: config must be a GPTConfig, not {type(config).__name__}: write GPTConfig(...)")
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.final_norm = nn.LayerNorm(config.n_embd)
        self.head = None if config.tie_head else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.init == "gpt2":
            self.init_gpt2_weights()
        elif config.position_std != 1:
            self.position_embedding.weight.data[...] *= config.position_std

    @classmethod
    def without_init(cls, config: GPTConfig) -> Self:
        """A model without initial weights, for weights that are loaded next: drawing takes longer than loading."""
        with nn.skip_init():
            model = cls(replace(config, init="torch", position_std=1.0))
        model.config = config
        return model

    @property
    def device(self) -> str:
        """Where the weights are: "cpu", or "cuda:0" and the like."""
        return self.position_embedding.weight.device

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Token ids (B, T) -> logits (B, T, V) and, where targets (B, T) are given, the mean cross-entropy, else None.

        Ids and targets are Tensors, NumPy arrays or nested lists of integers; targets of -100 are ignored.
        ValueError where T is 0 or above config.context_length, IndexError for an id outside the vocabulary, TypeError
        for ids that are not integers.
        """
        logits = self.logits(self.hidden_states(idx))  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits, nn.as_indices(targets, logits.device, "targets"))

    def hidden_states(self, idx: Tensor, cache: Sequence[KVCache] | None = None) -> Tensor:
        """Token ids (B, T) -> the normalized residual stream after the last block (B, T, C), without the head.

        With a `cache` (from new_cache), idx continues the texts that the cache holds.
        """
        idx = nn.as_indices(idx, self.device, "token ids")
        if idx.ndim != 2:
            raise ValueError(f"token ids must have shape (B, T), got {idx.shape}")
        positions = self.positions(idx, cache)  # (T,), or (B, T) where a cache holds texts of different lengths
        x: Tensor = self.token_embedding(idx) + self.position_embedding(positions)  # (B, T, C)
        x = self.dropout(x)
        for i, block in enumerate(self.blocks):
            if self.activation_checkpointing and cache is None:
                x = tl.activation_checkpoint(block, x)
            else:
                x = block(x, cache and cache[i])
        x = self.final_norm(x)
        return x

    def loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        """The loss of `forward` without the logits: a training step never holds all B * T * V of them at once."""
        hidden = self.hidden_states(idx)  # (B, T, C)
        targets = nn.as_indices(targets, hidden.device, "targets")
        head = self.token_embedding if self.head is None else self.head
        if not isinstance(head, nn.Embedding | nn.Linear):  # a LoRALinear is more than one matrix
            return F.cross_entropy(self.logits(hidden), targets)
        return F.linear_cross_entropy(hidden, head.weight, targets)

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: hidden states (..., C) -> scores of the next token (..., V)."""
        return F.linear(hidden, self.token_embedding.weight) if self.head is None else self.head(hidden)

    def positions(self, idx: Tensor, cache: Sequence[KVCache] | None = None) -> Tensor:
        """The position of each token of idx (B, T) in its text: (T,), or (B, T) where a cache has unequal lengths."""
        T = idx.shape[1]
        if cache is None:
            return tl.arange(check_length(T, self.config.context_length), device=idx.device)
        check_length(max(cache[0].lengths) + T, self.config.context_length)
        return cache[0].next_positions(T, idx.device)

    def new_cache(self, batch_size: int, positions: int | None = None) -> list[KVCache]:
        """An empty KVCache for each block, for texts of at most `positions` tokens (None: the whole context)."""
        c = self.config
        positions = c.context_length if positions is None else positions
        return [KVCache(batch_size, c.n_head, positions, c.n_embd // c.n_head) for _ in self.blocks]

    def init_gpt2_weights(self) -> None:
        """Draw weights from N(0, 0.02^2) and set biases to 0, as OpenAI did; norms keep weight 1 and bias 0.

        The standard deviation is 0.02 / sqrt(2 n_layer) for the two matrices of a block whose product is added to the
        residual stream, so that the sum of 2 n_layer terms does not grow with depth (GPT-2's paper, section 2.3).
        """
        for name, parameter in self.named_parameters():
            if "norm" in name:
                continue
            residual = name.endswith(("out_proj.weight", "contract.weight"))
            std = 0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02
            fresh = tl.zeros(parameter.shape) if name.endswith("bias") else tl.randn(*parameter.shape) * std
            parameter.data[...] = fresh.data
            parameter.changed()


class Block(nn.Module):
    """Attention between positions, then a network at each position: x (B, T, C) -> (B, T, C). Both add to x."""

    def __init__(self, config: GPTConfig):
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.attention = MultiHeadAttention(
            config.n_embd,
            config.n_embd,
            config.context_length,
            config.attention_dropout,
            config.n_head,
            config.qkv_bias,
            config.causal,
        )
        self.norm2 = nn.LayerNorm(config.n_embd)
        self.feed_forward = FeedForward(config.n_embd)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), cache))  # (B, T, C)
        x = x + self.dropout(self.feed_forward(self.norm2(x)))  # (B, T, C)
        return x


class FeedForward(nn.Module):
    """Two linear layers applied to each position, with a hidden width of 4 C: x (..., C) -> W2 gelu(W1 x + b1) + b2."""

    def __init__(self, n_embd: int):
        self.expand = nn.Linear(n_embd, 4 * n_embd)
        self.contract = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.expand(x))  # (..., 4 C)
        x = self.contract(x)  # (..., C)
        return x


def as_float32(x: Tensor) -> Tensor:
    """x as float32 where its dtype is narrower: CuPy can neither sort nor scatter bfloat16."""
    return x.astype(tl.float32) if x.dtype.itemsize < 4 else x


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """No dropout and no recording in the block; the model's mode is restored afterwards. Not for use around a `yield`:
    recording would be off for the caller, too.
    """
    training = model.training
    if training:
        model.eval()
    try:
        with tl.no_grad():
            yield
    finally:
        if training:
            model.train()


# ----- size and cost -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One line of the table of a model's parameters."""

    name: str
    parameters: int
    share: float  # of all parameters
    bytes: int  # in float32
    flops: int  # per trained token, forward and backward


def parameter_table(config: GPTConfig) -> list[Part]:
    """The parameters and FLOPs of each part of a model, one Part per line; the last line is the total.

    Nothing is allocated. FLOPs are those of one token of a full context in training, forward and backward: 6 per
    parameter of a matrix product, and 12 n_layer n_embd context_length for the scores and means of attention (Chowdhery
    et al., "PaLM", 2022, appendix B, as in nanoGPT); looking up an embedding counts 0. The product with a tied head
    counts as the head's.
    """
    V, T, L, C = config.vocab_size, config.context_length, config.n_layer, config.n_embd
    attention = L * (4 * C * C + C + 3 * C * config.qkv_bias)
    feed_forward = L * (8 * C * C + 5 * C)
    norms = (2 * L + 1) * 2 * C
    sizes = [  # name, parameters, parameters that a token is multiplied with, other FLOPs
        ("token embedding", V * C, 0, 0),
        ("position embedding", T * C, 0, 0),
        ("attention", attention, attention, 12 * L * C * T),
        ("feed-forward", feed_forward, feed_forward, 0),
        ("norms", norms, norms, 0),
        ("head (tied)" if config.tie_head else "head", 0 if config.tie_head else V * C, V * C, 0),
    ]
    total = sum(parameters for _, parameters, _, _ in sizes)
    parts = [Part(name, n, n / total, 4 * n, 6 * used + more) for name, n, used, more in sizes]
    return [*parts, Part("total", total, 1.0, 4 * total, sum(part.flops for part in parts))]
