"""Downloads: what arrives is the file, whatever the server does; what does not is one sentence."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import folders
import loopback
import pytest
from loopback import endless, file, hang, hangs, in_turn, redirect, serving, status
from rich.console import Console

from gpt import download_dir
from gpt.cli import main as cli
from gpt.data import download
from gpt.data.sources import DATA, MODELS, File, Source
from gpt.tokenizer import gpt2

P = download.PIECE
CONTENT = bytes(range(256)) * (P // 16) + b"the end"  # 16 pieces and a bit
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = 9 * P  # a bit more than half of it
CORRUPT = CONTENT[:1000] + b"\0" + CONTENT[1001:]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAIT", 0.001)
    with serving() as server:
        yield server


@pytest.fixture
def get(server, tmp_path, monkeypatch):
    """Fetch a file from answers, one an address; what was said. The file must be in the folder then."""

    def get(*answers, folder=tmp_path, **fields):
        urls = tuple(server.url(f"/{i}", answer) for i, answer in enumerate(answers))
        monkeypatch.setattr(download, "TIMEOUT", (600, 0.3 if any(map(hangs, answers)) else 600))
        screen = io.StringIO()
        wanted = File(**{"name": "file", "urls": urls, "sha256": SHA256, "size": len(CONTENT), **fields})
        path = download.fetch_file(wanted, folder, Console(file=screen, width=200))
        assert path == folder / wanted.name
        assert path.read_bytes() == CONTENT
        left = {each.name for each in folder.iterdir()} - {wanted.name, f".{wanted.name}.lock"}
        assert not left, "nothing else is left behind"
        return screen.getvalue()

    return get


# ----- servers that have it ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("known_size", [len(CONTENT), None])
@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([file(CONTENT)], [[None]]),
        ([file(CONTENT, Content_Length=None)], [[None]]),
        ([file(CONTENT, stop=HALF)], [[None, f"bytes={HALF}-"]]),
        ([file(CONTENT, stop=4 * P + 5)], [[None, *(f"bytes={(4 * P + 5) * i}-" for i in range(1, 4))]]),
        ([in_turn(file(CONTENT, stop=HALF), file(CONTENT, ranges=False))], [[None, f"bytes={HALF}-"]]),
        ([in_turn(status(500), status(503), file(CONTENT))], [[None] * 3]),
        ([in_turn(status(429, Retry_After="0"), file(CONTENT))], [[None] * 2]),
        ([in_turn(hang(), file(CONTENT))], [[None] * 2]),
        ([in_turn(hang(CONTENT[: P + 9], len(CONTENT)), file(CONTENT))], [[None, f"bytes={P}-"]]),
        ([in_turn(hang(CONTENT[:P], len(CONTENT)), file(CONTENT, ranges=False, stop=2 * P), file(CONTENT))],
         [[None, f"bytes={P}-", f"bytes={2 * P}-"]]),
        ([status(404), file(CONTENT)], [[None], [None]]),
        ([status(500), file(CONTENT)], [[None] * 3, [None]]),
        ([file(CORRUPT), file(CONTENT)], [[None], [None]]),
        ([file(CONTENT, ranges=False, stop=P), file(CONTENT)], [[None, *[f"bytes={P}-"] * 3], [f"bytes={P}-"]]),
        # half of it is wrong, which shows only at the end: all of it again
        ([in_turn(file(CORRUPT, stop=HALF), file(CONTENT))], [[None, f"bytes={HALF}-", None]]),
        ([in_turn(file(CORRUPT, stop=HALF), status(404)), file(CONTENT)],
         [[None, f"bytes={HALF}-"], [f"bytes={HALF}-", None]]),
    ],
)  # fmt: skip
def test_it_arrives_whatever_the_server_does(get, server, answers, asked, known_size):
    get(*answers, size=known_size)
    assert [server.ranges(f"/{i}") for i in range(len(answers))] == asked


def test_an_answer_that_goes_on_elsewhere_is_not_appended(get, server, tmp_path):
    """A part of the file, but not the one that was asked for: then all of it, from the beginning."""
    (tmp_path / "file.part").write_bytes(CONTENT[:HALF])
    elsewhere = status(206, Content_Range=f"bytes 0-4/{len(CONTENT)}")
    get(in_turn(elsewhere, file(CONTENT)))
    assert server.ranges("/0") == [f"bytes={HALF}-", None]


@pytest.mark.parametrize(
    ("answers", "pauses"),
    [
        ([status(500), status(500)], [1, 2]),
        ([file(CONTENT, stop=HALF)], [1]),
        ([status(503, Retry_After="7")], [7]),
        ([status(429, Retry_After="86400")], [60]),
        ([status(429, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), status(429, Retry_After="1")], [1, 2]),
        *(([status(code)], [1]) for code in (408, 502, 504)),
    ],
)
def test_it_waits_before_it_asks_again(get, monkeypatch, answers, pauses):
    slept = []
    monkeypatch.setattr(download, "WAIT", 1)
    monkeypatch.setattr(download.time, "sleep", slept.append)
    get(in_turn(*answers, file(CONTENT)))
    assert slept == pauses


@pytest.mark.parametrize("answer", [file(CONTENT), file(CONTENT, stop=HALF), status(404)])
def test_a_bar_on_a_terminal_that_is_gone_in_the_end(server, tmp_path, answer):
    screen = io.StringIO()
    wanted = File("file", (server.url("/0", answer),), SHA256, len(CONTENT))
    with contextlib.suppress(OSError):
        download.fetch_file(wanted, tmp_path, Console(file=screen, force_terminal=True, width=100))
    assert "fetching file from 127.0.0.1" in screen.getvalue()
    assert "━" in screen.getvalue()
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l"), "the cursor is back"


def test_redirects_are_followed_and_resumed(get, server):
    there = server.url("/there", file(CONTENT, stop=HALF))
    get(redirect(server.url("/next", redirect(there))))
    assert server.ranges("/0") == server.ranges("/there") == [None, f"bytes={HALF}-"]


def test_a_server_that_packs_although_it_was_asked_not_to(get):
    get(file(gzip.compress(CONTENT), Content_Encoding="gzip"))


def test_a_part_goes_on_from_another_address_and_another_time(get, server, tmp_path):
    """Its end is verified, so it does not matter where its beginning came from, or when."""
    (tmp_path / "file.part").write_bytes(CONTENT[:999])
    get(status(404), file(CONTENT))
    assert server.ranges("/1") == ["bytes=999-"]


@pytest.mark.parametrize(
    ("part", "asked"),
    [
        (CONTENT, []),
        (CONTENT + b"more", [f"bytes={len(CONTENT) + 4}-", None]),
        (CONTENT[:50] + b"?", ["bytes=51-", None]),
    ],
)
def test_parts_that_a_killed_process_may_leave(get, server, tmp_path, part, asked):
    (tmp_path / "file.part").write_bytes(part)
    get(file(CONTENT))
    assert server.ranges("/0") == asked


def test_a_complete_part_of_unknown_size_is_enough(get, server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    get(file(CONTENT), size=None)
    assert server.ranges("/0") == [f"bytes={len(CONTENT)}-"]


# ----- the cache --------------------------------------------------------------------------------------------------


def test_what_is_there_is_verified_and_not_fetched_again(get, server, tmp_path):
    get(file(CONTENT))
    assert get(status(404)) == ""
    assert len(server.asked) == 1
    (tmp_path / "file").write_bytes(CORRUPT)
    get(file(CONTENT))
    assert len(server.asked) == 2


def test_a_cache_that_cannot_be_written_is_enough_if_the_file_is_there(get, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    get(file(CONTENT))
    monkeypatch.setattr(download, "alone", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    get(status(404))


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("GPT_DOWNLOAD_DIR", str(tmp_path))
    assert download_dir.folder() == tmp_path
    monkeypatch.setenv("GPT_DOWNLOAD_DIR", "~/here")
    assert download_dir.folder() == Path.home() / "here"
    monkeypatch.delenv("GPT_DOWNLOAD_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert download_dir.folder() == tmp_path / "tensorlite"


# ----- servers that have it not -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (status(404), "127.0.0.1: 404 Not Found"),
        (status(403), "403 Forbidden"),
        (status(500), "500 Internal Server Error"),
        (hang(), "no answer for 0.3 s"),
        (hang(CONTENT[:9], len(CONTENT)), "no answer for 0.3 s"),
        (
            file(CONTENT, ranges=False, stop=HALF),
            "the connection broke; the 144 KiB that arrived are kept for the next",
        ),
        (file(CONTENT[:HALF]), "it has 147,456 bytes of unknown type where the file has 262,151"),
        (file(b"<html>Log in first", Content_Type="text/html"), "it has 18 bytes of text/html where"),
        (file(CONTENT[:HALF], Content_Length=None, ranges=False), "it ended after 147,456 bytes"),
        (file(CONTENT + b"more", Content_Length=None), "it sends more than 262,151 bytes"),
        (file(CORRUPT), "it sends another file: it has another SHA-256"),
        (redirect("/0"), "it redirects without end"),
        (redirect("gopher://127.0.0.1/"), "InvalidSchema"),
        (lambda handler: None, "no connection"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(get, server, tmp_path, answer, says):
    with pytest.raises(OSError) as caught:
        get(answer)
    told = str(caught.value)
    assert says in told
    assert f"get {server.url('/0')} where there is a network, and put it at {tmp_path / 'file'}" in told
    assert "\n" not in told
    assert not (tmp_path / "file").exists()


def test_nobody_listens(get, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match=r"\(127.0.0.1: no connection\): get"):
        get(file(CONTENT))


def test_all_addresses_are_named_and_so_is_a_wrong_file_that_lies_there(get, tmp_path):
    (tmp_path / "file").write_bytes(CORRUPT)
    with pytest.raises(OSError, match=r"file has another SHA-256; 127.0.0.1: 404 Not Found; 127.0.0.1: 500 Intern"):
        get(status(404), status(500))
    assert (tmp_path / "file").read_bytes() == CORRUPT, "it is the user's"


def test_a_disk_that_is_too_full_is_seen_beforehand(get, server, monkeypatch, tmp_path):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"file needs 256 KiB more in .*, where 1000 bytes are free"):
        get(file(CONTENT), file(CONTENT))
    assert len(server.asked) == 1, "another address would not help"


def test_a_write_that_fails_names_the_file(get, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.Transfer, "append", full)
    with pytest.raises(OSError, match=r"file.part cannot be written: No space left on device"):
        get(file(CONTENT))


# ----- servers that never end -------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PACKED = OK + b"Content-Encoding: gzip\r\n\r\n"
EMPTY = zlib.compressobj(wbits=31)  # a stream of gzip that goes on without saying anything
BEGIN = EMPTY.compress(b"") + EMPTY.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.slow
@pytest.mark.finding("A9")
@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize(
    "answer",
    [
        endless(OK + b"\r\n", b"a", 0.01),
        endless(OK + b"\r\n", b"a" * P, 0.1),  # pieces enough for an attempt, and not for a minute
        endless(CHUNKED, b"1\r\na\r\n", 0.01),
        endless(CHUNKED, b"0", 0.05),
        endless(OK + b"X-Slow: ", b"x", 0.05),
        endless(b"HTTP/1.1 2", b"0", 0.05),
        endless(PACKED + BEGIN, b"\0\0\0\xff\xff", 0.01),
    ],
)
def test_a_server_that_is_too_slow_is_left(get, server, monkeypatch, tmp_path, answer, size):
    monkeypatch.setattr(download, "SLOWEST", 0.6)  # on a busy machine a first byte may take 0.2 s
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    monkeypatch.setattr(download, "ENOUGH", 10 * P)
    with pytest.raises(OSError, match="it is too slow: less than 128 KiB a minute"):
        get(answer, size=size)
    assert len(server.ranges("/0")) == 2


@pytest.mark.finding("A9")
@pytest.mark.parametrize(
    "answer",
    [
        endless(OK + b"\r\n", b"a" * 65536),
        endless(CHUNKED, b"10000\r\n" + b"a" * 65536 + b"\r\n"),
        endless(PACKED + BEGIN, b"\0\0\0\xff\xff" * 10_000),
        file(gzip.compress(bytes(1 << 26)), Content_Encoding="gzip"),
    ],
)
@pytest.mark.parametrize(("fields", "limit"), [({}, "262,151"), ({"size": None}, "6,400,000")])
@pytest.mark.parametrize("member", [None, "file"])
def test_no_more_is_taken_than_the_file_can_have(get, monkeypatch, tmp_path, answer, fields, limit, member):
    """Where the size is not known, a fixed limit; the part of what is no file is not kept."""
    monkeypatch.setattr(download, "MEGABYTE", 100_000)
    limit = {None: limit, "file": "624,302" if not fields else "300,000"}[member]
    with pytest.raises(OSError, match=f"it sends more than {limit} bytes"):
        get(answer, member=member, **fields)
    assert {path.name for path in tmp_path.iterdir()} == {".file.lock"}


@pytest.mark.finding("A9")
@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "deflate"])
def test_what_is_packed_otherwise_is_not_unpacked(get, encoding):
    with pytest.raises(OSError, match=r"it is compressed \('.*'\), which was not requested"):
        get(file(CONTENT, Content_Encoding=encoding))


@pytest.mark.finding("A9")
def test_a_length_beyond_the_limit_is_refused_at_once(get, monkeypatch, tmp_path):
    with pytest.raises(OSError, match="it has 999,999,999,999 bytes, and at most 64,000,000 are expected"):
        get(endless(OK + b"Content-Length: 999999999999\r\n\r\n", b"a"), size=None)
    assert not (tmp_path / "file.part").exists()


@pytest.mark.finding("A9")
def test_a_byte_an_attempt_is_no_progress(get, server):
    with pytest.raises(OSError, match="the connection broke"):
        get(file(CONTENT, stop=1))
    assert server.ranges("/0") == [None, "bytes=1-", "bytes=2-"]


@pytest.mark.finding("A9")
def test_headers_that_are_odd(get, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    odd = [status(503, Retry_After=value) for value in ("\u00b2", "9" * 5000)]
    get(in_turn(*odd, file(CONTENT)))
    with pytest.raises(OSError) as error:
        get(endless(b"HTTP/1.1 403 \x1b[31mred\r\nContent-Length: 0\r\n\r\n", b""), name="other")
    assert "403 \\x1b[31mred" in str(error.value)


@pytest.mark.finding("A9")
def test_what_killed_downloads_left_is_deleted(get, server, tmp_path):
    """Beside a whole file, and before another archive is unpacked; what others put there stays."""
    get(file(CONTENT))
    for name in ("file.part", "file.unpacked"):
        (tmp_path / name).write_bytes(b"x")
    get(status(404))
    for name in ("other.part", "file.unpacked.txt"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "file").unlink()
    (tmp_path / "file.unpacked").write_bytes(CONTENT + b"x")
    (tmp_path / "file.part").write_bytes(b"x")
    with pytest.raises(AssertionError, match="nothing else is left behind"):
        get(file(archive(file=CONTENT)), member="file")
    names = {"file", ".file.lock", "other.part", "file.unpacked.txt"}
    assert {path.name for path in tmp_path.iterdir()} == names


# ----- archives ---------------------------------------------------------------------------------------------------


def archive(how: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return data.getvalue()


def test_one_member_is_unpacked_and_nothing_else(get, tmp_path):
    evil = archive(**{"../escaped": b"x", "/absolute": b"x", "file/../file": b"x", "there/file": CONTENT, "file": b"x"})
    folder = tmp_path / "deep" / "down"
    get(file(evil), member="there/file", folder=folder)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".file.lock"] == [folder / "file"]


@pytest.mark.parametrize(
    "wrong",
    [
        b"no archive",
        archive(other=CONTENT),
        archive(file=CORRUPT),
        archive(file=CONTENT[:-1]),
        archive(file=CONTENT)[:-30],
        archive(file=CONTENT).replace(b"\x14\0\0\0\x08\0", b"\x14\0\x01\0\x08\0"),  # says that it needs a password
        archive(how=zipfile.ZIP_LZMA, file=CONTENT),  # its decoder takes as much memory as the archive says
        archive(file=CONTENT)[:-8] + b"\xff\xff\xff\x7f" + archive(file=CONTENT)[-4:],  # a directory before its begin
    ],
)
def test_a_wrong_archive_is_refused(get, server, tmp_path, wrong):
    with pytest.raises(OSError, match=r"unpack file from it and put it at"):
        get(file(wrong), member="file")
    assert {path.name for path in tmp_path.iterdir()} == {".file.lock"}
    get(file(wrong), file(archive(file=CONTENT)), member="file")


def test_no_more_is_unpacked_than_the_file_has(get, tmp_path):
    """A few kilobytes that would be a gigabyte."""
    with pytest.raises(OSError, match="it has another SHA-256"):
        get(file(archive(file=bytes(1 << 26))), member="file", size=1000)
    get(file(archive(file=CONTENT + bytes(1 << 26))), member="file")


# ----- Hugging Face -----------------------------------------------------------------------------------------------


def git_sha1(data: bytes) -> str:
    """What `git hash-object` prints."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def test_git_names_a_file_so():
    assert git_sha1(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git's documentation


@pytest.mark.parametrize("tag", [SHA256, git_sha1(CONTENT)])
def test_a_file_is_verified_by_what_the_first_answer_says(get, server, tag):
    """The ETag of the server that the redirect leads to is its own affair."""
    there = server.url("/there", file(CONTENT, stop=HALF, ETag='"another"'))
    get(redirect(there, X_Linked_Etag=f'"{tag}"'), sha256=None, size=None)
    get(status(404), sha256=None, size=None)  # there it is


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (file(CONTENT), "its answer has no X-Linked-Etag, by which the file could be verified"),
        (file(CORRUPT, X_Linked_Etag=f'"{SHA256}"'), "it sends another file"),
        (file(CORRUPT, X_Linked_Etag=f'"{git_sha1(CONTENT)}"'), "it sends another file"),
    ],
)
def test_what_cannot_be_verified_is_refused(get, answer, says):
    with pytest.raises(OSError, match=says):
        get(answer, sha256=None, size=None)


