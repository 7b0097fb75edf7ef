"""The thread that computes: order, a bounded queue, clients that leave or take nothing, and errors."""

import asyncio
import threading
import time

import pytest

import tensorlite as tl
from gpt.serve.worker import Busy, Worker


@pytest.fixture
def worker():
    worker = Worker(waiting=2)
    yield worker
    worker.close()


class Gate:
    """A job that has begun and does not end before it is opened."""

    def __init__(self):
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.opened.wait(10)
        return "opened"


async def begun(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


def test_jobs_run_one_after_another_in_one_thread(worker):
    seen = []

    def job(n):
        seen.append((n, threading.current_thread().name))
        return 2 * n

    async def main():
        assert await asyncio.gather(worker.run(job, 1), worker.run(job, 2)) == [2, 4]
        assert [item async for item in worker.stream(range, 3)] == [0, 1, 2]

    asyncio.run(main())
    assert seen == [(1, "gpt-model"), (2, "gpt-model")]


def test_a_full_queue_refuses_and_a_caller_that_leaves_makes_room(worker):
    gate, ran = Gate(), []

    async def main():
        first = asyncio.create_task(worker.run(gate))
        await begun(gate.begun)
        waiting = [asyncio.create_task(worker.run(ran.append, n)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="busy: try again"):
            await worker.run(ran.append, "refused")
        with pytest.raises(Busy):
            await anext(worker.stream(ran.append, "refused"))
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])
        third = asyncio.create_task(worker.run(ran.append, "third"))
        await asyncio.sleep(0)
        gate.opened.set()
        assert await first == "opened"
        await asyncio.gather(waiting[1], third)

    asyncio.run(main())
    assert ran == [1, "third"]


def test_an_error_reaches_its_caller_and_the_thread_goes_on(worker):
    def fail(error):
        raise error

    def fail_later():
        yield 1
        raise ValueError("after one item")

    async def main():
        for error in (ValueError("one sentence"), SystemExit(3), MemoryError()):
            with pytest.raises(type(error)) as caught:
                await worker.run(fail, error)
            assert caught.value is error
        stream = worker.stream(fail_later)
        assert await anext(stream) == 1
        with pytest.raises(ValueError, match="after one item"):
            await anext(stream)
        assert await worker.run(lambda: 5) == 5

    asyncio.run(main())


def test_a_stream_ends_soon_after_its_reader_has_left(worker):
    made, ended = [], threading.Event()

    def count():
        try:
            for n in range(100_000):
                made.append(n)
                time.sleep(0.001)
                yield n
        finally:
            ended.set()

    async def main():
        stream = worker.stream(count)
        async for item in stream:
            if item == 3:
                break
        await stream.aclose()
        assert await worker.run(lambda: "free") == "free"
        assert ended.is_set()

    asyncio.run(main())
    assert len(made) < 1000


def test_a_reader_that_takes_nothing_holds_nobody(worker):
    """The thread makes the whole answer and serves the next caller; the slow one still gets all of it."""

    async def main():
        slow = worker.stream(range, 5000)
        assert await anext(slow) == 0
        async with asyncio.timeout(5):
            assert await worker.run(lambda: "others are answered") == "others are answered"
        assert [item async for item in slow] == list(range(1, 5000))

    asyncio.run(main())


def test_a_caller_whose_event_loop_has_ended_does_not_end_the_thread(worker):
    gate = Gate()

    def stream():
        yield 1
        gate()

    async def leave():
        assert await anext(worker.stream(stream)) == 1
        await begun(gate.begun)

    asyncio.run(leave())
    gate.opened.set()

    async def ask():
        return await worker.run(lambda: "alive")

    assert asyncio.run(ask()) == "alive"


def test_a_stream_has_a_time_limit():
    worker = Worker(longest=0.05)

    def endless():
        while True:
            time.sleep(0.001)
            yield 1

    async def main():
        async def read():
            return [item async for item in worker.stream(endless)]

        with pytest.raises(TimeoutError, match="stopped after 0 seconds: ask for less"):
            await read()

    asyncio.run(main())
    worker.close()


def test_no_job_changes_what_the_next_one_computes(worker):
    """Gradients are recorded and the default generator starts at the same place, whatever ran before."""

    def draw():
        x = tl.ones(3, requires_grad=True) * 2
        return x.requires_grad, tl.rand(2).tolist()

    def disturb():
        tl.no_grad().__enter__()
        tl.manual_seed(99)

    async def main():
        first = await worker.run(draw)
        await worker.run(disturb)
        assert first[0]
        assert await worker.run(draw) == first

    asyncio.run(main())


def test_a_worker_that_waits_for_jobs_ends_when_it_is_closed():
    before = set(threading.enumerate())
    worker = Worker()
    (thread,) = set(threading.enumerate()) - before
    asyncio.run(worker.run(lambda: None))
    worker.close()
    thread.join(10)
    assert not thread.is_alive()
