"""The curves and samples of a run: metrics.jsonl and samples.txt, read while a training process may be writing them.

Only whole lines are read: the last one may be half written. A resumed run cuts its files, and --overwrite replaces
them; a Position, which holds a checksum of the bytes before it, notices both, and reading starts again.
"""

import json
import os
import re
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Self

from tensorlite.files import check_regular

from ..training import run_directory

METRICS, SAMPLES = run_directory.LOGS
CHECKED = 256  # bytes before a position that are compared
LONGEST_LINE = 1 << 16  # bytes
LARGEST = 2**53  # of an integer that a float holds exactly
SAMPLE = re.compile(r"^----- step (\d{1,15})\n", re.MULTILINE)
SMOOTH = 30  # steps of the running mean


class Position(NamedTuple):
    """A place between two lines of a file: its offset, and the CRC-32 of the bytes before it."""

    offset: int = 0
    checksum: int = 0

    def __str__(self) -> str:
        return f"{self.offset}-{self.checksum:08x}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The position that `str` wrote. ValueError for any other text."""
        if not (found := re.fullmatch(r"(\d{1,15})-([0-9a-f]{8})", text)):
            raise ValueError(f"a position is an offset and a checksum, such as 12-0a1b2c3d, got {text!r:.40}")
        return cls(int(found[1]), int(found[2], 16))


START = Position()


class News(NamedTuple):
    """What a file has after a position."""

    lines: bytes  # whole lines
    position: Position  # after them
    again: bool  # the file is not the one that was read before: the lines are from its beginning


def read_after(run: Path, name: str, position: Position) -> News:
    """The whole lines of a run's log after `position`. A missing file has none. OSError where it cannot be read."""
    path = place_of(run, name)
    try:
        check_regular(path)
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return News(b"", START, position.offset > 0)
    with file:
        before = _bytes_before(file, position.offset)
        again = position.offset > os.fstat(file.fileno()).st_size or zlib.crc32(before) != position.checksum
        if again:
            position, before = START, b""
        file.seek(position.offset)
        new = file.read()
    lines = new[: new.rfind(b"\n") + 1]
    before = (before + lines[-CHECKED:])[-CHECKED:]
    return News(lines, Position(position.offset + len(lines), zlib.crc32(before)), again)


def end_of(run: Path, name: str) -> tuple[Position, bytes]:
    """The position after the last whole line of a run's log, and that line; the lines before it are not read."""
    path = place_of(run, name)
    if not path.exists():
        return START, b""
    check_regular(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = max(0, size - LONGEST_LINE)
        file.seek(start)
        whole, newline, _ = file.read(size - start).rpartition(b"\n")
        offset = start + len(whole) + len(newline)
        return Position(offset, zlib.crc32(_bytes_before(file, offset))), whole.rpartition(b"\n")[2]


def _bytes_before(file: Any, offset: int) -> bytes:
    start = max(0, offset - CHECKED)
    file.seek(start)
    found: bytes = file.read(offset - start)
    return found


def place_of(run: Path, name: str) -> Path:
    """The path of a run's file, which is in RUN/.gpt-new while a new run takes the place of an old one."""
    staged = run / run_directory.STAGING / name
    return staged if run_directory.replaced(run) and run_directory.exists(staged) else run / name


# ----- metrics.jsonl ----------------------------------------------------------------------------------------------


@dataclass
class Series:
    """A number by step, in ascending order of steps."""

    steps: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, step: int, value: float) -> None:
        self.steps.append(step)
        self.values.append(value)

    def lowest(self) -> tuple[float, int] | None:
        """The lowest value and its step; None where there is no value."""
        return min(zip(self.values, self.steps, strict=True), default=None)


@dataclass
class Metrics:
    """The numbers of a metrics.jsonl: loss, norm, lr of each step, and those of evaluations, by name."""

    series: dict[str, Series] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)  # steps whose loss or gradient was not finite
    last: int = 0  # step
    unreadable: int = 0  # lines that are not gpt's

    def __getitem__(self, name: str) -> Series:
        return self.series.get(name, Series())

    def add(self, lines: bytes) -> None:
        """The numbers of further lines."""
        for line in parse_lines(lines):
            step = line.get("step") if isinstance(line, dict) else None
            if type(step) is not int or not 0 <= step < LARGEST:
                self.unreadable += 1
                continue
            self.last = max(self.last, step)
            for name, value in line.items():
                if name == "step":
                    continue
                if (type(value) is float and value - value == 0) or (type(value) is int and abs(value) < LARGEST):
                    if name not in self.series:
                        self.series[name] = Series()
                    self.series[name].add(step, value)
                elif name == "loss":
                    self.skipped.append(step)


