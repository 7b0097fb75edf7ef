"""The random stream beside torch's own CPU generator: same seed, same draws, and the same place in the stream after."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorlite.random import Generator

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[peers]'")

SEEDS = [0, 1, 123, 2**31 + 5, 2**32 - 1, 2**32 + 7, 2**63 + 1, 2**64 - 1]
SIZES = [0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 100, 1000, 2**15, 2**15 + 5, 100_003]


def both(seed):
    torch.manual_seed(seed)
    return Generator(seed)


def assert_same(drawn, expected, tolerance=0.0):
    expected = expected.numpy()
    assert (drawn.dtype, drawn.shape) == (expected.dtype, expected.shape)
    difference = np.abs(drawn.astype(np.float64) - expected)
    assert (difference <= tolerance * np.maximum(1, np.abs(expected))).all(), difference.max()


def assert_same_place(generator):
    """Both streams took the same number of numbers."""
    assert generator.rand(1)[0] == torch.rand(1).item()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", SIZES)
def test_floats(seed, dtype, n):
    generator, kind, eps = both(seed), getattr(torch, dtype), np.finfo(dtype).eps
    assert_same(generator.rand(n, dtype), torch.rand(n, dtype=kind))
    fused = 0 if dtype == "float32" else eps  # float64 has no wider float to round a fused multiply-add in
    assert_same(generator.uniform(-0.1, 0.3, n, dtype), torch.empty(n, dtype=kind).uniform_(-0.1, 0.3), fused)
    normals = 5e-7 if dtype == "float32" else 4 * eps
    assert_same(generator.randn(n, dtype), torch.randn(n, dtype=kind), 0 if n < 16 else normals)
    assert_same(generator.normal(-3, 0.02, n, dtype), torch.empty(n, dtype=kind).normal_(-3, 0.02), normals)
    assert_same_place(generator)


def test_uniform_that_rounds_up_to_its_end():
    generator = both(5)
    drawn = generator.uniform(1e6, 1e6 + 3, 100_000)
    assert_same(drawn, torch.empty(100_000).uniform_(1e6, 1e6 + 3))


@given(st.integers(0, 2**64 - 1), st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=12))
def test_other_half_of_a_pair_waits_through_other_draws(seed, draws):
    generator = both(seed)
    for normal, n in draws:
        if normal:
            assert_same(generator.randn(n), torch.randn(n), 0 if n < 16 else 5e-7)
        else:
            assert_same(generator.rand(n), torch.rand(n))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", SIZES)
def test_randperm(seed, n):
    generator = both(seed)
    assert_same(generator.randperm(n), torch.randperm(n))
    assert_same_place(generator)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (-5, 100), (0, 2**28 - 1), (0, 2**28), (-3, 2**32), (0, 2**63 - 1), (-(2**63), 2**63 - 1)],
)
def test_randint(seed, low, high):
    generator = both(seed)
    assert_same(generator.randint(low, high, (7, 11)), torch.randint(low, high, (7, 11)))
    assert_same_place(generator)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("p", [0.0, 0.1, 1 / 3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(1,), (15,), (2, 3, 16), (5, 20_011)])
def test_dropout(seed, p, shape):
    generator = both(seed)
    kept = torch.nn.functional.dropout(torch.ones(shape), p) != 0
    assert (generator.bernoulli_keep(p, shape) == kept.numpy()).all()
    assert_same_place(generator)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(1,), (9,), (4, 9), (64, 65), (50257,), (3, 50257)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_multinomial(seed, shape, dtype):
    logits = Generator(77).normal(0, 4, shape, dtype)
    logits[..., 1::3] = -np.inf
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))  # need not sum to 1
    generator = both(seed)
    for num_samples, replacement in [(1, False), (1, True), (min(6, (shape[-1] + 1) // 2), False), (1000, True)]:
        drawn = generator.multinomial(p, num_samples, replacement=replacement)
        assert_same(drawn, torch.multinomial(torch.from_numpy(p), num_samples, replacement=replacement))
    assert_same_place(generator)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 2), (10, 7), (768, 64), (100, 50257)])
def test_linear_and_embedding(seed, inputs, outputs):
    generator, bound = both(seed), 1 / math.sqrt(inputs)
    linear, embedding = torch.nn.Linear(inputs, outputs), torch.nn.Embedding(outputs, inputs)
    assert_same(generator.uniform(-bound, bound, (outputs, inputs)), linear.weight.detach())
    assert_same(generator.uniform(-bound, bound, outputs), linear.bias.detach())
    assert_same(generator.randn((outputs, inputs)), embedding.weight.detach(), 5e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_data_loader(seed):
    """A pass takes one random64; a shuffled pass takes a second one, which seeds a generator for its order."""
    generator, data = both(seed), list(range(37))
    shuffled = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    in_order = torch.utils.data.DataLoader(data, batch_size=4)
    for _ in range(3):
        generator.loader_seed()
        order = Generator(generator.loader_seed()).randperm(37)
        assert_same(order, torch.cat(list(shuffled)))
        list(in_order)
        generator.loader_seed()
    assert_same_place(generator)


def test_data_loader_with_its_own_generator():
    """Then the order comes from that generator itself, and a pass that is run to its end takes a second one."""
    loader = torch.utils.data.DataLoader(
        list(range(37)), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(8)
    )
    generator = Generator(8)
    for _ in range(3):
        generator.loader_seed()
        assert_same(generator.randperm(37), torch.cat(list(loader)))
        generator.randperm(37)


@pytest.mark.parametrize("before", [0, 1, 623, 624, 625])
def test_state_stands_at_torchs_place(before):
    """The 624 words and the position are those of torch's own state, which counts the words left plus one."""
    generator = both(6)
    generator.raw(before)
    for _ in range(before):
        torch.randint(0, 2, ())
    state, words = generator.state_dict(), torch.get_rng_state().numpy().view(np.uint64)
    assert words[3:627].tolist() == state["key"]
    assert 625 - int(words[1]) % 2**32 == state["position"]
