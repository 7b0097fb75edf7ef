"""What the tests of training share: a run so small that it takes a second, as flags and as a TrainConfig."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gpt.tasks.pretrain import Pretraining, TrainConfig
from gpt.training import loop as training
from gpt.training import plots
from gpt.training.settings import Settings

TEXT = "".join(
    f"{n} bottles stand on the wall; take one down, and {n - 1} stand on the wall.\n" for n in range(60, 0, -1)
)
TINY = {
    "tokenizer": "char", "n_layer": 1, "n_head": 2, "n_embd": 8, "context_length": 8, "dropout": 0.1, "batch_size": 2,
    "steps": 30, "lr": 0.02, "eval_every": 5, "eval_batches": 1, "sample_every": 7, "sample_tokens": 5,
    "checkpoint_every": 4, "keep": 2,
}  # fmt: skip
ONE_THREAD = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # and on the CPU


def write_text(folder: Path) -> Path:
    path = folder / "bottles.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def tiny(folder: Path, **changes) -> TrainConfig:
    """The tiny run in folder/run, with some settings changed."""
    return TrainConfig(**{"text": (write_text(folder),), "out": folder / "run", **TINY, **changes})


def train(config: Settings, task=Pretraining) -> str:
    """Train in this process; what was printed."""
    screen = io.StringIO()
    training.train(config, Console(file=screen, width=120), task)
    return screen.getvalue()


def flags(folder: Path, **changes) -> list[str]:
    """`gpt train ...` of the same run."""
    values = {"text": write_text(folder), **TINY, **changes}
    return ["train", *(part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value)))]


def start(*args) -> subprocess.Popen:
    """The command `gpt`, in a process of its own."""
    command = [sys.executable, "-m", "gpt", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)


def gpt(*args) -> tuple[int, str, str]:
    """The same, to its end: exit status, output, errors."""
    with start(*args) as process:
        output, errors = process.communicate()
    return process.returncode, output, errors


def contents(run: Path, only_top: bool = False) -> dict[str, bytes]:
    """Every file of a run by its path, but those that hold times or process numbers."""
    files = run.iterdir() if only_top else run.rglob("*")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in files
        if path.is_file() and path.name not in ("log.txt", "lock")
    }


# ----- fixtures ---------------------------------------------------------------------------------------------------


def short_run(**settings):
    """Two fixtures: `short`, the folder of a finished run of a few steps, and `run`, a copy of the run to change."""

    @pytest.fixture(scope="module")
    def short(tmp_path_factory):
        folder = tmp_path_factory.mktemp("short")
        train(tiny(folder, **settings))
        return folder

    @pytest.fixture
    def run(short, tmp_path):
        return Path(shutil.copytree(short / "run", tmp_path / "run"))

    return short, run


@pytest.fixture(scope="module", autouse=True)
def quickly_drawn():
    """A module that imports this draws no loss.png: drawing takes longer than training a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw_run", lambda run: (run / "loss.png").write_bytes(b"a picture"))
        yield
