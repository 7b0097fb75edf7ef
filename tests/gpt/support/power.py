"""What a disk may hold when the power fails: a model of files and directories, fed with the calls of `faults`.

One idea: only an fsync is a promise. Bytes that were written and truncations are lost, zero or cut, each on its own,
until their file is synced; names that were made, removed or renamed are there or not, each on its own, until their
directory is. (A rename is one step. A name leads to its file, whatever becomes of the file's bytes.)
"""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import Call


@dataclass(eq=False)
class File:
    data: bytes = b""  # on the disk
    pending: list[tuple[str, int, bytes]] = field(default_factory=list)  # write or truncate, offset, bytes

    def apply(self, what: str, offset: int, data: bytes) -> None:
        if what == "truncate":
            self.data = self.data[:offset].ljust(offset, b"\0")
        else:
            self.data = self.data[:offset].ljust(offset, b"\0") + data + self.data[offset + len(data) :]

    def sync(self) -> None:
        for change in self.pending:
            self.apply(*change)
        self.pending = []


@dataclass(eq=False)
class Change:
    """Of names, in one or two directories: `lost` go, `gained` come."""

    number: int  # in the order of all
    lost: tuple["Folder", str] | None
    gained: tuple["Folder", str] | None
    node: Any
    done: bool = False

    def apply(self) -> None:
        if not self.done and self.lost:
            for change in self.lost[0].pending:  # what came before in the other directory is over
                change.done |= change.number < self.number and change.gained == self.lost
            if self.lost[0].names.get(self.lost[1]) is self.node:
                del self.lost[0].names[self.lost[1]]
        if not self.done and self.gained:
            self.gained[0].names[self.gained[1]] = self.node
        self.done = True


@dataclass(eq=False)
class Folder:
    names: dict[str, Any] = field(default_factory=dict)  # on the disk
    seen: dict[str, Any] = field(default_factory=dict)  # by the process
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.pending:
            change.apply()
        self.pending = []


class Disk:
    """A directory as it is on the disk, and the calls since then that may not have reached it."""

    def __init__(self, start: Path, root: Path):
        """As `start` is, for calls with paths below `root`."""
        self.root, self.count = str(root), 0
        self.top = self._read(start)

    def _read(self, path: Path) -> Folder | File:
        if path.is_file():
            return File(path.read_bytes())
        names = {child.name: self._read(child) for child in path.iterdir()}
        return Folder(names, dict(names))

    def find(self, path: str) -> Any:
        node: Any = self.top
        for part in Path(path).relative_to(self.root).parts:
            node = node.seen.get(part) if isinstance(node, Folder) else None
        return node

    def place(self, path: str) -> tuple[Folder, str]:
        return self.find(str(Path(path).parent)), Path(path).name

    def change(self, lost: str | None, gained: str | None, node: Any) -> None:
        self.count += 1
        change = Change(self.count, lost and self.place(lost), gained and self.place(gained), node)
        if change.lost:
            change.lost[0].seen.pop(change.lost[1], None)
        if change.gained:
            change.gained[0].seen[change.gained[1]] = node
        for folder in {id(place[0]): place[0] for place in (change.lost, change.gained) if place}.values():
            folder.pending.append(change)

    def do(self, call: Call) -> None:
        """What the call does; one that the system refused (no such file, a name that is taken) does nothing."""
        node = self.find(call.path)
        if call.name in ("create", "mkdir") and node is None and self.find(str(Path(call.path).parent)):
            self.change(None, call.path, File() if call.name == "create" else Folder())
        elif call.name == "overwrite" and call.empties:
            node.pending.append(("truncate", 0, b""))
        elif call.name in ("write", "truncate") and node is not None:
            node.pending.append((call.name, call.offset, call.data))
        elif call.name == "fsync":
            node.sync()
        elif (call.name == "unlink" and node is not None) or (call.name == "rmdir" and node and not node.seen):
            self.change(call.path, None, node)
        elif call.name == "link" and self.find(call.to) is None:
            self.change(None, call.to, node)
        elif call.name == "rename" and node is not None and self.find(call.to) is not node:
            self.change(call.path, call.to, node)

    # ----- the power fails -----

    def nodes(self, node: Any = None) -> dict[int, Any]:
        """All that the process or the disk can reach, each once."""
        found, waiting = {}, [node or self.top]
        while waiting:
            node = waiting.pop()
            if id(node) not in found:
                found[id(node)] = node
                if isinstance(node, Folder):
                    waiting += [*node.names.values(), *node.seen.values()]
                    waiting += [change.node for change in node.pending]
        return found

    def fail(self, chance: random.Random) -> None:
        """Some of what is pending happens, by chance: none, all, the first ones, or each on its own."""
        nodes = self.nodes().values()
        names, data = chance.choice(("none", "all", "first", "each")), chance.choice(("none", "all", "each"))
        changes = sorted(
            {id(c): c for n in nodes if isinstance(n, Folder) for c in n.pending}.values(), key=lambda c: c.number
        )
        first = chance.randrange(len(changes) + 1)
        for i, change in enumerate(changes):
            if names == "all" or (names == "first" and i < first) or (names == "each" and chance.random() < 0.5):
                change.apply()
        for file in nodes:
            if isinstance(file, File) and data != "none":
                for what, offset, written in file.pending:
                    kind = "whole" if data == "all" else chance.choice(("whole", "lost", "zero", "cut"))
                    if kind != "lost":
                        written = bytes(len(written)) if kind == "zero" else written
                        file.apply(what, offset, written[: len(written) // 2] if kind == "cut" else written)

    def sync(self) -> None:
        """All that is pending happens."""
        for node in self.nodes().values():
            node.sync()

    def write(self, target: Path, node: Any = None) -> None:
        """What is on the disk, into an empty directory."""
        target.mkdir(parents=True, exist_ok=True)
        for name, child in (node or self.top).names.items():
            if isinstance(child, File):
                (target / name).write_bytes(child.data)
            else:
                self.write(target / name, child)