def test_another_file_by_the_same_name_is_refused_before_it_is_fetched(get, server, tmp_path):
    another = hashlib.sha256(CORRUPT).hexdigest()
    with pytest.raises(OSError, match=f"it has another file by this name, SHA-256 {another[:12]}"):
        get(file(CORRUPT, X_Linked_Etag=f'"{another}"'))
    assert not (tmp_path / "file.part").exists()
    get(file(CONTENT, X_Linked_Etag='"W/0123"'))  # not a SHA-256: says nothing


# ----- processes --------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from rich.console import Console
from gpt.data import download
from gpt.data.sources import File
url, sha256, folder = sys.argv[1:]
print(download.fetch_file(File("file", (url,), sha256), Path(folder), Console(width=300)))
"""


def start(url: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, url, SHA256, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_PROXY": "127.0.0.1"})


def wait_until(true, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes_download_once_and_a_killed_one_is_continued(get, server, tmp_path):
    """The first is killed in the middle, the second goes on where it was, and the third waits for the second."""
    url = server.url("/shared", hang(CONTENT[:HALF], len(CONTENT)))
    first = start(url, tmp_path)
    part = tmp_path / "file.part"
    wait_until(lambda: part.exists() and part.stat().st_size)
    first.kill()
    first.communicate()
    had = part.stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"file.part", ".file.lock"}

    go_on = loopback.threading.Event()

    def slowly(handler):
        go_on.wait(600)
        file(CONTENT)(handler)

    server.answers["/shared"] = slowly
    second = start(url, tmp_path)
    wait_until(lambda: len(server.asked) == 2)
    third = start(url, tmp_path)
    line = third.stdout.readline()
    go_on.set()
    assert "another process is downloading file: waiting for it" in line
    for process, said in ((second, "fetching file from 127.0.0.1\n"), (third, "")):
        assert process.communicate(timeout=600)[0] == f"{said}{tmp_path / 'file'}\n"
        assert process.returncode == 0
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges("/shared") == [None, f"bytes={had}-"]


# ----- names ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(server, monkeypatch, tmp_path):
    """A cache of our own, and a server with what is in the tables; another answer may be given for an address."""
    monkeypatch.setenv("GPT_DOWNLOAD_DIR", str(tmp_path / "cache"))

    def local(source: Source) -> Source:
        def here(each: File) -> File:
            return each._replace(urls=tuple(server.url("/" + url.split("/", 3)[3]) for url in each.urls))

        return source._replace(files=tuple(map(here, source.files)))

    for table in (DATA, MODELS):
        for name, source in table.items():
            monkeypatch.setitem(table, name, local(source))
    return server


@pytest.fixture
def call(capsys, monkeypatch):
    """`gpt ...` in this process: exit status, output, errors."""
    monkeypatch.setattr("tensorlite.devices.machine.keep_freed_memory", lambda: "not asked for in a test")
    monkeypatch.setenv("COLUMNS", "80")

    def call(*args):
        with pytest.raises(SystemExit) as left:
            cli.main(list(args))
        return left.value.code or 0, *capsys.readouterr()

    return call


OFFICIAL = {"spam": "archive.ics.uci.edu", "gpt2-tokenizer": "openaipublic.blob.core.windows.net"}


def test_the_tables_are_whole():
    """The official address is asked first, and is the one to get a file from by hand."""
    assert list(DATA) == ["the-verdict", "shakespeare", "spam", "instructions", "gpt2-tokenizer"]
    for name, source in (DATA | MODELS).items():
        assert all((source.about, source.size, source.origin, source.licence)), name
        for each in source.files:
            assert len(each.urls) >= (1 if each.sha256 is None else 2)
            assert all(url.startswith("https://") for url in each.urls)
            hosts = [url.split("/")[2] for url in each.urls]
            assert len(set(hosts)) == len(hosts), "a mirror is another host"
            assert hosts[0] == OFFICIAL.get(name, "huggingface.co" if name in MODELS else "raw.githubusercontent.com")
            assert each.sha256 is None or len(bytes.fromhex(each.sha256)) == 32
    unknown = [(name, each.name) for name in MODELS for each in MODELS[name].files if each.sha256 is None]
    assert unknown == [("gpt2-large", "config.json")]


def test_the_data_sets_are_those_at_hand(own, data_dir):
    """Checksums and sizes of the tables, against the files; and each by its name through the command's function."""
    names = {"the-verdict": "the-verdict.txt", "shakespeare": "tinyshakespeare.txt", "spam": "SMSSpamCollection"}
    names |= {"instructions": "instruction-data.json"}
    for name, file_name in names.items():
        (each,) = DATA[name].files
        content = (data_dir / file_name).read_bytes()
        assert each.size == len(content)
        sent = archive(readme=b"", **{file_name: content}) if name == "spam" else content
        own.answers[each.urls[0].partition("127.0.0.1")[2].partition("/")[1] + each.urls[0].split("/", 3)[3]] = file(
            sent
        )
        path = download.fetch(name, Console(file=io.StringIO()))
        assert path == download_dir.folder() / name / file_name
        assert path.read_bytes() == content


