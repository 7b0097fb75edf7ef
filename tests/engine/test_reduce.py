"""Gradients summed over processes during the backward pass, and an optimizer's state split over them."""

import numpy as np
import pytest
from processes import Alike

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from tensorlite import autograd, nn, optim
from tensorlite.accelerate import reduce
from tensorlite.accelerate.reduce import Reducer, announcing
from tensorlite.accelerate.shard import shard

CONFIG = GPTConfig(vocab_size=11, context_length=6, n_layer=2, n_head=2, n_embd=8, qkv_bias=True, tie_head=True)
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 2, 7))


def gpt(**options):
    tl.manual_seed(3)
    model = GPT(CONFIG)
    model.activation_checkpointing = options.get("checkpointing", False)
    groups = optim.decay_groups(model.parameters(), 0.1)
    return model, optim.AdamW(groups, lr=0.01)


def loss_of(model, tokens):
    return model.loss(tl.tensor(tokens[:, :-1]), tl.tensor(tokens[:, 1:]))


def test_a_leaf_is_announced_once_with_its_whole_gradient():
    x, y = (tl.tensor(np.array(v), requires_grad=True) for v in (3.0, 5.0))
    out = (x * x + tl.exp(y) * x) * x  # x arrives four times, twice of them from one node
    found = []
    with announcing(out.node, lambda leaf, g: found.append((leaf, float(g)))):
        autograd.walk(out, np.array(1.0))
    assert [leaf is x for leaf, _ in found].count(True) == 1
    assert len(found) == 2
    values = dict(found)
    assert values[x] == pytest.approx(3 * 9 + 2 * 3 * np.exp(5), rel=1e-12)
    assert values[y] == pytest.approx(9 * np.exp(5), rel=1e-12)


def test_the_last_layers_are_announced_before_the_first_ones_are_computed():
    """Otherwise nothing could be sent while the backward pass goes on."""
    model, _ = gpt()
    order, names = [], {p: name for name, p in model.named_parameters()}
    loss = loss_of(model, TOKENS[0])
    with announcing(loss.node, lambda leaf, g: order.append(names[leaf])):
        autograd.walk(loss, np.array(1, np.float32))
    assert sorted(order) == sorted(names.values())
    place = {name: i for i, name in enumerate(order)}
    blocks = [[place[name] for name in order if name.startswith(f"blocks.{i}.")] for i in (0, 1)]
    assert max(blocks[1]) < min(blocks[0])
    assert place["final_norm.weight"] < min(blocks[1])
    assert order[-1].endswith("embedding.weight")


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradients_are_the_sum_over_processes(size, checkpointing):
    """Two processes that compute the same: twice the gradient of `backward`, to the bit, also after earlier passes."""
    world, (model, optimizer) = Alike(2), gpt(checkpointing=checkpointing)
    reducer = Reducer(world, optimizer, size)
    for _ in range(3):
        expected = []
        for p in model.parameters():
            p.grad = None
        for tokens in TOKENS:
            loss_of(model, tokens).backward()
        expected = [2 * p.grad.data for p in optimizer.params]
        optimizer.zero_grad()
        for tokens in TOKENS[:-1]:
            loss_of(model, tokens).backward()
        world.sent.clear()
        reducer.backward(loss_of(model, TOKENS[-1]))
        assert sum(n for _, n in world.sent) - sum(p.size for p in optimizer.params) < 2 * len(world.sent)
        for p, g in zip(optimizer.params, expected, strict=True):
            np.testing.assert_array_equal(p.grad.data, g)
    assert len(reducer.buckets) == {1: len(optimizer.params), 100: len(reducer.buckets), 1 << 20: 2}[size]


def test_buckets_are_sent_while_the_walk_goes_on(monkeypatch):
    model, optimizer = gpt()
    reducer = Reducer(Alike(2), optimizer, 100)
    reducer.backward(loss_of(model, TOKENS[0]))
    events = []
    plain = reducer.reduce
    reducer.reduce = lambda bucket: (events.append("sent"), plain(bucket))[1]
    apply = autograd.Node.check
    monkeypatch.setattr(autograd.Node, "check", lambda node: (events.append("node"), apply(node))[1])
    reducer.backward(loss_of(model, TOKENS[0]))
    assert events.count("sent") == len(reducer.buckets) > 5
    last_node = len(events) - events[::-1].index("node")
    assert events[:last_node].count("sent") >= 0.7 * len(reducer.buckets)


