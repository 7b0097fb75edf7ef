"""The flat storage of accelerate does what the plain loop does; an optimizer with its own formula gets the plain one.

SGD has the same bits. Adam's in-place version scales m once where the paper divides m and v, and numba's loop rounds in
another order: the digits that agree are stated below.
"""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite import nn, optim
from tensorlite.accelerate.storage import UPDATES, FlatStorage, storage_for
from tensorlite.kernels.cpu import choose_impl
from tensorlite.optim.optimizers import PlainStorage

OPTIONS = {
    "SGD": (optim.SGD, {"lr": 0.1}),
    "SGD with decay": (optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (optim.Adam, {"lr": 0.01}),
    "Adam with decay": (optim.Adam, {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.1}),
    "AdamW": (optim.AdamW, {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}),
}
DTYPES = ["float32", "float64", "float16", "bfloat16"]
# the largest difference of parameters and state, relative to the largest element, after at most 6 steps
DIGITS = {"float32": 1e-6, "float64": 1e-14, "float16": 2**-9, "bfloat16": 2**-6}
each = pytest.mark.parametrize("name", OPTIONS)


def plain(kind: type[optim.Optimizer]) -> type[optim.Optimizer]:
    """The same optimizer with the plain storage."""
    return type(kind.__name__, (kind,), {"storage": PlainStorage})


def parameters(dtype: str, shapes=((3, 4), (5,), (), (0, 2), (7,))) -> list[nn.Parameter]:
    rng = np.random.default_rng(0)
    return [nn.Parameter(tl.tensor(rng.standard_normal(shape)).astype(getattr(tl, dtype))) for shape in shapes]


def step(optimizer: optim.Optimizer, seed: int, present=None, **scale) -> None:
    rng = np.random.default_rng(seed)
    for i, p in enumerate(optimizer.params):
        g = tl.tensor(rng.standard_normal(p.shape)).astype(p.dtype)
        p.grad = g if present is None or present >> i & 1 else None
    optimizer.step(**scale)


def values(optimizer: optim.Optimizer) -> list[np.ndarray]:
    tensors = [*optimizer.params, *optimizer.state_dict()["tensors"].values()]
    return [x.data.astype(np.float64) for x in tensors]


def assert_same(one: optim.Optimizer, other: optim.Optimizer, digits: float) -> None:
    assert one.state_dict()["steps"] == other.state_dict()["steps"]
    assert [p.version for p in one.params] == [p.version for p in other.params]
    for x, y in zip(values(one), values(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=digits * np.abs(y).max(initial=0))


@pytest.mark.slow
@each
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    groups=st.booleans(),
    presence=st.lists(st.integers(0, 31), min_size=1, max_size=6),
    scale=st.sampled_from([1.0, 0.25, tl.tensor(0.5, "float64"), tl.tensor(np.nan)]),
)
def test_flat_and_plain_storage_update_alike(name, dtype, groups, presence, scale):
    kind, options = OPTIONS[name]
    both = []
    for cls in (kind, plain(kind)):
        params = parameters(dtype)
        given_ = [{"params": params[:2], "lr": 0.05}, {"params": params[2:], "weight_decay": 0.0}] if groups else params
        both.append(cls(given_, **options))
    flat, loop = both
    assert (type(flat._storage), type(loop._storage)) == (FlatStorage, PlainStorage)
    for seed, present in enumerate(presence):
        for optimizer in both:
            step(optimizer, seed, present, grad_scale=scale)
            optimizer.lr = 0.1 / (seed + 1)
    assert_same(flat, loop, 0 if kind is optim.SGD else DIGITS[dtype])


@pytest.mark.skipif(bool(choose_impl.missing()), reason=choose_impl.missing())
@pytest.mark.parametrize("name", ["Adam", "Adam with decay", "AdamW"])
def test_numbas_loop_updates_as_the_plain_one(name, monkeypatch):
    monkeypatch.setattr(choose_impl, "MIN_SIZE", 0)
    kind, options = OPTIONS[name]
    both = [cls(parameters("float32"), **options) for cls in (kind, plain(kind))]
    for seed in range(4):
        for optimizer in both:
            step(optimizer, seed, 31 - seed)
    assert_same(*both, DIGITS["float32"])


@each
def test_states_move_between_flat_and_plain_storage(name):
    kind, options = OPTIONS[name]
    for first, second in ((kind, plain(kind)), (plain(kind), kind), (kind, kind)):
        groups = [[{"params": p[::2]}, {"params": p[1::2]}] for p in (parameters("float32"), parameters("float32"))]
        one, other = first(groups[0], **options), second(groups[1], **options)
        step(one, 0, 0b10110)
        for p, q in zip(one.params, other.params, strict=True):
            q.data[...] = p.data
        other.load_state_dict(one.state_dict())
        for optimizer in (one, other):
            step(optimizer, 1)
        for x, y in zip(values(one), values(other), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 * np.abs(y).max(initial=0))
        assert one.state_dict()["steps"] == other.state_dict()["steps"] == [1, 2, 2, 1, 2]


# ----- an optimizer with a formula of its own -----------------------------------------------------------------------


class Lion(optim.Optimizer):
    """Chen et al., "Symbolic discovery of optimization algorithms", 2023: a formula that the library does not have."""

    state_names = ("m",)

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    def update(self, p, g, t, m, *, lr, weight_decay):
        direction = np.sign(0.9 * m + 0.1 * g)
        return p - lr * (direction + weight_decay * p), 0.99 * m + 0.01 * g


def test_a_formula_of_ones_own_needs_nothing_else():
    p, q = nn.Parameter([1.0, -2.0, 3.0]), nn.Parameter([[4.0]])
    optimizer = Lion([{"params": [p], "lr": 0.5}, {"params": [q]}])
    assert type(optimizer._storage) is PlainStorage
    p.grad = tl.tensor([2.0, -1.0, 0.0])
    optimizer.step()
    optimizer.step(grad_scale=tl.tensor(np.inf))
    assert (p.tolist(), q.tolist()) == ([0.5, -1.5, 3.0], [[4.0]])
    state = optimizer.state_dict()
    assert (state["steps"], p.version, q.version) == ([1, 0], 1, 0)
    np.testing.assert_allclose(state["tensors"]["0.m"].numpy(), [0.02, -0.01, 0], rtol=1e-6)
    assert optimizer.params[0].dtype == state["tensors"]["0.m"].dtype == np.float32


class Plain(optim.Optimizer):
    """No options but lr; the formula is a function."""

    update = staticmethod(lambda p, g, t, *, lr: (p - lr * g,))


def test_a_formula_without_state_and_weight_decay():
    p = nn.Parameter([1.0, 2.0])
    p.grad = tl.tensor([1.0, -1.0])
    Plain([p], {"lr": 0.5}).step()
    assert p.tolist() == [0.5, 2.5]
    with pytest.raises(ValueError, match="weight_decay"):
        Plain([p], {"lr": 0.5, "weight_decay": -1.0})


@pytest.mark.parametrize("result", [lambda p: p, lambda p: (p, p, p)], ids=["an array", "too many"])
def test_a_formula_must_return_the_parameter_and_its_state(result):
    class Wrong(Lion):
        def update(self, p, g, t, m, **options):
            return result(p)

    p = nn.Parameter([1.0, 2.0])  # two elements: as many as the results that are expected
    p.grad = tl.tensor([1.0, -1.0])
    with pytest.raises(TypeError, match=r"Wrong.update must return a tuple of p and m, not (ndarray|3)"):
        Wrong([p]).step()
    assert p.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_with_the_plain_storage_continues_and_warns_when_it_is_alone(duplicate):
    layer = nn.Linear(2, 1)
    optimizer = Lion(layer.parameters())
    step(optimizer, 0)
    twin, its = duplicate((layer, optimizer))
    for each_ in (optimizer, its):
        step(each_, 1)
    assert its.params[0] is twin.weight
    for x, y in zip(values(optimizer), values(its), strict=True):
        np.testing.assert_array_equal(x, y)
    assert its.state_dict()["steps"] == [2, 2]
    lonely = duplicate(optimizer)
    lonely.zero_grad()
    with pytest.warns(UserWarning, match="Lion: this optimizer is a copy and none of its parameters has a gradient"):
        lonely.step()


def test_the_attached_storage_is_flat_for_the_formulas_it_knows_and_plain_for_others():
    class Changed(optim.AdamW):
        @staticmethod
        def update(p, g, t, m, v, **options):
            return p - g, m, v

    assert set(UPDATES) == {optim.SGD.update, optim.Adam.update, optim.AdamW.update}
    for kind, expected in ((optim.AdamW, FlatStorage), (Changed, PlainStorage), (plain(optim.Adam), PlainStorage)):
        p = nn.Parameter([1.0])
        assert type(kind([p])._storage) is expected
    assert optim.Optimizer.storage is storage_for
    changed = Changed([p])
    p.grad = tl.tensor([0.25])
    changed.step()
    assert p.tolist() == [0.75]


# ----- the norm -----------------------------------------------------------------------------------------------------


def test_an_optimizer_knows_the_norm_of_its_own_gradients():
    params = parameters("float32")
    optimizer = optim.SGD([{"params": params[2:]}, {"params": params[:2]}], lr=0.1)
    assert optimizer.global_norm().item() == 0
    for i, p in enumerate(params[:-1]):
        p.grad = p.detach() * i
    norm = optimizer.global_norm()
    assert (norm.shape, norm.dtype, norm.device) == ((), tl.float64, "cpu")
    assert norm.item() == pytest.approx(optim.grad_norm(params), rel=1e-15)
    assert norm.item() == optim.global_norm(optimizer.params).item()