def parse_lines(lines: bytes) -> list[Any]:
    """The JSON value of each line; None for a line that is not JSON."""
    found = [line for line in lines.split(b"\n") if line.strip()]
    try:
        values: list[Any] = json.loads(b"[" + b",".join(found) + b"]")  # in one call, which is several times faster
        if len(values) == len(found):
            return values
    except (ValueError, RecursionError):
        pass
    return [_parse_line(line) for line in found]


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


# ----- curves -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A series in a limited number of points. A point stands for one step, or for several consecutive ones."""

    steps: list[int]  # the last step of each point
    low: list[float]  # the lowest and the highest value of a point's steps
    high: list[float]
    smooth: list[float]  # the smoothed value at the last step

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, with six significant digits."""
        parts = {"low": self.low, "high": self.high, "smooth": self.smooth}
        return {"step": self.steps, **{name: [float(f"{x:.6g}") for x in part] for name, part in parts.items()}}


def curve(series: Series, points: int = 600, smooth: int = 1) -> Curve:
    """At most `points` points of a series; no peak is lost, since each has the range of its steps.

    The smoothed curve is `running_mean` with the window `smooth`: 1 is the series itself.
    """
    count = len(series.values)
    ends = sorted({(i + 1) * count // points for i in range(points)}) if count > points else range(1, count + 1)
    found = Curve([], [], [], running_mean(series.values, smooth, [end - 1 for end in ends]))
    start = 0
    for end in ends:
        part = series.values[start:end]
        found.steps.append(series.steps[end - 1])
        found.low.append(min(part))
        found.high.append(max(part))
        start = end
    return found


def running_mean(values: Sequence[float], window: int, at: Sequence[int]) -> list[float]:
    """The mean of about `window` values around those at the indices `at`: `window // 2` on each side.

    At the start both sides are shorter, so that a steep curve is not shifted; at the end the right one is, so that
    the last mean has enough values.
    """
    sums, count, half = [0.0, *accumulate(values)], len(values), window // 2
    found = []
    for i in at:
        side = min(half, i)
        low, high = i - side, min(count, i + side + 1)
        found.append((sums[high] - sums[low]) / (high - low))
    return found


# ----- samples.txt ------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """What the model wrote at a step."""

    step: int
    text: str


def parse_samples(text: str) -> list[Sample]:
    """The samples of a samples.txt: each follows a line "----- step N"."""
    _, *parts = SAMPLE.split(text)
    return [Sample(int(step), part.strip("\n")) for step, part in zip(parts[::2], parts[1::2], strict=True)]


@dataclass
class Log:
    """A run's metrics and samples, and how far they have been read."""

    run: Path
    metrics: Metrics = field(default_factory=Metrics)
    samples: list[Sample] = field(default_factory=list)
    position: Position = START  # in metrics.jsonl
    samples_read: Position = START

    @property
    def place(self) -> str:
        """How far both files have been read, as text."""
        return f"{self.position}.{self.samples_read}"

    def update(self) -> Self:
        """Read what has been written since; from the beginning where the files are others than before."""
        news = read_after(self.run, METRICS, self.position)
        if news.again:
            self.metrics = Metrics()
        self.metrics.add(news.lines)
        self.position = news.position
        if read_after(self.run, SAMPLES, self.samples_read).position != self.samples_read:
            whole = read_after(self.run, SAMPLES, START)
            self.samples, self.samples_read = parse_samples(whole.lines.decode("utf-8", "replace")), whole.position
        return self


def named_curves(metrics: Metrics, names: Iterable[str], points: int, smooth: int) -> dict[str, Any]:
    """The curves of these names as JSON; those of training steps are smoothed, those of evaluations are not."""
    steps = ("loss", "norm")
    return {
        name: curve(metrics[name], points, smooth if name in steps else 1).to_dict()
        for name in names
        if metrics[name].values
    }
