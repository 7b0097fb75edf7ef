"""The classifier of the page: the numbers of look.deciding_words, examples from the test set, errors."""

import json
import shutil

import pytest
from runs import quickly_drawn
from served import app_of, small_runs

from gpt import look

pytest.importorskip("httpx2", reason="Starlette's test client needs it: pip install -e '.[test]'")
from starlette.testclient import TestClient

assert quickly_drawn  # a fixture
TEXT = "give me a plum 3"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return small_runs(tmp_path_factory)


@pytest.fixture(scope="module")
def client(runs):
    with TestClient(app_of(runs)) as client:
        yield client


def test_the_answer_is_that_of_deciding_words(client, runs):
    loaded = look.load(runs / "labels")
    for label in (None, "drink", "fruit"):
        sent = {"run": "labels", "text": TEXT, "label": label, "left_out": 2}
        found = client.post("/api/classify", json=sent).json()
        assert found == json.loads(json.dumps(look.deciding_words(loaded, TEXT, label, 2).to_dict()))
    assert [word["without"] for word in client.post("/api/classify", json={**sent, "left_out": 0}).json()["words"]] == [
        None
    ] * 5


def test_examples_are_from_the_test_set(client, runs, tmp_path):
    examples = client.post("/api/classify/examples", json={"run": "labels"}).json()["examples"]
    rows = [json.loads(line) for line in (runs / "labels/test.jsonl").read_text().splitlines()]
    assert all(example in rows for example in examples)
    assert {example["label"] for example in examples} == {"drink", "fruit"}
    other = shutil.copytree(runs / "labels", tmp_path / "labels")
    with TestClient(app_of(tmp_path)) as client:
        (other / "test.jsonl").write_text("[3]\n")
        answer = client.post("/api/classify/examples", json={"run": "labels"})
        assert (answer.status_code, "is not a list of labelled texts" in answer.json()["error"]) == (400, True)
        (other / "test.jsonl").unlink()
        assert client.post("/api/classify/examples", json={"run": "labels"}).json() == {"examples": []}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"text": ""}, "the text '' has no tokens: give some text"),
        ({"text": 3}, "text must be a string, got 3"),
        ({"label": "x"}, "label must be one of drink, fruit, got 'x'"),
        ({"left_out": 21}, "left_out must be at most 20, got 21"),
        ({"run": "bytes"}, "does not label texts: gpt finetune classify makes a model that does"),
    ],
)
def test_an_invalid_request_is_one_sentence(client, fields, sentence):
    answer = client.post("/api/classify", json={"run": "labels", "text": TEXT, **fields})
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
