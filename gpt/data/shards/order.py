"""The shuffled order of windows over shards that may be larger than memory.

An epoch cuts each shard, from an offset of its own that differs between epochs, into windows of the context's length
that do not overlap, and joins neighbouring windows to blocks of about BLOCK tokens. The order of all blocks is random.
TOGETHER blocks that follow each other in it are a group; the order of all windows of a group is random, and one group
follows another.

So an epoch has each window once. All orders of the blocks are equally likely, and all orders of the windows of a group.
A text of at most TOGETHER blocks is shuffled completely. In a longer one, each stretch of training reads windows from
TOGETHER random places of the whole text; what is not random is that the windows of one block are used within one
group. In return, the tokens that are read at any time are those of one group, 128 MiB of two bytes each, and the system
was asked to read them before, one block after another, while the group before it was used.

The order is a function of the lengths, the seed and the epoch; a position in it is two numbers.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from tensorlite import Generator
from tensorlite.data import TokenFile

BLOCK = 1 << 20  # tokens
TOGETHER = 64  # blocks of a group


class Block(NamedTuple):
    """Windows that follow each other: window i begins at start + i * length."""

    shard: int
    start: int  # a token
    windows: int


class Epoch:
    """The order of the windows in one epoch. `len` is their number; [i] is the shard and first token of the i-th."""

    def __init__(self, lengths: Sequence[int], context: int, seed: int, epoch: int):
        self.context, self.seed, self.epoch = context, seed, epoch
        generator = self._generator("blocks")
        blocks = []
        for shard, length in enumerate(lengths):
            if (starts := length - context) > 0:  # a window needs the token after it too
                offset = int(generator.randint(0, min(context, starts), (1,))[0])
                blocks += self._cut(shard, offset, (length - 1 - offset) // context)
        self.blocks = [blocks[i] for i in generator.randperm(len(blocks)).tolist()]
        self.groups = [self.blocks[i : i + TOGETHER] for i in range(0, len(self.blocks), TOGETHER)]
        self.ends = list(accumulate(sum(block.windows for block in group) for group in self.groups))
        self._current: tuple[int, list[int], Any] = -1, [], ()  # a group, and the result of `_order` for it

    def _generator(self, what: str) -> Generator:
        """Random numbers for one purpose in this epoch alone."""
        digest = hashlib.sha256(f"{self.seed} {self.epoch} {what}".encode()).digest()
        return Generator(int.from_bytes(digest[:4], "big"))

    def _cut(self, shard: int, offset: int, windows: int) -> list[Block]:
        size = max(1, BLOCK // self.context)
        return [
            Block(shard, offset + first * self.context, min(size, windows - first)) for first in range(0, windows, size)
        ]

    def _order(self, group: int) -> tuple[list[int], Sequence[int]]:
        """Where each block of a group ends among its windows, and the random order of these."""
        if self._current[0] != group:
            ends = list(accumulate(block.windows for block in self.groups[group]))
            self._current = group, ends, self._generator(f"group {group}").randperm(ends[-1])
        return self._current[1:]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def group_of(self, i: int) -> int:
        return bisect_right(self.ends, i)

    def __getitem__(self, i: int) -> tuple[int, int]:
        group = self.group_of(range(len(self))[i])
        ends, order = self._order(group)
        window = int(order[i - (self.ends[group - 1] if group else 0)])
        number = bisect_right(ends, window)
        block = self.groups[group][number]
        return block.shard, block.start + (window - ends[number] + block.windows) * self.context


class ShuffledWindows:
    """Windows (x, y) of token files in the order of `Epoch`, epoch after epoch without end.

    Its state is the number of the epoch and of the windows drawn in it. ValueError where no file has a window.
    """

    def __init__(self, files: Sequence[TokenFile], context: int, seed: int):
        self.files, self.context, self.seed = files, context, seed
        self.windows = [file.windows(context, 1) if len(file) > context else None for file in files]
        self.number = self.drawn = 0
        self.epoch, self.group = self._epoch(), -1
        if not len(self.epoch):
            raise ValueError(f"no shard has more than {context} tokens: give more text or a shorter context_length")

    def _epoch(self) -> Epoch:
        return Epoch([len(file) for file in self.files], self.context, self.seed, self.number)

    def draw(self, count: int) -> list[Any]:
        """The next windows."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Any:
        if self.drawn == len(self.epoch):
            self.number, self.drawn = self.number + 1, 0
            self.epoch, self.group = self._epoch(), -1
        if (group := self.epoch.group_of(self.drawn)) != self.group:
            self._read_ahead(group)
        shard, start = self.epoch[self.drawn]
        self.drawn += 1
        windows = self.windows[shard]
        assert windows is not None
        return windows[start]

    def _read_ahead(self, group: int) -> None:
        """The system reads the windows of the next group while those of this one are used."""
        for blocks in self.epoch.groups[group if self.group < 0 else group + 1 : group + 2]:
            for shard, start, count in blocks:
                self.files[shard].read_ahead(start, start + count * self.context + 1)
        self.group = group

    def state_dict(self) -> dict[str, int]:
        """Ready for JSON."""
        return {"epoch": self.number, "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.number, self.drawn = state["epoch"], state["drawn"]
        self.epoch, self.group = self._epoch(), -1
