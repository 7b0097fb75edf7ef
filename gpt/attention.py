"""Attention, rung by rung: each class adds one thing to the one before, and the last is what a GPT is made of.

One idea: every position asks a question (its query) of all positions up to its own (their keys), and takes the average
of what they have to say (their values), weighted by how well the keys answer. The first rungs spell this out in
elementary ops; MultiHeadAttention computes the same through one fused op, and can remember keys and values.

The ladder is that of Raschka, "Build a Large Language Model (From Scratch)", chapter 3, with its names and its order of
random draws. Shapes: B texts in a batch, T positions, C channels, H heads of D channels each.
"""

import math

import tensorlite as tl
from tensorlite import Tensor, nn
from tensorlite import functional as F
from tensorlite.devices import memory
from tensorlite.formulas import join_heads, split_heads
from tensorlite.kernels.cuda import decode

# ----- the ladder -------------------------------------------------------------------------------------------


def simple_attention(x: Tensor) -> tuple[Tensor, Tensor]:
    """Attention with nothing to learn: x (..., T, C) -> contexts softmax(x x^T) x (..., T, C), weights (..., T, T)."""
    weights = F.softmax(x @ x.swapaxes(-1, -2))
    return weights @ x, weights


class SelfAttention(nn.Module):
    """Adds what is learned: x (..., T, d_in) -> softmax(q k^T / sqrt(d_out)) v (..., T, d_out), q, k, v linear in x."""

    def __init__(self, d_in: int, d_out: int, qkv_bias: bool = False):
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)  # (..., T, d_out)
        scores = q @ k.swapaxes(-1, -2)  # (..., T, T)
        return F.softmax(scores / math.sqrt(k.shape[-1])) @ v


class CausalAttention(nn.Module):
    """Adds that no position sees a later one, and dropout on the weights: x (B, T, d_in) -> (B, T, d_out)."""

    def __init__(self, d_in: int, d_out: int, context_length: int, dropout: float, qkv_bias: bool = False):
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.dropout = nn.Dropout(dropout)
        self.context_length = context_length

    def forward(self, x: Tensor) -> Tensor:
        T = check_length(x.shape[-2], self.context_length)
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)  # (B, T, d_out)
        places = tl.arange(T, device=x.device)
        later = places > places.expand_dims(1)  # (T, T): column s is later than row t
        scores = (q @ k.swapaxes(-1, -2)).masked_fill(later, -math.inf)  # (B, T, T)
        return self.dropout(F.softmax(scores / math.sqrt(k.shape[-1]))) @ v


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


