"""Optimizers against their formulas in float64, one parameter at a time; norms and schedules against theirs."""

import copy
import importlib.util
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite import backend, nn, optim
from tensorlite.accelerate import storage
from tensorlite.optim import clipping
from tensorlite.testing.strict import strict

# ----- the oracle: each formula as its paper or torch's documentation writes it, on one array -----------------------


def sgd(s, g, *, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    d = g + weight_decay * s.p
    s.velocity = momentum * s.velocity + d if s.t > 1 else d
    s.p = s.p - lr * (d + momentum * s.velocity if nesterov else s.velocity)


def adam(s, g, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    g = g + weight_decay * s.p
    s.m = betas[0] * s.m + (1 - betas[0]) * g
    s.v = betas[1] * s.v + (1 - betas[1]) * g**2
    m_hat, v_hat = s.m / (1 - betas[0] ** s.t), s.v / (1 - betas[1] ** s.t)
    s.p = s.p - lr * m_hat / (np.sqrt(v_hat) + eps)


def adamw(s, g, *, lr=1e-3, weight_decay=0.01, **options):
    s.p = s.p - lr * weight_decay * s.p
    adam(s, g, lr=lr, **options)


RULES = {optim.SGD: sgd, optim.Adam: adam, optim.AdamW: adamw}
OPTIONS = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adam, {}),
    (optim.Adam, {"lr": 0.1, "betas": (0.0, 0.5), "eps": 0.1, "weight_decay": 0.1}),
    (optim.AdamW, {}),
    (optim.AdamW, {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.5}),
]
each = pytest.mark.parametrize(
    ("kind", "options"), OPTIONS, ids=[f"{k.__name__}{i}" for i, (k, _) in enumerate(OPTIONS)]
)


def parameters(shapes, dtype=np.float64) -> list[nn.Parameter]:
    rng = np.random.default_rng(1)
    return [nn.Parameter(rng.standard_normal(shape).astype(dtype)) for shape in shapes]


def give_gradients(params, rng, present=None) -> None:
    for i, p in enumerate(params):
        g = np.asarray(rng.standard_normal(p.shape), p.dtype, order="FC"[i % 2])  # strides must not matter
        p.grad = tl.tensor(g) if present is None or present[i] else None


