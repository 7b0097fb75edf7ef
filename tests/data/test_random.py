"""The random stream, against numbers that torch 2.13 printed and against a scalar reading of the same formulas."""

import json
import math
import random
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite.random import BLOCK, Generator, default_generator, manual_seed

P = np.array([0.1, 0, 0.4, 0.2, 0, 0.3], np.float32)
BATCH = np.stack([P, P[::-1]])
SEEDS = (123, 2**32 + 7, 2**64 - 1)
# fmt: off
TORCH = {  # a draw, and what torch 2.13 on x86-64 printed for it right after torch.manual_seed of each of SEEDS
    "rand": (lambda g: g.rand(3), [0.29611194, 0.5165623, 0.25167072],
        [0.53492254, 0.19880319, 0.6592117], [0.9937994, 0.57130635, 0.57000804]),
    "rand, float64": (lambda g: g.rand(2, np.float64), [0.368895870664273, 0.013365949855291825],
        [0.279380429906404, 0.27369371365176565], [0.9503951604874923, 0.5600645841090078]),
    "uniform": (lambda g: g.uniform(-0.3, 0.7, 3), [-0.0038880706, 0.21656227, -0.048329294],
        [0.23492253, -0.101196826, 0.35921168], [0.6937994, 0.27130634, 0.27000803]),
    "randn": (lambda g: g.randn(5), [-0.111467116, 0.120362945, -0.3696345, -0.24041797, -1.1969243],
        [-0.1467951, 0.7861413, 0.94682163, -1.114344, 1.6907902],
        [1.219763, -0.39297947, 1.0230751, -0.37342113, -0.0755102]),
    "normal": (lambda g: g.normal(2, 0.5, 3), [1.9442664, 2.0601814, 1.8151828],
        [1.9266025, 2.3930707, 2.4734108], [2.6098814, 1.8035103, 2.5115376]),
    "randint": (lambda g: g.randint(-5, 100, 5), [32, 59, 37, 70, 5], [70, 92, 71, 66, 38], [46, 28, 81, 19, 40]),
    "randint, 2**28 values": (lambda g: g.randint(0, 2**28, 2),
        [109329773, 229655874], [171107524, 27798006], [210911522, 830535]),
    "randperm": (lambda g: g.randperm(9),
        [4, 6, 2, 3, 0, 7, 1, 8, 5], [0, 5, 8, 1, 7, 2, 3, 6, 4], [0, 3, 4, 6, 2, 5, 7, 1, 8]),
    "dropout's mask": (lambda g: g.bernoulli_keep(0.4, 10),
        [1, 1, 1, 1, 1, 1, 0, 1, 0, 1], [1, 1, 0, 0, 0, 0, 1, 1, 0, 0], [0, 1, 0, 1, 0, 1, 0, 1, 1, 1]),
    "one sample, eight times": (lambda g: np.concatenate([g.multinomial(P) for _ in range(8)]),
        [3, 3, 2, 2, 5, 3, 0, 2], [0, 5, 2, 0, 2, 5, 0, 2], [5, 3, 5, 2, 0, 2, 3, 2]),
    "four samples of four": (lambda g: g.multinomial(P, 4), [3, 2, 5, 0], [0, 2, 3, 5], [5, 3, 2, 0]),
    "with replacement": (lambda g: g.multinomial(P, 6, replacement=True),
        [2, 0, 3, 0, 2, 3], [2, 2, 5, 3, 5, 5], [5, 3, 5, 2, 5, 3]),
    "batch": (lambda g: g.multinomial(BATCH, 2), [[3, 2], [3, 5]], [[0, 2], [5, 0]], [[5, 3], [3, 2]]),
    "batch with replacement": (lambda g: g.multinomial(BATCH, 3, replacement=True),
        [[2, 0, 3], [0, 2, 3]], [[2, 2, 5], [3, 5, 3]], [[5, 3, 5], [2, 3, 3]]),
    "loader_seed, then randint": (lambda g: [g.loader_seed(), int(g.randint(0, 100, 1)[0])],
        [3624216819017203053, 2], [1407639518939636932, 21], [1800993050274709794, 76]),
}
# fmt: on


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("which", range(len(SEEDS)), ids=lambda which: f"seed {SEEDS[which]}")
def test_prints_what_torch_prints(name, which):
    draw, *printed = TORCH[name]
    drawn = np.asarray(draw(Generator(SEEDS[which])))
    np.testing.assert_array_equal(drawn, np.array(printed[which], drawn.dtype))


