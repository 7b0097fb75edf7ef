"""The distribution of the next token: against the plain forward pass and NumPy, and against gpt.generate."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from writing import BYTES, CONTEXT, byte_writer

import tensorlite as tl
from gpt import look
from gpt.config import GPTConfig
from gpt.generation import stream
from gpt.look.next_token import BINS, CHUNK, EXACT, histogram, summary
from gpt.model import GPT
from gpt.tokenizer import CharTokenizer, WordTokenizer

MODULE = sys.modules["gpt.look.next_token"]  # the attribute of gpt.look is the function
PROMPT = [5, 70, 5, 200, 9]
LONG = [(7 * i * i + 3 * i) % 250 for i in range(3 * CONTEXT)]
OPTIONS = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 1.1},
    "top_k": {"temperature": 1.3, "top_k": 7},
    "top_p": {"temperature": 1.3, "top_p": 0.7},
    "both": {"temperature": 2.0, "top_k": 40, "top_p": 0.8},
}


@pytest.fixture(scope="module")
def writer():
    return byte_writer()


def softmax(logits):
    """In float64."""
    e = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return e / e.sum(-1, keepdims=True)


def plain_logits(model, ids):
    """By one forward pass over the last tokens that fit into the context, without a cache: (T, V)."""
    with tl.no_grad():
        return model.model(tl.tensor([list(ids)[-CONTEXT:]]))[0].numpy()[0]


def check(found, logits, token):
    """A NextToken is what NumPy computes from the logits (V,) of the plain forward pass."""
    p = softmax(logits)
    order = np.argsort(-logits, kind="stable")
    assert [candidate.id for candidate in found.top] == order[:10].tolist()
    np.testing.assert_allclose([c.probability for c in found.top], p[order[:10]], rtol=1e-3)
    np.testing.assert_allclose(found.logits, np.sort(logits)[::-1][:EXACT], rtol=1e-3, atol=1e-4)
    assert found.token.id == token
    assert found.token.probability == pytest.approx(p[token], rel=1e-3)
    assert found.token.rank == 1 + int((logits > logits[token]).sum())
    assert found.token.surprise == pytest.approx(-math.log2(p[token]), rel=1e-3, abs=1e-3)


# ----- what is drawn -----


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("prompt", "n"), [(PROMPT, 30), (LONG, 4), (LONG[: CONTEXT - 3], 8)])
def test_the_tokens_are_those_of_stream(writer, options, prompt, n):
    """Inside the context, beyond it, and across its end."""
    stop = BYTES.special_tokens["<|endoftext|>"]
    for seed in (0, 1337):
        expected = [token for (token,) in stream(writer.model, [prompt], n, seed=seed, stop_token=stop, **options)]
        found = [item.token.id for item in MODULE.written(writer, prompt, n, seed=seed, **options)]
        ended = [stop] if len(expected) < n else []
        assert found == expected + ended


def test_the_end_of_text_is_the_last_item_with_its_distribution(writer):
    stop = BYTES.special_tokens["<|endoftext|>"]
    best = stream(writer.model, [PROMPT], 3)
    first = next(best)[0]
    model = replace(writer, tokenizer=_WithStop(first))
    found = list(MODULE.written(model, PROMPT, 5))
    assert [item.token.id for item in found] == [first]
    assert found[0].token.rank == 1
    assert first != stop
    assert [item.token.id for item in MODULE.written(writer, PROMPT, 1)] == [first]  # the length, not the stop token


class _WithStop:
    """The tokenizer with another end of text."""

    decode_bytes = BYTES.decode_bytes

    def __init__(self, stop):
        self.special_tokens = {"<|endoftext|>": stop}


def test_each_token_has_the_distribution_it_was_drawn_from(writer):
    text = list(PROMPT)
    for item in MODULE.written(writer, PROMPT, CONTEXT + 5, temperature=1.2, seed=4):
        check(item, plain_logits(writer, text)[-1], item.token.id)
        text.append(item.token.id)
    assert len(text) == len(PROMPT) + CONTEXT + 5


def test_invalid_options_are_errors_at_the_call(writer):
    for options, said in [({"top_k": 0}, "top_k"), ({"top_p": 2.0}, "top_p"), ({"temperature": -1}, "temperature")]:
        with pytest.raises(ValueError, match=said):
            MODULE.written(writer, PROMPT, 3, **options)


def test_a_classifier_does_not_write(writer):
    classifier = replace(writer, classifier=object())
    for call in (
        lambda: MODULE.written(classifier, PROMPT, 3),
        lambda: list(MODULE.expected(classifier, PROMPT)),
        lambda: look.next_token(classifier, "a"),
    ):
        with pytest.raises(ValueError, match="classifier"):
            call()


# ----- what was expected -----


@pytest.mark.parametrize("length", [2, CHUNK, CHUNK + 1, CHUNK + 2, CONTEXT])
def test_each_position_has_the_prediction_of_the_position_before(writer, length):
    ids = LONG[:length]
    found = list(MODULE.expected(writer, ids))
    logits = plain_logits(writer, ids)
    assert found[0] is None
    assert len(found) == length
    for t in range(1, length):
        check(found[t], logits[t - 1], ids[t])


def test_of_a_long_text_the_end_is_read(writer):
    found = list(MODULE.expected(writer, LONG))
    skipped = len(LONG) - CONTEXT
    assert len(found) == len(LONG)
    assert found[: skipped + 1] == [None] * (skipped + 1)
    logits = plain_logits(writer, LONG)
    for t in range(skipped + 1, len(LONG)):
        check(found[t], logits[t - skipped - 1], LONG[t])


def test_one_token_and_none(writer):
    assert list(MODULE.expected(writer, [7])) == [None]
    assert list(MODULE.expected(writer, [])) == []


def test_positions_are_computed_only_as_they_are_taken(writer, monkeypatch):
    """A client that leaves does not cost the rest of a long text."""
    read, hidden_states = [], GPT.hidden_states
    monkeypatch.setattr(
        GPT, "hidden_states", lambda self, idx, cache=None: read.append(idx.shape[1]) or hidden_states(self, idx, cache)
    )
    items = MODULE.expected(writer, LONG[:CONTEXT])
    for _ in range(3):
        next(items)
    items.close()
    assert read == [CHUNK]


def test_neither_mode_nor_recording_change(writer):
    writer.model.train()
    try:
        for items, count in ((MODULE.expected(writer, PROMPT), len(PROMPT)), (MODULE.written(writer, PROMPT, 3), 3)):
            for _ in range(count):
                next(items)
                assert writer.model.training
                assert tl.tensor([1.0], requires_grad=True).exp().requires_grad
    finally:
        writer.model.eval()


def test_next_token_reads_a_text(writer):
    text = "the dés"
    found = look.next_token(writer, text, k=4)
    logits = plain_logits(writer, BYTES.encode(text))[-1]
    order = np.argsort(-logits, kind="stable")
    assert [candidate.id for candidate in found.top] == order[:4].tolist()
    assert [candidate.rank for candidate in found.top] == [1, 2, 3, 4]
    assert found.token is None
    assert found.vocab_size == len(found.logits) + sum(count for count, _ in found.tail) == BYTES.vocab_size
    long = "the cat " * CONTEXT
    ids = BYTES.encode(long)
    order = np.argsort(-plain_logits(writer, ids)[-1], kind="stable")
    assert look.next_token(writer, long).top[0].id == order[0]
    with pytest.raises(ValueError, match="k must be"):
        look.next_token(writer, text, k=0)
    assert len(look.next_token(writer, text, k=10**6).top) == BYTES.vocab_size


def test_an_empty_prompt_starts_as_a_text_of_the_run(writer):
    assert MODULE.prompt_ids(writer, "") == BYTES.encode("\n")
    assert MODULE.prompt_ids(replace(writer, description={"data": {"train": {"start": [3, 4]}}}), "") == [3, 4]
    assert MODULE.prompt_ids(writer, "<|endoftext|>a") == [BYTES.special_tokens["<|endoftext|>"], BYTES.encode("a")[0]]


# ----- texts of tokens -----


def test_bytes_that_are_no_character_are_shown_as_bytes(writer):
    first, second = BYTES.encode("é")
    assert MODULE.text_after(writer, None, first) == "\\xc3"
    assert MODULE.text_after(writer, first, second) == "\\xa9"
    assert MODULE.text_after(writer, second, BYTES.encode(" d")[0]) == " d"


def test_a_words_text_has_the_space_before_it():
    words = WordTokenizer.train("hello , world", unknown=True)
    model = replace(byte_writer(), tokenizer=words)
    comma, hello, world = words.encode(", hello world")
    assert MODULE.text_after(model, None, hello) == "hello"
    assert MODULE.text_after(model, hello, world) == " world"
    assert MODULE.text_after(model, hello, comma) == ","


# ----- the histogram -----


def test_the_histogram_has_every_value_once_and_the_means_of_its_bins():
    values = np.sort(np.random.default_rng(0).normal(size=5000) * 3)
    bins, width = histogram(values.tolist())
    low, high = values[0], values[-1]
    assert width == pytest.approx((high - low) / BINS)
    index = np.minimum(((values - low) / (high - low) * BINS).astype(int), BINS - 1)
    expected = [
        (int((index == i).sum()), values[index == i].mean()) for i in reversed(range(BINS)) if (index == i).any()
    ]
    assert [count for count, _ in bins] == [count for count, _ in expected]
    np.testing.assert_allclose([mean for _, mean in bins], [mean for _, mean in expected])


def test_histograms_of_no_and_of_equal_values():
    assert histogram([]) == ([], 0.0)
    bins, width = histogram([2.5] * 9)
    assert (bins, width) == ([(9, 2.5)], 0.0)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(EXACT - 3, 4000),
    scale=st.floats(0.01, 5),
    temperature=st.floats(0.1, 3),
    steps=st.sampled_from([None, 2, 30]),
)
def test_the_sum_of_exponentials_is_within_the_stated_error(seed, size, scale, temperature, steps):
    """It is never too large, and too small by at most the factor of Hoeffding's lemma. `steps`: few distinct logits."""
    logits = np.random.default_rng(seed).normal(size=size) * scale
    if steps:
        logits = np.round(logits * steps / scale) * scale / steps
    found = summary(byte_writer_of(size), tl.tensor(logits.astype(np.float32)), 0)
    exact = np.exp((np.sort(logits.astype(np.float32).astype(np.float64)) - found.logits[0]) / temperature)
    ours = sum(math.exp((logit - found.logits[0]) / temperature) for logit in found.logits)
    tail = sum(count * math.exp((mean - found.logits[0]) / temperature) for count, mean in found.tail)
    bound = math.expm1((found.width / temperature) ** 2 / 8)
    assert len(found.logits) + sum(count for count, _ in found.tail) == size
    assert ours + tail <= exact.sum() * (1 + 1e-9)
    assert exact.sum() <= (ours + tail * (1 + bound)) * (1 + 1e-9)


