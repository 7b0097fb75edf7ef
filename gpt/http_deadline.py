"""HTTP exchanges with a deadline for the whole exchange, and limits to the size of the answer.

The timeout of a socket limits each single read: a server that sends a byte now and then, or blank lines without end,
never exceeds it. So the exchange runs in a thread of its own, which is abandoned when its time is over.
"""

import contextlib
import http.client
import ipaddress
import queue
import socket
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

Result = TypeVar("Result")
PIECE = 1 << 16


class Refused(ValueError):
    """An answer that is not accepted: too long, or compressed."""


def ask(
    request: urllib.request.Request, seconds: float, most: int, read: Callable[[Iterator[bytes]], Result]
) -> Result:
    """Open the address and return `read(lines)`, where `lines` are the lines of the answer.

    Raises TimeoutError where that takes more than `seconds` in all, Refused where the answer has more than `most` bytes
    or is compressed. Redirects are not followed: they raise urllib.error.HTTPError, as does every other status that is
    not a success; the beginning of its body is the attribute `body`. Other errors are those of urllib. The proxies of
    the environment are used, but not for an address of this machine.
    """
    connections: list[Any] = []
    found: list[Result] = []
    raised: list[BaseException] = []

    def exchange() -> None:
        try:
            with opener(request.full_url, connections).open(request, timeout=seconds) as answer:
                if (packed := answer.headers.get("Content-Encoding")) not in (None, "", "identity"):
                    raise Refused(f"the answer is compressed ({packed!r:.40}), which was not requested")
                found.append(read(lines(answer, most)))
        except urllib.error.HTTPError as error:
            with error:
                error.body = _start(error, 4096)  # type: ignore[attr-defined]
            raised.append(error)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:  # also after Ctrl-C
        if late := thread.is_alive():
            for connection in connections:
                connection.shut()
    if late:
        raise TimeoutError
    if raised:
        raise raised[0]
    return found[0]


def in_thread(items: Generator[Result], seconds: float) -> Iterator[Result]:
    """The same items, made in another thread; TimeoutError where one takes longer than `seconds`.

    When the caller stops iterating, the thread ends at the next item that it makes.
    """
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(8)
    stop = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return made.put((item, error), timeout=0.2)

    def work() -> None:
        try:
            with contextlib.closing(items):
                for item in items:
                    put(item)
                    if stop.is_set():
                        return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            try:
                item, error = made.get(timeout=seconds)
            except queue.Empty:
                raise TimeoutError from None
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()


def unpacked(pieces: Iterable[bytes], encoding: str | None, most: int) -> Iterator[bytes]:
    """The pieces of a body with its Content-Encoding undone, of a compressed one in pieces of at most PIECE bytes.

    Refused where more than `most` bytes arrive (the caller counts the bytes after decompression), and
    for an encoding that is not gzip.
    """
    if encoding not in (None, "", "identity", "gzip", "x-gzip"):
        raise Refused(f"it is compressed ({encoding!r:.40}), which was not requested")
    decoder = zlib.decompressobj(wbits=31) if encoding in ("gzip", "x-gzip") else None
    arrived = 0
    for piece in pieces:
        arrived += len(piece)
        if arrived > most:
            raise Refused(f"it sends more than {most:,} bytes")
        while piece:
            part = decoder.decompress(piece, PIECE) if decoder else piece
            piece = decoder.unconsumed_tail if decoder else b""
            if part:
                yield part


def lines(answer: Any, most: int) -> Iterator[bytes]:
    """The lines of an answer, without their ends; Refused after `most` bytes."""
    size, line = 0, b""
    while piece := answer.read1(PIECE):
        size += len(piece)
        if size > most:
            raise Refused(f"the answer is longer than {most:,} bytes")
        *whole, line = (line + piece).split(b"\n")
        yield from whole
    yield line


def _start(answer: Any, most: int) -> bytes:
    """The first bytes of an answer."""
    data = b""
    with contextlib.suppress(OSError, http.client.HTTPException):  # what has arrived is shown
        while len(data) < most and (piece := answer.read1(most - len(data))):
            data += piece
    return data


def opener(url: str, connections: list[Any]) -> urllib.request.OpenerDirector:
    """An opener of http and https addresses that does not follow redirects, and adds its connections to the list."""

    def noted(kind: Any) -> Any:
        class Connection(kind):  # type: ignore[misc]  # one class for http and https
            def __init__(self, *args: Any, **options: Any):
                super().__init__(*args, **options)
                self.opened: Any = None
                connections.append(self)

            def connect(self) -> None:
                super().connect()
                self.opened = self.sock  # urllib removes `sock` when the head of the answer has arrived

            def shut(self) -> None:
                for each in (self.opened, self.sock):
                    if each is not None:
                        with contextlib.suppress(OSError):  # it is closed already
                            each.shutdown(socket.SHUT_RDWR)

        return Connection

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request: Any) -> Any:
            return self.do_open(noted(http.client.HTTPConnection), request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request: Any) -> Any:
            return self.do_open(noted(http.client.HTTPSConnection), request)

    found = urllib.request.OpenerDirector()
    proxies = urllib.request.ProxyHandler({} if is_loopback(url) else None)
    errors = (urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler())
    for handler in (proxies, Http(), Https(), *errors):
        found.add_handler(handler)
    return found


def is_loopback(url: str) -> bool:
    """Whether an address belongs to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
