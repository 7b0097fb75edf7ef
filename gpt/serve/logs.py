"""The logs of runs, kept in memory."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..look.metrics import Log

Result = TypeVar("Result")


@dataclass
class Logs:
    """The logs of runs. Reading one again takes only what was written since."""

    logs: dict[Path, Log] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def use(self, run: Path, function: Callable[[Log], Result]) -> Result:
        """The result of `function(log)` with the run's log, up to date; call it in a thread other than the server's."""
        with self.lock:
            return function(self.logs.setdefault(run, Log(run)).update())
