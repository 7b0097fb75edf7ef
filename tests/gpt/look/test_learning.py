"""look.learn and look.gradients against PyTorch on the same weights, finite differences, and a step of training."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import quickly_drawn, short_run  # noqa: F401

import tensorlite as tl
from gpt import look
from gpt.config import GPTConfig
from gpt.look import LearningSession, LearnStep, LoadedModel
from gpt.look.display import log_shares
from gpt.look.example import example, predict
from gpt.look.gradient import PARTS, fresh_model, norm, parts
from gpt.model import GPT
from gpt.pretrained import export_run
from gpt.tasks.pretrain import Pretraining, TrainConfig
from gpt.tokenizer import CharTokenizer
from gpt.training import checkpoint
from gpt.training.session import make_optimizer
from gpt.training.step import train_step
from tensorlite import functional as F
from tensorlite import io

TEXT = "take one <b>down"
CONFIG = GPTConfig(
    vocab_size=12, context_length=20, n_layer=3, n_head=2, n_embd=8, qkv_bias=True, embedding_dropout=0.1,
)  # fmt: skip
short, run = short_run(n_layer=2, context_length=32, keep=3, steps=9, clip=0.05)


def loaded(config: GPTConfig = CONFIG, **description) -> LoadedModel:
    """A model with random weights of standard deviation 0.3, in float64."""
    tl.manual_seed(5)
    model = GPT(config).eval()
    for p in model.parameters():
        p.data[...] += 0.3 * tl.randn(*p.shape).data
    tokenizer = CharTokenizer.train(TEXT)
    return LoadedModel(Path("no run"), None, "pretrain", model.to(tl.float64), tokenizer, description)


def arrays(model: GPT) -> list[np.ndarray]:
    return [p.numpy().copy() for p in model.parameters()]


def same(model: GPT, values: list[np.ndarray]) -> bool:
    """Whether the parameters are these, bit for bit, and no gradient is left."""
    now = list(model.parameters())
    return all(p.grad is None and p.numpy().tobytes() == x.tobytes() for p, x in zip(now, values, strict=True))


# ----- PyTorch ----------------------------------------------------------------------------------------------------


def their_groups(model, read, layers: int) -> dict[str, float]:
    """Norms of the parts of transformers' GPT-2 by our names; `read` gives an array for each of its parameters."""
    found = {
        "token embedding": [model.transformer.wte.weight],
        "position embedding": [model.transformer.wpe.weight],
        "final norm": [*model.transformer.ln_f.parameters()],
    }
    for i in range(layers):
        h = model.transformer.h[i]
        for name, module in (
            ("norm1", h.ln_1), ("out_proj", h.attn.c_proj), ("norm2", h.ln_2), ("expand", h.mlp.c_fc),
            ("contract", h.mlp.c_proj),
        ):  # fmt: skip
            found[f"block {i} {name}"] = list(module.parameters())
    norms = {name: math.sqrt(sum(float((read(p) ** 2).sum()) for p in ps)) for name, ps in found.items()}
    for i in range(layers):
        attention = model.transformer.h[i].attn.c_attn
        weights, biases = read(attention.weight).chunk(3, 1), read(attention.bias).chunk(3)
        for name, w, b in zip(("W_query", "W_key", "W_value"), weights, biases, strict=True):
            norms[f"block {i} {name}"] = math.sqrt(float((w**2).sum() + (b**2).sum()))
    return norms


