"""look.attention: transformers' weights, closed forms, the shares counted by hand, and the pictures of notebooks."""

import base64
import zlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import tensorlite as tl
from gpt import look, pretrained
from gpt.config import GPTConfig
from gpt.look.attention_weights import FEWEST, measure
from gpt.model import GPT
from gpt.tokenizer import BPETokenizer, CharTokenizer
from gpt.training import checkpoint
from tensorlite import io

TEXT = "a rose is a rose is a <rose> & so on"
CONFIG = GPTConfig(vocab_size=24, context_length=200, n_layer=3, n_head=2, n_embd=12, qkv_bias=True)


def shape(**changes):
    return replace(CONFIG, **changes)


def loaded(config=CONFIG, text=TEXT, dtype=tl.float32):
    """A model with random weights, and characters as tokens."""
    tl.manual_seed(3)
    tokenizer = CharTokenizer.train(text + "xyz")
    model = GPT(config).to(dtype)
    for p in model.parameters():
        p.data[...] += 0.3 * tl.randn(*p.shape).numpy()
    return look.LoadedModel(Path("nowhere"), None, "pretrain", model, tokenizer, {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_weights_are_those_of_transformers(tmp_path):
    torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")
    transformers = pytest.importorskip("transformers", reason="the peer of this test: pip install -e '.[peers]'")
    tokenizer = BPETokenizer.train(TEXT * 3, 270)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=40, n_layer=3, n_head=4, n_embd=32, qkv_bias=True
    )
    run = tmp_path / "run"
    run.mkdir()
    tl.manual_seed(0)
    model = GPT(config)
    for p in model.parameters():
        p.data[...] += 0.2 * tl.randn(*p.shape).data
    checkpoint.write_json(run / "config.json", {"format": "gpt.run", "version": 1, "model": config.to_dict()})
    tokenizer.save(run / "tokenizer.json")
    io.save(run / "model.safetensors", model.state_dict())
    pretrained.export_run(run, tmp_path / "folder")

    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "folder", attn_implementation="eager").eval()
    found = look.attention(look.load(run), TEXT)
    with torch.no_grad():
        expected = theirs(torch.tensor([found.ids]), output_attentions=True).attentions
    expected = np.stack([layer[0].numpy() for layer in expected])  # (L, H, T, T)
    assert found.weights.shape == expected.shape == (3, 4, len(found.ids), len(found.ids))
    assert expected.std() > 0.1  # not nearly uniform
    np.testing.assert_allclose(found.weights.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_queries_of_zero_give_equal_weights(causal):
    model = loaded(shape(n_layer=2, causal=causal))
    for block in model.model.blocks:
        for p in (block.attention.W_query.weight, block.attention.W_query.bias):
            p.data[...] = 0
    found = look.attention(model, TEXT)
    T = len(TEXT)
    expected = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None] if causal else np.full((T, T), 1 / T)
    np.testing.assert_allclose(found.weights.numpy(), np.broadcast_to(expected, (2, 2, T, T)), rtol=1e-5)
    assert found.causal is causal
    for one in found.shares:  # nothing distinguishes these heads from the uniform one
        assert one.kind == ""
        for name in ("previous", "first", "itself", "same", "after_same", "distance"):
            assert getattr(one, name) == pytest.approx(getattr(found.uniform, name), rel=1e-5)


def test_without_a_mask_every_position_reads_all_positions():
    weights = look.attention(loaded(shape(n_layer=2, causal=False)), TEXT).weights.numpy()
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not np.triu(look.attention(loaded(), TEXT).weights.numpy(), 1).any()


def test_dropout_and_training_mode_change_nothing():
    model = loaded(CONFIG.with_dropout(0.5))
    model.model.train()
    np.testing.assert_array_equal(
        look.attention(model, TEXT).weights.numpy(), look.attention(loaded(), TEXT).weights.numpy()
    )
    assert model.model.training


# ----- shares -----------------------------------------------------------------------------------------------------


def by_hand(weights, ids):
    """The shares of one head by loops over queries and keys."""
    T = len(ids)
    rows, found = range(1, T), {}
    found["previous"] = np.mean([weights[t][t - 1] for t in rows])
    found["first"] = np.mean([weights[t][0] for t in rows])
    found["itself"] = np.mean([weights[t][t] for t in rows])
    found["distance"] = np.mean([sum(weights[t][k] * abs(t - k) for k in range(T)) for t in rows])
    before = {t: [k for k in range(t) if ids[k] == ids[t]] for t in range(T)}
    found["same"] = np.mean([sum(weights[t][k] for k in ks) for t, ks in before.items() if ks])
    after = {t: [k + 1 for k in ks if k + 1 < t] for t, ks in before.items()}
    found["after_same"] = np.mean([sum(weights[t][k] for k in ks) for t, ks in after.items() if ks])
    return found


