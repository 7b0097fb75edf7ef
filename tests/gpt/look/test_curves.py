"""metrics.jsonl and samples.txt, read while they are written, cut and replaced; curves of few points."""

import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import tiny, train

from gpt.look.metrics import (
    METRICS,
    Log,
    Position,
    Series,
    curve,
    end_of,
    parse_samples,
    place_of,
    read_after,
    running_mean,
)
from gpt.training import run_directory


def line(step: int, **numbers) -> str:
    return json.dumps({"step": step, **numbers}) + "\n"


def write(run, text: str, mode: str = "w") -> None:
    with open(run / METRICS, mode, encoding="utf-8", newline="\n") as file:
        file.write(text)


def steps(log: Log, name: str = "loss") -> list[int]:
    return list(log.metrics[name].steps)


# ----- a file that grows --------------------------------------------------------------------------------------------


def test_a_half_written_line_is_read_when_it_is_whole(tmp_path):
    write(tmp_path, line(1, loss=2.5) + '{"step": 2, "lo')
    log = Log(tmp_path).update()
    assert steps(log) == [1]
    assert log.metrics.unreadable == 0
    write(tmp_path, 'ss": 2.25}\n' + line(3, loss=2.0), "a")
    assert steps(log.update()) == [1, 2, 3]
    assert list(log.metrics["loss"].values) == [2.5, 2.25, 2.0]
    assert steps(log.update()) == [1, 2, 3]  # nothing is read twice


def test_a_position_is_after_what_was_read(tmp_path):
    """Also behind more bytes than a position has the checksum of; nothing is taken for another file."""
    position, seen = Position(), b""
    for step in (1, 2, 500, 1000):
        write(tmp_path, "".join(line(n, loss=n / 3) for n in range(step, 2 * step)) + '{"st', "w" if step == 1 else "a")
        news = read_after(tmp_path, METRICS, position)
        position, seen = news.position, seen + news.lines
        assert not news.again
        assert position == end_of(tmp_path, METRICS)[0]
        assert seen == (tmp_path / METRICS).read_bytes()[: position.offset]


def test_there_may_be_no_file_yet(tmp_path):
    log = Log(tmp_path).update()
    assert log.metrics.series == {}
    assert log.samples == []
    write(tmp_path, line(0, validation_loss=4.0))
    assert log.update().metrics["validation_loss"].lowest() == (4.0, 0)


def test_a_resumed_run_has_cut_the_file(tmp_path):
    write(tmp_path, "".join(line(step, loss=float(step)) for step in range(1, 9)))
    log = Log(tmp_path).update()
    write(tmp_path, "".join(line(step, loss=float(step)) for step in range(1, 5)))  # cut, and nothing more yet
    assert steps(log.update()) == [1, 2, 3, 4]


def test_a_resumed_run_has_written_more_than_was_cut(tmp_path):
    """The file is longer than before, so only the bytes before the position show that it is another."""
    kept = "".join(line(step, loss=float(step)) for step in range(1, 5))
    write(tmp_path, kept + line(5, loss=5.0))
    log = Log(tmp_path).update()
    write(tmp_path, kept + "".join(line(step, loss=0.5) for step in range(5, 20)))
    assert steps(log.update()) == list(range(1, 20))
    assert list(log.metrics["loss"].values) == [1.0, 2.0, 3.0, 4.0] + [0.5] * 15


def test_lines_that_are_not_ours_are_counted_and_skipped(tmp_path):
    odd = ["[1]", "null", '"x"', "{", '{"loss": 1.0}', '{"step": true, "loss": 1.0}', '{"step": -1}', "\0\0",
           '{"step": 1e3, "loss": 1.0}', "[" * 100_000, f'{{"step": {10**30}}}']  # fmt: skip
    write(tmp_path, line(1, loss=1.5) + "\n".join(odd) + "\n" + line(2, loss=1.25))
    log = Log(tmp_path).update()
    assert steps(log) == [1, 2]
    assert log.metrics.unreadable == len(odd)


def test_values_that_are_not_finite_are_left_out(tmp_path):
    text = (
        '{"step": 1, "loss": NaN, "norm": Infinity, "lr": 0.5}\n{"step": 2, "loss": null, "norm": null, "lr": 0.25}\n'
    )
    write(tmp_path, text + f'{{"step": 3, "loss": {10**400}, "norm": "3", "lr": true}}\n')
    metrics = Log(tmp_path).update().metrics
    assert metrics.skipped == [1, 2, 3]
    assert list(metrics["lr"].values) == [0.5, 0.25]
    assert not metrics["norm"].values