@pytest.mark.slow  # importing transformers takes seconds
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tie_head", [True, False])
def test_a_step_of_sgd_is_pytorchs(tmp_path, tie_head):
    torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")
    transformers = pytest.importorskip("transformers", reason="the peer of this test: pip install -e '.[peers]'")
    model = loaded(replace(CONFIG, tie_head=tie_head))
    folder = tmp_path / "run"
    folder.mkdir()
    description = {"format": "gpt.run", "version": 1, "model": model.model.config.to_dict()}
    checkpoint.write_json(folder / "config.json", description)
    model.tokenizer.save(folder / "tokenizer.json")
    io.save(folder / "model.safetensors", copy.deepcopy(model.model).to(tl.float32).state_dict())
    export_run(folder, tmp_path / "out")
    model = replace(model, model=checkpoint.load_model(folder)[0].to(tl.float64))  # weights rounded to float32
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").double().eval()

    ids = torch.tensor([model.encode(TEXT)])
    stream = []

    def keep(module, inputs, output):
        stream.append(output if torch.is_tensor(output) else output[0])
        stream[-1].retain_grad()

    handles = [theirs.transformer.drop.register_forward_hook(keep)]
    handles += [block.register_forward_hook(keep) for block in theirs.transformer.h]
    losses = torch.nn.functional.cross_entropy(theirs(ids[:, :-1]).logits[0], ids[0, 1:], reduction="none")
    losses.mean().backward()
    for handle in handles:
        handle.remove()
    before = {p: p.detach().clone() for p in theirs.parameters()}
    torch.optim.SGD(theirs.parameters(), lr=0.05).step()
    after = torch.softmax(theirs(ids[:, :-1]).logits[0], -1).gather(1, ids[0, 1:, None])[:, 0]

    step = look.learn(model, TEXT, lr=0.05, optimizer="sgd")
    assert step.tokens == list(TEXT)
    np.testing.assert_allclose(step.losses_before, losses.tolist(), rtol=1e-9)
    assert step.loss_before == pytest.approx(float(losses.mean()), rel=1e-9)
    np.testing.assert_allclose(step.before, torch.exp(-losses).tolist(), rtol=1e-9)
    np.testing.assert_allclose(step.after, after.tolist(), rtol=1e-9)
    np.testing.assert_allclose(step.losses_after, (-torch.log(after)).tolist(), rtol=1e-9)
    assert step.loss_after == pytest.approx(float(-torch.log(after).mean()), rel=1e-9)
    np.testing.assert_allclose(step.gradients.stream, [x.grad[0].norm(dim=-1).tolist() for x in stream], rtol=1e-8)
    np.testing.assert_allclose(step.gradients.by_layer, [float(x.grad.norm()) for x in stream], rtol=1e-8)

    gradients = their_groups(theirs, lambda p: p.grad, 3)
    weights = their_groups(theirs, lambda p: before[p], 3)
    updates = their_groups(theirs, lambda p: p.detach() - before[p], 3)
    if not tie_head:
        p = theirs.lm_head.weight
        gradients["head"], weights["head"], updates["head"] = (
            float(x.norm()) for x in (p.grad, before[p], p.detach() - before[p])
        )
    name = {"token embedding": f"token embedding{' (also the head)' if tie_head else ''}"}
    assert {group.name: group.norm for group in step.gradients.groups} == pytest.approx(
        {name.get(key, key): value for key, value in gradients.items()}, rel=1e-8
    )
    sizes = {group.name: group.parameters for group in step.gradients.groups}
    assert sum(sizes.values()) == sum(p.numel() for p in theirs.parameters())
    assert all(group.rms == pytest.approx(group.norm / math.sqrt(group.parameters)) for group in step.gradients.groups)
    assert step.gradient_norm == pytest.approx(math.hypot(*gradients.values()), rel=1e-8)
    for update in step.updates:
        key = update.part.split(" (")[0] if update.layer is None else f"block {update.layer} {update.part}"
        assert update.weight == pytest.approx(weights[key], rel=1e-9)
        assert update.update == pytest.approx(updates[key], rel=1e-6)
        assert update.ratio == pytest.approx(updates[key] / weights[key], rel=1e-6)
    assert len(step.updates) == len(weights)
    assert (step.rule.optimizer, step.rule.moments, step.gradient_scale) == ("sgd", "", 1)


# ----- finite differences -----------------------------------------------------------------------------------------


