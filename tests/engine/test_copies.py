"""copy.copy, copy.deepcopy and pickle: a copy does what the original does, to the bit; neither changes the other."""

import copy
import pickle
import warnings
from functools import partial
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorlite as tl
from gpt import lora
from gpt.config import GPTConfig
from gpt.generation import next_logits
from gpt.model import GPT
from gpt.tasks.classify import Classifier
from tensorlite import backend, nn, optim
from tensorlite.data import DataLoader, TokenFile, write_tokens
from tensorlite.devices import memory
from tensorlite.primitive import elementwise
from tensorlite.testing.strict import strict


def pickled(x, protocol: int = pickle.HIGHEST_PROTOCOL):
    return pickle.loads(pickle.dumps(x, protocol))


WAYS = {"deepcopy": copy.deepcopy, "pickle": pickled, "pickle protocol 0": partial(pickled, protocol=0)}
each_way = pytest.mark.parametrize("duplicate", WAYS.values(), ids=WAYS)


# ----- functions --------------------------------------------------------------------------------------------------

FUNCTIONS = [tl.tanh, tl.add, tl.sum, tl.mean, tl.getitem, tl.tensor, tl.grad, tl.functional.gelu, tl.functional.relu]


@each_way
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_public_function_is_copied_and_pickled_by_its_name(duplicate, function):
    assert duplicate(function) is function
    assert copy.copy(function) is function


def test_an_op_without_a_name_is_copied_but_not_pickled():
    cube = elementwise(lambda x: x**3).vjp(lambda g, x: 3 * g * x * x)
    assert copy.deepcopy(cube) is cube
    with pytest.raises(pickle.PicklingError, match="Can't pickle <elementwise op an unnamed op"):
        pickle.dumps(cube)


# ----- a model and its optimizer ----------------------------------------------------------------------------------

CONFIG = {"vocab_size": 7, "context_length": 4, "n_layer": 1, "n_head": 2, "n_embd": 4}
IDS = tl.tensor(np.random.default_rng(0).integers(0, 7, (3, 4)))
X = tl.tensor(np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32))


class Mixed(nn.Module):
    """What layers share, what is frozen, a Parameter of its own, a constant, a generator of its own."""

    def __init__(self):
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(3, 2)
        for p in self.frozen.parameters():
            p.requires_grad = False
        self.scale, self.offset = nn.Parameter(2.0), tl.tensor([1.0, 2.0])
        self.dropout = nn.Dropout(0.3, generator=tl.Generator(4))

    def forward(self, x):
        return self.frozen(self.dropout(self.second(self.first(x)))) * self.scale + self.offset


def gpt(**changes) -> GPT:
    return GPT(GPTConfig(**{**CONFIG, **changes}).with_dropout(0.2))


def adapted() -> GPT:
    model = gpt(tie_head=False)
    lora.apply(model, rank=2, alpha=4)
    return model


MODELS = {
    "layers": (Mixed, lambda model: model(X).square().mean()),
    "tied gpt": (gpt, lambda model: model.loss(IDS, IDS)),
    "gpt with biases": (partial(gpt, qkv_bias=True, tie_head=False), lambda model: model.loss(IDS, IDS)),
    "lora": (adapted, lambda model: model(IDS, IDS)[1]),
    "classifier": (
        lambda: Classifier(GPTConfig(**CONFIG), 2, "last"),
        lambda model: tl.functional.cross_entropy(model(IDS, [4, 4, 4]), tl.tensor([0, 1, 1])),
    ),
}
OPTIMIZERS = {
    "sgd": lambda params: optim.SGD(params, lr=0.1),
    "momentum": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda params: optim.Adam(params, lr=0.1),
    "adamw": lambda params: optim.AdamW(optim.decay_groups(params, 0.1), lr=0.1),
}


def bits(tensors) -> list[bytes | None]:
    return [None if t is None else t.numpy().tobytes() for t in tensors]


def everything(model, optimizer) -> tuple:
    """All that training goes by."""
    state, params = optimizer.state_dict(), list(model.parameters())
    return bits(params), bits(p.grad for p in params), bits(state["tensors"].values()), state["steps"]


def train(model, optimizer, loss, steps: int, mark) -> list[bytes]:
    """The losses of so many steps, with the numbers for dropout drawn from `mark` on."""
    tl.default_generator.back_to(mark)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(loss(model))
        losses[-1].backward()
        optimizer.step(grad_scale=0.5)
    return bits(losses)


