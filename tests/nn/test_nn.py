"""Modules: what they compute, what they are made of, and what they refuse."""

import copy
import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import backend, io, nn
from tensorlite.testing.strict import strict


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape)


class Tied(nn.Module):
    """Two layers that share a matrix, a Parameter of its own, a constant."""

    def __init__(self):
        self.embedding = nn.Embedding(5, 3)
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.LayerNorm(3)])
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter([2.0])
        self.offset = tl.tensor([1.0])

    def forward(self, idx):
        x = self.embedding(idx)
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale + self.offset


NAMES = ["scale", "embedding.weight", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias"]


# ----- what layers compute ----------------------------------------------------------------------------------------


def test_initial_values_are_torchs_for_the_same_seed():
    """The numbers are what torch 2.13 gives; tests/peers compares with torch itself. The embedding's are the book's."""
    tl.manual_seed(123)
    linear = nn.Linear(3, 2)
    np.testing.assert_array_equal(
        linear.weight.numpy(),
        np.float32([[-0.23542964458465576, 0.019124476239085197, -0.28674593567848206],
                    [0.21772661805152893, -0.491934210062027, 0.423223078250885]]),
    )  # fmt: skip
    np.testing.assert_array_equal(linear.bias.numpy(), np.float32([-0.4196414053440094, -0.45901766419410706]))
    rows = nn.Embedding(6, 3, generator=tl.Generator(123)).weight.numpy()
    np.testing.assert_allclose(rows[[0, 5]], [[0.3374, -0.1778, -0.1690], [-2.8400, -0.7849, -1.4096]], atol=5e-5)


def layer_norm(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(4, 3), lambda x, weight, bias: x @ weight.T + bias),
        (nn.Linear(4, 3, bias=False), lambda x, weight: x @ weight.T),
        (nn.LayerNorm(4, eps=0.1), lambda x, weight, bias: layer_norm(x, weight, bias, 0.1)),
        (nn.LayerNorm(4, bias=False), lambda x, weight: layer_norm(x, weight, 0, 1e-5)),
        (nn.RMSNorm(4, eps=0.1), lambda x, weight: x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.1) * weight),
        (nn.GELU(), lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        (nn.GELU("none"), lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2),
        (nn.ReLU(), lambda x: np.maximum(x, 0)),
        (nn.SiLU(), lambda x: x / (1 + np.exp(-x))),
        (nn.Tanh(), np.tanh),
        (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
        (nn.Sequential(nn.ReLU(), nn.Tanh()), lambda x: np.tanh(np.maximum(x, 0))),
        (nn.Dropout(0.5).eval(), lambda x: x),
        (nn.Dropout(1.0), np.zeros_like),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, nn.Module) else "",
)
def test_a_layer_is_its_formula(layer, expected):
    layer.to(tl.float64)
    for p in layer.parameters():
        p.data[...] = values(*p.shape)
    x = values(2, 5, 4)
    y = layer(tl.tensor(x))
    assert y.dtype == tl.float64
    np.testing.assert_allclose(y.numpy(), expected(x, *[p.numpy() for p in layer.parameters()]), rtol=1e-12, atol=1e-14)


def test_norms_start_as_the_identity_and_embedding_looks_rows_up():
    assert [p.tolist() for p in nn.LayerNorm(2).parameters()] == [[1, 1], [0, 0]]
    assert [p.tolist() for p in nn.RMSNorm(2).parameters()] == [[1, 1]]
    layer = nn.Embedding(5, 3)
    idx = tl.tensor([[0, 4], [4, 2]])
    np.testing.assert_array_equal(layer(idx).numpy(), layer.weight.numpy()[idx.numpy()])
    with pytest.raises(IndexError, match="index 5 is out of range"):
        layer(tl.tensor([5]))


def test_dropout_drops_in_training_alone_from_its_own_generator():
    layer, x = nn.Dropout(0.25, generator=tl.Generator(1)), tl.ones(4000)
    y = layer(x).numpy()
    np.testing.assert_array_equal(y == 0, ~tl.Generator(1).bernoulli_keep(0.25, 4000))
    assert set(y.tolist()) == {0.0, np.float32(1 / 0.75).item()}
    assert layer.eval()(x) is x