def test_the_stated_error_is_small():
    """GPT-2's vocabulary, temperature 0.5 or more: below 0.3 %, also where the distribution is nearly uniform."""
    for scale in (0.3, 1.0, 3.0):
        logits = np.random.default_rng(1).normal(size=50257).astype(np.float32) * np.float32(scale)
        found = summary(byte_writer_of(len(logits)), tl.tensor(logits), 0)
        assert math.expm1((found.width / 0.5) ** 2 / 8) < 0.003 * max(1, scale**2)
    assert look.next_token(byte_writer_of(60), "\0").tail == []


def byte_writer_of(size):
    """A model whose tokenizer has `size` characters."""
    characters = "".join(chr(i) for i in range(size + 256) if not 0xD800 <= i < 0xE000)[:size]
    config = GPTConfig(vocab_size=size, context_length=4, n_layer=1, n_head=1, n_embd=2)
    with tl.no_grad():
        model = GPT.without_init(config) if size > 100 else GPT(config)
    return look.LoadedModel(Path("run"), 0, "pretrain", model, CharTokenizer(characters), {})


# ----- ties, damage, display -----


def test_tokens_with_equal_logits_have_the_same_rank():
    found = summary(byte_writer_of(5), tl.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 0, token=4)
    assert [(c.id, c.rank) for c in found.top] == [(1, 1), (3, 1), (2, 3), (4, 3), (0, 5)]
    assert found.token.rank == 3


