"""The commands that write files, each on inputs so small that it takes a moment, and what they leave behind.

`Writer.prepare(work)` makes a directory with the inputs; `Writer.argv` is the command line, with paths in `work`;
`call` runs it in this process. `snapshot` and `weights` say what is in a directory and in a run.
"""

import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import folders
import numpy as np
import pytest
from faults import Killed
from runs import TEXT

import tensorlite as tl
from gpt.cli import main as cli
from gpt.cli.train import FinetuneClassify, FinetuneInstruct, Train
from gpt.tasks import classify
from gpt.tasks.instruct import STYLES
from gpt.training import checkpoint, plots
from tensorlite.devices import machine
from tensorlite.files import naming

USERS = {"notes.txt": b"mine\n", ".notes.tmp": b"mine too\n", "checkpoints/step_00000028_best/x": b"kept by hand\n"}
REPLACED = {"config.json": b"{}\n", "train.tokens": b"of another program", "metrics.jsonl": b"its figures\n"}
ENTRIES = [{"instruction": f"Say {word}.", "input": "", "output": word} for word in ("yes", "no")] * 10
ROWS = [("drink", "I want milk"), ("fruit", "a ripe plum"), ("drink", "some tea"), ("fruit", "two figs")] * 5
SHAPE = "--tokenizer char --n-layer 1 --n-head 2 --n-embd 8 --context-length 8 --batch-size 2 --dropout 0.1"
LOOKS = "--eval-batches 1 --sample-tokens 5 --eval-every 2 --sample-every 3 --checkpoint-every 2 --threads 1"
TINY = f"{SHAPE} {LOOKS} --steps 4".split()
TUNE = "--keep 1 --steps 2 --batch-size 2 --checkpoint-every 1 --eval-every 1 --threads 1 --lr 0.01".split()  # noqa: SIM905


@dataclass(frozen=True)
class Writer:
    """One command, and where it writes."""

    name: str
    argv: tuple[str, ...]  # `@x` stands for the path of x in the working directory
    out: str = "run"  # what it makes
    before: tuple[tuple[str, ...], ...] = ()  # command lines that make what is there already
    stop_at: int = 0  # `before` ends after that step, as if stopped: for what is resumed
    users: Mapping[str, bytes] = field(default_factory=dict)  # files that the user has put into `out`

    def line(self, work: Path, argv: tuple[str, ...] | None = None) -> list[str]:
        return [str(work / part[1:]) if part.startswith("@") else part for part in argv or self.argv]


OLD_RUN = ("train", "--text", "@text.txt", "--out", "@run", *TINY, "--seed", "7")
NEW_RUN = ("train", "--text", "@text.txt", "--out", "@run", *TINY)
BASE = (
    *NEW_RUN[:2],
    "@all.txt",
    "--out",
    "@base",
    *TINY,
    "--tokenizer",
    "word",
    "--context-length",
    "40",
    "--steps",
    "2",
)
CLASSIFY = ("finetune", "classify", "@base", "--data", "@data.tsv", "--out", "@run", *TUNE)
INSTRUCT = (
    "finetune", "instruct", "@base", "--data", "@data.json", "--out", "@run", *TUNE, "--lora", "--rank", "2",
    "--style", "phi3", "--max-new-tokens", "2", "--eval-batches", "1",
)  # fmt: skip
IMPORT = ("import", "@hf", "@run")
WRITERS = {
    writer.name: writer
    for writer in (
        Writer("train", NEW_RUN),
        Writer("resume", ("train", "--resume", "@run"), before=(NEW_RUN,), stop_at=2, users=USERS),
        Writer("overwrite", (*NEW_RUN, "--overwrite"), before=(OLD_RUN,), users=USERS),
        Writer("overwrite-users", (*NEW_RUN, "--overwrite"), users=USERS | REPLACED),
        Writer("classify", CLASSIFY, before=(BASE,)),
        Writer("classify-overwrite", (*CLASSIFY, "--overwrite"), before=(BASE, OLD_RUN)),
        Writer("instruct", INSTRUCT, before=(BASE,)),
        Writer("import", IMPORT),
        Writer("import-overwrite", (*IMPORT, "--overwrite"), before=(OLD_RUN,), users=USERS),
        Writer("export", ("export", "@base", "@out"), out="out", before=((*IMPORT[:2], "@base"),)),
        Writer("save", ("save", "@x.safetensors"), out="x.safetensors"),
    )
}


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    output: str
    errors: str


