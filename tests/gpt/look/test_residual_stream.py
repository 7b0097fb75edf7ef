"""The residual stream: sizes, and the effects of parts on a logit, against the forward pass and NumPy."""

import json

import numpy as np
import pytest
from inside import TEXT, head_of, layer_norm, loaded

import tensorlite as tl
from gpt import look

PARTS = ["token embedding", "position embedding"] + [
    f"{kind} {i}" for i in range(3) for kind in ("attention", "feed-forward")
]


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request):
    return loaded(request.param)


def forward_logits(model, ids) -> np.ndarray:
    with tl.no_grad():
        return model.model(tl.tensor([ids]))[0].numpy()[0]


def added_vectors(model, ids) -> list[np.ndarray]:
    """What each part adds, (T, C) each, computed module by module."""
    net = model.model
    with tl.no_grad():
        parts = [net.token_embedding.weight.numpy()[ids], net.position_embedding.weight.numpy()[: len(ids)]]
        for block in net.blocks:
            x = tl.tensor(sum(parts)[None])
            parts.append(block.attention(block.norm1(x)).numpy()[0])
            x = tl.tensor(sum(parts)[None])
            parts.append(block.feed_forward(block.norm2(x)).numpy()[0])
    return parts


def project(model, vector, stream, direction) -> float:
    """The effect of a vector on the product of the normalized stream with a direction, the scale of the norm kept."""
    norm = model.model.final_norm
    scale = np.sqrt(stream.var() + norm.eps)
    return float((vector - vector.mean()) / scale * norm.weight.numpy() @ direction)


def test_sizes_are_the_norms_of_what_is_added(model):
    ids = model.encode(TEXT)
    parts = added_vectors(model, ids)
    found = look.residual_stream(model, TEXT)
    assert [size.name for size in found.sizes] == PARTS
    for i, size in enumerate(found.sizes):
        np.testing.assert_allclose(size.added, np.linalg.norm(parts[i], axis=-1), rtol=1e-12)
        np.testing.assert_allclose(size.after, np.linalg.norm(sum(parts[: i + 1]), axis=-1), rtol=1e-12)
        np.testing.assert_allclose(
            size.before, np.linalg.norm(sum(parts[:i], np.zeros((len(ids), 12))), axis=-1), rtol=1e-12
        )


@pytest.mark.parametrize("position", [0, 5, -1])
@pytest.mark.parametrize("token", [None, "p", 3])
def test_the_effects_sum_to_the_logit_of_the_forward_pass(model, position, token):
    ids = model.encode(TEXT)
    logits = forward_logits(model, ids)[position]
    found = look.residual_stream(model, TEXT, position, token).attribution
    chosen = {None: int(logits.argmax()), "p": model.encode("p")[0], 3: 3}[token]
    assert (found.position, found.token, found.text) == (position % len(ids), chosen, model.text_of(chosen))
    assert sum(effect.logit for effect in found.effects) == pytest.approx(logits[chosen], rel=1e-11)
    assert sum(effect.mean for effect in found.effects) == pytest.approx(logits.mean(), rel=1e-11, abs=1e-13)
    assert sum(effect.relative for effect in found.effects) == pytest.approx(logits[chosen] - logits.mean(), rel=1e-11)
    assert (found.logit, found.mean_logit) == pytest.approx((logits[chosen], logits.mean()), rel=1e-11)
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert found.probability == pytest.approx(p[chosen], rel=1e-11)
    assert found.rank == 1 + (logits > logits[chosen]).sum()
    assert [id for id, _, _ in found.candidates] == np.argsort(-logits)[:5].tolist()
    assert all(isinstance(effect.parts, tuple) for effect in found.effects)
    np.testing.assert_allclose([share for _, _, share in found.candidates], np.sort(p)[::-1][:5], rtol=1e-11)


