"""Fixtures of the tests of gpt."""

import io
import sys

import pytest
from runs import tiny, train

from gpt import fast
from gpt.cli import main as cli
from tensorlite import backend
from tensorlite.devices import machine

fast.attach()


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu():
    """Where there is a GPU, `auto` leaves it alone: what these tests expect, to the bit, is the CPU's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "driver_found", lambda: False)
        yield


@pytest.fixture
def call(capsys, monkeypatch):
    """`gpt ...` in this process, with `typed` as its input: exit status, output, errors."""
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: "not asked for in a test")

    def call(*args, typed: str | None = None):
        if typed is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as left:
            cli.main([str(arg) for arg in args])
        return left.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A tiny run that has ended: the folder that it lies in, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(tiny(folder))