def test_scores_that_are_not_finite_are_an_error(writer):
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(FloatingPointError, match="not finite"):
            summary(byte_writer_of(5), tl.tensor([1.0, value, 2.0, 0.0, 0.0]), 0)


def test_in_a_notebook_the_bars_are_escaped():
    model = replace(byte_writer_of(60), tokenizer=CharTokenizer("<&" + "".join(map(chr, range(64, 122)))))
    logits = tl.tensor([5.0, 4.0] + [0.0] * 58)
    html = summary(model, logits, 2, token=1, k=3)._repr_html_()
    p = softmax(logits.numpy())
    assert "&lt;</td>" in html
    assert "&amp;</td>" in html
    assert f"{p[0]:.1%}" in html
    assert f"{1 - p[0] - p[1] - p[2]:.1%}" in html
    assert html.count("<tr") == html.count("</tr>") == 3
    assert html.index("in the text") > html.index("&amp;</td>")
    assert f"width:{240 * p[1] / p[0]:.1f}px" in html


def test_to_dict_is_plain(writer):
    fields = look.next_token(writer, "the").to_dict()
    assert set(fields) == {"top", "logits", "tail", "width", "vocab_size", "token"}
    assert set(fields["top"][0]) == {"id", "text", "logit", "probability", "rank", "surprise"}
