"""The keys and values that attention has computed, kept so that generation computes those of each token once."""

import tensorlite as tl
from tensorlite import Tensor
from tensorlite import functional as F


class KVCache:
    """Keys and values of one attention layer for B texts: (B, H, P, D) each, allocated at the first `append`.

    `lengths[b]` says how many of the P positions of text b are filled; what lies behind them is ignored and is
    overwritten by the next `append`. Texts of different lengths share a batch: pad them on the right, and afterwards
    set `lengths` to the real lengths. Set a length lower to forget the end of a text. No gradient flows through a cache.
    """

    def __init__(self, batch_size: int, num_heads: int, positions: int, head_size: int):
        self.shape = (batch_size, num_heads, positions, head_size)
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.lengths = [0] * batch_size

    def attention(self, q: Tensor, k: Tensor, v: Tensor, is_causal: bool = True) -> Tensor:
        """Attention of the next T positions of each text to all positions so far: (B, H, T, D) each -> (B, H, T, D)."""
        mask = self.mask(k.shape[2], k.device)
        keys, values = self.append(k, v)  # (B, H, S, D): also of the positions before
        return F.scaled_dot_product_attention(q, keys, values, mask=mask, is_causal=is_causal and mask is None)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v (B, H, T, D) behind what each text has; return all keys and values, views (B, H, S, D).

        S is the largest of the new lengths. ValueError where S exceeds P; RuntimeError where k or v need a gradient.
        """
        T, room = k.shape[2], self.shape[2]
        S = max(self.lengths) + T
        if room < S:
            raise ValueError(f"KVCache: no room for position {S - 1}: it was made for {room} positions")
        if k.requires_grad or v.requires_grad:
            raise RuntimeError("KVCache: no gradient flows through a cache: use it inside tl.no_grad()")
        if self.keys is None or self.values is None:  # not empty(): a weight of 0 times a nan in the memory would be nan
            self.keys, self.values = tl.zeros(self.shape, k.dtype, k.device), tl.zeros(self.shape, v.dtype, v.device)
        if min(self.lengths) == max(self.lengths):
            self.keys.data[:, :, S - T : S] = k.data
            self.values.data[:, :, S - T : S] = v.data
        else:
            for row, start in enumerate(self.lengths):
                self.keys.data[row, :, start : start + T] = k.data[row]
                self.values.data[row, :, start : start + T] = v.data[row]
        self.lengths = [length + T for length in self.lengths]
        return Tensor(self.keys.data[:, :, :S]), Tensor(self.values.data[:, :, :S])

    def mask(self, T: int, device: str) -> Tensor | None:
        """What each of the next T positions sees, (B, 1, T, S) booleans; None where all texts are equally long.

        In that case the mask is the causal one, which attention applies by itself.
        """
        if min(self.lengths) == max(self.lengths):
            return None
        queries = self.next_positions(T, device).reshape(-1, 1, T, 1)  # (B, T) -> (B, 1, T, 1)
        return tl.arange(max(self.lengths) + T, device=device) <= queries  # (B, 1, T, S)

    def next_positions(self, T: int, device: str) -> Tensor:
        """The positions of the next T tokens in their texts: (T,), or (B, T) where the texts differ in length."""
        start = self.lengths[0]
        if min(self.lengths) == max(self.lengths):
            return tl.arange(start, start + T, device=device)
        return tl.tensor([list(range(start, start + T)) for start in self.lengths], device=device)