# ----- what a module is made of -----------------------------------------------------------------------------------


def test_parameters_come_once_in_the_order_of_their_definition():
    model = Tied()
    assert [name for name, _ in model.named_parameters()] == NAMES == list(model.state_dict())
    assert [name for name, _ in model.named_modules()] == ["", "embedding", "blocks", "blocks.0", "blocks.1", "head"]
    assert model.num_parameters() == 1 + 15 + 9 + 3 + 3 + 3
    assert list(map(id, model.parameters())) == [id(p) for _, p in model.named_parameters()]


def test_a_gradient_reaches_every_parameter():
    """Each is the one that differences of the loss give; the shared matrix has both of its uses."""
    model, idx = Tied().to(tl.float64), tl.tensor([0, 3])
    for p in model.parameters():
        p.data[...] = values(*p.shape)

    def loss():
        return model(idx).square().sum()

    loss().backward()
    for name, p in model.named_parameters():
        expected = np.empty(p.shape)
        for place in np.ndindex(p.shape):
            was, around = p.data[place], []
            for p.data[place] in (was + 1e-5, was - 1e-5):
                around.append(loss().item())
            p.data[place] = was
            expected[place] = (around[0] - around[1]) / 2e-5
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-6, atol=1e-6, err_msg=name)
    model.to(tl.float32).zero_grad()
    model(idx).square().sum().backward()
    assert {p.grad.dtype for p in model.parameters()} == {np.dtype(np.float32)}
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_train_and_eval_reach_every_module():
    model = nn.Sequential(nn.Dropout(0.5), nn.ModuleList([nn.Dropout(0.5)]))
    assert all(m.training for m in model.modules())
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    assert all(m.training for m in model.train().modules())


def test_to_converts_parameters_gradients_and_constants_in_place_of_their_data():
    model = Tied()
    model(tl.tensor([1])).sum().backward()
    before = {name: (p, p.data, p.grad.numpy()) for name, p in model.named_parameters()}
    assert model.to("cpu") is model
    assert all(p.data is data for p, data, _ in before.values())
    model.to(tl.float64)
    for name, p in model.named_parameters():
        was, data, gradient = before[name]
        assert p is was
        assert p.dtype == p.grad.dtype == tl.float64
        np.testing.assert_array_equal(p.data, data)
        np.testing.assert_array_equal(p.grad.data, gradient)
    assert model.offset.dtype == tl.float64
    assert model.head.weight is model.embedding.weight
    with pytest.raises(TypeError, match="cannot be int64"):
        model.to(tl.int64)
    with pytest.raises(ValueError, match=r"'gpu' is neither a dtype nor a device \(cpu, cuda\)"):
        model.to("gpu")


class Told(nn.Module):
    """Counts how often it is told that its Parameters lie elsewhere; has a constant that no dtype concerns."""

    def __init__(self):
        self.inner, self.places, self.told = nn.Linear(2, 2), tl.tensor([1, 2]), 0

    def on_move(self):
        self.told += 1


def test_to_moves_to_a_device_and_tells_those_who_arranged_their_memory(monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    model = Told()
    model.inner(tl.ones((1, 2))).sum().backward()
    expected = {name: p.numpy().copy() for name, p in model.named_parameters()}
    model.to("strict")
    parts = [*model.parameters(), *(p.grad for p in model.parameters()), model.places]
    assert {x.device for x in parts} == {"strict"}
    assert model.told == 1
    same = [x.data for x in parts]
    model.to("strict").to(tl.float32)  # where and what all of it is already
    assert all(x.data is data for x, data in zip(parts, same, strict=True))
    assert model.told == 1
    model.to(tl.float64)
    assert (model.inner.weight.dtype, model.places.dtype, model.told) == (tl.float64, tl.int64, 2)
    model.to("cpu")
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.numpy(), expected[name])


def test_a_graph_from_before_to_is_refused():
    layer = nn.Linear(2, 2)
    y = layer(tl.ones((1, 2), requires_grad=True)).sum()
    layer.to(tl.float64)
    with pytest.raises(RuntimeError, match="changed after it was used"):
        y.backward()


