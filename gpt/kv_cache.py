"""The keys and values that attention has computed, kept so that generation computes them once per token."""

import tensorlite as tl
from tensorlite import Tensor
from tensorlite import functional as F
from tensorlite.backend import Array, device_of
from tensorlite.formulas import join_heads, split_heads


class KVCache:
    """Keys and values of one attention layer for B texts: (B, H, P, D) each, allocated at the first `append`.

    `lengths[b]` says how many of the P positions of text b are filled; later positions are ignored, and the next
    `append` overwrites them. Texts of different lengths can share a batch: pad them on the right, and afterwards set
    `lengths` to their own lengths. A lower length removes the end of a text. No gradient flows through a cache.
    """

    def __init__(self, batch_size: int, num_heads: int, positions: int, head_size: int):
        self.shape = (batch_size, num_heads, positions, head_size)
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.lengths = [0] * batch_size

    def attention(self, qkv: Tensor, is_causal: bool = True) -> Tensor:
        """Attention of the next T positions of each text to all positions so far: qkv (B, T, 3 C) -> (B, T, C).

        `qkv` holds queries, keys and values side by side, C = H * D channels each. The keys and values are appended.
        RuntimeError where qkv requires a gradient.
        """
        if qkv.requires_grad:
            raise RuntimeError("KVCache: no gradient flows through a cache: use it inside tl.no_grad()")
        q, k, v = split_heads(qkv.data, self.shape[1])  # (B, H, T, D) each; arrays, as nothing is recorded
        mask = self.mask(k.shape[2], qkv.device)
        keys, values = self.append(k, v)  # (B, H, S, D)
        context = F.scaled_dot_product_attention(q, keys, values, mask=mask, is_causal=is_causal and mask is None)
        return Tensor(join_heads(context))  # (B, H, T, D) -> (B, T, C)

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Write k and v (B, H, T, D) after the filled positions of each text. Return all keys and values (B, H, S, D).

        They are views. S is the largest of the new lengths; ValueError where it exceeds P.
        """
        T, room = k.shape[2], self.shape[2]
        S = max(self.lengths) + T
        if room < S:
            raise ValueError(f"KVCache: position {S - 1} does not fit: the cache was made for {room} positions")
        if self.keys is None or self.values is None:  # zeros, since new memory may hold nan, and 0 * nan is nan
            self.keys, self.values = (tl.zeros(self.shape, x.dtype, device_of(x)) for x in (k, v))
        keys, values = self.keys.data, self.values.data
        if min(self.lengths) == max(self.lengths):
            keys[:, :, S - T : S] = k
            values[:, :, S - T : S] = v
        else:
            for row, start in enumerate(self.lengths):
                keys[row, :, start : start + T] = k[row]
                values[row, :, start : start + T] = v[row]
        self.lengths = [length + T for length in self.lengths]
        return keys[:, :, :S], values[:, :, :S]

    def mask(self, T: int, device: str) -> Array | None:
        """The mask of the next T positions, (B, 1, T, S) booleans; None where all texts are equally long.

        In that case the mask is the causal one, which attention applies by itself.
        """
        if min(self.lengths) == max(self.lengths):
            return None
        queries = self.next_positions(T, device).reshape(-1, 1, T, 1)  # (B, T) -> (B, 1, T, 1)
        return (tl.arange(max(self.lengths) + T, device=device) <= queries).data  # (B, 1, T, S)

    def next_positions(self, T: int, device: str) -> Tensor:
        """The positions of the next T tokens in their texts: (T,), or (B, T) where the texts differ in length."""
        start = self.lengths[0]
        if min(self.lengths) == max(self.lengths):
            return tl.arange(start, start + T, device=device)
        return tl.tensor([list(range(start, start + T)) for start in self.lengths], device=device)
