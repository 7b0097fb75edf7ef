"""Worlds of processes without MPI: what the reducer and the sharded optimizer see of the others."""

from typing import Any

from tensorlite.backend import Array


class Alike:
    """A world of `size` processes that all compute the same, so a sum is `size` times this one's. `sent`: the calls."""

    def __init__(self, size: int = 2, rank: int = 0):
        self.size, self.rank = size, rank
        self.sent: list[tuple[str, int]] = []

    def collect(self, value: Any) -> list[Any]:
        return [value] * self.size

    def start_all_reduce(self, x: Array) -> None:
        self.sent.append(("all_reduce", x.size))
        x *= self.size

    all_reduce = start_all_reduce

    def start_reduce_scatter(self, x: Array, part: Array) -> None:
        self.sent.append(("reduce_scatter", x.size))
        part[...] = self.size * x.reshape(self.size, -1)[self.rank]

    def start_all_gather(self, x: Array) -> None:
        self.sent.append(("all_gather", x.size))

    def wait(self, request: None) -> None:
        assert request is None