def test_a_deep_copy_shares_nothing_and_keeps_ties():
    model = Tied()
    twin = copy.deepcopy(model)
    assert twin.head.weight is twin.embedding.weight
    assert [name for name, _ in twin.named_parameters()] == NAMES
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)
        assert not np.shares_memory(p.data, q.data)


def test_module_list_is_a_list():
    first, second, third = nn.ReLU(), nn.Tanh(), nn.SiLU()
    row = nn.ModuleList([first]).append(second)
    row[-1] = third
    assert (len(row), list(row), row[0], row[-1], row[0:]) == (2, [first, third], first, third, [first, third])
    with pytest.raises(IndexError, match="index 2 is out of range: it has 2 modules"):
        row[2] = first
    with pytest.raises(TypeError, match="a Module is needed here, not function"):
        row.append(lambda x: x)


def test_a_module_in_two_places_or_around_itself_is_met_once():
    shared = nn.Linear(2, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert [name for name, _ in model.named_modules()] == ["", "0", "1"]

    class Round(nn.Module):
        def __init__(self):
            self.layer, self.me = shared, self

    assert [name for name, _ in Round().named_modules()] == ["", "layer"]


def test_layers_take_what_they_are_given_and_have_torchs_defaults():
    generator = tl.Generator(5)
    tl.manual_seed(9)
    assert (
        nn.Linear(3, 4, generator=generator).weight.tolist()
        == nn.Linear(3, 4, generator=tl.Generator(5)).weight.tolist()
    )
    assert nn.Embedding(3, 4, generator=tl.Generator(5)).weight.tolist() == tl.Generator(5).randn((3, 4)).tolist()
    assert tl.default_generator.uniform(0, 1, (2,)).tolist() == tl.Generator(9).uniform(0, 1, (2,)).tolist()  # undrawn
    assert (nn.LayerNorm(3).eps, nn.RMSNorm(3).eps, nn.Dropout().p, nn.GELU().approximate) == (1e-5, 1e-5, 0.5, "tanh")
    assert (nn.LayerNorm(3, bias=False).bias, nn.Linear(3, 3, bias=False).bias) == (None, None)


@pytest.mark.finding("E11")
def test_repr_shows_the_tree_and_what_differs_from_the_defaults():
    assert repr(nn.Sequential(nn.LayerNorm(3), nn.GELU(), nn.ReLU())) == (
        "Sequential(\n  0: LayerNorm(dim=3)\n  1: GELU()\n  2: ReLU()\n)"
    )
    assert repr(nn.Sequential(nn.Linear(2, 3), nn.ModuleList([nn.Dropout(0.1)]))) == (
        "Sequential(\n  0: Linear(in_features=2, out_features=3)\n  1: ModuleList(\n    0: Dropout(p=0.1)\n  )\n)"
    )
    assert repr(nn.Linear(np.int64(2), 3, bias=False)) == "Linear(in_features=2, out_features=3, bias=False)"
    assert repr(nn.LayerNorm(3, eps=0.1, bias=False)) == "LayerNorm(dim=3, eps=0.1, bias=False)"
    assert repr(nn.GELU("none")) == "GELU(approximate='none')"


@pytest.mark.finding("E11")
def test_repr_is_the_same_in_both_modes_and_a_subclass_shows_its_own_settings():
    class Net(nn.Module):
        width = 4

        def __init__(self, depth=1, name="net"):
            self.depth, self.name, self.layers = depth, name, nn.ModuleList([nn.Linear(1, 1) for _ in range(depth)])

    model = Net(depth=2)
    shown = repr(model)
    assert shown.startswith("Net(depth=2\n  layers: ModuleList(\n    0: Linear(in_features=1, out_features=1)\n")
    assert repr(model.eval()) == repr(model.train()) == shown
    model.width, model.depth = 5, 1
    assert repr(model).startswith("Net(width=5\n")


# ----- state ------------------------------------------------------------------------------------------------------


def test_load_state_dict_copies_in_place_and_keeps_ties():
    source, model = Tied(), Tied()
    before = [(p, p.data, p.version) for p in model.parameters()]
    assert model.load_state_dict(source.state_dict()) == ([], [])
    for (p, data, version), q in zip(before, source.parameters(), strict=True):
        assert p.data is data
        assert p.version == version + 1
        np.testing.assert_array_equal(p.data, q.data)
        assert not np.shares_memory(p.data, q.data)
    assert model.head.weight is model.embedding.weight
    assert len(list(model.parameters())) == len(NAMES)


def test_loading_after_a_forward_pass_is_seen_by_backward():
    layer = nn.Linear(2, 2)
    y = layer(tl.ones((1, 2), requires_grad=True)).sum()
    layer.load_state_dict(nn.Linear(2, 2).state_dict())
    with pytest.raises(RuntimeError, match="changed after it was used"):
        y.backward()


def test_a_state_that_does_not_fit_is_refused_whole_with_every_reason():
    model = Tied()
    before = [p.numpy().copy() for p in model.parameters()]
    state = {name: tl.zeros(p.shape) for name, p in model.named_parameters()}
    del state["scale"], state["blocks.0.weight"]
    state |= {
        "haed.weight": tl.zeros(1),
        "blocks.1.weight": tl.zeros(4),
        "blocks.1.bias": tl.zeros(3, dtype=tl.float64),
    }
    state["blocks.0.bias"] = [0.0, 0.0, 0.0]
    with pytest.raises(ValueError) as error:
        model.load_state_dict(state)
    assert str(error.value).splitlines() == [
        "this state does not fit Tied:",
        "  missing: scale, blocks.0.weight",
        "  unexpected: haed.weight",
        "  blocks.0.bias: a Tensor is needed, not list",
        "  blocks.1.weight: shape (3,) is needed, not (4,)",
        "  blocks.1.bias: dtype float32 is needed, not float64: use .astype",
    ]
    with pytest.raises(ValueError, match="shape"):
        model.load_state_dict(state, strict=False)
    for p, was in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, was)