def test_a_process_without_targets_adds_nothing():
    model, optimizer = gpt()
    reducer = Reducer(Alike(2), optimizer)
    reducer.backward(loss_of(model, TOKENS[0]))
    optimizer.zero_grad()
    reducer.backward(None)
    assert all(not p.grad.data.any() for p in optimizer.params)
    optimizer.zero_grad()
    loss_of(model, TOKENS[1]).backward()
    expected = [2 * p.grad.data for p in optimizer.params]
    reducer.backward(None)  # the only pass with targets was an earlier one
    for p, g in zip(optimizer.params, expected, strict=True):
        np.testing.assert_array_equal(p.grad.data, g)


def test_parameters_without_a_gradient_keep_none_and_may_not_get_one_later():
    used, unused = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = optim.AdamW([*used.parameters(), *unused.parameters()], lr=0.1, weight_decay=0.5)
    reducer, x = Reducer(Alike(2), optimizer), np.ones((2, 3), np.float32)
    before = unused.weight.data.copy()
    reducer.backward(used(x).sum())
    optimizer.step()
    assert unused.weight.grad is None
    np.testing.assert_array_equal(unused.weight.data, before)
    with pytest.raises(RuntimeError, match=r"has its first gradient now, and not in the first step"):
        reducer.backward((used(x) + unused(x)).sum())
    assert isinstance(autograd.accumulator(None, None), autograd.Gradients)
    assert autograd.accumulator is reduce.InPlaceGradients


# ----- the optimizer's state in parts -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [50, 1 << 20])
def test_a_sharded_optimizer_makes_the_same_step(size):
    """Each of two alike processes updates its half, from the state of a step before; the other half is the other's."""
    (expected, plain), *models = [gpt() for _ in range(3)]
    for model, optimizer in ((expected, plain), *models):
        loss_of(model, TOKENS[0]).backward()
        optimizer.step()
    reducers = [Reducer(Alike(2, rank), optimizer, size) for rank, (_, optimizer) in enumerate(models)]
    for reducer in reducers:
        shard(reducer)
    for tokens in TOKENS:
        plain.zero_grad()
        loss_of(expected, tokens).backward()
        for p in plain.params:
            p.grad = 2 * p.grad
        norm = plain.global_norm().item()
        plain.step(grad_scale=0.5)
        for reducer, (model, optimizer) in zip(reducers, models, strict=True):
            optimizer.zero_grad()
            reducer.backward(loss_of(model, tokens))
            half = optimizer.global_norm().item()  # Alike doubles the square of this half
            assert 0 < half**2 / 2 < norm**2
            optimizer.step(grad_scale=0.5)
        merge(*[optimizer._storage for _, optimizer in models])
        for model, _ in models:
            for p, q in zip(expected.parameters(), model.parameters(), strict=True):
                np.testing.assert_allclose(q.data, p.data, rtol=1e-6, atol=1e-8)
    own = [sum(array.nbytes for part in o._storage.parts for array in part.state.values()) for _, o in models]
    whole = sum(x.data.nbytes for x in plain.state_dict()["tensors"].values())
    assert sum(own) == pytest.approx(whole, rel=0.05)
    assert max(own) < 0.55 * whole


def merge(*storages):
    """What the all-gather of two processes does."""
    for parts in zip(*(storage.parts for storage in storages), strict=True):
        for rank, part in enumerate(parts):
            n = part.own.size
            for other in parts:
                other.weights[rank * n : (rank + 1) * n] = part.own


def test_a_sharded_optimizer_starts_from_the_state_and_gives_it_back():
    model, optimizer = gpt()
    loss_of(model, TOKENS[0]).backward()
    optimizer.step()
    before = {name: x.data.copy() for name, x in optimizer.state_dict()["tensors"].items()}
    reducer = Reducer(Alike(1), optimizer)
    asked = []
    shard(reducer, lambda: asked.append(1))
    waiting = optimizer.state_dict()["tensors"]
    assert all((waiting[name].data == before[name]).all() for name in before)
    assert not asked
    optimizer.zero_grad()
    reducer.backward(loss_of(model, TOKENS[1]))
    state = optimizer.state_dict()
    assert asked  # once the parts are made: before, the state was still whole
    assert state["steps"] == [1] * len(optimizer.params)
    assert before.keys() == state["tensors"].keys()
    for name, x in state["tensors"].items():
        np.testing.assert_array_equal(x.data, before[name])
    optimizer.step(grad_scale=tl.tensor(np.nan))  # skipped, as by every optimizer
    assert optimizer._storage.steps == [1] * len(optimizer.params)


def test_what_cannot_be_split_is_refused():
    class Own(optim.SGD):
        update = staticmethod(lambda p, g, t, velocity, **options: (p, velocity))

    parameter = nn.Linear(2, 2).parameters()
    with pytest.raises(ValueError, match=r"the state of Own cannot be split: use SGD, Adam or AdamW"):
        shard(Reducer(Alike(2), Own(parameter, lr=0.1)))
