"""PyTorch's names and arguments: each works, or one sentence says what to write instead. And buffers, as PyTorch's."""

import copy
import inspect
import re

import numpy as np
import pytest

import gpt.attention
import gpt.generation
import gpt.model
import tensorlite as tl
from tensorlite import backend, io, nn, optim
from tensorlite import functional as F
from tensorlite.data import DataLoader
from tensorlite.errors import torch_names
from tensorlite.testing.strict import strict


def linear() -> nn.Linear:
    return nn.Linear(3, 2)


OWNERS = {
    "Module": linear,
    "Optimizer": lambda: optim.SGD(linear().parameters(), lr=0.1),
    "DataLoader": lambda: DataLoader([1, 2]),
    "nn": lambda: nn,
    "functional": lambda: F,
    "optim": lambda: optim,
    "data": lambda: tl.data,
}
CLASSES = {
    "Module": [nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.Dropout, nn.GELU, nn.ReLU, nn.SiLU],
    "Optimizer": [optim.SGD, optim.Adam, optim.AdamW],
    "DataLoader": [DataLoader],
}
NAMESPACE = {"tl": tl, "nn": nn, "optim": optim, "F": F, "tensorlite": tl, "gpt": gpt}

# ----- the table --------------------------------------------------------------------------------------------------


@pytest.mark.finding("C2")
@pytest.mark.parametrize("owner", OWNERS)
def test_a_name_of_pytorch_is_missing_with_what_to_write_instead(owner):
    thing = OWNERS[owner]()
    for name, advice in torch_names.NAMES[owner].items():
        with pytest.raises(AttributeError, match=re.escape(f"has no attribute {name!r}: {advice}")):
            getattr(thing, name)
    with pytest.raises(AttributeError, match=r"has no attribute 'zzz'$"):
        thing.zzz  # noqa: B018


@pytest.mark.finding("C2")
def test_what_the_table_says_to_write_exists():
    advice = [text for names in torch_names.NAMES.values() for text in names.values()]
    advice += [text for names in torch_names.ARGUMENTS.values() for _, text in names.values()]
    found = set(re.findall(r"\b(?:tl|nn|optim|fused|tensorlite|gpt)(?:\.\w+)+", " ".join(advice)))
    assert {"nn.LayerNorm", "gpt.model.GPT", "tl.float32"} <= found
    for path in found:
        thing = NAMESPACE[path.split(".")[0]]
        for part in path.split(".")[1:]:
            assert hasattr(thing, part), path
            thing = getattr(thing, part)
    methods = set(re.findall(r"(?<!gpt\.)\bmodel\.(\w+)", " ".join(advice)))
    assert methods >= {"modules", "named_modules"}
    assert all(hasattr(nn.Module, name) for name in methods)


@pytest.mark.finding("C2")
def test_no_argument_of_the_table_is_one_that_we_have():
    for owner, classes in CLASSES.items():
        for kind in classes:
            assert not torch_names.ARGUMENTS[owner].keys() & inspect.signature(kind).parameters.keys()


# ----- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.finding("C2")
def test_an_argument_that_asks_for_nothing_is_ignored_and_others_are_refused():
    assert next(iter(DataLoader([1, 2, 3], 2, num_workers=0, pin_memory=False, sampler=None))).tolist() == [1, 2]
    optimizer = optim.AdamW(linear().parameters(), lr=0.5, fused=True, amsgrad=False, foreach=None)
    assert (type(optimizer), optimizer.lr) == (optim.AdamW, 0.5)
    tl.manual_seed(1)
    expected = linear().weight.tolist()
    tl.manual_seed(1)
    assert nn.Linear(3, 2, device=None, dtype=None).weight.tolist() == expected  # drawn once
    assert nn.ReLU(inplace=True)(tl.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]
    assert nn.Dropout(0.25, inplace=False).p == 0.25