def test_without_strict_other_names_are_returned():
    model = Tied()
    state = {"scale": tl.tensor([9.0]), "other": tl.zeros(1)}
    assert model.load_state_dict(state, strict=False) == (NAMES[1:], ["other"])
    assert model.scale.tolist() == [9.0]


# ----- what it refuses --------------------------------------------------------------------------------------------


def test_a_mistyped_attribute_raises_and_names_the_close_ones():
    model = Tied()
    with pytest.raises(AttributeError, match="Tied has no attribute 'haed': did you mean head"):
        str(model.haed)
    with pytest.raises(AttributeError, match=r"to replace: did you mean head.*assigned in __init__"):
        model.haed = nn.Linear(3, 2)
    assert not hasattr(model, "zzz")
    with pytest.raises(AttributeError, match=r"Tied has no attribute 'zzz'$"):
        str(model.zzz)
    model.head = nn.Linear(3, 2)
    model.training = False


def test_a_subclass_may_add_attributes_in_its_own_init():
    class Deeper(Tied):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(1, 1)

    class Renamed(Deeper):
        pass

    for model in (Deeper(), Renamed()):
        assert "extra.bias" in model.state_dict()
        with pytest.raises(AttributeError, match=f"{type(model).__name__} has no attribute 'more' to replace"):
            model.more = 1


def test_a_parameter_is_replaced_by_parameters_alone():
    layer = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"Linear.weight is a Parameter.*write to \.data and call \.changed"):
        layer.weight = layer.weight - 0.1
    layer.weight = nn.Parameter(np.eye(2))
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]


