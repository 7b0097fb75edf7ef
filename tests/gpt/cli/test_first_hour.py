"""README's commands, one after the other in one folder, offline and with fewer steps."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80"}


@pytest.fixture(scope="module")
def downloads(tmp_path_factory, data_dir) -> Path:
    """A download folder as `gpt data fetch` leaves it."""
    folder = tmp_path_factory.mktemp("downloads")
    for name, file in (("spam", "SMSSpamCollection"), ("instructions", "instruction-data.json")):
        (folder / name).mkdir()
        shutil.copyfile(data_dir / file, folder / name / file)
    return folder


@pytest.mark.slow
def test_readmes_commands_run_one_after_the_other_in_one_folder(tmp_path, downloads):
    def gpt(*args: str) -> str:
        command = [sys.executable, "-m", "gpt", *args]
        environment = {**ENVIRONMENT, "GPT_DOWNLOAD_DIR": str(downloads)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False
        )
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout

    few = ("--steps", "4", "--eval-every", "4")
    trained = gpt("train", "--steps", "20", "--eval-every", "20", "--checkpoint-every", "5", "--eval-batches", "2")
    assert "tiny Shakespeare, which comes with gpt: 1,115,394 characters" in trained
    assert trained.rstrip().endswith("look inside: gpt look runs/shakespeare")
    config = json.loads((tmp_path / "runs/shakespeare/config.json").read_text(encoding="utf-8"))
    assert config["model"]["context_length"] == 256
    assert sorted(path.name for path in (tmp_path / "runs/shakespeare/checkpoints").iterdir()) == [
        f"step_{step:08d}" for step in range(0, 21, 5)
    ]

    assert gpt("generate", "runs/shakespeare", "--prompt", "ROMEO:", "--max-new-tokens", "8").startswith("ROMEO:")

    verdict = tmp_path / "other.txt"
    verdict.write_text("The play is over, and the king is gone.\n" * 400, encoding="utf-8")
    gpt("train", "--from", "runs/shakespeare", "--text", "other.txt", *few)
    assert (tmp_path / "runs/shakespeare-other/model.safetensors").is_file()

    spam, instructions = (gpt("data", "fetch", name).strip() for name in ("spam", "instructions"))
    assert spam == str(downloads / "spam" / "SMSSpamCollection")
    gpt("finetune", "classify", "runs/shakespeare", "--data", spam, "--out", "runs/spam", *few)
    label, probability, text = gpt("classify", "runs/spam", "You have won a prize, call now").rstrip("\n").split("\t")
    assert label in ("ham", "spam")
    assert 0.5 <= float(probability.rstrip("%")) / (100 if "%" in probability else 1) <= 1
    assert text == "You have won a prize, call now"

    tuned = ("--out", "runs/assistant", "--responses", "1", "--max-new-tokens", "4", "--eval-batches", "1", *few)
    gpt("finetune", "instruct", "runs/shakespeare", "--data", instructions, *tuned)
    gpt("chat", "runs/assistant", "--once", "What is the opposite of day?", "--max-new-tokens", "4")

    assert {run["name"] for run in looked_at(tmp_path)} == {"shakespeare", "shakespeare-other", "spam", "assistant"}
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "other.txt"}  # nothing else is left


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
