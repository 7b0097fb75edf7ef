"""README's commands as they stand, one after the other in one folder, offline and with fewer steps."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80"}


@pytest.fixture(scope="module")
def downloads(tmp_path_factory, data_dir) -> Path:
    """A download folder as `gpt data fetch` leaves it."""
    folder = tmp_path_factory.mktemp("downloads")
    for name, file in (("spam", "SMSSpamCollection"), ("instructions", "instruction-data.json")):
        (folder / name).mkdir()
        shutil.copyfile(data_dir / file, folder / name / file)
    return folder


SHORT = {  # what makes a command of README short
    "train": "--steps 4 --eval-every 4 --eval-batches 1 --warmup 1 --final-tokens 600 --sample-tokens 8",
    "finetune classify": "--steps 4 --eval-every 4",
    "finetune instruct": "--steps 4 --eval-every 4 --eval-batches 1 --responses 1 --max-new-tokens 4",
    "generate": "--max-new-tokens 8",
    "chat": "--max-new-tokens 4",
    "judge": "--limit 1",
}
NOT_RUN = ("gpt look", "gpt import --model")  # the first serves until it is stopped, the other downloads


def readme_commands() -> list[str]:
    """The `gpt` commands of README's bash blocks, in their order, without their comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [re.sub(r"\s+#\s.*", "", line).split(" && ") for line in lines]
    return [command for line in commands for command in line if command.startswith("gpt ")]


def shortened(command: str) -> str:
    for name, flags in SHORT.items():
        if command.startswith(f"gpt {name}"):
            return f"{command} {flags}"  # of a flag that is given twice, the last value counts
    return command


@pytest.mark.slow
def test_readmes_commands_run_one_after_the_other_in_one_folder(call, tmp_path, downloads, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT_DOWNLOAD_DIR", str(downloads))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "examples").mkdir()
    play = (ROOT / "examples" / "coriolanus.txt").read_text(encoding="utf-8")
    for name, start in (("coriolanus", 0), ("more", 20_000)):  # two short documents
        (tmp_path / "examples" / f"{name}.txt").write_text(play[start : start + 20_000], encoding="utf-8")

    def gpt(line: str) -> str:
        line = re.sub(r'"\$\(gpt (data fetch \w+)\)"', lambda fetch: shlex.quote(gpt(f"gpt {fetch[1]}").strip()), line)
        status, output, errors = call(*shlex.split(line)[1:])
        assert status == 0, f"{line}: {output}{errors}"
        return output

    outputs = {}
    for command in readme_commands():
        if command.startswith("gpt import --model"):  # imported from an exported run instead
            gpt("gpt export runs/shakespeare other")
            gpt("gpt import other runs/gpt2")
        if not command.startswith(NOT_RUN):
            outputs[command] = gpt(shortened(command))

    trained = outputs["gpt train"]
    assert "tiny Shakespeare, which comes with gpt: 1,115,394 characters" in trained
    assert "----- a sample at step 4\nROMEO:\n" in trained
    assert trained.rstrip().endswith("look inside: gpt look runs/shakespeare")
    config = json.loads((tmp_path / "runs/shakespeare/config.json").read_text(encoding="utf-8"))
    assert config["model"]["context_length"] == 256
    said = {command.split()[1]: output for command, output in outputs.items()}
    assert said["generate"].startswith("ROMEO:")
    label, probability, text = said["classify"].rstrip("\n").split("\t")
    assert label in ("ham", "spam")
    assert 0.5 <= float(probability) <= 1
    assert outputs[f'gpt classify runs/spam "{text}"'] == said["classify"]
    assert said["runs"].splitlines()[2:] != []
    assert "not a run" not in said["compare"] + said["show"]
    assert said["tokenize"].count("\n") > 5

    made = {"shakespeare", "shakespeare-coriolanus", "nanogpt", "spam", "assistant", "gpt2"}
    assert {run["name"] for run in looked_at(tmp_path)} == made  # nothing is trained twice
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "examples", "tokens", "other", "exported"}


def looked_at(folder: Path) -> list[dict]:
    """What the page of `gpt look runs` lists."""
    command = [sys.executable, "-m", "gpt", "look", "runs", "--no-browser", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as look:
        try:
            address = look.stdout.readline().strip()
            with urllib.request.urlopen(f"{address.rstrip('/')}/api/runs") as answer:
                return json.load(answer)
        finally:
            look.terminate()


@pytest.mark.slow
def test_a_failed_first_command_leaves_nothing(tmp_path):
    for wrong in (
        ["--text", "nowhere.txt"],
        ["--prompt", ""],
        ["--context-length", "200000"],
        ["--validation", "0.00001"],
    ):
        command = [sys.executable, "-m", "gpt", "train", "--steps", "1", *wrong]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 1, wrong
        assert done.stderr.startswith("gpt: ")
        assert list(tmp_path.iterdir()) == [], wrong
