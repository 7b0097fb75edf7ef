"""`accelerate.parallel.backward`: the gradient of a sum, each term of which has a thread of its own."""

import threading

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.accelerate import parallel
from tensorlite.devices import machine


@pytest.fixture
def leaf():
    return tl.tensor([1.0, -2.0, 3.0], dtype=tl.float64, requires_grad=True)


def powers(x, exponents):
    return [lambda n=n: (x**n).sum() for n in exponents]


def test_the_gradient_of_a_sum_is_the_sum_of_the_gradients(leaf):
    """d/dx (x^1 + x^2 + x^3) = 1 + 2 x + 3 x^2, and what was in .grad stays."""
    leaf.sum().backward()
    losses = parallel.backward(powers(leaf, (1, 2, 3)))
    x = leaf.numpy()
    np.testing.assert_allclose(leaf.grad.numpy(), 1 + 1 + 2 * x + 3 * x**2, rtol=1e-15)
    np.testing.assert_allclose([loss.item() for loss in losses], [(x**n).sum() for n in (1, 2, 3)])
    assert not any(loss.requires_grad for loss in losses)


def test_terms_are_added_in_their_order(leaf):
    """(1 + 1e16) - 1e16 = 0 in float64: another order of the terms would give 1."""
    started = [threading.Event() for _ in range(3)]

    def term(i, factor):
        if i < 2:
            assert started[i + 1].wait(60)  # the first ends last
        started[i].set()
        return (leaf * factor).sum()

    parallel.backward([lambda i=i, f=f: term(i, f) for i, f in enumerate((1.0, 1e16, -1e16))])
    assert leaf.grad.tolist() == [0, 0, 0]


def test_each_term_has_a_thread_and_its_ops_stay_there(leaf):
    seen, both = [], threading.Barrier(2, timeout=60)

    def term():
        both.wait()  # fails unless two threads are here together
        seen.append((threading.get_ident(), machine.splits(1 << 20, 1e12)))
        return leaf.sum()

    machine.set_threads(2)
    try:
        parallel.backward([term, term])
        assert machine.splits(1 << 20, 1e12)  # afterwards large ops are split again
    finally:
        machine.set_threads(1)
    assert len({thread for thread, _ in seen}) == 2
    assert not any(splits for _, splits in seen)


def test_without_terms_nothing_is_computed():
    assert parallel.backward([]) == []


def test_an_error_in_any_thread_is_raised_after_all_have_ended(leaf):
    ended = []

    def term(wrong):
        if wrong:
            raise ZeroDivisionError("of one term")
        ended.append(1)
        return leaf.sum()

    for order in ((True, False, False), (False, False, True)):
        ended.clear()
        with pytest.raises(ZeroDivisionError, match="of one term"):
            parallel.backward([lambda wrong=wrong: term(wrong) for wrong in order])
        assert len(ended) == 2
        assert leaf.grad is None


def test_threads_see_the_settings_of_the_caller(leaf):
    def compute(i):
        return (leaf * 2).requires_grad

    assert machine.in_threads(compute, 2) == [True, True]
    with tl.no_grad():
        assert machine.in_threads(compute, 2) == [False, False]