def loss_from(model: GPT, x, layer: int, ids: list[int], shortcuts: bool, norms: bool) -> float:
    """The loss from the residual stream x (1, T, C) before block `layer` on."""
    for block in model.blocks[layer:]:
        y = block.attention(block.norm1(x) if norms else x)
        x = x + y if shortcuts else y
        y = block.feed_forward(block.norm2(x) if norms else x)
        x = x + y if shortcuts else y
    logits = model.logits(model.final_norm(x) if norms else x)
    return F.cross_entropy(logits, tl.tensor([ids[1:]])).item()


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("norms", [True, False])
def test_the_gradient_of_the_residual_stream_is_that_of_finite_differences(shortcuts, norms):
    model = loaded()
    ids = model.encode(TEXT)
    found = look.gradients(model, TEXT, shortcuts=shortcuts, norms=norms)
    assert (found.shortcuts, found.norms) == (shortcuts, norms)
    assert found.layers == ["embedding", "after block 0", "after block 1", "after block 2"]
    trace = look.trace(model.model, ids[:-1], shortcuts=shortcuts, norms=norms)
    assert found.loss == pytest.approx(loss_from(model.model, trace.stream[0], 0, ids, shortcuts, norms), rel=1e-12)
    eps = 1e-6
    for layer, stream in enumerate(trace.stream):
        for t in (0, 5, len(ids) - 2):
            difference = []
            for c in range(CONFIG.n_embd):
                moved = []
                for sign in (1, -1):
                    x = stream.numpy().copy()
                    x[0, t, c] += sign * eps
                    moved.append(loss_from(model.model, tl.tensor(x), layer, ids, shortcuts, norms))
                difference.append((moved[0] - moved[1]) / (2 * eps))
            assert found.stream[layer][t] == pytest.approx(np.linalg.norm(difference), rel=1e-5, abs=1e-9)


def test_shortcuts_and_norms_are_left_out_of_the_loss_after_the_step_too():
    model = loaded()
    step = look.learn(model, TEXT, lr=0.1, optimizer="sgd", shortcuts=False, norms=False)
    learned = copy.deepcopy(model)
    found = look.gradients(model, TEXT, shortcuts=False, norms=False)
    assert step.gradients == found
    total = 0.0
    for p, g in zip(learned.model.parameters(), gradients_of(model.model, TEXT, model), strict=True):
        p.data[...] -= 0.1 * g
        total += float((g**2).sum())
    trace = look.trace(learned.model, model.encode(TEXT)[:-1])
    assert step.loss_after == pytest.approx(
        loss_from(learned.model, trace.stream[0], 0, model.encode(TEXT), False, False), rel=1e-9
    )
    assert step.gradient_norm == pytest.approx(math.sqrt(total), rel=1e-9)


def gradients_of(net: GPT, text: str, model: LoadedModel) -> list[np.ndarray]:
    """The gradient of each parameter of a model without shortcuts and norms, by `backward`."""
    ids = model.encode(text)
    x = net.token_embedding(tl.tensor([ids[:-1]])) + net.position_embedding(tl.arange(len(ids) - 1))
    for block in net.blocks:
        x = block.feed_forward(block.attention(x))
    net.zero_grad()
    F.cross_entropy(net.logits(x), tl.tensor([ids[1:]])).backward()
    found = [np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy() for p in net.parameters()]
    net.zero_grad()
    return found


# ----- training ---------------------------------------------------------------------------------------------------


def train_steps(model: GPT, optimizer, clip: float, batches: list[list[int]]) -> None:
    for ids in batches:
        train_step(Pretraining, model, optimizer, [(tl.tensor([ids[:-1]]), tl.tensor([ids[1:]]))], [len(ids) - 1], clip)


