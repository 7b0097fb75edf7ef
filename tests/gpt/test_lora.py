"""LoRA: the book's count, the formula, what is frozen and costs nothing, merging to the bit, files."""

import json
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from runs import train

import tensorlite as tl
from gpt import lora
from gpt.config import PRESETS, GPTConfig
from gpt.generation import generate
from gpt.model import GPT
from gpt.tasks.classify import Classification, ClassifyConfig
from gpt.tasks.instruct import InstructConfig
from gpt.tasks.pretrain import TrainConfig
from gpt.training import session
from tensorlite import io, nn, optim

TINY = GPTConfig(vocab_size=13, context_length=8, n_layer=2, n_head=2, n_embd=8, tie_head=False, init="torch")
IDS = tl.tensor(np.random.default_rng(0).integers(0, 13, (3, 8)))


def gpt(seed=0, **changes) -> GPT:
    tl.manual_seed(seed)
    return GPT(replace(TINY, **changes))


def bits(model) -> dict[str, bytes]:
    return {name: p.numpy().tobytes() for name, p in model.named_parameters()}


def trained(model, steps=3) -> GPT:
    """A few steps on the adapters, so that B is no longer zero."""
    optimizer = optim.AdamW(lora.trainable(model), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model(IDS, IDS)[1].backward()
        optimizer.step()
    return model


# ----- what it is -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_books_spam_classifier_has_2666528_to_train():
    model = GPT(replace(PRESETS["book-124m"], vocab_size=5, context_length=4, qkv_bias=True))
    model.head = nn.Linear(768, 2)
    assert len(lora.apply(model, rank=16, alpha=16)) == 12 * 6 + 1
    assert sum(p.size for p in lora.trainable(model)) == 2_666_528


@pytest.mark.parametrize(("rank", "alpha"), [(2, 4), (3, 3), (4, 1)])
def test_the_formula(rank, alpha):
    linear = nn.Linear(5, 7)
    layer = lora.LoRALinear(linear, rank, alpha)
    random = np.random.default_rng(1)
    layer.lora_B.data[...] = random.normal(size=(rank, 7))
    x = random.normal(size=(2, 3, 5)).astype(np.float32)
    W, b, A, B = (t.numpy().astype(float) for t in (linear.weight, linear.bias, layer.lora_A, layer.lora_B))
    np.testing.assert_allclose(
        layer(tl.tensor(x)).numpy(), x @ W.T + b + alpha / rank * (x @ A @ B), rtol=1e-5, atol=1e-6
    )


def test_a_starts_in_the_books_range_and_b_at_zero():
    layer = lora.LoRALinear(nn.Linear(500, 3), rank=16, alpha=16)
    A = layer.lora_A.numpy()
    assert 0.249 < np.abs(A).max() <= 0.25
    assert A.std() == pytest.approx(0.25 / np.sqrt(3), rel=0.03)
    assert not layer.lora_B.numpy().any()


def test_at_first_nothing_has_changed():
    model = gpt()
    before = model(IDS)[0].numpy()
    lora.apply(model, rank=2, alpha=8)
    # three products, where there was one, round otherwise
    np.testing.assert_allclose(model(IDS)[0].numpy(), before, rtol=1e-4, atol=1e-6)


# ----- targets ----------------------------------------------------------------------------------------------------

ALL = [f"blocks.{i}.{part}" for i in (0, 1) for part in (
    "attention.W_query", "attention.W_key", "attention.W_value", "attention.out_proj",
    "feed_forward.expand", "feed_forward.contract",
)] + ["head"]  # fmt: skip


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("*", ALL),
        ("attention", [name for name in ALL if "attention" in name]),
        ("feed_forward", [name for name in ALL if "feed" in name]),
        (["head", "W_query"], ["blocks.0.attention.W_query", "blocks.1.attention.W_query", "head"]),
        ("blocks.1.*", [name for name in ALL if name.startswith("blocks.1.")]),
        ("W_*", [name for name in ALL if "W_" in name]),
    ],
)
def test_targets_by_name(targets, expected):
    model = gpt()
    assert lora.apply(model, 2, 2, targets) == expected == list(lora.adapters(model))
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learning == [f"{name}.{part}" for name in expected for part in ("lora_A", "lora_B")]


def test_a_tied_head_is_no_linear():
    assert lora.apply(gpt(tie_head=True)) == ALL[:-1]
    with pytest.raises(ValueError, match=r"called 'head': .* \(the head is tied to the token embedding"):
        lora.apply(gpt(tie_head=True), targets="head")


REFUSALS = [
    (lambda m: lora.apply(m, rank=0), "rank must be an integer of at least 1, got 0"),
    (lambda m: lora.apply(m, alpha=-1), "alpha must be a finite number of at least 0, got -1"),
    (lambda m: lora.apply(m, targets=["head", "atention"]), "called 'atention': '\\*' means all, or choose of blocks"),
    (lambda m: lora.apply(m, targets=[]), "no target is given"),
    (lora.merge, "has no LoRA adapters: there is nothing to merge"),
    (lambda m: lora.save(m, "nowhere"), "has no LoRA adapters: there is nothing to save"),
    (lambda m: lora.unmerge(m, {"blocks.0": m.blocks[0]}), "blocks.0 is not a merged Linear"),
]


