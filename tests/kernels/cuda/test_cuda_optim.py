"""The optimizer's kernels, run on the CPU, against optim.py and float64."""

import itertools
import math

import numpy as np
import pytest
from emulator import emulated  # noqa: F401
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tensorlite import optim
from tensorlite.kernels.cuda import optim as kernels
from tensorlite.tensor import Tensor

pytestmark = pytest.mark.usefixtures("emulated")
FEW = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
OPTIONS = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-3}


def control_of(lr, weight_decay, betas, eps, step=0):
    return np.array([step, lr, weight_decay, *betas, eps], np.float64)


def some_arrays(rng, sizes, scale=1.0):
    return [(scale * rng.standard_normal(size)).astype(np.float32) for size in sizes]


# ----- Adam -------------------------------------------------------------------------------------------------------


@FEW
@given(
    sizes=st.sampled_from([[1], [5, 16, 0, 3], [16390, 4], [3] * 70, [0]]),
    decoupled=st.booleans(),
    decay=st.sampled_from([0.0, 0.1]),
    grad_scale=st.sampled_from([None, 0.3]),
    before=st.sampled_from([0, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_adam_is_the_one_of_the_cpu(sizes, decoupled, decay, grad_scale, before, seed):
    rng = np.random.default_rng(seed)
    options = {**OPTIONS, "weight_decay": decay}
    start = some_arrays(rng, sizes)
    tensors = [Tensor(x.copy(), requires_grad=True) for x in start]
    cpu = (optim.AdamW if decoupled else optim.Adam)(tensors, **options)
    cpu.load_state_dict({"steps": [before] * len(sizes), "tensors": cpu.state_dict()["tensors"]})
    offsets = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    p, m, v = np.concatenate(start), np.zeros(offsets[-1], np.float32), np.zeros(offsets[-1], np.float32)
    parts = [[x[a:b] for a, b in itertools.pairwise(offsets)] for x in (p, m, v)]
    control = control_of(**options, step=before)
    scale = None if grad_scale is None else np.array(grad_scale, np.float32)
    for _ in range(3):
        grads = some_arrays(rng, sizes)
        for t, g in zip(tensors, grads, strict=True):
            t.grad = Tensor(g.copy())
        cpu.step(1.0 if grad_scale is None else float(np.float32(grad_scale)))
        kernels.adam(control, *parts, grads, scale, decoupled=decoupled)
        cpu.lr = control[1] = cpu.lr / 2
    state = cpu.state_dict()["tensors"]
    for i, t in enumerate(tensors):
        np.testing.assert_allclose(parts[0][i], t.data, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(parts[1][i], state[f"{i}.m"].data, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(parts[2][i], state[f"{i}.v"].data, rtol=1e-6, atol=1e-10)
    assert control[0] == before + 3
    assert control[2:].tolist() == control_of(**options)[2:].tolist()


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_step_whose_gradients_are_not_finite_changes_nothing(scale):
    rng = np.random.default_rng(1)
    arrays = [some_arrays(rng, [7, 20]) for _ in range(3)]
    for v in arrays[2]:
        np.abs(v, out=v)
    before, control = [[x.copy() for x in each] for each in arrays], control_of(**OPTIONS)
    kernels.adam(control, *arrays, some_arrays(rng, [7, 20]), np.array(scale, np.float32), decoupled=True)
    assert control[0] == 0
    for each, was in zip(arrays, before, strict=True):
        assert [x.tobytes() for x in each] == [x.tobytes() for x in was]
    kernels.adam(control, *arrays, some_arrays(rng, [7, 20]), np.array(1, np.float32), decoupled=True)
    assert control[0] == 1
    assert np.isfinite(arrays[0][1]).all()
    assert (arrays[0][1] != before[0][1]).all()


def test_what_adam_and_the_norm_refuse():
    x, control = np.ones(4, np.float32), control_of(**OPTIONS)
    for params, grads in (([x], [x.astype(np.float64)]), ([x], [x[:2]]), ([np.ones((4, 2), np.float32)[:, 0]], [x])):
        with pytest.raises(ValueError, match="adam: a parameter, what is kept beside it and its gradient must be"):
            kernels.adam(control, params, [x], [x], grads, decoupled=True)
    assert control[0] == 0
    with pytest.raises(ValueError, match="grad_norm: there is no gradient"):
        kernels.grad_norm([])
    with pytest.raises(ValueError, match="grad_norm: a gradient must be float32"):
        kernels.grad_norm([x.astype(np.float64)])


# ----- the norm and clipping --------------------------------------------------------------------------------------


@FEW
@given(
    sizes=st.sampled_from([[1], [0], [5, 0, 16], [40000, 3], [2] * 300]),
    scale=st.sampled_from([1.0, 1e-30, 1e30, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
@example(sizes=[5, 1027], scale=1.0, seed=0)  # vectors of four and a rest
def test_norm(sizes, scale, seed):
    rng = np.random.default_rng(seed)
    grads = some_arrays(rng, sizes, scale)
    grads.append((scale * rng.standard_normal((6, 10))).astype(np.float32).T[::2])
    norm = kernels.grad_norm(grads)
    expected = math.sqrt(math.fsum(float((g.astype(np.float64) ** 2).sum()) for g in grads))
    assert norm.shape == ()
    assert norm.dtype == np.float64
    np.testing.assert_allclose(norm, expected, rtol=1e-14)
    assert kernels.grad_norm(grads) == norm


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_norm_of_what_is_not_finite(special):
    g = np.ones(40, np.float32)
    g[33] = special
    norm = kernels.grad_norm([g, np.ones(3, np.float32)])
    assert not np.isfinite(norm)
    for most in (1.0, None, 0):
        assert np.isnan(kernels.clip_scale(norm, most))


def test_the_factor_that_clips():
    for norm in (0.0, 0.5, 1.0, 3.0, 1e-30, 1e30):
        for most in (1.0, 0.25, 7.0):
            scale = kernels.clip_scale(np.array(norm), most)
            assert scale.shape == ()
            assert scale.dtype == np.float32
            np.testing.assert_allclose(scale, optim.clip_scale(norm, most), rtol=1e-7)
        assert kernels.clip_scale(np.array(norm), None) == 1
        assert kernels.clip_scale(np.array(norm), 0) == 1
