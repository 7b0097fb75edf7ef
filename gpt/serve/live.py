"""What a training run writes, as it is written: server-sent events.

A client first gets the curves (routes/runs.py), with the position up to which they were read, and then the events
after that position. A client that reconnects continues after the last event that it got: its id is a position too.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import look
from ..look.metrics import METRICS, SAMPLES, Position, end_of, parse_lines, parse_samples, place_of, read_after
from ..training import run_directory
from .requests import finite

POLL, HEARTBEAT, RETRY = 0.5, 15.0, 2000  # seconds, seconds, milliseconds
MOST = 1 << 18  # bytes that are sent line by line; a client that is further behind gets the curves again


UNKNOWN = Position(-1)


class Restart(Exception):
    """The client's curves are not the beginning of the run's files any more, or are far behind."""


class Watcher:
    """Looks for what a run has written since the last look."""

    def __init__(self, run: Path, position: str):
        self.run = run
        self.steps: list[int] | None = None
        self.metrics = self.samples = UNKNOWN
        if position == "now":
            self.metrics, self.samples = end_of(run, METRICS)[0], end_of(run, SAMPLES)[0]
        elif found := re.fullmatch(r"([^.]+)\.([^.]+)", position):
            with suppress(ValueError):
                self.metrics, self.samples = Position.parse(found[1]), Position.parse(found[2])

    def look(self) -> Iterator[tuple[str, Any]]:
        """The names and data of new events. The last one is "restart" or "finished". OSError, ValueError as reading."""
        try:
            lines, self.metrics = self._news(METRICS, self.metrics)
            samples, self.samples = self._news(SAMPLES, self.samples)
        except Restart:
            yield "restart", {}
            return
        if lines:
            yield "lines", [numbers_of(line) for line in parse_lines(lines) if isinstance(line, dict)]
        if samples:
            yield "samples", [sample._asdict() for sample in parse_samples(samples.decode("utf-8", "replace"))]
        if (steps := look.kept_steps(self.run)) != self.steps:
            self.steps = steps
            yield "checkpoints", {"steps": steps}
        if not lines and (step := run_directory.finished(self.run)) is not None and step >= self._last_step():
            yield "finished", {"step": step}

    def _last_step(self) -> int:
        """The step of the last line of metrics.jsonl: a finished run may have been resumed with more steps."""
        (line,) = parse_lines(end_of(self.run, METRICS)[1]) or [None]
        step = line.get("step") if isinstance(line, dict) else None
        return step if type(step) is int else 0

    def _news(self, name: str, position: Position) -> tuple[bytes, Position]:
        path = place_of(self.run, name)
        if position is UNKNOWN or (path.exists() and path.stat().st_size - position.offset > MOST):
            raise Restart
        news = read_after(self.run, name, position)
        if news.again:
            raise Restart
        return news.lines, news.position

    @property
    def position(self) -> str:
        return f"{self.metrics}.{self.samples}"


def numbers_of(line: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a line of metrics.jsonl, and those that are null because they were not finite."""
    return {name: value for name, value in line.items() if value is None or type(value) in (int, float)}


async def events(run: Path, position: str, poll: float = POLL) -> AsyncIterator[bytes]:
    """Server-sent events of what the run writes after `position`, until it is finished.

    A position is the id of an event, or as in the answer of /curves; "now" means from now on.

    "lines": new lines of metrics.jsonl; "samples": [{step, text}]; "checkpoints": {steps}; "finished": {step};
    "restart": the files are others than before, so the curves must be read again; "problem": {error}, a sentence.
    """
    watcher: Watcher | None = None
    sent = time.monotonic()
    yield f"retry: {RETRY}\n\n".encode()
    while True:
        try:
            if watcher is None:
                watcher = await asyncio.to_thread(Watcher, run, position)
            found = await asyncio.to_thread(list, watcher.look())
        except (OSError, ValueError) as error:
            found = [("problem", {"error": str(error)})]
        for name, data in found:
            yield event(name, data, watcher.position if watcher else "")
            if name in ("restart", "finished", "problem"):
                return
        now = time.monotonic()
        if found:
            sent = now
        elif now - sent > HEARTBEAT:
            sent = now
            yield b": still here\n\n"
        await asyncio.sleep(poll)


def event(name: str, data: Any, id: str) -> bytes:
    """A server-sent event with JSON data."""
    return f"event: {name}\nid: {id}\ndata: {json.dumps(finite(data))}\n\n".encode()
