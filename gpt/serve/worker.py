"""One thread that computes with models. Requests wait in a bounded queue; a client that leaves cancels its work."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")
WAITING = 16  # requests that may wait
AHEAD = 64  # items that a stream computes before the client has taken them

_END = object()


class Busy(RuntimeError):
    """The queue is full."""


class Worker:
    """Runs functions and iterators one after another in a thread of its own."""

    def __init__(self, waiting: int = WAITING):
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="gpt-model", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def close(self) -> None:
        """End the thread after the jobs that wait."""
        self._jobs.put(None)

    def _submit(self, job: Callable[[], None]) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Busy("the server is busy: try again in a moment") from None

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """The result of `function(*args)`. Busy where the queue is full."""
        future: Future[Result] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return  # the client has left
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        self._submit(job)
        return await asyncio.wrap_future(future)

    async def stream(self, iterate: Callable[..., Iterator[Result]], *args: Any) -> AsyncIterator[Result]:
        """The items of `iterate(*args)` as they are computed. Leaving the loop stops the computation."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Any] = asyncio.Queue()
        left = threading.Event()
        room = threading.Semaphore(AHEAD)

        def send(item: Any) -> None:
            loop.call_soon_threadsafe(items.put_nowait, item)

        def job() -> None:
            try:
                for item in iterate(*args) if not left.is_set() else ():
                    room.acquire()
                    if left.is_set():
                        break
                    send((item, None))
                send((_END, None))
            except BaseException as error:
                if not left.is_set():
                    send((_END, error))

        self._submit(job)
        try:
            while True:
                item, error = await items.get()
                room.release()
                if error is not None:
                    raise error
                if item is _END:
                    return
                yield item
        finally:
            left.set()
            room.release()
