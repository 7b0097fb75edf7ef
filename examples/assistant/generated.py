"""A small assistant for five kinds of generated tasks, trained in minutes and tested on unseen entries.

    python examples/assistant/generated.py                # everything, from scratch; --only chat: ask the trained run

Only gpt's own commands are used, and each is printed before it runs. A generated set of entries
(skills.py) is written to a file; `gpt train` trains a model on a plain text in which the same skills
occur ("cat CAT tac 3"); `gpt finetune instruct` fine-tunes it to follow instructions; `gpt chat` answers the
test entries, which share no word and no sum with the training data; exact match is counted by kind.

Seconds are processor time on one thread, which excludes other programs.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skills
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gpt.tasks.instruct import STYLES
from gpt.training.plots import read_metrics

BY_HAND = (  # questions that a person might ask; the last two are of kinds that are not in the training data
    "Reverse hello.", "Write tensor in capital letters.", "How many letters has london?", "What is 27 + 8?",
    "What is the opposite of deep?", "Spell garden backwards.", "Write hello backwards and in capital letters.",
    "Who are you?",
)  # fmt: skip


@dataclass
class Measure:
    """Train a small assistant, ask it, and write its answers to files."""

    entries: int = 60_000  # number of generated entries: 85 % for training, 10 % test, 5 % validation
    asked: int = 800  # test entries for `gpt chat`, alternating kinds, half of them sums
    steps: int = 1200  # of pretraining
    tuning_steps: int = 1800  # of fine-tuning
    only: str = "all"  # all, or chat
    out: Path = Path(__file__).parent  # folder for generated.json, .md and .png
    runs: Path = Path(tempfile.gettempdir()) / "little-assistant"  # folder for the runs and the data

    def __call__(self) -> None:
        self.runs.mkdir(parents=True, exist_ok=True)
        parts = skills.make(self.entries)
        data, text = self.runs / "entries.json", self.runs / "drill.txt"
        path = self.out / "generated.json"
        results: dict[str, Any] = {"seconds": {}} if self.only == "all" else json.loads(path.read_text())
        if self.only == "all":
            data.write_text(json.dumps([e for part in parts for e in part], indent=1), encoding="utf-8")
            text.write_text(skills.drill(parts.train, STYLES["phi3"]), encoding="utf-8")
            results["seconds"]["train"], _ = gpt(
                "train", "--text", text, "--tokenizer", "char", "--validation", 0.02, "--position-std", 1,
                "--n-layer", 4, "--n-head", 4,
                "--n-embd", 128, "--context-length", 96, "--batch-size", 16, "--steps", self.steps, "--lr", 3e-3,
                "--threads", 1, "--out", self.runs / "drilled", "--overwrite",
            )  # fmt: skip
            results["seconds"]["finetune"], _ = gpt(
                "finetune", "instruct", self.runs / "drilled", "--data", data, "--style", "phi3", "--mask-instruction",
                "--batch-size", 32, "--steps", self.tuning_steps, "--lr", 1e-3, "--min-lr", 5e-5,
                "--warmup", min(50, self.tuning_steps),
                "--eval-every", 100, "--eval-batches", 5, "--sample-every", 250, "--max-new-tokens", 12,
                "--responses", self.asked, "--threads", 1, "--out", self.runs / "taught", "--overwrite",
            )  # fmt: skip
        results |= self.ask(parts.test[: self.asked])
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (self.out / "generated.md").write_text(self.report(results), encoding="utf-8")
        draw(self.runs, results, self.out / "generated.png")
        print(self.report(results))

    def ask(self, entries: list[Any]) -> dict[str, Any]:
        """Exact match of `gpt chat` in a pipe, by kind; wrong answers; and some questions by hand."""
        lines = [
            line for e in entries for line in ([f"/input {e['input']}"] if e["input"] else []) + [e["instruction"]]
        ]
        _, output = gpt("chat", self.runs / "taught", "--max-new-tokens", 12, typed="\n".join(lines))
        answers = output.split("\n")[:-1]
        assert len(answers) == len(entries), "an answer is a line"
        saved = json.loads((self.runs / "taught" / "responses.json").read_text(encoding="utf-8"))
        assert [row["model_response"] for row in saved[: len(answers)]] == [a.strip() for a in answers]
        right: dict[str, list[bool]] = {}
        wrong = []
        for e, answer in zip(entries, answers, strict=True):
            right.setdefault(e["kind"], []).append(answer == e["output"])
            if answer != e["output"]:
                wrong.append([f"{e['instruction']} {e['input']}".strip(), e["output"], answer])
        once = gpt("chat", self.runs / "taught", "--once", BY_HAND[0])[1].strip()
        several = gpt("chat", self.runs / "taught", "--max-new-tokens", 12, typed="\n".join(BY_HAND[1:]))[1].split("\n")
        return {
            "exact_match": {kind: sum(marks) / len(marks) for kind, marks in right.items()},
            "all": sum(map(sum, right.values())) / len(entries),
            "asked": len(entries),
            "wrong": wrong[:12],
            "by_hand": [[question, answer] for question, answer in zip(BY_HAND, [once, *several], strict=False)],
        }

    def report(self, r: dict[str, Any]) -> str:
        """The result as Markdown."""
        kinds = "\n".join(f"| {kind} | {share:.1%} |" for kind, share in r["exact_match"].items())
        wrong = "\n".join(f"| {q} | {expected} | {answer} |" for q, expected, answer in r["wrong"])
        by_hand = "\n".join(f"| {q} | {answer} |" for q, answer in r["by_hand"])
        seconds, (first, second) = r["seconds"], skills.LARGEST
        return f"""# A small assistant, tested on unseen entries

