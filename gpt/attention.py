"""Attention in six steps, each of which adds one thing to the step before; the last is the attention of a GPT.

Every position computes a query, a key and a value. Its output is the mean of the values of the positions that it sees,
weighted by softmax(query . key): how well each position's key matches its query.

    simple_attention               nothing is learned
    SelfAttention                  learned queries, keys and values
    CausalAttention                no position sees a later one; dropout
    ConcatenatedHeads              several heads, one after another
    ElementaryMultiHeadAttention   all heads at once, written in elementary operations
    MultiHeadAttention             the same by tensorlite's fast functions, and with a cache for generation

The steps are those of Raschka, "Build a Large Language Model (From Scratch)", chapter 3, with its names and its order
of random draws. Shapes: B texts in a batch, T positions, C channels, H heads of D channels each.
"""

import math

import tensorlite as tl
from tensorlite import Tensor, nn
from tensorlite import functional as F

from .kv_cache import KVCache


def simple_attention(x: Tensor) -> tuple[Tensor, Tensor]:
    """Attention without parameters: x (..., T, C) -> contexts softmax(x x^T) x (..., T, C), weights (..., T, T)."""
    weights = F.softmax(x @ x.swapaxes(-1, -2))
    return weights @ x, weights


class SelfAttention(nn.Module):
    """Adds learned projections: x (..., T, d_in) -> softmax(q k^T / sqrt(d_out)) v (..., T, d_out).

    The queries q, keys k and values v are linear functions of x.
    """

    def __init__(self, d_in: int, d_out: int, qkv_bias: bool = False):
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)  # (..., T, d_out)
        scores = q @ k.swapaxes(-1, -2)  # (..., T, T)
        context: Tensor = F.softmax(scores / math.sqrt(k.shape[-1])) @ v  # (..., T, d_out)
        return context


class CausalAttention(nn.Module):
    """Adds a causal mask, and dropout on the weights: x (B, T, d_in) -> (B, T, d_out)."""

    def __init__(self, d_in: int, d_out: int, context_length: int, dropout: float, qkv_bias: bool = False):
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.dropout = nn.Dropout(dropout)
        self.context_length = context_length

    def forward(self, x: Tensor) -> Tensor:
        T = check_length(x.shape[-2], self.context_length)
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)  # (B, T, d_out)
        scores = (q @ k.swapaxes(-1, -2)).masked_fill(later_positions(T, x.device), -math.inf)  # (B, T, T)
        weights = self.dropout(F.softmax(scores / math.sqrt(k.shape[-1])))  # (B, T, T)
        context: Tensor = weights @ v  # (B, T, d_out)
        return context


class ConcatenatedHeads(nn.Module):
    """Adds heads, each a CausalAttention of its own: x (B, T, d_in) -> (B, T, num_heads * d_out)."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
    ):
        self.heads = nn.ModuleList(
            [CausalAttention(d_in, d_out, context_length, dropout, qkv_bias) for _ in range(num_heads)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return tl.concatenate([head(x) for head in self.heads], axis=-1)


class ElementaryMultiHeadAttention(nn.Module):
    """All heads in one product each for queries, keys and values, then a projection that mixes the heads.

    x (B, T, d_in) -> (B, T, d_out), where `d_out` is the width of all heads together, a multiple of `num_heads`.
    With `causal` False every position sees all of x. Head h reads columns h * D to (h + 1) * D of queries, keys and
    values (Vaswani et al., "Attention is all you need", 2017, section 3.2.2):

        head_h = softmax(q_h k_h^T / sqrt(D)) v_h,        out = concatenate(head_0, ..., head_(H-1)) W_out^T + b_out
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
        causal: bool = True,
    ):
        if d_out % num_heads:
            raise ValueError(f"num_heads must divide d_out: got num_heads {num_heads} and d_out {d_out}")
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.context_length, self.num_heads, self.dropout = context_length, num_heads, dropout
        self.causal = causal
        self.on_move()  # a subclass may store its weights in another way

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        weights = F.dropout(self.weights(x), self.dropout, self.training)  # (B, H, T, T)
        v = self.heads(self.W_value(x))  # (B, H, T, D)
        context = (weights @ v).swapaxes(1, 2).reshape(B, T, -1)  # (B, H, T, D) -> (B, T, d_out)
        out: Tensor = self.out_proj(context)  # (B, T, d_out)
        return out

    def weights(self, x: Tensor) -> Tensor:
        """How much each position (row) reads from each (column): (B, T, d_in) -> (B, H, T, T). Rows sum to 1."""
        T = check_length(x.shape[1], self.context_length)
        q, k = self.heads(self.W_query(x)), self.heads(self.W_key(x))  # (B, H, T, D)
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, T)
        if self.causal:
            scores = scores.masked_fill(later_positions(T, x.device), -math.inf)
        return F.softmax(scores)

    def heads(self, x: Tensor) -> Tensor:
        """The columns of each head: (B, T, H * D) -> (B, H, T, D)."""
        B, T, _ = x.shape
        return x.reshape(B, T, self.num_heads, -1).swapaxes(1, 2)  # (B, T, H, D) -> (B, H, T, D)


class MultiHeadAttention(ElementaryMultiHeadAttention):
    """The same computation with two fast functions of tensorlite and an optional KVCache: the attention of a GPT.

    `F.projections` computes queries, keys and values in one product, `F.multi_head_attention` does all that follows
    up to `out_proj`. With a `cache`, x continues the texts whose keys and values the cache holds, and sees them.
    """

    def on_move(self) -> None:
        """Store the three projections next to each other, so that `F.projections` reads them without a copy."""
        parts = self.W_query, self.W_key, self.W_value
        if all(type(part) is nn.Linear for part in parts):
            nn.make_adjacent([part.weight for part in parts])
            nn.make_adjacent([part.bias for part in parts if part.bias is not None])

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        check_length(x.shape[1], self.context_length)
        qkv = self.project(x)  # (B, T, 3 * d_out)
        if cache is None:
            p = self.dropout if self.training else 0.0
            context = F.multi_head_attention(qkv, self.num_heads, is_causal=self.causal, dropout_p=p)  # (B, T, d_out)
        else:
            context = cache.attention(qkv, is_causal=self.causal)  # (B, T, d_out)
        out: Tensor = self.out_proj(context)  # (B, T, d_out)
        return out

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side: (B, T, d_in) -> (B, T, 3 * d_out)."""
        parts = self.W_query, self.W_key, self.W_value
        if all(type(part) is nn.Linear for part in parts):
            return F.projections(x, *[part.weight for part in parts], *[part.bias for part in parts])
        return tl.concatenate([part(x) for part in parts], axis=-1)  # a LoRALinear computes more than one product


def later_positions(T: int, device: str) -> Tensor:
    """The causal mask, (T, T) booleans: true where the position of the column is later than that of the row."""
    positions = tl.arange(T, device=device)
    return positions > positions.expand_dims(1)


def check_length(T: int, context_length: int) -> int:
    """Return T; ValueError unless it is from 1 to `context_length`."""
    if not 1 <= T <= context_length:
        raise ValueError(
            f"a sequence of {T} positions does not fit a context_length of {context_length}: give 1 to {context_length}"
        )
    return T
