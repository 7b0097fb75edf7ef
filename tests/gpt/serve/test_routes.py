"""Every route: a wrong request is one sentence with a status of 4xx, and no request changes a run."""

import json
import math
import re
import threading

import pytest

pytest.importorskip("httpx2", reason="Starlette's test client needs it: pip install -e '.[test]'")

from looked_at import snapshot
from runs import quickly_drawn, short_run
from starlette.testclient import TestClient

from gpt.serve import create_app
from gpt.serve.routes import ROUTES

short, _ = short_run(keep=10)
POSTS = sorted(route.path for route in ROUTES if "POST" in route.methods)
GETS = sorted(route.path for route in ROUTES if "GET" in route.methods and "{" not in route.path)
WRONG = [
    None, True, -1, 10**30, 1.5, 1e308, math.nan, -math.inf, "", "no such thing", "../run", "a\0b", "x" * 200_000,
    "\ud800", [], [1, "a"], [math.nan], [10**30], ["\ud800"], {}, {"a": [None]}, json.loads("[" * 200 + "]" * 200),
]  # fmt: skip
NEVER_RIGHT = [{"a": [None]}, [[None]], "\ud800\0"]  # for any field that a route reads
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


OPENAI = [
    "model", "prompt", "messages", "max_tokens", "temperature", "top_p", "top_k", "seed", "n", "stop", "logprobs",
    "echo", "frequency_penalty", "presence_penalty", "logit_bias", "stream", "stream_options", "user", "metadata",
    "tools",
]  # fmt: skip
PATHS = [path for path in POSTS if "{" not in path] + ["/v1/completions", "/v1/chat/completions"]
IGNORED = ("user", "metadata")  # accepted, without effect
ANY_TEXT = ("prompt", "stop", "query")


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


def fields_of(path: str) -> list[str]:
    """The fields of a route's requests: those that its docstring lists in {...}, or those of OpenAI's API."""
    if path.startswith("/v1/"):
        return OPENAI
    (route,) = (route for route in ROUTES if route.path == path)
    listed = re.search(r"POST /api/\S+ {([^}]*)}", route.endpoint.__doc__)[1]
    return re.findall(r"\w+", listed.replace(" or ", ", "))


def send(client, path: str, fields):
    """The answer to `fields` as JSON, in which Python's json also writes NaN and lone surrogates."""
    answer = client.post(path, content=json.dumps(fields), headers=JSON)
    assert answer.status_code < 500 or is_busy(answer), (str(fields)[:300], answer.text[:500])
    assert "unexpected error" not in answer.text, (str(fields)[:300], answer.text[:500])
    return answer


def is_busy(answer) -> bool:
    """Whether the queue of requests is full."""
    return answer.status_code == 503 and answer.headers["Retry-After"].isdigit() and "busy" in sentence(answer)


def is_error(answer) -> bool:
    """Whether it is an error, also one in a stream that had begun."""
    last = answer.text.strip().splitlines()[-1]
    return answer.status_code >= 400 or last.removeprefix("data: ").startswith('{"error"')


@pytest.mark.parametrize(("path", "name"), [(path, name) for path in PATHS for name in fields_of(path)])
def test_each_field_with_any_other_value(client, path, name):
    """It is never an unexpected error, a value of a wrong kind is one sentence, and the server lives on."""
    for value in WRONG:
        answer = send(client, path, {**GOOD, name: value})
        if answer.status_code >= 400:
            assert not is_busy(answer)
            assert 5 < len(sentence(answer)) < 600
    for value in NEVER_RIGHT:
        if name not in IGNORED and not (name in ANY_TEXT and isinstance(value, str)):
            assert is_error(send(client, path, {**GOOD, name: value})), (name, value)
    assert send(client, "/api/tokens", GOOD).status_code == 200


@pytest.mark.parametrize("path", ["/api/generate", "/api/expected"])
def test_a_prompt_of_more_tokens_than_the_page_can_show(client, path):
    for fields in ({"text": "bottle " * 14_000}, {"ids": [1] * 10_001}):
        answer = send(client, path, {**GOOD, **fields})
        assert answer.status_code == 400
        assert "and the page shows at most 10,000: give a shorter text" in sentence(answer)


def test_many_requests_at_once(client):
    """Each is answered, or the queue is full."""
    answers = []
    paths = [path for path in PATHS if path != "/api/learn/reset"]

    def ask(path: str) -> None:
        answers.append(send(client, path, GOOD).status_code)

    threads = [threading.Thread(target=ask, args=(path,)) for path in paths * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(threads)
    assert 200 in answers
    assert 503 in answers or 429 in answers, "more requests than the queue holds"
    assert send(client, "/api/tokens", GOOD).status_code == 200


@pytest.mark.parametrize("path", [path for path in POSTS if path not in GETS])
def test_a_get_of_what_is_posted(client, path):
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
