"""Every route: a wrong request is one sentence with a status of 4xx, and no request changes a run."""

import json

import pytest

pytest.importorskip("httpx")

from looked_at import snapshot
from runs import quickly_drawn, short_run
from starlette.testclient import TestClient

from gpt.serve import create_app
from gpt.serve.routes import ROUTES

short, _ = short_run(keep=10)
POSTS = sorted(route.path for route in ROUTES if "POST" in route.methods)
GETS = sorted(route.path for route in ROUTES if "GET" in route.methods and "{" not in route.path)
WRONG = [None, True, -1, 10**30, 1.5, "", "no such thing", "x" * 200_000, "\ud800", [], [1, "a"], {}, {"a": [None]}]
BODIES = [
    b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff", b"{}", b'{"run": 3}', b"[" * 100_000,
    b'{"run": "nowhere", "model": "nowhere", "text": "a", "prompt": "a"}',
]  # fmt: skip
JSON = {"Content-Type": "application/json"}
# what a request may have; a route reads some of it
GOOD = {
    "run": "run", "model": "run", "step": 4, "text": "bottle", "prompt": "bottle", "seed": 1, "max_tokens": 2,
    "max_new_tokens": 2, "token": 1, "position": 1, "layer": 0, "head": 0,
    "messages": [{"role": "user", "content": "b"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def client(short):
    with TestClient(create_app([short], "cpu"), raise_server_exceptions=False) as client:
        yield client


def sentence(answer) -> str:
    """The sentence of an error, in the page's form or in OpenAI's."""
    if answer.headers["Content-Type"].startswith("application/x-ndjson"):
        found = json.loads(answer.text.splitlines()[-1]).get("error", "")
    else:
        found = answer.json()["error"]
    return found["message"] if isinstance(found, dict) else found


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_not_a_request(client, path, body):
    answer = client.post(path, content=body, headers=JSON)
    streamed = answer.headers["Content-Type"].startswith("application/x-ndjson")  # the status is sent before the error
    assert 400 <= answer.status_code < 500 or (streamed and answer.text.count("\n") == 1), answer.text
    assert 5 < len(sentence(answer)) < 400
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", ["run", "step", "session", "text", "prompt", "seed", "max_new_tokens", "temperature"])
def test_a_field_with_any_other_value(client, path, name):
    """It is never an unexpected error, whether the route reads the field or not."""
    for value in WRONG:
        answer = client.post(
            path, content=json.dumps({**GOOD, name: value}), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code < 500, (value if value != WRONG[7] else "long", answer.text[:500])
        assert "unexpected error" not in answer.text


@pytest.mark.parametrize("path", POSTS)
def test_a_get_of_what_is_posted(client, path):
    if path not in GETS:
        answer = client.get(path)
        assert answer.status_code in (404, 405)
        assert sentence(answer)


def test_no_request_changes_a_run(client, short):
    before = snapshot(short)
    for path in POSTS:
        client.post(path, json=GOOD)
        client.post(path, json={**GOOD, "step": None})
    assert client.get("/api/runs").status_code == 200
    assert snapshot(short) == before


assert quickly_drawn  # used by pytest
