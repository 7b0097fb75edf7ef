"""jacobian, hessian, vjp and jvp against formulas, and against each other."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tensorlite as tl
from tensorlite import functional as F

VALUES = hnp.arrays(np.float64, st.integers(1, 4), elements=st.integers(-32, 32).map(lambda n: n / 16))


@given(VALUES)
def test_the_jacobian_of_a_linear_map_is_its_matrix(x):
    A = np.arange(3.0 * x.size).reshape(3, x.size)
    assert tl.jacobian(lambda x: tl.matmul(A, x), tl.Tensor(x)).numpy().tolist() == A.tolist()


@given(VALUES)
def test_the_jacobian_of_softmax(x):
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    np.testing.assert_allclose(tl.jacobian(F.softmax, tl.Tensor(x)).numpy(), np.diag(p) - np.outer(p, p), atol=1e-12)


@given(VALUES)
def test_the_hessian_of_logsumexp_and_of_a_cube(x):
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    np.testing.assert_allclose(tl.hessian(tl.logsumexp, tl.Tensor(x)).numpy(), np.diag(p) - np.outer(p, p), atol=1e-12)
    assert tl.hessian(lambda x: (x * x * x).sum(), tl.Tensor(x)).numpy().tolist() == np.diag(6 * x).tolist()


@given(VALUES, st.integers(0, 99))
def test_products_are_those_of_the_whole_jacobian(x, seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(3, x.size))

    def f(x):
        return tl.tanh(tl.matmul(A, x)) * x.sum()

    J = tl.jacobian(f, tl.Tensor(x)).numpy()
    u, v = rng.normal(size=3), rng.normal(size=x.size)
    out, left = tl.vjp(f, tl.Tensor(x), u)
    same, right = tl.jvp(f, tl.Tensor(x), v)
    np.testing.assert_allclose(left.numpy(), u @ J, atol=1e-12)
    np.testing.assert_allclose(right.numpy(), J @ v, atol=1e-12)
    assert out.tolist() == same.tolist() == f(tl.Tensor(x)).tolist()


def test_several_inputs_and_shapes_of_any_rank():
    x, y = tl.randn(2, 3, generator=tl.Generator(0)), tl.randn(3, 2, generator=tl.Generator(1))
    by_x, by_y = tl.jacobian(tl.matmul, [x, y])
    assert (by_x.shape, by_y.shape) == ((2, 2, 2, 3), (2, 2, 3, 2))
    np.testing.assert_allclose(by_x.numpy(), np.einsum("ik,lj->ijkl", np.eye(2), y.numpy()), atol=1e-6)
    _, change = tl.jvp(tl.matmul, (x, y), (tl.ones_like(x), tl.zeros_like(y)))
    np.testing.assert_allclose(change.numpy(), np.ones((2, 3)) @ y.numpy(), rtol=1e-5)
    assert tl.hessian(lambda x: (x * x).sum(), x).shape == (2, 3, 2, 3)
    value, (gx, gy) = tl.vjp(lambda x, y: (x * y.T).sum(), [x, y])
    assert (value.shape, gx.tolist(), gy.tolist()) == ((), y.T.tolist(), x.T.tolist())


def test_what_the_result_does_not_depend_on_has_derivative_0():
    x = tl.tensor([1.0, 2.0])
    assert tl.jacobian(lambda x: tl.ones(3), x).tolist() == [[0, 0]] * 3
    assert tl.hessian(lambda x: x.sum(), x).tolist() == [[0, 0]] * 2
    assert tl.jvp(lambda x: tl.ones(3), x, x)[1].tolist() == [0, 0, 0]
    assert tl.jacobian(lambda x: x[:0], x).shape == (0, 2)


def test_the_inputs_are_not_changed():
    x = tl.tensor([1.0, 2.0], requires_grad=True)
    for derivative in (tl.jacobian(tl.exp, x), tl.hessian(tl.sum, x), tl.vjp(tl.sum, x)[1], tl.jvp(tl.exp, x, x)[1]):
        assert not derivative.requires_grad
    assert x.grad is None
    assert x.tolist() == [1, 2]


def test_one_sentence_for_what_does_not_fit():
    x = tl.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r"hessian: the function must return one number, not shape \(2,\)"):
        tl.hessian(tl.exp, x)
    with pytest.raises(ValueError, match=r"jvp: v must have the shapes of the inputs, \[\(2,\)\], not \[\(3,\)\]"):
        tl.jvp(tl.exp, x, tl.ones(3))
    with pytest.raises(TypeError, match="jacobian: the function must return a Tensor, not float"):
        tl.jacobian(lambda x: math.pi, x)