def test_a_folder_or_a_pipe_in_its_place_is_an_error(tmp_path):
    (tmp_path / METRICS).mkdir()
    with pytest.raises(IsADirectoryError if os.name == "posix" else OSError, match=METRICS):
        Log(tmp_path).update()
    if hasattr(os, "mkfifo"):
        (tmp_path / METRICS).rmdir()
        os.mkfifo(tmp_path / METRICS)
        with pytest.raises(OSError, match=f"{METRICS} is not a regular file"):  # opening it would wait for ever
            Log(tmp_path).update()


def test_the_end_of_a_file_is_found_without_reading_it(tmp_path):
    write(tmp_path, line(1, loss=1.0) + line(2, loss=2.0) + '{"step"')
    position, last = end_of(tmp_path, METRICS)
    assert json.loads(last) == {"step": 2, "loss": 2.0}
    write(tmp_path, ': 3, "loss": 3.0}\n', "a")
    news = read_after(tmp_path, METRICS, position)
    assert json.loads(news.lines) == {"step": 3, "loss": 3.0}
    assert not news.again
    assert end_of(tmp_path / "none", METRICS) == (Position(), b"")


def test_a_position_survives_as_text(tmp_path):
    write(tmp_path, line(1, loss=1.0))
    position = read_after(tmp_path, METRICS, Position()).position
    assert Position.parse(str(position)) == position
    for text in ("", "1", "-1-00000000", "1-0", "1-00000000-", "x" * 100, "9" * 16 + "-00000000"):
        with pytest.raises(ValueError, match="position"):
            Position.parse(text)


# ----- a run that replaces another ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_replaces_another_is_read_from_its_beginning(tmp_path):
    train(tiny(tmp_path, steps=20))
    log = Log(tmp_path / "run").update()
    assert log.metrics.last == 20
    assert [sample.step for sample in log.samples] == [7, 14, 20]
    train(tiny(tmp_path, steps=9, lr=0.01, overwrite=True))
    log.update()
    assert log.metrics.last == 9
    assert steps(log) == list(range(1, 10))
    assert [sample.step for sample in log.samples] == [7, 9]


@pytest.mark.slow
def test_between_two_moves_the_new_runs_files_are_read_where_they_are(tmp_path):
    train(tiny(tmp_path, steps=5))
    run, staging = tmp_path / "run", tmp_path / "run" / run_directory.STAGING
    staging.mkdir()
    shutil.copy(run / "config.json", staging / METRICS)
    write(staging, line(0, validation_loss=9.0))
    assert place_of(run, METRICS) == run / METRICS  # a new run without a checkpoint is not valid
    journal = {"format": "gpt.run.replace", "version": 1, "old": [], "new": [METRICS]}
    (staging / run_directory.JOURNAL).write_text(json.dumps(journal))
    assert place_of(run, METRICS) == staging / METRICS
    assert Log(run).update().metrics["validation_loss"].lowest() == (9.0, 0)


# ----- curves -------------------------------------------------------------------------------------------------------


def series(values) -> Series:
    found = Series()
    for step, value in enumerate(values, 1):
        found.add(step, value)
    return found


NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200)


@given(NUMBERS, st.integers(2, 50))
def test_no_value_is_outside_the_range_of_its_point(values, points):
    found = curve(series(values), points)
    assert len(found.steps) == min(points, len(values))
    assert found.steps == sorted(set(found.steps))
    assert found.steps[-1] == len(values)
    first = 0
    for last, low, high in zip(found.steps, found.low, found.high, strict=True):
        assert (low, high) == (min(values[first:last]), max(values[first:last]))
        first = last


@given(NUMBERS, st.integers(1, 40))
def test_the_running_mean_is_the_mean_of_the_values_around(values, window):
    half, count = window // 2, len(values)
    for i, mean in enumerate(running_mean(values, window, range(count))):
        side = half if i >= half else i  # as far to the left as there are values, and not farther to the right
        around = [values[j] for j in range(i - side, i + side + 1) if j < count]
        assert mean == pytest.approx(sum(around) / len(around), rel=1e-9, abs=1e-6)


def test_a_window_of_one_is_the_series_itself():
    assert curve(series([3.0, 1.0, 2.0]), smooth=1).smooth == [3.0, 1.0, 2.0]


def test_an_empty_series_has_no_points():
    assert curve(Series()).to_dict() == {"step": [], "low": [], "high": [], "smooth": []}


# ----- samples ------------------------------------------------------------------------------------------------------


def test_samples_may_have_any_lines():
    text = "----- step 5\nfirst\n\nsecond\n----- not a step\n\n----- step 10\n\n\n"
    assert parse_samples(text) == [(5, "first\n\nsecond\n----- not a step"), (10, "")]
    assert parse_samples("") == []
    assert parse_samples("no head\n") == []
