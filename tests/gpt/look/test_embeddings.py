"""Nearest tokens, maps of positions and tokens, principal components, the search for tokens: against NumPy."""

import base64
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from inside import LETTERS, TEXT, loaded

import tensorlite as tl
from gpt import look
from gpt.config import GPTConfig
from gpt.look.components import principal_components
from gpt.look.vocabulary import token_id
from gpt.model import GPT
from gpt.tokenizer import BPETokenizer


def cosines(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return rows @ vector / np.linalg.norm(rows, axis=-1) / np.linalg.norm(vector)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("token", ["c", 0, 17])
def test_nearest_tokens_have_the_largest_cosines(tied, token):
    model = loaded(tied)
    weight = model.model.token_embedding.weight.numpy()
    found = look.nearest_tokens(model, token, k=6)
    id = model.encode(token)[0] if isinstance(token, str) else token
    assert (found.id, found.text) == (id, model.text_of(id))
    near = cosines(weight, weight[id])
    order = [other for other in np.argsort(-near) if other != id][:6]
    assert [line.id for line in found.embedding] == order
    assert [line.text for line in found.embedding] == [model.text_of(int(other)) for other in order]
    np.testing.assert_allclose([line.cosine for line in found.embedding], near[order], rtol=1e-11)
    assert found.norm == pytest.approx(np.linalg.norm(weight[id]), rel=1e-12)
    assert found.mean_norm == pytest.approx(np.linalg.norm(weight, axis=-1).mean(), rel=1e-12)
    if tied:
        assert found.head is None
    else:
        near = cosines(model.model.head.weight.numpy(), weight[id])
        assert [line.id for line in found.head] == np.argsort(-near)[:6].tolist()
        np.testing.assert_allclose([line.cosine for line in found.head], np.sort(near)[::-1][:6], rtol=1e-11)


def test_a_token_is_never_its_own_neighbour_and_all_others_are():
    model = loaded()
    model.model.token_embedding.weight.data[5] = model.model.token_embedding.weight.data[2]  # the cosine is 1, too
    for id in (2, 5):
        found = look.nearest_tokens(model, id, k=100)
        assert sorted(line.id for line in found.embedding) == [other for other in range(18) if other != id]
        assert found.embedding[0].id == 7 - id


@pytest.mark.parametrize("tied", [True, False])
def test_all_tokens_of_the_vocabulary_are_shown(tied):
    """The head has one more than the embedding: the token itself."""
    found = look.nearest_tokens(loaded(tied), 4, k=100)
    table = ElementTree.fromstring(found._repr_html_()).find("table")
    rows = [[cell.text for cell in row] for row in table]
    assert rows[0] == ["token embedding"] if tied else ["token embedding", "head"]
    for i, near in enumerate([found.embedding] if tied else [found.embedding, found.head]):
        shown = [row[i] for row in rows[1:] if row[i]]
        assert shown == [f"{one.text} ({one.id}) {one.cosine:.3f}" for one in near]
        assert len(shown) == 17 + i


@pytest.mark.parametrize(("context", "labels"), [(16, [0, 8]), (600, [0, 120, 240, 360, 480])])
def test_every_eighth_row_of_the_positions_has_its_number(context, labels):
    svg = look.positions(loaded(context=context))._repr_html_().removeprefix("<div>").partition("</svg>")[0] + "</svg>"
    texts = [one.text for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text") if one.text]
    assert texts[1:] == [str(label) for label in labels] * 2  # the rows', then the columns'


@pytest.mark.parametrize(("context", "stride"), [(16, 1), (257, 2), (600, 3)])
def test_positions_are_compared_with_each_other(context, stride):
    model = loaded(context=context)
    weight = model.model.position_embedding.weight.numpy()
    found = look.positions(model)
    assert found.stride == stride
    kept = weight[::stride] / np.linalg.norm(weight[::stride], axis=-1, keepdims=True)
    np.testing.assert_allclose(found.similarity, kept @ kept.T, atol=1e-12)
    assert len(found.components) == context
    sent = np.frombuffer(base64.b64decode(found.to_dict()["similarity"]), "<f4").reshape(len(kept), -1)
    np.testing.assert_allclose(sent, kept @ kept.T, atol=1e-6)
    assert "<svg" in found._repr_html_()


def test_the_tokens_of_a_text_are_mapped_once_each():
    model = loaded()
    found = look.token_map(model, "abbac")
    assert (found.texts, found.counts) == (["a", "b", "c"], [2, 2, 1])
    x = model.model.token_embedding.weight.numpy()[found.ids]
    distances = np.linalg.norm(x[:, None] - x, axis=-1)  # three points lie in a plane: no distance is lost
    placed = np.array(found.components)
    np.testing.assert_allclose(np.linalg.norm(placed[:, None] - placed, axis=-1), distances, rtol=1e-8, atol=1e-12)
    assert sum(found.explained) == pytest.approx(1)
    assert look.token_map(model, "<&")._repr_svg_().count("&lt;") == 2


# ----- principal components ---------------------------------------------------------------------------------------


def check_components(x: np.ndarray, rel: float) -> None:
    """Against the singular value decomposition: the variances, and the coordinates up to the sign of an axis."""
    coordinates, explained = principal_components(tl.tensor(x))
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(explained, (s**2 / (s**2).sum())[:2], rtol=rel)
    for i in range(2):
        found, expected = coordinates.numpy()[:, i], u[:, i] * s[i]
        expected = expected * np.sign(expected @ found)
        np.testing.assert_allclose(found, expected, atol=rel * np.abs(expected).max())
        assert found.max() >= -found.min()


@pytest.mark.parametrize("shape", [(5, 3), (3, 40), (40, 40), (64, 200), (300, 30)])
def test_components_are_those_of_the_svd_where_the_space_is_small(shape):
    check_components(np.random.default_rng(sum(shape)).standard_normal(shape), 1e-8)


@pytest.mark.parametrize("shape", [(120, 300), (500, 150)])
def test_components_are_those_of_the_svd_where_lanczos_does_not_span_all(shape):
    draw = np.random.default_rng(1)
    spread = 1.0 / np.arange(1, shape[1] + 1)  # variances that fall, as those of learned positions
    check_components(draw.standard_normal(shape) * spread + 3, 1e-6)


@pytest.mark.parametrize("gap", [1e-3, 1e-6])
def test_axes_of_almost_equal_variance_are_told_apart(gap):
    n = 30
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((n, 3)))[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0]
    check_components(basis * [1 + gap, 1, 0.5], 1e-4)


@pytest.mark.parametrize("x", [np.ones((4, 3)), np.zeros((1, 5)), np.full((6, 2), 1e6)])
def test_equal_points_have_no_axes(x):
    coordinates, explained = principal_components(tl.tensor(x))
    assert coordinates.tolist() == [[0.0, 0.0]] * len(x)
    assert explained == [0.0, 0.0]


def test_points_on_a_line_have_one_axis():
    x = np.outer(np.arange(6.0), [3.0, 4.0, 0.0])
    coordinates, explained = principal_components(tl.tensor(x))
    np.testing.assert_allclose(np.abs(coordinates.numpy()[:, 0]), np.abs(5 * (np.arange(6) - 2.5)), rtol=1e-9)
    assert coordinates.numpy()[:, 1].tolist() == [0.0] * 6
    assert explained == [pytest.approx(1), 0.0]


# ----- the search for tokens --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words():
    """A model with a byte-level BPE tokenizer whose tokens are longer than a letter."""
    text = "the cat, the other cat and the weather: the king, the king's 12 kings " * 20
    tokenizer = BPETokenizer.train(text, 300)
    config = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=16, n_layer=1, n_head=1, n_embd=4)
    return replace(loaded(), tokenizer=tokenizer, model=GPT(config).eval())


