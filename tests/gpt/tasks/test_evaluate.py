"""Evaluation: each token is predicted once, from what its window shows, and the numbers are those of the definition."""

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import tiny, train

import tensorlite as tl
from gpt.cli import main as cli
from gpt.config import GPTConfig
from gpt.data import corpus
from gpt.model import GPT
from gpt.tasks import evaluate, pretrain
from gpt.tasks.evaluate import Score, total_loss, windows
from gpt.tokenizer import CharTokenizer, gpt2
from tensorlite.data import TokenFile, write_tokens
from tensorlite.devices import machine

CONFIG = GPTConfig(vocab_size=11, context_length=12, n_layer=2, n_head=2, n_embd=8).with_dropout(0.5)


@pytest.fixture(scope="module")
def model():
    """In float64, far from its quiet beginnings, and in training: evaluation has to turn dropout off itself."""
    tl.manual_seed(0)
    model = GPT(CONFIG)
    for parameter in model.parameters():
        parameter.data[...] += tl.randn(*parameter.shape).data * 0.3
        parameter.changed()
    return model.to(tl.float64)


def draw(n: int) -> list[int]:
    return tl.Generator(5).randint(0, CONFIG.vocab_size, n)


def one_by_one(model: GPT, ids: list[int], context: int, stride: int) -> float:
    """The definition: token t is read from the first of the windows 0, stride, ... that reaches it."""
    nats = 0.0
    for t in range(1, len(ids)):
        start = stride * max(0, math.ceil((t - context) / stride))
        with tl.no_grad():
            scores = model(tl.tensor([ids[start:t]]))[0].numpy()[0, -1].tolist()
        nats += math.log(sum(math.exp(score) for score in scores)) - scores[ids[t]]
    return nats


# ----- windows ----------------------------------------------------------------------------------------------------


@given(n=st.integers(2, 60), context=st.integers(1, 20), share=st.floats(0, 1))
def test_each_token_but_the_first_is_predicted_once_in_order(n, context, share):
    stride = max(1, round(share * context))
    predicted = []
    for i, (start, end, seen) in enumerate(windows(n, context, stride)):
        assert start == i * stride
        assert 0 < end - start <= context
        assert 0 <= seen < end - start, "a window without news is not read"
        predicted += range(start + seen + 1, end + 1)
    assert predicted == list(range(1, n))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 5, 12, 13, 14, 25, 40])
@pytest.mark.parametrize(("context", "stride"), [(12, 12), (12, 5), (12, 1), (7, 7), (7, 3), (1, 1)])
def test_the_loss_is_that_of_the_definition(model, n, context, stride):
    ids = draw(n)
    expected = one_by_one(model.eval(), ids, context, stride)
    for batch_size in (1, 3):
        model.train()
        assert total_loss(model, ids, context, stride, batch_size) == pytest.approx(expected, rel=1e-10)
        assert model.training, "its mode is left as it was"


def test_the_head_goes_over_a_few_positions_at_a_time(model, monkeypatch):
    ids = draw(50)
    whole = total_loss(model, ids)
    real, rows = model.logits, []
    monkeypatch.setattr(model, "logits", lambda features: rows.append(len(features)) or real(features))
    monkeypatch.setattr(evaluate, "LOGITS", 3 * CONFIG.vocab_size)
    assert total_loss(model, ids) == pytest.approx(whole, rel=1e-12)
    assert max(rows) == 3
    assert sum(rows) == len(ids) - 1


def test_it_agrees_with_the_validation_loss_of_training(model, tmp_path):
    """Where the windows of both are the same: a whole number of them, not overlapping."""
    ids = draw(12 * 5 + 1)
    write_tokens(tmp_path / "tokens", ids, CONFIG.vocab_size)
    validation = pretrain.evaluate(model, TokenFile(tmp_path / "tokens", CONFIG.vocab_size), batch_size=2)
    assert total_loss(model, ids) / 60 == pytest.approx(validation, rel=1e-6)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"context": 13}, "context must be at most the model's 12 tokens, got 13"),
        ({"context": 0}, "context must be an integer of at least 1, got 0"),
        ({"stride": 13}, "stride must be at most the window's 12 tokens, got 13"),
        ({"context": 6, "stride": 7}, "stride must be at most the window's 6 tokens, got 7"),
        ({"stride": 0}, "stride must be an integer of at least 1, got 0"),
        ({"stride": 2.5}, "stride must be an integer"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(model, numbers, says):
    with pytest.raises(ValueError, match=says):
        total_loss(model, draw(20), **numbers)


# ----- scores -----------------------------------------------------------------------------------------------------


def test_the_four_numbers():
    """A coin a token, two tokens a byte."""
    score = Score(tokens=9, predicted=8, bytes=4, nats=8 * math.log(2))
    assert score.loss == pytest.approx(math.log(2))
    assert score.perplexity == pytest.approx(2)
    assert score.bits_per_token == pytest.approx(1)
    assert score.bits_per_byte == pytest.approx(2)


def indifferent(vocab_size: int) -> GPT:
    """All tokens are equally probable to it."""
    model = GPT(GPTConfig(vocab_size=vocab_size, context_length=64, n_layer=1, n_head=1, n_embd=2))
    model.token_embedding.weight.data[...] = 0
    model.token_embedding.weight.changed()
    return model


def test_bytes_are_those_of_what_is_predicted():
    """The first character is given; of the others é has two bytes, and 漢 three."""
    text = "漢a" * 20 + "é"
    tokenizer = CharTokenizer.train(text)
    made = []

    def bar(what, total):
        made.append((what, total))
        return contextlib.nullcontext(made.append)

    score = evaluate.evaluate(indifferent(3), tokenizer, text, bar=bar)
    assert (score.tokens, score.predicted, score.bytes) == (41, 40, 19 * 3 + 20 + 2)
    assert score.perplexity == pytest.approx(3, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(40 * math.log2(3) / 79, rel=1e-6)
    assert made == [("making tokens", 41), 41, ("predicting", 40), 40]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("the-verdict.txt", [4612, 534]),  # the book, chapter 5
        ("tinyshakespeare.txt", [301_966, 36_059]),  # nanoGPT, data/shakespeare/readme.md
    ],
)
def test_texts_have_as_many_tokens_as_is_published(data_dir, name, published):
    tokenizer, text = gpt2(data_dir), corpus.read_text(data_dir / name)
    parts = corpus.split(text, 0.9)
    assert [sum(1 for _ in corpus.encode(tokenizer, part)) for part in parts] == published
    if name == "the-verdict.txt":
        assert sum(1 for _ in corpus.encode(tokenizer, text)) == 5145  # chapter 2