@pytest.mark.parametrize("causal", [True, False])
def test_the_shares_are_those_counted_by_hand(causal):
    found = look.attention(loaded(shape(n_layer=3, causal=causal)), TEXT)
    assert [(one.layer, one.head) for one in found.shares] == [(layer, head) for layer in range(3) for head in range(2)]
    for one in found.shares:
        for name, value in by_hand(found.weights.numpy()[one.layer, one.head].astype(float), found.ids).items():
            assert getattr(one, name) == pytest.approx(value, rel=1e-4), name


def test_the_shares_where_a_token_is_repeated_at_once():
    ids = [1, 1, 2, 1, 1, 1, 2, 2, 3]  # the token after an earlier occurrence may be the position itself: not counted
    weights = np.random.default_rng(0).random((9, 9))
    weights /= weights.sum(-1, keepdims=True)
    (one,) = measure(tl.Tensor(weights[None, None]), ids)
    for name, value in by_hand(weights, ids).items():
        assert getattr(one, name) == pytest.approx(value), name


def test_heads_that_do_one_thing_are_described_by_it():
    ids = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    T = len(ids)
    heads = dict.fromkeys(("previous", "first", "itself", "same", "after_same"))
    for name in heads:
        w = np.zeros((T, T))
        for t in range(T):
            place = {"previous": t - 1, "first": 0, "itself": t, "same": t - 4, "after_same": t - 3}[name]
            w[t, max(place, 0)] = 1
        heads[name] = w
    uniform = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    (base,) = measure(tl.Tensor(uniform[None, None]), ids)
    shares = measure(tl.Tensor(np.stack([*heads.values(), uniform])[None]), ids, base)
    assert [one.kind for one in shares] == [*heads, ""]
    for one, name in zip(shares, heads, strict=False):
        assert getattr(one, name) == 1
    assert shares[0].distance == shares[0].previous == 1


def test_a_share_from_few_positions_describes_no_head():
    ids = [1, 2, 3, 1, 4, 5]  # one token that occurred before
    w = np.eye(6)
    w[3] = [1, 0, 0, 0, 0, 0]
    uniform = np.tril(np.ones((6, 6))) / np.arange(1, 7)[:, None]
    (base,) = measure(tl.Tensor(uniform[None, None]), ids)
    (one,) = measure(tl.Tensor(w[None, None]), ids, base)
    assert FEWEST > 1
    assert (one.same, one.itself, one.kind) == (1, 0.8, "itself")


def test_without_a_repeated_token_there_is_no_share_of_repeated_ones():
    found = look.attention(loaded(), "aros")
    assert {(one.same, one.after_same) for one in found.shares} == {(None, None)}
    assert all(one.previous > 0 for one in found.shares)


def test_one_token_has_weights_but_no_shares():
    found = look.attention(loaded(), "a")
    assert found.weights.tolist() == [[[[1.0]], [[1.0]]]] * 3
    assert {one.previous for one in found.shares} == {None}
    assert found._repr_html_()
    assert found.head(0, 0)._repr_svg_()


# ----- errors -----------------------------------------------------------------------------------------------------


def test_errors_say_what_is_allowed():
    with pytest.raises(ValueError, match="the text has no tokens"):
        look.attention(loaded(), "")
    with pytest.raises(ValueError, match="the text has 201 tokens and the model's context has 200"):
        look.attention(loaded(), "a" * 201)
    found = look.attention(loaded(), TEXT)
    with pytest.raises(IndexError, match="there is no block 3: the model has 3, counted from 0"):
        found.head(3, 0)
    with pytest.raises(IndexError, match="there is no head -1: the model has 2, counted from 0"):
        found.head(0, -1)


# ----- what leaves: bytes, JSON, pictures -------------------------------------------------------------------------


