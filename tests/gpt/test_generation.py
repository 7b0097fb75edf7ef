"""Generation: against a naive loop, cached against uncached, batched against alone; the draws; what is refused."""

import math
import tracemalloc
import warnings
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.generation import generate, next_logits, probabilities, stream
from gpt.model import GPT

V, CONTEXT = 23, 12
TINY = GPTConfig(vocab_size=V, context_length=CONTEXT, n_layer=2, n_head=2, n_embd=16, init="torch", tie_head=False)
PROMPTS = [[3], [5, 1, 4, 1, 5, 9, 2], [22, 0, 7], [8, 8, 8, 8]]
SAMPLING = {
    "greedy": {},
    "drawn": {"temperature": 1.3, "seed": 11},
    "cut": {"temperature": 2.0, "top_k": 9, "top_p": 0.9, "seed": 11},
}


@pytest.fixture(scope="module")
def model():
    tl.manual_seed(1)
    return GPT(TINY)


def naive(model, prompt, n):
    """Greedy continuation by reading everything again at each step, one text at a time."""
    text = list(prompt)
    for _ in range(n):
        with tl.no_grad():
            logits = model(tl.tensor([text[-CONTEXT:]]))[0].numpy()
        text.append(int(logits[0, -1].argmax()))
    return text[len(prompt) :]


# ----- the same text, whichever way -----


@pytest.mark.parametrize("n", [4, 40])  # within the context, and far beyond it
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_text_is_the_naive_loops(model, n, use_cache):
    texts = generate(model, PROMPTS, n, use_cache=use_cache)
    assert texts == [naive(model, prompt, n) for prompt in PROMPTS]
    assert len({tuple(text) for text in texts}) > 1  # the model listens to its prompt


@pytest.mark.slow
@pytest.mark.parametrize("options", SAMPLING.values(), ids=SAMPLING)
def test_cached_and_uncached_text_are_identical(model, options):
    for prompts in ([PROMPTS[1]], PROMPTS):
        for n in (5, 30):
            cached = generate(model, prompts, n, **options)
            assert cached == generate(model, prompts, n, use_cache=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("options", SAMPLING.values(), ids=SAMPLING)
def test_each_prompt_gets_the_text_it_would_get_alone(model, options):
    together = generate(model, PROMPTS, 20, **options)
    for i, prompt in enumerate(PROMPTS):
        own = options | ({"seed": options["seed"] + i} if "seed" in options else {})
        assert generate(model, [prompt], 20, **own) == [together[i]]


def test_scores_of_a_ragged_batch_are_those_of_each_text_alone(model):
    cache = model.new_cache(len(PROMPTS))
    texts = [list(prompt) for prompt in PROMPTS]
    for step in range(CONTEXT - 7 + 1):
        logits = next_logits(model, texts, cache).numpy()
        for row, text in zip(logits, texts, strict=True):
            alone = model(tl.tensor([text]))[0].numpy()[0, -1]
            np.testing.assert_allclose(row, alone, rtol=1e-4, atol=1e-5)
            text.append(step)


def test_a_prompt_longer_than_the_context_is_read_from_its_end(model):
    long = [int(i) for i in np.random.default_rng(0).integers(0, V, 3 * CONTEXT)]
    assert generate(model, [long, PROMPTS[0]], 6) == [naive(model, long[-CONTEXT:], 6), naive(model, PROMPTS[0], 6)]


@pytest.mark.parametrize(("use_cache", "lengths"), [(True, [7, 1, 1, 1]), (False, [7, 8, 9, 10])])
def test_with_a_cache_a_step_reads_one_token(model, use_cache, lengths, monkeypatch):
    read, hidden_states = [], GPT.hidden_states
    monkeypatch.setattr(
        GPT, "hidden_states", lambda self, idx, cache=None: read.append(idx.shape) or hidden_states(self, idx, cache)
    )
    generate(model, PROMPTS, 4, use_cache=use_cache)
    assert read == [(len(PROMPTS), T) for T in lengths]


def test_a_step_copies_neither_weights_nor_the_past():
    """What one cached step holds at its worst moment is less than any one matrix, and than one layer's past."""
    config = GPTConfig(vocab_size=4000, context_length=512, n_layer=2, n_head=4, n_embd=256)
    model = GPT(config)
    cache = model.new_cache(1)
    text = [7] * 500
    next_logits(model, [text], cache)
    text.append(7)
    next_logits(model, [text], cache)  # whatever is cached on first use
    text.append(7)
    tracemalloc.start()
    next_logits(model, [text], cache)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 256 * 256


# ----- streaming and stopping -----


def test_a_stream_gives_the_same_tokens_one_step_at_a_time(model):
    texts = generate(model, PROMPTS, 6)
    assert list(stream(model, PROMPTS, 6)) == [list(step) for step in zip(*texts, strict=True)]
    assert list(islice(stream(model, PROMPTS, 10**9), 3)) == [list(s) for s in islice(zip(*texts, strict=True), 3)]


def test_a_text_ends_before_its_stop_token_and_the_others_go_on(model):
    free = generate(model, PROMPTS, 9)
    stop = free[1][2]
    expected = [text[: text.index(stop)] if stop in text else text for text in free]
    assert expected[1] != free[1]
    assert any(len(text) == 9 for text in expected)
    assert generate(model, PROMPTS, 9, stop_token=stop) == expected
    steps = list(stream(model, PROMPTS, 9, stop_token=stop))
    assert [step[1] for step in steps] == expected[1] + [None] * (9 - len(expected[1]))


def test_a_stream_ends_when_all_texts_have(model):
    stop = generate(model, PROMPTS[:1], 1)[0][0]
    assert list(stream(model, PROMPTS[:1], 9, stop_token=stop)) == []
    assert generate(model, PROMPTS[:1], 9, stop_token=stop) == [[]]


@pytest.mark.parametrize("options", SAMPLING.values(), ids=SAMPLING)
def test_texts_that_the_caller_ends_change_no_other_and_cost_no_step(model, options):
    computed, ended, steps = [], set(), []

    def counting(decoder):
        logits = decoder.logits
        decoder.logits = lambda texts: computed.append(texts) or logits(texts)
        return decoder

    free = list(stream(model, PROMPTS, 9, **options))
    for number, step in enumerate(stream(model, PROMPTS, 9, ended=ended, wrap=counting, **options)):
        steps.append(step)
        ended |= {2: {1}, 4: {0, 1, 2, 3}}.get(number, set())
    assert steps == [[None if i == 1 and n > 2 else token for i, token in enumerate(free[n])] for n in range(5)]
    assert len(computed) == 5


def test_no_new_tokens_is_no_text(model):
    assert generate(model, PROMPTS, 0) == [[], [], [], []]


def test_the_callers_mode_is_untouched_between_steps(model):
    """Dropout is off in a step, and back on after it; recording too: a generator must not leak its settings."""
    tl.manual_seed(1)
    dropping = GPT(TINY.with_dropout(0.5))  # the same weights
    x = tl.tensor([1.0], requires_grad=True)
    tokens = []
    for (token,) in stream(dropping, PROMPTS[1:2], 5):
        tokens.append(token)
        assert dropping.training
        assert dropping.blocks[0].dropout.training
        assert (x * 2).requires_grad
    assert tokens == generate(model, PROMPTS[1:2], 5)[0]
    dropping.eval()
    generate(dropping, PROMPTS, 2)
    assert not dropping.training


# ----- the draws -----


def test_a_thousand_draws_of_the_book():
    """The book's chapter 5, seed 123: the nine toy logits."""
    p = probabilities(tl.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]))
    tl.manual_seed(123)
    counts = Counter(tl.multinomial(p).item() for _ in range(1000))
    assert [counts[i] for i in range(9)] == [73, 0, 0, 582, 2, 0, 0, 343, 0]