def test_gpt2s_tokenizer_is_found_where_it_was_put(own, data_dir, monkeypatch):
    for each in DATA["gpt2-tokenizer"].files:
        own.answers["/" + each.urls[1].split("/", 3)[3]] = file((data_dir / each.name).read_bytes())  # only the mirror
    folder = download.fetch("gpt2-tokenizer", Console(file=io.StringIO()))
    assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == {"vocab.bpe", "encoder.json"}
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setattr("tiktoken.get_encoding", None)  # not asked
    assert gpt2().vocab_size == 50257


def offer(own, monkeypatch, name: str, contents: dict[str, bytes], **how) -> None:
    """Small files under a model's name, at the addresses of its real ones."""
    model = MODELS[name]
    files = tuple(
        each._replace(sha256=hashlib.sha256(contents[each.name]).hexdigest(), size=None) for each in model.files
    )
    monkeypatch.setitem(MODELS, name, model._replace(files=files))
    for each in files:
        own.answers["/" + each.urls[0].split("/", 3)[3]] = file(contents[each.name], **how)


def test_a_model_is_a_folder_of_five_files(own, monkeypatch):
    """The addresses are Hugging Face's, of one revision."""
    contents = {each.name: each.name.encode() * 100 for each in MODELS["gpt2-medium"].files}
    offer(own, monkeypatch, "gpt2-medium", contents)
    folder = download.fetch_model("gpt2-medium", Console(file=io.StringIO()))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"} == contents
    revision = "/openai-community/gpt2-medium/resolve/6dcaa7a952f72f9298047fd5137cd6e4f05f41da/"
    assert [path for path, _, _ in own.asked[:2]] == [revision + "config.json", revision + "model.safetensors"]
    for wrong in ("the-verdict", "gpt3"):
        with pytest.raises(ValueError, match="model must be one of 'gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl'"):
            download.fetch_model(wrong)