@pytest.mark.slow
@pytest.mark.finding("B2")
@given(
    model=st.sampled_from(sorted(MODELS)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    way=st.sampled_from(sorted(WAYS)),
    before=st.integers(0, 2),
    after=st.integers(1, 3),
    model_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_copy_of_model_and_optimizer_trains_as_the_original_to_the_bit(
    model, optimizer, way, before, after, model_first, seed
):
    tl.manual_seed(seed)
    make, loss = MODELS[model]
    original = make()
    chosen = OPTIMIZERS[optimizer]([p for p in original.parameters() if p.requires_grad])
    train(original, chosen, loss, before, tl.default_generator.mark())
    mark = tl.default_generator.mark()
    if model_first:
        twin, its = WAYS[way]((original, chosen))
    else:
        its, twin = WAYS[way]((chosen, original))

    begun = everything(original, chosen)
    assert everything(twin, its) == begun
    losses = train(twin, its, loss, after, mark)
    assert everything(original, chosen) == begun  # the copy has trained, the original has not
    ended = everything(twin, its)
    assert ended[0] != begun[0]
    assert train(original, chosen, loss, after, mark) == losses
    assert everything(original, chosen) == ended == everything(twin, its)
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in original.parameters()]
    chosen.lr, its.lr = 0.5, 0.0  # each has a learning rate of its own, and goes by it
    train(twin, its, loss, 1, mark)
    assert bits(twin.parameters()) == ended[0]
    train(original, chosen, loss, 1, mark)
    assert bits(original.parameters()) != ended[0]


@pytest.mark.finding("B2")
@pytest.mark.parametrize("library", ["cpu", "strict"])
def test_a_step_between_backward_and_step_is_copied_with_its_gradients(monkeypatch, library):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    layer = nn.Linear(2, 1).to(library)
    optimizer = optim.AdamW(layer.parameters(), lr=0.1)
    for p in layer.parameters():
        p.grad = tl.ones_like(p)
    twin, its = copy.deepcopy((layer, optimizer))
    assert [p.grad is not q.grad for p, q in zip(layer.parameters(), twin.parameters(), strict=True)] == [True, True]
    assert {p.device for p in twin.parameters()} == {library}
    its.step()
    optimizer.step()
    assert bits(twin.parameters()) == bits(layer.parameters())
    assert twin.weight.version == 1


@pytest.mark.finding("B2")
@each_way
def test_an_optimizer_copied_without_its_model_has_parameters_of_its_own_and_says_so(duplicate):
    layer = nn.Linear(2, 1)
    optimizer = optim.SGD(layer.parameters(), lr=1.0)
    its, before = duplicate(optimizer), layer.weight.tolist()
    twin = duplicate(layer)
    twin(tl.ones((1, 2))).sum().backward()
    with pytest.warns(UserWarning, match=r"SGD: this optimizer is a copy and none .*copy\.deepcopy\(\(model, opt"):
        its.step()
    for p in its.params:
        p.grad = tl.ones_like(p)
    with warnings.catch_warnings(action="error"):
        its.step()
    assert layer.weight.tolist() == twin.weight.tolist() == before
    np.testing.assert_array_equal(its.params[0].numpy(), np.subtract(before, 1, dtype=np.float32))
    assert (its.state_dict()["steps"], optimizer.state_dict()["steps"]) == ([1, 1], [0, 0])


def test_a_copy_whose_parameters_are_moved_before_its_first_step_is_refused_as_the_original_is():
    for pair in [(nn.Linear(2, 1),), (nn.Linear(2, 1),)]:
        model, optimizer = copy.deepcopy((pair[0], optim.SGD(pair[0].parameters(), lr=1.0)))
        model.to(tl.float64)
        for p in model.parameters():
            p.grad = tl.ones_like(p)
        with pytest.raises(RuntimeError, match="make the optimizer last"):
            optimizer.step()


def test_a_shallow_copy_of_an_optimizer_is_the_same_optimizer_by_another_name():
    layer = nn.Linear(2, 1)
    optimizer = optim.Adam(layer.parameters(), lr=1.0)
    other = copy.copy(optimizer)
    layer(tl.ones((1, 2))).sum().backward()
    other.step()
    optimizer.step()
    assert optimizer.state_dict()["steps"] == other.state_dict()["steps"] == [2, 2]
    other.lr = 0.25
    assert optimizer.lr == 0.25


# ----- modules ----------------------------------------------------------------------------------------------------


@each_way
def test_a_copied_module_shares_nothing_with_the_original_and_everything_within_itself(duplicate):
    model = Mixed().eval()
    model.first.weight.grad = tl.ones((3, 3))
    twin = duplicate(model)
    assert twin.second.weight is twin.first.weight
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert not any(module.training for module in twin.modules())
    assert twin.first.weight.grad.tolist() == model.first.weight.grad.tolist()
    np.testing.assert_array_equal(twin(X).numpy(), model(X).numpy())
    for p in twin.parameters():
        p.data[...] = 0
    twin.first.weight.grad.data[...] = 5
    twin.offset.data[...] = 0
    assert model.first.weight.grad.tolist() == [[1.0] * 3] * 3
    assert model.offset.tolist() == [1.0, 2.0]
    assert all(p.numpy().any() for p in model.parameters())
    with pytest.raises(AttributeError, match="did you mean first"):
        twin.frist = nn.Linear(1, 1)  # as closed to new names as the original


def test_a_shallow_copy_of_a_module_shares_the_parts_and_has_attributes_of_its_own():
    model = gpt()
    arrays = [p.data for p in model.parameters()]
    copy.copy(model.blocks[0].attention)  # which arranges its Parameters in memory when it is deep-copied
    twin = copy.copy(model)
    assert all(p is q for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert all(p.data is data for p, data in zip(model.parameters(), arrays, strict=True))
    twin.final_norm, twin.training = nn.LayerNorm(4), False
    assert model.final_norm is not twin.final_norm
    assert model.training


@each_way
def test_a_copied_gpt_has_its_projections_in_one_piece_again(duplicate):
    for model in (gpt(), gpt(qkv_bias=True)):
        optim.AdamW(model.parameters())  # which lays them out in its own way
        twin = duplicate(model)
        parts = [getattr(twin.blocks[0].attention, name) for name in ("W_query", "W_key", "W_value")]
        assert memory.adjacent_view([part.weight.data for part in parts]) is not None
        assert parts[0].bias is None or memory.adjacent_view([part.bias.data for part in parts]) is not None
        np.testing.assert_array_equal(twin.eval().loss(IDS, IDS).numpy(), model.eval().loss(IDS, IDS).numpy())


@each_way
def test_a_copied_cache_goes_on_where_the_original_stands(duplicate):
    model, texts = gpt().eval(), [[1, 2], [3, 4]]
    cache = model.new_cache(2)
    with tl.no_grad():
        next_logits(model, texts, cache)
        twin = duplicate(cache)
        expected = next_logits(model, [[1, 2, 5], [3, 4, 6]], twin).numpy()
        next_logits(model, [[1, 2, 0], [3, 4, 0]], twin)
        np.testing.assert_array_equal(next_logits(model, [[1, 2, 5], [3, 4, 6]], cache).numpy(), expected)


# ----- Tensors ----------------------------------------------------------------------------------------------------

DTYPES = [tl.float32, tl.float64, tl.float16, tl.bfloat16, tl.int64, tl.uint8, tl.bool_]


@each_way
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)])
def test_a_copied_leaf_has_the_values_and_the_gradient_and_not_the_memory(duplicate, shape):
    for dtype in DTYPES:
        x = tl.tensor(np.arange(np.prod(shape)).reshape(shape)).astype(dtype)
        x.requires_grad = backend.is_floating(x.dtype)
        x.grad = tl.ones_like(x) if x.requires_grad else None
        x.changed()
        y = duplicate(x)
        assert (y.dtype, y.shape, y.requires_grad, y.version) == (x.dtype, shape, x.requires_grad, 0)
        assert bits([y, y.grad]) == bits([x, x.grad])
        assert not np.shares_memory(x.data, y.data)
        if x.requires_grad:
            (y * 2).sum().backward()
            assert np.all(y.grad.numpy() == 3)
            assert np.all(x.grad.numpy() == 1)


