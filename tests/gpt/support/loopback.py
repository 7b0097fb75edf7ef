"""An HTTP server on this machine that answers as a test tells it to, also badly."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """`answers` maps a path to what it does with the request; `asked` has (path, Range header, body) of each."""

    daemon_threads = True
    block_on_close = False  # an answer that hangs must not hold up the test's end

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None, bytes]] = []
        self.ended = threading.Event()

    def url(self, path: str, answer: Answer | None = None) -> str:
        if answer is not None:
            self.answers[path] = answer
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each request for a path."""
        return [asked_range for asked, asked_range, _ in self.asked if asked == path]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, self.headers.get("Range"), body))
        self.close_connection = True
        self.server.answers.get(self.path, status(404))(self)

    do_POST = do_GET

    def log_message(self, *_) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


# ----- what it may do ---------------------------------------------------------------------------------------------


def send(handler: BaseHTTPRequestHandler, code: int, body: bytes = b"", **headers: str) -> None:
    """A whole answer; `Content_Length=None` leaves that header away."""
    handler.send_response(code)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        if value is not None:
            handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int, **headers: str) -> Answer:
    return lambda handler: send(handler, code, b"sorry", **headers)


def file(data: bytes, ranges: bool = True, stop: int | None = None, **headers: str) -> Answer:
    """A file as servers have it; `stop` breaks each connection after so many bytes of the answer's body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and ranges else 0
        if start and start >= len(data):
            return send(handler, 416, Content_Range=f"bytes */{len(data)}")
        extra = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        body = data[start:]
        length = {"Content_Length": str(len(body))}
        return send(handler, 206 if start else 200, body[:stop], **{**length, **extra, **headers})

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first answer to the first request, ...; the last to all that follow."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        answers[min(len(handler.server.ranges(handler.path)), len(answers)) - 1](handler)

    answer.hangs = any(map(hangs, answers))
    return answer


def redirect(to: str, **headers: str) -> Answer:
    return status(302, Location=to, **headers)


def hang(first: bytes = b"", length: int = 100) -> Answer:
    """The beginning of an answer, and then nothing until the test ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if first:
            send(handler, 200, first, Content_Length=str(length))
            handler.wfile.flush()
        handler.server.ended.wait(30)

    answer.hangs = True
    return answer


def endless(first: bytes, piece: bytes, pause: float = 0.0) -> Answer:
    """`first`, from the status line on, and then `piece` again and again, until the client or the test ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):  # the client has closed the connection
            handler.wfile.write(first)
            while not handler.server.ended.wait(pause):
                handler.wfile.write(piece)

    answer.hangs = True
    return answer


def hangs(answer: Answer) -> bool:
    """Whether a client needs a short timeout; with any other answer it may wait as long as a busy machine takes."""
    return getattr(answer, "hangs", False)