`python examples/assistant/generated.py`: a model of 0.8 million parameters, characters as tokens, one thread of a
shared machine. `gpt train` took {seconds["train"]:.0f} s of processor time, `gpt finetune instruct`
{seconds["finetune"]:.0f} s, including the answers to {r["asked"]:,} test entries at its end.

| kind | exact match |
|---|---|
{kinds}
| **all {r["asked"]:,}** | **{r["all"]:.1%}** |

Unseen means: no test word occurs in training, forwards or backwards; no test sum does, though the same two
numbers in the other order may (sums are of a number up to {first} and one up to {second}). Opposites are a
list of {len(skills.ANTONYMS)} words, all of them in the training data: only the combination of word and phrasing is
new. The answers are those of `gpt chat` in a pipe, and equal those that fine-tuning saved.

![curves](generated.png)

Asked by hand, `gpt chat RUN --once "{BY_HAND[0]}"` and so on; the last two are of kinds that are not in the training
data:

| question | answer |
|---|---|
{by_hand}

Wrong answers, the first {len(r["wrong"])}:

| question | expected | answered |
|---|---|---|
{wrong}
"""


def gpt(*args: Any, typed: str | None = None) -> tuple[float, str]:
    """Run the command `gpt`; return its processor seconds and its output. Training is shown while it runs."""
    words = [str(arg) for arg in args]
    print("$ gpt", *words, flush=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    training = words[0] in ("train", "finetune")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gpt", *words], check=True, input=typed, text=True, env=environment,
        stdout=None if training else subprocess.PIPE,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{seconds:.0f} s of the processor, {time.monotonic() - began:.0f} s in all", flush=True)
    return seconds, done.stdout or ""


def draw(runs: Path, results: dict[str, Any], path: Path) -> None:
    """The validation loss of both trainings, and exact match by kind."""
    figure = Figure(figsize=(9, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for axes, name, title in ((left, "drilled", "gpt train"), (middle, "taught", "gpt finetune instruct")):
        lines = [line for line in read_metrics(runs / name / "metrics.jsonl") if "validation_loss" in line]
        axes.plot([e["step"] for e in lines], [e["validation_loss"] for e in lines], color="#c2410c")
        axes.set(title=title, xlabel="step", ylabel="validation loss (nats per token)", ylim=(0, None))
    kinds = list(results["exact_match"])
    bars = right.barh(kinds[::-1], [100 * results["exact_match"][kind] for kind in kinds[::-1]], color="#8fb3d9")
    right.bar_label(bars, fmt="%.1f", padding=-30)
    right.axvline(90, color="#6b7280", linewidth=1, linestyle="--")
    right.set(title="unseen entries, exact match (%)", xlim=(0, 100))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    tyro.cli(Measure)()