@each_way
def test_a_copy_keeps_the_order_in_memory_and_of_a_view_only_what_it_shows(duplicate):
    assert duplicate(tl.tensor(np.zeros((2, 3), order="F"))).data.flags.f_contiguous
    big = tl.zeros(100_000)
    assert len(pickle.dumps(big[:3])) < 1000
    assert duplicate(big[:3]).data.base is not big.data


class Named(nn.Parameter):
    """A Parameter with an attribute more."""


@each_way
def test_parameters_and_their_subclasses_stay_what_they_are(duplicate):
    p = Named([1.0], requires_grad=False)
    p.name = "gain"
    q = duplicate(p)
    assert (type(q), q.name, q.requires_grad, q.tolist()) == (Named, "gain", False, [1.0])
    assert copy.copy(p).name == "gain"


@pytest.mark.finding("C6")
@each_way
@pytest.mark.parametrize("hide", [lambda y: y, lambda y: {"loss": [y]}], ids=["bare", "inside"])
def test_a_computed_tensor_is_refused_with_the_way_out(duplicate, hide):
    x = tl.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    with pytest.raises(TypeError, match=r"computed by mul cannot be deep-copied or pickled.*use \.detach\(\) first"):
        duplicate(hide(y))
    found = duplicate(hide(y.detach()))
    assert (found["loss"][0] if isinstance(found, dict) else found).tolist() == [2.0, 4.0]
    with tl.no_grad():
        assert duplicate(x * 2).tolist() == [2.0, 4.0]  # belongs to no graph


