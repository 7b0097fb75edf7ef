"""Fine-tune a small model on the book's 1,100 instructions, and show what it learns and what it does not.

    python examples/assistant/entries.py instruction-data.json        # the file: gpt data fetch instructions

The book fine-tunes GPT-2 medium, pretrained on eight million pages. Here the model is small and pretrained on Python's
language reference and the training entries, by the same commands. Loss curves and unselected answers (every
eleventh test entry) show the result.

Seconds are processor time on one thread, which excludes other programs.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from generated import gpt
from reference import language_reference
from tyro.conf import Positional

from gpt.tasks.instruct import STYLES, read_entries, split
from gpt.training.plots import read_metrics


@dataclass
class Measure:
    """Pretrain a small model, fine-tune it on the book's entries, and write its answers to files."""

    data: Positional[Path]  # instruction-data.json
    steps: int = 1000  # of pretraining
    epochs: int = 12  # of fine-tuning
    out: Path = Path(__file__).parent  # folder for entries.json, .md and .png
    runs: Path = Path(tempfile.gettempdir()) / "little-assistant"  # folder for the runs

    def __call__(self) -> None:
        self.runs.mkdir(parents=True, exist_ok=True)
        texts = [self.runs / "reference.txt", self.runs / "entries.txt"]
        texts[0].write_text(language_reference(), encoding="utf-8")
        train = split(read_entries(self.data)).train
        texts[1].write_text("\n\n".join(STYLES["alpaca"].prompt(e) + e["output"] for e in train), encoding="utf-8")
        seconds = {}
        seconds["train"], _ = gpt(
            "train", "--text", *texts, "--context-length", 256, "--vocab-size", 2048, "--position-std", 1,
            "--batch-size", 8, "--lr", 2e-3,
            "--steps", self.steps, "--sample-every", 500, "--threads", 1, "--out", self.runs / "read", "--overwrite",
        )  # fmt: skip
        seconds["finetune"], _ = gpt(
            "finetune", "instruct", self.runs / "read", "--data", self.data, "--epochs", self.epochs, "--lr", 5e-4,
            "--min-lr", 5e-5, "--warmup", 20, "--eval-every", 20, "--max-new-tokens", 60, "--threads", 1,
            "--out", self.runs / "entries", "--overwrite",
        )  # fmt: skip
        results = {"seconds": seconds, **figures(self.runs / "entries")}
        (self.out / "entries.json").write_text(
            json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (self.out / "entries.md").write_text(report(results), encoding="utf-8")
        shutil.copyfile(self.runs / "entries" / "loss.png", self.out / "entries.png")
        print(report(results))


def figures(run: Path) -> dict[str, Any]:
    """The results of the run, and every eleventh answer."""
    lines = read_metrics(run / "metrics.jsonl")
    losses = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    rows = json.loads((run / "responses.json").read_text(encoding="utf-8"))
    return {
        "validation_loss": losses,
        "test_loss": lines[-1]["test_loss"],
        "exact_match": lines[-1]["exact_match"],
        "asked": len(rows),
        "answers": rows[::11],
        "exact": [row for row in rows if row["model_response"] == row["output"].strip()],
    }


def report(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    losses, seconds = r["validation_loss"], r["seconds"]
    lowest = min(losses, key=lambda pair: pair[1])
    curve = f"from {losses[0][1]:.2f} to {lowest[1]:.2f} at step {lowest[0]}, and was {losses[-1][1]:.2f} at the end"
    return f"""# The book's instructions and a small model

`python examples/assistant/entries.py instruction-data.json`: a model of 1.3 million parameters, pretrained on Python's
language reference and the 935 training entries, then fine-tuned on these. On one thread of a shared machine,
`gpt train` took {seconds["train"]:.0f} s of processor time and `gpt finetune instruct` {seconds["finetune"]:.0f} s.

The validation loss fell {curve} (step {losses[-1][0]}); on the test entries it is {r["test_loss"]:.2f}.
Of {r["asked"]} test entries {len(r["exact"])} were answered exactly as expected.

![loss](entries.png)

{CAN_AND_CANNOT}

Every eleventh test entry:

| instruction | input | expected | answered |
|---|---|---|---|
{table(r["answers"])}
"""


CAN_AND_CANNOT = """The small model learns the form of an answer (a question about an opposite is answered
"The opposite of ... is ...", and the answer ends), but rarely its content, because words and facts that were not in its
training text are unknown to it. More epochs only memorize the training entries, as the two curves show."""


def table(rows: list[dict[str, str]]) -> str:
    fields = ("instruction", "input", "output", "model_response")
    cells = [[row[field].replace("|", "\\|").replace("\n", "<br>") for field in fields] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


if __name__ == "__main__":
    tyro.cli(Measure)()