@pytest.mark.parametrize("moments", ["fresh", "checkpoint"])
def test_adamw_gives_the_bytes_of_training(run, moments):
    """Three steps on two texts, from fresh moments and from those of a checkpoint that is not the newest."""
    step = look.kept_steps(run)[0]
    model = look.load(run, step)
    settings = TrainConfig.from_dict(model.description["training"])
    reference = look.load(run, step).model
    optimizer = make_optimizer(reference, replace(settings, lr=0.01))
    if moments == "checkpoint":
        path = checkpoint.folder_of(run, step) / "training.safetensors"
        state = json.loads(io.metadata(path)["training"])
        optimizer.load_state_dict({"steps": state["optimizer_steps"], "tensors": io.load(path)})
        assert state["optimizer_steps"][0] == step
    texts = ["take one down", "take one down", "9 bottles"]
    train_steps(reference, optimizer, settings.clip, [model.encode(text) for text in texts])

    session = LearningSession(model)
    results = [list(session.step(text, lr=0.01, moments=moments))[-1] for text in texts]
    assert same(session.loaded.model, arrays(reference))
    assert results[0].gradient_scale < 1, "the gradient should be clipped in this test"
    assert [result.rule.moments for result in results] == [moments, "continued", "continued"]
    assert results[0].rule.clip == settings.clip
    assert [entry["text"] for entry in session.losses] == [0, 0, 1]
    assert session.losses[1]["before"] == pytest.approx(session.losses[0]["after"], rel=1e-5)
    assert results[1].loss_before == session.losses[1]["before"]


def test_the_defaults_are_the_runs(run):
    model = look.load(run)
    rule = look.learn(model, "bottles").rule
    training = model.description["training"]
    assert (rule.optimizer, rule.lr, rule.weight_decay) == ("adamw", training["lr"], training["weight_decay"])
    assert rule.betas == (training["beta1"], training["beta2"])
    assert look.learn(loaded(), TEXT).rule.lr == 5e-5  # an imported model has no training settings


# ----- nothing else is changed ------------------------------------------------------------------------------------


def test_the_model_and_the_generator_stay_as_they_are():
    model = loaded()
    values, state = arrays(model.model), tl.default_generator.state_dict()
    look.learn(model, TEXT)
    look.learn(model, TEXT, optimizer="sgd", lr=1.0)
    look.gradients(model, TEXT)
    look.gradients(model, TEXT, fresh=True, shortcuts=False)
    assert same(model.model, values)
    assert tl.default_generator.state_dict() == state


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_step_that_is_stopped_changes_nothing(stop):
    session = LearningSession(loaded())
    values = arrays(session.loaded.model)
    steps = session.step(TEXT, lr=0.1)
    assert [next(steps) for _ in range(stop)] == ["forward", "backward", "update"][:stop]
    steps.close()
    assert same(session.loaded.model, values)
    assert (session.losses, session.last, session.history) == ([], None, [])


def test_undo_gives_the_same_bytes_and_the_same_steps_again():
    session = LearningSession(loaded())
    texts = ["take one", TEXT, TEXT, "down one", "take one"]
    rules = [{"lr": 0.01}, {"lr": 0.02}, {"optimizer": "sgd", "lr": 0.1}, {"optimizer": "sgd", "lr": 0.1}, {"lr": 0.01}]
    before, results = [], []
    for text, rule in zip(texts, rules, strict=True):
        before.append(arrays(session.loaded.model))
        results.append(list(session.step(text, **rule))[-1])
    final = arrays(session.loaded.model)
    assert [result.rule.moments for result in results] == ["fresh", "continued", "", "", "fresh"]
    for number in (4, 3, 2, 1):
        session.undo()
        assert same(session.loaded.model, before[number])
        assert session.last is results[number - 1]
        assert len(session.losses) == number
    again = [list(session.step(text, **rule))[-1] for text, rule in zip(texts[1:], rules[1:], strict=True)]
    assert same(session.loaded.model, final)
    assert [step.losses_after for step in again] == [step.losses_after for step in results[1:]]
    for _ in texts:
        session.undo()
    assert same(session.loaded.model, before[0])
    assert session.last is None
    with pytest.raises(ValueError, match="there is no step to undo"):
        session.undo()


def test_steps_are_counted_from_1_and_an_undone_one_is_counted_again():
    session = LearningSession(loaded())
    counts = []
    for undone in (False, False, True, False):
        if undone:
            session.undo()
        *_, found = session.step(TEXT, lr=1e-3)
        counts.append(found.rule.count)
    assert counts == [1, 2, 2, 3]