def test_thumbnails_are_square_roots_of_weights_or_of_block_maxima():
    found = look.attention(loaded(), TEXT)
    T = len(TEXT)
    side, pixels = found.thumbnails()
    assert side == T
    expected = 255 * np.sqrt(found.weights.numpy())
    assert np.abs(np.frombuffer(pixels, np.uint8).reshape(3, 2, T, T) - expected).max() <= 0.51

    side, pixels = found.thumbnails(10)  # 36 tokens: squares of 4 x 4
    assert side == 9
    blocks = expected.reshape(3, 2, 9, 4, 9, 4).max((3, 5))
    assert np.abs(np.frombuffer(pixels, np.uint8).reshape(3, 2, 9, 9) - blocks).max() <= 0.51
    side, pixels = found.thumbnails(11)  # the last square is cut
    assert (side, len(pixels)) == (9, 3 * 2 * 81)
    side, pixels = found.thumbnails(7)  # squares of 6 x 6
    assert np.frombuffer(pixels, np.uint8).reshape(3, 2, 6, 6)[1, 1, 5, 5] == round(expected[1, 1, 30:, 30:].max())


@pytest.mark.parametrize(("tokens", "side"), [(64, 64), (65, 33), (129, 43)])
def test_thumbnails_have_at_most_64_pixels_in_each_direction(tokens, side):
    assert look.attention(loaded(), "a" * tokens).thumbnails()[0] == side


def test_to_dict_has_the_exact_weights():
    found = look.attention(loaded(), TEXT)
    fields = found.to_dict()
    weights = np.frombuffer(base64.b64decode(fields["weights"]), "<f4").reshape(fields["shape"])
    np.testing.assert_array_equal(weights, found.weights.numpy())
    assert fields["texts"] == list(TEXT)
    one = found.head(2, 1).to_dict()
    one = np.frombuffer(base64.b64decode(one["weights"]), "<f4").reshape(len(TEXT), len(TEXT))
    np.testing.assert_array_equal(one, weights[2, 1])


def test_weights_keep_float64():
    assert look.attention(loaded(dtype=tl.float64), TEXT).weights.dtype == np.float64


def test_a_head_is_an_svg_with_its_numbers_and_escaped_labels():
    head = look.attention(loaded(), TEXT).head(1, 0)
    root = ElementTree.fromstring(head._repr_svg_())
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "attention weights, block 1, head 0: row reads column"
    at = TEXT.index("<")
    assert texts.count(f"< {at}") == 2  # on both axes
    notes = [e.text for e in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(notes) == len(TEXT) ** 2
    assert notes[at * len(TEXT) + 1] == f"< {at} · 1 {head.weights.numpy()[at, 1]:.3g}"
    assert notes[at * len(TEXT) + at + 1].endswith("no value")  # later: masked


def test_a_long_head_is_drawn_by_squares():
    head = look.attention(loaded(), "a rose " * 20).head(0, 1)
    root = ElementTree.fromstring(head._repr_svg_())
    notes = [e.text for e in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(notes) == 47**2  # 140 tokens: squares of 3 x 3
    assert "a cell is the largest weight of 3 x 3" in next(root.iter("{http://www.w3.org/2000/svg}text")).text
    assert notes[-1].endswith(f"{head.weights.numpy()[138:, 138:].max():.3g}")


def test_the_html_has_a_picture_of_every_head():
    found = look.attention(loaded(), TEXT)
    root = ElementTree.fromstring(found._repr_html_().replace("<wbr>", ""))
    pictures = [e.get("src") for e in root.iter("img")]
    assert len(pictures) == 6
    data = base64.b64decode(pictures[3].removeprefix("data:image/png;base64,"))
    side, expected = found.thumbnails(32)
    begin = data.index(b"IDAT") + 4
    size = int.from_bytes(data[begin - 8 : begin - 4], "big")
    lines = np.frombuffer(zlib.decompress(data[begin : begin + size]), np.uint8).reshape(side, 3 * side + 1)
    assert not lines[:, 0].any()
    shares = np.frombuffer(expected, np.uint8)[3 * side**2 : 4 * side**2] / 255
    colors = 255 + (np.array([29, 78, 216]) - 255) * shares[:, None]
    np.testing.assert_allclose(lines[:, 1:].reshape(-1, 3), colors, atol=0.51)
    assert "".join(e.text for e in root.iter("span")) == TEXT.replace(" ", "·")
    assert root.find(".//img").get("title").startswith("block 0, head 0: ")


def test_the_png_is_read_by_matplotlib():
    from io import BytesIO

    from matplotlib.image import imread

    from gpt.look.display import png, sequential

    address = png([[sequential(0), sequential(1)], [sequential(0.5), sequential(0)]])
    pixels = imread(BytesIO(base64.b64decode(address.partition(",")[2])))
    np.testing.assert_allclose(pixels[0, 0, :3], 1)
    np.testing.assert_allclose(pixels[0, 1, :3], np.array([29, 78, 216]) / 255, atol=1e-6)
