"""`gpt data prepare` after a kill, beside another process, in a folder that has something, and on damaged shards."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import killing
import pytest
import sharded
from runs import ONE_THREAD
from sharded import END, TOKENIZER, expected, job, run, stored

from gpt.data.shards import encoding
from gpt.data.shards import folder as folders
from gpt.data.shards.read import open_folder
from gpt.tokenizer import BPETokenizer

WORDS = [f"the cat {i} sat on {'the mat ' * (i % 7)}é漢" for i in range(60)]


def contents(folder) -> dict[str, str]:
    """The SHA-256 of each file that depends on the text alone."""
    files = (path for path in folder.iterdir() if path.name not in ("lock", "verified.json"))
    return {path.name: sharded.hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """60 documents in one file of lines, in batches of a few documents."""
    monkeypatch.setattr(encoding, "BATCH", 100)
    (tmp_path / "in").mkdir()
    half = len(WORDS) // 2
    return [*sharded.json_lines(tmp_path / "in" / "a.jsonl", WORDS[:half]),
            *sharded.text_files(tmp_path / "in", WORDS[half:])]  # fmt: skip


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [1, 2, 3, 7])
def test_it_goes_on_after_the_pair_of_shards_that_was_complete(paths, tmp_path, monkeypatch, at):
    run(job(tmp_path / "whole", *paths, shard_tokens=150))
    count, real = 0, encoding._encode

    def fails(pieces):
        nonlocal count
        count += 1
        if count == 3 * at:
            raise Killed
        return real(pieces)

    monkeypatch.setattr(encoding, "_encode", fails)
    with pytest.raises(Killed):
        run(job(tmp_path / "out", *paths, shard_tokens=150))
    done = {shard["name"] for shard in folders.read(tmp_path / "out")["shards"]}
    kept = {name: (tmp_path / "out" / name).stat().st_ino for name in done}
    (tmp_path / "out" / f"train-{len(done) // 2:05d}.tokens").write_bytes(b"the beginning of a shard")
    count = -1000
    lines = run(job(tmp_path / "out", *paths, shard_tokens=150))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert stored(tmp_path / "out") == expected(WORDS, 0.5)
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in done} == kept  # not written again
    assert not done or lines[0] == f"folder     {tmp_path / 'out'} is continued: {len(done)} shards verified"


def test_a_pipe_is_read_again_and_must_be_the_same(tmp_path, monkeypatch):
    import io

    monkeypatch.setattr(encoding, "BATCH", 100)
    data = "\n".join(WORDS)

    def prepare(text, fails_at=10**9):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
        count, real = 0, folders.write

        def write(folder, manifest):
            nonlocal count
            count += 1
            real(folder, manifest)
            if count == fails_at:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(folders, "write", write)
            return run(job(tmp_path / "out", "-", split_on="\n", shard_tokens=150))

    with pytest.raises(Killed):
        prepare(data, 4)
    for changed in (data.replace("cat 1 ", "dog 1 "), data[:40]):
        with pytest.raises(ValueError, match="standard input is not the text that it was before: give it unchanged"):
            prepare(changed)
    prepare(data)
    assert stored(tmp_path / "out") == expected(WORDS, 0.5)


def test_the_same_command_again_only_verifies(paths, tmp_path):
    run(job(tmp_path / "out", *paths))
    before = contents(tmp_path / "out")
    assert run(job(tmp_path / "out", *paths)) == [f"folder     {tmp_path / 'out'} is complete: 2 shards verified"]
    assert contents(tmp_path / "out") == before


# ----- killed for real --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """Eight kills of the command; the next one ends with the bytes of one that nothing disturbed."""
    TOKENIZER.save(tmp_path / "tokenizer.json")
    sharded.json_lines(tmp_path / "a.jsonl", WORDS * 300)
    line = ["data", "prepare", str(tmp_path / "a.jsonl"), "--tokenizer", str(tmp_path / "tokenizer.json"), 
            "--validation", "0.3", "--shard-tokens", "6000", "--processes", "1", "--out"]  # fmt: skip
    chance, kills = random.Random(0), 0
    with killing.Server() as server:
        status, seconds = server.run([*line, str(tmp_path / "whole")], 600)
        assert status == 0
        for number in range(200):
            out = str(tmp_path / f"out{number}")
            while (status := server.run([*line, out], chance.uniform(0, 1.2 * seconds))[0]) == -9:
                kills += 1
            assert status == 0
            assert contents(tmp_path / f"out{number}") == contents(tmp_path / "whole")
            if kills >= 8:
                break
    assert kills >= 8
    assert len(list((tmp_path / "whole").glob("*.tokens"))) >= 8  # so that kills fall between shards too


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
@pytest.mark.slow
def test_a_kill_ends_the_processes_that_encode(tmp_path):
    """They notice that the process that reads is gone, by SIGKILL too."""
    TOKENIZER.save(tmp_path / "tokenizer.json")
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-m", "gpt", "data", "prepare", "-", "--tokenizer", tmp_path / "tokenizer.json",
               "--processes", "2", "--split-on", "\n", "--out", tmp_path / "out"]  # fmt: skip
    with subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, env=ONE_THREAD) as process:
        process.stdin.write("".join(f"{i} {SENTENCE}\n" for i in range(20_000)).encode())
        process.stdin.flush()
        children: list[int] = []
        deadline = time.monotonic() + 120
        while len(children) < 2 and time.monotonic() < deadline:
            children = [pid for pid in children_of(process.pid) if "spawn_main" in command_of(pid)]
            time.sleep(0.05)
        assert len(children) == 2
        process.kill()
    while any(map(command_of, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(command_of, children))
    assert process.returncode == -signal.SIGKILL


SENTENCE = "the cat sat on the mat " * 10


def children_of(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += map(int, file.read().split())
    return found


def command_of(pid: int) -> str:
    """The command line of a process; "" where it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


