"""Commands in processes of their own, which may be killed at any moment.

One idea: `python killing.py` has imported everything and forks for each command line that it reads. So a process begins
in milliseconds, and the moment of its death falls into what the command does, not into imports.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest
from runs import ONE_THREAD


class Server:
    """`with Server() as server: server.run(line, seconds)`."""

    def __enter__(self) -> Self:
        if not hasattr(os, "fork"):
            pytest.skip("this system does not fork")
        path = os.pathsep.join((str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")))
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**ONE_THREAD, "PYTHONPATH": path},
        )  # fmt: skip
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        assert self.process.wait() == 0
        self.process.stdout.close()

    def run(self, line: list[str], seconds: float) -> tuple[int, float]:
        """The exit status of a command, -9 if it was killed after that time, and how long it took."""
        self.process.stdin.write(json.dumps(line) + "\n")
        pid = int(self.process.stdout.readline())
        began = time.monotonic()
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline()), time.monotonic() - began


def serve() -> None:
    """Fork for each command line of standard input; print the process number, and when it has ended its status."""
    import writers

    parsed: dict = {}
    for text in sys.stdin:
        line = json.loads(text)
        writers.understand(line, parsed)
        pid = os.fork()
        if not pid:
            os._exit(writers.call(line, parsed, synced=True).status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
