"""POST /api/backward: what gpt.look computes, and a sentence for each invalid field."""

import json

import pytest

from gpt import look

testclient = pytest.importorskip("starlette.testclient", reason="needs httpx2, of Starlette's test client")
create_app = pytest.importorskip("gpt.serve").create_app


@pytest.fixture(scope="module")
def client(finished):
    folder, _ = finished
    with testclient.TestClient(create_app([folder / "run"]), base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize("fused", [True, False])
def test_a_block_as_gpt_look_computes_it(client, finished, fused):
    answer = client.post("/api/backward", json={"run": "run", "text": "9 bottl", "block": 0, "fused": fused})
    assert answer.status_code == 200
    found = answer.json()
    expected = look.backward(look.load(finished[0] / "run"), "9 bottl", 0, fused).to_dict()
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert [n["name"] for n in found["nodes"]] == [n["name"] for n in expected["nodes"]]
    assert [p["norm"] for p in found["pictures"]] == pytest.approx([p["norm"] for p in expected["pictures"]], rel=1e-4)


def test_the_example_needs_no_model(client):
    answer = client.post("/api/backward", json={"run": "another", "example": True})
    assert answer.status_code == 200
    assert answer.json() == json.loads(json.dumps(look.backward_example().to_dict()))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"text": "9 bottl", "block": 1}, "block must be from 0 to 0, got 1"),
        ({"text": "9 bottl", "block": -1}, "block must be"),
        ({"text": "9 bottl", "block": "0"}, "block must be"),
        ({"text": "9 bottl", "fused": "no"}, "fused must be true or false, got 'no'"),
        ({"text": "9"}, "give at least two, so that there is a next token"),
        ({"text": "9 bottl", "label": "spam"}, "label is for a classifier"),
        ({"text": "9 bottl", "label": 1}, "label must be a string"),
        ({"text": "99 bottles stand"}, "the model's context has 8"),
        ({"text": ""}, "the text has no tokens"),
        ({}, "text must be a string"),
        ({"example": 1}, "example must be true or false"),
    ],
)
def test_an_invalid_field_gives_a_sentence(client, fields, sentence):
    answer = client.post("/api/backward", json={"run": "run", **fields})
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]


def test_an_unknown_run_is_not_found(client):
    assert client.post("/api/backward", json={"run": "other", "text": "ab"}).status_code == 404