# ----- a folder that has something --------------------------------------------------------------------------------


def test_a_folder_of_others_is_left_alone(paths, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-00000.tokens").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"out is not empty, and gpt data prepare did not write train-00000"):
            run(job(out, *paths), overwrite=overwrite)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"train-00000.tokens": "mine"}
    for name in "kbzaxcymd":
        (out / name).touch()
    with pytest.raises(FileExistsError, match="did not write a: name another folder"):  # the first by name
        run(job(out, *paths))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is a file: name a folder"):
        run(job(tmp_path / "file", *paths))


def test_another_text_needs_overwrite_which_keeps_the_files_of_others(paths, tmp_path):
    out = tmp_path / "out"
    run(job(out, *paths, shard_tokens=100))
    (out / "notes.txt").write_text("mine")
    (out / "train-77777.tokens").write_text("mine too")
    before = contents(out)
    other = BPETokenizer(TOKENIZER.tokens[:280])
    for changes, says in (
        ({"paths": (str(paths[0]),)}, "it was made from other paths"),
        ({"validation": 0.4}, "validation was 0.5 and is 0.4"),
        ({"column": "body"}, "column was 'text' and is 'body'"),
        ({"tokenizer": other}, "its tokenizer is 'small', and another one is given"),
    ):
        with pytest.raises(FileExistsError, match=f"out has another text already: {says}; name another folder, or"):
            run(job(out, *paths, **{"shard_tokens": 100, **changes}))
        assert contents(out) == before
    run(job(out, *paths, tokenizer=other), overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "train-77777.tokens").read_text() == "mine too"
    names = {"notes.txt", "train-77777.tokens", "train-00000.tokens", "validation-00000.tokens"}
    assert set(contents(out)) == {*names, "data.json", "tokenizer.json"}


@pytest.fixture
def old(tmp_path):
    """A folder with a complete text."""
    (tmp_path / "old").mkdir()
    run(job(tmp_path / "out", *sharded.text_files(tmp_path / "old", WORDS[:9]), shard_tokens=30))
    return tmp_path / "out"


def test_the_old_text_stays_where_the_new_one_cannot_be_used(old, tmp_path):
    """Too few documents, and none at all in files that have the name of text."""
    before = contents(old)
    (tmp_path / "one").write_text("only one")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_bytes(b"\0\0")
    for path, says in (("one", "^the only document is in one part"), ("none", "there is no text in")):
        with pytest.raises(ValueError, match=says):
            run(job(old, tmp_path / path), overwrite=True)
        assert contents(old) == before
        open_folder(old)


