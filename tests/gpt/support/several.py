"""Training by several processes: `python several.py FOLDER NAME...` under mpiexec trains the runs of these names.

The same functions train them in one process, so that a test compares like with like. FOLDER has text.txt, base/ and the
data that `write_inputs` made. Process 0 writes what it counted to NAME.json.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import traceback
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelled import write_tsv
from rich.console import Console
from runs import TINY, write_text
from taught import ENTRIES

from gpt.fast import distributed as several
from gpt.tasks.classify import ClassifyConfig
from gpt.tasks.instruct import STYLES, InstructConfig
from gpt.tasks.pretrain import TrainConfig
from gpt.training import loop, plots, session
from gpt.training.settings import Settings
from tensorlite import distributed
from tensorlite.kernels.cpu import onednn

STEPS = {
    "lr": 5e-3,
    "min_lr": 5e-3,
    "warmup": 0,
    "eval_every": 1000,
    "sample_every": 0,
    "checkpoint_every": 1000,
    "threads": 1,
}
TEXT = {**TINY, **STEPS, "n_layer": 2, "grad_accumulation": 4, "sample_tokens": 5, "final_tokens": 100}
PASSES = {**TEXT, "grad_accumulation": 2, "steps": 20}
TUNED = {**STEPS, "batch_size": 4, "grad_accumulation": 1, "dropout": 0.0, "steps": 8}
INSTRUCT = {**TUNED, "style": "phi3", "mask_instruction": True, "max_new_tokens": 4, "responses": 1, "eval_batches": 1}

RUNS: dict[str, tuple[type[Settings], dict[str, Any]]] = {
    "long": (TrainConfig, {**TEXT, "steps": 200, "dropout": 0.1}),
    "sharded": (TrainConfig, {**TEXT, "steps": 30, "dropout": 0.1, "shard_optimizer": True}),
    "two-passes": (TrainConfig, {**PASSES, "dropout": 0.0}),
    "two-passes-dropout": (TrainConfig, {**PASSES, "batch_size": 4, "dropout": 0.2, "activation_checkpointing": True}),
    "rows": (TrainConfig, {**PASSES, "grad_accumulation": 1, "batch_size": 8, "dropout": 0.0}),
    "bfloat16": (TrainConfig, {**PASSES, "grad_accumulation": 4, "dropout": 0.0, "dtype": "bfloat16", "n_embd": 64}),
    "classify": (ClassifyConfig, {**TUNED, "position": "last-real", "layers": "last-block"}),
    "instruct": (InstructConfig, INSTRUCT),
    "lora": (InstructConfig, {**INSTRUCT, "lora": True, "rank": 2, "alpha": 4.0, "lr": 0.02, "min_lr": 0.02}),
    "again": (TrainConfig, {**TEXT, "steps": 12, "dropout": 0.1}),
}  # fmt: skip
if onednn.missing():
    del RUNS["bfloat16"]


def write_inputs(folder: Path) -> None:
    """What the runs start from: a text, labelled sentences, instructions, and a base run."""
    write_text(folder)
    write_tsv(folder / "classify.tsv")
    (folder / "instruct.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    text = "\n".join(STYLES["phi3"].prompt(e) + e["output"] for e in ENTRIES) + " I want a milk; we took a pear.\n" * 20
    (folder / "base.txt").write_text(text * 2, encoding="utf-8")
    shape = {
        **TEXT,
        "tokenizer": "bpe",
        "vocab_size": 300,
        "context_length": 80,
        "steps": 2,
        "grad_accumulation": 1,
        "dropout": 0.0,
    }
    loop.train(TrainConfig(text=(folder / "base.txt",), out=folder / "base", **shape), Console(file=io.StringIO()))


def settings(folder: Path, out: Path, name: str) -> Settings:
    """The settings of a run."""
    kind, values = RUNS[name]
    if kind is TrainConfig:
        return TrainConfig(text=(folder / "bottles.txt",), out=out, **values)
    data = folder / ("classify.tsv" if kind is ClassifyConfig else "instruct.json")
    return kind(base=folder / "base", data=data, out=out, **values)


def alone(folder: Path, name: str) -> Path:
    """Train a run by this process; its directory."""
    config = settings(folder, folder / "1" / name, name)
    loop.train(config, Console(file=io.StringIO(), width=120))
    return folder / "1" / name


def start(folder: Path, processes: int, *names: str) -> Path:
    """Train the runs by that many processes; the folder that has them."""
    out = folder / str(processes)
    launch(processes, "several.py", folder, out, *names)
    return out


def launch(processes: int, script: str, *args: Any) -> None:
    """Run a script of this folder under mpiexec, to its end."""
    command = [mpiexec(), "-n", str(processes), sys.executable, str(Path(__file__).with_name(script)), *map(str, args)]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]


def environment() -> dict[str, str]:
    """One thread for each process, and the paths of these helpers."""
    root = Path(__file__).parents[3]
    path = os.pathsep.join(map(str, (root, root / "tests/support", root / "tests/gpt/support")))
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}


def mpiexec() -> str:
    """The command; the test is skipped where there is none, or no mpi4py."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'tensorlite[mpi]'")
    found = shutil.which(
        "mpiexec", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    )
    if found is None:
        pytest.skip("there is no mpiexec: pip install 'tensorlite[mpi]'")
    return found


@contextmanager
def aborting():
    """An error ends all processes: otherwise the others would wait for this one."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
        distributed.join().abort()


def main(folder: Path, out: Path, names: list[str]) -> None:
    plots.draw_run = plots.draw_report = lambda run: None
    for name in names:
        name, _, resumed = name.partition("=")  # NAME=STEPS resumes the run of that name up to so many steps
        config = settings(folder, out / name, name)
        if resumed:
            config = replace(session.settings(folder / name, TrainConfig), steps=int(resumed))
        world = distributed.join()
        before = world.payload
        several.train(config)
        if world.rank == 0 and not resumed:
            (out / f"{name}.json").write_text(json.dumps({"payload": world.payload - before, "sent": world.sent()}))


if __name__ == "__main__":
    with aborting():
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
