"""No silent round trip to the host: the table of ops and a training step on a strict device (strict.py)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strict import strict
from table import ROWS

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from tensorlite import backend, formulas, optim
from tensorlite import functional as F
from tensorlite.testing import smooth

few = settings(max_examples=max(5, settings().max_examples // 5))


@pytest.fixture(autouse=True, scope="module")
def device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backend.DEVICES, "strict", lambda: strict)
        patch.setattr(F, "keep_mask", formulas.keep_mask)  # a GPU draws other masks: here, those of the CPU
        yield


def there(x, device="strict", dtype=None):
    """Arrays moved to a device, in tuples too; floating ones as `dtype`."""
    if isinstance(x, np.ndarray):
        return backend.to_device(x.astype(dtype) if dtype and x.dtype.kind == "f" else x, device)
    return tuple([there(part, device, dtype) for part in x]) if isinstance(x, tuple) else x


def waits_in(parts):
    """What no library can do without a wait: a boolean index, whose result has a shape that the values decide."""
    parts = parts if isinstance(parts, tuple) else (parts,)
    return any(isinstance(part, np.ndarray | list) and np.asarray(part).dtype == bool for part in parts)


DEVICES = [("strict", np.float64), *[pytest.param("cuda", t, marks=pytest.mark.gpu) for t in (np.float32, np.float64)]]


@pytest.mark.parametrize("row", [row for row in ROWS if row.name != "to"], ids=str)
@pytest.mark.parametrize(("name", "dtype"), DEVICES)
@few
@given(data=st.data())
def test_the_table_runs_on_a_device_without_a_round_trip(name, dtype, row, data):
    shapes, meta = data.draw(row.inputs)
    xs = data.draw(smooth(*shapes, **row.domain))
    if waits_in(meta.get("index")):
        return

    def derivatives(xs, meta):
        tensors = [tl.Tensor(x, requires_grad=True) for x in xs]
        out = row.op(*tensors, **meta)
        if row.gradient is None:
            return [out]
        g = tl.ones_like(out) * 2
        gradients = tl.grad(out, tensors, g, retain_graph=True)
        recorded = tl.grad(out, tensors, g, create_graph=True)
        along = sum((p * p).sum() for p in recorded)
        second = tl.grad(along, tensors, retain_graph=True) if along.requires_grad else []
        out.backward(g)
        return [out, *gradients, *recorded, *second, *[x.grad for x in tensors]]

    before = strict.waits
    far = derivatives([there(x, name, dtype) for x in xs], {key: there(x, name, dtype) for key, x in meta.items()})
    assert strict.waits == before
    near = derivatives([there(x, "cpu", dtype) for x in xs], {key: there(x, "cpu", dtype) for key, x in meta.items()})
    tolerance = 1e-9 if dtype is np.float64 else 2e-4
    for x, y in zip(far, near, strict=True):
        assert x.device.partition(":")[0] == name
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=tolerance, atol=tolerance)


CONFIG = GPTConfig(vocab_size=7, context_length=5, n_layer=2, n_head=2, n_embd=8).with_dropout(0.2)


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.AdamW])
@pytest.mark.parametrize("name", ["strict", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_training_step_runs_on_a_device_without_a_round_trip(name, optimizer):
    tokens = np.random.default_rng(0).integers(0, 7, (3, 6))

    def train(device):
        tl.manual_seed(3)
        model = GPT(CONFIG).to(device)
        steps = optimizer(model.parameters(), lr=0.01)
        idx, targets = tl.tensor(tokens[:, :-1]).to(device), tl.tensor(tokens[:, 1:]).to(device)
        before = strict.waits
        for _ in range(3):
            _, loss = model(idx, targets)
            loss.backward()
            steps.step()
            steps.zero_grad()
        assert strict.waits == before
        return [loss, *model.parameters()]

    for far, near in zip(train(name), train("cpu"), strict=True):
        assert (far.device.partition(":")[0], near.device) == (name, "cpu")
        np.testing.assert_allclose(far.numpy(), near.numpy(), rtol=1e-4, atol=1e-6)


# ----- devices ----------------------------------------------------------------------------------------------------


def test_a_tensor_travels_and_its_gradient_travels_back():
    x = tl.tensor([1.0, 2.0], requires_grad=True)
    y = x.to("strict")
    assert (x.device, y.device) == ("cpu", "strict")
    assert x.to("cpu") is x
    (y * y).sum().to("cpu").backward()
    assert (x.grad.device, x.grad.tolist()) == ("cpu", [2, 4])
    x.to("strict").backward(tl.tensor([1.0, 3.0], device="strict"))
    assert x.grad.tolist() == [3, 7]


def test_new_tensors_are_born_where_one_asks():
    assert tl.zeros(2, device="strict").device == "strict"
    with tl.default_device("strict"):
        for made in (tl.ones(2), tl.tensor([1.0]), tl.arange(3), tl.rand(2), tl.eye(2), tl.linspace(0, 1, 3)):
            assert made.device == "strict"
        assert tl.tensor(np.ones(2)).device == "cpu"  # the data decides
    assert tl.ones(2).device == "cpu"
    with pytest.raises(ValueError, match="unknown device 'tpu': choose one of cpu, cuda, strict"):
        tl.zeros(2, device="tpu")


@pytest.mark.parametrize("op", [tl.add, tl.matmul, tl.maximum, F.linear, lambda x, y: tl.concatenate([x, y])])
def test_mixed_devices_are_an_error_that_names_both(op):
    x, y = tl.ones((2, 2)), tl.ones((2, 2), device="strict")
    for a, b in ((x, y), (y, x)):
        with pytest.raises(ValueError, match=r"arguments on different devices, cpu and strict: move one with \.to"):
            op(a, b)


def test_the_strict_device_is_strict():
    x, a = strict.asarray(np.ones(2)), np.ones(2)
    for wrong in (
        lambda: x + a, lambda: a + x, lambda: x * np.float64(2), lambda: np.exp(x), lambda: np.asarray(x),
        lambda: float(x[0]), lambda: bool(x[0] > 0), lambda: [1, 2][strict.asarray(1)], lambda: list(x),
        lambda: strict.add(x, a), lambda: x[np.array([0])], lambda: x.__setitem__(0, a),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            wrong()
    before = strict.waits
    for waiting in (lambda: x[0].item(), x.tolist, x.get, lambda: x[x > 0], lambda: tl.Tensor(x).numpy()):
        waiting()
        before += 1
        assert strict.waits == before
    y = x[::-1]
    y += 1
    assert x.tolist() == [2, 2]
    assert y.base is x
