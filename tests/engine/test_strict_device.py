"""No silent round trip to the host: a training step on the strict device of tensorlite.testing; the table on a GPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table import ROWS

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from tensorlite import formulas, optim
from tensorlite import functional as F
from tensorlite.testing.devices import on_device, strict_device
from tensorlite.testing.strict import strict

few = settings(max_examples=max(5, settings().max_examples // 5))


@pytest.fixture(autouse=True, scope="module")
def device():
    with strict_device():
        yield


@pytest.mark.gpu
@pytest.mark.parametrize("row", [row for row in ROWS if row.device], ids=lambda row: row.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@few
@given(data=st.data())
def test_the_table_runs_on_a_gpu(dtype, row, data):
    """On the strict device test_ops.py runs it."""
    on_device(row, data, "cuda", dtype)


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
        with pytest.raises(
            TypeError, match=r"a strict array (meets a NumPy|does not become)|'StrictArray' does not support ufuncs"
        ):
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


def test_one_hot_stays_on_the_device_of_its_indices():
    idx = tl.tensor([2, 0], device="strict")
    before = strict.waits
    found = [one_hot(given, 3) for one_hot in (F.one_hot, formulas.one_hot) for given in (idx, idx.data)]
    assert strict.waits == before
    for each in found:
        array = each.data if isinstance(each, tl.Tensor) else each
        assert type(array) is type(idx.data)
        assert array.tolist() == [[0, 0, 1], [1, 0, 0]]
