"""Who may use the server of `gpt look`, by the requests that a browser, a program or an attacker's page would send."""

import asyncio
import json
import mimetypes
import threading
from urllib.parse import unquote

import pytest

pytest.importorskip("httpx2", reason="Starlette's test client needs it: pip install -e '.[test]'")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from gpt.serve import create_app
from gpt.serve.security import MOST_BYTES, Access, Guard
from gpt.serve.worker import Busy

TOKEN = "a-secret_token"
LOCAL = Access.at("127.0.0.1", "127.0.0.1", 8990)
OPEN = Access(frozenset({"localhost", "box.local"}), addresses=True, token=TOKEN, cookie="gpt_look_8990")
OURS = "http://localhost:8990"
JSON = {"Content-Type": "application/json"}


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"read": len(await request.body()), "path": request.url.path})


ECHO = Starlette(
    routes=[Route(path, echo, methods=["GET", "POST"]) for path in ("/", "/api/echo", "/v1/models", "/static/x.js")]
)


def client(access: Access = LOCAL, base: str = OURS, **options) -> TestClient:
    return TestClient(Guard(ECHO, access, **options), base_url=base, follow_redirects=False)


# ----- the host ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8990", "127.0.0.1:8990", "127.0.0.1:1", "[::1]:8990", "[::1]", "localhost:80"]
)
def test_names_of_this_computer_are_answered(host):
    assert client().get("/api/echo", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8990", "localhost.evil.example", "evil.example:localhost", "127.0.0.1.nip.io",
     "[::2]:8990", "192.168.1.7:8990", "", "@localhost", "127.0.0.1@evil.example", "[::1].evil.example"],
)  # fmt: skip
def test_other_names_are_refused(host):
    """A page whose name was made to mean 127.0.0.1 sends its own name."""
    answer = client().get("/api/echo", headers={"Host": host})
    assert answer.status_code == 421
    assert "does not answer to the host" in answer.json()["error"]


def test_a_second_host_header_is_refused():
    answer = client().get("/api/echo", headers=[("Host", "localhost"), ("Host", "evil.example")])
    assert answer.status_code == 421


@pytest.mark.parametrize(
    ("told", "bound", "host", "status"),
    [("127.0.0.2", "127.0.0.2", "127.0.0.2:1", 200), ("::1", "::1", "[::1]:1", 200), ("mine", "127.0.0.1", "mine", 200),
     ("127.0.0.1", "127.0.0.1", "127.0.0.2:1", 421), ("0.0.0.0", "0.0.0.0", "192.168.1.7:1", 401),
     ("0.0.0.0", "0.0.0.0", "evil.example", 421), ("::", "::", "[fe80::1]:1", 401),
     ("192.168.1.7", "192.168.1.7", "192.168.1.7", 401), ("box", "192.168.1.7", "box", 401)],
)  # fmt: skip
def test_the_given_address_is_a_name_too_and_others_can_reach_it_with_a_token_only(told, bound, host, status):
    answer = client(Access.at(told, bound, 1)).get("/api/echo", headers={"Host": host})
    assert answer.status_code == status


