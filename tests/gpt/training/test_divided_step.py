"""Steps whose batches are divided over threads: the gradient, and so the run, is that of the whole batch."""

from types import SimpleNamespace

import numpy as np
import pytest
from runs import quickly_drawn, tiny, train

import tensorlite as tl
from gpt import fast
from gpt.config import GPTConfig
from gpt.fast import divided_step
from gpt.look.metrics import Log
from gpt.model import GPT
from gpt.training import step
from tensorlite.devices import machine

__all__ = ["quickly_drawn"]

CONFIG = GPTConfig(vocab_size=40, context_length=16, n_layer=2, n_head=2, n_embd=32)


@pytest.fixture(autouse=True)
def two_threads():
    machine.set_threads(2)
    yield
    machine.set_threads(1)


@pytest.fixture
def model():
    tl.manual_seed(3)
    return GPT(CONFIG)


class Texts:
    """A task whose batch is a Tensor and a list, as that of instruct: -100 where a target does not count."""

    @staticmethod
    def targets(batch):
        return sum(int((y != -100).sum()) for y in batch[1])

    @staticmethod
    def loss(model, batch):
        x, y = batch
        return model.loss(x, tl.tensor(np.stack(y)))


def batches(rows, ignored):
    draw = np.random.default_rng(7)
    found = []
    for _ in range(2):
        ids = draw.integers(0, 40, (rows, 17))
        targets = ids[:, 1:].copy()
        for row in range(ignored):
            targets[row, :] = -100
        targets[-1, 5:] = -100
        found.append((tl.tensor(ids[:, :-1]), list(targets)))
    return found


def gradient(how, model, given):
    for p in model.parameters():
        p.grad = None
    loss = how(Texts, model, given, [Texts.targets(batch) for batch in given])
    return loss, [p.grad.numpy().copy() for p in model.parameters()]


@pytest.mark.parametrize(("rows", "ignored", "threads"), [(4, 0, 2), (4, 1, 2), (4, 2, 2), (6, 1, 3), (1, 0, 1)])
def test_the_gradient_is_that_of_the_whole_batches(model, rows, ignored, threads):
    """With different numbers of targets in the parts, and with parts that have none."""
    given = batches(rows, ignored)
    loss, expected = gradient(step.accumulate, model, given)
    machine.set_threads(threads)
    divided, found = gradient(divided_step.accumulate, model, given)
    assert divided.item() == pytest.approx(loss.item(), rel=1e-6)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)
    again, same = gradient(divided_step.accumulate, model, given)
    assert again.item() == divided.item()
    assert all(np.array_equal(a, b) for a, b in zip(found, same, strict=True))


def test_batches_without_targets_leave_no_gradient(model):
    given = batches(4, 4)
    assert divided_step.accumulate(Texts, model, given, [0, 0]).item() == 0
    assert all(p.grad is None for p in model.parameters())


def test_which_steps_are_divided(model):
    assert divided_step.is_divided(model, 4, 1 << 20)
    assert not divided_step.is_divided(model, 5, 1 << 20)  # two threads would not have equal parts
    assert not divided_step.is_divided(model, 4, 10)  # too little to compute
    machine.set_threads(1)
    assert not divided_step.is_divided(model, 4, 1 << 20)
    machine.set_threads(2)
    assert not divided_step.is_divided(GPT(CONFIG.with_dropout(0.1)), 4, 1 << 20)
    large = SimpleNamespace(parameters=lambda: [tl.zeros(((1 << 11) + 1, 1 << 10))], config=CONFIG)
    assert not divided_step.is_divided(large, 4, 1 << 20)


def test_a_divided_run_is_the_run_of_one_thread_up_to_rounding(tmp_path, monkeypatch):
    """`gpt train` with two threads: the same losses to 1e-5, and dividing it again gives the same bytes."""
    fast.attach()
    monkeypatch.setattr(divided_step, "WORTH_DIVIDING", 0)
    asked = []
    kept = divided_step.accumulate
    monkeypatch.setattr(divided_step, "accumulate", lambda *args: asked.append(1) or kept(*args))
    for name, threads in (("one", 1), ("two", 2), ("again", 2)):
        asked.clear()
        train(tiny(tmp_path, out=tmp_path / name, threads=threads, dropout=0.0, steps=20, batch_size=4))
        assert len(asked) == (20 if threads == 2 else 0)
    one, two = (Log(tmp_path / name).update().metrics["loss"].values for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("two", "again")]
    assert files[0] == files[1]
