"""Going on with a run: after a crash, with damage, with other settings; and being told to stop."""

import os
import re
import signal
import threading

import pytest
from runs import contents, tiny, train

from gpt import checkpoint, plots, session
from gpt import train as training
from gpt.config import TrainConfig
from gpt.pretraining import Pretraining


def metrics(run) -> list[dict]:
    return plots.read_metrics(run / "metrics.jsonl")


# ----- going on ---------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("update", 1),
        ("update", 9),
        ("watch", 3),
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
    train(session.settings(tmp_path / "run"))
    assert contents(tmp_path / "run") == contents(finished[0] / "run")


def test_resuming_falls_back_from_a_damaged_checkpoint_and_ends_in_the_same_bytes(finished, tmp_path):
    train(tiny(tmp_path))
    run = tmp_path / "run"
    damaged = run / "checkpoints" / "step_00000030" / "training.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    screen = train(session.settings(run))
    assert "step_00000030 is damaged: training.safetensors is not what was written" in screen
    assert "after step 28" in screen
    mine = {name: data for name, data in contents(run).items() if ".damaged/" not in name}
    assert mine == contents(finished[0] / "run") | {"config.json": mine["config.json"]} | {
        name: data for name, data in mine.items() if name.endswith(("config.json", "manifest.json"))
    }  # the text lies elsewhere, which config.json says


def test_resuming_with_other_settings(tmp_path):
    train(tiny(tmp_path, steps=8))
    run = tmp_path / "run"
    settings = session.settings(run)
    longer = TrainConfig(**{**vars(settings), "steps": 12, "lr": 1e-4, "min_lr": 1e-4, "warmup": 0, "dropout": 0.0})
    screen = train(longer)
    assert "changed    lr from 0.02 to 0.0001, from step 8 on" in screen
    assert [line["lr"] for line in metrics(run)[-4:-1]] == [1e-4, 1e-4, 1e-4]
    assert session.settings(run).lr == 1e-4
    assert checkpoint.load_model(run)[0].config.attention_dropout == 0


def test_the_best_loss_is_remembered(finished, tmp_path):
    train(tiny(tmp_path, steps=10, lr=1.0, min_lr=1.0, warmup=0))  # from bad to worse
    s = session.resume(Pretraining, session.settings(tmp_path / "run"), tmp_path / "run", lambda line: None)
    losses = [
        (line["validation_loss"], line["step"]) for line in metrics(tmp_path / "run") if "validation_loss" in line
    ]
    assert s.best == min(losses) < losses[-1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_layer": 2}, r"was begun with n_layer 1 and cannot go on with 2: start another run"),
        ({"tokenizer": "bpe"}, r"was begun with tokenizer 'char' and cannot go on with 'bpe'"),
        ({"seed": 3}, r"was begun with seed 1337 and cannot go on with 3"),
        ({"steps": 29}, r"has done 30 steps already: steps cannot be 29"),
    ],
)
def test_what_a_begun_run_cannot_change(finished, change, says):
    settings = session.settings(finished[0] / "run")
    with pytest.raises(ValueError, match=says):
        train(TrainConfig(**{**vars(settings), **change}))


def test_other_versions_are_mentioned(finished, monkeypatch):
    monkeypatch.setattr(session, "made_with", lambda device: {"numpy": "9.9"})
    assert re.search(
        r"warning: numpy was [\d.]+ and is 9\.9: the last bits", train(session.settings(finished[0] / "run"))
    )


# ----- signals ----------------------------------------------------------------------------------------------------


def test_the_second_signal_leaves_at_once_and_the_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with training.stopping() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with pytest.raises(SystemExit) as left:
            os.kill(os.getpid(), signal.SIGINT)
    assert left.value.code == 130
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_training_in_another_thread_leaves_signals_alone(tmp_path):
    ended = []
    thread = threading.Thread(target=lambda: ended.append(train(tiny(tmp_path, steps=2))))
    thread.start()
    thread.join()
    assert ended
