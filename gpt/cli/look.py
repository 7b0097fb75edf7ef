"""`gpt look`: a page in the browser in which your model is open."""

import socket
import webbrowser
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from rich.console import Console
from tyro.conf import Positional

from tensorlite import backend
from tensorlite.devices import machine

from ..config import check_device, check_integer
from ..serve import create_app
from ..serve.state import find_runs


@dataclass(frozen=True)
class Look:
    """Open a page in the browser that shows how a model writes, what it computes, and how it learns."""

    runs: Positional[tuple[Path, ...]] = (Path("runs"),)  # runs, or folders of runs; they are only read
    host: str = "127.0.0.1"  # address to listen on
    port: int = 8990  # port to listen on; 0: a free one
    browser: bool = True  # open the page in the browser
    device: str = "auto"  # cpu, cuda or cuda:1 (the second GPU); auto: a GPU if one is usable

    def __post_init__(self) -> None:
        check_device(self.device)
        check_integer("port", self.port, low=0)

    def __call__(self) -> int:
        for folder in self.runs:
            if not list(find_runs(folder)):
                raise FileNotFoundError(f"there is no run in {folder}: gpt train makes one")
        machine.set_threads(machine.default_threads())
        app = create_app(self.runs, backend.use_device(self.device))
        with socket.create_server((self.host, self.port)) as listener:
            address = f"http://{self.host}:{listener.getsockname()[1]}/"
            Console().print(f"{address}  (Ctrl-C ends it)", highlight=False)
            if self.browser:
                webbrowser.open(address)
            config = uvicorn.Config(app, log_level="warning", access_log=False)
            uvicorn.Server(config).run(sockets=[listener])
        return 0
