"""Going on with a run: after a crash, with damage, with other settings; and being told to stop."""

import io
import os
import re
import signal
import threading

import pytest
from rich.console import Console
from runs import contents, flags, tiny, train

from gpt.tasks.pretrain import Pretraining, TrainConfig
from gpt.training import checkpoint, machine, plots, session, signals
from gpt.training import loop as training


def metrics(run) -> list[dict]:
    return plots.read_metrics(run / "metrics.jsonl")


# ----- going on ---------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("update", 1),
        ("update", 9),
        ("evaluate", 3),
        ("append_metrics", 8),
        ("append_sample", 1),
        ("save", 2),
        ("finish", 1),
    ],
)
def test_a_crash_anywhere_in_the_loop_changes_nothing(finished, tmp_path, monkeypatch, function, call):
    real, calls = getattr(training, function), []

    def crash(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Crash
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(training, function, crash)
        with pytest.raises(Crash):
            train(tiny(finished[0], out=tmp_path / "run"))
    train(session.settings(tmp_path / "run", TrainConfig))
    assert contents(tmp_path / "run") == contents(finished[0] / "run")


@pytest.mark.slow
def test_resuming_falls_back_from_a_damaged_checkpoint_and_ends_in_the_same_bytes(finished, tmp_path):
    train(tiny(tmp_path))
    run = tmp_path / "run"
    damaged = run / "checkpoints" / "step_00000030" / "training.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    screen = train(session.settings(run, TrainConfig))
    assert "step_00000030 is damaged: training.safetensors is not what was written" in screen
    assert "after step 28" in screen
    mine = {name: data for name, data in contents(run).items() if ".damaged/" not in name}
    assert mine == contents(finished[0] / "run") | {"config.json": mine["config.json"]} | {
        name: data for name, data in mine.items() if name.endswith(("config.json", "manifest.json"))
    }  # the text lies elsewhere, which config.json says


@pytest.mark.slow
def test_resuming_with_other_settings(tmp_path):
    train(tiny(tmp_path, steps=8))
    run = tmp_path / "run"
    settings = session.settings(run, TrainConfig)
    longer = TrainConfig(**{**vars(settings), "steps": 12, "lr": 1e-4, "min_lr": 1e-4, "warmup": 0, "dropout": 0.0})
    screen = train(longer)
    assert "changed    lr from 0.02 to 0.0001, from step 8 on" in screen
    assert [line["lr"] for line in metrics(run)[-4:-1]] == [1e-4, 1e-4, 1e-4]
    assert session.settings(run, TrainConfig).lr == 1e-4
    assert checkpoint.load_model(run)[0].config.attention_dropout == 0


def test_the_best_loss_is_remembered(finished, tmp_path):
    train(tiny(tmp_path, steps=10, lr=1.0, min_lr=1.0, warmup=0))  # from bad to worse
    s = session.resume(
        Pretraining, session.settings(tmp_path / "run", TrainConfig), tmp_path / "run", lambda line: None
    )
    losses = [
        (line["validation_loss"], line["step"]) for line in metrics(tmp_path / "run") if "validation_loss" in line
    ]
    assert s.best == min(losses) < losses[-1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_layer": 2}, r"was started with n_layer 1 and cannot continue with 2: start another run"),
        ({"tokenizer": "bpe"}, r"was started with tokenizer 'char' and cannot continue with 'bpe'"),
        ({"seed": 3}, r"was started with seed 1337 and cannot continue with 3"),
        ({"steps": 29}, r"^steps cannot be 29: .* has done 30 steps already$"),
    ],
)
def test_what_a_begun_run_cannot_change(finished, change, says):
    settings = session.settings(finished[0] / "run", TrainConfig)
    with pytest.raises(ValueError, match=says):
        train(TrainConfig(**{**vars(settings), **change}))


def test_other_versions_are_mentioned(finished, monkeypatch):
    monkeypatch.setattr(machine, "made_with", lambda device: {"numpy": "9.9"})
    assert re.search(
        r"warning: numpy was [\d.]+ and is 9\.9: the last bits",
        train(session.settings(finished[0] / "run", TrainConfig)),
    )