@pytest.mark.slow
@each
@given(
    shapes=st.lists(st.sampled_from([(), (1,), (3,), (0, 2), (2, 5), (4, 1, 3)]), min_size=1, max_size=5),
    block=st.sampled_from([1, 3, 4, 1000]),
    presence=st.lists(st.integers(0, 31), min_size=1, max_size=4),
    scale=st.sampled_from([1.0, 0.25]),
)
def test_steps_are_the_formula_whatever_shapes_blocks_and_missing_gradients(
    kind, options, shapes, block, presence, scale
):
    """`presence`: which parameters have a gradient, a bit each, per step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "BLOCK", block)
        params = parameters(shapes)
        expected = [SimpleNamespace(p=p.numpy().copy(), t=0, m=0.0, v=0.0, velocity=0.0) for p in params]
        optimizer = kind(params, **{"lr": 1e-3, **options})
        rng = np.random.default_rng(2)
        for bits in presence:
            give_gradients(params, rng, [bits >> i & 1 for i in range(len(params))])
            gradients = [None if p.grad is None else p.grad.numpy().copy() for p in params]
            optimizer.step(grad_scale=scale)
            for s, p, g in zip(expected, params, gradients, strict=True):
                if g is not None:
                    s.t += 1
                    RULES[kind](s, g * scale, **options)
                    np.testing.assert_array_equal(p.grad.numpy(), g)  # gradients are never written to
                np.testing.assert_allclose(p.numpy(), s.p, rtol=1e-12, atol=1e-14)
                assert p.version == s.t
        assert optimizer.state_dict()["steps"] == [s.t for s in expected]


def test_groups_have_their_own_options_and_share_the_rest():
    first, second, third = params = parameters([(3,), (2, 2), (2,)])
    expected = [SimpleNamespace(p=p.numpy().copy(), t=1, m=0.0, v=0.0) for p in params]
    optimizer = optim.AdamW([{"params": [first, third], "weight_decay": 0.0, "lr": 0.5}, {"params": [second]}], lr=0.1)
    give_gradients(params, np.random.default_rng(3))
    optimizer.step()
    adamw(expected[0], first.grad.numpy(), lr=0.5, weight_decay=0.0)
    adamw(expected[1], second.grad.numpy(), lr=0.1)
    adamw(expected[2], third.grad.numpy(), lr=0.5, weight_decay=0.0)
    for p, s in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.numpy(), s.p, rtol=1e-12)
    assert optimizer.lr == 0.5
    optimizer.lr = 0.25
    assert [group["lr"] for group in optimizer.groups] == [0.25, 0.25]


def test_decay_groups_spare_vectors():
    params = parameters([(2, 2), (2,), (), (1, 1, 1)])
    groups = optim.decay_groups(iter(params), 0.1)
    assert [[id(p) for p in g["params"]] for g in groups] == [
        [id(params[0]), id(params[3])], [id(params[1]), id(params[2])]
    ]  # fmt: skip
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert len(optim.decay_groups(params[:1], 0.1)) == 1


def test_a_group_may_mix_dtypes():
    params = parameters([(3,)], np.float32) + parameters([(3,)], np.float64) + parameters([(2,)], np.float32)
    optimizer = optim.SGD(params, lr=1.0)
    before = [p.numpy().copy() for p in params]
    give_gradients(params, np.random.default_rng(4))
    optimizer.step()
    for p, was in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), was - p.grad.numpy())
    assert [t.dtype for t in optimizer.state_dict()["tensors"].values()] == [tl.float32, tl.float64, tl.float32]


# ----- the whole training step ------------------------------------------------------------------------------------


@each
def test_a_training_step_stays_float32(kind, options):
    model = nn.Sequential(
        nn.Embedding(7, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 7)
    )
    optimizer = kind(model.parameters(), **{"lr": np.float64(1e-3), **options})
    for _ in range(2):
        optimizer.zero_grad()
        logits = model(tl.tensor([[1, 2, 6]]))
        loss = tl.functional.cross_entropy(logits, tl.tensor([[2, 6, 0]]))
        loss.backward()
        optimizer.step(grad_scale=optim.clip_scale(optim.grad_norm(model.parameters()), np.float64(1.0)))
        every = [logits, loss, *model.parameters(), *[p.grad for p in model.parameters()]]
        assert {t.dtype for t in [*every, *optimizer.state_dict()["tensors"].values()]} == {tl.float32}
        assert all(math.isfinite(p.numpy().sum()) for p in model.parameters())


def test_training_finds_the_minimum():
    target = tl.tensor([[1.0, -2.0], [3.0, 0.5]])
    for optimizer_of in (
        lambda p: optim.SGD(p, lr=0.2, momentum=0.5),
        lambda p: optim.AdamW(p, lr=0.05, weight_decay=0),
    ):
        p = nn.Parameter(tl.zeros((2, 2)))
        optimizer = optimizer_of([p])
        for _ in range(300):
            optimizer.zero_grad()
            (p - target).square().sum().backward()
            optimizer.step()
        np.testing.assert_allclose(p.numpy(), target.numpy(), atol=1e-3)


def test_a_tied_parameter_is_stepped_once():
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    model[1].weight = model[0].weight
    before = model[0].weight.numpy().copy()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    model(tl.tensor([0, 2])).sum().backward()
    optimizer.step()
    assert model[1].weight is model[0].weight
    np.testing.assert_array_equal(model[0].weight.numpy(), before - model[0].weight.grad.numpy())


def test_a_step_between_forward_and_backward_is_found():
    layer = nn.Linear(2, 2)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    x = tl.ones((1, 2), requires_grad=True)
    layer(x).sum().backward()
    late = layer(x).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed after it was used"):
        late.backward()


# ----- state ------------------------------------------------------------------------------------------------------


@each
def test_a_restored_optimizer_continues_bit_for_bit(kind, options):
    def run(params, optimizer, steps):
        for t in steps:
            give_gradients(params, np.random.default_rng(t), [True, t != 2, True])
            optimizer.step()

    shapes, options = [(3, 4), (5,), ()], {"lr": 1e-2, **options}
    whole = parameters(shapes, np.float32)
    optimizer = kind(whole, **options)
    run(whole, optimizer, range(6))

    halves = parameters(shapes, np.float32)
    first = kind(halves, **options)
    run(halves, first, range(3))
    state = first.state_dict()
    assert state["steps"] == [3, 2, 3]
    second = kind(halves, **options)
    second.load_state_dict({"steps": list(state["steps"]), "tensors": dict(state["tensors"])})
    run(halves, second, range(3, 6))

    for p, q in zip(whole, halves, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
    for name, t in optimizer.state_dict()["tensors"].items():
        np.testing.assert_array_equal(t.numpy(), second.state_dict()["tensors"][name].numpy())


def test_a_state_that_does_not_fit_is_refused_whole_with_every_reason():
    params = parameters([(3,), (2,)], np.float32)
    optimizer = optim.AdamW(params)
    give_gradients(params, np.random.default_rng(0))
    optimizer.step()
    state = optimizer.state_dict()
    before = {name: t.numpy().copy() for name, t in state["tensors"].items()}
    wrong = {name: tl.full(t.shape, 9.0) for name, t in state["tensors"].items()}
    del wrong["0.m"]
    wrong |= {"2.m": tl.zeros(2), "1.m": tl.zeros(3), "1.v": tl.zeros(2, dtype=tl.float64)}
    with pytest.raises(ValueError) as error:
        optimizer.load_state_dict({"steps": [1, 1.0], "tensors": wrong})
    assert str(error.value).splitlines() == [
        "this state does not fit AdamW:",
        "  steps: 2 non-negative integers are needed, not [1, 1.0]",
        "  missing: 0.m",
        "  unexpected: 2.m",
        "  1.m: shape (2,) is needed, not (3,)",
        "  1.v: dtype float32 is needed, not float64: use .astype",
    ]
    with pytest.raises(ValueError, match="has 'steps' and 'tensors', not 'step'"):
        optimizer.load_state_dict({"step": 1})
    assert optimizer.state_dict()["steps"] == [1, 1]
    for name, t in optimizer.state_dict()["tensors"].items():
        np.testing.assert_array_equal(t.numpy(), before[name])


@pytest.mark.parametrize("steps", [[1], [1, 1, 1], [1, -1], [True, 1]])
def test_steps_that_no_optimizer_made_are_refused(steps):
    params = parameters([(3,), (2,)], np.float32)
    optimizer = optim.SGD(params, lr=0.1)
    tensors = optimizer.state_dict()["tensors"]
    with pytest.raises(ValueError, match="2 non-negative integers are needed"):
        optimizer.load_state_dict({"steps": steps, "tensors": tensors})
    optimizer.load_state_dict({"steps": [0, 4], "tensors": tensors})
    assert optimizer.state_dict()["steps"] == [0, 4]


def test_what_would_change_nothing_cannot_be_set():
    weight = tl.ones(2, requires_grad=True)
    optimizer = optim.AdamW([weight], lr=0.1)
    for name, value in (("weight_decay", 0.5), ("betas", (0.5, 0.5)), ("eps", 1.0)):
        says = rf"has no attribute '{name}'.*: write group\['{name}'\] for each group"
        with pytest.raises(AttributeError, match=says):
            setattr(optimizer, name, value)
        with pytest.raises(AttributeError, match=says):
            getattr(optimizer, name)
    for name, instead in (("param_groups", "use .groups"), ("learning_rate", "use .lr")):
        with pytest.raises(AttributeError, match=f"AdamW has no attribute '{name}' to set: {instead}"):
            setattr(optimizer, name, 1)
    optimizer.note = "of the caller"
    assert copy.deepcopy(optimizer).note == "of the caller"


def test_an_option_of_a_group_holds_from_the_next_step_on():
    weight = tl.ones(1, requires_grad=True)
    optimizer = optim.SGD([weight], lr=0.5)
    for group in optimizer.groups:
        group["weight_decay"] = 0.5
    (weight * 0).sum().backward()
    optimizer.step()
    assert weight.tolist() == [0.75]  # 1 - lr * weight_decay * 1


def test_the_learning_rate_may_be_set_for_all_groups():
    params = parameters([(3,), (2,)], np.float32)
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5}]
    optimizer = optim.SGD(groups, lr=0.1)
    assert optimizer.lr == 0.1
    with pytest.raises(ValueError, match="lr"):
        optimizer.lr = -1.0
    assert [group["lr"] for group in optimizer.groups] == [0.1, 0.5]
    for lr in (0.0, 0.25):
        optimizer.lr = lr
        assert [optimizer.lr, *(group["lr"] for group in optimizer.groups)] == [lr] * 3
    before = [p.numpy().copy() for p in params]
    give_gradients(params, np.random.default_rng(0))
    optimizer.step()
    for p, old in zip(params, before, strict=True):
        np.testing.assert_allclose(p.numpy(), old - 0.25 * p.grad.numpy(), rtol=1e-6, atol=1e-7)


def test_what_is_left_out_is_torchs_default():
    (p,) = parameters([(3,)], np.float32)
    usual = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
    for kind, decay in ((optim.Adam, 0.0), (optim.AdamW, 0.01)):
        options = dict(kind([p]).groups[0])
        assert options == {"params": options["params"], **usual, "weight_decay": decay}
    options = dict(optim.SGD([p], lr=0.3).groups[0])
    assert options == {
        "params": options["params"], "lr": 0.3, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW])
def test_a_scale_that_is_a_tensor_scales_alike_and_skips_the_step_if_it_is_not_finite(kind):
    params, twins = parameters([(3,), (2,)], np.float32), parameters([(3,), (2,)], np.float32)
    one, other = kind(params, lr=0.1), kind(twins, lr=0.1)
    give_gradients(params, np.random.default_rng(0))
    give_gradients(twins, np.random.default_rng(0))
    one.step(grad_scale=0.3)
    other.step(grad_scale=tl.tensor(0.3, "float64"))
    for bad in (math.nan, math.inf):
        other.step(grad_scale=tl.tensor(bad, "float64"))
        with pytest.raises(ValueError, match="grad_scale"):
            other.step(grad_scale=bad)
    assert one.state_dict()["steps"] == other.state_dict()["steps"] == [1, 1]
    for p, q in zip(params, twins, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


# ----- what it refuses --------------------------------------------------------------------------------------------

P = nn.Parameter([1.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.AdamW([]), "AdamW: no parameters to optimize"),
        (lambda: optim.AdamW([{"params": []}]), "AdamW: no parameters to optimize"),
        (lambda: optim.AdamW(P), "params must be a list of Tensors, not one Tensor"),
        (lambda: optim.AdamW([{"params": P}]), "params must be a list of Tensors, not one Tensor"),
        (lambda: optim.AdamW([np.ones(2)]), "parameter 0 must be a Tensor, not ndarray"),
        (lambda: optim.AdamW([P, {"params": [P]}]), "every group must be a dict with 'params', not tensor"),
        (lambda: optim.AdamW([P, P]), r"parameter 1 of shape \(1,\) is given twice"),
        (lambda: optim.AdamW([{"params": [P]}, {"params": [P]}]), r"parameter 1 of shape \(1,\) is given twice"),
        (lambda: optim.AdamW([tl.ones(2)]), r"parameter 0 of shape \(2,\) does not require a gradient"),
        (lambda: optim.AdamW([P * 2]), r"parameter 0 of shape \(1,\) was computed by an op"),
        (
            lambda: optim.AdamW([{"params": [P], "weigth_decay": 1}]),
            "a group has no option 'weigth_decay'; the options are",
        ),
        (lambda: optim.AdamW([P], lr=-1e-3), "lr must be a number of at least 0 and finite, not -0.001"),
        (lambda: optim.AdamW([P], lr=math.nan), "lr must be a number of at least 0 and finite, not nan"),
        (lambda: optim.AdamW([P], lr="1e-3"), "lr must be a number of at least 0 and finite, not '1e-3'"),
        (lambda: optim.AdamW([P], eps=-1), "eps must be"),
        (lambda: optim.AdamW([P], weight_decay=math.inf), "weight_decay must be"),
        (
            lambda: optim.AdamW([P], betas=(0.9, 1.0)),
            "each of betas must be a number of at least 0 and below 1, not 1.0",
        ),
        (lambda: optim.AdamW([P], betas=(0.9,)), "betas must be two numbers"),
        (lambda: optim.SGD([P], 0.1, momentum=1.5), "momentum must be"),
        (lambda: optim.SGD([P], 0.1, nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: optim.SGD([P], 0.1).step(math.nan), "grad_scale must be"),
        (lambda: setattr(optim.SGD([P], 0.1), "lr", -1), "lr must be"),
    ],
)
def test_bad_input_is_named(make, message):
    data = P.data
    with pytest.raises((ValueError, TypeError), match=message):
        make()
    np.testing.assert_array_equal(P.data, data)


@pytest.mark.parametrize(
    "replace", [lambda layer: layer.to(tl.float64), lambda layer: optim.SGD(layer.parameters(), 1.0)]
)
def test_stepping_after_the_data_was_replaced_is_refused(replace):
    layer = nn.Linear(2, 2)
    optimizer = optim.SGD(layer.parameters(), lr=1.0)
    layer(tl.ones((1, 2))).sum().backward()
    replace(layer)
    with pytest.raises(RuntimeError, match="was replaced after this optimizer was made"):
        optimizer.step()


def test_a_gradient_of_another_shape_or_dtype_is_refused_before_anything_changes():
    params = parameters([(2,), (3,)], np.float32)
    optimizer = optim.SGD(params, lr=1.0)
    before = [p.numpy().copy() for p in params]
    for wrong, message in [
        (tl.ones(2), r"shape \(3,\) is needed, not \(2,\)"),
        (tl.ones(3, dtype=tl.float64), "dtype float32"),
    ]:
        params[0].grad, params[1].grad = tl.ones(2), tl.ones(3)
        params[1].grad.data = wrong.data  # another Tensor is refused when it is assigned
        with pytest.raises(ValueError, match=f"the gradient of parameter 1: {message}"):
            optimizer.step()
    for p, was in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), was)


# ----- clipping ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([(), (3,), (0,), (2, 7), None]), min_size=1, max_size=5),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e25]),
)
def test_grad_norm_is_the_norm_of_all_gradients(shapes, size):
    params = parameters([shape or () for shape in shapes], np.float32)
    give_gradients(params, np.random.default_rng(5), [shape is not None for shape in shapes])
    present = [p for p in params if p.grad is not None]
    for p in present:
        p.grad = p.grad * size
    expected = np.linalg.norm(np.concatenate([[0.0], *[p.grad.numpy().astype(float).reshape(-1) for p in present]]))
    assert optim.grad_norm(iter(params)) == pytest.approx(expected, rel=1e-6)


def test_grad_norm_of_many_blocks_is_accurate():
    p = nn.Parameter(tl.zeros(3 * clipping.BLOCK + 5))
    p.grad = tl.tensor(np.random.default_rng(6).random(p.size, np.float32))
    assert optim.grad_norm([p]) == pytest.approx(np.linalg.norm(p.grad.numpy().astype(np.float64)), rel=1e-6)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_gives_such_a_norm_which_clipping_refuses(bad):
    p = nn.Parameter([1.0, 2.0])
    p.grad = tl.tensor([bad, 1.0])
    norm = optim.grad_norm([p])
    assert norm == bad or math.isnan(norm)
    with pytest.raises(ValueError, match=f"the norm of the gradient is {bad}: skip this step"):
        optim.clip_scale(norm, 1.0)


def test_clip_scale_shortens_and_never_lengthens():
    assert optim.clip_scale(0.5, 1.0) == 1.0
    assert optim.clip_scale(0.0, 1.0) == 1.0
    assert optim.clip_scale(4.0, 1.0) == 1.0 / (4.0 + 1e-6)
    for max_norm in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm must be positive"):
            optim.clip_scale(1.0, max_norm)


def test_a_norm_as_a_tensor_clips_as_the_number_does():
    """Nobody looks at it: what `gpt train` does, on a CPU too."""
    for norm in (0.0, 0.5, 1.0, 4.0, 1e9):
        for max_norm in (0.5, 1.0, math.inf):
            scale = optim.clip_scale(tl.tensor(norm, "float64"), max_norm)
            assert (scale.shape, scale.item()) == ((), optim.clip_scale(norm, max_norm))
    for norm in (math.inf, math.nan):
        assert math.isnan(optim.clip_scale(tl.tensor(norm, "float64"), 1.0).item())
    with pytest.raises(ValueError, match="max_norm must be positive"):
        optim.clip_scale(tl.tensor(1.0), 0.0)


def test_the_global_norm_is_a_number_where_the_gradients_are(monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    for device in ("cpu", "strict"):
        params = [tl.tensor(x, device=device, requires_grad=True) for x in ([[1.0, 2.0], [3.0, 4.0]], [5.0], 7.0)]
        assert optim.global_norm(params).item() == 0.0  # none has a gradient
        params[0].grad, params[1].grad = params[0] * 1e30, params[1] * 1e30  # squares leave float32
        waits = strict.waits
        norm = optim.global_norm(p for p in params)
        assert (norm.device, norm.dtype, norm.shape, strict.waits) == (device, np.float64, (), waits)
        assert norm.item() == pytest.approx(math.sqrt(55) * 1e30, rel=1e-6)


# ----- schedules --------------------------------------------------------------------------------------------------


def test_warmup_cosine_is_nanogpts_schedule():
    plan = {"lr": 1e-3, "min_lr": 1e-4, "warmup": 100, "total": 2000}
    for step in range(2100):
        if step < 100:
            expected = 1e-3 * (step + 1) / 101
        elif step > 2000:
            expected = 1e-4
        else:
            expected = 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / 1900)) * 9e-4
        assert optim.warmup_cosine(step, **plan) == pytest.approx(expected, rel=1e-12)


def test_warmup_from_an_initial_rate_is_the_books():
    rates = [optim.warmup_cosine(s, lr=1e-2, min_lr=1e-3, warmup=10, total=50, initial=1e-4) for s in range(11)]
    np.testing.assert_allclose(rates[:10], [1e-4 + s * (1e-2 - 1e-4) / 10 for s in range(10)], rtol=1e-12)
    assert rates[10] == pytest.approx(1e-2, rel=1e-12)


def test_warmup_linear_and_constant():
    rates = [optim.warmup_linear(step, lr=1.0, min_lr=0.0, warmup=3, total=7) for step in range(9)]
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0], atol=1e-15)
    assert optim.constant(5, lr=0.3) == 0.3
    assert optim.warmup_cosine(0, lr=1.0, min_lr=0.1, warmup=0, total=1) == 1.0
    assert optim.warmup_linear(0, lr=1.0, min_lr=0.1, warmup=0, total=1) == 1.0
    for schedule in (optim.warmup_cosine, optim.warmup_linear):
        rates = [schedule(step, lr=1.0, min_lr=0.1, warmup=5, total=5) for step in (0, 4, 5, 6)]  # no descent
        assert rates == pytest.approx([1 / 6, 5 / 6, 0.1, 0.1])


@pytest.mark.parametrize("schedule", [optim.warmup_cosine, optim.warmup_linear])
def test_a_schedule_that_makes_no_sense_is_refused(schedule):
    with pytest.raises(ValueError, match="0 <= warmup <= total, not warmup 11 and total 10"):
        schedule(0, lr=1.0, min_lr=0.0, warmup=11, total=10)
    with pytest.raises(ValueError, match="0 <= warmup <= total, not warmup -1"):
        schedule(0, lr=1.0, min_lr=0.0, warmup=-1, total=10)
    with pytest.raises(ValueError, match="counts from 0, it cannot be -1"):
        schedule(-1, lr=1.0, min_lr=0.0, warmup=1, total=10)


# ----- parameters of 16 bits ----------------------------------------------------------------------------------------


def narrow_dtypes() -> list[str]:
    return ["float16", *(["bfloat16"] if importlib.util.find_spec("ml_dtypes") else [])]


@pytest.mark.parametrize("dtype", narrow_dtypes())
@pytest.mark.parametrize("g", [0.0, 1e-4, 1e-7, 300.0])
@each
def test_narrow_parameters_are_updated_in_float32(kind, options, dtype, g):
    """Every step is the formula's in float64 from the same values, rounded once; nothing becomes nan or infinite."""
    p = nn.Parameter(tl.tensor([0.5, -2.0, 0.0, 1e-3]).astype(getattr(tl, dtype)))
    optimizer = kind([p], **options)
    oracle = SimpleNamespace(m=np.zeros(4), v=np.zeros(4), velocity=np.zeros(4), t=0)
    p.grad = tl.tensor([g, -g, g, 0.0]).astype(getattr(tl, dtype))
    exact = p.grad.data.astype(np.float64)
    for scale in (1.0, 0.5, 1e-3):
        oracle.p, oracle.t = p.data.astype(np.float64), oracle.t + 1
        optimizer.step(grad_scale=scale)
        RULES[kind](oracle, exact * scale, **{"lr": 1e-3, **options})
        unit = {"float16": 2**-10, "bfloat16": 2**-7}[dtype]
        np.testing.assert_allclose(p.data.astype(np.float64), oracle.p, rtol=unit, atol=2**-23)
        assert p.dtype == dtype
    assert {x.dtype.name for x in optimizer.state_dict()["tensors"].values()} == {"float32"}