def test_the_bytes_of_a_session():
    session = LearningSession(loaded())
    weights = sum(p.numpy().nbytes for p in session.loaded.model.parameters())
    assert (session.bytes, session.history_bytes) == (weights, 0)
    list(session.step(TEXT))
    assert (session.bytes, session.history_bytes) == (3 * weights, weights)  # AdamW has two moments of each weight
    list(session.step(TEXT))
    assert session.history_bytes == 4 * weights


# ----- fresh weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["torch", "gpt2"])
def test_fresh_weights_are_those_of_the_seed(init):
    config = replace(CONFIG, init=init)
    tl.manual_seed(3)
    expected = arrays(GPT(config))
    assert same(fresh_model(config, 3), expected)
    assert not fresh_model(config, 3).training
    assert not same(fresh_model(config, 4), expected)


def test_gradients_vanish_without_shortcuts_and_norms_and_not_with_them():
    """In 16 blocks of torch's initial weights: each block's matrices shrink the gradient, by 10 or more."""
    model = loaded(replace(CONFIG, init="torch"))
    plain = look.gradients(model, TEXT, fresh=True, layers=16)
    bare = look.gradients(model, TEXT, fresh=True, layers=16, shortcuts=False, norms=False)
    assert len(plain.layers) == len(bare.layers) == 17
    assert 0.1 < plain.by_layer[0] / plain.by_layer[-1] < 10
    assert 0 < bare.by_layer[0] / bare.by_layer[-1] < 1e-14
    assert all(a < b for a, b in zip(bare.by_layer, bare.by_layer[1:], strict=False))


def test_norms_of_numbers_whose_squares_leave_float32():
    for scale in (1e-30, 1.0, 1e30):
        x = tl.tensor([[3 * scale, 0.0], [0.0, 4 * scale]])
        assert norm(x) == pytest.approx(5 * scale, rel=1e-6)
        assert norm(x, tl.tensor([[0.0, 2 * scale], [0.0, 2 * scale]])) == pytest.approx(
            math.sqrt(17) * scale, rel=1e-6
        )
    assert norm(tl.zeros(3)) == 0
    assert norm(tl.tensor([1.0, math.inf])) == math.inf
    assert math.isnan(norm(tl.tensor([1.0, math.nan])))
    many = tl.full((3, 100_000), 0.1)
    assert norm(many) == pytest.approx(0.1 * math.sqrt(300_000), rel=1e-5)
    assert norm(many, 3 * many) == pytest.approx(0.2 * math.sqrt(300_000), rel=1e-5)


def test_the_size_of_a_gradient_does_not_depend_on_the_number_of_parameters():
    """`rms` of a block's part, against the gradient that PyTorch's definition of it gives: sqrt(mean of g**2)."""
    model = loaded()
    found = look.gradients(model, TEXT)
    _, loss = model.model(*(tl.tensor([ids]) for ids in (model.encode(TEXT)[:-1], model.encode(TEXT)[1:])))
    loss.backward()
    for layer, part, params in parts(model.model):
        (group,) = [group for group in found.groups if (group.layer, group.part) == (layer, part)]
        squares = np.concatenate([np.square(p.grad.numpy()).ravel() for p in params])
        assert group.parameters == len(squares)
        assert group.rms == pytest.approx(math.sqrt(squares.mean()), rel=1e-6)
    for p in model.model.parameters():
        p.grad = None


def test_every_parameter_is_in_one_group():
    model = loaded(replace(CONFIG, tie_head=False)).model
    found = [id(p) for _, _, params in parts(model) for p in params]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    assert [part for layer, part, _ in parts(model) if layer == 2] == list(PARTS)


# ----- errors -----------------------------------------------------------------------------------------------------


