"""Matrices in bfloat16 and int8: their rounding, and products of few and of many rows against float64."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite.accelerate.quantized import QuantizedEmbedding, QuantizedLinear
from tensorlite.devices import machine
from tensorlite.kernels.cpu import blocks, choose_impl
from tensorlite.kernels.cpu.quantized import QuantizedMatrix

pytestmark = pytest.mark.skipif(bool(choose_impl.missing()), reason="numba cannot be used")
KINDS = ["bfloat16", "int8"]
SEEDS = st.integers(0, 2**20)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ----- rounding ---------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=2.0**127, min_value=-(2.0**127))))
@example([1 + 2**-8, 1 + 3 * 2**-8, -0.0, 1e-45])  # two ties, which go to even
def test_bfloat16_is_rounded_as_ml_dtypes_does(values):
    x = np.array(values, np.float32).reshape(1, -1)
    expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(QuantizedMatrix(x, "bfloat16").rows(slice(0, 1)), expected)


@given(SEEDS, st.integers(1, 9), st.integers(1, 40), st.sampled_from([1e-20, 1.0, 1e20]))
def test_int8_is_within_half_a_step_of_each_row(seed, n, k, size):
    x = normal(seed, n, k) * np.float32(size)
    matrix = QuantizedMatrix(x, "int8")
    step = np.abs(x).max(axis=1, keepdims=True).astype(np.float64) / 127
    found = matrix.rows(np.arange(n))
    assert (np.abs(found - x.astype(np.float64)) <= 0.5001 * step).all()
    np.testing.assert_allclose(np.abs(found).max(axis=1), np.abs(x).max(axis=1), rtol=1e-6)  # the largest is kept
    assert matrix.nbytes == n * k + 4 * n


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_and_blocks_of_many_rows(kind):
    x = normal(1, 300, 700)
    x[7] = 0
    matrix = QuantizedMatrix(x, kind)
    np.testing.assert_array_equal(matrix.rows(np.array([7])), np.zeros((1, 700)))
    alone = np.concatenate([QuantizedMatrix(row[None], kind).rows(slice(0, 1)) for row in x])
    np.testing.assert_array_equal(matrix.rows(np.arange(300)), alone)


# ----- products ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, rows=st.sampled_from([(), (1,), (3, 1), (5,), (15,), (31,), (32,), (2, 20)]), bias=st.booleans(),
       n=st.sampled_from([1, 3, 64, 201]), k=st.sampled_from([1, 5, 33, 400]))  # fmt: skip
def test_a_product_is_that_of_the_rounded_matrix(kind, seed, rows, bias, n, k):
    x, weight, b = normal(seed, *rows, k), normal(seed + 1, n, k), normal(seed + 2, n) if bias else None
    matrix = QuantizedMatrix(weight, kind)
    rounded = matrix.rows(np.arange(n)).astype(np.float64)
    expected = x.astype(np.float64) @ rounded.T + (0 if b is None else b)
    found = matrix.linear(x, b)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=3e-6 * math.sqrt(k) * 4, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 4, 7, 15, 31])
def test_a_product_of_few_rows_in_float32_has_the_same_bits_on_any_number_of_threads(rows, monkeypatch):
    x, weight, bias = normal(1, rows, 512), normal(2, 1024, 512), normal(3, 1024)
    assert weight.size >= blocks.COMPILED
    called = []
    real = blocks.few_rows
    monkeypatch.setattr(blocks, "few_rows", lambda *args: called.append(1) or real(*args))
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 0)
    found = []
    before = machine.threads()
    try:
        for threads in (1, 2, 3):
            machine.set_threads(threads)
            found.append(blocks.product(x, weight.T, bias))
    finally:
        machine.set_threads(before)
    assert len(called) == 3
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    np.testing.assert_allclose(found[0], x.astype(np.float64) @ weight.T.astype(np.float64) + bias, atol=1e-4)


# ----- layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_layers_look_up_and_multiply_and_refuse_gradients(kind):
    matrix = QuantizedMatrix(normal(1, 6, 4), kind)
    embedding, linear = QuantizedEmbedding(matrix), QuantizedLinear(matrix, tl.ones(6))
    x = embedding([[0, 5], [5, 2]])
    assert (x.shape, x.dtype) == ((2, 2, 4), np.float32)
    np.testing.assert_array_equal(x.data, matrix.rows(np.array([[0, 5], [5, 2]])))
    np.testing.assert_array_equal(linear(x).data, matrix.linear(x.data, np.ones(6, np.float32)))
    with pytest.raises(IndexError, match="6"):
        embedding([6])
    with pytest.raises(RuntimeError, match="quantized weights cannot be trained, and no gradient flows through them"):
        linear(tl.tensor(x.data, requires_grad=True))
    assert list(linear.parameters()) == []


@pytest.mark.parametrize(
    ("weight", "kind", "says"),
    [
        (normal(1, 2, 2), "int4", "to bfloat16 or int8, not to 'int4'"),
        (normal(1, 2, 2).astype(np.float64), "int8", "only matrices of float32"),
        (normal(1, 2), "int8", "only matrices of float32"),
        (np.array([[1, np.nan]], np.float32), "int8", "not finite"),
        (np.array([[1, np.inf]], np.float32), "bfloat16", "not finite"),
    ],
)
def test_what_cannot_be_quantized(weight, kind, says):
    with pytest.raises(ValueError, match=says):
        QuantizedMatrix(weight, kind)


def test_a_product_that_does_not_fit_names_both_shapes():
    with pytest.raises(
        ValueError, match=r"x must be float32 \(\.\.\., 4\) for quantized weights \(6, 4\), not float32 \(2, 5\)"
    ):
        QuantizedMatrix(normal(1, 6, 4), "int8").linear(normal(1, 2, 5))


def test_without_numba_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr("tensorlite.kernels.cpu.quantized.missing", lambda: "numba is not installed: pip install it")
    with pytest.raises(ValueError, match="quantized weights need compiled loops, and numba is not installed: pip"):
        QuantizedMatrix(normal(1, 2, 2), "int8")
