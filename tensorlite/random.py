"""Random numbers: the stream of PyTorch's CPU generator, so that a seed gives PyTorch's weights, batches and masks.

One idea: there is a single stream of 32-bit numbers, the Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), and
each distribution is a formula that takes the next numbers of it. The formulas are PyTorch's, including where they round
and how many numbers they take.

With `raw` the next 32-bit number and `random64 = raw1 << 32 | raw2`, a uniform u in [0, 1) has two widths:

    float32   (raw & (2**24 - 1)) * 2**-24           takes one number
    float64   (random64 & (2**53 - 1)) * 2**-53      takes two

The same bits as torch 2.13: rand, uniform in float32, randn and normal below 16 elements, randint, randperm,
bernoulli_keep, multinomial. From 16 elements on, randn and normal take the same uniforms, but logarithm, sine
and cosine are NumPy's: a float32 randn is within 5e-7 * max(1, |x|) of torch's. In float64, normal from 16
elements on and uniform (where torch fuses multiply and add) differ in the last bits.

Floats are float32 or float64, and all results are NumPy arrays. Do not use it for cryptography: MT19937 is predictable.
A Generator belongs to one thread. A copy, a pickle and the generator of a forked process continue at the same position:
seed each process differently where they should draw different numbers. Kernels on a GPU draw from a second stream
(`gpu_state`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

BLOCK = 1 << 15  # elements drawn at a time: the temporaries stay in the CPU's cache; a multiple of 16
FLOAT64 = np.dtype(np.float64)

Shape = int | tuple[int, ...]
Formula = Callable[[np.ndarray], np.ndarray]  # of uniforms


class Generator:
    """A stream of random numbers from `seed`, 0 to 2**64 - 1; as in torch, its low 32 bits count."""

    __slots__ = ("_gpu", "_library", "_normal", "_seed", "_taken", "_twister")

    def __init__(self, seed: int = 0) -> None:
        self._gpu: Any = None  # the state of the stream on a GPU, after its first use: [seed, numbers taken]
        self._twister = np.random.RandomState(0)
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Self:
        """Start again at `seed`, and return this generator."""
        self._seed = _integer("seed", seed, 0, 2**64 - 1)
        self._twister.seed(self._seed & 0xFFFFFFFF)
        self._normal: float | None = None  # the unused half of the last pair of small normals
        self._set_gpu_position(0)
        return self

    def jump(self, part: int) -> Self:
        """Continue at the beginning of part `part` of this seed's numbers, 0 to 2**20 - 1, and return this generator.

        Each part is a stream of its own, and none of them is that of `manual_seed`. So the numbers of a part do not
        depend on what was drawn before. The position on a GPU is set by a kernel, which a CUDA graph can record.
        """
        part = _integer("jump: part", part, 0, 2**20 - 1)
        self._twister.seed([self._seed & 0xFFFFFFFF, self._seed >> 32, part])
        self._normal, self._taken = None, part << 40
        if self._gpu is not None:
            self._gpu[1] = self._taken
        return self

    @property
    def seed(self) -> int:
        """The seed that this stream started at."""
        return self._seed

    # ----- the stream -----

    def raw(self, n: int) -> np.ndarray:
        """The next n 32-bit numbers: uint32 (n,)."""
        return self._twister.randint(0, 2**32, n, dtype=np.uint32)

    def random64(self, n: int) -> np.ndarray:
        """n numbers of 64 bits, raw1 << 32 | raw2 each: uint64 (n,)."""
        pairs = self.raw(2 * n).reshape(n, 2).astype(np.uint64)
        return pairs[:, 0] << np.uint64(32) | pairs[:, 1]

    def loader_seed(self) -> int:
        """One random64 without its sign bit: the seed that PyTorch's DataLoader takes from the stream."""
        return int(self.random64(1)[0]) & (2**63 - 1)

    def _draw(self, shape: Shape, dtype: DTypeLike, formula: Formula, width: np.dtype = FLOAT64) -> np.ndarray:
        """formula(u) of fresh uniforms of `width`, in C order: an array of `shape` and `dtype`."""
        out = np.empty(_shape(shape), dtype)
        flat = out.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            part = flat[start : start + BLOCK]
            if width == np.float32:
                u = (self.raw(part.size) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)
            else:
                pairs = self.raw(2 * part.size).reshape(-1, 2)
                u = (pairs[:, 0] & 0x1FFFFF) * 2.0**-21 + pairs[:, 1] * 2.0**-53
            part[:] = formula(u)
        return out

    # ----- floats -----

    def rand(self, shape: Shape, dtype: DTypeLike = np.float32) -> np.ndarray:
        """Uniform in [0, 1): of `shape` and `dtype`, float32 or float64."""
        dtype = _float(dtype)
        return self._draw(shape, dtype, lambda u: u, dtype)

    def uniform(self, low: float, high: float, shape: Shape, dtype: DTypeLike = np.float32) -> np.ndarray:
        """u * (high - low) + low, rounded once; `low` where that gives `high`, so that `high` is excluded."""
        dtype = _float(dtype)
        if not (low <= high and high - low <= np.finfo(dtype).max):
            raise ValueError(f"uniform needs low <= high and a finite range, got low={low}, high={high}")
        low, high = dtype.type(low), dtype.type(high)
        span, start = float(high - low), float(low)
        # Products of float32 are exact in float64: only the assignment rounds, like a fused multiply-add.
        out = self._draw(shape, dtype, lambda u: u.astype(np.float64) * span + start, dtype)
        out[out == high] = low
        return out

    def randn(self, shape: Shape, dtype: DTypeLike = np.float32) -> np.ndarray:
        """Normal with mean 0 and standard deviation 1: of `shape` and `dtype`, float32 or float64."""
        return self.normal(0.0, 1.0, shape, dtype)

    def normal(self, mean: float, std: float, shape: Shape, dtype: DTypeLike = np.float32) -> np.ndarray:
        """mean + std * z, z by Box and Muller (1958): sqrt(-2 ln u1) times cosine and sine of 2 pi u2.

        Below 16 elements a z is computed in float64, and the other half of its pair is kept for the next such call.
        From 16 on, uniforms become z in blocks of 16, the first 8 as 1 - u1, the last 8 as u2; if the size is not a
        multiple of 16, the last 16 elements are drawn again at the end.
        """
        dtype = _float(dtype)
        if not 0 <= std < math.inf:
            raise ValueError(f"normal: std must be finite and not negative, got {std}")
        shape = _shape(shape)
        size = math.prod(shape)
        if size < 16:
            return np.array([self._next_normal() * std + mean for _ in range(size)], dtype).reshape(shape)
        scale, shift = float(dtype.type(std)), float(dtype.type(mean))

        def box_muller(u: np.ndarray) -> np.ndarray:
            u = u.reshape(-1, 2, 8)  # (blocks of 16, 1 - u1 and u2, 8)
            radius, angle = np.sqrt(-2 * np.log(1 - u[:, 0])), 2 * math.pi * u[:, 1]
            z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
            return z.astype(np.float64) * scale + shift  # as in uniform

        out = self._draw(size - size % 16, dtype, box_muller, dtype)
        if size % 16:
            self.rand(size % 16, dtype)  # torch draws these and does not use them
            out = np.concatenate([out[: size - 16], self._draw(16, dtype, box_muller, dtype)])
        return out.reshape(shape)

    def _next_normal(self) -> float:
        if self._normal is not None:
            z, self._normal = self._normal, None
            return z
        u1, u2 = self.rand(2, np.float64).tolist()
        radius, angle = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
        self._normal = radius * math.sin(angle)
        return radius * math.cos(angle)

    def bernoulli_keep(self, p: float, shape: Shape) -> np.ndarray:
        """The mask of dropout: True with probability 1 - p, where an element is kept; bool, of `shape`.

        Float64 uniforms below 1 - p. For p = 0 and p = 1 no number is taken. ValueError for other p outside 0 to 1.
        """
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability p must be from 0 to 1, got {p}")
        if p in (0, 1):
            return np.full(_shape(shape), p == 0)
        return self._draw(shape, np.bool_, lambda u: u < 1 - p)

    # ----- integers -----

    def randint(self, low: int, high: int, shape: Shape) -> np.ndarray:
        """low + number % (high - low), int64; the number is raw for fewer than 2**28 values, else random64."""
        low = _integer("randint: low", low, -(2**63), 2**63 - 2)
        high = _integer("randint: high", high, low + 1, 2**63 - 1)
        shape = _shape(shape)
        size, values = math.prod(shape), high - low
        number = self.raw(size).astype(np.uint64) if values < 2**28 else self.random64(size)
        # uint64 wraps around, so adding `low` modulo 2**64 is correct for negative values too.
        return (number % np.uint64(values) + np.uint64(low % 2**64)).view(np.int64).reshape(shape)

    def randperm(self, n: int) -> np.ndarray:
        """The numbers 0 to n - 1 in random order: int64 (n,), for n up to 214,748,363.

        Fisher and Yates, 1938: for i = 0 .. n-2, swap places i and target_i = i + raw % (n - i). The result is found
        without a loop over the swaps. Let held(i) be the number in place i just before step i. A place keeps its
        own number until a step s targets it; then it has the number of place s. Therefore

            held(i)   = held(s) for the last s < i with target_s = i, else i
            result(i) = held(s) for the last s < i with target_s = target_i, else target_i

        and the chains of the first line are followed to their ends by doubling: held = held[held].
        """
        n = _integer("randperm: n", n, 0, (2**32 - 1) // 20 - 1)  # above that, torch has another rule
        step = np.arange(max(n - 1, 0), dtype=np.int64)
        target: np.ndarray = step + self.raw(step.size) % np.arange(n, 1, -1)
        keys = np.sort(target << 32 | step)  # by target, and then in the order of time
        place, s = keys >> 32, keys & 0xFFFFFFFF
        first, last = np.diff(place, prepend=-1) != 0, np.diff(place, append=n) != 0
        held = np.arange(n, dtype=np.int64)
        held[place[last]] = s[last]  # a step that targets its own place ends the chain there
        while not np.array_equal(held, further := held[held]):
            held = further
        result = held.copy()  # the last place has no step of its own
        result[s] = np.where(first, place, held[np.roll(s, 1)])
        return result

    # ----- choices -----

    def multinomial(self, p: ArrayLike, num_samples: int = 1, *, replacement: bool = False) -> np.ndarray:
        """Classes drawn in proportion to p: (..., C) -> int64 (..., num_samples). A class of p = 0 is never drawn.

        p is float32 or float64; its rows need not sum to 1. Without replacement, and for one sample, the classes with
        the largest p / q are taken, q = -log1p(-u) exponential. With replacement, float64 uniforms are looked up in the
        running sum of p. ValueError for a row with a negative, infinite or nan entry or with zeros only, and for more
        samples than a row has nonzero classes, without replacement.
        """
        p = np.asarray(p)
        _float(p.dtype, "multinomial: p")
        if p.ndim == 0 or p.shape[-1] == 0:
            raise ValueError(f"multinomial: p must have shape (..., C) with at least one class, got {p.shape}")
        rows = p.reshape(-1, p.shape[-1])  # (B, C)
        _check_probabilities(rows)
        most = 2**63 - 1 if replacement else int((rows > 0).sum(axis=1).min(initial=rows.shape[1]))
        limit = "" if replacement else " (without replacement, at most the nonzero classes)"
        num_samples = _integer(f"multinomial: num_samples{limit}", num_samples, 1, most)
        draw = self._by_running_sum if replacement and num_samples > 1 else self._by_largest_ratio
        return draw(rows, num_samples).reshape(*p.shape[:-1], num_samples)

    def _by_largest_ratio(self, rows: np.ndarray, num_samples: int) -> np.ndarray:
        """The classes with the largest p / q: Efraimidis and Spirakis, "Weighted random sampling", 2006."""
        q = self._draw(rows.shape, rows.dtype, lambda u: -np.log1p(-u))
        with np.errstate(divide="ignore", over="ignore"):
            score = np.divide(rows, q, out=np.full_like(rows, -1), where=rows > 0)
        if num_samples == 1:
            return score.argmax(axis=1)
        return np.argsort(-score, axis=1, kind="stable")[:, :num_samples]

    def _by_running_sum(self, rows: np.ndarray, num_samples: int) -> np.ndarray:
        drawn = np.empty((len(rows), num_samples), np.int64)
        for i, row in enumerate(rows):
            running = np.cumsum(row)
            running /= running[-1]
            u = self.rand(num_samples, np.float64)
            drawn[i] = np.searchsorted(running, np.maximum(u, 2.0**-1000))  # u = 0 would find a leading zero of p
        return drawn

    # ----- a second stream, on a GPU -----

    def gpu_state(self, library: Any) -> Any:
        """The state of the counter-based stream (Philox) that kernels draw from: uint64 [seed, taken], in `library`.

        It stays the same array: a kernel that draws numbers advances the counter in it, also when a CUDA graph replays
        the kernel. The stream has the same seed as this one and is otherwise independent of it.
        """
        if self._gpu is None:
            self._gpu, self._library = library.asarray(np.array([self._seed, self._taken], np.uint64)), library
        return self._gpu

    def _set_gpu_position(self, taken: int) -> None:
        self._taken = taken  # used when the array is made
        if self._gpu is not None:
            self._gpu[...] = self._library.asarray(np.array([self._seed, taken], np.uint64))

    # ----- positions -----

    def mark(self) -> tuple[Any, ...]:
        """The position of both streams, for `back_to`. It does not wait for a GPU."""
        gpu = None if self._gpu is None else self._gpu.copy()
        return self._twister.get_state(legacy=False), self._normal, gpu

    def back_to(self, mark: tuple[Any, ...]) -> None:
        """Go back to a position, so that the numbers drawn since `mark()` are drawn again."""
        twister, self._normal, gpu = mark
        self._twister.set_state(twister)
        if gpu is not None:
            self._gpu[...] = gpu
        else:
            self._set_gpu_position(self._taken)

    # ----- state -----

    def state_dict(self) -> dict[str, Any]:
        """The position of the stream, in values that JSON keeps exactly; "taken" is the position of that on a GPU."""
        twister = self._twister.get_state(legacy=False)["state"]
        position = {"key": twister["key"].tolist(), "position": int(twister["pos"])}
        taken = self._taken if self._gpu is None else int(self._gpu[1].item())
        return {
            "algorithm": "mt19937", "seed": self._seed, **position, "normal": self._normal, "taken": taken,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the position of a `state_dict()`; ValueError or TypeError for anything else."""
        names = ["algorithm", "seed", "key", "position", "normal"]
        known = sorted(state.keys() - {"taken"}) == sorted(names)
        if not known or state["algorithm"] != "mt19937" or len(state["key"]) != 624:
            raise ValueError(f"a generator's state has {names}, algorithm 'mt19937' and a key of 624 integers")
        key = [_integer("each integer of the state's key", word, 0, 2**32 - 1) for word in state["key"]]
        position = _integer("the state's position", state["position"], 0, 624)
        normal = None if state["normal"] is None else float(state["normal"])
        self.manual_seed(state["seed"])
        self._twister.set_state(("MT19937", np.array(key, np.uint32), position, 0, 0.0))
        self._normal = normal
        self._set_gpu_position(_integer("the state's taken", state.get("taken", 0), 0, 2**64 - 1))

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the copy continues here, in a stream of its own."""
        return self.state_dict()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._gpu, self._twister = None, np.random.RandomState(0)
        self.load_state_dict(state)


def _check_probabilities(rows: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        total = rows.sum(axis=1)
    good = (rows.min(axis=1) >= 0) & (total > 0) & (total < math.inf)  # False for nan
    if not good.all():
        i = int(np.argmin(good))
        found = f"row {i} has values from {rows[i].min()} to {rows[i].max()} and sum {total[i]}"
        raise ValueError(f"multinomial: probabilities must be finite, not negative and not all zero; {found}")


def _integer(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")
    return int(value)


def _float(dtype: DTypeLike, what: str = "random numbers") -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{what} must be of dtype float32 or float64, got {dtype}; use astype")
    return dtype


def _shape(shape: Shape) -> tuple[int, ...]:
    lengths = (shape,) if isinstance(shape, int | np.integer) else shape
    return tuple(_integer("each length in a shape", length, 0, 2**63 - 1) for length in lengths)


def sample_rows(n: int, k: int, seed: int) -> np.ndarray:
    """k distinct numbers of 0 to n - 1 in random order: int64 (k,), as drawn by NumPy's legacy RandomState(seed).

    These are the rows of pandas' `DataFrame.sample(k, random_state=seed)`; no Generator is involved.
    """
    n = _integer("sample_rows: n", n, 0, 2**31 - 1)
    k = _integer("sample_rows: k", k, 0, n)
    twister = np.random.RandomState(_integer("sample_rows: seed", seed, 0, 2**32 - 1))
    return twister.permutation(n)[:k].astype(np.int64)  # as choice(n, k, replace=False) does


default_generator = Generator()


def stream(generator: Generator | None) -> Generator:
    """`generator`, or the default one for None; TypeError for anything else."""
    if not isinstance(generator, Generator | None):
        raise TypeError(f"generator must be a tl.Generator, tl.Generator(seed), not {generator!r:.80}")
    return default_generator if generator is None else generator


def manual_seed(seed: int) -> Generator:
    """Start the default generator, which is used where no generator is given, at `seed`; returns it.

    TypeError unless `seed` is an integer, ValueError unless it is from 0 to 2**64 - 1.
    """
    return default_generator.manual_seed(seed)
