"""Who may use the server, and how much of it: a layer around the application that checks each request.

Any web page in the user's browser can send requests to 127.0.0.1. What protects the models:

- The Host header must be a name of this computer. A page whose own name resolves to 127.0.0.1 (DNS rebinding) would be
  of the same origin as the server; the Host header still has the page's name.
- A request that another site's page sends (Origin, Sec-Fetch-Site) is refused, and a POST must be JSON, which a page
  cannot send to another origin without asking first.
- Where other computers can reach the server, a secret token is required, as by Jupyter: in the address that is printed,
  then in a cookie, or as `Authorization: Bearer`.
- A Content-Security-Policy allows the page its own files alone.
- The body of a request has at most MOST_BYTES, and a client that leaves cancels what is computed for it. (server.py
  has the limits of connections.)
"""

import asyncio
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1 << 20  # of the body of a request
HOST = re.compile(r"(?:\[([^][]*)\]|([^][:@]*))(?::\d*)?")  # [IPv6] or name, and perhaps a port
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# It has a refresh, not a redirect: a cookie with SameSite=Strict is not sent on a redirect that another page began.
ENTERED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>gpt look</title>
<link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url=/">"""


@dataclass(frozen=True)
class Access:
    """Who may ask a server: by the names that it answers to, and by a token."""

    names: frozenset[str] = frozenset(LOOPBACK)
    addresses: bool = False  # also requests to any IP address; a browser gets there without DNS
    token: str | None = None
    cookie: str = "gpt_look"  # browsers share cookies between the ports of a host: the port is part of the name

    @classmethod
    def at(cls, host: str, bound: str, port: int) -> "Access":
        """For a server that listens on `host`, whose IP address is `bound`."""
        address = ipaddress.ip_address(bound.partition("%")[0])
        names = frozenset(name.lower() for name in (*LOOPBACK, host, bound))
        if address.is_loopback:
            return cls(names, cookie=f"gpt_look_{port}")
        here = socket.gethostname().lower()
        return cls(names | {here, f"{here}.local"}, True, secrets.token_urlsafe(24), f"gpt_look_{port}")

    def answers_to(self, host: str) -> bool:
        """Whether a Host header, such as localhost:8990 or [::1]:8990, names this server."""
        if not (parts := HOST.fullmatch(host.lower())):
            return False
        name = parts[1] or parts[2]
        return name in self.names or (self.addresses and is_address(name))

    def accepts(self, token: str) -> bool:
        """Whether this is the server's token. The comparison takes the same time for each wrong one."""
        return self.token is not None and secrets.compare_digest(token.encode(), self.token.encode())

    def has_bearer(self, headers: Headers) -> bool:
        """Whether the token is in the header Authorization, where OpenAI's clients put their api_key."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self.accepts(token.strip())

    def has_cookie(self, headers: Headers) -> bool:
        """Whether the token is in the cookie that the page got."""
        cookies = cookie_parser(headers.get("cookie", ""))
        return self.accepts(cookies.get(self.cookie, ""))


@dataclass
class Guard:
    """ASGI middleware that applies an Access, and the limits and headers of this module, to an application."""

    app: ASGIApp
    access: Access = field(default_factory=Access)
    most_bytes: int = MOST_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        send = with_headers(scope, send)
        if answer := refusal(self.access, scope):
            return await answer(scope, receive, send)
        if (body := await read_body(receive, self.most_bytes)) is None:
            too_long = error(scope, 413, f"the body of a request must have at most {self.most_bytes:,} bytes")
            return await too_long(scope, receive, send)
        await self.run(scope, body, receive, send)

    async def run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """The application's answer to the whole request; it is cancelled when the client leaves."""
        left, given = asyncio.Event(), False

        async def receive_whole() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
            answer.cancel()

        answer = asyncio.ensure_future(self.app(scope, receive_whole, send))
        watcher = asyncio.ensure_future(watch())
        try:
            await asyncio.wait([answer])
            if not answer.cancelled():
                answer.result()  # raises what the application raised
        finally:
            answer.cancel()  # where this task itself was cancelled
            watcher.cancel()


async def read_body(receive: Receive, most: int) -> bytes | None:
    """The body of a request; None where it has more than `most` bytes, or the client leaves before its end."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or len(body) > most:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def with_headers(scope: Scope, send: Send) -> Send:
    """`send` with the headers of this module in every answer."""

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            # browsers check the page's files by their ETag at each visit: a newer version may be installed
            headers.setdefault("Cache-Control", "no-cache" if scope["path"].startswith("/static/") else "no-store")
        await send(message)

    return send_with


def refusal(access: Access, scope: Scope) -> Response | None:
    """The answer to a request that the application does not see, None for others."""
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not access.answers_to(hosts[0]):
        name = repr(", ".join(hosts))
        return error(scope, 421, f"gpt look does not answer to the host {name:.80}: use the address that it printed")
    if not from_here(headers, hosts[0]) and not is_link(headers, scope) and not access.has_bearer(headers):
        return error(scope, 403, "gpt look does not answer requests that the page of another site sends")
    if answer := entrance(access, scope):
        return answer
    if not (access.token is None or access.has_cookie(headers) or access.has_bearer(headers)):
        how = "open the address that it printed, or send the token as Authorization: Bearer"
        return error(scope, 401, f"gpt look needs a token: {how}")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if scope["method"] == "POST" and kind != "application/json":
        return error(scope, 415, "the body of a request must be JSON, with Content-Type: application/json")
    return None


def is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def from_here(headers: Headers, host: str) -> bool:
    """Whether a request is the server's own page's, or no browser's."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def is_link(headers: Headers, scope: Scope) -> bool:
    """Whether a link on another page opens the page: no script can read the result."""
    opens = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return opens and scope["method"] == "GET" and scope["path"] == "/"


def entrance(access: Access, scope: Scope) -> Response | None:
    """For the address with the right token: an answer that leaves the token in a cookie and opens the page."""
    given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
    if access.token is None or scope["method"] != "GET" or scope["path"] != "/" or not access.accepts(given):
        return None
    answer = HTMLResponse(ENTERED)
    answer.set_cookie(access.cookie, access.token, path="/", httponly=True, samesite="strict")
    return answer


def error(scope: Scope, status: int, sentence: str) -> Response:
    """An error in the form that its client reads: OpenAI's, the page's, or plain text for a browser's window."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if scope["path"].startswith("/v1/"):
        kind = "authentication_error" if status == 401 else "invalid_request_error"
        code = "invalid_api_key" if status == 401 else None
        body = {"error": {"message": sentence, "type": kind, "param": None, "code": code}}
        return JSONResponse(body, status, headers)
    if scope["path"].startswith("/api/"):
        return JSONResponse({"error": sentence}, status, headers)
    return PlainTextResponse(sentence + "\n", status, headers)