def test_special_tokens_are_read_as_such(data_dir):
    """As training reads them: the end of a text is one token."""
    score = evaluate.evaluate(indifferent(50257), gpt2(data_dir), "one<|endoftext|>two")
    assert (score.tokens, score.bytes) == (3, len("<|endoftext|>two"))


# ----- the command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    train(tiny(folder, steps=10))
    return folder / "run"


@pytest.fixture
def call(capsys, monkeypatch, run):
    """`gpt evaluate RUN ...` in this process: exit status, output, errors."""
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: "not asked for in a test")

    def call(*args):
        with pytest.raises(SystemExit) as left:
            cli.main(["evaluate", *map(str, args)])
        return left.value.code or 0, *capsys.readouterr()

    return call


@pytest.mark.slow
def test_as_a_table_and_as_json(call, run):
    text = run.parent / "[b]ottles.txt"
    text.write_bytes((run.parent / "bottles.txt").read_bytes())
    status, output, errors = call(run, "--text", text, "--stride", 3)
    assert (status, errors) == (0, "")
    for word in ("run on [b]ottles.txt", "perplexity", "bits per byte", "window, stride", "8, 3 tokens"):
        assert word in output
    status, again, _ = call(run, "--text", text, "--stride", 3, "--batch-size", 50, "--json")
    found = json.loads(again)
    size = text.stat().st_size
    assert (found["tokens"], found["predicted"], found["bytes"]) == (size, size - 1, size - 1)
    for name in ("bits_per_token", "bits_per_byte"):  # a token is a byte
        assert found[name] == pytest.approx(found["loss"] / math.log(2))
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert f"{found['loss']:.4f}" in output
    assert (found["context"], found["stride"]) == (8, 3)
    status, twice, _ = call(run, "--text", text, text, "--json")
    assert json.loads(twice)["tokens"] == 2 * size
    assert json.loads(twice)["stride"] == 8


def test_a_bar_on_a_terminal(call, run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the streams for a terminal then
    status, output, errors = call(run, "--text", run.parent / "bottles.txt", "--json")
    assert status == 0
    assert "predicting" in errors
    json.loads(output)


@pytest.mark.parametrize(
    ("text", "args", "status", "says"),
    [
        ("5", [], 1, "the text has 1 of this tokenizer's tokens: at least 2 are needed"),
        ("", [], 1, "is empty, or white space alone: give a file with text"),
        ("\n" * 3000, [], 1, "is empty, or white space alone: give a file with text"),
        ("é5", [], 1, "character 'é' (U+00E9) at position 0 is not in the vocabulary"),
        ("55", ["--stride", "9"], 1, "stride must be at most the window's 8 tokens, got 9"),
        ("55", ["--context", "9"], 1, "context must be at most the model's 8 tokens, got 9"),
        ("55", ["--stride", "0"], 2, "stride must be an integer of at least 1, got 0"),
        (None, [], 2, "--text"),
    ],
)
def test_what_does_not_do_is_one_sentence(call, run, tmp_path, text, args, status, says):
    path = tmp_path / "text"
    path.write_text(text or "", encoding="utf-8")
    found, output, errors = call(run, *([] if text is None else ["--text", path]), *args)
    assert found == status
    assert says in " ".join((output + errors).replace("│", " ").split())
    assert "Traceback" not in errors


def test_no_run_and_no_text(call, run):
    assert call("nowhere", "--text", run.parent / "bottles.txt")[::2] == (1, "gpt: there is no run nowhere\n")
    status, _, errors = call(run, "--text", "nowhere")
    assert (status, errors) == (1, "gpt: the text file 'nowhere' cannot be read: No such file or directory\n")


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_in_its_mode(model, training):
    model.train(training)
    try:
        total_loss(model, draw(20))
        assert model.training == training
        assert all(block.training == training for block in model.blocks)
    finally:
        model.train()
