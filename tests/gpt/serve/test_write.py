"""The routes of the Write view: tokens as gpt.generate draws them, clear errors, an end when the client leaves."""

import http.client
import importlib
import json
import socket
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from writing import BYTES, CONTEXT, byte_writer, save_run

from gpt import look
from gpt.generation import stream

MODULE = sys.modules["gpt.look.next_token"]  # the attribute of gpt.look is the function
testclient = pytest.importorskip("starlette.testclient", reason="needs httpx2, of Starlette's test client")
uvicorn = pytest.importorskip("uvicorn")
create_app = pytest.importorskip("gpt.serve").create_app

next_token = importlib.import_module("gpt.look.next_token")  # look.next_token is its function
STOP = BYTES.special_tokens["<|endoftext|>"]
OPTIONS = {
    "greedy": {"temperature": 0},
    "drawn": {"temperature": 1.1},
    "top_k": {"temperature": 1.3, "top_k": 7},
    "top_p": {"temperature": 1.3, "top_p": 0.7},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_run(folder / "bytes", 1)
    save_run(folder / "bytes", 2, seed=8)
    save_run(folder / "long", context_length=1000, ends=False)
    return folder


@pytest.fixture(scope="module")
def client(runs):
    with testclient.TestClient(create_app([runs]), base_url="http://127.0.0.1") as client:
        yield client


def post(client, path, **fields):
    """The lines of the answer."""
    answer = client.post(path, json={"run": "bytes", "step": 1, **fields})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


# ----- generation -----


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("text", ["the dés", "the day " * CONTEXT])
def test_the_tokens_are_those_of_stream(client, options, text):
    ids = BYTES.encode(text)
    first, *tokens, last = post(client, "/api/generate", text=text, tokens=20, seed=5, **options)
    model = byte_writer().model
    drawn = [token for (token,) in stream(model, [ids], 20, seed=5, stop_token=STOP, **options)]
    assert [token["id"] for token in first["prompt"]] == ids
    assert first["text"] == text
    assert [token["id"] for token in tokens if token["id"] != STOP] == drawn
    assert last["end"] == ("length" if len(drawn) == 20 else "stop")


def test_a_line_has_the_distribution(client):
    _, line, last = post(client, "/api/generate", text="the", tokens=1, temperature=0)
    found = look.next_token(byte_writer(), "the")
    assert line["expected"]["logits"] == pytest.approx(found.logits, rel=1e-5)
    assert [tuple(bin) for bin in line["expected"]["tail"]] == [(n, pytest.approx(mean)) for n, mean in found.tail]
    assert line["expected"]["top"][0]["id"] == line["id"] == found.top[0].id
    assert line["expected"]["vocab_size"] == BYTES.vocab_size
    assert line["rank"] == 1
    assert line["probability"] == pytest.approx(found.top[0].probability)
    assert 2.0 ** -line["surprise"] == pytest.approx(line["probability"])
    assert last == {"end": "length", "piece": ""} or last["piece"] == "\ufffd"


def test_pieces_are_the_text_even_where_tokens_are_parts_of_characters(client):
    ids = BYTES.encode("dé")[:-1]  # the prompt ends inside a character
    first, *tokens, last = post(client, "/api/generate", ids=ids, tokens=200, temperature=2.0, seed=3)
    drawn = [token["id"] for token in tokens if token["id"] != STOP]
    text = first["text"] + "".join(token["piece"] for token in tokens) + last["piece"]
    assert first["text"] == "d"
    assert [token["text"] for token in first["prompt"]] == ["d", "\\xc3"]
    assert text == BYTES.decode(ids + drawn)
    assert any(token["text"].startswith("\\x") for token in tokens)


def test_the_stop_token_is_a_line_and_no_text(client):
    """The seed is found by trying: this model ends a text after about 260 tokens."""
    model = byte_writer().model
    ids = BYTES.encode("the")
    seed = next(
        s for s in range(200) if len(list(stream(model, [ids], 30, temperature=3, seed=s, stop_token=STOP))) < 30
    )
    _, *tokens, last = post(client, "/api/generate", text="the", tokens=30, temperature=3, seed=seed)
    assert len(tokens) < 31
    assert tokens[-1]["id"] == STOP
    assert tokens[-1]["text"] == "<|endoftext|>"
    assert tokens[-1]["piece"] == ""
    assert last["end"] == "stop"
    assert all(token["id"] != STOP for token in tokens[:-1])


def test_the_largest_seed_is_the_largest_exact_integer_of_the_page(client):
    assert post(client, "/api/generate", text="the", tokens=2, seed=2**53 - 1)[-1]["end"] == "length"


def test_the_checkpoint_decides(client):
    texts = [
        [line.get("id") for line in post(client, "/api/generate", text="the", tokens=9, step=step)] for step in (1, 2)
    ]
    assert texts[0] != texts[1]


# ----- what was expected -----


def test_expected_has_a_line_for_each_token(client):
    text = "the day, the dés"
    ids = BYTES.encode(text)
    lines = post(client, "/api/expected", text=text)
    assert [line["id"] for line in lines] == ids
    assert lines[0] == {"id": ids[0], "text": "the", "expected": None}
    found = list(MODULE.expected(byte_writer(), ids))
    for line, one in zip(lines[1:], found[1:], strict=True):
        assert line["probability"] == pytest.approx(one.token.probability, rel=1e-5)
        assert line["rank"] == one.token.rank
        assert line["text"] == one.token.text
        assert [top["id"] for top in line["expected"]["top"]] == [top.id for top in one.top]
    assert lines == post(client, "/api/expected", ids=ids)


def test_before_the_context_nothing_is_expected(client):
    lines = post(client, "/api/expected", text="a" * (CONTEXT + 7))
    assert [line["expected"] is None for line in lines] == [True] * 8 + [False] * (CONTEXT - 1)


def test_an_empty_prompt_is_the_start_of_a_text(client):
    assert [line["text"] for line in post(client, "/api/expected", text="")] == ["\n"]
    assert post(client, "/api/generate", tokens=1)[0]["text"] == "\n"


# ----- errors -----


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": -1}, "temperature must be"),
        ({"temperature": "hot"}, "temperature must be"),
        ({"temperature": None}, "temperature must be"),
        ({"top_k": 0}, "top_k must be"),
        ({"top_k": 10**9}, "top_k must be at most"),
        ({"top_k": 2.5}, "top_k must be"),
        ({"top_k": []}, "top_k must be"),
        ({"top_p": 0}, "top_p must be"),
        ({"top_p": 1.5}, "top_p must be"),
        ({"top_p": {}}, "top_p must be"),
        ({"tokens": 0}, "tokens must be"),
        ({"tokens": 10**6}, "tokens must be at most"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**53}, "seed must be at most"),
        ({"ids": []}, "ids must be"),
        ({"ids": "abc"}, "ids must be"),
        ({"ids": [1] * 100_001}, "100,001 tokens"),
        ({"ids": [1, -1]}, "not in the vocabulary"),
        ({"ids": [BYTES.vocab_size]}, "not in the vocabulary"),
        ({"ids": [True]}, "not in the vocabulary"),
        ({"ids": [[1]]}, "not in the vocabulary"),
        ({"text": 3}, "text must be a string"),
        ({"text": "a" * 100_001}, "text must have at most"),
        ({"text": "\ud800"}, "lone surrogate"),
    ],
)
def test_an_invalid_field_is_one_sentence(client, fields, said):
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"run": "bytes", "text": "the", **fields})
    answer = client.post("/api/generate", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    if "ids" in fields or "text" in fields:
        assert client.post("/api/expected", content=body, headers=headers).status_code == 400


def test_an_unknown_run_is_not_found(client):
    for path in ("/api/generate", "/api/expected"):
        assert client.post(path, json={"run": "other", "text": "a"}).status_code == 404


def test_scores_that_are_not_finite_are_the_last_line(client, runs):
    save_run(runs / "broken", sharpness=3e38)
    lines = post(client, "/api/generate", run="broken", text="the", temperature=0)
    assert "not finite" in lines[-1]["error"]
    assert [set(line) for line in lines] == [{"prompt", "text"}, {"error"}]


# ----- leaving -----


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/generate", {"text": "the" * 300, "tokens": 690, "temperature": 0}),
        ("/api/expected", {"text": "the" * 990}),
    ],
)
def test_the_computation_ends_when_the_client_leaves(runs, monkeypatch, path, fields):
    """After three lines the client leaves, and the thread is free for another one without computing the rest."""
    computed = []
    summary = next_token.summary
    monkeypatch.setattr(next_token, "summary", lambda *args: computed.append(1) or summary(*args))
    with served(runs) as address:
        connection, answer = ask(address, path, run="long", **fields)
        for _ in range(3):
            assert b"error" not in answer.readline()
        answer.close()
        connection.close()
        connection, answer = ask(address, "/api/tokens", text="the")
        assert json.loads(answer.read())["tokens"][0]["text"] == "the"
        connection.close()
        before = len(computed)
        assert before < 300
        time.sleep(0.1)
        assert len(computed) == before


@contextmanager
def served(runs):
    """The address of a server in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app([runs]), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def ask(address, path, **fields):
    connection = http.client.HTTPConnection(*address, timeout=60)
    body = json.dumps({"run": "bytes", "step": 1, **fields})
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    return connection, connection.getresponse()