def test_errors_say_what_is_wrong(run):
    model = loaded()
    for text, says in (("", "has no tokens"), ("t", "has one token"), ("t" * 21, "the model's context has 20")):
        with pytest.raises(ValueError, match=says):
            look.learn(model, text)
        with pytest.raises(ValueError, match=says):
            look.gradients(model, text)
    for wrong, says in (
        ({"lr": -1.0}, "lr must be a finite number"), ({"lr": math.nan}, "lr must be"),
        ({"optimizer": "adam"}, "optimizer must be one of 'adamw', 'sgd'"),
        ({"moments": "old"}, "moments must be one of"), ({"moments": "checkpoint"}, "has no moments of AdamW"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            look.learn(model, TEXT, **wrong)
    with pytest.raises(ValueError, match="label is for a classifier, and this model predicts tokens: omit it"):
        look.learn(model, TEXT, label="t")
    with pytest.raises(ValueError, match="give fresh=True too"):
        look.gradients(model, TEXT, layers=3)


def test_a_session_goes_on_after_moments_that_are_missing():
    session = LearningSession(loaded())
    list(session.step(TEXT, optimizer="sgd", lr=0.1))
    values = arrays(session.loaded.model)
    with pytest.raises(ValueError, match="has no moments"):
        list(session.step(TEXT, moments="checkpoint"))
    assert same(session.loaded.model, values)
    assert len(session.losses) == len(session.history) == 1
    list(session.step(TEXT, optimizer="sgd", lr=0.1))
    for _ in range(2):
        session.undo()
    assert same(session.loaded.model, arrays(loaded().model))


def test_a_gradient_that_is_not_finite_changes_nothing():
    session = LearningSession(loaded())
    step = list(session.step(TEXT, optimizer="sgd", lr=1e200))[-1]
    assert not math.isfinite(step.loss_after)
    values = arrays(session.loaded.model)
    with pytest.raises(ValueError, match="the gradient is not finite"):
        list(session.step(TEXT, optimizer="sgd", lr=0.1))
    assert same(session.loaded.model, values)
    session.undo()
    assert same(session.loaded.model, arrays(loaded().model))


# ----- pictures ---------------------------------------------------------------------------------------------------


def test_a_notebook_shows_the_step_with_escaped_tokens():
    step = look.learn(loaded(), TEXT)
    html = step._repr_html_()
    assert isinstance(step, LearnStep)
    assert f"Loss before: {step.loss_before:.4f} nats" in html
    assert f"Loss after: {step.loss_after:.4f} nats" in html
    assert "&lt;" in html
    assert "<b>down" not in html.replace("<b>Loss", "")
    assert html.count("<svg") == html.count("</svg>") == 3
    assert html.count("<title>after block 2 ") == len(TEXT) - 1
    assert f"<title>block 1 W_key {step.gradients.groups[12].norm:.3g}</title>" in html
    assert step.gradients.groups[12].name == "block 1 W_key"
    json.dumps(step.to_dict())
    assert step.to_dict()["gradients"]["stream"] == step.gradients.stream


def test_logarithmic_shares_give_back_the_number():
    shares, legend, form = log_shares([[1e-6, 1e-2, 0.0], [1e-4, None, math.inf]])
    assert shares[0] == [pytest.approx(0.05), pytest.approx(1.0), None]
    assert shares[1] == [pytest.approx(0.525), None, None]
    assert legend == "from 1e-06 (white) to 0.01 (blue), logarithmic"
    assert form(shares[1][0]) == "0.0001"
    assert log_shares([[2.0, 2.0]])[0] == [[1.0, 1.0]]
    assert log_shares([[]])[0] == [[]]


def test_token_losses_are_those_of_cross_entropy():
    model = loaded()
    ids = model.encode(TEXT)
    logits = model.model(tl.tensor([ids[:-1]]))[0].numpy()[0]
    expected = [np.log(np.exp(row).sum()) - row[t] for row, t in zip(logits, ids[1:], strict=True)]
    np.testing.assert_allclose(predict(model.model, example(model, TEXT)).losses, expected, rtol=1e-10)
