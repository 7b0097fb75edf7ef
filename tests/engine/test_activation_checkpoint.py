"""Activation checkpointing: the same bits as without it, of every order, with less memory."""

import math
import tracemalloc

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from tensorlite import Generator, nn

DROPOUT = GPTConfig(vocab_size=31, context_length=12, n_layer=3, n_head=2, n_embd=8).with_dropout(0.3)


def gradients(checkpointed: bool, seed: int = 5, config: GPTConfig = DROPOUT) -> tuple[dict, list[float]]:
    """Loss and gradients of two batches (the second shows where the stream stands), and what is drawn afterwards."""
    tl.manual_seed(seed)
    model = GPT(config)
    model.activation_checkpointing = checkpointed
    found = {}
    for batch in range(2):
        idx = tl.randint(0, config.vocab_size, (4, config.context_length))
        loss = model(idx, idx)[1]
        loss.backward()
        found[f"loss {batch}"] = loss.numpy()
    found |= {name: p.grad.numpy() for name, p in model.named_parameters()}
    return found, tl.rand(3).tolist()


def test_the_same_bits_with_dropout():
    plain, after = gradients(False)
    again, after_again = gradients(True)
    assert plain.keys() == again.keys()
    assert all(plain[name].tobytes() == again[name].tobytes() for name in plain)
    assert after == after_again
    assert gradients(True, seed=6)[0]["loss 0"] != plain["loss 0"]


@pytest.mark.slow
def test_less_memory():
    """The activations of one block in place of those of six: less than half at the peak."""
    config = GPTConfig(vocab_size=11, context_length=64, n_layer=6, n_head=2, n_embd=32)
    peaks = []
    for checkpointed in (False, True):
        model = GPT(config)
        model.activation_checkpointing = checkpointed
        idx = tl.randint(0, 11, (8, 64))
        model(idx, idx)[1].backward()  # whatever is kept from step to step is there now
        model.zero_grad()
        tracemalloc.start()
        model(idx, idx)[1].backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.5 * peaks[0]


class Cube(nn.Module):
    """weight x**3, with its own dropout stream."""

    def __init__(self):
        self.weight = nn.Parameter([2.0, 3.0])
        self.drop = nn.Dropout(0.5, Generator(1))

    def forward(self, x, y=None):
        return self.drop(self.weight * x * x * x)


def test_derivatives_of_every_order():
    """d/dx of w x**3: 3 w x**2, 6 w x, 6 w; and by the weight, x**3 and 3 x**2."""
    cube = Cube().eval()
    x = tl.tensor([0.5, -2.0], requires_grad=True)
    y = tl.activation_checkpoint(cube, x)
    np.testing.assert_allclose(y.numpy(), [0.25, -24.0])
    by_x, by_weight = tl.grad(y.sum(), [x, cube.weight], create_graph=True)
    np.testing.assert_allclose(by_x.numpy(), [1.5, 36.0])
    np.testing.assert_allclose(by_weight.numpy(), [0.125, -8.0])
    np.testing.assert_allclose(tl.grad(by_x.sum(), cube.weight, retain_graph=True).numpy(), [0.75, 12.0])
    second = tl.grad(by_x.sum(), x, create_graph=True)
    np.testing.assert_allclose(second.numpy(), [6.0, -36.0])
    np.testing.assert_allclose(tl.grad(second.sum(), x).numpy(), [12.0, 18.0])


def test_inputs_computed_from_each_other_and_given_twice():
    """The gradient by each input is partial: what leads from one to the other is counted once."""

    class Product(nn.Module):
        def forward(self, a, b, factor):
            return a * b * factor

    for create_graph in (False, True):
        x = tl.tensor([1.5], requires_grad=True)
        square = x * x
        (by_x,) = tl.grad(tl.activation_checkpoint(Product(), square, x, 2.0), [x], create_graph=create_graph)
        np.testing.assert_allclose(by_x.numpy(), [6 * 1.5**2])  # 2 x**3
        (by_x,) = tl.grad(tl.activation_checkpoint(Product(), x, x, 1.0), [x], create_graph=create_graph)
        np.testing.assert_allclose(by_x.numpy(), [3.0])


def test_streams_and_modes_of_the_first_time():
    """Its own generator is replayed too; eval() between forward and backward does not change what is computed again."""
    found = []
    for run in (lambda cube, x: cube(x), tl.activation_checkpoint):
        cube, x = Cube(), tl.ones((64, 2), requires_grad=True)
        y = run(cube, x)
        cube.eval()
        y.sum().backward()
        assert not cube.training
        assert not cube.drop.training
        found.append((y.tolist(), x.grad.tolist(), cube.weight.grad.tolist(), cube.drop.generator.state_dict()))
    assert found[0] == found[1]
    assert 0 < sum(row.count(0.0) for row in found[0][0]) < 128


def test_without_recording_it_is_a_call():
    cube, x = Cube().eval(), tl.tensor([1.0, 2.0])
    with tl.no_grad():
        assert not tl.activation_checkpoint(cube, x).requires_grad
    cube.weight.requires_grad = False
    assert tl.activation_checkpoint(cube, x).node is None


class Stray(nn.Module):
    """Uses a Tensor that is not its own."""

    def __init__(self, other):
        self.others = lambda: other

    def forward(self, x):
        return x * self.others()


def test_what_it_refuses():
    x = tl.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="a Module is needed"):
        tl.activation_checkpoint(tl.tanh, x)
    with pytest.raises(RuntimeError, match="neither an input nor a Parameter"):
        tl.activation_checkpoint(Stray(tl.ones(2, requires_grad=True)), x).sum().backward()
    y = tl.activation_checkpoint(Cube(), x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        y.backward()
    cube = Cube()
    y = tl.activation_checkpoint(cube, x).sum()
    cube.weight.data *= math.pi
    cube.weight.changed()
    with pytest.raises(RuntimeError, match="changed after it was used"):
        y.backward()

    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(TypeError, match="one Tensor"):
        tl.activation_checkpoint(Two(), x)
