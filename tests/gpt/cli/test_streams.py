"""Standard streams that are full or closed, an interruption during imports, and paths on the command line."""

import os
import re
import subprocess
import sys

import pytest
from runs import ONE_THREAD, flags

from gpt.tasks.pretrain import TrainConfig
from gpt.training import checkpoint

FULL = "/dev/full"
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="this system has no /dev/full")
SHORT = {"steps": 4, "eval_every": 2, "sample_every": 0, "checkpoint_every": 2}


def shell(line: str, *args, unbuffered: str = "") -> subprocess.CompletedProcess:
    """`gpt ARGS` with the redirections that `line` adds."""
    command = ["sh", "-c", f'"$@" {line}', "sh", sys.executable, "-m", "gpt", *map(str, args)]
    environment = {**ONE_THREAD, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.slow
@pytest.mark.finding("A6")
@pytest.mark.parametrize(
    "streams", [pytest.param(f">{FULL}", marks=needs_full), ">&-", "<&- >&- 2>&-"], ids=["full", "closed", "all closed"]
)
def test_training_goes_on_without_standard_output(tmp_path, streams):
    ended = shell(streams, *flags(tmp_path, **SHORT), "--out", tmp_path / "run")
    assert (ended.returncode, ended.stderr) == (0, "")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "step 4/4" in log
    assert '"finished": 4' in (tmp_path / "run" / "run.json").read_text()


@pytest.mark.finding("A6")
@needs_full
@pytest.mark.parametrize(
    "args",
    [
        ("--version",),
        *(pytest.param(args, marks=pytest.mark.slow) for args in (("params", "nano"), ("data", "list"), ("--help",))),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_at_standard_output_is_named(args, unbuffered):
    ended = shell(f">{FULL}", *args, unbuffered=unbuffered)
    assert ended.returncode == 1
    assert re.fullmatch(r"gpt: standard output: No space left on device\n", ended.stderr)


@pytest.mark.slow
@pytest.mark.finding("A6")
@pytest.mark.parametrize("args", [("--version",), ("params", "nano"), ("chat", "none"), ("generate", "none")])
@pytest.mark.parametrize("streams", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_unexpected_error(args, streams):
    ended = shell(streams, *args)
    assert ended.returncode in (0, 1, 2)
    assert "Error" not in ended.stderr
    assert "foreseen" not in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there a process is not interrupted by a signal")
@pytest.mark.parametrize("module", ["gpt.cli", "tyro", "numpy", "gpt.cli.main"])
def test_interrupted_while_modules_are_imported(module):
    """Ctrl-C comes when `module` is asked for."""
    program = f"""
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
import runpy
sys.argv = ["gpt", "params", "nano"]
runpy.run_module("gpt", run_name="__main__", alter_sys=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (130, "")


# ----- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.finding("A1")
@pytest.mark.parametrize(
    "line",
    [
        "train --text T --out= --overwrite", "train --text T --out EMPTY --overwrite", "train --resume EMPTY",
        "train --resume=", "train --text EMPTY --out o", "generate EMPTY", "chat EMPTY", "export EMPTY o",
        "export r EMPTY", "import EMPTY o", "import gpt2 EMPTY", "evaluate EMPTY --text T", "classify EMPTY",
        "finetune classify EMPTY --data T", "finetune instruct --resume EMPTY", "judge --data EMPTY",
    ],
)  # fmt: skip
def test_an_empty_path_is_refused(call, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "T").write_text("some text")
    status, _, errors = call(*("" if word == "EMPTY" else word for word in line.split()))
    assert status == 2
    said = " ".join(re.sub("[|│]", " ", errors).split())
    several = "train --text EMPTY" in line or line.startswith("import")  # of these all are named as they were given
    assert ("''" if several else "it is empty: name a file or a directory") in said
    assert [path.name for path in tmp_path.iterdir()] == ["T"]


@pytest.mark.parametrize("name", ["out", "resume", "text"])
def test_an_empty_path_is_refused_in_python(name):
    with pytest.raises(ValueError, match=f"{name} is empty: name a file or a directory"):
        TrainConfig(**{name: ""})
    with pytest.raises(ValueError, match="text is empty"):
        TrainConfig(text=("a", ""))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="HOME names no directory there")
def test_a_quoted_tilde_is_the_home_directory(call, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert call(*flags(tmp_path, **SHORT), "--out", "~/run")[0] == 0
    assert call("train", "--resume", "~/run", "--steps", "6")[0] == 0
    assert checkpoint.newest(home / "run")[0].step == 6
    assert not (tmp_path / "~").exists()
