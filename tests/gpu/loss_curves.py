"""Two loss curves of one recipe, in float32 and in bfloat16: nano learns tiny Shakespeare's characters on a GPU.

    python tests/gpu/loss_curves.py --text tinyshakespeare.txt --out examples/benchmarks    loss_curves.json and .png

One idea: the same seed, so the same weights and batches; what differs is rounding, and the curves show what it does. It
is nanoGPT's recipe for CPUs (12 windows of 64 characters, no dropout), trained by `gpt train`'s own loop. With --device
cpu there is the curve of float32 alone.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gpt import train
from gpt.tasks.pretrain import TrainConfig
from gpt.training import plots

COLORS = {"float32": plots.TRAINING, "bfloat16": plots.VALIDATION}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="the text to learn from: tiny Shakespeare")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder for loss_curves.json and loss_curves.png")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=500)
    flags = parser.parse_args()
    found = {}
    for dtype in ("float32", "bfloat16") if flags.device == "cuda" else ("float32",):
        found[dtype] = curve(flags.text, flags.device, dtype, flags.steps)
        print(f"{dtype}: {found[dtype]['seconds']} s, validation {found[dtype]['validation'][-1][1]:.4f}", flush=True)
    about = {"text": flags.text.name, "device": flags.device, "steps": flags.steps}
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "loss_curves.json").write_text(json.dumps(about | {"curves": found}) + "\n", encoding="utf-8")
    draw(found, flags.out / "loss_curves.png")


def curve(text: Path, device: str, dtype: str, steps: int) -> dict:
    """The loss of every step, [step, loss] on validation, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            text=(text,), tokenizer="char", preset="nano", position_std=1.0, context_length=64, dropout=0.0,
            batch_size=12, steps=steps,
            lr=1e-3, min_lr=1e-4, warmup=min(100, steps // 5), beta2=0.99, eval_every=max(1, steps // 10),
            sample_every=0, sample_tokens=0, checkpoint_every=steps, device=device, dtype=dtype,
            out=Path(folder) / "run",
        )  # fmt: skip
        began = time.perf_counter()
        run, stopped_by = train(config)
        if stopped_by is not None:
            raise SystemExit(f"stopped by signal {stopped_by}")
        seconds = round(time.perf_counter() - began, 1)
        lines = plots.read_metrics(run / "metrics.jsonl")
    losses = [round(line["loss"], 5) for line in lines if line.get("loss") is not None]
    validation = [[line["step"], round(line["validation_loss"], 5)] for line in lines if "validation_loss" in line]
    return {"seconds": seconds, "training": losses, "validation": validation}


def draw(found: dict[str, dict], path: Path) -> None:
    """Each batch's loss thin, validation thick, a colour for each dtype."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for dtype, values in found.items():
        axes.plot(
            range(1, len(values["training"]) + 1), values["training"], color=COLORS[dtype], linewidth=0.5, alpha=0.5
        )
        axes.plot(
            *zip(*values["validation"], strict=True), color=COLORS[dtype], linewidth=1.6, marker="o", markersize=3,
            label=f"{dtype}, validation: {values['validation'][-1][1]:.3f} at last",
        )  # fmt: skip
    axes.set(xlabel="step", ylabel="loss (nats per character)", title="nano learns tiny Shakespeare")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