# ----- the book's numbers, seed 123 -----


def test_book_embedding():
    weight = Generator(123).randn((6, 3))
    np.testing.assert_allclose(weight[0], [0.3374, -0.1778, -0.1690], atol=5e-5)
    np.testing.assert_allclose(weight[5], [-2.8400, -0.7849, -1.4096], atol=5e-5)


def test_book_thousand_draws():
    logits = np.array([4.51, 0.89, -1.9, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79], np.float32)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    generator = Generator(123)
    drawn = [int(generator.multinomial(p)[0]) for _ in range(1000)]
    assert np.bincount(drawn, minlength=9).tolist() == [73, 0, 0, 582, 2, 0, 0, 343, 0]


# ----- each formula, one number at a time -----


class Scalar:
    """torch's CPU stream written with scalars only, over the MT19937 that CPython has."""

    def __init__(self, seed):
        words = [seed % 2**32]
        for i in range(1, 624):
            words.append((1812433253 * (words[-1] ^ words[-1] >> 30) + i) % 2**32)
        self.twister = random.Random()
        self.twister.setstate((3, (*words, 624), None))

    def raw(self):
        return self.twister.getrandbits(32)

    def random64(self):
        return self.raw() << 32 | self.raw()

    def u(self, dtype=np.float64):
        return self.raw() % 2**24 / 2**24 if dtype == np.float32 else self.random64() % 2**53 / 2**53

    def normals(self, n, dtype):
        if n < 16:
            pairs = [(self.u(), self.u()) for _ in range((n + 1) // 2)]
            polar = [(math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1) for u1, u2 in pairs]
            return [z for r, angle in polar for z in (r * math.cos(angle), r * math.sin(angle))][:n]
        out = [self.u(dtype) for _ in range(n)]
        starts = [*range(0, n - 15, 16)] + ([n - 16] if n % 16 else [])
        for start in starts:
            if start % 16:
                out[start:] = [self.u(dtype) for _ in range(16)]
            for i in range(start, start + 8):
                r, angle = math.sqrt(-2 * math.log(1 - out[i])), 2 * math.pi * out[i + 8]
                out[i], out[i + 8] = r * math.cos(angle), r * math.sin(angle)
        return out

    def permutation(self, n):
        places = list(range(n))
        for i in range(n - 1):
            j = i + self.raw() % (n - i)
            places[i], places[j] = places[j], places[i]
        return places


seeds = st.integers(0, 2**64 - 1)
dtypes = st.sampled_from([np.float32, np.float64])


@given(seeds, st.integers(0, 2000))
@example(2**32, 1)
def test_raw_is_the_mersenne_twister(seed, n):
    generator, scalar = Generator(seed), Scalar(seed)
    assert generator.raw(n).tolist() == [scalar.raw() for _ in range(n)]
    assert generator.random64(3).tolist() == [scalar.random64() for _ in range(3)]
    assert generator.loader_seed() == scalar.random64() % 2**63
    assert generator.seed == seed


@given(seeds, st.integers(0, 50), dtypes)
def test_rand(seed, n, dtype):
    generator, scalar = Generator(seed), Scalar(seed)
    drawn = generator.rand((n, 1), dtype)
    assert (drawn.shape, drawn.dtype) == ((n, 1), dtype)
    assert drawn.ravel().tolist() == [scalar.u(dtype) for _ in range(n)]


@given(seeds, dtypes, st.floats(-100, 100), st.floats(0, 100))
@example(0, np.float32, 4.0, 2.0**-14)
def test_uniform(seed, dtype, low, width):
    generator, scalar = Generator(seed), Scalar(seed)
    drawn = generator.uniform(low, low + width, 30, dtype)
    low, high = dtype(low), dtype(low + width)
    expected = [dtype(scalar.u(dtype) * float(high - low) + float(low)) for _ in range(30)]
    assert drawn.dtype == dtype
    assert drawn.tolist() == [low if x == high else x for x in expected]


@given(seeds, st.integers(0, 70), dtypes)
@example(0, 15, np.float32)
@example(0, 16, np.float32)
@example(0, 17, np.float32)
def test_normals(seed, n, dtype):
    generator, scalar = Generator(seed), Scalar(seed)
    drawn = generator.randn(n, dtype)
    assert drawn.dtype == dtype
    # In float32 the angle 2 pi u2 is rounded to 2.4e-7, and the radius is up to 5.8.
    np.testing.assert_allclose(drawn, scalar.normals(n, dtype), rtol=0, atol=2e-6 if dtype == np.float32 else 1e-14)
    assert generator.raw(1)[0] == scalar.raw()


@pytest.mark.parametrize("name", ["rand", "randn"])
def test_tensors_of_either_dtype_are_the_generators_draws(name):
    for dtype in (np.float32, np.float64):
        drawn = getattr(tl, name)(2, 3, dtype=dtype, generator=Generator(4))
        expected = getattr(Generator(4), name)((2, 3), dtype)
        assert drawn.dtype == dtype
        np.testing.assert_array_equal(drawn.data, expected)


@given(seeds, st.integers(0, 70), st.floats(-5, 5), st.floats(0, 5), dtypes)
def test_normal_scales_and_shifts(seed, n, mean, std, dtype):
    z = Generator(seed).randn(n, np.float64 if n < 16 else dtype)
    drawn = Generator(seed).normal(mean, std, n, dtype)
    np.testing.assert_allclose(drawn, mean + std * z.astype(np.float64), rtol=0, atol=20 * np.finfo(dtype).eps)


@given(seeds, st.integers(0, 50), st.floats(0, 1))
@example(0, 50, 0.0)
@example(0, 50, 1.0)
def test_keep(seed, n, p):
    generator, scalar = Generator(seed), Scalar(seed)
    keep = generator.bernoulli_keep(p, (n,))
    assert keep.dtype == bool
    expected = [p == 0] * n if p in (0, 1) else [scalar.u() < 1 - p for _ in range(n)]
    assert keep.tolist() == expected
    assert generator.raw(1)[0] == scalar.raw()  # p = 0 and p = 1 took no number


@given(seeds, st.integers(-(2**63), 2**63 - 2), st.integers(1, 64).flatmap(lambda bits: st.integers(1, 2**bits)))
@example(0, -5, 2**28 - 1)
@example(0, -5, 2**28)
@example(0, -(2**63), 2**64 - 1)
def test_randint(seed, low, values):
    high = min(low + values, 2**63 - 1)
    generator, scalar = Generator(seed), Scalar(seed)
    drawn = generator.randint(low, high, (2, 3))
    number = scalar.raw if high - low < 2**28 else scalar.random64
    assert drawn.dtype == np.int64
    assert drawn.ravel().tolist() == [low + number() % (high - low) for _ in range(6)]


@given(seeds, st.integers(0, 300))
@example(0, 0)
@example(0, 1)
@example(0, 2)
def test_randperm(seed, n):
    drawn = Generator(seed).randperm(n)
    assert drawn.dtype == np.int64
    assert drawn.tolist() == Scalar(seed).permutation(n)


def test_randperm_long():
    assert Generator(3).randperm(100_000).tolist() == Scalar(3).permutation(100_000)


weights = st.lists(st.sampled_from([0, 0, 1, 2, 3, 16, 1e-3, 1e-38]), min_size=1, max_size=12)
rows = weights.flatmap(lambda first: st.lists(st.permutations(first), min_size=1, max_size=4)).filter(
    lambda p: any(p[0])
)


@given(seeds, rows, dtypes, st.data())
def test_multinomial_race(seed, rows, dtype, data):
    p = np.array(rows, dtype)  # (B, C), every row with the same number of zeros
    num_samples = data.draw(st.integers(1, int((p[0] > 0).sum())))
    replacement = num_samples == 1 and data.draw(st.booleans())  # makes no difference to one sample
    drawn, scalar = Generator(seed).multinomial(p, num_samples, replacement=replacement), Scalar(seed)
    for row, found in zip(p, drawn, strict=True):
        q = [dtype(-math.log1p(-scalar.u())) for _ in row]
        order = sorted(range(len(row)), key=lambda i: row[i] / q[i], reverse=True)
        assert found.tolist() == order[:num_samples]


@given(seeds, rows, dtypes, st.integers(2, 20))
def test_multinomial_with_replacement(seed, rows, dtype, num_samples):
    p, scalar = np.array(rows, dtype), Scalar(seed)
    for row, found in zip(p, Generator(seed).multinomial(p, num_samples, replacement=True), strict=True):
        running = [dtype(0)]
        for weight in row:
            running.append(running[-1] + weight)
        for i in found:
            u = scalar.u()
            assert running[i] / running[-1] < u <= running[i + 1] / running[-1]


def test_multinomial_sums_in_the_dtype_of_p():
    p = np.full(50257, np.float32(1 / 50257))
    running = np.array(list(accumulate(p)))
    assert running[-1] != 1
    found = np.searchsorted(running / running[-1], Generator(2).rand(100_000, np.float64))
    np.testing.assert_array_equal(Generator(2).multinomial(p, 100_000, replacement=True), found)


# ----- the stream as a whole -----


@pytest.mark.parametrize(
    "draw", [Generator.rand, lambda g, n: g.uniform(-1, 2, n), lambda g, n: g.bernoulli_keep(0.3, n)]
)
def test_the_split_into_blocks_does_not_show(draw):
    sizes = [3, BLOCK, BLOCK + 1, 2 * BLOCK - 7]
    parts = Generator(5)
    np.testing.assert_array_equal(draw(Generator(5), sum(sizes)), np.concatenate([draw(parts, n) for n in sizes]))


def test_the_split_into_blocks_does_not_show_in_normals():
    whole = Generator(5).randn(2 * BLOCK + 48)
    parts = Generator(5)
    np.testing.assert_array_equal(whole, np.concatenate([parts.randn(BLOCK - 16), parts.randn(BLOCK + 64)]))


OPERATIONS = {
    "raw": lambda g: g.raw(7),
    "rand": lambda g: g.rand(5),
    "small normals": lambda g: g.randn(3),
    "normals": lambda g: g.randn(20),
    "randperm": lambda g: g.randperm(11),
    "multinomial": lambda g: g.multinomial(P),
}


@given(seeds, st.lists(st.sampled_from(list(OPERATIONS))), st.lists(st.sampled_from(list(OPERATIONS))))
@example(1, ["small normals"], ["normals", "small normals"])  # the pair's other half outlives the restart
def test_state_continues_after_json(seed, before, after):
    generator = Generator(seed)
    for name in before:
        OPERATIONS[name](generator)
    restored = Generator(99)
    restored.randn(1)
    restored.load_state_dict(json.loads(json.dumps(generator.state_dict())))
    assert restored.seed == seed
    for name in after:
        np.testing.assert_array_equal(OPERATIONS[name](restored), OPERATIONS[name](generator))
    assert restored.state_dict() == generator.state_dict()


def test_seeding_forgets_the_other_half_of_a_pair():
    generator = Generator(4)
    generator.randn(1)
    assert generator.manual_seed(4) is generator
    np.testing.assert_array_equal(generator.randn(3), Generator(4).randn(3))


def test_manual_seed_starts_the_default_generator():
    assert manual_seed(11) is default_generator
    np.testing.assert_array_equal(default_generator.rand(4), Generator(11).rand(4))


# ----- what must never happen -----


class Constant(Generator):
    """A generator whose every 32-bit number is the same."""

    number = 0

    def raw(self, n):
        return np.full(n, self.number, np.uint32)


class Largest(Constant):
    number = 2**32 - 1


@pytest.mark.parametrize("generator", [Constant(), Largest()], ids=["all bits 0", "all bits 1"])
@pytest.mark.parametrize(
    "p",
    [np.float32([0, 1, 0]), np.float32([1, 0, 0]), np.float32([0, 1e-45, 0, 2e38]), np.array([0, 0, 5e-324])],
    ids=str,
)
def test_a_zero_is_not_drawn_at_the_ends_of_the_stream(generator, p):
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        assert p[generator.multinomial(p)].all()
        assert p[generator.multinomial(p, 5, replacement=True)].all()


def test_a_zero_is_not_drawn_from_a_vocabulary():
    logits = 60 * Generator(1).randn(50257)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    assert (p == 0).sum() > 5000
    assert p[Generator(2).multinomial(p, 100_000, replacement=True)].all()
    assert p[Generator(2).multinomial(np.broadcast_to(p, (100, 50257)))].all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_leaves_its_upper_end_out(dtype):
    low = 2.0**23 if dtype == np.float32 else 2.0**52  # from here on, floats are 1 apart
    assert Largest().uniform(low, low + 1, 3, dtype).tolist() == [low] * 3


def test_keep_is_strict():
    assert not Largest().bernoulli_keep(2.0**-53, 3).any()  # u = 1 - 2**-53 is not below 1 - p
    assert Constant().bernoulli_keep(1 - 2.0**-53, 3).all()


def test_normals_are_finite_at_the_ends_of_the_stream():
    for generator in (Constant(), Largest()):
        for n in (4, 40):
            assert np.isfinite(generator.randn(n)).all()


# ----- distributions -----


def test_moments():
    generator, n = Generator(7), 400_000
    assert generator.rand(n).mean() == pytest.approx(1 / 2, abs=3e-3)
    assert generator.uniform(-1, 3, n).var(dtype=np.float64) == pytest.approx(16 / 12, rel=5e-3)
    z = generator.randn(n, np.float64)
    moments = [(z**k).mean() for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.05)
    assert generator.bernoulli_keep(0.2, n).mean() == pytest.approx(0.8, abs=3e-3)


@pytest.mark.parametrize("replacement", [False, True])
def test_frequencies(replacement):
    n = 60_000
    p = np.broadcast_to(P, (n, 6)) if not replacement else P
    drawn = Generator(7).multinomial(p, n if replacement else 1, replacement=replacement)
    counts, expected = np.bincount(drawn.ravel(), minlength=6)[P > 0], n * P[P > 0]
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-squared, 3 degrees of freedom: 0.1 %


def test_shapes_and_dtypes():
    generator = Generator(0)
    (raw,) = np.random.RandomState(123).randint(0, 2**32, 1, np.uint32)  # the generator's next 32 bits
    for dtype in ("float32", np.float32, np.dtype(np.float32)):
        assert Generator(123).rand(1, dtype)[0] == np.float32((int(raw) & (2**24 - 1)) * 2.0**-24)
    assert generator.rand(()).shape == ()
    assert generator.randn((0, 3)).shape == (0, 3)
    assert generator.randint(0, 2, (2, 0)).shape == (2, 0)
    assert generator.multinomial(np.broadcast_to(P, (2, 3, 6)), 2).shape == (2, 3, 2)
    assert generator.multinomial(np.ones((0, 4), np.float32)).shape == (0, 1)


# ----- one clear sentence each -----


@pytest.mark.parametrize(
    ("draw", "error", "sentence"),
    [
        (lambda g: g.manual_seed(-1), ValueError, r"^seed must be from 0 to 18446744073709551615, got -1$"),
        (lambda g: g.manual_seed(2**64), ValueError, r"seed must be from 0 .* got 18446744073709551616$"),
        (lambda g: g.manual_seed(1.5), TypeError, r"^seed must be an integer, got 1.5$"),
        (lambda g: g.manual_seed(True), TypeError, r"^seed must be an integer, got True$"),
        (
            lambda g: g.rand(3, np.float16),
            TypeError,
            r"random numbers must be of dtype float32 or float64, got float16",
        ),
        (lambda g: g.rand((2, -1)), ValueError, r"length in a shape must be from 0 .* got -1$"),
        (lambda g: g.uniform(1, 0, 3), ValueError, r"low <= high .* got low=1, high=0$"),
        (lambda g: g.uniform(0, math.nan, 3), ValueError, r"got low=0, high=nan$"),
        (lambda g: g.uniform(-3e38, 3e38, 3), ValueError, r"finite range"),
        (lambda g: g.normal(0, -1, 3), ValueError, r"std must be finite and not negative, got -1$"),
        (lambda g: g.bernoulli_keep(1.5, 3), ValueError, r"p must be from 0 to 1, got 1.5$"),
        (lambda g: g.bernoulli_keep(math.nan, 3), ValueError, r"p must be from 0 to 1, got nan$"),
        (lambda g: g.randint(5, 5, 3), ValueError, r"^randint: high must be from 6 .* got 5$"),
        (lambda g: g.randint(0, 2.5, 3), TypeError, r"^randint: high must be an integer, got 2.5$"),
        (lambda g: g.randperm(-1), ValueError, r"^randperm: n must be from 0 .* got -1$"),
        (lambda g: g.randperm(2**28), ValueError, r"^randperm: n must be from 0 to 214748363, got 268435456$"),
        (lambda g: g.multinomial([0.5, -0.1]), ValueError, r"not negative.* row 0 has values from -0.1 to 0.5"),
        (lambda g: g.multinomial([0.5, math.nan]), ValueError, r"must be finite.* row 0 .* nan"),
        (lambda g: g.multinomial([0.5, math.inf]), ValueError, r"must be finite.* row 0 .* inf"),
        (lambda g: g.multinomial([[0.5, 1], [0, 0]]), ValueError, r"not all zero; row 1 has values from 0.0 to 0.0"),
        (lambda g: g.multinomial(np.float32([3e38, 3e38])), ValueError, r"must be finite.* sum inf"),
        (lambda g: g.multinomial([]), ValueError, r"at least one class, got \(0,\)"),
        (lambda g: g.multinomial([1, 2]), TypeError, r"multinomial: p must be of dtype .* got int64"),
        (lambda g: g.multinomial(P, 5), ValueError, r"num_samples \(without replacement.*from 1 to 4, got 5$"),
        (lambda g: g.multinomial(P, 0, replacement=True), ValueError, r"num_samples must be from 1 .* got 0$"),
        (lambda g: g.load_state_dict({"seed": 3}), ValueError, r"state has .* key of 624 integers"),
        (
            lambda g: g.load_state_dict(g.state_dict() | {"key": [1, 2]}),
            ValueError,
            r"state has .* key of 624 integers",
        ),
        (lambda g: g.load_state_dict(g.state_dict() | {"position": 625}), ValueError, r"position must be .* 625$"),
        (lambda g: g.load_state_dict(g.state_dict() | {"key": [2**32] * 624}), ValueError, r"key must be .* got"),
    ],
)
def test_refuses(draw, error, sentence):
    generator = Generator(3)
    before = generator.state_dict()
    with pytest.raises(error, match=sentence):
        draw(generator)
    assert generator.state_dict() == before


@pytest.mark.parametrize("generator", [3, 0, "a", np.random.default_rng(0)])
@pytest.mark.parametrize(
    "draw",
    [
        lambda g: tl.rand(2, generator=g),
        lambda g: tl.randn(2, generator=g),
        lambda g: tl.randint(0, 2, (2,), generator=g),
        lambda g: tl.randperm(2, generator=g),
        lambda g: tl.multinomial(tl.ones(2), generator=g),
        lambda g: tl.functional.dropout(tl.ones(2), 0.5, generator=g),
        lambda g: tl.formulas.dropout(tl.ones(2), 0.5, generator=g),
    ],
)
def test_what_is_no_generator_is_refused(draw, generator):
    with pytest.raises(TypeError, match=r"generator must be a tl\.Generator"):
        draw(generator)


@pytest.mark.parametrize("p", ["a", None, -1, 2.0, float("nan")])
@pytest.mark.parametrize("training", [True, False])
def test_a_dropout_probability_that_is_none_is_refused(p, training):
    for module in (tl.functional, tl.formulas):
        with pytest.raises(ValueError, match="dropout: p must be a probability between 0 and 1"):
            module.dropout(tl.ones(2), p, training)


def test_the_limits_of_integers_of_parts_and_of_seeds():
    g = tl.Generator(0)
    assert g.randint(2**63 - 2, 2**63 - 1, (2,)).tolist() == [2**63 - 2] * 2
    for low, high, name in ((0, 2**63, "high"), (-1, 2**63 + 1, "high"), (2**63 - 1, 2**63, "low")):
        with pytest.raises(ValueError, match=f"randint: {name}"):
            g.randint(low, high, (2,))
    g.jump(2**20 - 1)
    with pytest.raises(ValueError, match="jump: part"):
        g.jump(2**20)
    assert type(g.loader_seed()) is int
    wanted = np.random.RandomState(2**32 - 1).permutation(9)[:4]
    np.testing.assert_array_equal(tl.random.sample_rows(9, 4, 2**32 - 1), wanted)


def test_a_jump_moves_the_position_on_a_gpu_too():
    """A stand-in for CuPy is enough: the state is an array that stays the same one."""
    g = tl.Generator(7)
    state = g.gpu_state(np)
    assert state.tolist() == [7, 0]
    state[1] += 10  # as a kernel does
    assert g.gpu_state(np) is state
    assert g.gpu_state(np).tolist() == [7, 10]
    g.jump(3)
    assert state.tolist() == [7, 3 << 40]
    continued = tl.Generator(0)
    continued.load_state_dict(json.loads(json.dumps(g.state_dict())))
    assert continued.gpu_state(np).tolist() == [7, 3 << 40]


def test_going_back_to_a_mark_from_before_the_first_use_of_a_gpu():
    g = tl.Generator(7).jump(3)
    mark = g.mark()
    g.gpu_state(np)[1] += 10
    g.back_to(mark)
    assert g.gpu_state(np).tolist() == [7, 3 << 40]
    mark = g.mark()
    g.gpu_state(np)[1] += 10
    g.back_to(mark)
    assert g.gpu_state(np).tolist() == [7, 3 << 40]
