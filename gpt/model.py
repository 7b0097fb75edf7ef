"""A GPT, read from top to bottom: the whole model, one block, and what a block is made of.

One idea: the residual stream. Every position carries a vector of n_embd numbers, the sum of its token's and its place's
embedding; each block reads it, normalized, and adds what attention finds in earlier positions and then what a small
network makes of the position alone. At the end the vector is compared with every token of the vocabulary.

One class is the book's GPT and OpenAI's GPT-2 (Radford et al., "Language models are unsupervised multitask learners",
2019): fields of GPTConfig tell them apart. Shapes: B texts, T positions, C = n_embd channels, V tokens.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import tensorlite as tl
from tensorlite import Tensor, nn
from tensorlite import functional as F
from tensorlite.accelerate.activation_checkpoint import checkpoint

from .attention import KVCache, MultiHeadAttention, check_length
from .config import GPTConfig


class GPT(nn.Module):
    """A decoder-only transformer that predicts the next token at every position.

    Random weights come from tensorlite's default generator: `tl.manual_seed(seed)` before, for the same ones again.
    """

    checkpoint_blocks = False  # if set, in training: keep no activations of the blocks, compute them again

    def __init__(self, config: GPTConfig):
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.final_norm = nn.LayerNorm(config.n_embd)
        self.head = None if config.tie_head else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.init == "gpt2":
            self.draw_as_gpt2()

    @classmethod
    def blank(cls, config: GPTConfig) -> Self:
        """One whose weights are loaded next: nothing is drawn, which takes longer than loading."""
        with nn.skip_init():
            model = cls(replace(config, init="torch"))
        model.config = config
        return model

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Token ids (B, T) -> logits (B, T, V) and, where targets (B, T) are given, the mean cross-entropy, else None.

        Ids and targets are Tensors, NumPy arrays or nested lists. Targets of -100 do not count. T is at most
        config.context_length. ValueError, IndexError (an id outside the vocabulary) or TypeError (ids that are not
        integers) otherwise.
        """
        logits = self.logits(self.features(idx))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits, nn.as_indices(targets, logits.device, "targets"))

    def features(self, idx: Tensor, cache: list[KVCache] | None = None) -> Tensor:
        """Token ids (B, T) -> what the model has understood at each position, (B, T, C): all but the head.

        With a `cache` (from new_cache), idx continues the texts that it remembers.
        """
        idx = nn.as_indices(idx, self.token_embedding.weight.device, "token ids")
        if idx.ndim != 2:
            raise ValueError(f"token ids must have shape (B, T), got {idx.shape}")
        x = self.token_embedding(idx) + self.position_embedding(self.positions(idx, cache))
        x = self.dropout(x)  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x = checkpoint(block, x) if self.checkpoint_blocks and cache is None else block(x, cache and cache[i])
        return self.final_norm(x)

    def loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        """The loss that `forward` gives, without its logits: a training step never holds them whole."""
        features = self.features(idx)
        targets = nn.as_indices(targets, features.device, "targets")
        head = self.token_embedding if self.head is None else self.head
        if not isinstance(head, nn.Embedding | nn.Linear):  # one with an adapter is more than a matrix
            return F.cross_entropy(self.logits(features), targets)
        return F.linear_cross_entropy(features, head.weight, targets)

    def logits(self, features: Tensor) -> Tensor:
        """(..., C) -> (..., V): generation asks for the last position alone, and saves the product for all others."""
        return F.linear(features, self.token_embedding.weight) if self.head is None else self.head(features)

    def positions(self, idx: Tensor, cache: list[KVCache] | None) -> Tensor:
        """The place of each token in its text: (T,), or (B, T) where a cache says that the rows differ."""
        if cache is not None and cache[0].places is not None:
            return cache[0].places.reshape(-1, 1)  # (B, 1)
        starts = [0] if cache is None else cache[0].lengths
        T = idx.shape[1]
        check_length(max(starts) + T, self.config.context_length)
        if min(starts) == max(starts):
            return tl.arange(starts[0], starts[0] + T, device=idx.device)
        return tl.tensor([list(range(start, start + T)) for start in starts], device=idx.device)

    def new_cache(self, batch_size: int, positions: int | None = None) -> list[KVCache]:
        """An empty KVCache for each block, for texts of at most `positions` (None: the whole context)."""
        c = self.config
        positions = c.context_length if positions is None else positions
        size = (batch_size, c.n_head, positions, c.n_embd // c.n_head)
        return [KVCache(*size, block.attention.projection()) for block in self.blocks]

    def draw_as_gpt2(self) -> None:
        """Weights from N(0, 0.02), biases 0; what is added to the residual stream smaller by sqrt(2 n_layer).

        So the stream does not grow with depth, to which 2 n_layer terms are added (GPT-2's paper, section 2.3).
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
    """Attention between positions, then a network at each: x (B, T, C) -> (B, T, C). Both add to what they read."""

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
        x = F.add(x, self.dropout(self.attention(self.norm1(x), cache)))
        return F.add(x, self.dropout(self.feed_forward(self.norm2(x))))


class FeedForward(nn.Module):
    """A two-layer network at each position by itself, four times as wide inside: (..., C) -> (..., C)."""

    def __init__(self, n_embd: int):
        self.expand = nn.Linear(n_embd, 4 * n_embd)
        self.contract = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x)))


def wide(x: Tensor) -> Tensor:
    """As float32 where the dtype is narrower: CuPy neither sorts nor scatters bfloat16, and Python does not know it."""
    return x.astype(tl.float32) if x.dtype.itemsize < 4 else x


# ----- how large it is --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One line of the table of a model's size."""

    name: str
    parameters: int
    share: float  # of all parameters
    bytes: int  # in float32
    flops: int  # per trained token, forward and backward


def parameter_table(config: GPTConfig) -> list[Part]:
    """Where a model's parameters are, and what each part computes: one Part per line, the last one the total.

    Nothing is allocated. FLOPs are for one token of a full context in training, forward and backward: 6 per parameter
    that is multiplied with, and 12 n_layer n_embd context_length for the scores and averages of attention (Chowdhery
    et al., "PaLM", 2022, appendix B, which nanoGPT uses too); looking up an embedding is free. The head's product is
    counted where it happens, also if its matrix is the token embedding's.
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
