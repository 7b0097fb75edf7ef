"""Steps whose batches are divided over threads: the gradient, and so the run, is that of the whole batch."""

import itertools
import math
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from runs import quickly_drawn, tiny, train

import tensorlite as tl
from gpt import fast, lora
from gpt.config import GPTConfig
from gpt.fast import divided_step
from gpt.look.metrics import Log
from gpt.model import GPT
from gpt.training import step
from tensorlite import optim
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
    assert divided_step.accumulate(Texts, model, given, [0, 0], least=math.inf).item() == 0
    assert all(p.grad is None for p in model.parameters())


def test_which_steps_are_divided(model):
    assert divided_step.least_tokens(model, 4) <= 1 << 20
    assert divided_step.least_tokens(model, 5) > 1 << 20  # two threads would not have equal parts
    assert divided_step.least_tokens(model, 4) > 10  # too little to compute
    machine.set_threads(1)
    assert divided_step.least_tokens(model, 4) > 1 << 20
    machine.set_threads(2)
    assert divided_step.least_tokens(GPT(CONFIG.with_dropout(0.1)), 4) > 1 << 20
    large = SimpleNamespace(parameters=lambda: [tl.zeros(((1 << 11) + 1, 1 << 10))], config=CONFIG)
    assert divided_step.least_tokens(large, 4) > 1 << 20


def just_worth(model):
    """So many tokens that the products of a step with all weights, three for each, are just worth dividing."""
    size = sum(p.size for p in model.parameters())
    return next(n for n in itertools.count(4, 4) if machine.product_time(3 * n * size) >= divided_step.WORTH_DIVIDING)


@pytest.mark.parametrize(
    ("learns", "least", "most"), [("norm", 2.8, 3.1), ("last-block", 1.3, 1.7), ("adapters", 1.3, 1.7)]
)
def test_frozen_weights_count_only_where_they_are_multiplied(model, learns, least, most):
    """A frozen weight has no gradient of its own, and where nothing below it learns, none passes through it.

    So many times as many tokens are worth dividing, between `least` and `most`.
    """
    tokens = just_worth(model)
    assert divided_step.least_tokens(model, 4) <= tokens
    if learns == "adapters":
        lora.apply(model, rank=1, alpha=1.0, targets=["W_query"])
    else:
        for name, p in model.named_parameters():
            p.requires_grad = name.startswith("final_norm" if learns == "norm" else ("final_norm", "blocks.1"))
    assert any(p.requires_grad for p in model.parameters())
    assert divided_step.least_tokens(model, 4) > int(tokens * least)
    assert divided_step.least_tokens(model, 4) <= int(tokens * most)


class Called(Texts):
    """The same task; the numbers of sequences that its loss was asked for."""

    unit = "texts"
    asked: ClassVar[list[int]] = []

    @classmethod
    def loss(cls, model, batch):
        cls.asked.append(len(batch[0]))
        return Texts.loss(model, batch)


def test_a_short_batch_is_not_divided(model, monkeypatch):
    """Each batch is decided by its own length: texts of a task may be far shorter than the context."""
    monkeypatch.setattr(Called, "asked", [])
    (whole, _), said = batches(4, 0), []
    short = whole[0][:, :4], [y[:4] for y in whole[1]]
    size = sum(p.size for p in model.parameters())
    monkeypatch.setattr(divided_step, "WORTH_DIVIDING", machine.product_time(3 * 64 * size))
    config, optimizer = SimpleNamespace(batch_size=4, clip=1.0), optim.AdamW(model.parameters())
    session = SimpleNamespace(config=config, model=model, task=Called, optimizer=optimizer)
    one_step = divided_step.make_step(session, said.append)
    for given, asked in (([whole], [2, 2]), ([short], [4]), ([short, whole], [4, 2, 2])):
        Called.asked.clear()
        one_step(batches=given, counts=[Texts.targets(batch) for batch in given])
        assert Called.asked == asked
    assert said == ["threads    each of the 2 computes 2 of the 4 sequences of a batch of 64 tokens or more"]
    mixed = [short, whole]
    found, gradients = gradient(partial(divided_step.accumulate, least=64), model, mixed)
    loss, expected = gradient(step.accumulate, model, mixed)
    assert found.item() == pytest.approx(loss.item(), rel=1e-6)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def test_a_divided_run_is_the_run_of_one_thread_up_to_rounding(tmp_path, monkeypatch):
    """`gpt train` with two threads: the same losses to 1e-5, and dividing it again gives the same bytes."""
    fast.attach()
    monkeypatch.setattr(divided_step, "WORTH_DIVIDING", 0)
    asked = []
    kept = divided_step.accumulate
    monkeypatch.setattr(divided_step, "accumulate", lambda *args, **options: asked.append(1) or kept(*args, **options))
    for name, threads in (("one", 1), ("two", 2), ("again", 2)):
        asked.clear()
        train(tiny(tmp_path, out=tmp_path / name, threads=threads, dropout=0.0, steps=20, batch_size=4))
        assert len(asked) == (20 if threads == 2 else 0)
    one, two = (Log(tmp_path / name).update().metrics["loss"].values for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("two", "again")]
    assert files[0] == files[1]