# ----- signals ----------------------------------------------------------------------------------------------------


def test_the_second_signal_leaves_at_once_and_the_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with signals.stop_signals() as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with pytest.raises(SystemExit) as left:
            signal.raise_signal(signal.SIGINT)
    assert left.value.code == 130
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no such signal")
@pytest.mark.finding("A6")
def test_a_hangup_that_is_ignored_stays_so():
    """nohup starts a program so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for at_once in (False, True):
            with signals.stop_signals(at_once) as received:
                os.kill(os.getpid(), signal.SIGHUP)
                assert (signal.getsignal(signal.SIGHUP), received) == (signal.SIG_IGN, [])
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(os.name != "posix", reason="there, a process that is sent a signal just ends")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_before_the_first_checkpoint_leaves_at_once_and_nothing_is_left(tmp_path, monkeypatch, name, status):
    monkeypatch.setattr(training, "begin", lambda *_: os.kill(os.getpid(), getattr(signal, name)))
    with pytest.raises(SystemExit) as left:
        train(tiny(tmp_path))
    assert left.value.code == status
    assert not (tmp_path / "run").exists()


# ----- the same command line again ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.finding("A6")
def test_the_same_command_line_starts_goes_on_and_is_done(finished, call, tmp_path, monkeypatch):
    """As a scheduler submits it: stopped once, once to the end, and once more for nothing."""
    again = [*flags(finished[0]), "--out", tmp_path / "run", "--resume-if-exists"]
    real = training.update

    def update(s, step):
        if s.step == 9:
            signal.raise_signal(signal.SIGTERM)
        return real(s, step)

    with monkeypatch.context() as patch:
        patch.setattr(training, "update", update)
        assert call(*again)[0] == 143
    assert checkpoint.newest(tmp_path / "run")[0].step == 10
    status, output, errors = call(*again)
    assert (status, errors) == (0, "")
    assert "after step 10\n" in output
    assert "changed" not in output
    assert contents(tmp_path / "run") == contents(finished[0] / "run")
    assert call(*again) == (0, f"{tmp_path / 'run'} has done all of its steps: there is nothing left to do\n", "")
    assert contents(tmp_path / "run") == contents(finished[0] / "run")
    status, output, _ = call(*again, "--steps", 31)
    assert status == 0
    assert "changed    steps from 30 to 31" in output


@pytest.mark.slow
@pytest.mark.finding("A6")
def test_what_a_kill_left_after_the_last_step_is_caught_up(tmp_path, monkeypatch):
    """The last figures are a part of what is to be done."""
    config = tiny(tmp_path, steps=4, resume_if_exists=True)

    def crash(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(training, "finish", crash)
        with pytest.raises(Crash):
            train(config)
    assert checkpoint.newest(tmp_path / "run")[0].step == 4
    assert "whole_validation_loss" not in metrics(tmp_path / "run")[-1]
    assert "bits per byte" in train(config)
    assert "whole_validation_loss" in metrics(tmp_path / "run")[-1]
    assert train(config).count("\n") == 1


@pytest.mark.slow
@pytest.mark.finding("A6")
def test_without_out_it_is_the_first_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train(tiny(tmp_path, out=None, steps=2, resume_if_exists=True))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["bottles"]


@pytest.mark.parametrize("other", [{"overwrite": True}, {"resume": "x", "out": None}])
def test_what_it_cannot_be_combined_with(tmp_path, other):
    with pytest.raises(ValueError, match=r"omit (one of them|--out, --overwrite and --resume-if-exists)"):
        tiny(tmp_path, resume_if_exists=True, **other)


def handlers() -> list:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_training_in_another_thread_leaves_signals_alone(tmp_path):
    ended, during = [], []
    before = handlers()

    def learn():
        console = Console(file=io.StringIO())
        ended.append(training.train(tiny(tmp_path, steps=2), console, begun=lambda run: during.append(handlers())))

    thread = threading.Thread(target=learn)
    thread.start()
    thread.join()
    assert during == [before]
    assert handlers() == before
    assert ended == [(tmp_path / "run", None, True)]