def understand(argv: list[str], parsed: dict[tuple[str, ...], Any]) -> Callable[[], int]:
    """What a command line means; `parsed` remembers it, as parsing takes longer than doing it."""
    if "--resume" in argv:  # means what it says in the run
        return {"classify": FinetuneClassify, "instruct": FinetuneInstruct}.get(argv[1], Train).default(argv)
    if tuple(argv) not in parsed:
        parsed[tuple(argv)] = (lambda: save(Path(argv[1]))) if argv[0] == "save" else PARSE(argv)
    return parsed[tuple(argv)]


PARSE = cli.parse


FSYNC = os.fsync


def call(argv: list[str], parsed: dict[tuple[str, ...], Any] | None = None, synced: bool = False) -> Ended:
    """The command in this process; nothing waits for the disk, unless `synced`."""
    parsed = {} if parsed is None else parsed
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(cli, "parse", lambda args: understand(args, parsed))
        patch.setattr(machine, "keep_freed_memory", lambda: "not asked for in a test")
        if os.fsync is FSYNC and not synced:  # nobody is watching
            patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(plots, "draw_run", draw)
        patch.setattr(plots, "draw_report", draw)
        try:
            cli.main(argv)
        except (SystemExit, Killed) as left:
            status = -9 if isinstance(left, Killed) else int(left.code or 0)
    return Ended(status, output.getvalue(), errors.getvalue())


def draw(run: Path) -> Path:
    """A picture that takes no time."""
    path = run / "loss.png"
    with naming(path), open(path, "wb") as file:
        file.write(b"a picture")
    return path


def save(path: Path) -> int:
    """tensorlite.io.save, as if it were a command."""
    tl.io.save(path, {"a": tl.arange(100), "b": tl.ones(3)}, {"about": "new"})
    return 0


# ----- before -----------------------------------------------------------------------------------------------------


def prepare(writer: Writer, work: Path) -> None:
    """The inputs of a command, and what is in its way."""
    work.mkdir(parents=True)
    (work / "text.txt").write_text(TEXT[:1500], encoding="utf-8")
    prompts = "\n".join(STYLES["phi3"].prompt(entry) + entry["output"] for entry in ENTRIES[:2])
    rows = "".join(f"{label}\t{text}\n" for label, text in ROWS)
    (work / "all.txt").write_text((TEXT[:300] + prompts + rows) * 3, encoding="utf-8")
    (work / "data.tsv").write_text(rows, encoding="utf-8")
    (work / "data.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    folders.write(work / "hf", {**folders.CONFIG, "n_layer": 1})
    tl.io.save(work / "x.safetensors", {"a": tl.zeros(5)}, {"about": "old"})
    for argv in writer.before:
        ended = stopped(writer.line(work, argv), writer.stop_at) if writer.stop_at else call(writer.line(work, argv))
        assert ended.status in (0, 143), ended
    for name, data in writer.users.items():
        (work / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "run" / name).write_bytes(data)


def stopped(argv: list[str], step: int) -> Ended:
    """A training run that SIGTERM ended after a step."""
    from gpt.training import loop as training

    real = training.update

    def update(s, *args):
        result = real(s, *args)
        if s.step == step:
            signal.raise_signal(signal.SIGTERM)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "update", update)
        return call(argv)


# ----- after ------------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a directory, but those that hold times or process numbers; None for a directory."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name not in ("log.txt", "lock"):
            found[str(path.relative_to(folder))] = None if path.is_dir() else path.read_bytes()
    return found


def weights(run: Path) -> bytes:
    """The weights that a run answers with, as bytes."""
    try:
        model = checkpoint.load_model(run)[0]
    except ValueError as error:
        if "is a run of the task 'classify'" not in str(error):
            raise
        model = classify.load(run).model
    return b"".join(np.ascontiguousarray(p.numpy()).tobytes() for p in model.parameters())


def copy(source: Path, target: Path) -> None:
    """A directory once more, in place of what was there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