@pytest.mark.parametrize(("call", "says"), REFUSALS)
def test_a_refusal_changes_nothing(call, says):
    model = gpt()
    with pytest.raises(ValueError, match=says):
        call(model)
    assert all(p.requires_grad for p in model.parameters())
    assert not lora.adapters(model)


def test_adapting_twice_is_refused():
    model = gpt()
    lora.apply(model, targets="head")
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        lora.apply(model)


# ----- training ---------------------------------------------------------------------------------------------------


def test_only_adapters_learn_and_only_they_have_gradients():
    model = gpt()
    lora.apply(model, 2, 2)
    before = bits(model)
    trained(model)
    after = bits(model)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in after if name.endswith(("lora_A", "lora_B"))}
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_gradients_are_those_of_the_merged_weight():
    """d loss / dA = (alpha / rank) G^T B^T, with G the gradient of W: from the formula of the merged weight."""
    plain, model = gpt(), gpt()
    lora.apply(model, rank=2, alpha=6, targets="head")
    layer = model.head
    layer.lora_B.data[...] = np.random.default_rng(2).normal(size=layer.lora_B.shape)
    plain.head = layer.merged()
    plain.head.weight.requires_grad = True
    plain(IDS, IDS)[1].backward()
    model(IDS, IDS)[1].backward()
    G = plain.head.weight.grad.numpy()  # (out, in)
    np.testing.assert_allclose(layer.lora_A.grad.numpy(), 3 * G.T @ layer.lora_B.numpy().T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.lora_B.grad.numpy(), 3 * layer.lora_A.numpy().T @ G.T, rtol=1e-4, atol=1e-6)


def test_frozen_weights_get_no_gradient_memory():
    """A step with adapters asks for less than half a copy of the weights; training all, for more than one."""

    def asked_for(model) -> int:
        x = tl.zeros((1, 2), tl.int64)
        tracemalloc.start()
        model(x, x)[1].backward()
        asked = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return asked

    sizes = {"n_embd": 256, "context_length": 2}
    whole, adapted = gpt(**sizes), gpt(**sizes)
    weights = sum(p.data.nbytes for p in whole.parameters())
    lora.apply(adapted, 1, 1)
    assert asked_for(whole) > weights
    assert asked_for(adapted) < weights / 2


def test_no_short_cut_goes_past_the_adapters():
    """Neither the loss without logits nor the cache's one product of three projections."""
    model = gpt()
    lora.apply(model, 2, 2)
    trained(model, steps=20)
    with tl.no_grad():
        assert model.loss(IDS, IDS).item() == pytest.approx(model(IDS, IDS)[1].item(), rel=1e-6)
        assert model.loss(IDS, IDS).item() < gpt().loss(IDS, IDS).item() - 0.5
    cached, read_again = (generate(model, [[1, 2]], 5, use_cache=use) for use in (True, False))
    assert cached == read_again != generate(gpt(), [[1, 2]], 5)


# ----- learning rates ---------------------------------------------------------------------------------------------


@pytest.mark.finding("B11")
@pytest.mark.parametrize(
    ("settings", "n_embd", "lr"),
    [
        (ClassifyConfig(layers="lora"), 768, 8e-4),  # the book's repository, with alpha / rank
        (ClassifyConfig(layers="lora"), 64, 8e-4),
        (InstructConfig(lora=True), 1024, 8e-4),
        (ClassifyConfig(), 768, 5e-5),  # the book
        (InstructConfig(), 1024, 5e-5),
        (ClassifyConfig(layers="all"), 64, 6e-4),
        (InstructConfig(), 128, 3e-4),
        (TrainConfig(), 64, 3e-3),
        (TrainConfig(), 768, 5e-4),
    ],
)
def test_the_default_rate_suits_what_learns(settings, n_embd, lr):
    assert settings.default_lr(n_embd) == lr


