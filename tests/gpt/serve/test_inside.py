"""The routes of the logit lens, the residual stream and the embeddings: the answers of gpt.look, and clear errors."""

import json

import pytest
from runs import quickly_drawn, tiny, train  # noqa: F401

from gpt import look
from gpt.serve import create_app

testclient = pytest.importorskip("starlette.testclient", reason="needs httpx2", exc_type=ImportError)
TEXT = "7 bottles"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inside")
    train(tiny(folder, context_length=16, steps=8, keep=3))
    return folder / "run"


@pytest.fixture(scope="module")
def client(folder):
    with testclient.TestClient(create_app([folder]), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(scope="module")
def model(folder):
    return look.load(folder)


def as_json(value):
    return json.loads(json.dumps(value))


def ask(client, path, **fields):
    return client.post(path, json={"run": "run", **fields})


def lines(answer) -> list:
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_lens_is_streamed_layer_by_layer(client, model):
    first, *rest = lines(ask(client, "/api/lens", text=TEXT, k=3))
    expected = look.logit_lens(model, TEXT, k=3)
    assert first["ids"] == expected.ids
    assert first["names"] == [layer.name for layer in expected.layers]
    texts = {}
    for line, layer in zip(rest, expected.layers, strict=True):
        texts |= line.pop("texts")
        assert line == as_json(layer.to_dict())
    assert {int(id): text for id, text in (first["texts"] | texts).items()} == expected.texts


def test_the_answers_are_those_of_the_functions(client, model):
    followed = look.follow_tokens(model, TEXT, [3, 5], 2).to_dict()
    assert ask(client, "/api/lens/follow", text=TEXT, tokens=[3, 5], position=2).json() == as_json(followed)
    last = look.follow_tokens(model, TEXT, [3, 5], len(TEXT) - 1).to_dict()
    assert ask(client, "/api/lens/follow", text=TEXT, tokens=[3, 5]).json() == as_json(last)
    stream = look.residual_stream(model, TEXT, 4, 6).to_dict()
    assert ask(client, "/api/residual", text=TEXT, position=4, token=6).json() == as_json(stream)
    assert ask(client, "/api/residual", text=TEXT).json() == as_json(look.residual_stream(model, TEXT).to_dict())
    near = look.nearest_tokens(model, 4, 7).to_dict()
    assert ask(client, "/api/embeddings/nearest", token=4, k=7).json() == as_json(near)
    assert ask(client, "/api/embeddings/positions").json() == as_json(look.positions(model).to_dict())
    assert ask(client, "/api/embeddings/map", text=TEXT).json() == as_json(look.token_map(model, TEXT).to_dict())
    found = [{"id": id, "text": text} for id, text in look.find_tokens(model, "b")]
    assert ask(client, "/api/embeddings/find", query="b").json() == {"tokens": found}


def test_the_step_chooses_the_checkpoint(client, folder):
    answers = []
    for step in look.kept_steps(folder):
        answers.append(ask(client, "/api/residual", text=TEXT, step=step).json())
        assert answers[-1] == as_json(look.residual_stream(look.load(folder, step), TEXT).to_dict())
    assert len(answers) > 1
    assert answers[0] != answers[-1]


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("lens", {}, "text must be a string"),
        ("lens", {"text": TEXT, "k": 0}, "k must be an integer of at least 1"),
        ("lens", {"text": "b" * 17}, "the text has 17 tokens and the model's context has 16"),
        ("lens", {"text": TEXT, "k": 51}, "k must be at most 50"),
        ("lens/follow", {"text": TEXT}, "tokens must be a list of 1 to 16 token ids"),
        ("lens/follow", {"text": TEXT, "tokens": []}, "tokens must be a list of 1 to 16 token ids"),
        ("lens/follow", {"text": TEXT, "tokens": [0] * 17}, "tokens must be a list of 1 to 16 token ids"),
        ("lens/follow", {"text": TEXT, "tokens": ["b"]}, "tokens must be a list of 1 to 16 token ids"),
        ("lens/follow", {"text": TEXT, "tokens": [None]}, "token must be an integer"),
        ("lens/follow", {"text": TEXT, "tokens": [99999]}, "token 99999 is not in the vocabulary"),
        ("lens/follow", {"text": TEXT, "tokens": [0], "position": "2"}, "position must be an integer"),
        ("lens/follow", {"text": TEXT, "tokens": [0], "position": 9}, "position must be an integer from -9 to 8"),
        ("lens/labels", {"text": TEXT}, "run is not a classifier"),
        ("residual", {"text": ""}, "the text has no tokens"),
        ("residual", {"text": "b" * 17}, "the model's context has 16"),
        ("residual", {"text": TEXT, "position": 1.5}, "position must be an integer"),
        ("residual", {"text": TEXT, "token": "b"}, "token must be the id of a token"),
        ("residual", {"text": TEXT, "token": [1]}, "token must be an integer"),
        ("residual", {"text": TEXT, "token": True}, "token must be an integer"),
        ("embeddings/nearest", {}, "token must be an integer"),
        ("embeddings/nearest", {"token": -1}, "token must be an integer of at least 0"),
        ("embeddings/nearest", {"token": 10**6}, "token 1000000 is not in the vocabulary"),
        ("embeddings/nearest", {"token": 1, "k": 0}, "k must be an integer of at least 1"),
        ("embeddings/find", {"query": 5}, "query must be a string"),
        ("embeddings/find", {"query": "b" * 201}, "query must have at most 200 characters"),
        ("embeddings/map", {"text": ""}, "the text has no tokens"),
    ],
)
def test_an_invalid_field_is_one_sentence(client, path, fields, says):
    answer = ask(client, f"/api/{path}", **fields)
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_an_unknown_run_is_not_found(client):
    for path in ("embeddings/positions", "lens", "residual"):
        assert client.post(f"/api/{path}", json={"run": "other", "text": TEXT}).status_code == 404
