"""What a terminal of 80 columns shows: a row of figures is one row, and nothing is cut that one wants to copy."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from runs import ONE_THREAD, write_text

from gpt.cli import doctor
from gpt.console import say
from gpt.training import progress as progress_module
from gpt.training.progress import Progress, figure_text, fitting

COLUMNS = 80
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STEP = r"step +[\d,]+/[\d,]+"


def on_a_terminal(*args: object, columns: int = COLUMNS) -> list[str]:
    """`gpt ...` on a terminal so wide: its rows as they were written, those of the bar too."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")  # not on Windows
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in ONE_THREAD.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "gpt", *map(str, args)]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm-256color"}
    ) as process:
        os.close(theirs)
        screen = b""
        while True:
            try:
                if not (more := os.read(ours, 1 << 16)):
                    break
            except OSError:  # Linux's way to say that the other side is closed
                break
            screen += more
    os.close(ours)
    assert process.returncode == 0, screen.decode()
    return re.split(r"[\r\n]+", ESCAPE.sub("", screen.decode()))


def figures(rows: list[str]) -> list[str]:
    return [row for row in rows if re.match(rf"{STEP}  (loss|validation)", row)]


def test_no_thread_redraws_the_bar(tmp_path):
    """It would compete with the computation: the bar is drawn by the steps alone."""
    before, screen = threading.active_count(), io.StringIO()
    console = Console(file=screen, force_terminal=True, width=COLUMNS)
    with Progress(0, 10, 1, "tokens", console, tmp_path / "log.txt") as progress:
        assert progress.console.is_terminal
        assert threading.active_count() == before


class Clock:
    """Time that passes only when the test says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_pace_and_time_left_are_of_this_process_and_of_training_alone(monkeypatch):
    """Resumed at step 10 of 30: 4 steps in 40 s, of which 20 s were evaluations; 16 steps are left."""
    clock, lines = Clock(), []
    monkeypatch.setattr(progress_module, "time", clock)
    console = Console(force_terminal=False, width=COLUMNS, file=io.StringIO())
    show = Progress(10, 30, 60, "tokens", console, Path(os.devnull))
    monkeypatch.setattr(console, "print", lambda line, **_: lines.append(line))
    show.evaluated(10, {"validation_loss": 3.0}, 1e-3)
    for step in range(11, 15):
        show.step(step, 2.0 + step % 2, seconds=5.0)
        clock.now += 10
    show.evaluated(14, {"validation_loss": 2.5}, 1e-3)
    show.step(15, 1.0, seconds=5.0)
    clock.now += 3560
    show.evaluated(15, {"validation_loss": 2.25}, 1e-3)
    assert lines == [
        "step 10/30  validation 3.0000",
        "step 14/30  loss 2.5000  validation 2.5000  lr 1.0e-03  12 tokens/s  2:40 left",
        "step 15/30  loss 1.0000  validation 2.2500  lr 1.0e-03  12 tokens/s  3:00:00 left",
    ]


def test_the_bar_is_drawn_at_once_and_not_more_often_than_can_be_read(monkeypatch):
    clock, screen = Clock(), io.StringIO()
    monkeypatch.setattr(progress_module, "time", clock)
    show = Progress(0, 30, 1, "tokens", Console(file=screen, force_terminal=True, width=COLUMNS), Path(os.devnull))
    with show:
        drawn = []
        for step in range(1, 31):
            clock.now += 0.0625
            before = screen.tell()
            show.step(step, 1 / step, seconds=0.01)
            drawn.append(f"step {step}/30" in ESCAPE.sub("", screen.getvalue()[before:]))
            assert not drawn[-1] or f"loss {1 / step:.3f}" in screen.getvalue()[before:]
    assert 6 <= sum(drawn) <= 9  # in 1.9 s: at most every 0.2 s


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A pretrained run, with a name that is longer than a row; what the terminal showed."""
    folder = tmp_path_factory.mktemp("terminal")
    path = folder / f"{'long-' * 16}name"
    rows = on_a_terminal(
        "train", "--text", write_text(folder), "--out", path, "--vocab-size", 270, "--n-layer", 1, "--n-head", 2,
        "--n-embd", 16, "--context-length", 96, "--steps", 300, "--eval-every", 75, "--eval-batches", 1,
        "--sample-every", 150, "--sample-tokens", 150, "--batch-size", 2,
    )  # fmt: skip
    return path, rows