def test_a_query_finds_the_exact_token_first_then_those_that_contain_it(words):
    found = look.find_tokens(words, "the")
    assert found[0][1] == "the"
    assert [text for _, text in found[1:]] == sorted((t for _, t in found[1:]), key=len)
    everything = [words.text_of(id) for id in range(words.model.config.vocab_size)]
    assert {text for _, text in found} == {text for text in everything if "the" in text}


def test_a_query_finds_an_id_and_the_parts_of_a_longer_text(words):
    assert (258, words.text_of(258)) in look.find_tokens(words, "258")
    parts = words.encode("the zebra")
    assert len(parts) > 2
    assert [id for id, _ in look.find_tokens(words, "the zebra")] == list(dict.fromkeys(parts))


def test_at_most_so_many_are_found_and_none_for_nothing(words):
    assert len(look.find_tokens(words, "e", most=3)) == 3
    assert look.find_tokens(words, "") == []
    assert look.find_tokens(loaded(), "☃") == []
    assert look.find_tokens(loaded(), "99") == []
    assert look.find_tokens(loaded(), "9" * 50) == []


def test_a_digit_is_a_token_and_an_id():
    small = loaded()
    assert look.find_tokens(small, "3") == [(3, small.text_of(3))]


def test_a_token_is_named_by_its_text_or_its_id():
    small = loaded()
    for id, letter in enumerate(sorted(LETTERS)):
        assert token_id(small, letter) == token_id(small, id) == small.encode(letter)[0]
    with pytest.raises(ValueError, match=r"is 11 tokens, not one: 'b' .*, \.\.\.; give one of them, or an id"):
        token_id(small, TEXT)
    with pytest.raises(ValueError, match="token must be an integer"):
        token_id(small, True)
