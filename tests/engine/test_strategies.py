"""The strategies of tensorlite.testing draw what they promise, and how often."""

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite.testing import (
    booleans,
    broadcastable,
    kinky,
    layouts,
    matmul_shapes,
    reductions,
    shapes,
    smooth,
    tensors,
)

PROFILE = "HYPOTHESIS_PROFILE"
EXAMPLES = {"dev": 10, "ci": 100, "nightly": 5000, "mutants": 200, "quick-mutants": 10}


@given(array=smooth((3, 4), (2,), low=-1, high=2, avoid=(0.0, 1.0), gap=0.1))
def test_smooth_values_differ_and_avoid_kinks(array):
    assert [x.shape for x in array] == [(3, 4), (2,)]
    values = np.sort(np.concatenate([x.ravel() for x in array]))
    assert np.diff(values).min() > 1 / 80
    assert values[0] >= -1
    assert values[-1] <= 2
    assert min(abs(values).min(), abs(values - 1).min()) >= 0.1


@given(array=kinky((4, 5)))
def test_kinky_values_are_sixteenths(array):
    assert (array[0] * 16 == np.round(array[0] * 16)).all()
    assert abs(array[0]).max() <= 3


@given(drawn=layouts(kinky((2, 3), (4,)).map(lambda a: (a[0], a[1])), broadcast=False))
def test_layouts_keep_the_values(drawn):
    assert [x.shape for x in drawn] == [(2, 3), (4,)]
    assert not np.isnan(np.concatenate([x.ravel() for x in drawn])).any()


@given(xs=broadcastable(3), ab=matmul_shapes())
def test_shapes_fit(xs, ab):
    np.broadcast_shapes(*xs)
    np.matmul(*map(np.empty, ab))


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        (shapes(), lambda s: s == ()),
        (shapes(), lambda s: 0 in s and len(s) > 1),
        (shapes(), lambda s: 1 in s),
        (broadcastable(2), lambda p: p[0] != p[1] and 1 in p[0] and 1 in p[1] and max(*p[0], *p[1]) > 1),
        (matmul_shapes(), lambda p: len(p[0]) == 1 and len(p[1]) > 2),
        (kinky((3,)), lambda a: a[0][0] == a[0][1] != 0),
        (kinky((3,)), lambda a: (a[0] == 0).any()),
        (layouts(smooth((2, 3))), lambda a: a[0].strides[1] < 0),
        (layouts(smooth((2, 3))), lambda a: a[0].strides[0] == 8),
        (layouts(smooth((2, 3))), lambda a: a[0].strides[1] == 16),
        (layouts(smooth((2, 3)), broadcast=True), lambda a: a[0].strides[0] == 0),
        (tensors(st.just((2,)), requires_grad=False), lambda t: not t.requires_grad and t.shape == (2,)),
        (tensors((2, 2)), lambda t: t.requires_grad and t.dtype == tl.float32),
        (tensors(), lambda t: t.ndim == 3),
    ],
)
@pytest.mark.slow
def test_edge_cases_are_drawn(strategy, wanted):
    find(strategy, wanted, settings=settings(max_examples=2000, database=None))


def test_the_profile_asked_for_is_in_force():
    """In each process of pytest-xdist too."""
    assert settings.get_current_profile_name() == os.environ.get(PROFILE, "dev")
    assert settings().max_examples == EXAMPLES[settings.get_current_profile_name()]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_profile_has_its_examples_the_same_ones_on_every_run_unless_nightly(name):
    """No test has a deadline, which a busy machine would not keep."""
    now = settings.get_profile(name)
    assert (now.max_examples, now.deadline) == (EXAMPLES[name], None)
    assert HealthCheck.too_slow in now.suppress_health_check
    assert now.derandomize == (name != "nightly")
    assert (now.database is None) == now.derandomize


def draws(strategy, count: int = 400) -> list:
    """Examples of a strategy, the same ones on every run."""
    found = []

    @settings(max_examples=count, derandomize=True, database=None)
    @given(x=strategy)
    def draw(x):
        found.append(x)

    draw()
    return found


def kind(x: np.ndarray) -> str:
    if 0 in x.strides:
        return "broadcast"
    if not x.flags.writeable:
        return "read-only"
    if x.flags.c_contiguous:
        return "C"
    return "F" if x.flags.f_contiguous else "negative" if min(x.strides) < 0 else "strided"


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 2, 3)])
def test_most_layouts_are_not_in_c_order(shape):
    """Measured: each kind has its share of the draws, and plain arrays less than half."""
    for broadcast in (False, True):
        found = Counter(kind(x) for (x,) in draws(layouts(kinky(shape), broadcast=broadcast)))
        kinds = {"C", "negative", "strided", "read-only"} | ({"F"} if len(shape) > 1 else set())
        assert found.keys() == kinds | ({"broadcast"} if broadcast else set())
        assert found["C"] < sum(found.values()) / 2, found
        assert min(found.values()) > sum(found.values()) / 20, found
    assert {x.flags.writeable for (x,) in draws(layouts(kinky(())))} == {True, False}


