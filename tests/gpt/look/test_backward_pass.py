"""gpt.look.backward: its gradients are those of a training step, of PyTorch and of differences; its texts are true."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import tensorlite as tl
from gpt import look
from gpt.config import GPTConfig
from gpt.model import GPT
from gpt.tokenizer import CharTokenizer

TEXT = "abracadabra bar"
TOKENIZER = CharTokenizer.train(TEXT)
SHAPE = {"vocab_size": TOKENIZER.vocab_size, "context_length": 16, "n_layer": 3, "n_head": 2, "n_embd": 8}


def loaded(dtype=tl.float64, task="pretrain", **options) -> look.LoadedModel:
    """A small model with random weights, also of its norms and biases."""
    tl.manual_seed(5)
    model = GPT(GPTConfig(**{**SHAPE, **options})).to(dtype).eval()
    for p in model.parameters():
        p.data[...] += 0.2 * tl.randn(*p.shape).numpy()
        p.changed()
    return look.LoadedModel(Path("run"), None, task, model, TOKENIZER, {})


def full_gradients(model) -> dict[str, np.ndarray]:
    """The gradient of each parameter, by a whole backward pass."""
    ids = TOKENIZER.encode(TEXT)
    model.loss([ids[:-1]], [ids[1:]]).backward()
    found = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = None
    return found


def cells(step) -> np.ndarray:
    return np.array(step.gradient.cells)


def by_name(passed) -> dict[str, look.BackwardStep]:
    return {step.node.name: step for step in passed}


# ----- the gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{"qkv_bias": True}, {"qkv_bias": False, "tie_head": False}, {"causal": False}])
def test_parameters_get_the_gradients_of_a_whole_backward_pass(options, fused):
    m = loaded(**options)
    expected = full_gradients(m.model)
    for block in range(3):
        steps = by_name(look.backward(m, TEXT, block, fused))
        for name, p in m.model.blocks[block].named_parameters():
            np.testing.assert_allclose(
                cells(steps[name]).reshape(p.shape), expected[f"blocks.{block}.{name}"], rtol=1e-9, atol=1e-13
            )
            assert steps[name].sends == ()


@pytest.mark.parametrize("fused", [True, False])
def test_the_stream_gets_the_gradient_of_the_embeddings(fused):
    m = loaded()
    ids = m.encode(TEXT)
    traced = look.trace(m.model, ids[:-1])
    loss = tl.functional.cross_entropy(traced.logits, tl.tensor([ids[1:]]))
    expected = tl.grad(loss, traced.stream)
    for block in range(3):
        passed = look.backward(m, TEXT, block, fused)
        assert passed.loss == pytest.approx(loss.item(), rel=1e-12)
        np.testing.assert_allclose(cells(by_name(passed)[f"stream into block {block}"]), expected[block].numpy()[0])
        assert passed.steps[0].node.name == f"stream after block {block}"
        np.testing.assert_allclose(cells(passed.steps[0]), expected[block + 1].numpy()[0])


def test_differences_of_the_loss_confirm_a_gradient():
    m = loaded()
    weight = m.model.blocks[1].feed_forward.expand.weight
    g = cells(by_name(look.backward(m, TEXT, 1))["feed_forward.expand.weight"])
    ids, losses = m.encode(TEXT), []
    for sign in (1, -1):
        weight.data[3, 5] += sign * 1e-5
        weight.changed()
        losses.append(m.model.loss([ids[:-1]], [ids[1:]]).item())
        weight.data[3, 5] -= sign * 1e-5
    assert g[3, 5] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6)


@pytest.mark.slow
def test_intermediate_gradients_are_those_of_pytorch():
    """One block written in torch; each intermediate keeps its gradient and is compared under its name."""
    torch = pytest.importorskip("torch")
    m = loaded(qkv_bias=True)
    block = m.model.blocks[1]
    p = {name: torch.tensor(x.numpy(), requires_grad=True) for name, x in block.named_parameters()}
    ids = m.encode(TEXT)
    with tl.no_grad():
        traced = look.trace(m.model, ids[:-1])
    steps = by_name(look.backward(m, TEXT, 1, fused=False))
    fused = by_name(look.backward(m, TEXT, 1))
    values = {}

    def keep(name, x):
        x.retain_grad()
        values[name] = x
        return x

    def norm(x, name):
        x = torch.nn.functional.layer_norm(x, (8,), p[f"{name}.weight"], p[f"{name}.bias"])
        return keep(f"output of {name}", x)

    def heads(x, name):
        return keep(f"{name} of the heads", keep(name, x).reshape(1, -1, 2, 4).transpose(1, 2))

    def linear(x, name):
        return torch.nn.functional.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    x = torch.tensor(traced.stream[1].numpy(), requires_grad=True)
    read = norm(x, "norm1")
    q, k, v = (heads(linear(read, f"attention.W_{n}"), n2) for n, n2 in
               (("query", "queries"), ("key", "keys"), ("value", "values")))  # fmt: skip
    scores = keep("scores", q @ keep("keys transposed", k.transpose(-1, -2)))
    scores = keep("scores / sqrt(D)", scores / 2)
    later = torch.ones(len(ids) - 1, len(ids) - 1, dtype=torch.bool).triu(1)
    weights = keep("attention weights", scores.masked_fill(later, -math.inf).softmax(-1))
    mixed = keep("context vectors of the heads", weights @ v)
    context = keep("context vectors", mixed.transpose(1, 2).reshape(1, -1, 8))
    middle = keep("stream after attention", x + keep("output of attention", linear(context, "attention.out_proj")))
    wide = keep("hidden layer before GELU", linear(norm(middle, "norm2"), "feed_forward.expand"))
    hidden = keep("hidden layer", torch.nn.functional.gelu(wide, approximate="tanh"))
    out = middle + keep("output of feed-forward", linear(hidden, "feed_forward.contract"))
    out.backward(torch.tensor(cells(steps["stream after block 1"])[None]))
    assert len(values) > 18
    for name, value in values.items():
        expected = look.array_picture.picture(tl.tensor(value.grad.numpy()))
        shown = [steps[name]] if name not in fused else [steps[name], fused[name]]
        for step in shown:
            assert step.node.shape == tuple(value.shape), name
            given = np.array(step.gradient.cells, dtype=float)
            np.testing.assert_allclose(given, np.array(expected.cells, dtype=float), rtol=1e-7, atol=1e-12)
            assert step.gradient.norm == pytest.approx(value.grad.norm().item(), rel=1e-9)


# ----- the order, and what goes where -----------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
def test_a_node_is_visited_after_all_that_use_it_and_has_the_sum_of_what_they_sent(fused):
    passed = look.backward(loaded(), TEXT, 0, fused)
    assert [step.node.number for step in passed] == sorted((n.number for n in passed.graph.nodes), reverse=True)
    sent: dict[int, list[np.ndarray]] = {}
    for step in passed:
        if step.node.number in sent and step.gradient.block == (1, 1) and step.gradient.tiles == 1:
            np.testing.assert_allclose(cells(step), sum(sent[step.node.number]), rtol=1e-9, atol=1e-13)
        for part in step.sends:
            sent.setdefault(part.to, []).append(np.array(part.gradient.cells, dtype=float))
    assert len(sent) == len(passed) - 1


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{}, {"qkv_bias": True}, {"causal": False}, {"qkv_bias": True, "causal": False}])
def test_every_node_of_a_block_has_a_name(options, fused):
    passed = look.backward(loaded(**options), TEXT, 2, fused)
    names = [node.name for node in passed.graph.nodes]
    assert all(names)
    assert len(set(names)) >= len(names) - 1  # of keys, those transposed for the product
    assert {node.op for node in passed.graph.nodes} >= ({"projections", "gelu"} if fused else {"tanh", "rsqrt"})


def test_a_block_that_computes_something_else_has_no_names():
    m = loaded()
    m.model.blocks[0].feed_forward.forward = lambda x: x * 2
    passed = look.backward(m, TEXT, 0)
    assert {node.name for node in passed.graph.nodes if node.op} == {""}
    assert len(passed) == len(passed.graph.nodes)


def test_the_model_is_left_as_it_was():
    m = loaded(embedding_dropout=0.5, attention_dropout=0.5, residual_dropout=0.5)
    expected = look.backward(m, TEXT, 0).to_dict()
    m.model.train()
    assert look.backward(m, TEXT, 0).to_dict() == expected  # without dropout
    assert m.model.training
    assert all(p.grad is None and p.requires_grad for p in m.model.parameters())


def test_errors_say_what_is_allowed():
    m = loaded()
    for text, block, sentence in (
        ("a", 0, "the text has one token: give at least two, so that there is a next token to predict"),
        ("", 0, "the text has no tokens"),
        ("a" * 17, 0, "the text has 17 tokens and the model's context has 16"),
        (TEXT, 3, "block must be from 0 to 2, got 3"),
        (TEXT, -1, "block must be from 0 to 2, got -1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            look.backward(m, text, block)
    with pytest.raises(ValueError, match="label is for a classifier, and this model predicts tokens: omit it"):
        look.backward(m, TEXT, label="a")
    assert len(look.backward(m, "a" * 16, 0)) == 24


# ----- the example ------------------------------------------------------------------------------------------------


def test_the_example_is_what_one_computes_by_hand():
    passed = look.backward_example()
    output = math.tanh(0.5 * 2 - 0.4)
    error = output - 1
    by_output = 2 * error
    by_total = by_output * (1 - output**2)
    expected = {
        "loss": 1, "error": 2 * error, "output": by_output, "total": by_total, "b": by_total, "product": by_total,
        "w": 2 * by_total,
    }  # fmt: skip
    assert [step.node.name for step in passed] == list(expected)
    for step in passed:
        assert step.gradient.low == step.gradient.high == pytest.approx(expected[step.node.name], rel=1e-6)
    assert passed.loss == pytest.approx(error**2, rel=1e-6)
    assert passed.values["output"] == pytest.approx(output, rel=1e-6)
    assert passed.values["target"] == 1


def test_the_code_of_the_example_computes_its_values():
    passed = look.backward_example()
    known = {name: tl.tensor(passed.values[name]) for name in ("w", "b", "input", "target")} | {"tl": tl}
    exec(passed.code, known)
    for name, value in passed.values.items():
        assert known[name].item() == value


def test_formulas_with_numbers_give_the_gradients():
    passed = look.backward_example()
    texts = [(sent.formula, sent.worked, sent.gradient.low) for step in passed for sent in step.sends]
    assert [formula for formula, _, _ in texts] == ["g * 2 * x", "g", "g * (1 - out * out)", "g", "g", "g * y"]
    assert texts[0][1] == "1 * 2 * (-0.463)"
    for _, text, value in texts:
        assert eval(text) == pytest.approx(value, rel=1e-3)  # numbers of four digits
    assert {sent.worked for step in look.backward(loaded(), TEXT) for sent in step.sends} == {""}


# ----- shown ------------------------------------------------------------------------------------------------------


def test_json_has_each_picture_once_and_the_places_of_the_drawing():
    passed = look.backward(loaded(), TEXT, 0)
    found = json.loads(json.dumps(passed.to_dict()))
    assert len(found["pictures"]) < sum(1 + len(step["sends"]) for step in found["steps"])
    assert len({json.dumps(p) for p in found["pictures"]}) == len(found["pictures"])
    for step, as_json in zip(passed, found["steps"], strict=True):
        assert as_json["number"] == step.node.number
        assert found["pictures"][as_json["gradient"]]["norm"] == step.gradient.norm
        for sent, sent_as_json in zip(step.sends, as_json["sends"], strict=True):
            assert found["pictures"][sent_as_json["gradient"]]["norm"] == sent.gradient.norm
            assert (sent_as_json["to"], sent_as_json["formula"]) == (sent.to, sent.formula)
    drawing = passed.graph.drawing()
    assert [(n["x"], n["y"], n["width"]) for n in found["nodes"]] == [(b.x, b.y, b.box.width) for b in drawing.boxes]
    assert {(a["source"], a["target"]) for a in found["arrows"]} == {
        (sent["to"], step["number"]) for step in found["steps"] for sent in step["sends"]
    }
    linear = next(n for n in found["nodes"] if n["name"] == "output of attention")
    assert linear["formula"] == "x @ weight.T + bias"
    assert [(i["argument"], i["text"]) for i in linear["inputs"]] == [
        ("x", "context vectors"), ("weight", "attention.out_proj.weight"), ("bias", "attention.out_proj.bias"),
    ]  # fmt: skip
    assert {"name": "x", "shape": [1, 14, 8], "bytes": 14 * 8 * 8} in linear["kept"]


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_a_notebook_shows_the_graph_and_a_row_for_each_step():
    passed = look.backward(loaded(), TEXT, 0)
    shown = Tags(passed._repr_html_())
    assert shown.tags.count("tr") == shown.tags.count("img") + 1 == len(passed) + 1
    assert shown.tags.count("svg") == 1
    assert "script" not in shown.tags
    assert "by x: rstd * (h - mean_of(h) - z * mean_of(h * z)), where h = g * weight" in shown.text
    assert f"Loss {passed.loss:.4g}" in shown.text
    assert str(look.backward_example().steps[0]) == "#8 loss = square: |g| = 1\n    to #7 by x: g * 2 * x"


def test_a_notebook_shows_a_step_with_all_its_pictures():
    step = by_name(look.backward(loaded(), TEXT, 0))["output of attention"]
    shown = Tags(step._repr_html_())
    assert shown.tags.count("img") == 4
    for part in ("to #9 by x: g @ weight", "rows(g).T @ rows(x)", f"|g| {step.gradient.norm:.3g}, from"):
        assert part in shown.text