def test_draws_come_from_the_seed_or_from_the_default_generator(model):
    def drawn(**seed):
        return generate(model, PROMPTS[:1], 30, temperature=1.5, **seed)

    assert drawn(seed=5) == drawn(seed=5) != drawn(seed=6)
    tl.manual_seed(5)
    assert drawn() == drawn(seed=5)  # one stream, whichever generator holds it
    assert drawn() != drawn(seed=5)  # which has moved on
    state = tl.default_generator.state_dict()
    drawn(seed=5)
    assert tl.default_generator.state_dict() == state  # a seed leaves the default generator alone


def test_temperature_flattens_and_sharpens():
    z = np.array([1.0, 0.0, -2.0], np.float32)
    for temperature in (0.1, 1.0, 5.0):
        e = np.exp(z / temperature)
        np.testing.assert_allclose(probabilities(tl.tensor(z), temperature).numpy(), e / e.sum(), rtol=1e-5)
    assert probabilities(tl.tensor(z).astype(tl.float16)).dtype == tl.float32  # what draws are made from
    for temperature in (1e-30, 1e-45, 5e-324):  # no overflow, no nan: the limit is the best token
        np.testing.assert_array_equal(probabilities(tl.tensor(z), temperature).numpy(), [1, 0, 0])


@pytest.mark.parametrize(
    ("logits", "k", "kept"),
    [
        ([3.0, 1.0, 2.0, 0.0], 1, [0]),
        ([3.0, 1.0, 2.0, 0.0], 3, [0, 1, 2]),
        ([3.0, 1.0, 2.0, 0.0], 4, [0, 1, 2, 3]),
        ([1.0, 2.0, 1.0, 1.0], 2, [0, 1, 2, 3]),  # exactly as probable as the second best: kept
        ([2.0, 2.0, 1.0, 1.0], 2, [0, 1]),
        ([2.0, -math.inf, 1.0, -math.inf], 3, [0, 2]),  # impossible stays impossible
    ],
)
def test_top_k_keeps_the_k_best_and_what_equals_the_last(logits, k, kept):
    p = probabilities(tl.tensor(logits), 1.0, top_k=k).numpy()
    assert np.flatnonzero(p).tolist() == kept
    e = np.exp(np.array(logits)[kept])
    np.testing.assert_allclose(p[kept], e / e.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("p", "top_p", "kept"),
    [
        ([0.5, 0.125, 0.25, 0.125], 0.4, [0]),
        ([0.5, 0.125, 0.25, 0.125], 0.5, [0]),
        ([0.5, 0.125, 0.25, 0.125], 0.51, [0, 2]),
        ([0.5, 0.125, 0.25, 0.125], 0.76, [0, 1, 2, 3]),  # two are equally last
        ([0.5, 0.125, 0.25, 0.125], 1.0, [0, 1, 2, 3]),
        ([0.25, 0.25, 0.25, 0.25], 1e-9, [0, 1, 2, 3]),
        ([1 - 2e-9, 2e-9], 1.0, [0, 1]),  # in float32 the first alone is 1
    ],
)
def test_top_p_keeps_the_fewest_that_reach_p_and_what_equals_the_last(p, top_p, kept):
    cut = probabilities(tl.tensor(np.log(p).astype(np.float32)), 1.0, top_p=top_p).numpy()
    assert np.flatnonzero(cut).tolist() == kept
    np.testing.assert_allclose(cut[kept], np.array(p)[kept], rtol=1e-6)


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=30),
    st.floats(0.05, 0.999),
    st.sampled_from([0.3, 1.0, 2.5]),
)
def test_top_p_is_the_smallest_sufficient_set(logits, top_p, temperature):
    z = np.array(logits, np.float32) / 8
    whole = probabilities(tl.tensor(z), temperature).numpy().astype(np.float64)
    cut = probabilities(tl.tensor(z), temperature, top_p=top_p).numpy()
    kept, least = cut > 0, whole[cut > 0].min()
    assert (whole[~kept] < least).all()  # the most probable ones
    assert whole[kept].sum() >= top_p - 1e-5  # enough
    assert whole[whole > least].sum() < top_p + 1e-5  # without the last, and its equals, not enough


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.3}])
def test_what_was_cut_off_is_never_drawn(model, options):
    read = list(PROMPTS[1])
    (drawn,) = generate(model, [read], 200, temperature=1.0, seed=3, **options)
    assert len(drawn) == 200
    for token in drawn:
        z = next_logits(model, [read]).numpy()[0].astype(np.float64)
        p = np.exp(z) / np.exp(z).sum()
        better = p > p[token]
        assert better.sum() < options["top_k"] if "top_k" in options else p[better].sum() < options["top_p"]
        read.append(token)