def test_the_old_text_stays_until_the_new_one_is_complete(old, paths, tmp_path, monkeypatch):
    """Killed at its second pair of shards, the command goes on with --overwrite."""
    run(job(tmp_path / "whole", *paths, shard_tokens=150))
    before, count, real = contents_without_next(old), 0, encoding._encode

    def fails(pieces):
        nonlocal count
        count += 1
        if count == 12:
            raise Killed
        return real(pieces)

    monkeypatch.setattr(encoding, "_encode", fails)
    with pytest.raises(Killed):
        run(job(old, *paths, shard_tokens=150), overwrite=True)
    assert contents_without_next(old) == before
    open_folder(old)
    count = -1000
    with pytest.raises(FileExistsError, match="another text already"):
        run(job(old, *paths, shard_tokens=150))
    assert contents_without_next(old) == before
    lines = run(job(old, *paths, shard_tokens=150), overwrite=True)
    assert re.match(rf"folder     {re.escape(str(old))} is continued: [1-9]", lines[0])
    assert contents(old) == contents(tmp_path / "whole")


def contents_without_next(folder):
    files = (path for path in folder.iterdir() if path.is_file() and path.name not in ("lock", "verified.json"))
    return {path.name: path.read_bytes() for path in files}


def test_a_kill_at_any_moment_of_the_change_leaves_one_of_the_texts(old, paths, tmp_path, monkeypatch):
    """And the same command, with or without --overwrite, completes the new one."""
    run(job(tmp_path / "whole", *paths, shard_tokens=150))
    whole, saved = contents(tmp_path / "whole"), tmp_path / "saved"
    shutil.copytree(old, saved)
    reals, calls, killed_at = {name: getattr(os, name) for name in ("replace", "unlink")}, 0, 0

    def fails(name):
        def call(*args, **options):
            nonlocal calls
            calls += folders.is_prepared(old / folders.NEXT) and folders.read(old / folders.NEXT)["complete"]
            if calls == killed_at:
                raise Killed
            return reals[name](*args, **options)

        return call

    for overwrite in (False, True):
        for killed_at in range(1, 40):  # noqa: B007, `fails` reads it
            shutil.rmtree(old)
            shutil.copytree(saved, old)
            calls = 0
            with monkeypatch.context() as patch:
                for name in reals:
                    patch.setattr(os, name, fails(name))
                try:
                    run(job(old, *paths, shard_tokens=150), overwrite=True)
                except Killed:
                    pass
                else:
                    break
            lines = run(job(old, *paths, shard_tokens=150), overwrite=overwrite)
            assert overwrite or "is complete" in lines[0]
            assert contents(old) == whole
        assert killed_at > 10


def test_files_of_others_in_the_place_of_new_ones_are_kept(old, paths, tmp_path):
    mine = old / "train-00009.tokens"
    mine.write_text("mine")
    (old / "a.txt").write_text("mine")
    before = contents_without_next(old)
    with pytest.raises(FileExistsError, match=r"train-00009\.tokens is not gpt's, and the new text has a file of that"):
        run(job(old, *paths, shard_tokens=20), overwrite=True)
    assert contents_without_next(old) == before
    open_folder(old)
    mine.unlink()
    run(job(old, *paths, shard_tokens=20), overwrite=True)
    assert (old / "a.txt").read_text() == "mine"
    assert stored(old) == expected(WORDS, 0.5)


def test_a_folder_in_the_place_of_the_next_text_is_not_touched(old, paths):
    (old / ".next").mkdir()
    (old / ".next" / "mine").write_text("mine")
    before = contents_without_next(old)
    with pytest.raises(FileExistsError, match=r"\.next is not gpt's, and the new text is written there first: move it"):
        run(job(old, *paths), overwrite=True)
    assert contents_without_next(old) == before
    assert (old / ".next" / "mine").read_text() == "mine"


def test_changed_files_are_noticed(paths, tmp_path):
    run(job(tmp_path / "out", *paths))
    paths[0].write_text(paths[0].read_text(encoding="utf-8") + '{"text": "more"}\n', encoding="utf-8")
    with pytest.raises(FileExistsError, match="files were added, removed or changed since"):
        run(job(tmp_path / "out", *paths))


