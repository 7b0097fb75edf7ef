"""One thread that computes with models. Requests wait in a bounded queue; a client that leaves cancels its work.

A job runs to its end, or to the next item of its stream, before another begins, so models need no locks. The thread
never waits for a client: what a slow one has not taken yet is kept in memory, at most one answer for each request.
Each job begins in the same state, with gradients recorded and the default generator at the same seed, so that an answer
does not depend on the requests before it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

import tensorlite as tl

Result = TypeVar("Result")
WAITING = 16  # requests that may wait
LONGEST = 600.0  # seconds that a stream may take
SEED = 0  # of the default generator, for operations that are not given one

_END = object()


class Busy(RuntimeError):
    """The queue is full."""


class Worker:
    """Runs functions and iterators one after another in a thread of its own."""

    def __init__(self, waiting: int = WAITING, longest: float = LONGEST):
        self.waiting, self.longest = waiting, longest
        self._jobs: deque[Callable[[], None] | None] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="gpt-model", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            tl.manual_seed(SEED)
            Context().run(job)  # a job cannot leave the next one in no_grad()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs)
            return self._jobs.popleft()

    def close(self) -> None:
        """End the thread after the jobs that wait."""
        with self._changed:
            self._jobs.append(None)
            self._changed.notify()

    def _submit(self, job: Callable[[], None]) -> None:
        with self._changed:
            if len(self._jobs) >= self.waiting:
                raise Busy("the server is busy: try again in a moment")
            self._jobs.append(job)
            self._changed.notify()

    def _withdraw(self, job: Callable[[], None]) -> None:
        """Take a job that has not begun out of the queue."""
        with self._changed, suppress(ValueError):
            self._jobs.remove(job)

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """The result of `function(*args)`. Busy where the queue is full.

        A caller that is cancelled leaves the queue; a function that runs already is run to its end.
        """
        future: Future[Result] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return  # the client has left
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        self._submit(job)
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._withdraw(job)

    async def stream(self, iterate: Callable[..., Iterator[Result]], *args: Any) -> AsyncIterator[Result]:
        """The items of `iterate(*args)` as they are computed. Leaving the loop stops the computation at the next item.

        Busy where the queue is full; TimeoutError where it takes more than `longest` seconds.
        """
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Any] = asyncio.Queue()
        left = threading.Event()

        def send(item: Any, error: BaseException | None = None) -> None:
            with suppress(RuntimeError):  # the event loop has ended, and the client with it
                loop.call_soon_threadsafe(items.put_nowait, (item, error))

        def job() -> None:
            deadline = time.monotonic() + self.longest
            try:
                for item in iterate(*args) if not left.is_set() else ():
                    if left.is_set():
                        return
                    send(item)
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"stopped after {self.longest:,.0f} seconds: ask for less at once")
                send(_END)
            except BaseException as error:
                send(_END, error)

        self._submit(job)
        try:
            while True:
                item, error = await items.get()
                if error is not None:
                    raise error
                if item is _END:
                    return
                yield item
        finally:
            left.set()
            self._withdraw(job)
