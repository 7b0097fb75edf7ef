"""Signs of life between processes, with a stand-in of MPI's messages and a clock that the tests set."""

import threading
import time
from collections import deque
from types import SimpleNamespace

import pytest

from tensorlite.devices import heartbeat
from tensorlite.devices.heartbeat import Heartbeat

TIMEOUT = 0.5


class Comm:
    """Messages of one process: `boxes[rank]` has the ranks whose messages wait there. `held`: none arrives."""

    def __init__(self, rank, boxes, held):
        self.rank, self.boxes, self.held, self.freed, self.looks = rank, boxes, held, False, 0

    def Dup(self):
        return self

    def Isend(self, message, other):
        assert not self.freed
        assert message[1] == 0  # empty
        self.boxes[other].append(self.rank)
        return SimpleNamespace(Test=lambda: True)

    def Iprobe(self, status):
        self.looks += 1
        if self.held.is_set() or not self.boxes[self.rank]:
            return False
        status.source = self.boxes[self.rank][0]
        return True

    def Recv(self, message, source):
        assert self.boxes[self.rank].popleft() == source

    def Ibarrier(self):
        return None

    def Free(self):
        self.freed = True


class Processes:
    """The heartbeats of `count` processes, the clock that they read, and what they have reported."""

    def __init__(self, count, monkeypatch):
        self.now, self.lost, self.held = 100.0, [], threading.Event()
        monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.boxes = [deque() for _ in range(count)]
        self.comms = [Comm(rank, self.boxes, self.held) for rank in range(count)]
        everyone = threading.Barrier(count)
        barrier = lambda request: everyone.wait(60)  # noqa: E731
        mpi = SimpleNamespace(BYTE="byte", Status=SimpleNamespace)
        self.beats = [
            Heartbeat(
                SimpleNamespace(rank=rank, size=count, comm=comm, mpi=mpi, wait=barrier), TIMEOUT,
                lambda other, seconds, rank=rank: self.lost.append((rank, other, seconds)),
            )
            for rank, comm in enumerate(self.comms)
        ]  # fmt: skip
        for one in self.beats:
            assert one.pause == 0.05  # seconds between two messages, of a timeout so short
            one.pause = 0.005

    def live(self, seconds, step=TIMEOUT / 5):
        """Let time go by in steps, each with several beats."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.beat()

    def beat(self):
        """Wait until each process has looked for messages three times or more, and more often than there are others."""
        wanted = [comm.looks + 3 * len(self.comms) for comm in self.comms]
        for comm, one, looks in zip(self.comms, self.beats, wanted, strict=True):
            while comm.looks < looks and one.thread.is_alive():
                time.sleep(0.01)


@pytest.fixture
def processes(monkeypatch):
    made = []

    def start(count):
        made.append(Processes(count, monkeypatch))
        return made[0]

    yield start
    ends = [threading.Thread(target=beat.end) for beat in made[0].beats]  # all processes call it
    for each in ends:
        each.start()
    for each in ends:
        each.join()
    assert not any(beat.thread.is_alive() for beat in made[0].beats)
    assert not any(made[0].boxes)  # what was under way is taken
    assert all(comm.freed for comm in made[0].comms)


def test_processes_that_live_are_not_reported_and_only_process_0_hears_all(processes):
    three = processes(3)
    three.live(3 * TIMEOUT)
    assert three.lost == []
    three.held.set()
    three.beat()
    assert {*three.boxes[0]} == {1, 2}
    assert {*three.boxes[1]} == {*three.boxes[2]} == {0}
    three.held.clear()


def test_a_process_that_sends_nothing_is_reported_once_with_the_time(processes):
    three = processes(3)
    three.live(TIMEOUT)
    three.beats[2].ended.set()
    three.live(0.8 * TIMEOUT)
    assert three.lost == []
    three.live(2 * TIMEOUT)
    ((other, seconds),) = [(other, seconds) for rank, other, seconds in three.lost if rank == 0]
    assert other == 2
    assert TIMEOUT < seconds < 1.5 * TIMEOUT


def test_what_was_stopped_itself_does_not_take_the_others_for_lost(processes):
    """All were stopped: the clock has gone on when they go on, and the others' messages come a little later."""
    two = processes(2)
    two.live(TIMEOUT)
    two.held.set()
    two.now += 20 * TIMEOUT
    two.beat()
    two.held.clear()
    two.live(2 * TIMEOUT)
    assert two.lost == []
