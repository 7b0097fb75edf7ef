"""The kernels of embedding, run on the CPU, against NumPy."""

import numpy as np
import pytest
from emulator import emulated  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tensorlite.backend import bfloat16
from tensorlite.kernels import precision
from tensorlite.kernels.cuda import embedding

pytestmark = pytest.mark.usefixtures("emulated")
BF16 = bfloat16()
FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sums(g, ids, V):
    out = np.zeros((V, g.shape[-1]))
    np.add.at(out, ids, g.astype(np.float64))
    return out


@FEW
@given(
    shape=st.sampled_from([(7,), (2, 3), (0,), (3, 0), (1,), (2, 40)]),
    C=st.sampled_from([1, 8, 12, 33, 260]),
    arithmetic=st.sampled_from(["float32", "bfloat16"]),
    index=st.sampled_from(["int32", "int64", "uint8"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_the_table(shape, C, arithmetic, index, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((11, C)).astype(np.float32)
    idx = rng.integers(0, 11, shape).astype(index)
    assert embedding.supports_embedding(weight, idx)
    was, precision._dtype = precision._dtype, arithmetic
    try:
        out = embedding.embedding(weight, idx)
    finally:
        precision._dtype = was
    expected = weight[idx] if arithmetic == "float32" else weight[idx].astype(BF16)
    assert out.dtype == expected.dtype
    assert out.shape == (*shape, C)
    assert out.tobytes() == expected.tobytes()


@FEW
@given(
    N=st.sampled_from([0, 1, 31, 33, 300, 2500]),
    V=st.sampled_from([1, 2, 5, 70, 600]),
    C=st.sampled_from([1, 8, 12, 33]),
    dtype=st.sampled_from([np.dtype(np.float32), BF16]),
    index=st.sampled_from(["int32", "int64", "uint16"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_of_the_same_row_are_added(N, V, C, dtype, index, seed):
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.geometric(min(1, 4 / V), N) - 1, V - 1).astype(index)  # some often, some never
    g = rng.standard_normal((N, C)).astype(dtype)
    out, none = embedding.embedding_vjp(g, [True, False], (V, C), ids)
    assert out.dtype == np.float32
    assert none is None
    size = sums(np.abs(g.astype(np.float64)), ids, V)
    assert (np.abs(out - sums(g, ids, V)) <= 1e-5 * size).all()  # exactly 0 where there is nothing to add
    again, _ = embedding.embedding_vjp(g, [True, False], (V, C), ids)
    assert again.tobytes() == out.tobytes()


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16])
def test_segments_of_one_piece_and_a_little_more(dtype):
    rng = np.random.default_rng(5)
    ids = rng.permutation(np.repeat(np.arange(6), [31, 32, 33, 64, 65, 0]))
    g = rng.standard_normal((len(ids), 8)).astype(dtype)
    out, _ = embedding.embedding_vjp(g, [True, False], (6, 8), ids)
    np.testing.assert_allclose(out, sums(g, ids, 6), atol=1e-4)


def test_shapes_and_strides():
    rng = np.random.default_rng(1)
    g = rng.standard_normal((3, 6, 40)).astype(np.float32)[:, ::2, 4:12]
    ids = rng.integers(0, 5, (6, 3)).T[:, ::2]
    out, _ = embedding.embedding_vjp(g, [True, False], (5, 8), ids)
    np.testing.assert_allclose(out, sums(g, ids, 5), atol=1e-5)
    weight = rng.standard_normal((5, 8)).astype(np.float32)
    assert (embedding.embedding(weight, ids) == weight[ids]).all()


def test_the_order_does_not_depend_on_where_segments_lie():
    rng = np.random.default_rng(2)
    g, ids = rng.standard_normal((400, 8)).astype(np.float32), rng.integers(0, 3, 400)
    out, _ = embedding.embedding_vjp(g, [True, False], (3, 8), ids)
    moved, _ = embedding.embedding_vjp(g, [True, False], (4, 8), (ids + 1) % 4)  # other ids, so other segments
    assert moved[[1, 2, 3]].tobytes() == out.tobytes()
    expected = np.zeros((3, 8), np.float32)  # 32 at a time, in their order
    for v in range(3):
        mine = g[ids == v]
        for piece in range(0, len(mine), 32):
            total = np.zeros(8, np.float32)
            for row in mine[piece : piece + 32]:
                total += row
            expected[v] += total
    assert out.tobytes() == expected.tobytes()


def test_ids_outside_of_the_table(monkeypatch):
    monkeypatch.setattr(embedding, "check_indices", lambda *_: None)  # which looks at values on a CPU only
    weight, ids = np.ones((4, 8), np.float32), np.array([0, -1, 4, 3, 2**40])
    out = embedding.embedding(weight, ids)
    assert np.isnan(out[[1, 2, 4]]).all()
    assert (out[[0, 3]] == 1).all()
    grad, _ = embedding.embedding_vjp(np.ones((5, 8), np.float32), [True, False], (4, 8), ids)
    assert grad.sum(axis=1).tolist() == [8, 0, 0, 8]


def test_what_is_left_to_the_specification():
    weight, idx = np.ones((4, 8), np.float32), np.array([0])
    assert not embedding.supports_embedding(weight.astype(np.float64), idx)
    assert not embedding.supports_embedding(weight, idx.astype(np.float32))
    assert not embedding.supports_embedding(weight[0], idx)
    assert not embedding.supports_embedding(weight[:, ::2], idx)
    assert not embedding.supports_embedding(weight[:0], idx)
    for rows, fits in ((2**31 - 1, True), (2**31, False)):  # the kernels count in int32
        long = np.lib.stride_tricks.as_strided(weight, (rows, 1), (4, 4))
        supported = embedding.supports_embedding(long, idx)  # outside of the assert, which would print the rows
        assert supported == fits
