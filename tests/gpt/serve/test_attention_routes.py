"""The routes of attention and tokens: exact numbers, the head that is chosen, sentences for invalid requests."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from runs import quickly_drawn, tiny, train  # noqa: F401 - a fixture

from gpt import look
from gpt.serve import create_app

pytest.importorskip("httpx2", reason="Starlette's test client needs it: pip install -e '.[test]'")
from starlette.testclient import TestClient

TEXT = "7 bottles"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    train(tiny(folder, n_layer=2, context_length=80))
    return folder / "run"


@pytest.fixture(scope="module")
def post(run):
    client = TestClient(create_app([run]), base_url="http://127.0.0.1", raise_server_exceptions=False)

    def post(path, **fields):
        answer = client.post(f"/api/{path}", content=json.dumps({"run": "run", "text": TEXT, **fields}))
        return answer.status_code, answer.json()

    return post


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_all_heads_and_the_chosen_one_exactly(run, post):
    status, found = post("attention", layer=1, head=0)
    expected = look.attention(look.load(run), TEXT)
    assert status == 200
    assert [token["text"] for token in found["tokens"]] == list(TEXT)
    assert (found["causal"], found["layers"], found["heads"], found["side"]) == (True, 2, 2, len(TEXT))
    assert base64.b64decode(found["thumbnails"]) == expected.thumbnails()[1]
    assert found["shares"][3]["previous"] == pytest.approx(expected.shares[3].previous)
    assert found["uniform"]["kind"] == ""
    assert (found["chosen"]["layer"], found["chosen"]["head"]) == (1, 0)
    np.testing.assert_array_equal(floats(found["chosen"]["weights"]), expected.weights.numpy()[1, 0].ravel())


def test_one_head_of_the_text_and_checkpoint_of_this_request(run, post):
    """Answers are not those of an earlier request with another text or checkpoint."""
    steps = look.kept_steps(run)
    assert len(steps) > 1
    for step in (steps[0], steps[-1]):
        for text in (TEXT, "6 bottles", TEXT):
            status, found = post("attention/head", layer=0, head=1, step=step, text=text)
            expected = look.attention(look.load(run, step), text).weights.numpy()[0, 1]
            assert status == 200
            np.testing.assert_array_equal(floats(found["weights"]), expected.ravel())


def test_the_weights_of_a_learning_session_are_computed_again_after_a_step(run):
    app = create_app([run])
    client = TestClient(app, base_url="http://127.0.0.1")
    loaded = look.load(run)
    app.state.look.sessions["s"] = type("Session", (), {"loaded": loaded})()

    def weights():
        fields = {"session": "s", "text": TEXT, "layer": 0, "head": 0}
        return floats(client.post("/api/attention/head", json=fields).json()["weights"])

    before = weights()
    for p in loaded.model.blocks[0].attention.parameters():
        p.data[...] *= 3
        p.changed()
    assert not np.array_equal(weights(), before)
    np.testing.assert_array_equal(weights(), look.attention(loaded, TEXT).weights.numpy()[0, 0].ravel())


def test_a_head_that_the_model_lacks_becomes_its_last_one(post):
    """The page keeps its choice when another run is chosen."""
    assert [post("attention", layer=99, head=99)[1]["chosen"][name] for name in ("layer", "head")] == [1, 1]


def test_without_a_choice_the_clearest_head_is_chosen(run, post, monkeypatch):
    found = look.attention(look.load(run), TEXT)
    changes = {1: {"kind": "previous", "previous": 0.8}, 2: {"kind": "first", "first": 0.9}, 3: {"kind": ""}}
    shares = [replace(one, **changes.get(i, {"kind": "itself", "itself": 0.7})) for i, one in enumerate(found.shares)]
    uniform = replace(found.uniform, previous=0.1, first=0.3, itself=0.1)  # excess 0.6, 0.7, 0.6
    monkeypatch.setattr(look, "attention", lambda *_: replace(found, shares=shares, uniform=uniform))
    for given in ({}, {"layer": 1}, {"head": 0}):  # a choice is a layer and a head
        chosen = post("attention", text="no text before this", **given)[1]["chosen"]
        assert (chosen["layer"], chosen["head"]) == (0, 1)
    plain = replace(found, shares=[replace(one, kind="") for one in found.shares])
    monkeypatch.setattr(look, "attention", lambda *_: plain)
    chosen = post("attention", text="no other")[1]["chosen"]
    assert (chosen["layer"], chosen["head"]) == (0, 0)


@pytest.mark.parametrize(
    ("path", "fields", "sentence"),
    [
        ("attention", {"text": ""}, "the text has no tokens"),
        ("attention", {"text": "7" * 81}, "the text has 81 tokens and the model's context has 80"),
        ("attention", {"text": 7}, "text must be a string"),
        ("attention", {"layer": -1, "head": 0}, "layer"),
        ("attention", {"layer": "0", "head": 0}, "layer"),
        ("attention/head", {"layer": 2, "head": 0}, "layer must be at most 1, got 2"),
        ("attention/head", {"layer": 0, "head": 2}, "head must be at most 1, got 2"),
        ("tokens", {"text": "\ud800"}, "lone surrogate"),
        ("tokens", {"text": "é"}, "é"),
    ],
)
def test_invalid_requests_are_answered_with_a_sentence(post, path, fields, sentence):
    status, answer = post(path, **fields)
    assert status == 400
    assert sentence in answer["error"]


def test_tokens_have_bytes_and_the_vocabulary_its_special_tokens(run, post, tmp_path):
    status, found = post("tokens")
    assert status == 200
    assert [(token["text"], token["bytes"]) for token in found["tokens"]] == [(c, f"{ord(c):02x}") for c in TEXT]
    assert found["bytes"] == len(TEXT)
    assert (found["kind"], found["context_length"], found["special_tokens"]) == ("char", 80, [])
    assert found["vocab_size"] == look.load(run).tokenizer.vocab_size


def test_special_tokens_and_parts_of_characters_are_told_apart(tmp_path):
    train(tiny(tmp_path, tokenizer="bpe", vocab_size=260, steps=2, context_length=40))
    client = TestClient(create_app([tmp_path / "run"]), base_url="http://127.0.0.1")
    found = client.post("/api/tokens", json={"run": "run", "text": "é<|endoftext|>"}).json()
    *parts, last = found["tokens"]
    assert " ".join(part["bytes"] for part in parts) == "c3 a9"
    assert [part["text"] for part in parts] == ["\\xc3", "\\xa9"]
    assert found["bytes"] == len("é<|endoftext|>".encode())
    assert (last["text"], last["special"]) == ("<|endoftext|>", True)
    assert not any(part["special"] for part in parts)
    assert found["special_tokens"] == [{"id": last["id"], "text": "<|endoftext|>"}]
