"""Every example runs alone, in a fresh Python, and prints the proof that it promises."""

import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


def run(name: str, *flags: str, out: Path | None = None) -> str:
    """What an example prints. It gets one BLAS thread: with more of them, tests that run side by side wait in turns."""
    (file,) = (ROOT / "examples").glob(f"{name}*.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(file), *flags, *(["--out", str(out)] if out else [])]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"^picture: (\S+)", done.stdout, re.MULTILINE):
        assert Path(path).parent == out
        head = Path(path).read_bytes()[:8]
        assert head == b"\x89PNG\r\n\x1a\n" if path.endswith("png") else head.startswith(b"<svg ")
    return done.stdout


def numbers(line: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", line)]


def line(text: str, start: str) -> str:
    (found,) = [part for part in text.splitlines() if part.strip().startswith(start)]
    return found


@pytest.mark.slow
def test_derivatives_of_tanh(tmp_path):
    text = run("01", out=tmp_path)
    for order in range(5):
        assert numbers(line(text, f"{order}  "))[1] < 1e-13
    assert min(numbers(part)[1] for part in text.splitlines() if "h = " in part) > 1e-4  # differences are no match
    assert (tmp_path / "01_tanh.png").is_file()


@pytest.mark.slow
def test_linear_regression(tmp_path):
    text = run("02", out=tmp_path)
    _, _, *gradients = numbers(line(text, "gradient at"))
    assert gradients[:2] == gradients[2:]
    assert numbers(line(text, "normal equations")) == numbers(line(text, "gradient descent"))[:2]
    measured, theory = numbers(line(text, "each step"))
    assert measured == pytest.approx(theory, abs=1e-5)


@pytest.mark.slow
def test_spiral(tmp_path):
    text = run("03", "--steps", "120", out=tmp_path)
    linear, network = (numbers(line(text, name)) for name in ("a linear classifier", "two hidden layers"))
    assert network[0] == 2 * 32 + 32 + 32 * 32 + 32 + 32 * 3 + 3
    assert network[1] < 0.1 < linear[1]
    assert linear[2] < 60 < 95 < network[2]


@pytest.mark.slow
def test_hessian_vector(tmp_path):
    text = run("04", out=tmp_path)
    assert numbers(line(text, "30 products"))[1] < 1e-13
    norms = numbers(line(text, "norm of the gradient, Newton"))
    assert norms[-1] < 1e-12
    assert all(later < earlier**1.5 for earlier, later in pairwise(norms[3:6]))  # the digits nearly double
    assert numbers(line(text, "norm of the gradient, 400"))[1] > 1e-3


@pytest.mark.slow
def test_your_own_op():
    text = run("05")
    assert "mish: its rule agrees" in text
    wrong = [part for part in text.splitlines() if "wrong derivative" in part]
    for part, op, order in zip(wrong, ("mish_without_g", "outer_with", "mish_detached"), (1, 1, 2), strict=True):
        assert op in part
        assert f"of order {order}" in part
    assert "asks for 'input'; it can have x, x_shape, out" in text
    assert "1 op on 1 leaf, keeping 0 B" in line(text, "as one op")


@pytest.mark.slow
def test_looking_at_a_graph(tmp_path):
    text = run("06", out=tmp_path)
    assert "h = tanh(#5)" in text
    assert ".grad: True" in text
    ops = {name: numbers(line(text, f"picture: {tmp_path / f'06_{name}.svg'}"))[-3] for name in ("fused", "unfused")}
    assert ops["unfused"] > 3 * ops["fused"]
    assert "attention" in (tmp_path / "06_fused.svg").read_text(encoding="utf-8")
    assert "attention" not in (tmp_path / "06_unfused.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_shakespeare(tmp_path):
    text = run("07", "--steps", "200", out=tmp_path)
    blind, single, pairs = (numbers(line(text, name))[-1] for name in ("blind", "how often", "which follows"))
    first, last = (numbers(line(text, start))[-1] for start in ("step     0", "step   200"))
    assert first == pytest.approx(blind, abs=0.1)  # it starts knowing nothing
    assert last < single
    assert ("which follows which" in line(text, "better than")) == (last < pairs)
    before, after = text.split("----- before -----")[1].split("----- after -----")
    assert after.count(" ") > 2 * before.count(" ")  # by now it has found out about words


@pytest.mark.slow
def test_shakespeare_on_another_text(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefghij " * 400, encoding="utf-8")
    text = run("07", "--steps", "20", "--text", str(tmp_path / "text.txt"), out=tmp_path / "new")
    assert "11 different ones" in text


@pytest.mark.slow
def test_look(tmp_path):
    text = run("08", "--steps", "60", out=tmp_path)
    assert line(text, "checkpoints") == "checkpoints: [0, 20, 40, 60]"
    uniform = numbers(line(text, "share of the weight"))[-1]
    first, last = (numbers(line(text, f"{step}  "))[1:] for step in (0, 60))
    assert first == pytest.approx([uniform] * 8, abs=0.02)  # before training, attention is nearly uniform
    assert numbers(line(text, "layer"))[2] == max(last)
    assert (tmp_path / "08_last.svg").is_file()


@pytest.mark.slow
def test_plain_loop():
    losses = [numbers(part)[1] for part in run("09", "--steps", "60").splitlines() if part.startswith("step")]
    assert losses[0] == pytest.approx(math.log(65), abs=0.4)  # 65 characters, equally likely
    assert losses[-1] < 2.9
    lines = run("09", "--compare", "3").splitlines()
    assert [part.partition(" of a step")[0] for part in lines] == ["time", "processor time of all threads"]
    for part in lines:
        assert len(numbers(part)) == 4, "turns, two times and their ratio"
        assert min(numbers(part)) > 0


def test_every_example_has_a_test_and_says_what_is_seen():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for file in EXAMPLES:
        source = file.read_text(encoding="utf-8")
        assert file.stem[3:] in tested, f"{file.name} has no test"
        assert "You will see" in " ".join(source.split('"""')[1].split()), f"{file.name} does not say what one will see"
        assert f"python examples/{file.name}" in source
