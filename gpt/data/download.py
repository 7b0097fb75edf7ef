"""Downloads: the book's data, GPT-2's tokenizer and GPT-2's weights (sources.py), each fetched once.

**A file is verified by its SHA-256, so it does not matter where its bytes come from**: the official address
or a mirror, in one piece or in ten, by this program or by hand. NAME.part grows until the file is complete; an
interrupted download continues it, from any address; only bytes with the correct SHA-256 get the file's name.

The transfer uses requests: pooch, which names the platform's folder, restarts interrupted downloads and has one
address for a file. Files that cannot be verified are not kept. No more bytes are read than the file has, a piece may
take at most SLOWEST seconds, and of an archive only the one member that is needed is read.
"""

import contextlib
import hashlib
import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from .. import __version__, download_dir
from ..config import check_choice
from ..console import Output, bytes_text, printable
from ..fingerprint import fingerprint
from ..http_deadline import Refused, in_thread, unpacked
from ..system import lock
from .sources import DATA, MODELS, File, Source

ATTEMPTS = 3  # at one address, in a row, without progress
WAIT = 1.0  # seconds before the second attempt, twice as many before the third
TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two reads
PIECE = 1 << 14  # bytes; an incomplete piece of an interrupted connection is lost
SLOWEST = 60.0  # seconds for the head of an answer, for a PIECE of its body, and for ENOUGH of it
ENOUGH = 1 << 17  # bytes; less than half of what a modem transfers
SLOW = "it is too slow: less than 128 KiB a minute"
MEGABYTE = 10**6
LEFT = ("part", "unpacked")  # suffixes of the files of a killed download: the next one continues or deletes them
AGAIN = (408, 429, 500, 502, 503, 504)  # statuses of a server that may recover


class Wrong(ValueError):
    """An address does not have the file: another attempt is useless."""


class Broken(Exception):
    """An exchange failed in a way that may not happen again."""


class Other(Exception):
    """All bytes have arrived, but their SHA-256 is wrong."""


# ----- by name ----------------------------------------------------------------------------------------------------


def fetch(name: str, console: Console | None = None) -> Path:
    """The file that a name of sources.DATA or sources.MODELS stands for, or the folder of its files if it has several.

    Each is downloaded unless it exists, and verified by its SHA-256 in both cases. Where a download fails, an
    OSError says in one sentence what each address answered, and where to put the file by hand.
    """
    check_choice("name", name, (*DATA, *MODELS))
    files = (DATA | MODELS)[name].files
    paths = [fetch_file(file, place(name), console or Output(stderr=True)) for file in files]
    return paths[0] if len(paths) == 1 else place(name)


def fetch_model(name: str, console: Console | None = None) -> Path:
    """A folder with GPT-2's config.json, model.safetensors, vocab.json, merges.txt and tokenizer.json.

    `name` is "gpt2", "gpt2-medium", "gpt2-large" or "gpt2-xl". Errors are those of `fetch`.
    """
    check_choice("model", name, tuple(MODELS))
    return fetch(name, console)


def place(name: str) -> Path:
    """The folder that a name's files are kept in."""
    return download_dir.folder() / name


def downloaded(name: str, source: Source) -> list[Path]:
    """The files of a name that exist; nothing is read or verified."""
    return [path for file in source.files if (path := place(name) / file.name).is_file()]


# ----- one file ---------------------------------------------------------------------------------------------------


def fetch_file(file: File, folder: Path, console: Console) -> Path:
    """The file in `folder`, as `fetch` says. If two processes need it, one downloads it and the other waits."""
    target = folder / file.name
    if is_there(target, file):
        with contextlib.suppress(OSError):  # a complete folder may be read-only
            for suffix in LEFT:
                (folder / f"{file.name}.{suffix}").unlink(missing_ok=True)
        return target
    problems = [f"what lies at {target} has another SHA-256"] if target.is_file() else []
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / f".{file.name}.lock", console), Transfer(file, folder, console) as transfer:
        if is_there(target, file):  # another process has downloaded it
            return target
        for url in file.urls:
            try:
                return transfer.fetch(url)
            except Wrong as error:
                problems.append(f"{urlsplit(url).hostname}: {error}")
                transfer.say(problems[-1])
        if transfer.here():
            problems.append(f"the {bytes_text(transfer.here())} that arrived are kept for the next attempt")
    raise OSError(by_hand(file, target, problems))


def is_there(target: Path, file: File) -> bool:
    """Whether `target` is the file; one without a known SHA-256 was verified when it came, or put there by hand."""
    return target.is_file() and (file.sha256 is None or fingerprint(target)["sha256"] == file.sha256)


