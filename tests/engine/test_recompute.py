"""Cheap ops, LayerNorm and GELU: large results are made again in the backward pass: the same bits, in less memory."""

import tracemalloc

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from tensorlite import Generator, inspect
from tensorlite import formulas as spec
from tensorlite import functional as F
from tensorlite.accelerate import dispatch


@pytest.fixture(params=[-1, dispatch.RECOMPUTE_SIZE], ids=["again", "kept"])
def cheap(request, monkeypatch):
    """Above how many elements a cheap op's result is made again: everything, or nothing in these tests."""
    monkeypatch.setattr(dispatch, "RECOMPUTE_SIZE", request.param)
    return request.param


def layer(x, weight, scale, ops=F):
    """LayerNorm, two products that take it, and GELU before each next one."""
    h = ops.layer_norm(x, scale)
    h = ops.linear(h, weight) + ops.linear(ops.gelu(h), weight)
    return ops.linear(ops.gelu(ops.gelu(h)), weight)


def leaves():
    generator = Generator(3)
    shapes = (5, 4), (4, 4), (4,)
    return [tl.randn(*shape, generator=generator, dtype="float64", requires_grad=True) for shape in shapes]


def test_cheap_results_do_not_change_a_bit(monkeypatch):
    found = []
    for limit in (dispatch.RECOMPUTE_SIZE, -1):
        monkeypatch.setattr(dispatch, "RECOMPUTE_SIZE", limit)
        tl.manual_seed(4)
        model = GPT(GPTConfig(vocab_size=31, context_length=12, n_layer=3, n_head=2, n_embd=8).with_dropout(0.3))
        loss = model(idx := tl.randint(0, 31, (4, 12), generator=Generator(5)), idx)[1]
        loss.backward(retain_graph=True)
        once = [p.grad.numpy().tobytes() for p in model.parameters()]
        model.zero_grad()
        loss.backward()
        assert [p.grad.numpy().tobytes() for p in model.parameters()] == once
        found.append([loss.item(), *once])
    assert found[0] == found[1]


def test_cheap_results_have_derivatives_of_every_order(cheap):
    xs = leaves()
    for create_graph in (False, True):
        y, reference = layer(*xs), layer(*xs, ops=spec)
        g = np.random.default_rng(0).normal(size=y.shape)
        firsts = tl.grad(y, xs, g, create_graph=create_graph)
        expected = tl.grad(reference, xs, g, create_graph=create_graph)
        for got, right in zip(firsts, expected, strict=True):
            np.testing.assert_allclose(got.numpy(), right.numpy(), rtol=1e-12, atol=1e-12)
    seconds, expected = (tl.grad(sum((p * p).sum() for p in each), xs) for each in (firsts, expected))
    for got, right in zip(seconds, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), right.numpy(), rtol=1e-10, atol=1e-10)


def test_a_cheap_result_of_a_freed_graph(cheap):
    """As of any: a walk that another one has made impossible says so, and changes nothing."""
    x, weight, _ = leaves()
    h = F.gelu(x)
    before, g = F.linear(h, weight), np.ones((5, 4))
    h.backward(g)
    for y in (before, F.linear(h, weight)):
        with pytest.raises(RuntimeError, match="gelu a second time"):
            y.backward(g)
    assert weight.grad is None


def test_what_a_cheap_result_is_made_from_must_not_have_changed(monkeypatch):
    monkeypatch.setattr(dispatch, "RECOMPUTE_SIZE", -1)
    x, weight, scale = leaves()
    y = F.linear(F.layer_norm(x, scale), weight)
    scale.data *= 2
    scale.changed()
    with pytest.raises(RuntimeError, match="layer_norm: a value that it needs was changed"):
        tl.grad(y, [weight], np.ones(y.shape))


@pytest.mark.parametrize("limit", [19, 20])
def test_a_cheap_result_is_made_again_once_whoever_asks(limit, monkeypatch):
    """If it has more elements than the limit; those here have 20."""
    monkeypatch.setattr(dispatch, "RECOMPUTE_SIZE", limit)
    calls = []

    def count(op, forward):
        monkeypatch.setattr(op, "forward", lambda *xs, **meta: (calls.append(op.name), forward(*xs, **meta))[1])

    for op in (F.IMPLEMENTATIONS[name].cpu for name in ("layer_norm", "gelu")):
        count(op, op.forward)
    y = layer(*leaves())
    assert calls == ["layer_norm", "gelu", "gelu", "gelu"]
    calls.clear()
    y.backward(np.ones(y.shape))
    assert sorted(calls) == ([] if limit == 20 else ["gelu", "gelu", "gelu", "layer_norm"])


@pytest.mark.slow
def test_large_results_of_cheap_ops_are_not_kept():
    """Of x -> LayerNorm -> linear -> GELU -> linear: x and what GELU is taken of, not what the products are."""
    x, weight = (tl.ones((1024, 1024), dtype="float64", requires_grad=True) for _ in range(2))

    def run(rows):
        return F.linear(F.gelu(F.linear(F.layer_norm(x[:rows]), weight)), weight)

    run(1024)  # what is kept from call to call is there now
    for rows, kept in ((1024, 1), (512, 3)):  # arrays beside x and the result
        tracemalloc.start()
        y = run(rows)
        held = tracemalloc.get_traced_memory()[0] / y.data.nbytes
        tracemalloc.stop()
        assert kept + 1 <= held < kept + 1.1
        y.backward(np.ones(y.shape))


def test_the_graph_shows_what_is_kept(cheap):
    """Of the second product its weight alone, or both; going backward step by step finds the same gradient."""
    x, weight, scale = leaves()
    y = F.linear(F.gelu(F.layer_norm(x, scale)), weight)
    graph = inspect.graph(y)
    product = graph.nodes[-1]
    (norm,) = [node for node in graph.nodes if node.op == "layer_norm"]
    assert [kept.name for kept in norm.kept] == ["x", "weight", "mean", "rstd"]  # its rule never asks for the result
    assert [kept.name for kept in product.kept] == (["weight"] if cheap < 0 else ["x", "weight"])
    assert [argument for argument, _ in product.inputs] == ["x", "weight"]
    assert len(graph.svg()) > 1000
    g = np.ones(y.shape)
    found = {step.name: step.gradient for step in inspect.steps(y, g, {"x": x})}
    y.backward(g)
    np.testing.assert_array_equal(found["x"].numpy(), x.grad.numpy())
