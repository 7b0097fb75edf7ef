"""`gpt look`: a page in the browser in which your model is open."""

import errno
import os
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tensorlite import backend
from tensorlite.devices import machine

from ..config import check_device, check_integer
from ..fast.weights_dtype import Dtype
from ..training import checkpoint

PORT, TRIED = 8990, 50  # without --port: the first port that is tried, and how many


@dataclass(frozen=True)
class Look:
    """Open a page in the browser that shows how a model writes, what it computes, and how it learns."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")] = (
        Path("runs"),
    )  # runs, or folders of runs; they are only read
    host: str = "127.0.0.1"  # address to listen on; where others can reach it, the page's address has a secret token
    port: int | None = None  # port to listen on; 0: any free one; default: 8990, or the next free one
    browser: bool = True  # whether the page is opened in the browser; without, its address is only printed
    # of the weights with which the OpenAI-compatible server writes: bfloat16 halves the bytes to read for each token,
    # int8, on a CPU, quarters them; all else on the page is computed in float32
    dtype: Dtype = "float32"
    device: str = "auto"  # cpu, cuda or cuda:1 (the second GPU); auto: a GPU if one is usable

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.port is not None:
            check_integer("port", self.port, low=0)
            if self.port > 65535:
                raise ValueError(f"port must be at most 65535, got {self.port}")

    def __call__(self) -> int:
        # imported here: together they take a tenth of a second, which other commands do not need
        import webbrowser

        from ..serve import create_app, server
        from ..serve.security import Access, Guard

        check_runs(self.runs)
        machine.set_threads(machine.default_threads())
        with listen(self.host, self.port) as listener:
            bound, port = listener.getsockname()[:2]
            access = Access.at(self.host, bound, port)
            app = Guard(create_app(self.runs, backend.use_device(self.device), self.dtype), access)
            address = page_address(self.host, port, access.token)
            try:
                print(f"{address}\nCtrl-C ends it.", flush=True)
                if self.browser:  # in a thread: some browsers keep the caller waiting
                    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
                server.run(app, listener)
            except KeyboardInterrupt:
                if sys.stdout.isatty():
                    print()  # after the terminal's ^C
                raise
        return 0


def check_runs(folders: tuple[Path, ...]) -> None:
    """FileNotFoundError for a folder without a run; the error of the first run where none can be read."""
    from ..serve.state import find_runs

    found = {folder: list(find_runs(folder)) for folder in folders}
    for folder, runs in found.items():
        if not runs:
            raise FileNotFoundError(f"there is no run in {folder}: gpt train makes one in runs/")
    errors = []
    for run in (run for runs in found.values() for run in runs):
        try:
            checkpoint.read_config(run / "config.json")
        except (OSError, ValueError) as error:
            errors.append(error)
        else:
            return
    raise errors[0]


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens on that address. OSError, in one sentence, where that is not possible."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise OSError(f"{host!r:.80} is not an address of this computer: give 127.0.0.1, ::1 or 0.0.0.0") from None
    for each in range(PORT, PORT + TRIED) if port is None else [port]:
        try:
            return socket.create_server((place[0], each), family=family)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            if not (taken and port is None):
                reason = "it is in use: --port 0 takes a free one" if taken else os.strerror(error.errno or 0)
                raise OSError(f"cannot listen on port {each} of {host}: {reason}") from None
    raise OSError(f"the ports {PORT} to {PORT + TRIED - 1} are in use: --port 0 takes a free one")


def page_address(host: str, port: int, token: str | None) -> str:
    """The page's address, as a browser on this computer takes it."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
