"""Results that are computed one by one: each is written at once, so that a later failure does not lose it.

PATH.partial gets a line of JSON for each. When all are computed, PATH is written and PATH.partial is deleted. Its
first line records what the results depend on: the same call continues where it was stopped.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from tensorlite.files import check_replaceable, naming, replacing

from .. import jsonfile
from ..system import is_open_at, lock, remove_open

FORMAT, VERSION = "gpt.results", 1


class Results:
    """`rows`, a dict for each entry, and the file that they are written to; without a `path` they are only in memory.

    `about` is what the results depend on, ready for JSON. FileExistsError where `path` is there and `overwrite` is
    False, or PATH.partial is of another call or of another program; OSError where it cannot be written; RuntimeError
    where another process is writing it.
    """

    def __init__(self, path: Path | None, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any], overwrite: bool):
        self.path, self.rows = path, [dict(row) for row in rows]
        self.file: BinaryIO | None = None
        self.continued = 0  # lines that an earlier call had written
        self.written = 0  # lines in the file
        if path is None:
            return
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory: name a file for the results")
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"{path} cannot be written, since there is no directory {path.parent}: make it first"
            )
        self.partial = path.with_name(f"{path.name}.partial")
        if self.partial.is_dir():
            raise IsADirectoryError(
                f"{self.partial} is a directory, and the results for {path} are first written there: name another file"
            )
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists already: name another file, or give --overwrite to replace it")
        check_replaceable(path)  # now, not after the results are computed
        if self.partial.is_symlink():
            raise FileExistsError(f"{self.partial} is a link, and gpt does not write through links: delete it")
        with naming(self.partial), contextlib.ExitStack() as undo:
            self.file = self._locked(undo)
            self._begin({"format": FORMAT, "version": VERSION, **about}, overwrite)
            undo.pop_all()  # __exit__ closes it

    def _locked(self, undo: contextlib.ExitStack) -> BinaryIO:
        """The open PATH.partial, which this process has locked; `undo` closes it."""
        while True:
            file = undo.enter_context(open(self.partial, "a+b"))  # noqa: SIM115
            if not lock(file):
                raise RuntimeError(f"another process is writing {self.partial}: wait for it, or name another file")
            if is_open_at(file, self.partial):
                return file
            file.close()  # a process that has ended meanwhile has removed it

    def _begin(self, header: dict[str, Any], overwrite: bool) -> None:
        """Read the lines of an earlier call, or write the first line."""
        assert self.file is not None
        self.file.seek(0)
        first = self.file.readline()
        if not first.strip(b"\0") or (not first.endswith(b"\n") and _line(header).startswith(first)):
            first = b""  # a first line that a power failure has left as zeros, or cut off
        if first and (found := _parsed(first)).get("format") != FORMAT:
            raise FileExistsError(f"{self.partial} was not written by gpt: move it away, or name another file")
        if first and found == header:
            return self._continue()
        if first and not overwrite:
            other = [name for name in found.keys() | header.keys() if found.get(name) != header.get(name)]
            raise FileExistsError(
                f"{self.partial} has results of another call, with another {' and '.join(sorted(other))}: repeat that "
                "call to finish them, or give --overwrite to delete them"
            )
        self.file.truncate(0)
        self._write(header)
        os.fsync(self.file.fileno())

    def _continue(self) -> None:
        """The rows in the file; an incomplete line, and all lines from a damaged one on, are deleted."""
        assert self.file is not None
        whole = self.file.tell()
        for line in self.file:
            found = _parsed(line) if line.endswith(b"\n") else {}
            number = found.pop("entry", None)
            if type(number) is not int or not 0 <= number < len(self.rows):
                break
            self.rows[number] |= found
            whole += len(line)
            self.continued += 1
            self.written += 1
        self.file.truncate(whole)
        self.file.seek(0, os.SEEK_END)

    def add(self, number: int, fields: Mapping[str, Any]) -> None:
        """Add results to the entry of that number; they are in the file when this returns."""
        self.rows[number] |= fields
        self._write({"entry": number, **fields})
        self.written += 1

    def _write(self, value: Mapping[str, Any]) -> None:
        if self.file is not None:
            with naming(self.partial):
                self.file.write(_line(value))
                self.file.flush()

    def finish(self) -> None:
        """Write all rows to `path`, a JSON list, and delete PATH.partial."""
        if self.path is not None and self.file is not None:
            text = json.dumps(self.rows, indent=4, ensure_ascii=False) + "\n"
            with replacing(self.path) as file:
                file.write(text.encode("utf-8", "backslashreplace"))  # a lone surrogate as its JSON escape
            remove_open(self.file, self.partial)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.file is None:
            return
        if not self.written and not self.file.closed:  # a call that failed at its start leaves no file
            remove_open(self.file, self.partial)
        self.file.close()


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    """The JSON object on a line; {} where there is none."""
    try:
        value = jsonfile.parse(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