def test_a_shallow_copy_of_a_tensor_shares_memory_and_graph_and_not_the_gradient():
    x = tl.tensor([1.0, 2.0], requires_grad=True)
    x.grad = tl.zeros(2)
    other = copy.copy(x)
    assert other.data is x.data
    (other * 3).sum().backward()
    assert (other.grad.tolist(), x.grad.tolist()) == ([3.0, 3.0], [0.0, 0.0])
    y = x * 2
    copy.copy(y).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]
    z = x * x
    other.data[...] = 7
    other.changed()
    with pytest.raises(RuntimeError, match="changed after it was used"):
        z.sum().backward()


# ----- streams, loaders, token files ------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [*WAYS.values(), copy.copy], ids=[*WAYS, "copy"])
def test_a_copied_generator_goes_on_from_the_same_place_alone(duplicate):
    for n in (0, 1, 700):
        generator = tl.Generator(2**40 + 3)
        generator.rand(n)
        generator.randn(1)  # the other half of its pair waits
        generator.gpu_state(strict)[1] += 5  # and there is a stream on a GPU
        twin = duplicate(generator)
        assert twin.state_dict() == generator.state_dict()
        assert twin.randn(4).tolist() == generator.randn(4).tolist()
        assert twin.raw(4).tolist() == generator.raw(4).tolist()
        assert twin.gpu_state(strict).get().tolist() == generator.gpu_state(strict).get().tolist()
        twin.gpu_state(strict)[1] += 1
        assert twin.gpu_state(strict).get().tolist() != generator.gpu_state(strict).get().tolist()
        expected = twin.state_dict()
        generator.rand(1)
        assert twin.state_dict() == expected


@pytest.mark.finding("C6")
@given(
    n=st.integers(1, 9), size=st.integers(1, 4), shuffle=st.booleans(), done=st.integers(0, 9),
    way=st.sampled_from(sorted(WAYS)),
)  # fmt: skip
def test_a_loader_and_its_epoch_are_copied_where_they_stand(n, size, shuffle, done, way):
    loader = DataLoader(list(range(n)), size, shuffle, generator=tl.Generator(1))
    epoch = iter(loader)
    list(islice(epoch, done))
    twin, its = WAYS[way]((loader, epoch))
    rest = [batch.tolist() for batch in its]
    assert twin.state_dict()["epoch"] is None
    assert [batch.tolist() for batch in epoch] == rest
    assert len(rest) == max(0, len(loader) - done)
    assert [b.tolist() for b in twin] == [b.tolist() for b in loader]
    assert twin.generator.state_dict() == loader.generator.state_dict()
    assert list(its) == []


@each_way
def test_a_copied_token_file_maps_the_same_file_and_reads_nothing_of_it(duplicate, tmp_path, monkeypatch):
    write_tokens(tmp_path / "x.tokens", range(60_000), 60_000)
    monkeypatch.chdir(tmp_path)
    file = TokenFile("x.tokens")
    windows = file.windows(4, 2)
    assert len(pickle.dumps(windows)) < 2000
    monkeypatch.chdir(tmp_path.parent)
    twin = duplicate(windows)
    assert isinstance(twin.tokens.tokens, np.memmap)
    assert twin[3][0].tolist() == windows[3][0].tolist() == [6, 7, 8, 9]
    assert len(twin) == len(windows)
