"""Compare training in bfloat16 with float32: nanoGPT's recipe for CPUs in both, with several seeds, and a picture.

    python examples/benchmarks/bfloat16.py tinyshakespeare.txt --seeds 3

One idea: seeds measure the noise. Two seeds differ in weights and batches; if two dtypes differ by less than two seeds,
no accuracy is lost. The script writes bfloat16.json next to itself (each run as it ends; existing ones are not
repeated) and bfloat16.png. A CPU without bfloat16 is an error, since both would be the same.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from tensorlite.kernels.cpu import onednn

HERE = Path(__file__).parent
DTYPES = ("float32", "bfloat16")
RECIPE = (
    "--tokenizer char --preset nano --context-length 64 --batch-size 12 --steps 2000 --lr 1e-3 --min-lr 1e-4 "
    "--warmup 100 --beta2 0.99 --dropout 0 --eval-every 100 --eval-batches 40 --sample-every 0 --checkpoint-every 2000"
)


def train(text: Path, dtype: str, seed: int, threads: int) -> dict:
    """(step, validation loss) every 100 steps, over the same windows; and the final loss over the whole text."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        where = ["--text", str(text), "--out", str(run), "--dtype", dtype, "--seed", str(seed)]
        command = [sys.executable, "-m", "gpt", "train", *where, "--threads", str(threads), *RECIPE.split()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    return {"curve": curve, "whole_text": lines[-1]["whole_validation_loss"]}


def draw(runs: dict[str, dict], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    whole, end = figure.subplots(1, 2)
    for name, run in runs.items():
        (dtype, seed), curve = name.split(), run["curve"]
        style = {"color": "tab:blue" if dtype == "float32" else "tab:orange", "lw": 1, "alpha": 0.8}
        label = dtype if seed == min(other.split()[1] for other in runs) else None
        whole.plot(*zip(*curve, strict=True), label=label, **style)
        end.plot(*zip(*[point for point in curve if point[0] >= 1500], strict=True), **style)
    whole.set(xlabel="step", ylabel="validation loss, nats per character", title="nanoGPT's recipe on tiny Shakespeare")
    end.set(xlabel="step", title="the last 500 steps; one line per seed")
    whole.legend(frameon=False)
    for axes in (whole, end):
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="tiny Shakespeare")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "bfloat16.json")
    flags = parser.parse_args()
    if why := onednn.missing():
        raise SystemExit(f"bfloat16.py: {why}")
    runs = json.loads(flags.out.read_text(encoding="utf-8"))["runs"] if flags.out.exists() else {}
    for seed in range(1, flags.seeds + 1):
        for dtype in DTYPES:
            name = f"{dtype} {seed}"
            runs[name] = runs.get(name) or train(flags.text, dtype, seed, flags.threads)
            last = {d: [run["whole_text"] for key, run in runs.items() if key.startswith(d)] for d in DTYPES}
            found = {"recipe": RECIPE, "last": last, "runs": runs}
            flags.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {runs[name]['whole_text']:.4f}", flush=True)
    draw(runs, flags.out.with_suffix(".png"))
    for dtype, losses in last.items():
        spread = f", standard deviation {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
        print(f"{dtype}: mean {statistics.mean(losses):.4f}{spread}")


if __name__ == "__main__":
    main()