def test_each_effect_is_the_projection_of_its_part(model):
    ids, at, token = model.encode(TEXT), 6, 4
    parts = added_vectors(model, ids)
    rows = head_of(model.model)
    stream = sum(parts)[at]
    found = look.residual_stream(model, TEXT, at, token).attribution
    assert [effect.name for effect in found.effects] == [*PARTS, "final norm's bias"]
    for effect, part in zip(found.effects, parts, strict=False):
        assert effect.logit == pytest.approx(project(model, part[at], stream, rows[token]), rel=1e-10)
        assert effect.mean == pytest.approx(project(model, part[at], stream, rows.mean(0)), rel=1e-10)
    bias = model.model.final_norm.bias.numpy()
    assert found.effects[-1].logit == pytest.approx(bias @ rows[token], rel=1e-11)
    assert found.effects[-1].mean == pytest.approx(bias @ rows.mean(0), rel=1e-11)
    assert layer_norm(stream, model.model.final_norm) @ rows[token] == pytest.approx(found.logit, rel=1e-10)


def test_the_heads_and_the_bias_sum_to_attention(model):
    found = look.residual_stream(model, TEXT, 7, "b").attribution
    attentions = [effect for effect in found.effects if effect.parts]
    assert [effect.name for effect in attentions] == ["attention 0", "attention 1", "attention 2"]
    for effect in attentions:
        assert [part.name for part in effect.parts] == ["head 0", "head 1", "head 2", "bias"]
        assert sum(part.logit for part in effect.parts) == pytest.approx(effect.logit, rel=1e-10)
        assert sum(part.mean for part in effect.parts) == pytest.approx(effect.mean, rel=1e-10)


def test_a_head_adds_what_attention_adds_when_the_other_heads_are_cut_off(model):
    """Columns of W_out set to zero cut a head off; the bias is subtracted."""
    ids, at, token = model.encode(TEXT), 7, 2
    parts, rows = added_vectors(model, ids), head_of(model.model)
    stream = sum(parts)[at]
    found = look.residual_stream(model, TEXT, at, token).attribution
    for layer, block in enumerate(model.model.blocks):
        x = tl.tensor(sum(parts[: 2 + 2 * layer])[None])
        effect = found.effects[2 + 2 * layer]
        out = block.attention.out_proj
        whole, bias = out.weight.numpy().copy(), out.bias.numpy()
        for h in range(3):
            out.weight.data[...] = 0
            out.weight.data[:, 4 * h : 4 * h + 4] = whole[:, 4 * h : 4 * h + 4]
            out.weight.changed()
            with tl.no_grad():
                alone = block.attention(block.norm1(x)).numpy()[0, at] - bias
            assert effect.parts[h].logit == pytest.approx(project(model, alone, stream, rows[token]), rel=1e-9)
        out.weight.data[...] = whole
        out.weight.changed()
        assert effect.parts[3].logit == pytest.approx(project(model, bias, stream, rows[token]), rel=1e-9)


def test_in_float32_the_sum_is_the_logit_to_rounding():
    model = loaded(layers=6, width=48)
    model.model.to(tl.float32)
    for position in range(5):
        found = look.residual_stream(model, TEXT, position).attribution
        logits = forward_logits(model, model.encode(TEXT))[position]
        assert sum(effect.logit for effect in found.effects) == pytest.approx(logits.max(), rel=1e-4)


def test_the_pictures_and_the_json_have_the_numbers():
    model = loaded()
    found = look.residual_stream(model, TEXT, -1, "<")
    html = found._repr_html_()
    assert "logit of &#x27;&lt;&#x27; minus the mean logit, at position 10" in html
    assert f"{found.attribution.effects[3].relative:+.3g}" in html
    assert html.count("<svg") == 2
    assert json.loads(json.dumps(found.to_dict()))["attribution"]["effects"][2]["parts"][1]["name"] == "head 1"


def test_a_stream_of_zeros_has_a_picture():
    model = loaded()
    for embedding in (model.model.token_embedding, model.model.position_embedding):
        embedding.weight.data[...] = 0
        embedding.weight.changed()
    found = look.residual_stream(model, TEXT)
    assert set(found.sizes[2].before) == {0.0}
    assert "no value" in found._repr_html_()


@pytest.mark.parametrize(
    ("position", "token", "says"),
    [
        (11, None, "position must be an integer from -11 to 10 for a text of 11 tokens, got 11"),
        (-12, None, "position must be"),
        (True, None, "position must be"),
        (0, 18, "token 18 is not in the vocabulary"),
        (0, "ab", "is 2 tokens, not one"),
        (0, 1.0, "token must be an integer"),
    ],
)
def test_invalid_requests_are_refused_with_a_sentence(position, token, says):
    with pytest.raises(ValueError, match=says):
        look.residual_stream(loaded(), TEXT, position, token)