@pytest.mark.parametrize("hide", [lambda m: [m], lambda m: (m,), lambda m: {"m": m}, lambda m: [m.weight]])
def test_modules_hidden_in_a_list_are_found(hide):
    class Hidden(nn.Module):
        def __init__(self):
            self.layers = hide(nn.Linear(1, 1))

    with pytest.raises(TypeError, match=r"Hidden.layers is a .* use a ModuleList"):
        list(Hidden().parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(0, 2), "Linear: in_features must be a positive integer, not 0"),
        (lambda: nn.Linear(2, 2.0), "Linear: out_features must be a positive integer, not 2.0"),
        (lambda: nn.Embedding(True, 2), "Embedding: num_embeddings must be a positive integer, not True"),
        (lambda: nn.LayerNorm(-1), "LayerNorm: dim must be a positive integer, not -1"),
        (lambda: nn.RMSNorm(0), "RMSNorm: dim must be a positive integer, not 0"),
        (lambda: nn.Dropout(1.5), "Dropout: p must be a probability between 0 and 1, not 1.5"),
        (lambda: nn.GELU("erf"), "GELU: approximate must be 'tanh' or 'none', not 'erf'"),
        (lambda: nn.LayerNorm(3)(tl.ones((2, 4))), "last axis"),
        (lambda: nn.Parameter([1, 2]), "only floating Tensors have gradients"),
        (lambda: nn.Module()(1), "Module has no attribute 'forward'"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises((ValueError, TypeError, AttributeError), match=message):
        make()


def test_undrawn_layers_take_no_random_numbers_and_load_from_a_file_entry_by_entry(tmp_path):
    tl.manual_seed(3)
    drawn = nn.Sequential(nn.Linear(3, 4), nn.Embedding(5, 2), nn.LayerNorm(4))
    io.save(tmp_path / "weights.safetensors", drawn.state_dict())
    before = tl.default_generator.state_dict()
    with nn.skip_init():
        empty = nn.Sequential(nn.Linear(3, 4), nn.Embedding(5, 2), nn.LayerNorm(4))
    assert tl.default_generator.state_dict() == before
    assert not empty.state_dict()["0.weight"].numpy().any()
    empty.load_state_dict(io.entries(tmp_path / "weights.safetensors"))
    for name, p in drawn.state_dict().items():
        np.testing.assert_array_equal(empty.state_dict()[name].numpy(), p.numpy())
    with pytest.raises(ValueError, match=r"0\.weight: shape \(4, 2\) is needed, not \(4, 3\)"):
        nn.Sequential(nn.Linear(2, 4), nn.Embedding(5, 2), nn.LayerNorm(4)).load_state_dict(
            io.entries(tmp_path / "weights.safetensors")
        )


# ----- arguments that cannot be used --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: nn.Dropout("a"), ValueError, "Dropout: p must be a probability between 0 and 1, not 'a'"),
        (lambda: nn.Dropout(None), ValueError, "Dropout: p must be a probability between 0 and 1, not None"),
        (lambda: nn.Linear(1, 1, bias="no"), TypeError, "Linear: bias must be True or False, not 'no'"),
        (lambda: nn.LayerNorm(1, bias="no"), TypeError, "LayerNorm: bias must be True or False, not 'no'"),
        (lambda: nn.LayerNorm(1, eps="a"), ValueError, "LayerNorm: eps must be a number of at least 0, not 'a'"),
        (lambda: nn.RMSNorm(1, eps=-1), ValueError, "RMSNorm: eps must be a number of at least 0, not -1"),
        (lambda: nn.ReLU().train("no"), TypeError, "train: mode must be True or False, not 'no'"),
        (lambda: nn.ModuleList([nn.ReLU()])[5], IndexError, "ModuleList: index 5 is out of range: it has 1 modules"),
        (lambda: nn.ModuleList().__setitem__(5, nn.ReLU()), IndexError, "ModuleList: index 5 is out of range"),
        (lambda: nn.ReLU().load_state_dict("x"), TypeError, r"tl.io.load\(path\) gives, not str"),
        (lambda: nn.ReLU().load_state_dict(None), TypeError, r"tl.io.load\(path\) gives, not NoneType"),
        (lambda: nn.ReLU().load_state_dict([]), TypeError, r"tl.io.load\(path\) gives, not list"),
    ],
)
def test_what_a_module_cannot_use_is_refused_in_a_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


def test_a_buffer_that_is_registered_again_is_saved_once_or_no_longer():
    model = nn.Module()
    first, second = tl.ones(2), tl.zeros(3)
    model.register_buffer("scale", first)
    model.register_buffer("shift", second)
    model.register_buffer("scale", second)
    assert [name for name, _ in model.named_buffers()] == ["shift"]  # the same Tensor: once
    model.register_buffer("scale", tl.ones(2))
    assert list(model.state_dict()) == ["shift", "scale"]
    model.register_buffer("scale", first, persistent=False)
    assert list(model.state_dict()) == ["shift"]
    assert model.scale is first