@pytest.mark.slow
@pytest.mark.finding("E6")
def test_no_row_of_training_is_longer_than_the_terminal(run):
    path, rows = run
    assert [row for row in rows if cell_len(row) > COLUMNS] == []
    assert len(figures(rows)) == 5
    for row in figures(rows)[1:]:
        assert re.fullmatch(rf"{STEP}  loss \d\.\d{{4}}  validation \d\.\d{{4}}  lr \S+  [\d,]+ tokens/s.*", row)
    assert any(re.match(rf"{STEP} .+ +\d+% loss \d\.\d+  [\d,]+ tokens/s  [\d:]+ left", row) for row in rows)  # the bar
    assert str(path) in "".join(rows)  # broken, but whole
    assert not any("…" in row for row in rows)
    log = (path / "log.txt").read_text()
    assert len(re.findall(rf"{STEP}  loss .* left$", log, re.MULTILINE)) == 4  # the log has all of a row's parts


@pytest.mark.slow
@pytest.mark.finding("E6")
@pytest.mark.parametrize("task", ["classify", "instruct"])
def test_no_row_of_fine_tuning_is_longer_than_the_terminal(run, tmp_path, task):
    entries = [{"instruction": f"Say {i % 2}.", "input": "", "output": str(i % 2)} for i in range(40)]
    texts = [{"label": "odd" if i % 2 else "even", "text": f"bottle {i}"} for i in range(60)]
    rows = texts if task == "classify" else entries
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"classify": (), "instruct": ("--style", "phi3", "--responses", 1, "--max-new-tokens", 5)}[task]
    shown = on_a_terminal(
        "finetune", task, run[0], "--data", tmp_path / "data.jsonl", "--out", tmp_path / "run", "--steps", 12,
        "--eval-every", 6, "--batch-size", 4, *more,
    )  # fmt: skip
    assert [row for row in shown if cell_len(row) > COLUMNS] == []
    assert len(figures(shown)) == 3
    wanted = r"accuracy \d+\.\d%  \(training \d+\.\d%\)" if task == "classify" else r"lr \S+  [\d,]+ texts/s"
    for row in figures(shown)[1:]:
        assert re.search(rf"  loss \d+\.\d{{4}}  validation \d+\.\d{{4}}  {wanted}", row)


def test_in_a_pipe_and_in_the_log_a_line_is_whole(tmp_path):
    for terminal in (False, True):
        console = Console(force_terminal=terminal, width=20, color_system=None, file=io.StringIO())
        say(console, tmp_path / "log.txt", "a line of words that is rather long")
        shown = ["a line of words that", "is rather long"] if terminal else ["a line of words that is rather long"]
        assert console.file.getvalue().splitlines() == shown
    assert re.findall("a line.*", (tmp_path / "log.txt").read_text()) == 2 * ["a line of words that is rather long"]


@pytest.mark.finding("E6")
@given(
    total=st.integers(1, 10**6),
    loss=st.floats(0, 20),
    named=st.dictionaries(st.sampled_from(["validation_accuracy", "training_accuracy"]), st.floats(0, 1)),
    per_step=st.integers(1, 10**6),
    unit=st.sampled_from(["tokens", "texts"]),
)
def test_a_row_of_figures_fits_whatever_the_figures_are(total, loss, named, per_step, unit):
    lines = []
    console = Console(force_terminal=True, width=COLUMNS)
    show = Progress(0, total, per_step, unit, console, Path(os.devnull))
    console.print = lambda line, **_: lines.append(line)
    show.step(total, loss, seconds=0.25)
    show.evaluated(total, {"validation_loss": loss, **named}, lr=1e-3)
    (line,) = lines
    assert cell_len(line) <= COLUMNS
    assert f"loss {loss:.4f}  validation {loss:.4f}" in line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("validation_loss", "validation 0.9750"), ("validation_accuracy", "accuracy 97.5%"),
        ("training_accuracy", "(training 97.5%)"), ("bits_per_byte", "bits per byte 0.9750"),
    ],
)  # fmt: skip
def test_a_figure_in_few_words(name, text):
    assert figure_text(name, 0.975) == text


def test_what_does_not_fit_is_left_out_from_the_end():
    assert fitting(["one", "", "three"], 10) == "one  three"
    assert fitting(["one", "three", "x"], 9) == "one"
    assert fitting(["longer"], 3) == "longer"


@pytest.mark.finding("E6")
def test_doctor_cuts_no_path(monkeypatch):
    """A long path goes on in the next row on a terminal; in a pipe it is in one."""
    path = f"/{'long-folder/' * 12}python"
    monkeypatch.setattr(sys, "executable", path)
    for columns, terminal in ((COLUMNS, True), (40, True), (COLUMNS, False)):
        console = Console(width=columns, force_terminal=terminal, color_system=None, file=io.StringIO())
        doctor.report(console)
        text = console.file.getvalue()
        assert "…" not in text
        if terminal:
            assert all(cell_len(row) <= columns for row in text.splitlines())
            rows = [row.split("│")[2].strip() for row in text.splitlines() if row.startswith("│")]
            assert path in "".join(rows).replace(" ", "")
        else:
            assert path in text
