"""Small runs of every kind, made by `gpt` itself, and the server `gpt look` as a process: for tests of its page."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from folders import CONFIG, write
from labelled import write_tsv
from runs import ONE_THREAD, gpt, write_text
from taught import ENTRIES

# wide enough for pictures of several heads, small enough for seconds; the context has room for the page's example text
SHAPE = ("--n-layer", 2, "--n-head", 4, "--n-embd", 16, "--context-length", 96)
SHORT = ("--batch-size", 4, "--eval-batches", 1, "--sample-tokens", 8, "--threads", 1)
WAIT = 120  # seconds for another process of pytest-xdist that makes the runs


class Site(NamedTuple):
    """A server and what it serves."""

    url: str  # http://127.0.0.1:PORT
    runs: Path  # the folder of the runs: text, classifier, instruct, gpt2


def make_runs(folder: Path) -> None:
    """A pretraining run `text` with six checkpoints, `classifier` and `instruct` from it, and an imported `gpt2`."""
    data, base = folder.with_name(folder.name + " data"), folder / "text"
    data.mkdir()
    folder.mkdir()
    run("train", "--text", write_text(data), "--tokenizer", "bpe", "--vocab-size", 300, *SHAPE, *SHORT, "--steps", 50,
        "--lr", 0.01, "--eval-every", 10, "--checkpoint-every", 10, "--keep", 6, "--out", base)  # fmt: skip
    write_tsv(data / "labelled.tsv")
    run("finetune", "classify", base, "--data", data / "labelled.tsv", "--steps", 20, "--batch-size", 4, "--lr", 0.01,
        "--eval-every", 10, "--checkpoint-every", 10, "--keep", 2, "--threads", 1,
        "--out", folder / "classifier")  # fmt: skip
    (data / "entries.json").write_text(json.dumps(ENTRIES))
    run("finetune", "instruct", base, "--data", data / "entries.json", "--style", "phi3", "--steps", 20, "--lr", 0.01,
        "--eval-every", 10, "--checkpoint-every", 10, "--max-new-tokens", 4, "--threads", 1,
        "--out", folder / "instruct")  # fmt: skip
    run("import", write(data / "weights", {**CONFIG, "n_positions": 96, "n_embd": 16}), folder / "gpt2")


def run(*args: object) -> None:
    """`gpt ...`, which must succeed."""
    status, output, errors = gpt(*args)
    assert status == 0, f"gpt {' '.join(map(str, args))}\n{output}\n{errors}"


def made_once(folder: Path) -> Path:
    """`make_runs(folder)` where no other process of pytest-xdist has begun that; its runs when they are complete."""
    ready, begun = folder.with_name(folder.name + " ready"), folder.with_name(folder.name + " begun")
    try:
        begun.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + WAIT
        while not ready.exists():
            assert time.monotonic() < deadline, f"another process began to make {folder} and did not end"
            time.sleep(0.1)
        return folder
    make_runs(folder)
    ready.touch()
    return folder


@contextmanager
def served(*args: object, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`gpt look ...` without a browser on a free port: the process and the address that it prints."""
    command = [sys.executable, "-m", "gpt", "look", *map(str, args), "--no-browser", "--port", "0"]
    env = {**ONE_THREAD, "PYTHONUNBUFFERED": "", **(env or {})}  # as a user has it
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process, address(process)
        finally:
            process.terminate()
            process.communicate(timeout=20)


def address(process: subprocess.Popen[str]) -> str:
    """The first address that the server prints."""
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise AssertionError(f"gpt look printed no address: {process.stderr.read()}")


def shared_folder(tmp_path_factory) -> Path:
    """A temporary folder that all processes of this run of pytest share."""
    base: Path = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below the folder: when it was changed, and its bytes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }
