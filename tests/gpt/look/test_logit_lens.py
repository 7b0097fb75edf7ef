"""The logit lens. The oracle is a model with fewer blocks and the same weights: after layer i, it predicts the same."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from inside import TEXT, head_of, layer_norm, loaded, softmax
from labelled import entries, learn, tune, write_tsv
from runs import quickly_drawn, train  # noqa: F401

import tensorlite as tl
from gpt import look
from gpt.look import lens as lens_module
from gpt.look.display import sequential
from gpt.model import GPT
from gpt.tasks.classify import inference
from gpt.tasks.pretrain import TrainConfig


def stopped_after(model: GPT, ids: list[int], layers: int) -> np.ndarray:
    """The probabilities (T, V) of a model that has only the first blocks; without any, by the formula."""
    if layers == 0:
        x = model.token_embedding.weight.numpy()[ids] + model.position_embedding.weight.numpy()[: len(ids)]
        return softmax(layer_norm(x, model.final_norm) @ head_of(model).T)
    short = GPT(replace(model.config, n_layer=layers)).to(tl.float64).eval()
    state = model.state_dict()
    short.load_state_dict({name: state[name] for name in short.state_dict()})
    return softmax(short(tl.tensor([ids]))[0].numpy()[0])


@pytest.mark.parametrize("tied", [True, False])
def test_each_layer_predicts_what_a_model_without_the_later_blocks_predicts(tied):
    model = loaded(tied)
    found = look.logit_lens(model, TEXT, k=4)
    assert [layer.name for layer in found.layers] == ["embedding", "block 0", "block 1", "block 2"]
    assert found.ids == model.encode(TEXT)
    for i, layer in enumerate(found.layers):
        p = stopped_after(model.model, found.ids, i)
        order = np.argsort(-p, axis=-1, kind="stable")
        assert layer.ids == order[:, :4].tolist()
        np.testing.assert_allclose(layer.probabilities, np.take_along_axis(p, order[:, :4], -1), rtol=1e-11)
        for t, target in enumerate(found.ids[1:]):
            assert layer.true_probability[t] == pytest.approx(p[t, target], rel=1e-11)
            assert layer.true_rank[t] == 1 + (p[t] > p[t, target]).sum()
        assert layer.true_probability[-1] is layer.true_rank[-1] is None
    assert all(found.texts[id] == model.text_of(id) for layer in found.layers for best in layer.ids for id in best)


def test_dropout_is_off_and_the_mode_of_the_model_is_kept():
    model = loaded()
    expected = look.logit_lens(model, TEXT)
    model.model.train()
    assert look.logit_lens(model, TEXT) == expected
    assert model.model.training


def test_the_rows_that_are_computed_at_a_time_do_not_matter(monkeypatch):
    model = loaded()
    at_once = look.logit_lens(model, TEXT)
    monkeypatch.setattr(lens_module, "MOST_LOGITS", 3 * model.model.config.vocab_size)
    in_parts = look.logit_lens(model, TEXT)
    for one, other in zip(at_once.layers, in_parts.layers, strict=True):
        assert (one.ids, one.true_rank) == (other.ids, other.true_rank)
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-12)
        np.testing.assert_allclose(one.true_probability[:-1], other.true_probability[:-1], rtol=1e-12)


def test_all_tokens_of_the_vocabulary_are_the_most_that_are_shown():
    layer = look.logit_lens(loaded(), TEXT, k=1000).layers[-1]
    assert all(sorted(ids) == list(range(18)) for ids in layer.ids)
    np.testing.assert_allclose(np.sum(layer.probabilities, axis=-1), 1, rtol=1e-12)


@pytest.mark.parametrize("position", [0, 4, -1])
def test_followed_tokens_have_the_probability_and_rank_of_each_layer(position):
    model = loaded(tied=False)
    ids = model.encode(TEXT)
    found = look.follow_tokens(model, TEXT, ["c", 0, "<"], position)
    assert found.position == position % len(ids)
    assert found.texts == ["c", model.text_of(0), "<"]
    for i in range(4):
        p = stopped_after(model.model, ids, i)[position]
        for n, id in enumerate(found.ids):
            assert found.probabilities[n][i] == pytest.approx(p[id], rel=1e-11)
            assert found.ranks[n][i] == 1 + (p > p[id]).sum()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: look.logit_lens(m, ""), "no tokens"),
        (lambda m: look.logit_lens(m, "a" * 17), "17 tokens and the model's context has 16"),
        (lambda m: look.follow_tokens(m, TEXT, ["ab"]), "'ab' is 2 tokens, not one: 'a'"),
        (lambda m: look.follow_tokens(m, TEXT, [18]), "token 18 is not in the vocabulary: ids are 0 to 17"),
        (lambda m: look.follow_tokens(m, TEXT, [-1]), "token must be an integer of at least 0"),
        (lambda m: look.follow_tokens(m, TEXT, [0], 11), "position must be an integer from -11 to 10"),
        (lambda m: look.follow_tokens(m, TEXT, [0], 0.5), "position must be an integer"),
        (lambda m: look.label_lens(m, TEXT), "small is not a classifier"),
    ],
)
def test_invalid_requests_are_refused_with_a_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call(loaded())


def test_a_cell_has_the_colour_of_the_best_tokens_probability():
    found = look.logit_lens(loaded(), TEXT, k=3)
    rows = list(ElementTree.fromstring(found._repr_html_()).find("table"))[1:-1]
    for row, layer in zip(rows, found.layers, strict=True):
        for cell, (best, *_) in zip(row[1:], layer.probabilities, strict=True):
            assert f"background:{sequential(best)};" in cell.get("style")


def test_the_last_position_is_followed_by_default():
    model = loaded()
    found = look.follow_tokens(model, TEXT, ["c"])
    assert found == look.follow_tokens(model, TEXT, ["c"], len(TEXT) - 1)
    assert found.position == len(TEXT) - 1


def test_pictures_show_the_tokens_and_escape_them():
    model = loaded()
    html = look.logit_lens(model, TEXT)._repr_html_()
    assert html.count("<tr>") == 4 + 2
    assert "&lt;" in html
    assert "<<" not in html
    framed = sum(layer.true_rank.count(1) for layer in look.logit_lens(model, TEXT).layers)
    assert html.count("2px solid #15803d") == framed
    svg = look.follow_tokens(model, TEXT, ["<", "&"], 2)._repr_svg_()
    assert svg.count("<polyline") == 2
    assert "&lt;, block 2: " in svg
    assert "&amp;" in svg


def test_a_diverged_model_has_pictures_without_numbers():
    model = loaded(tied=False)
    for p in model.model.parameters():
        p.data[...] = np.nan
    lens = look.logit_lens(model, TEXT)
    assert np.isnan(lens.layers[-1].probabilities).all()
    stream = look.residual_stream(model, TEXT)
    assert np.isnan(stream.attribution.logit)
    shown = [lens, look.follow_tokens(model, TEXT, [0, 1]), stream, look.nearest_tokens(model, 0)]
    for found in [*shown, look.positions(model), look.token_map(model, TEXT)]:
        assert len(found._repr_html_() if hasattr(found, "_repr_html_") else found._repr_svg_()) > 200


# ----- classifiers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """classifier(position): a classifier that reads there."""
    folder = tmp_path_factory.mktemp("classifiers")
    (folder / "text.txt").write_text("\n".join(e.text for e in entries()) * 3, encoding="utf-8")
    shape = {"vocab_size": 270, "n_layer": 2, "n_head": 2, "n_embd": 16, "context_length": 24}
    train(TrainConfig(text=(folder / "text.txt",), out=folder / "base", steps=2, batch_size=2, threads=1, **shape))
    write_tsv(folder / "data.tsv")

    def classifier(position: str) -> look.LoadedModel:
        if not (folder / position).exists():
            learn(tune(folder, folder / "base", out=folder / position, position=position, epochs=1))
        return look.load(folder / position)

    return classifier


@pytest.mark.slow
@pytest.mark.parametrize("position", ["last", "last-real", "first", "mean"])
def test_the_last_layer_of_a_classifier_is_its_prediction(classifiers, position):
    model = classifiers(position)
    text = "give me a pear 7"
    found = look.label_lens(model, text)
    (expected,) = inference.predict(model.classifier, [text])
    assert dict(zip(found.labels, found.probabilities[-1], strict=True)) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(np.sum(found.probabilities, axis=-1), 1, rtol=1e-6)
    assert len(set(map(tuple, found.probabilities))) == len(found.layers) == 3
    assert found.position == position
    assert "fruit" in found._repr_svg_()


@pytest.mark.slow
def test_a_classifier_predicts_no_tokens(classifiers):
    model = classifiers("last")
    with pytest.raises(ValueError, match="is a classifier: it predicts labels"):
        look.logit_lens(model, "a pear")
    found = look.residual_stream(model, "a pear")
    assert found.attribution is None
    assert len(found.sizes) == 2 + 2 * 2
    assert look.nearest_tokens(model, 5).head is None
    assert "heat" not in found._repr_html_()