def test_gpt_import_by_name_over_a_bad_connection(own, monkeypatch, call, tmp_path):
    """A small model in place of GPT-2's weights: it arrives in pieces, and can write."""
    theirs = folders.write(tmp_path / "theirs", {**folders.CONFIG, "n_embd": 16})
    tokenizer = {  # laid out as GPT-2's
        "model": {"vocab": folders.vocabulary(), "merges": ["a b", "ab ab", "ab c"]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "added_tokens": [{"id": 259, "content": "<|endoftext|>"}],
    }
    (theirs / "tokenizer.json").write_text(json.dumps(tokenizer))
    contents = {each.name: (theirs / each.name).read_bytes() for each in MODELS["gpt2"].files}
    assert len(contents["model.safetensors"]) > 2 * P
    offer(own, monkeypatch, "gpt2", contents, stop=P)
    status, output, errors = call("import", "--model", "gpt2", str(tmp_path / "run"))
    assert (status, errors) == (0, "")
    assert "2 layers, 2 heads, 16 wide" in output
    assert [asked for path, asked, _ in own.asked if path.endswith("model.safetensors")][:2] == [None, f"bytes={P}-"]
    assert call("generate", str(tmp_path / "run"), "--prompt", "ab", "--max-new-tokens", "3")[0] == 0


# ----- the command ------------------------------------------------------------------------------------------------


def test_fetch_prints_the_path_alone_and_list_shows_it(own, call, data_dir):
    own.answers["/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt"] = file(
        (data_dir / "the-verdict.txt").read_bytes()
    )
    status, output, errors = call("data", "fetch", "the-verdict")
    assert (status, output) == (0, f"{download_dir.folder() / 'the-verdict' / 'the-verdict.txt'}\n")
    assert errors == "fetching the-verdict.txt from 127.0.0.1\n"
    assert call("data", "fetch", "the-verdict") == (0, output, "")
    (download_dir.folder() / "gpt2").mkdir()
    (download_dir.folder() / "gpt2" / "config.json").write_bytes(bytes(700))
    status, output, _ = call("data", "list")
    assert status == 0
    rows = {line.split()[0]: " ".join(line.split()) for line in output.splitlines() if "B " in line}
    assert list(rows) == [*DATA, *MODELS]
    assert "20 kB yes Wharton, 1908" in rows["the-verdict"]
    assert "551 MB 1 of 5 Hugging Face" in rows["gpt2"]
    assert "478 kB no UCI" in rows["spam"]
    assert "CC BY 4.0" in rows["spam"]
    assert str(download_dir.folder()) in "".join(output.split())  # wrapped, where it is long


def test_what_goes_wrong_is_one_sentence(own, call):
    status, output, errors = call("data", "fetch", "the-verdict", "spam")
    assert (status, output) == (1, "")
    assert errors.splitlines()[-1].startswith("gpt: the-verdict.txt could not be downloaded (127.0.0.1: 404 Not Found;")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["fetch"], "fetch needs at least one name of the-verdict, shakespeare"),
        (["fetch", "the-verdikt"], "name must be one of 'the-verdict'"),
        (["list", "spam"], "gpt data list does not take 'spam'"),
        (["delete"], "there is no command 'data delete': did you mean gpt data list or gpt data fetch"),
    ],
)
def test_wrong_usage_is_2(call, args, says):
    status, output, errors = call("data", *args)
    assert status == 2
    assert says in " ".join((output + errors).replace("│", " ").split())


def test_the_sentence_for_a_slow_server_has_the_limit():
    assert f"less than {download.ENOUGH // 1024} KiB a minute" in download.SLOW
    assert download.SLOWEST == 60
