"""Generation token by token: the newest token of each text goes through all blocks of a transformer in one call.

numba_decode.py has the compiled function. It reads the weights where they are, in float32, bfloat16 or int8.
"""

import ctypes
import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...devices import machine
from .choose_impl import missing
from .quantized import QuantizedMatrix

MIN_WEIGHTS = 1 << 18  # for fewer, importing numba does not pay
MOST_TEXTS = 64  # for many more, matrix products by BLAS are faster
BYTES_PER_NANOSECOND = 24  # of weights that one thread reads
CHUNK = 1 << 17  # weights that a thread takes at a time: some ten microseconds of work
LINE = 128  # bytes that no two phases' counters share, so that threads do not wait for each other's caches


class Matrix(NamedTuple):
    """W (N, K) and b (N) of x W^T + b. The values of W are float32, bits of bfloat16, or int8 times a scale per row."""

    values: np.ndarray
    scales: np.ndarray | None = None
    bias: np.ndarray | None = None


class Norm(NamedTuple):
    """Weight and bias of a LayerNorm, float32 (C) each."""

    weight: np.ndarray
    bias: np.ndarray


class Layer(NamedTuple):
    """A block's weights: x += out(attention(query, key, value of norm1(x))); x += contract(gelu(expand(norm2(x))))."""

    norm1: Norm
    query: Matrix
    key: Matrix
    value: Matrix
    out: Matrix
    norm2: Norm
    expand: Matrix
    contract: Matrix


def matrix(weight: "np.ndarray | QuantizedMatrix", bias: np.ndarray | None = None) -> Matrix:
    """A Matrix of a float32 or quantized W (N, K) and b (N)."""
    if isinstance(weight, QuantizedMatrix):
        return Matrix(weight.values, weight.scales, bias)
    return Matrix(weight, None, bias)


def matrices_of(layers: Sequence[Layer], head: Matrix) -> list[Matrix]:
    return [part for layer in layers for part in layer if isinstance(part, Matrix)] + [head]


def supports(layers: Sequence[Layer], norm: Norm, head: Matrix) -> bool:
    """Whether `TokenStep` can be used and pays: numba is at hand, all matrices are contiguous and of one dtype, and
    they have `MIN_WEIGHTS` or more.
    """
    matrices, norms = matrices_of(layers, head), [part for layer in layers for part in layer if isinstance(part, Norm)]
    values = [each.values for each in matrices]
    vectors = [x for each in [*norms, norm] for x in each] + [x for each in matrices for x in each[1:] if x is not None]
    return (
        sum(x.size for x in values) >= MIN_WEIGHTS
        and all(x.dtype == np.float32 and x.flags.c_contiguous for x in vectors)
        and all(x.dtype == values[0].dtype and x.flags.c_contiguous for x in values)
        and values[0].dtype in (np.float32, np.uint16, np.int8)
        and not missing()
    )


class TokenStep:
    """The scores of the next token after one more token of each of B texts, for the weights that `supports` allows.

    The same weights and texts give the same bits on any number of threads.
    """

    def __init__(self, layers: Sequence[Layer], norm: Norm, head: Matrix, n_head: int, eps: float):
        self.layers, self.norm, self.head, self.n_head, self.eps = list(layers), norm, head, n_head, eps
        matrices = matrices_of(layers, head)
        widest = max(len(each.values) for each in matrices)
        self.zeros, self.ones = np.zeros(widest, np.float32), np.ones(widest, np.float32)
        self.nbytes = sum(each.values.nbytes for each in matrices)
        self.caches: list[np.ndarray] = []
        self.table = np.empty((0, 0), np.int64)

    def __call__(
        self, x: np.ndarray, keys: Sequence[np.ndarray], values: Sequence[np.ndarray], positions: Sequence[int]
    ) -> np.ndarray:
        """The scores (B, V) of x (B, C), the embeddings of tokens at these positions (B) of their texts.

        `keys` and `values` have a contiguous array (B, H, P, D) for each layer, filled before these positions; the keys
        and values of x are written there. All is float32. IndexError for a position outside 0 .. P - 1, ValueError for
        other arrays.
        """
        from . import numba_decode

        (B, C), H, room = x.shape, self.n_head, keys[0].shape[2]
        if len(positions) != B or not 0 <= min(positions) <= max(positions) < room:
            raise IndexError(f"positions must be {B} numbers from 0 to {room - 1}, got {list(positions)!r:.80}")
        given = [*keys, *values]
        same = len(self.caches) == len(given) and all(a is b for a, b in zip(self.caches, given, strict=True))
        if not same or keys[0].shape != (B, H, room, C // H):
            self.table, self.caches = self._table(keys, values, (B, H, room, C // H)), given
        threads = machine.threads() if machine.splits(C, self.nbytes / BYTES_PER_NANOSECOND * max(1, B / 4)) else 1
        arrays = [
            np.empty(shape, np.float32)
            for shape in (
                (threads, B, C), (threads, 2, B, 1), (3, B, C), (threads, room), (B, H, C // H),
                (B, len(self.layers[0].expand.values)), (B, len(self.head.values)),
            )
        ]  # fmt: skip
        shared, places = (np.array(x, np.float32), *arrays), np.array(positions, np.int64)
        counters = np.zeros((numba_decode.PHASES * len(self.layers) + 1, LINE // 8), np.int64)
        like = np.empty(0, self.head.values.dtype)

        def part(thread: int) -> None:
            numba_decode.step(
                thread, counters, CHUNK, yield_address(), like, self.table, self.eps, places, room, *shared
            )

        machine.in_threads(part, threads)
        return arrays[-1]

    def _table(self, keys: Sequence[np.ndarray], values: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """The addresses of a layer's arrays in each row, as numba_decode.py reads them; norm and head last."""
        for x in (*keys, *values):  # what is at an address cannot be checked any more
            if x.shape != shape or x.dtype != np.float32 or not x.flags.c_contiguous:
                raise ValueError(f"keys and values must be contiguous float32 {shape}, got {x.dtype} {x.shape}")
        if shape[3] * shape[1] != len(self.norm.weight):
            raise ValueError(f"x must have {len(self.norm.weight)} channels, got {shape[3] * shape[1]}")
        rows = [
            [*[address for part in layer for address in self._addresses(part)], address_of(k), address_of(v)]
            for layer, k, v in zip(self.layers, keys, values, strict=True)
        ]
        table = np.zeros((len(rows) + 1, len(rows[0])), np.int64)
        table[:-1] = rows
        last = [*self._addresses(self.norm), *self._addresses(self.head)]
        table[-1, : len(last)] = last
        return table

    def _addresses(self, part: Matrix | Norm) -> list[int]:
        if isinstance(part, Norm):
            return [address_of(part.weight), address_of(part.bias)]
        scales = self.ones if part.scales is None else part.scales
        return [address_of(x) for x in (part.values, scales, self.zeros if part.bias is None else part.bias)]


def address_of(x: np.ndarray) -> int:
    return x.ctypes.data


@functools.cache
def yield_address() -> int:
    """The address of the system's function that lets another thread run."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0
