"""look.learn, look.gradients and look.backward of a classifier, against the classifier's own forward pass."""

import re
from dataclasses import replace

import numpy as np
import pytest
from labelled import classifier

import tensorlite as tl
from gpt import look
from gpt.look.deciding import logits_of
from gpt.tasks.classify.batches import Row
from gpt.tasks.classify.inference import probabilities
from tensorlite import functional as F

TEXT = "abc dé f"
POSITIONS = [("last", True), ("last-real", True), ("mean", False), ("first", False)]


def made(tmp_path, position="last-real", causal=True, frozen=True):
    """A classifier of three labels, of which fine-tuning has frozen all but the head."""
    model = classifier(tmp_path, position, matters=position == "last" or not causal, causal=causal)
    for p in model.model.parameters():
        p.requires_grad = not frozen
    return model


def batch(model, label: int):
    return model.classifier.padding.batch([Row(model.tokenizer.encode_ordinary(TEXT), label)])


def own_gradients(model, label: int) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a label and the gradient of each parameter, as Classification.loss computes them."""
    net = model.classifier.model
    flags = [p.requires_grad for p in net.parameters()]
    for p in net.parameters():
        p.requires_grad = True
    idx, lengths, labels = batch(model, label)
    loss = F.cross_entropy(net(idx, lengths), labels)
    found = tl.grad(loss, list(net.parameters()))
    for p, flag in zip(net.parameters(), flags, strict=True):
        p.requires_grad = flag
    names = [name for name, _ in net.named_parameters()]
    return loss.item(), {name: g.numpy() for name, g in zip(names, found, strict=True)}


def shares(model) -> list[float]:
    (p,) = probabilities(model.classifier.model, model.classifier.padding, [Row(batch(model, 0)[0][0].tolist(), 0)])
    return p


@pytest.mark.parametrize(("position", "causal"), POSITIONS)
def test_a_step_changes_all_weights_by_the_gradient_of_the_label(tmp_path, position, causal):
    model = made(tmp_path, position, causal)
    before = {name: p.numpy().copy() for name, p in model.classifier.model.named_parameters()}
    loss, gradients = own_gradients(model, 2)
    session = look.LearningSession(model)
    step = list(session.step(TEXT, optimizer="sgd", lr=0.05, label="label <2>"))[-1]
    assert (step.label, step.labels) == ("label <2>", [f"label <{i}>" for i in range(3)])
    assert step.loss_before == step.losses_before[0] == pytest.approx(loss, rel=1e-12)
    for name, p in session.loaded.classifier.model.named_parameters():
        np.testing.assert_allclose(p.numpy(), before[name] - 0.05 * gradients[name], rtol=1e-10, atol=1e-13)
        np.testing.assert_array_equal(dict(model.classifier.model.named_parameters())[name].numpy(), before[name])
    groups = {group.name: group.norm for group in step.gradients.groups}
    head = np.hypot(np.linalg.norm(gradients["head.weight"]), np.linalg.norm(gradients["head.bias"]))
    assert groups["head"] == pytest.approx(head, rel=1e-9)
    assert groups["token embedding"] == pytest.approx(np.linalg.norm(gradients["body.token_embedding.weight"]))
    total = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert step.gradient_norm == pytest.approx(total, rel=1e-9)
    after, _ = own_gradients(session.loaded, 2)
    assert step.loss_after == pytest.approx(after, rel=1e-12)
    assert after < loss
    assert [step.labels_after[2], step.after[0]] == pytest.approx([np.exp(-after)] * 2, rel=1e-9)
    assert sum(step.labels_before) == pytest.approx(1)
    session.undo()
    again = {name: p.numpy() for name, p in session.loaded.classifier.model.named_parameters()}
    assert all(again[name].tobytes() == x.tobytes() for name, x in before.items())


@pytest.mark.parametrize(("position", "causal"), POSITIONS)
def test_gradients_of_the_stream_have_a_column_for_each_position(tmp_path, position, causal):
    model = made(tmp_path, position, causal)
    found = look.gradients(model, TEXT, label="label <1>")
    idx, lengths, labels = batch(model, 1)
    embedded = model.model.token_embedding(idx).detach()
    embedded.requires_grad = True
    loss = F.cross_entropy(logits_of(model.classifier.model, embedded, lengths), labels)
    expected = np.linalg.norm(tl.grad(loss, embedded).numpy()[0], axis=-1)
    np.testing.assert_allclose(found.stream[0], expected, rtol=1e-9, atol=1e-15)
    assert len(found.tokens) == idx.shape[1] == len(found.stream[-1])
    assert (found.length, found.label) == (len(TEXT), "label <1>")
    assert [p.requires_grad for p in model.classifier.model.body.parameters()] == [False] * len(
        list(model.model.parameters())
    )


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("position", "causal"), POSITIONS)
def test_the_backward_pass_through_a_block_is_that_of_the_label(tmp_path, position, causal, fused):
    model = made(tmp_path, position, causal)
    loss, gradients = own_gradients(model, 0)
    for block in range(2):
        passed = look.backward(model, TEXT, block, fused, "label <0>")
        assert passed.loss == pytest.approx(loss, rel=1e-12)
        assert passed.title.endswith(f"{batch(model, 0)[0].shape[1]} positions, to predict label <0>")
        norms = {step.node.name: step.gradient.norm for step in passed}
        for name, _ in model.model.blocks[block].named_parameters():
            expected = np.linalg.norm(gradients[f"body.blocks.{block}.{name}"])
            assert norms[name] == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_the_label_is_the_most_probable_one_unless_it_is_given(tmp_path):
    model = made(tmp_path)
    best = f"label <{int(np.argmax(shares(model)))}>"
    assert look.learn(model, TEXT).label == look.gradients(model, TEXT).label == best
    assert look.backward(model, TEXT).label == best
    for call in (look.learn, look.gradients, look.backward):
        with pytest.raises(ValueError, match="label must be one of label <0>, label <1>, label <2>, got 'spam'"):
            call(model, TEXT, label="spam")


def test_all_views_show_the_classifier_that_has_learned(tmp_path):
    session = look.LearningSession(made(tmp_path))
    (weakest,) = np.argsort(shares(session.loaded))[:1]
    for _ in range(20):
        step = list(session.step(TEXT, lr=0.01, label=f"label <{weakest}>"))[-1]
    found = look.deciding_words(session.loaded, TEXT, left_out=0)
    assert found.label == f"label <{weakest}>"
    np.testing.assert_allclose(found.probabilities, step.labels_after, rtol=1e-9)
    assert session.losses[-1]["text"] == 0
    list(session.step(TEXT, lr=0.01, label=f"label <{(weakest + 1) % 3}>"))
    assert session.losses[-1]["text"] == 1  # another label is another curve


def test_fresh_weights_and_other_numbers_of_blocks(tmp_path):
    model = made(tmp_path)
    model = replace(model, model=model.model.to(tl.float32))  # fresh weights are float32
    found = look.gradients(model, TEXT, fresh=True, layers=5, label="label <1>")
    assert len(found.layers) == 6
    assert found.groups[-1].parameters == 3 * 8 + 3
    assert found == look.gradients(model, TEXT, fresh=True, layers=5, label="label <1>")


def test_a_notebook_shows_the_labels_escaped(tmp_path):
    html = look.learn(made(tmp_path), TEXT, label="label <1>")._repr_html_()
    assert "label &lt;1&gt; (to predict)" in html
    assert "<1>" not in html
    assert "color: probability of each label" in html
    assert len(re.findall(r"<title>label &lt;[012]&gt;[^<]* probability \d+\.\d%</title>", html)) == 2 * 3