def test_a_probability_of_zero_is_never_drawn():
    p = np.zeros(50257, np.float32)
    p[[5, 50000]] = 1e-30, 2e-30
    generator = tl.Generator(0)
    assert {tl.multinomial(tl.tensor(p), generator=generator).item() for _ in range(50)} == {5, 50000}


# ----- what is refused -----


def test_options_may_be_numbers_of_numpy(model):
    plain = generate(model, [[1, 2]], 8, temperature=0.5, top_p=0.75, top_k=3, seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = generate(model, [[1, 2]], np.int64(8), temperature=np.float32(0.5), top_p=np.float16(0.75),
                         top_k=np.int8(3), seed=4)  # fmt: skip
    assert found == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "there is no prompt"),
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[1, V]]}, "prompt 0: id 23 is not in the vocabulary: ids are integers from 0 to 22"),
        ({"prompts": [[1], [-1]]}, "prompt 1: id -1 is not in the vocabulary"),
        ({"prompts": [[1.0]]}, "prompt 0: id 1.0 is not in the vocabulary"),
        ({"stop_token": V}, "stop_token: id 23 is not in the vocabulary"),
        ({"max_new_tokens": -1}, "max_new_tokens must be an integer of at least 0, got -1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be an integer of at least 0, got 2.5"),
        ({"temperature": -0.5}, "temperature must be a finite number of at least 0, got -0.5"),
        ({"temperature": math.nan}, "temperature must be a finite number of at least 0, got nan"),
        ({"temperature": math.inf}, "temperature must be a finite number of at least 0, got inf"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, got 0"),
        ({"top_k": V + 1}, "top_k must be at most the vocabulary's 23 tokens, got 24"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1, got 1.1"),
        ({"top_p": math.nan}, "top_p must be a finite number .* got nan"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_requests_are_refused_at_the_call(model, change, message):
    arguments = {"prompts": [[1, 2]], "max_new_tokens": 3, "temperature": 1.0} | change
    with pytest.raises(ValueError, match=message):
        stream(model, **arguments)  # not iterated
