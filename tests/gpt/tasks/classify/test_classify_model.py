"""The classifier: where the label is read, who sees padding, what is trained and what is frozen."""

from dataclasses import replace

import numpy as np
import pytest
from labelled import learn, tune, write_tsv

import tensorlite as tl
from gpt.config import PRESETS, GPTConfig
from gpt.tasks.classify import Classification, Classifier, ClassifyConfig
from gpt.tasks.classify.batches import padding_of
from gpt.tasks.classify.model import build, freeze
from gpt.training import session, step

SHAPE = GPTConfig(vocab_size=20, context_length=6, n_layer=2, n_head=2, n_embd=8)
IDX = [[3, 4, 5, 0, 0, 0], [7, 8, 9, 10, 11, 0]]
LENGTHS = [3, 5]


@pytest.mark.slow
def test_what_learns_of_gpt2_in_the_book():
    # The embeddings never learn here, and 85 million random numbers are enough.
    model = build(ClassifyConfig(), replace(PRESETS["gpt2"], vocab_size=2, context_length=2, init="torch"), 2)
    for layers, learning in (("last-block", 7_090_946), ("head", 1538), ("lora", 2_666_528)):
        freeze(model, ClassifyConfig(layers=layers))
        assert sum(p.size for p in model.parameters() if p.requires_grad) == learning, layers


@pytest.mark.parametrize(
    ("base", "given", "drops"), [(0.5, 0.0, False), (0.0, 0.5, True), (0.5, None, True), (0.0, None, False)]
)
def test_dropout_is_that_of_the_settings_or_else_of_the_base(base, given, drops):
    tl.manual_seed(0)
    model = build(ClassifyConfig(dropout=given), SHAPE.with_dropout(base), 2)
    first, second = (model(tl.tensor(IDX), LENGTHS).numpy() for _ in range(2))
    assert (first != second).any() == drops
    first, second = (model.eval()(tl.tensor(IDX), LENGTHS).numpy() for _ in range(2))
    assert (first == second).all()


def test_where_the_label_is_read():
    tl.manual_seed(0)
    features = tl.randn(2, 6, 8)
    f = features.numpy()
    expected = {
        "first": f[:, 0], "last": f[:, 5], "last-real": np.stack([f[0, 2], f[1, 4]]),
        "mean": np.stack([f[0, :3].mean(0), f[1, :5].mean(0)]),
    }  # fmt: skip
    for position, wanted in expected.items():
        model = Classifier(SHAPE, 3, position)
        assert np.allclose(model.read(features, LENGTHS).numpy(), wanted, atol=1e-6), position
        assert model(tl.tensor(IDX), LENGTHS).shape == (2, 3)


@pytest.mark.parametrize(
    ("position", "causal", "sees_padding"),
    [("last", True, True), ("last-real", True, False), ("first", True, False), ("mean", True, False),
     ("last-real", False, True), ("mean", False, True)],
)  # fmt: skip
def test_who_sees_padding(position, causal, sees_padding):
    """What Padding.matters says is what happens: then the batch is padded to one length, else to its longest."""
    tl.manual_seed(1)
    model = Classifier(GPTConfig(**{**SHAPE.to_dict(), "causal": causal}), 2, position).eval()
    padded = model(tl.tensor([[3, 4, 5, 0, 0, 0]]), [3]).tolist()
    alone = model(tl.tensor([[3, 4, 5]]), [3]).tolist()
    assert np.allclose(padded, alone, atol=1e-5) != sees_padding
    settings = {"position": position, "causal": causal}
    assert padding_of({"training": settings, "padding": 0, "length": 6}).matters == sees_padding


def test_without_a_causal_mask_the_first_position_sees_the_last():
    for causal in (True, False):
        tl.manual_seed(1)
        model = Classifier(GPTConfig(**{**SHAPE.to_dict(), "causal": causal}), 2, "first").eval()
        one, other = (model(tl.tensor([[3, 4, last]]), [3]).tolist() for last in (5, 6))
        assert (one == other) == causal


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["head", "last-block", "last-2", "all", "lora"])
def test_frozen_weights_do_not_change_and_get_no_gradient(tmp_path, base, layers):
    write_tsv(tmp_path / "data.tsv")
    before = tl.io.load(base / "model.safetensors")
    learn(tune(tmp_path, base, layers=layers, epochs=1))
    s = session.resume(Classification, session.settings(tmp_path / "run", ClassifyConfig), tmp_path / "run", print)
    batch = s.task.draw()
    step.accumulate(s.task, s.model, [batch], [s.task.targets(batch)])
    frozen, learning = set(), set()
    for name, p in s.model.named_parameters():
        (learning if p.requires_grad else frozen).add(name)
        assert (p.grad is not None) == p.requires_grad, name
    expected = {
        "head": ("head.",), "last-block": ("head.", "body.blocks.2.", "body.final_norm."),
        "last-2": ("head.", "body.blocks.2.", "body.blocks.1.", "body.final_norm."), "all": ("head.", "body."),
    }  # fmt: skip
    if layers == "lora":
        assert learning == {name for name in frozen | learning if "lora_" in name}
    else:
        assert learning == {name for name in frozen | learning if name.startswith(expected[layers])}
    after = dict(s.model.named_parameters())
    plain = {name.replace(".linear.", ".").removeprefix("body."): name for name in frozen if name.startswith("body.")}
    assert len(plain) == len([name for name in frozen if name.startswith("body.")])
    assert all(after[name].tolist() == before[short].tolist() for short, name in plain.items())
    assert sum(t.size for t in s.optimizer.state_dict()["tensors"].values()) == 2 * sum(
        after[name].size for name in learning
    )


def recorded(model: Classifier) -> tuple[int, int]:
    """How many ops a loss remembers, and how many bytes of arrays they keep that are no weights."""
    idx, labels = tl.randint(0, 20, (4, 6)), tl.tensor([0, 1, 0, 1])
    loss = Classification.loss(model, (idx, [6] * 4, labels))
    own, kept, seen, stack = {id(p.data) for p in model.parameters()}, {}, set(), [loss.node]
    while stack:
        node = stack.pop()
        if id(node) in seen or not hasattr(node, "saved"):  # a leaf is no op
            continue
        seen.add(id(node))
        stack += [parent for parent in node.parents if parent is not None]
        kept |= {id(x): x.nbytes for x in node.saved if isinstance(x, np.ndarray) and id(x) not in own}
    return len(seen), sum(kept.values())


@pytest.mark.parametrize("layers", ["head", "last-block", "last-2", "all"])
def test_nothing_is_kept_for_what_lies_below_all_that_learns(layers):
    """Four blocks more below do not add an op or a byte, unless they learn."""
    sizes = []
    for blocks in (3, 7):
        tl.manual_seed(0)
        model = Classifier(replace(SHAPE, n_layer=blocks), 2, "last")
        freeze(model, ClassifyConfig(layers=layers))
        sizes.append(recorded(model))
    assert (sizes[0] == sizes[1]) == (layers != "all")
    if layers == "head":
        assert sizes[0][1] < 4 * 6 * 8 * 4  # less than the features of all positions: those of one, and indices
