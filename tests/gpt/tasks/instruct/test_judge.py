"""Judges: exact match, F1, likelihood, scores of a chat API, and their summary."""

import contextlib
import copy
import json
import math
import re
import socket
import string
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import hang, hangs, in_turn, send, status
from ollama import ENTRY, WHOLE, raw, says

import tensorlite as tl
from gpt import http_deadline
from gpt.config import GPTConfig
from gpt.model import GPT
from gpt.tasks import instruct
from gpt.tasks.instruct import judge
from gpt.tasks.instruct import judge as judge_module
from gpt.tasks.instruct.judge import Api, exact_match, f1, log_likelihood, summary
from gpt.tokenizer import END_OF_TEXT, BPETokenizer
from tensorlite import backend
from tensorlite.testing.strict import strict

# ----- counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "response", "same"),
    [("CAT", "CAT", 1), ("CAT", " CAT\n", 1), ("CAT", "cat", 0), ("CAT", "CAT.", 0), ("a b", "a  b", 0), ("", " ", 1)],
)
def test_exact_match_is_letter_by_letter(expected, response, same):
    assert exact_match(expected, response) == same


@pytest.mark.parametrize(
    ("expected", "response", "score"),
    [
        ("The quick fox", "a Quick, fox!", 1),
        ("black cat", "the cat sat", 2 * 1 / (2 + 2)),
        ("to be or not to be", "to be", 2 * 2 / (6 + 2)),
        ("no", "no no no", 2 * 1 / (1 + 3)),
        ("one", "two", 0),
        ("one", "", 0),
        ("the", "", 1),
        ("école", "École", 1),
    ],
)
def test_f1_counts_shared_words(expected, response, score):
    assert f1(expected, response) == f1(response, expected) == pytest.approx(score)


def squad_f1(prediction: str, truth: str) -> float:
    """As section 6.1 of the paper says it: precision and recall over bags of words."""

    def bag(text: str) -> Counter:
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return Counter(re.sub(r"\b(?:a|an|the)\b", " ", text).split())

    ours, right = bag(prediction), bag(truth)
    if not ours or not right:
        return float(ours == right)
    shared = sum(min(ours[word], right[word]) for word in ours)
    precision, recall = shared / sum(ours.values()), shared / sum(right.values())
    return 2 * precision * recall / (precision + recall) if shared else 0.0


SENTENCES = st.lists(st.sampled_from(["The", "a", "an", "cat,", "sat.", "on", "!", "ON", "it's", "x-y"])).map(" ".join)


@given(SENTENCES, SENTENCES)
def test_f1_is_that_of_squad(one, other):
    assert f1(one, other) == pytest.approx(squad_f1(one, other))


# ----- likelihood -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught():
    """A small model with random weights, far from indifferent, and its tokenizer."""
    tokenizer = BPETokenizer.train(instruct.STYLES["alpaca"].prompt(ENTRY) + ENTRY["output"], 280)
    tl.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=256, n_layer=1, n_head=2, n_embd=16))
    for parameter in model.parameters():
        parameter.data[...] += tl.randn(*parameter.shape).data * 0.5
        parameter.changed()
    return model.eval(), tokenizer


@pytest.mark.parametrize("style", ["alpaca", "phi3"])
def test_the_likelihood_is_that_of_answer_and_end_token_by_token(taught, style):
    model, tokenizer = taught
    prompt = tokenizer.encode(instruct.STYLES[style].prompt(ENTRY))
    answer = tokenizer.encode(instruct.STYLES[style].prompt(ENTRY) + ENTRY["output"])[len(prompt) :]
    logs, text = [], prompt
    for token in [*answer, tokenizer.special_tokens[END_OF_TEXT]]:
        scores = model(tl.tensor([text]))[0].numpy()[0, -1].tolist()
        logs.append(scores[token] - math.log(sum(math.exp(score) for score in scores)))
        text = [*text, token]
    assert log_likelihood(model, tokenizer, ENTRY, style) == pytest.approx(sum(logs) / len(logs), rel=1e-4)


def test_the_likelihoods_of_a_batch_are_those_of_each_entry_alone(taught, monkeypatch):
    model, tokenizer = taught
    entries = [{**ENTRY, "output": "word " * n} for n in (3, 0, 60, 1, 9, 2, 1)]
    expected = [log_likelihood(model, tokenizer, entry) for entry in entries]
    assert expected[2] is None  # longer than the context
    for tokens in (1, 500, 1 << 20):  # one text in a batch, a few, all
        monkeypatch.setattr(judge_module, "BATCH_TOKENS", tokens)
        found = judge_module.log_likelihoods(model, tokenizer, entries)
        assert found == [None if x is None else pytest.approx(x, rel=1e-5) for x in expected]
    monkeypatch.setattr(judge_module, "TOGETHER", 2)
    rows = judge_module.judge([{**entry, "model_response": ""} for entry in entries], model, tokenizer)
    assert [row["log_likelihood"] for row in rows] == [None if x is None else pytest.approx(x) for x in expected]


