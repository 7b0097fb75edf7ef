"""`gpt train --watch`: the page of `gpt look` during training, served by a process of its own.

`python -m gpt.cli.watch RUN` is that process. It prints the page's address, and ends when its standard input does: the
training process holds the other end, so the page ends with it, however that ends. It computes on the CPU, at a low
priority, and is not in the terminal's process group, so Ctrl-C reaches the training process alone.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode

from rich.console import Console

from ..console import say

ENDING = 5.0  # seconds that the server has to end


class Page:
    """The process that serves the page, from `open` to `close`."""

    def __init__(self, screen: Console):
        self.screen = screen
        self.process: subprocess.Popen[str] | None = None
        self.reader: threading.Thread | None = None
        self.closing = False

    def open(self, run: Path) -> None:
        """Start the server for a run; its address is printed, and opened in the browser, when it answers."""
        command = [sys.executable, "-P", "-m", "gpt.cli.watch", str(run.absolute())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # the same gpt as here
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace",
                env=environment, start_new_session=True, creationflags=NEW_GROUP,
            )  # fmt: skip
        except OSError as error:  # training continues without it
            say(self.screen, None, f"warning: the page could not be opened: {error.strerror or error}")
            return
        self.reader = threading.Thread(target=self._announce, args=(self.process,), name="gpt-watch", daemon=True)
        self.reader.start()

    def _announce(self, process: "subprocess.Popen[str]") -> None:
        """Print the address once the server prints it; read the rest of its output too, so that it never waits."""
        import webbrowser  # here, since most runs are trained without the page

        assert process.stdout is not None
        line, address = "", ""
        with process.stdout as output:
            for line in output:
                if not address and line.startswith("http://"):
                    address = line.strip()
                    say(self.screen, None, f"watch      {address}")
                    if has_browser():
                        with suppress(OSError, webbrowser.Error):
                            webbrowser.open(address)
        if not address and not self.closing:
            say(self.screen, None, f"warning: the page could not be opened: {line.strip() or 'its process ended'}")

    def stay(self) -> None:
        """Wait until Ctrl-C, or until the server has ended."""
        if self.process is None or self.reader is None:
            return
        if self.process.poll() is not None:
            self.reader.join(ENDING)  # it says why
            return
        say(self.screen, None, "the page stays open: Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            self.process.wait()

    def close(self) -> None:
        """End the server."""
        if self.process is None or self.reader is None:
            return
        self.closing = True
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(ENDING)  # a browser may keep it waiting


NEW_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # Windows


@contextmanager
def watching(screen: Console) -> Iterator[Page]:
    """A Page, closed when the block ends."""
    page = Page(screen)
    try:
        yield page
    finally:
        page.close()


def has_browser() -> bool:
    """Whether a browser with a window can be opened. (One in the terminal would be drawn over training's lines.)"""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


# ----- the process that serves ------------------------------------------------------------------------------------


def serve(run: Path) -> None:
    """Serve the page of a run until standard input ends."""
    import socket

    from tensorlite.devices import machine

    from ..serve import create_app, server
    from ..serve.security import Access, Guard

    def end_with_parent() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    machine.set_threads(machine.default_threads())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()[:2]
        app = Guard(create_app((run,), "cpu"), Access.at(host, host, port))
        print(f"http://{host}:{port}/#training?{urlencode({'run': run.resolve().name})}", flush=True)
        server.run(app, listener)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
