"""The server as a process: clients that send or take nothing, Ctrl-C during a computation, what the terminal shows."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from runs import ONE_THREAD

pytestmark = pytest.mark.slow

PROGRAM = """
import socket, sys
from starlette.routing import Route
import tensorlite as tl
from gpt.serve import create_app, server
from gpt.serve.requests import json_lines, json_response, state_of
from gpt.serve.security import Guard

server.ARRIVAL, server.PATIENCE, server.CONNECTIONS = 1.0, 1.0, 8
ended = []

def much():
    try:
        for n in range(400):
            yield "x" * 100_000
    finally:
        ended.append(n)

def long():
    x = tl.ones((300, 300))
    while True:
        x = x @ x * 0.001

async def quick(request):
    return json_response({"ended": await state_of(request).worker.run(lambda: list(ended))})

async def stream(request):
    return json_lines(state_of(request).worker.stream(much))

async def compute(request):
    print("computing", flush=True)
    return json_response(await state_of(request).worker.run(long))

async def fault(request):
    raise KeyError("a fault of ours")

no_delay = []
made = server.Protocol.connection_made

def connection_made(self, transport):
    made(self, transport)
    no_delay.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

server.Protocol.connection_made = connection_made

async def delays(request):
    return json_response(no_delay)

app = create_app([])
app.router.routes[:0] = [Route("/api/" + f.__name__, f) for f in (quick, stream, compute, fault, delays)]
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    server.run(Guard(app), listener)
"""


@pytest.fixture
def process():
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def port(process) -> int:
    return int(process.stdout.readline())


def connect(port: int, text: str = "") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(text.encode())
    return client


def get(path: str) -> str:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"


def read_all(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    found = []
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            found.append(piece)
    return b"".join(found)


def answer(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of the answer to GET `path`."""
    with connect(port, get(path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")) as client:
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_client_that_never_reads_does_not_hold_others_and_is_dropped(port):
    with connect(port, get("/api/stream")) as slow:
        time.sleep(0.2)
        began = time.monotonic()
        status, body = answer(port, "/api/quick")
        assert status == 200
        assert time.monotonic() - began < 3, "the slow client's answer has 40 MB, of which nothing is taken"
        assert json.loads(body) == {"ended": [399]}, "its answer is computed to the end, into memory"
        time.sleep(1.5)
        assert len(read_all(slow)) < 30_000_000, "the connection was closed before the end"


def test_an_answer_is_sent_without_waiting_for_an_acknowledgement(port):
    status, body = answer(port, "/api/delays")
    assert status == 200
    assert all(json.loads(body)), "without TCP_NODELAY each answer after the first takes 40 ms more"


def test_a_reader_gets_all_of_a_stream(port):
    status, body = answer(port, "/api/stream")
    assert status == 200
    assert body.count(b"x" * 100_000) == 400


@pytest.mark.parametrize(
    "begun",
    ["", "GET / HT", "GET / HTTP/1.1\r\nHost: loc", get("/") + "GET / H",
     "POST /api/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"],
)  # fmt: skip
def test_a_request_that_does_not_arrive_is_dropped(port, begun):
    with connect(port, begun) as client:
        began = time.monotonic()
        read_all(client)
        assert time.monotonic() - began < 7


def test_a_second_request_that_does_not_arrive_is_dropped(port):
    with connect(port, get("/api/quick")) as client:
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET / H")
        began = time.monotonic()
        read_all(client)
        assert 0.5 < time.monotonic() - began < 4


def test_a_request_that_drips_is_dropped(port):
    with connect(port, "GET / HTTP/1.1\r\nHost: localhost\r\n") as client:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 8:
                client.sendall(b"X-A: b\r\n")
                time.sleep(0.1)
        assert time.monotonic() - began < 4


def test_the_number_of_connections_is_limited(port):
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(port))
        time.sleep(0.2)
        assert answer(port, "/api/quick")[0] == 503
        time.sleep(1.2)
        assert answer(port, "/api/quick")[0] == 200


def test_a_long_address_and_a_long_body_are_refused(port):
    with connect(port, f"GET /{'a' * 2_000_000}") as client:
        assert read_all(client)[:12] in (b"HTTP/1.1 400", b"")  # b"": reset, since the rest was not read
    head = "POST /api/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with connect(port, f"{head}Content-Length: 2000000\r\n\r\n{' ' * 2_000_000}") as client:
        assert read_all(client).startswith(b"HTTP/1.1 413")


@pytest.mark.skipif(sys.platform == "win32", reason="a signal for another process")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -2), (signal.SIGTERM, -15)])
def test_a_signal_ends_it_at_once_while_it_computes_and_streams(process, port, number, status):
    with connect(port, get("/api/stream")), connect(port, get("/api/compute")), connect(port, get("/api/quick")):
        assert process.stdout.readline() == "computing\n"
        time.sleep(0.2)
        began = time.monotonic()
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=10)
        assert time.monotonic() - began < 2
        assert process.returncode == status
        if number == signal.SIGINT:  # gpt.__main__ makes exit status 130 of it
            assert errors.splitlines()[-1] == "KeyboardInterrupt"
            assert "Exception" not in errors
        else:
            assert errors == ""


def test_only_faults_of_ours_are_shown_on_the_terminal(process, port):
    with connect(port, "no http at all\r\n\r\n") as client:
        read_all(client)
    connect(port, get("/api/stream")).close()
    assert answer(port, "/api/nothing")[0] == 404
    status, body = answer(port, "/api/fault")
    assert status == 500
    assert json.loads(body) == {"error": "unexpected error: KeyError: 'a fault of ours'"}
    process.terminate()
    _, errors = process.communicate(timeout=10)
    assert errors.count("Traceback") == 1
    assert "a fault of ours" in errors