def test_an_entry_that_does_not_fit_has_no_likelihood(taught):
    model, tokenizer = taught
    entry = {**ENTRY, "output": ""}
    room = 256 + 1 - len(instruct.encode(entry, tokenizer).ids) - 1  # for single bytes, and the end
    assert log_likelihood(model, tokenizer, {**entry, "output": "\0" * room}) < 0
    assert log_likelihood(model, tokenizer, {**entry, "output": "\0" * (room + 1)}) is None


def test_the_likelihood_is_computed_where_the_model_is(taught, monkeypatch):
    model, tokenizer = taught
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    far = copy.deepcopy(model).to("strict")
    assert log_likelihood(far, tokenizer, ENTRY) == pytest.approx(log_likelihood(model, tokenizer, ENTRY), rel=1e-5)


# ----- a chat API -------------------------------------------------------------------------------------------------


def ask(server, *answers, timeout=600.0, entry=ENTRY):
    server.answers["/api/chat"] = in_turn(*answers)
    return Api(server.url(""), timeout=timeout).score(entry)


def test_the_question_is_the_books(server):
    assert ask(server, says("85")) == (85, "85")
    ((path, _, body),) = server.asked
    assert path == "/api/chat"
    sent = json.loads(body)
    assert sent == {
        "model": "llama3",
        "messages": [
            {
                "role": "user",
                "content": "Given the input `Below is an instruction that describes a task. Write a response that "
                "appropriately completes the request.\n\n### Instruction:\nRewrite the sentence using a simile.\n\n"
                "### Input:\nThe car is very fast.` and correct output `The car is as fast as lightning.`, score the "
                "model response `The car is as fast as a bullet.` on a scale from 0 to 100, where 100 is the best "
                "score. Respond with the integer number only.",
            }
        ],
        "options": {"seed": 123, "temperature": 0, "num_ctx": 2048},
    }


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        ([says("8", "5")], 85),
        ([says(" 0\n")], 0),
        ([says("100")], 100),
        ([raw(WHOLE)], 85),
        ([raw(b"\n" + WHOLE + b"\n\n")], 85),
        ([raw(WHOLE.replace(b', "done": true', b""))], 85),
        ([status(500), status(503), says("85")], 85),
        ([status(429), says("85")], 85),
        ([raw(b"{not json"), says("85")], 85),
        ([raw(b'{"message": []}'), raw(b"[1]"), says("85")], 85),
        ([says("8", done=False), says("85")], 85),
        ([raw(WHOLE[:20], Content_Length="500"), says("85")], 85),
        ([lambda handler: None, says("85")], 85),
    ],
)
def test_a_score_arrives_whatever_the_server_does(server, answers, score):
    assert ask(server, *answers)[0] == score
    assert len(server.asked) == len(answers)


@pytest.mark.parametrize(
    "said",
    ["Score: 85", "85/100", "85.5", "-5", "101", "1000", "", "eighty-five", "**85**", "٨٥", "8 5", "85\nbecause"],
)
def test_what_is_no_integer_from_0_to_100_is_no_score(server, said):
    score, why = ask(server, says(said))
    assert score is None
    assert why == f"not an integer from 0 to 100: {said}"
    assert len(server.asked) == 1, "it was an answer"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (status(500), "500 Internal Server Error"),
        (hang(), "none within 0.2 s"),
        (hang(b'{"message": {"content": "8"}, "done": false}\n', 500), "none within 0.2 s"),
        (raw(b"<html>"), "it is not a chat answer in JSON"),
        (raw(b'{"error": "out of \\u001b[31mmemory"}'), "the server says: out of \\x1b[31mmemory"),
        (
            lambda handler: send(handler, 500, b'{"error": "llama runner crashed"}'),
            "500 Internal Server Error: llama ru",
        ),
        (raw(b'{"message": {"content": 85}}'), "it is not a chat answer in JSON"),
        (raw(b"\xff\xfe"), "it is not a chat answer in JSON"),
        (says("8", done=False), "it is incomplete"),
        (raw(b""), "it is incomplete"),
        (lambda handler: None, "the connection broke"),
    ],
)
def test_no_answer_is_said_after_three_attempts(server, answer, why):
    score, said = ask(server, answer, timeout=0.2 if hangs(answer) else 600)
    assert score is None
    assert said.startswith("no answer: ")
    assert why in said
    assert len(server.asked) == (1 if hangs(answer) else 3)  # the time is for all attempts