WORDS = {"drink": ("milk", "tea", "juice", "water"), "fruit": ("pear", "plum", "fig", "lime")}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A folder with labelled sentences, and a small run that was pretrained on them."""
    folder, chance = tmp_path_factory.mktemp("spoken"), random.Random(5)
    rows = [
        (kind, f"{chance.choice(('I want', 'we took', 'give me'))} a {chance.choice(WORDS[kind])} {i}")
        for i, kind in enumerate(("drink", "fruit") * 120)
    ]
    (folder / "data.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    (folder / "text.txt").write_text("\n".join(text for _, text in rows))
    shape = {"vocab_size": 300, "n_layer": 2, "n_head": 2, "n_embd": 32, "context_length": 24}
    train(
        TrainConfig(
            text=(folder / "text.txt",), out=folder / "base", steps=100, batch_size=4, threads=1, eval_every=100,
            sample_every=0, sample_tokens=5, **shape,
        )
    )  # fmt: skip
    return folder


def accuracy(folder, **settings) -> tuple[float, float]:
    """Of fine-tuning on the sentences: the share of test sentences labelled correctly, and the rate as recorded."""
    config = ClassifyConfig(
        base=folder / "base", data=folder / "data.tsv", out=folder / "run", overwrite=True, batch_size=4, threads=1,
        eval_every=1000, position="last-real", **settings,
    )  # fmt: skip
    train(config, Classification)
    *_, last = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return last["test_accuracy"], json.loads((folder / "run" / "config.json").read_text())["training"]["lr"]


@pytest.mark.finding("B11")
@pytest.mark.slow
def test_lora_by_default_learns_what_training_all_layers_learns(spoken):
    everything, rate = accuracy(spoken, layers="all", epochs=4)
    adapted, rate_adapted = accuracy(spoken, layers="lora", epochs=4)
    assert (rate, rate_adapted) == (1.2e-3, 8e-4)
    assert everything >= 0.98
    assert adapted >= everything - 0.02


@pytest.mark.finding("B11")
@pytest.mark.slow
def test_a_rate_that_is_given_is_taken(spoken):
    assert accuracy(spoken, layers="lora", steps=1, lr=3e-5)[1] == 3e-5
    assert session.settings(spoken / "run", ClassifyConfig).lr == 3e-5
    resumed = ClassifyConfig(resume=spoken / "run", steps=2, layers="lora", position="last-real", batch_size=4)
    said = train(replace(resumed, base=spoken / "base", data=spoken / "data.tsv", eval_every=1000), Classification)
    assert "changed    lr" not in said  # without a rate, a resumed run keeps its own


# ----- merging ----------------------------------------------------------------------------------------------------


def test_merged_is_a_plain_model_that_says_the_same_and_unmerged_the_original_bits():
    model = gpt()
    names = list(model.state_dict())
    lora.apply(model, 4, 8)
    trained(model)
    before, logits = bits(model), model(IDS)[0].numpy()
    taken = lora.merge(model)
    assert list(model.state_dict()) == names
    assert not any(p.requires_grad for p in model.parameters())
    assert np.abs(model(IDS)[0].numpy() - logits).max() < 1e-5
    assert np.abs(gpt()(IDS)[0].numpy() - logits).max() > 0.1  # the adapters do matter
    gpt().load_state_dict(model.state_dict())
    lora.unmerge(model, taken)
    assert bits(model) == before
    np.testing.assert_array_equal(model(IDS)[0].numpy(), logits)
    with pytest.raises(ValueError, match="is not a merged Linear"):
        lora.unmerge(model, taken)


# ----- files ------------------------------------------------------------------------------------------------------


def test_the_adapter_alone_goes_to_a_small_file_and_back(tmp_path):
    model = gpt(n_embd=64)
    names = lora.apply(model, 2, 5, ["attention", "head"])
    trained(model)
    lora.save(model, tmp_path / "adapter.safetensors")
    weights = sum(p.data.nbytes for p in model.parameters())
    assert (tmp_path / "adapter.safetensors").stat().st_size < weights / 8
    again = gpt(n_embd=64)
    assert lora.load(again, tmp_path / "adapter.safetensors") == names
    assert bits(again) == bits(model)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    np.testing.assert_array_equal(again(IDS)[0].numpy(), model(IDS)[0].numpy())


def test_an_adapter_for_something_else_is_refused(tmp_path):
    path = tmp_path / "adapter.safetensors"
    model = gpt()
    lora.apply(model, 2, 2)
    lora.save(trained(model), path)
    for other, says in [
        (gpt(seed=1), "was trained with other base weights than this model's"),
        (gpt(n_embd=16), r"lora_A has shape \(8, 2\), and this model needs \(16, 2\)"),
        (gpt(tie_head=True), "adapts head, and this model has no Linear of that name"),
        (model, "has LoRA adapters already"),
    ]:
        before = bits(other)
        with pytest.raises(ValueError, match=says):
            lora.load(other, path)
        assert bits(other) == before


def test_a_file_that_is_no_adapter_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    model = gpt()
    io.save(path, model.state_dict())
    with pytest.raises(ValueError, match=r"is not a LoRA adapter: its metadata lacks .gpt\.lora."):
        lora.load(model, path)
    about = {"version": 1, "layers": {"head": [2, 2.0]}, "base": ""}
    io.save(path, {"head.lora_A": tl.zeros((8, 2))}, {"gpt.lora": json.dumps(about)})
    with pytest.raises(ValueError, match="is incomplete: its tensors are not those"):
        lora.load(model, path)
    io.save(path, {}, {"gpt.lora": json.dumps({**about, "version": 2})})
    with pytest.raises(ValueError, match="has version 2, and this gpt reads 1"):
        lora.load(model, path)
