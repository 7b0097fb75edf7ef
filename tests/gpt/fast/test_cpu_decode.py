"""Generation on a CPU with a compiled step: the scores are those of the model's modules, whatever the texts."""

import numpy as np
import pytest

import tensorlite as tl
from gpt import generation, lora
from gpt.config import GPTConfig
from gpt.fast import cpu_decode
from gpt.fast.weights_dtype import set_weights_dtype
from gpt.model import GPT
from tensorlite import nn
from tensorlite.kernels.cpu import decode
from tensorlite.kernels.cpu.choose_impl import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"the step is compiled: {missing()}")

SHAPE = {"vocab_size": 23, "context_length": 12, "n_layer": 2, "n_head": 2, "n_embd": 16}
MODELS = {
    "gpt2": {"qkv_bias": True, "tie_head": True},
    "book": {"tie_head": False, "init": "torch"},
    "one block": {"n_layer": 1},
    "dropout": {"embedding_dropout": 0.5, "attention_dropout": 0.5, "residual_dropout": 0.5},
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums of float32 in another order


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(decode, "MIN_WEIGHTS", 0)


def model(**changes):
    tl.manual_seed(5)
    return GPT(GPTConfig(**{**SHAPE, **changes}))


def scores(decoder, texts, tokens=10):
    """Each step's scores of a greedy continuation, which outgrows the context."""
    texts, found = [list(text) for text in texts], []
    for _ in range(tokens):
        found.append(decoder.logits(texts).numpy())
        for text, row in zip(texts, found[-1], strict=True):
            text.append(int(row.argmax()))
    return found


def decoders(net, texts):
    return [kind(net, len(texts), 12) for kind in (cpu_decode.CPUDecoder, generation.Decoder)]


@pytest.fixture
def steps(monkeypatch):
    """The positions of the compiled steps."""
    found = []
    kept = decode.TokenStep.__call__

    def step(self, x, keys, values, positions):
        found.append(list(positions))
        return kept(self, x, keys, values, positions)

    monkeypatch.setattr(decode.TokenStep, "__call__", step)
    return found


@pytest.mark.parametrize("texts", [[[1]], [[1, 2, 3, 4, 5, 6]], [[1, 2], [3, 4], [5, 6]], [[1, 2, 3], [4]]])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_scores_are_those_of_the_modules(kind, dtype, texts):
    net = set_weights_dtype(model(**MODELS[kind]), dtype)
    assert cpu_decode.supports(net, len(texts))
    for ours, plain in zip(*[scores(decoder, texts) for decoder in decoders(net, texts)], strict=True):
        np.testing.assert_allclose(ours, plain, **CLOSE)


def test_all_steps_are_compiled_but_the_prompt_and_those_beyond_the_context(steps):
    scores(cpu_decode.CPUDecoder(model(), 1, 12), [[1, 2, 3]], 12)
    assert steps == [[position] for position in range(3, 12)]


def test_texts_of_different_lengths_share_a_step(steps):
    scores(cpu_decode.CPUDecoder(model(), 2, 12), [[1, 2, 3], [4]], 4)
    assert steps == [[3, 1], [4, 2], [5, 3]]


def test_a_prompt_of_one_token_and_a_text_that_outgrows_the_context_before_another(steps):
    net, texts = model(), [[1], list(range(1, 11))]
    ours, plain = (scores(decoder, texts, 6) for decoder in decoders(net, texts))
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    assert steps == [[1, 10], [2, 11]]  # then the modules
    steps.clear()
    scores(cpu_decode.CPUDecoder(net, 1, 12), [[1]], 3)
    assert steps == [[1], [2]]


def test_texts_that_end_earlier_change_nothing(monkeypatch, steps):
    """`stream` reads the last token of an ended text again."""
    net, prompts = model(), [[1, 2], [3, 4]]
    found = []
    for kind in (cpu_decode.CPUDecoder, generation.Decoder):
        monkeypatch.setattr(
            generation, "make_decoder", lambda net, B, length, use_cache, kind=kind: kind(net, B, length)
        )
        ended = set()
        tokens_of_steps = []
        for number, tokens in enumerate(generation.stream(net, prompts, 8, ended=ended)):
            tokens_of_steps.append(tokens)
            if number == 2:
                ended.add(0)
        found.append(tokens_of_steps)
    assert found[0] == found[1]
    assert len(found[0]) == 8
    assert steps[-1][0] < steps[-1][1] == 8


@pytest.mark.parametrize("in_place", [False, True])
def test_weights_that_change_between_two_steps_are_used(in_place):
    net, other = model(tie_head=True), model(init="torch", tie_head=True)
    ours, plain = decoders(net, [[1]])
    text = [[1, 2, 3]]
    for decoder in (ours, plain):
        decoder.logits(text)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        if in_place:
            p.data[...] = q.data
        else:
            p.data = q.data.copy()
    text[0].append(4)
    np.testing.assert_allclose(ours.logits(text).numpy(), plain.logits(text).numpy(), **CLOSE)


@pytest.mark.parametrize(
    "change",
    [lambda x: x.astype(np.float64), lambda x: x.astype(np.float16), lambda x: np.asfortranarray(x * 2)],
    ids=["float64", "float16", "Fortran order"],
)
def test_weights_that_become_such_as_the_step_cannot_read_are_computed_by_the_modules(change):
    net = model(tie_head=True)
    ours, plain = decoders(net, [[1]])
    text, kept = [[1, 2, 3]], [p.data for p in net.parameters()]
    for decoder in (ours, plain):
        decoder.logits(text)
    for p in net.parameters():
        p.data = change(p.data)
    for token in (4, 5):
        text[0].append(token)
        np.testing.assert_allclose(ours.logits(text).numpy(), plain.logits(text).numpy(), **CLOSE)
    for p, x in zip(net.parameters(), kept, strict=True):
        p.data = x
    text[0].append(6)
    np.testing.assert_allclose(ours.logits(text).numpy(), plain.logits(text).numpy(), **CLOSE)


def test_other_models_are_computed_by_their_modules(monkeypatch):
    class Louder(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    changed = model()
    changed.blocks[0].feed_forward.expand = Louder(16, 64)
    double = model().to(tl.float64)
    adapted = model()
    lora.apply(adapted, rank=2, alpha=2)
    patched = model()
    vars(patched.blocks[1])["forward"] = lambda x, cache=None: x
    steep = model()
    steep.blocks[1].norm2.eps = 1e-3
    no_weight, no_bias = model(), model()
    no_weight.blocks[0].norm1.weight = None
    no_bias.final_norm.bias = None
    positions = model()
    positions.position_embedding.to(tl.float64)
    for net in (changed, double, adapted, patched, steep, no_weight, no_bias, positions):
        assert not cpu_decode.supports(net, 1)
    assert cpu_decode.supports(model(), decode.MOST_TEXTS)
    assert not cpu_decode.supports(model(), decode.MOST_TEXTS + 1)
    monkeypatch.setattr(decode, "MIN_WEIGHTS", 1 << 18)
    assert not cpu_decode.supports(model(), 1)