@pytest.mark.parametrize(("timeout", "waits"), [(100_000, [10_000, 20_000]), (29_000, [10_000]), (9_000, [])])
def test_attempts_are_further_and_further_apart_within_the_time(server, monkeypatch, timeout, waits):
    """Twice as long before the third attempt as before the second; none that could only begin after the time is up."""
    now = Clock()
    monkeypatch.setattr(judge, "WAIT", 10_000)
    monkeypatch.setattr(judge, "time", now)
    assert ask(server, status(500), timeout=timeout)[0] is None
    assert now.waits == waits
    assert len(server.asked) == 1 + len(waits)
    server.answers["/api/chat"] = says("85")
    assert Api(server.url(""), timeout=timeout).score(ENTRY) == (85, "85")
    assert now.waits == waits, "an answer is not waited after"


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.waits = []

    def monotonic(self) -> float:
        return float(sum(self.waits))

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def test_an_answer_that_the_server_cut_is_no_score(server):
    body = {"message": {"role": "assistant", "content": "8"}, "done": True, "done_reason": "length"}
    score, why = ask(server, raw(json.dumps(body).encode()))
    assert score is None
    assert why == "not an integer from 0 to 100, since the answer was cut at the server's limit of tokens: 8"
    assert ask(server, raw(json.dumps({**body, "done_reason": "stop"}).encode()))[0] == 8


def test_an_answer_that_never_ends_is_given_up(server, monkeypatch):
    """Each piece comes in time, but all of them together do not."""
    monkeypatch.setattr(judge, "ATTEMPTS", 1)

    def chatter(handler):
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.ended.wait(0.02):
            handler.wfile.write(b'{"message": {"content": "8"}, "done": false}\n')

    assert ask(server, chatter, timeout=0.2) == (None, "no answer: none within 0.2 s")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue of connections is refused")
def test_a_server_that_accepts_no_connection_is_given_up_and_leaves_no_thread():
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for _ in range(4):  # they fill the queue
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        with pytest.raises((TimeoutError, urllib.error.URLError)):  # of the deadline or, on a busy machine, of connect
            http_deadline.ask(urllib.request.Request(address), 0.3, 1000, list)
        until = time.monotonic() + 20
        while threading.active_count() > before and time.monotonic() < until:
            time.sleep(0.05)
        assert threading.active_count() <= before


@pytest.mark.parametrize(
    ("code", "body", "told"),
    [
        (404, b'{"error": "model \'llama3\' not found"}', r"/api/chat refuses \(404\): model 'llama3' not found"),
        (400, b"<h1>bad\nrequest</h1>", r"refuses \(400\): <h1>bad request</h1>"),
        (401, b"", r"refuses \(401\): Unauthorized"),
    ],
)
def test_a_question_that_is_refused_ends_it(server, code, body, told):
    with pytest.raises(ValueError, match=told):
        ask(server, lambda handler: send(handler, code, body))
    assert len(server.asked) == 1


def test_an_empty_response_has_0_and_nobody_is_asked(server):
    assert ask(server, says("85"), entry={**ENTRY, "model_response": " \n"}) == (0, "empty response")
    assert server.asked == []


def test_a_server_that_is_silent_three_times_in_a_row_is_not_asked_again(server):
    server.answers["/api/chat"] = in_turn(*[status(500)] * 6, says("70"), *[status(500)] * 9)
    api = Api(server.url(""))
    found = [api.score(ENTRY)[1] for _ in range(8)]
    assert [said.partition(":")[0] for said in found] == ["no answer"] * 2 + ["70"] + ["no answer"] * 3 + [
        "not asked"
    ] * 2
    assert len(server.asked) == 16


def test_nobody_listens(server):
    server.shutdown()
    server.server_close()
    score, said = ask(server, says("85"))
    assert score is None
    assert said == "no answer: Connection refused"


@pytest.mark.parametrize("url", ["localhost:11434", "file:///etc/passwd", "http://", "http://host:port", "ftp://x", ""])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="api must be an address such as http://localhost:11434, got"):
        Api(url)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/api/chat", "http://h:1/api/chat/"])
def test_an_address_may_have_its_path(url):
    assert Api(url).url == "http://h:1/api/chat"


# ----- the summary ------------------------------------------------------------------------------------------------


def test_means_are_over_what_has_a_number_and_the_rest_is_counted():
    scores = [(80, "80"), (0, "empty response"), (0, "0"), (None, "not an integer from 0 to 100: no answer"),
              (None, "no answer: 500"), (None, "not asked"), (None, "not asked")]  # fmt: skip
    rows = [
        {"exact_match": i == 0, "f1": i / 10, "log_likelihood": None if i == 6 else -i, "score": score, "judge": said}
        for i, (score, said) in enumerate(scores)
    ]
    assert summary(rows) == {
        "entries": 7, "exact_matches": 1, "exact_match": pytest.approx(1 / 7), "f1": pytest.approx(0.3),
        "log_likelihood": -2.5, "judged_by_likelihood": 6, "score": pytest.approx(80 / 3), "scored": 3,
        "empty_responses": 1, "no_number": 1, "no_answer": 1, "not_asked": 2,
    }  # fmt: skip
    assert summary([{"exact_match": True, "f1": 1.0}]) == {
        "entries": 1, "exact_matches": 1, "exact_match": 1.0, "f1": 1.0
    }  # fmt: skip
    assert summary([{"exact_match": 0, "f1": 0, "score": None, "judge": "not asked"}])["score"] is None