def by_hand(file: File, target: Path, problems: list[str]) -> str:
    """The sentence on what to do where no address had the file."""
    unpack = f"unpack {file.member} from it " if file.member else ""
    return (
        f"{file.name} could not be downloaded ({'; '.join(problems)}): get {file.urls[0]} where there is a network, "
        f"{unpack}and put it at {target}"
    )


@contextmanager
def alone(path: Path, console: Console) -> Iterator[None]:
    """Hold the lock file at `path`; wait while another process holds it. The lock ends with the process."""
    with open(path, "a") as file:
        if not lock(file):
            _print(console, f"another process is downloading {path.name[1:-5]}: waiting for it")
            lock(file, wait=True)
        yield


# ----- the transfer -----------------------------------------------------------------------------------------------


class Transfer:
    """The transfer of one file: its partial file, and a bar that shows its progress."""

    def __init__(self, file: File, folder: Path, console: Console):
        self.file, self.folder, self.console = file, folder, console
        self.part, self.unpacked = (folder / f"{file.name}.{suffix}" for suffix in LEFT)
        columns = (TextColumn("{task.description}"), BarColumn(None), DownloadColumn(), TransferSpeedColumn())
        self.bar = Bar(*columns, TimeRemainingColumn(), console=console, transient=True)
        self.task = self.bar.add_task(file.name, total=None)
        self.tag = ""  # Hugging Face's checksum of the file

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def say(self, line: str) -> None:
        _print(self.console, printable(line, 1000))

    def here(self) -> int:
        """Bytes that have arrived."""
        return self.part.stat().st_size if self.part.exists() else 0

    def fetch(self, url: str) -> Path:
        """Download the file from one address, repeating as long as each attempt brings a PIECE; else Wrong."""
        import requests
        import urllib3

        self.say(f"fetching {self.file.name} from {urlsplit(url).hostname}")
        failures = 0
        while True:
            before, pause = self.here(), WAIT * 2**failures
            try:
                return self.attempt(url)
            except Broken as error:
                problem = str(error)
            except requests.RequestException as error:
                problem, answer = reason(error), error.response
                if answer is not None and answer.status_code not in AGAIN:
                    raise Wrong(problem) from error
                if answer is not None:
                    pause = max(pause, min(60, _number(answer.headers.get("Retry-After")) or 0))
            except (urllib3.exceptions.HTTPError, zlib.error) as error:
                problem = reason(error)
            except (Wrong, Refused) as error:
                self.part.unlink(missing_ok=True)
                raise Wrong(str(error)) from error
            except Other as error:
                self.part.unlink()
                self.unpacked.unlink(missing_ok=True)
                if before == 0:  # it came in one piece: another attempt would give the same bytes
                    raise Wrong(f"it sends another file: {error}") from error
                problem = "the pieces together have another SHA-256"
            except OSError as error:
                raise OSError(f"{self.part} cannot be written: {error.strerror or error}") from error
            failures = 0 if self.here() >= before + PIECE and problem != SLOW else failures + 1
            if failures == ATTEMPTS:
                raise Wrong(problem)
            time.sleep(pause)

    def attempt(self, url: str) -> Path:
        """Download the missing rest of the part from that address, verify the file and move it to its place."""
        if self.file.member or self.here() != self.file.size:
            self.transfer(url)
        whole = self.unpack() if self.file.member else self.part
        if self.file.sha256 is None and self.tag != _tag_of(whole, self.tag):
            raise Other("it is not what Hugging Face's X-Linked-Etag says")
        if self.file.sha256 is not None and fingerprint(whole)["sha256"] != self.file.sha256:
            raise Other("it has another SHA-256")
        os.replace(whole, self.folder / self.file.name)
        self.part.unlink(missing_ok=True)
        return self.folder / self.file.name

    def transfer(self, url: str) -> None:
        """Request the missing bytes, and append them."""
        have = self.here()
        try:
            items = in_thread(self.exchange(url, have), SLOWEST)
            answer: Any = next(items)
            if have and answer.status_code == 416:
                return  # no bytes are left; the SHA-256 decides whether the file is complete
            if answer.status_code == 206 and not _begins_at(answer, have):
                self.part.unlink(missing_ok=True)
                raise Broken(f"its answer does not continue after {have:,} bytes")
            answer.raise_for_status()
            start = have if answer.status_code == 206 else 0
            whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
            total = _number(whole if start else answer.headers.get("Content-Length"))
            if "Content-Encoding" in answer.headers:
                total = None  # the length is that of the compressed body
            self.check(answer, total)
            self.append(items, start, total)
        except TimeoutError as error:
            raise Broken(SLOW) from error
        if self.here() < (total or self.size() or 0):
            raise Broken(f"it ended after {self.here():,} bytes")

    def exchange(self, url: str, have: int) -> Generator[Any]:
        """The answer, then its body in pieces."""
        import requests

        headers = {"User-Agent": f"tensorlite/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            yield answer
            body = answer.raw.stream(PIECE, decode_content=False)
            yield from unpacked(body, answer.headers.get("Content-Encoding"), self.limit())

    def append(self, pieces: Iterator[bytes], start: int, total: int | None) -> None:
        """Write the bytes after the first `start` bytes of the part; Broken where they are fewer than ENOUGH."""
        free, size = shutil.disk_usage(self.folder).free, self.size()
        if total and total - start > free:
            need, there = bytes_text(total - start), bytes_text(free)
            raise OSError(f"{self.file.name} needs {need} more in {self.folder}, where {there} are free")
        self.bar.update(self.task, completed=start, total=total or size)
        begun, arrived = time.monotonic(), 0
        with open(self.part, "ab" if start else "wb") as out:
            for piece in pieces:
                out.write(piece)
                self.bar.advance(self.task, len(piece))
                arrived += len(piece)
                if out.tell() > self.limit():
                    raise Refused(f"it sends more than {self.limit():,} bytes")
                if time.monotonic() - begun > SLOWEST:
                    if arrived < ENOUGH:
                        raise Broken(SLOW)
                    begun, arrived = time.monotonic(), 0

    def check(self, answer: Any, total: int | None) -> None:
        """Refuse an answer that cannot be the file, before gigabytes of it have arrived."""
        if total and self.size() and total != self.size():
            kind = printable(answer.headers.get("Content-Type", "unknown type"), 80)
            raise Wrong(f"it has {total:,} bytes of {kind} where the file has {self.size():,}")
        if total and total > self.limit():
            raise Wrong(f"it has {total:,} bytes, and at most {self.limit():,} are expected")
        first = (answer.history or [answer])[0]  # Hugging Face's own; the others are of its content servers
        self.tag = first.headers.get("X-Linked-Etag", "").strip('"')
        if self.file.sha256 is None and not self.tag:
            raise Wrong("its answer has no X-Linked-Etag, by which the file could be verified")
        if self.file.sha256 and len(self.tag) == 64 and self.tag != self.file.sha256:
            raise Wrong(f"it has another file by this name, SHA-256 {printable(self.tag[:12], 12)}...")

    def size(self) -> int | None:
        """The length of what an address sends, where that is known beforehand."""
        return None if self.file.member else self.file.size

    def limit(self) -> int:
        """The most bytes that are read from an address: the file's size, or a bound derived from it."""
        if self.file.member:
            return 2 * (self.file.size or MEGABYTE) + MEGABYTE  # an archive of a file is hardly larger than the file
        return self.file.size or (16_000 if self.file.name.endswith(".safetensors") else 64) * MEGABYTE

    def unpack(self) -> Path:
        """Unpack the one member of the archive that is needed, into the same folder.

        Names in the archive are not used, and no more bytes are unpacked than the file has.
        """
        try:
            with zipfile.ZipFile(self.part) as archive:
                found = archive.getinfo(str(self.file.member))
                if found.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("other compression methods may need gigabytes of memory")
                with archive.open(found) as member:
                    data = member.read(self.file.size or 64 * MEGABYTE)
        except (zipfile.BadZipFile, zlib.error, LookupError, EOFError, RuntimeError, ValueError, OSError) as error:
            raise Other(f"it is not a zip archive with {self.file.member}") from error
        self.unpacked.write_bytes(data)
        return self.unpacked


# ----- answers ----------------------------------------------------------------------------------------------------


def reason(error: Any) -> str:
    """A short description of a failed exchange: an error of requests, of urllib3 below it, or of zlib."""
    import requests
    import urllib3

    if isinstance(error, requests.TooManyRedirects):
        return "it redirects without end"
    if getattr(error, "response", None) is not None:
        return printable(f"{error.response.status_code} {error.response.reason}", 200)
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {TIMEOUT[0]:g} s"
    if any(isinstance(each, requests.Timeout | urllib3.exceptions.ReadTimeoutError) for each in (error, *error.args)):
        return f"no answer for {TIMEOUT[1]:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | urllib3.exceptions.HTTPError | zlib.error):
        return "the connection broke"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return type(error).__name__


def _begins_at(answer: Any, have: int) -> bool:
    """Whether a part of the file is the part that was requested."""
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-")


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None


def _tag_of(path: Path, like: str) -> str:
    """The checksum in X-Linked-Etag: the SHA-256 of a large file, the git SHA-1 of a small one."""
    data = path.read_bytes()
    if len(like) == 40:
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return hashlib.sha256(data).hexdigest()


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