# ----- other sites ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": OURS}, {"Sec-Fetch-Site": "same-origin", "Origin": OURS}, {"Sec-Fetch-Site": "none"}],
)
def test_the_page_itself_and_programs_may_post(headers):
    assert client().post("/api/echo", json={}, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/api/echo", "/v1/models"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:3000"},
     {"Origin": "http://localhost.evil.example:8990"}, {"Sec-Fetch-Site": "cross-site"},
     {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "cross-site", "Origin": OURS},
     {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}],
)  # fmt: skip
def test_a_page_of_another_site_may_not(method, path, headers):
    answer = client().request(method, path, headers=headers | JSON)
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert "another site" in (error["message"] if path.startswith("/v1") else error)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize("path", ["/api/echo", "/v1/models"])
def test_a_form_is_no_request(path, kind):
    """What a page can send elsewhere without asking first; also in a browser that names no origin."""
    answer = client().post(path, content=b"{}", headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 415
    assert client().post(path, content=b"{}", headers={"Content-Type": "Application/JSON; charset=utf-8"}).is_success


def test_a_link_elsewhere_may_open_the_page_and_nothing_else():
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client().get("/", headers=link).status_code == 200
    assert client().get("/static/x.js", headers=link).status_code == 403
    assert client().post("/", headers=link | JSON).status_code == 403
    assert client().get("/", headers=link | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert client().get("/", headers=link | {"Sec-Fetch-Mode": "no-cors"}).status_code == 403


def test_a_web_socket_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(ECHO)({"type": "websocket", "headers": [], "path": "/"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


# ----- the token -------------------------------------------------------------------------------------------------


def test_without_the_token_nothing_is_answered():
    for path in ("/", "/api/echo", "/v1/models", "/static/x.js", "/nowhere"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
                        {"Authorization": "Bearer "}, {"Authorization": "Bearer é"},
                        {"Cookie": "gpt_look_8990=wrong"}, {"Cookie": f"gpt_look_1={TOKEN}"}):  # fmt: skip
            encoded = {name: value.encode() for name, value in headers.items()}
            answer = client(OPEN).get(path, headers=encoded)
            assert answer.status_code == 401, (path, headers)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "open the address that it printed" in client(OPEN).get("/?token=wrong").text
    assert client(OPEN).get(f"/api/echo?token={TOKEN}").status_code == 401  # in the page's address alone


def test_the_address_gives_a_cookie_that_other_sites_and_scripts_do_not_get():
    browser = client(OPEN)
    first = browser.get(f"/?token={TOKEN}")
    assert first.status_code == 200
    assert 'content="0; url=/"' in first.text
    assert TOKEN not in first.text
    cookie = first.headers["Set-Cookie"]
    assert cookie.startswith(f"gpt_look_8990={TOKEN};")
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert browser.get("/").json() == {"read": 0, "path": "/"}
    assert browser.post("/api/echo", json={}).status_code == 200


def test_a_bearer_is_enough_also_for_a_client_with_an_origin():
    headers = {"Authorization": f"Bearer {TOKEN}", "Origin": "app://chat", "Host": "192.168.1.7:8990"}
    assert client(OPEN).post("/v1/models", json={}, headers=headers).status_code == 200
    del headers["Authorization"]
    assert client(OPEN).post("/v1/models", json={}, headers=headers).status_code == 403


def test_each_server_has_its_own_token():
    tokens = {Access.at("0.0.0.0", "0.0.0.0", 1).token for _ in range(20)}
    assert len(tokens) == 20
    assert min(map(len, tokens)) >= 32
    assert LOCAL.token is None


def test_refusals_have_the_form_that_their_client_reads():
    error = client(OPEN).get("/v1/models").json()["error"]
    assert error["type"] == "authentication_error"
    assert error["code"] == "invalid_api_key"
    assert isinstance(error["message"], str)
    assert isinstance(client(OPEN).get("/api/echo").json()["error"], str)
    assert client(OPEN).get("/").headers["Content-Type"].startswith("text/plain")


# ----- headers and limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "cache"), [("/", "no-store"), ("/api/echo", "no-store"), ("/static/x.js", "no-cache"), ("/no", "no-store")]
)
def test_every_answer_has_the_headers(path, cache):
    for asked in (client().get(path), client().get(path, headers={"Host": "evil"}), client(OPEN).get(path)):
        policy = dict(part.split(" ", 1) for part in asked.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in asked.headers["Content-Security-Policy"]
        assert asked.headers["X-Content-Type-Options"] == "nosniff"
        assert asked.headers["Referrer-Policy"] == "no-referrer"
        assert asked.headers["Cache-Control"] == cache
        assert "Access-Control-Allow-Origin" not in asked.headers


def test_a_body_has_a_limit():
    assert client(most_bytes=1000).post("/api/echo", content=b"x" * 1000, headers=JSON).json()["read"] == 1000
    answer = client(most_bytes=1000).post("/api/echo", content=b"x" * 1001, headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["error"] == "the body of a request must have at most 1,000 bytes"
    pieces = client(most_bytes=1000).post("/api/echo", content=(b"x" * 100 for _ in range(11)), headers=JSON)
    assert pieces.status_code == 413
    assert MOST_BYTES == 1 << 20


def test_a_client_that_leaves_cancels_what_is_computed_for_it():
    begun, cancelled = threading.Event(), threading.Event()

    async def app(scope, receive, send):
        assert (await receive())["body"] == b"{}"
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def main():
        messages: asyncio.Queue = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        messages.put_nowait({"type": "http.request", "body": b"}"})
        sent = []

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/api/x", "query_string": b"", "headers": headers}
        answer = asyncio.create_task(Guard(app, LOCAL)(scope, messages.get, send))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        messages.put_nowait({"type": "http.disconnect"})
        async with asyncio.timeout(5):
            await answer
        assert sent == []

    asyncio.run(main())
    assert cancelled.is_set()


def test_an_error_of_the_application_is_raised_to_the_server():
    async def app(scope, receive, send):
        raise KeyError("a fault")

    with pytest.raises(KeyError, match="a fault"):
        TestClient(Guard(app, LOCAL), base_url=OURS).get("/")


# ----- the page's files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return TestClient(Guard(create_app([tmp_path_factory.mktemp("none")]), LOCAL), base_url=OURS)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/static/js/main.js", "text/javascript"), ("/static/js/views/index.js", "text/javascript"),
     ("/static/vendor/d3.min.js", "text/javascript"), ("/static/css/base.css", "text/css"),
     ("/static/icon.svg", "image/svg+xml")],
)  # fmt: skip
def test_media_types_are_what_browsers_demand(path, kind):
    """Also where the system's table has them wrong, as on some computers with Windows."""
    for ending in (".js", ".css", ".svg"):
        mimetypes.add_type("text/plain", ending)
    answer = TestClient(Guard(create_app([]), LOCAL), base_url=OURS).get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].partition(";")[0] == kind


@pytest.mark.parametrize(
    "path",
    ["/static", "/static/", "/static/js", "/static/js/", "/static/../app.py", "/static/%2e%2e/app.py",
     "/static/..%2fapp.py", "/static/js/../../../app.py", "/static//etc/passwd", "/static/%00", "/etc/passwd"],
)  # fmt: skip
def test_no_other_file_and_no_list_of_files(page, path):
    sent = asyncio.run(ask(page.app, path))
    assert sent[0]["status"] == 404
    assert b"Starlette(" not in sent[-1].get("body", b"")
    assert b"root:" not in sent[-1].get("body", b"")


async def ask(app, path: str) -> list[dict]:
    """GET `path`, which no client has tidied up."""
    sent: list[dict] = []
    left = asyncio.Event()

    async def send(message):
        sent.append(message)

    given = [{"type": "http.request", "body": b""}]

    async def receive():
        if given:
            return given.pop()
        await left.wait()

    scope = {"type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(), "query_string": b"",
             "headers": [(b"host", b"localhost")], "root_path": ""}  # fmt: skip
    await app(scope, receive, send)
    return sent


def test_a_full_queue_is_503_with_the_time_to_wait(page):
    async def full(request):
        raise Busy("the server is busy: try again in a moment")

    app = create_app([])
    app.router.routes.insert(0, Route("/api/full", full))
    answer = TestClient(app).get("/api/full")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert json.loads(answer.content) == {"error": "the server is busy: try again in a moment"}