@pytest.mark.finding("C2")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: DataLoader([1], num_workers=4),
            "DataLoader has no argument 'num_workers': batches .* give 0 or omit it",
        ),
        (lambda: DataLoader([1], num_workers=False), "no argument 'num_workers'"),
        (lambda: DataLoader(iter([1])), r"a dataset must have len\(\) and \[i\], as a list has, got list_iterator"),
        (lambda: DataLoader([1], pin_memory=True), "no argument 'pin_memory'"),
        (lambda: DataLoader([1], collate_fn=list), "no argument 'collate_fn': the argument is `collate`"),
        (lambda: DataLoader([1], 1, True, object()), "drop_last must be True or False, not <object"),
        (lambda: DataLoader([1], num_workers=0, zzz=1), "DataLoader has no argument 'zzz': it is unknown"),
        (lambda: DataLoader([1], zzz=1), "unexpected keyword argument 'zzz'"),
        (lambda: optim.Adam([tl.ones(1, requires_grad=True)], amsgrad=True), "Adam has no argument 'amsgrad'"),
        (lambda: optim.AdamW([tl.ones(1, requires_grad=True)], maximize=True), "negative loss"),
        (lambda: optim.SGD([tl.ones(1, requires_grad=True)], 0.1, 0.9, 0.5), "nesterov must be True or False, not 0.5"),
        (lambda: optim.SGD(linear(), lr=0.1), r"SGD: give the parameters of the module, model\.parameters\(\)"),
        (lambda: optim.Adam([tl.ones(1, requires_grad=True)]).zero_grad(set_to_none=False), "omit set_to_none"),
        (lambda: linear().zero_grad(set_to_none=False), "omit set_to_none"),
        (lambda: nn.Linear(3, 2, device="cuda"), r'Linear has no argument \'device\': use \.to\("cuda"\)'),
        (lambda: nn.Linear(3, 2, True, "cuda"), "Linear: generator must be a tl.Generator, not 'cuda'"),
        (lambda: nn.Embedding(3, 2, 0), "Embedding: generator must be a tl.Generator, not 0"),
        (lambda: nn.Embedding(3, 2, padding_idx=0), "Embedding has no argument 'padding_idx'"),
        (lambda: nn.Dropout(0.5, True), "Dropout: generator must be a tl.Generator, not True"),
        (lambda: nn.LayerNorm(3, 1e-5, False), "positional argument"),
        (lambda: nn.Sequential([nn.ReLU()]), r"not a list: nn\.Sequential\(\*layers\), nn\.ModuleList\(layers\)"),
    ],
)
def test_other_arguments_are_refused_in_one_sentence(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_users_own_module_keeps_its_own_arguments():
    class Net(nn.Module):
        def __init__(self, device="here", **others):
            self.device, self.count = device, len(others)

    assert (Net(dtype=1, inplace=True).count, Net(device=None).device) == (2, None)

    class Strict(nn.Module):
        def __init__(self):
            pass

    with pytest.raises(TypeError, match="unexpected keyword argument 'device'"):
        Strict(device=None)


@pytest.mark.finding("C2")
def test_what_works_as_in_pytorch():
    model = nn.Sequential(*[nn.Linear(3, 3, bias=False), nn.GELU()])
    optimizer = optim.SGD(model.parameters(), 0.1)
    model(tl.ones((1, 3))).sum().backward()
    optimizer.zero_grad(set_to_none=True)
    assert model[0].weight.grad is None
    model(tl.ones((1, 3))).sum().backward()
    model.zero_grad(True)
    assert model[0].weight.grad is None
    assert model.state_dict()["0.weight"].shape == (3, 3)
    assert model.load_state_dict({"0.weight": tl.ones((3, 3)), "x": tl.ones(1)}, strict=False) == ([], ["x"])
    assert len(nn.ModuleList(nn.ReLU() for _ in range(3))) == 3


@pytest.mark.finding("C2")
def test_a_parameter_may_be_frozen_from_the_start():
    class Scaled(nn.Module):
        def __init__(self):
            self.linear, self.scale = linear(), nn.Parameter([2.0, 3.0], requires_grad=False)

        def forward(self, x):
            return self.linear(x) * self.scale

    model = Scaled()
    model(tl.ones((1, 3))).sum().backward()
    assert (model.scale.grad, model.linear.bias.grad.tolist()) == (None, [2.0, 3.0])
    assert list(model.state_dict()) == ["scale", "linear.weight", "linear.bias"]
    assert nn.Parameter([1, 2], requires_grad=False).dtype == tl.int64
    with pytest.raises(ValueError, match="does not require a gradient: give leaves that require one"):
        optim.SGD(model.parameters(), lr=0.1)


# ----- buffers ----------------------------------------------------------------------------------------------------


class Running(nn.Module):
    """Counts and averages what it has seen, as BatchNorm does."""

    def __init__(self):
        self.linear = nn.Linear(2, 2)
        self.register_buffer("mean", tl.zeros(2))
        self.register_buffer("count", tl.tensor(0))
        self.register_buffer("cache", tl.ones(2), persistent=False)
        self.register_buffer("later", None)

    def forward(self, x):
        if self.training:
            self.count = self.count + 1
            self.mean = self.mean + (x.detach().mean(0) - self.mean) / self.count.astype(x.dtype)
        return self.linear(x - self.mean)


NAMES = ["0.linear.weight", "0.linear.bias", "0.mean", "0.count"]


@pytest.mark.finding("C2")
def test_buffers_are_part_of_the_state_and_no_parameters(tmp_path):
    model = nn.Sequential(Running())
    for rows in ([[1.0, 2.0]], [[3.0, 6.0]]):
        model(tl.tensor(rows))
    model.eval()(tl.tensor([[100.0, 100.0]]))
    assert list(model.state_dict()) == NAMES
    assert [name for name, _ in model.named_parameters()] == NAMES[:2]
    assert [name for name, _ in model.named_buffers()] == NAMES[2:]
    assert (model.state_dict()["0.mean"].tolist(), model.state_dict()["0.count"].tolist()) == ([2.0, 4.0], 2)
    io.save(tmp_path / "x.safetensors", model.state_dict())
    fresh = nn.Sequential(Running())
    mean = fresh[0].mean
    assert fresh.load_state_dict(io.load(tmp_path / "x.safetensors")) == ([], [])
    assert fresh[0].mean is mean
    assert mean.tolist() == [2.0, 4.0]
    assert not np.shares_memory(mean.data, model[0].mean.data)
    state = {**model.state_dict(), "0.mean": tl.ones(1)}
    del state["0.count"]
    with pytest.raises(ValueError, match=r"missing: 0\.count\n  0\.mean: shape \(2,\) is needed, not \(1,\)"):
        fresh.load_state_dict(state)


@pytest.mark.finding("C2")
def test_buffers_move_and_are_copied_with_the_module(monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    model = Running()
    model.to(tl.float64)
    assert (model.mean.dtype, model.cache.dtype, model.count.dtype) == (tl.float64, tl.float64, tl.int64)
    twin = copy.deepcopy(model)
    twin(tl.ones((1, 2), tl.float64))
    assert (model.count.tolist(), twin.count.tolist(), list(twin.state_dict())) == (0, 1, list(model.state_dict()))
    other = copy.copy(model)
    other.register_buffer("more", tl.zeros(1))
    assert "more" not in model.state_dict()
    assert "more" in other.state_dict()
    assert {b.device for _, b in model.to("strict").named_buffers()} == {"strict"}


@pytest.mark.finding("C2")
def test_buffers_are_replaced_by_tensors_alone_and_shared_ones_count_once():
    model = Running()
    model.later = tl.ones(3)
    assert list(model.state_dict())[-1] == "later"
    model.later = None
    assert "later" not in model.state_dict()
    model.register_buffer("mean", model.count)  # registered again: the same Tensor under two names
    assert list(model.state_dict()) == ["linear.weight", "linear.bias", "count"]
    for call, message in [
        (lambda: setattr(model, "count", 3), "Running.count is a buffer: replace it by a Tensor, not 3"),
        (lambda: setattr(model, "count", nn.Parameter([1.0])), "count is a buffer"),
        (lambda: model.register_buffer("x", np.ones(2)), r"x must be a Tensor, tl\.tensor\(\.\.\.\), not ndarray"),
        (lambda: model.register_buffer("x", nn.Parameter([1.0])), "not Parameter"),
        (lambda: model.register_buffer("linear", tl.ones(1)), "has an attribute 'linear' already"),
        (lambda: model.register_buffer("a.b", tl.ones(1)), "the name of an attribute is needed, not 'a.b'"),
        (lambda: model.register_buffer(3, tl.ones(1)), "the name of an attribute is needed, not 3"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_a_tensor_in_the_place_of_an_array_is_named():
    layer = linear()
    layer.weight.data = tl.zeros((2, 3))  # of PyTorch: p.data is a tensor there
    says = r"Tensor is not an array: .* as in x\.data = y\.data, give the Tensor's \.data"
    with pytest.raises(TypeError, match=says):
        layer(tl.ones((1, 3)))
