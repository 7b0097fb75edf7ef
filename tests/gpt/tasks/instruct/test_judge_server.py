"""A judge's server that sends anything, for ever or nowhere: each question ends, and what is shown is harmless."""

import gzip
import json
import threading

import pytest
from loopback import endless, in_turn, send, serving
from ollama import ENTRY, WHOLE, raw, says

from gpt.console import printable
from gpt.tasks.instruct import judge
from gpt.tasks.instruct.judge import Api

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(judge, "WAIT", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        yield server


def ask(server, *answers, timeout=600.0):
    server.answers["/api/chat"] = in_turn(*answers)
    return Api(server.url(""), timeout=timeout).score(ENTRY)


# ----- limits -----------------------------------------------------------------------------------------------------

SLOW = {
    "blank lines": endless(OK + b"\r\n", b"\n", 0.002),
    "a byte now and then": endless(OK + b"\r\n", b" ", 0.05),
    "parts without end": endless(OK + b"\r\n", b'{"message": {"content": "8"}, "done": false}\n', 0.02),
    "a slow status line": endless(b"HTTP/1.1 2", b"0", 0.05),
    "a slow header": endless(OK + b"X-Slow: ", b"x", 0.05),
    "interim answers": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.002),
    "empty chunks": endless(CHUNKED, b"1\r\n \r\n", 0.005),
    "a slow length of a chunk": endless(CHUNKED, b"0", 0.05),
    "trailers": endless(CHUNKED + b"0\r\n", b"X: y\r\n", 0.002),
    "a length that never comes": endless(OK + b"Content-Length: 999999999999999999999\r\n\r\n", b"", 0.05),
    "a slow refusal": endless(b"HTTP/1.1 404 Not Found\r\n\r\n", b"x", 0.05),
}


@pytest.mark.slow
@pytest.mark.finding("A8")
@pytest.mark.parametrize("case", SLOW)
def test_the_time_for_a_question_is_kept(server, case):
    assert ask(server, SLOW[case], timeout=0.25) == (None, "no answer: none within 0.25 s")
    for thread in threading.enumerate():
        if "exchange" in thread.name:
            thread.join(60)
            assert not thread.is_alive(), "the connection is closed, so that nothing goes on behind"


@pytest.mark.finding("A8")
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (endless(OK + b"\r\n", b"a" * 65536), "the answer is longer than 1,048,576 bytes"),
        (endless(OK + b"\r\n", b"\n" * 65536), "the answer is longer than 1,048,576 bytes"),
        (endless(CHUNKED, b"10000\r\n" + b"{" * 65536 + b"\r\n"), "the answer is longer than 1,048,576 bytes"),
        (endless(OK, b"X: y\r\n"), "the connection broke"),
        (endless(b"", b"H" * 65536), "the connection broke"),
        (endless(b"HTTP/1.1 500 Oops\r\n\r\n", b"a" * 65536), "500 Oops"),
        (raw(gzip.compress(bytes(1 << 20)), Content_Encoding="gzip"), "the answer is compressed ('gzip')"),
        (raw(WHOLE, Content_Encoding="gzip, gzip"), "the answer is compressed"),
    ],
)
def test_the_size_of_an_answer_is_limited(server, answer, why):
    score, said = ask(server, answer)
    assert score is None
    assert why in said
    assert len(server.asked) == 3


# ----- contents ---------------------------------------------------------------------------------------------------


@pytest.mark.finding("A8")
@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"message":' * 50_000, b'{"message": {"content": 85}}', b'"85"', b"9" * 5000, b"{}", b"\xff"],
)
def test_a_reply_that_is_no_chat_answer_is_a_sentence(server, body):
    assert ask(server, raw(body)) == (None, "no answer: it is not a chat answer in JSON")


@pytest.mark.finding("A8")
def test_half_characters_can_be_saved(server):
    """Two halves in two parts are one character; one half is replaced."""
    halves = [
        json.dumps({"message": {"content": half}, "done": done}) for half, done in (("\ud83d", False), ("\ude00", True))
    ]
    score, said = ask(server, raw("\n".join(halves).encode()))
    assert (score, said) == (None, "not an integer from 0 to 100: 😀")
    _, said = ask(server, raw(halves[0].replace("false", "true").encode()))
    said.encode("utf-8")
    assert said == "not an integer from 0 to 100: \ufffd"


@pytest.mark.finding("A8")
def test_what_a_server_says_cannot_steer_the_terminal(server):
    evil = "\x1b]0;title\x07\x1b[2J\r\u202egnp.exe" + "x" * 5000
    with pytest.raises(ValueError, match=r"refuses \(403\)") as error:
        ask(server, lambda handler: send(handler, 403, evil.encode()))
    assert str(error.value).isprintable()
    assert "\\x1b]0;title\\x07" in str(error.value)
    assert len(str(error.value)) < 500
    assert (
        ask(server, endless(b"HTTP/1.1 500 \x1b[31mred\r\nContent-Length: 0\r\n\r\n", b""))[1]
        == "no answer: 500 \\x1b[31mred"
    )


def test_long_text_is_cut_in_the_middle():
    assert printable("a\nb é\t\x1b\ud800", 100) == "a\nb é\\t\\x1b\\ud800"
    assert printable("a" * 100 + "b" * 100, 40) == "a" * 30 + " ... " + "b" * 10


# ----- where a question goes --------------------------------------------------------------------------------------


@pytest.mark.finding("A8")
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "to", ["{other}/api/chat", "file:///etc/passwd", "gopher://h/", "//h\x1b[31m/", "/api/elsewhere"]
)
def test_a_redirect_is_not_followed(server, code, to):
    with serving() as other:
        other.answers["/api/chat"] = server.answers["/api/elsewhere"] = says("85")
        target = to.format(other=other.url(""))
        with pytest.raises(ValueError, match=r"/api/chat redirects to .*: if you trust that address, give it to --api"):
            ask(server, lambda handler: send(handler, code, Location=target))
        assert other.asked == []
    assert [path for path, _, _ in server.asked] == ["/api/chat"]


@pytest.mark.finding("A8")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_judge_on_this_machine_is_asked_directly(server, monkeypatch, host):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody listens
    server.answers["/api/chat"] = says("85")
    assert Api(server.url("").replace("127.0.0.1", host)).score(ENTRY) == (85, "85")


def test_a_judge_elsewhere_is_asked_through_the_proxy(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url(""))
    server.answers["http://judge.invalid/api/chat"] = says("85")
    assert Api("http://judge.invalid").score(ENTRY) == (85, "85")


@pytest.mark.parametrize("url", ["http://h:1/a b", "http://h\x1b[31m", "http://h/\n"])
def test_an_address_with_space_or_control_characters_is_refused(url):
    with pytest.raises(ValueError, match="api must be an address"):
        Api(url)