@given(xs=layouts(st.just((np.arange(6.0).reshape(2, 3), np.arange(4.0), np.array(5.0)))))
def test_layouts_do_not_move_values(xs):
    for x, wanted in zip(xs, (np.arange(6.0).reshape(2, 3), np.arange(4.0), np.array(5.0)), strict=True):
        np.testing.assert_array_equal(x, wanted)


@given(xs=layouts(st.just((np.arange(6.0).reshape(2, 3),)), broadcast=True))
def test_a_broadcast_layout_repeats_the_first_row(xs):
    assert xs[0].tolist() in ([[0, 1, 2], [3, 4, 5]], [[0, 1, 2], [0, 1, 2]])


def test_some_lengths_are_past_64_and_some_values_past_3():
    drawn = draws(shapes(1), 1000)
    sides = [max(shape) for shape in drawn]
    assert 0.03 < np.mean(np.array(sides) > 64) < 0.08  # one in 20
    assert max(sides) <= 130
    assert 0.12 < np.mean([0 in shape for shape in drawn]) < 0.21  # one in six
    assert {side for shape in drawn for side in shape if side < 65} == {0, 1, 2, 3}
    assert max(max(shape, default=0) for shape in draws(shapes(max_side=3))) == 3
    large = [abs(x).max() > 3 for (x,) in draws(smooth((4,)), 1000)]
    assert 0.07 < np.mean(large) < 0.13  # one in ten
    assert not any(abs(x).max() > 2 for (x,) in draws(smooth((4,), low=-2, high=2)))
    assert any((x[0].shape[-1] > 64) and np.unique(x[0]).size == x[0].size for x in draws(smooth((1, 500)), 5))


def test_many_elements_are_drawn_too():
    (x,) = draws(kinky((130, 2)), 3)[-1]
    assert x.shape == (130, 2)
    assert (x * 16 == np.round(x * 16)).all()
    assert abs(x).max() <= 3
    assert 20 < np.unique(x).size < x.size
    found = draws(booleans((100,)), 5)
    assert {b.dtype for b in found} == {np.dtype(bool)}
    assert any(0 < b.sum() < 100 for b in found)


@given(array=kinky((6,), bound=8))
def test_kinky_values_keep_their_bound(array):
    assert abs(array[0]).max() <= 0.5


def test_smooth_says_that_there_is_no_number():
    with pytest.raises(ValueError, match=r"no number between 0 and 1 is 2 away from \[0.0\]"):
        draws(smooth((2,), low=0, high=1, gap=2), 1)


def test_smooth_draws_between_limits_that_are_near_each_other():
    for (x,) in draws(smooth((3,), low=1e-8, high=1e-3, avoid=()), 20):
        assert (x > 1e-8).all()
        assert (x < 1e-3).all()
        assert len(set(x)) == 3
    with pytest.raises(ValueError, match="smooth: low must be below high, got 1 and 1"):
        draws(smooth((3,), low=1, high=1), 1)


def test_the_largest_of_some_elements_is_tied_in_many_draws():
    tied = [(x == x.max()).sum() > 1 for (x,) in draws(kinky((4,)))]
    assert np.mean(tied) > 0.5


def test_many_reductions_are_over_one_axis_that_is_not_the_first():
    drawn = draws(reductions())
    inner = [isinstance(meta["axis"], int) and meta["axis"] % len(shape) > 0 for (shape,), meta in drawn]
    assert np.mean(inner) > 0.14


def test_most_factors_of_a_product_are_matrices():
    drawn = draws(matmul_shapes())
    for i in (0, 1):
        assert 0.05 < np.mean([len(pair[i]) == 1 for pair in drawn]) < 0.5  # one in four


def test_reductions_have_axes_of_all_kinds_that_exist():
    drawn = draws(reductions())
    for (shape,), meta in drawn:
        np.empty(shape).sum(**meta)  # raises for an axis that does not exist
    axes = [meta["axis"] for _, meta in drawn]
    assert {type(axis) for axis in axes} == {int, tuple, type(None)}
    assert any(min(axis) < 0 < max(axis) for axis in axes if isinstance(axis, tuple) and len(axis) > 1)
    assert {meta["keepdims"] for _, meta in drawn} == {True, False}
    assert all("keepdims" not in meta for _, meta in draws(reductions(keepdims=False), 5))


def test_where_a_reduced_axis_has_elements_the_others_may_have_none():
    drawn = draws(reductions(empty=False, tuples=False, none=False, min_dims=1))
    assert all(shape[meta["axis"]] > 0 for (shape,), meta in drawn)
    assert any(0 in shape for (shape,), _ in drawn)


def test_layouts_are_copies_and_tensors_have_their_dtype():
    array = np.arange(6.0).reshape(2, 3)
    assert not any(np.may_share_memory(x, array) for (x,) in draws(layouts(st.just((array,)))))
    for dtype in (tl.float32, np.dtype(np.float64)):
        assert {x.dtype for x in draws(tensors((2,), dtype=dtype), 3)} == {dtype}
