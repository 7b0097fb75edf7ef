"""Generation on a CPU with a step on arrays: the scores have the bits of the model's modules, whatever the texts."""

import numpy as np
import pytest

import tensorlite as tl
from gpt import generation, lora
from gpt.config import GPTConfig
from gpt.fast import cpu_decode
from gpt.fast.weights_dtype import set_weights_dtype
from gpt.model import GPT
from tensorlite import nn
from tensorlite.kernels.cpu.choose_impl import missing

SHAPE = {"vocab_size": 23, "context_length": 12, "n_layer": 2, "n_head": 2, "n_embd": 16}
MODELS = {
    "gpt2": {"qkv_bias": True, "tie_head": True},
    "book": {"tie_head": False, "init": "torch"},
    "dropout": {"embedding_dropout": 0.5, "attention_dropout": 0.5, "residual_dropout": 0.5},
}
compiled = pytest.mark.skipif(bool(missing()), reason=f"quantized weights: {missing()}")


def model(**changes):
    tl.manual_seed(5)
    return GPT(GPTConfig(**SHAPE, **changes))


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


@pytest.mark.parametrize("texts", [[[1]], [[1, 2, 3, 4, 5, 6]], [[1, 2], [3, 4], [5, 6]], [[1, 2, 3], [4]]])
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=compiled), pytest.param("int8", marks=compiled)]
)
@pytest.mark.parametrize("kind", MODELS)
def test_the_scores_are_those_of_the_modules(kind, dtype, texts):
    net = set_weights_dtype(model(**MODELS[kind]), dtype)
    assert cpu_decode.is_plain(net)
    for ours, plain in zip(*[scores(decoder, texts) for decoder in decoders(net, texts)], strict=True):
        np.testing.assert_array_equal(ours, plain)


def test_most_steps_are_on_arrays(monkeypatch):
    """All but the first, which reads the prompt, and those of a text that is longer than the context."""
    steps = []
    kept = cpu_decode.CPUDecoder.step
    monkeypatch.setattr(cpu_decode.CPUDecoder, "step", lambda self, *args: steps.append(args) or kept(self, *args))
    scores(cpu_decode.CPUDecoder(model(), 1, 12), [[1, 2, 3]], 12)
    assert [position for _, position in steps] == list(range(3, 12))


def test_texts_that_end_earlier_change_nothing(monkeypatch):
    """`stream` reads the last token of an ended text again: the texts are not equally long then."""
    net, prompts = model(), [[1, 2], [3, 4]]
    found = []
    for kind in (cpu_decode.CPUDecoder, generation.Decoder):
        monkeypatch.setattr(
            generation, "make_decoder", lambda net, B, length, use_cache, kind=kind: kind(net, B, length)
        )
        ended = set()
        steps = []
        for number, tokens in enumerate(generation.stream(net, prompts, 8, ended=ended)):
            steps.append(tokens)
            if number == 2:
                ended.add(0)
        found.append(steps)
    assert found[0] == found[1]
    assert len(found[0]) == 8


def test_weights_that_are_loaded_between_two_steps_are_used():
    net, other = model(), model(init="torch", tie_head=True)
    ours, plain = decoders(net, [[1]])
    text = [[1, 2, 3]]
    for decoder in (ours, plain):
        decoder.logits(text)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        p.data = q.data.copy()
    text[0].append(4)
    np.testing.assert_array_equal(ours.logits(text).numpy(), plain.logits(text).numpy())


def test_other_models_are_computed_by_their_modules():
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
    for net in (changed, double, adapted, patched):
        assert not cpu_decode.is_plain(net)
