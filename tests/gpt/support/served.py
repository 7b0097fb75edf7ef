"""What the tests of the server share: an application on a free port of this machine, and small runs to serve."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import labelled
import uvicorn
from runs import tiny, train
from taught import ENTRIES, tune

from gpt.serve import create_app
from gpt.serve.security import Guard
from gpt.tasks.instruct import STYLES


@contextmanager
def serving(app) -> Iterator[str]:
    """Serve the application in a thread; its address, without a slash at the end."""
    server = uvicorn.Server(
        uvicorn.Config(Guard(app), log_level="error", access_log=False, timeout_graceful_shutdown=1)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def small_runs(tmp_path_factory) -> Path:
    """A folder of runs: `bytes`, whose tokens are often parts of characters, `taught` and `turns`, which answer, and
    `labels`, a classifier. They are made once in a process."""
    folder = tmp_path_factory.getbasetemp() / "served"
    runs = folder / "runs"
    if folder.exists():
        return runs
    folder.mkdir()
    train(
        tiny(
            folder,
            out=runs / "bytes",
            position_std=1.0,
            tokenizer="bpe",
            vocab_size=260,
            context_length=48,
            steps=4,
            checkpoint_every=3,
            keep=9,
        )
    )
    text = "\n".join(STYLES["phi3"].prompt(e) + e["output"] for e in ENTRIES)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "data.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    shape = {"n_embd": 32, "context_length": 80, "dropout": 0.0, "steps": 2, "checkpoint_every": 2}
    train(tiny(folder, text=(folder / "text.txt",), out=folder / "base", **shape))
    tune(folder, "runs/taught")
    tune(folder, "runs/turns", turns=3, steps=2, checkpoint_every=2)
    labelled.write_tsv(folder / "data.tsv")
    given = {"data": folder / "data.tsv", "out": runs / "labels", "epochs": 1, "steps": 4, "checkpoint_every": 4}
    labelled.learn(labelled.tune(folder, runs / "bytes", **given))
    return runs


def app_of(runs: Path):
    return create_app([runs])