class MultiHeadAttention(nn.Module):
    """The same with all heads in one product, and a projection that mixes them: x (B, T, d_in) -> (B, T, d_out).

    `d_out` is the width of all heads together; `num_heads` must divide it. With a `cache`, x continues the texts
    that the cache remembers: it is what follows them, and it sees them. Not `causal`, every position sees all of x.
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
        self.on_move()

    def on_move(self) -> None:
        """Let the three projections lie in memory so that one product can read them all (see `projection`)."""
        parts = self.W_query, self.W_key, self.W_value
        if all(type(part) is nn.Linear for part in parts):
            put_together([part.weight for part in parts])
            put_together([part.bias for part in parts if part.bias is not None])

    def forward(self, x: Tensor, cache: "KVCache | None" = None) -> Tensor:
        check_length(x.shape[1], self.context_length)
        qkv = self.project(x, cache)  # (B, T, 3 * d_out)
        if cache is not None:
            context = cache.attention(qkv, self.num_heads, self.causal)
        else:
            p = self.dropout if self.training else 0.0
            context = F.multi_head_attention(qkv, self.num_heads, is_causal=self.causal, dropout_p=p)
        return self.out_proj(context)

    def project(self, x: Tensor, cache: "KVCache | None") -> Tensor:
        """Queries, keys and values, side by side: (B, T, d_in) -> (B, T, 3 * d_out)."""
        parts = self.W_query, self.W_key, self.W_value
        if cache is not None and cache.projection:
            return F.linear(x, *cache.projection)
        if all(type(part) is nn.Linear for part in parts):
            return F.projections(x, *[part.weight for part in parts], *[part.bias for part in parts])
        return tl.concatenate([part(x) for part in parts], axis=-1)  # LoRA's, for one, have more to say

    def projection(self) -> "tuple[Tensor, Tensor | None] | None":
        """Weight (3 * d_out, d_in) and bias (3 * d_out) of the three projections in one, if they lie in memory so."""
        parts = self.W_query, self.W_key, self.W_value
        if not all(type(part) is nn.Linear for part in parts):  # LoRA's, for one, have more to say
            return None
        weight, bias = together([p.weight for p in parts]), together([p.bias for p in parts if p.bias is not None])
        return None if weight is None or (bias is None and self.W_query.bias is not None) else (weight, bias)


def check_length(T: int, context_length: int) -> int:
    """T, unless it is 0 or more than the context: then a ValueError."""
    if not 1 <= T <= context_length:
        raise ValueError(
            f"a sequence of {T} positions does not fit a context_length of {context_length}: give 1 to {context_length}"
        )
    return T


# ----- memory -----------------------------------------------------------------------------------------------


def put_together(parameters: list[nn.Parameter]) -> None:
    """Let Parameters lie one behind the other in memory."""
    if not parameters:
        return
    joined, start = tl.concatenate([p.data for p in parameters]), 0
    for p in parameters:
        p.data = joined[start : start + len(p)]
        start += len(p)


def together(parameters: list[nn.Parameter]) -> Tensor | None:
    """Parameters as one, joined along the first axis and without a copy; None where they do not lie so (any more)."""
    joined = memory.joined([p.data for p in parameters])
    return None if joined is None else Tensor(joined, requires_grad=any(p.requires_grad for p in parameters))


class KVCache:
    """The keys and values of one attention layer for the positions that were read, so that none is computed twice.

    Allocated once, as (B, H, positions, D) each, with the dtype and device of the first that come, and written in
    place: a step copies nothing of the past. Position p of a text stands in place p. `lengths` says how much of each
    row counts; what lies behind is never looked at and is overwritten by what comes next. So texts of different lengths
    share a batch padded on the right: after the step, set `lengths` to the real ones. Set it lower to forget. It is for
    generation: no gradient flows through it.
    """

    def __init__(
        self, batch_size: int, num_heads: int, positions: int, head_size: int,
        projection: tuple[Tensor, Tensor | None] | None = None,
    ):  # fmt: skip
        self.shape = (batch_size, num_heads, positions, head_size)
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.lengths = [0] * batch_size
        self.places: Tensor | None = None  # (B): in `attend`, instead of lengths, numbers on the device
        self.projection = projection  # of queries, keys and values, where one product can make them all

    def attention(self, qkv: Tensor, num_heads: int, is_causal: bool) -> Tensor:
        """Attention of what follows to all that was read: queries, keys and values (B, T, 3 C) -> (B, T, C)."""
        q, k, v = (Tensor(part, qkv.requires_grad) for part in split_heads(qkv.data, num_heads))  # (B, H, T, D) each
        if self.places is not None:
            return join_heads(self.attend(q, k, v))
        k, v, mask = self.extend(k, v)  # (B, H, S, D): the past too
        causal = is_causal and mask is None
        return join_heads(F.scaled_dot_product_attention(q, k, v, mask=mask, is_causal=causal))

    @property
    def has_kernel(self) -> bool:
        """Whether `attend` can be used: on a GPU, once there are keys."""
        return self.keys is not None and decode.supports(self.keys.data[:, :, :1], self.keys.data)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention (B, H, 1, D) of one position of each text, which stands at its place of `places` (B): what `extend`
        and attention do, of which nothing depends on numbers that the host knows.
        """
        assert self.keys is not None
        assert self.values is not None
        assert self.places is not None
        memory = self.keys.data, self.values.data, self.places.data
        return Tensor(decode.attend(q.data, k.data, v.data, *memory, scale=1 / math.sqrt(q.shape[-1])))

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put k and v (B, H, T, D) behind what each row holds; all keys and values (B, H, S, D), views, and a mask.

        The mask, (B, 1, T, S) and true where a position may look, is None where all rows are equally long: then T
        queries at the end of S keys in causal order is all there is to say.
        """
        T, room = k.shape[2], self.shape[2]
        S = max(self.lengths) + T
        if room < S:
            raise ValueError(f"KVCache: no room for position {S - 1}: it was made for {room} positions")
        if k.requires_grad or v.requires_grad:
            raise RuntimeError("KVCache: no gradient flows through a cache: use it inside tl.no_grad()")
        if self.keys is None or self.values is None:  # not empty(): a weight of 0 times a stray nan would be nan
            self.keys, self.values = (tl.zeros(self.shape, x.dtype, x.device) for x in (k, v))
        mask = None
        if min(self.lengths) == max(self.lengths):
            self.keys.data[:, :, S - T : S] = k.data
            self.values.data[:, :, S - T : S] = v.data
        else:
            for row, start in enumerate(self.lengths):
                self.keys.data[row, :, start : start + T] = k.data[row]
                self.values.data[row, :, start : start + T] = v.data[row]
            last = tl.tensor(self.lengths, device=k.device).reshape(-1, 1, 1, 1) + tl.arange(
                T, device=k.device
            ).reshape(-1, 1)  # (B, 1, T, 1): the position of each query
            mask = tl.arange(S, device=k.device) <= last  # (B, 1, T, S)
        self.lengths = [n + T for n in self.lengths]
        return Tensor(self.keys.data[:, :, :S]), Tensor(self.values.data[:, :, :S]), mask
