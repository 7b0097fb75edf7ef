"""The logit lens and the effects on a logit, from what hooks read in transformers' model of the same weights."""

from pathlib import Path

import numpy as np
import pytest

import tensorlite as tl
from gpt import look, pretrained
from gpt.tokenizer import CharTokenizer

torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")
transformers = pytest.importorskip("transformers", reason="the peer of this test: pip install -e '.[peers]'")

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT = "thequickbrownfox"
HEADS, LAYERS, WIDTH = 4, 3, 32


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(ours, theirs), both in float64, with random biases and norms."""
    torch.manual_seed(0)
    shape = {"vocab_size": 26, "n_positions": 20, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=None, eos_token_id=None, **shape)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    model = pretrained.load(folder).to(tl.float64).eval()
    ours = look.LoadedModel(Path("theirs"), None, "pretrain", model, CharTokenizer.train(LETTERS), {})
    return ours, theirs.double()


def test_the_lens_is_ln_f_and_the_head_on_their_hidden_states(pair):
    ours, theirs = pair
    found = look.logit_lens(ours, TEXT, k=5)
    with torch.no_grad():
        states = theirs(torch.tensor([found.ids]), output_hidden_states=True).hidden_states
        # the last state is normalized already
        normalized = [*(theirs.transformer.ln_f(x) for x in states[:-1]), states[-1]]
        shares = [torch.softmax(theirs.lm_head(x)[0], -1) for x in normalized]
    assert len(found.layers) == LAYERS + 1
    for layer, p in zip(found.layers, shares, strict=True):
        values, ids = p.topk(5)
        assert layer.ids == ids.tolist()
        np.testing.assert_allclose(layer.probabilities, values.numpy(), rtol=1e-9)
        truth = p[range(len(found.ids) - 1), found.ids[1:]]
        np.testing.assert_allclose(layer.true_probability[:-1], truth.numpy(), rtol=1e-9)


def test_the_effects_are_projections_of_what_their_modules_add(pair):
    ours, theirs = pair
    at, token = 9, 4
    found = look.residual_stream(ours, TEXT, at, token)
    read: dict[str, torch.Tensor] = {}

    def keep(name, what):
        return lambda module, inputs, output: read.__setitem__(name, (inputs if what == "in" else output)[0].detach())

    hooks = []
    body = theirs.transformer
    for i, block in enumerate(body.h):
        hooks.append(block.attn.register_forward_hook(keep(f"attention {i}", "out")))
        hooks.append(block.attn.c_proj.register_forward_hook(keep(f"contexts {i}", "in")))
        hooks.append(block.mlp.register_forward_hook(lambda m, x, out, i=i: read.__setitem__(f"feed-forward {i}", out)))
    hooks.append(body.ln_f.register_forward_hook(keep("stream", "in")))
    with torch.no_grad():
        logits = theirs(torch.tensor([found.ids])).logits[0, at]
    for hook in hooks:
        hook.remove()

    stream = read["stream"][0, at]
    direction = body.ln_f.weight / (stream.var(correction=0) + body.ln_f.eps).sqrt() * theirs.lm_head.weight[token]

    def effect(vector) -> float:
        return ((vector - vector.mean()) @ direction).item()

    effects = {e.name: e for e in found.attribution.effects}
    assert effects["token embedding"].logit == pytest.approx(effect(body.wte.weight[found.ids[at]]), rel=1e-9)
    assert effects["position embedding"].logit == pytest.approx(effect(body.wpe.weight[at]), rel=1e-9)
    for i, block in enumerate(body.h):
        assert effects[f"feed-forward {i}"].logit == pytest.approx(effect(read[f"feed-forward {i}"][0, at]), rel=1e-9)
        attention = effects[f"attention {i}"]
        assert attention.logit == pytest.approx(effect(read[f"attention {i}"][0, at]), rel=1e-9)
        contexts = read[f"contexts {i}"][0, at].reshape(HEADS, -1)
        rows = block.attn.c_proj.weight.reshape(HEADS, WIDTH // HEADS, WIDTH)  # their matrices are (in, out)
        for h in range(HEADS):
            assert attention.parts[h].logit == pytest.approx(effect(contexts[h] @ rows[h]), rel=1e-9)
        assert attention.parts[-1].logit == pytest.approx(effect(block.attn.c_proj.bias), rel=1e-9)
    assert sum(e.logit for e in found.attribution.effects) == pytest.approx(logits[token].item(), rel=1e-10)
    assert found.attribution.mean_logit == pytest.approx(logits.mean().item(), rel=1e-10)