@pytest.mark.parametrize("dtype", narrow_dtypes())
def test_the_state_of_narrow_parameters_comes_back(dtype):
    def trained(steps, state=None, data=None):
        p = nn.Parameter(tl.tensor([0.5, -2.0] if data is None else data).astype(getattr(tl, dtype)))
        optimizer = optim.AdamW([p], lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            p.grad = tl.tensor([1e-4, 3.0]).astype(getattr(tl, dtype))
            optimizer.step()
        return p.data.astype(np.float32).tolist(), optimizer.state_dict()

    data, state = trained(2)
    assert trained(3, state, data)[0] == trained(5)[0]


@pytest.mark.parametrize("dtype", narrow_dtypes())
@pytest.mark.parametrize("g", [3e-4, 1e-2, 200.0])
def test_the_norm_of_narrow_gradients_is_exact(dtype, g):
    p = nn.Parameter(tl.zeros(3, getattr(tl, dtype)))
    p.grad = tl.full(3, g, getattr(tl, dtype))
    assert optim.grad_norm([p]) == pytest.approx(float(p.grad.data[0]) * math.sqrt(3), rel=1e-12)


# ----- what a norm is taken of --------------------------------------------------------------------------------------

norms = pytest.mark.parametrize("norm", [optim.grad_norm, lambda params: optim.global_norm(params).item()])


def with_gradient() -> nn.Parameter:
    p = nn.Parameter([1.0, 2.0])
    p.grad = tl.tensor([3.0, 4.0])
    return p


@norms
@pytest.mark.parametrize(
    ("give", "error", "sentence"),
    [
        (lambda p: p, TypeError, r"params must be a list of Tensors, not one Tensor"),
        (lambda p: [], ValueError, "no parameters .an iterator that was already used up"),
        (lambda p: iter(()), ValueError, "no parameters"),
        (lambda p: [p, p], ValueError, r"parameter 1 of shape \(2,\) is given twice"),
        (lambda p: [p, 3], TypeError, "parameter 1 must be a Tensor, not int"),
        (lambda p: [p.data], TypeError, "parameter 0 must be a Tensor, not ndarray"),
        (lambda p: [p * 2], ValueError, r"parameter 0 of shape \(2,\) was computed by an op"),
        (lambda p: [p.detach()], ValueError, "none of the parameters requires a gradient"),
        (lambda p: nn.Linear(2, 2), TypeError, r"give the parameters of the module, model.parameters\(\)"),
        (lambda p: {"p": p}, TypeError, r"give a list of Tensors, not a dict: list\(d.values\(\)\)"),
        (lambda p: None, TypeError, "give a list of Tensors, not NoneType"),
        (lambda p: 3, TypeError, "give a list of Tensors, not int"),
    ],
)
def test_a_norm_refuses_what_optimizers_refuse(norm, give, error, sentence):
    p = with_gradient()
    with pytest.raises(error, match=f"grad_norm: {sentence}"):
        norm(give(p))
    if sentence.startswith("none"):
        return
    with pytest.raises(error):
        optim.SGD(give(p), lr=0.1)


@norms
def test_a_norm_takes_groups_and_frozen_parameters(norm):
    p, q, frozen = with_gradient(), nn.Parameter([1.0]), nn.Parameter([1.0], requires_grad=False)
    q.grad = tl.tensor([12.0])
    assert norm(p for p in (p, q, frozen)) == 13
    assert norm(optim.SGD([{"params": [p], "weight_decay": 0.1}, {"params": [q]}], lr=0.1).groups) == 13


@pytest.mark.parametrize("give", [lambda p: {"p": p}, lambda p: None, lambda p: 3])
def test_an_optimizer_says_what_it_takes(give):
    with pytest.raises(TypeError, match=r"SGD: give a list of Tensors, not (a dict|NoneType|int)"):
        optim.SGD(give(with_gradient()), lr=0.1)


def load_numpy_state():
    optimizer = optim.SGD([nn.Parameter([1.0])], lr=0.1)
    optimizer.load_state_dict({"steps": [0], "tensors": {"0.velocity": np.zeros(1, np.float32)}})


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: optim.AdamW([nn.Parameter([1.0])], betas=0.9), ValueError, "betas must be two numbers, .* not 0.9"),
        (load_numpy_state, ValueError, r"0.velocity: a Tensor is needed, tl.tensor\(x\), not ndarray"),
        (lambda: optim.SGD([nn.Parameter([1.0])], 0.1).load_state_dict("x"), TypeError, "a dict, not str"),
        (lambda: optim.clip_scale("a", 1.0), TypeError, "clip_scale: the norm must be a number or a Tensor, not 'a'"),
        (lambda: optim.clip_scale(1.0, "a"), ValueError, "clip_scale: max_norm must be positive, a number, not 'a'"),
        (lambda: optim.warmup_cosine("a", lr=1, min_lr=0, warmup=1, total=2), TypeError, "step must be a number"),
        (lambda: optim.warmup_linear(1, lr=1, min_lr=0, warmup=None, total=2), TypeError, "warmup must be a number"),
    ],
)
def test_what_an_optimizer_cannot_use_is_refused_in_a_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


@pytest.mark.parametrize("size", [clipping.BLOCK, clipping.BLOCK + 3])
def test_every_element_of_a_long_gradient_counts_in_its_norm(size):
    """It is added up in blocks."""
    for place in (0, clipping.BLOCK - 1, size - 1):
        w = tl.zeros(size, requires_grad=True)
        w.grad = tl.zeros(size)
        w.grad.data[place] = 3.0
        assert optim.grad_norm([w]) == 3.0