def test_what_was_begun_without_a_shard_is_begun_again(paths, tmp_path):
    (tmp_path / "one").write_text("only one")
    with pytest.raises(ValueError, match=r"^the only document is in one part, and none is"):
        run(job(tmp_path / "out", tmp_path / "one"))
    with pytest.raises(FileExistsError, match="it was made from other paths"):
        run(job(tmp_path / "out", *paths))
    run(job(tmp_path / "out", *paths), overwrite=True)
    assert stored(tmp_path / "out") == expected(WORDS, 0.5)


def test_links_are_not_written_through(paths, tmp_path):
    out = tmp_path / "out"
    run(job(out, *paths))
    (tmp_path / "precious").write_text("precious")
    (out / "train-00000.tokens").unlink()
    (out / "train-00000.tokens").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="is a link or no file"):
        run(job(out, *paths), overwrite=True)
    assert (tmp_path / "precious").read_text() == "precious"


def test_two_processes_do_not_write_to_one_folder(paths, tmp_path):
    with (
        folders.locked(tmp_path, print),
        pytest.raises(RuntimeError, match=r"another process is preparing .*: wait for it"),
        folders.locked(tmp_path, print),
    ):
        pass


def test_a_file_system_without_locks_is_warned_of_and_used(paths, tmp_path, monkeypatch):
    def refuse(file, wait=False):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("gpt.system.lock", refuse)
    lines = run(job(tmp_path / "out", *paths))
    says = f"warning: the file system of {tmp_path / 'out'} has no locks (No locks available): do not write there twice"
    assert lines[0] == says
    assert stored(tmp_path / "out") == expected(WORDS, 0.5)


# ----- damage -----------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(paths, tmp_path):
    run(job(tmp_path / "out", *paths, shard_tokens=200))
    return tmp_path / "out"


def damage(path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["train-00001.tokens", "validation-00000.tokens", "tokenizer.json"])
@pytest.mark.parametrize("how", [damage, os.unlink, lambda path: os.truncate(path, 40)])
def test_a_damaged_file_is_named(paths, whole, name, how):
    how(whole / name)
    with pytest.raises(ValueError, match=rf"{name} is (missing|damaged)"):
        open_folder(whole)
    with pytest.raises(ValueError, match=rf"{name} is (missing|damaged)"):
        run(job(whole, *paths, shard_tokens=200))


def test_a_shard_is_hashed_once_and_again_when_it_was_written_to(whole, monkeypatch):
    real, hashed = folders.fingerprint, []
    monkeypatch.setattr(folders, "fingerprint", lambda path: hashed.append(path.name) or real(path))
    shards = sorted(path.name for path in whole.glob("*.tokens"))
    open_folder(whole)
    assert sorted(hashed) == [*sorted(["tokenizer.json"]), *shards]
    hashed.clear()
    open_folder(whole)
    assert hashed == ["tokenizer.json"]
    later = (whole / shards[0]).stat().st_mtime_ns + 10**9
    os.utime(whole / shards[0], ns=(later, later))
    open_folder(whole)
    assert hashed == ["tokenizer.json", "tokenizer.json", shards[0]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.update(version=2), "has version 2, and this gpt reads version 1"),
        (lambda found: found.update(format="other"), "is not gpt's"),
        (lambda found: found["files"].append("../precious"), "lists files that gpt does not write"),
        (lambda found: found["shards"][0].update(name="../x.tokens"), "does not list shards"),
        (lambda found: found["shards"][0].pop("sha256"), "does not list shards"),
        (lambda found: found.pop("how"), "does not say how"),
        (lambda found: found.update(complete=False), "is not complete: give its gpt data prepare command again"),
    ],
)
def test_a_manifest_that_is_not_as_it_should_be_is_refused(whole, change, says):
    found = json.loads((whole / "data.json").read_text(encoding="utf-8"))
    change(found)
    (whole / "data.json").write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(says)):
        open_folder(whole)


def test_a_folder_without_shards_says_how_to_make_some(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder without shards: name text files in it, or encode"):
        open_folder(tmp_path)
    assert TOKENIZER.vocab_size - 1 == END
