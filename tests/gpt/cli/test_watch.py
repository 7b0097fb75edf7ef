"""`gpt train --watch`: the page during training, in a process of its own, and what training is without it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from runs import ONE_THREAD, contents, flags, gpt, quickly_drawn, tiny, train

from gpt.cli import watch
from gpt.cli.train import Train

__all__ = ["quickly_drawn"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals and process numbers of POSIX")


@contextmanager
def watched(folder, *more, **changes):
    """`gpt train --watch` in a session of its own: the process, and an iterator over its lines."""
    command = [sys.executable, "-m", "gpt", *flags(folder, **changes), "--watch", *map(str, more)]
    env = {name: value for name, value in ONE_THREAD.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    )
    try:
        yield process, iter(process.stdout)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line_with(lines, start: str) -> str:
    return next(line for line in lines if line.startswith(start)).removeprefix(start).strip()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address.partition("#")[0] + "api/runs", timeout=5) as answer:
            return bool(json.load(answer))
    except OSError:
        return False


def ends(address: str, seconds: float = 10) -> bool:
    """Whether the server at the address ends soon."""
    deadline = time.monotonic() + seconds
    while answers(address):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


ENDLESS = {"steps": 1_000_000, "checkpoint_every": 1000, "sample_every": 0}


# ----- the process --------------------------------------------------------------------------------------------------


@posix
@pytest.mark.slow
def test_training_writes_the_same_bytes_and_the_page_stays_until_ctrl_c(tmp_path):
    assert gpt(*flags(tmp_path, out=tmp_path / "plain"))[0] == 0
    with watched(tmp_path, out=tmp_path / "seen") as (process, lines):
        text = []
        address = ""
        for line in lines:
            text.append(line)
            if line.startswith("watch"):
                address = line.split()[1]
            if address and any("the page stays open: Ctrl-C ends it" in line for line in text):
                break
        assert "#training?run=seen" in address
        assert answers(address)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(10) == 0
        assert ends(address)
    named = {str(path): data for path, data in contents(tmp_path / "seen").items()}
    plain = {str(path): data for path, data in contents(tmp_path / "plain").items()}
    assert named.keys() == plain.keys()
    different = {name for name in named if named[name] != plain[name]}
    assert different <= {"loss.png"}  # it has the run's name
    assert "look inside: gpt look" in "".join(text)


@posix
@pytest.mark.slow
def test_ctrl_c_during_training_saves_and_ends_both(tmp_path):
    with watched(tmp_path, out=tmp_path / "run", **ENDLESS) as (process, lines):
        address = line_with(lines, "watch")
        assert answers(address)
        os.killpg(process.pid, signal.SIGINT)
        rest = "".join(lines)
        assert process.wait(10) == 130
        assert "go on with gpt train --resume" in rest
        assert "stays open" not in rest
        assert ends(address)
    assert gpt("train", "--resume", tmp_path / "run", "--steps", 1)[0] == 1  # steps were made and saved


@posix
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_the_page_ends_with_a_killed_training(tmp_path, name):
    with watched(tmp_path, out=tmp_path / "run", **ENDLESS) as (process, lines):
        address = line_with(lines, "watch")
        assert answers(address)
        process.send_signal(getattr(signal, name))
        process.wait(20)
        assert ends(address)


@posix
@pytest.mark.slow
def test_the_page_follows_a_resumed_run(tmp_path):
    train(tiny(tmp_path, steps=8))
    command = ["train", "--resume", str(tmp_path / "run"), "--steps", "1000000", "--watch"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt", *command],
        stdout=subprocess.PIPE,
        text=True,
        env=ONE_THREAD,
        start_new_session=True,
    )
    try:
        address = line_with(process.stdout, "watch")
        url = address.partition("#")[0] + "api/runs/run/curves"
        with urllib.request.urlopen(url) as answer:
            found = json.load(answer)
        assert not found["finished"]
        assert found["last"] >= 8
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert "watch" not in json.loads((tmp_path / "run" / "config.json").read_text())["training"]


# ----- the flag -----------------------------------------------------------------------------------------------------


def test_watch_is_not_a_setting_of_the_run(tmp_path):
    config = tiny(tmp_path, steps=1)
    command = Train(text=config.text, out=tmp_path / "run", watch=True)
    assert "watch" not in command.to_dict()
    assert Train.from_dict(command.to_dict()).watch is False


def test_a_page_that_cannot_start_is_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        watch.subprocess, "Popen", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(12, "no memory"))
    )
    with watch.watching(watch.Console()) as page:
        page.open(tmp_path)
        page.stay()  # there is nothing to wait for
    assert capsys.readouterr().out == "warning: the page could not be opened: no memory\n"


SERVER = """
import json, os, sys
with open(sys.argv[0] + ".json", "w") as file:
    json.dump([os.getsid(0) == os.getpid(), sys.argv[1:], os.environ.get("PYTHONPATH")], file)
print("http://127.0.0.1:1/#training", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def stand_in(tmp_path):
    """A program in the place of Python, as the server: it prints an address and waits for the end of its input."""
    (tmp_path / "server.py").write_text(SERVER)
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "server.py"}" "$@"\n')
    program.chmod(0o755)
    return program


@posix
def test_the_server_has_a_session_and_the_modules_of_training_and_ends_with_the_block(
    tmp_path, monkeypatch, capsys, stand_in
):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(watch.sys, "platform", "linux")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(watch.sys, "executable", str(stand_in))
    with watch.watching(watch.Console()) as page:
        page.open(tmp_path / "run")
        shown, deadline = "", time.monotonic() + 30
        while "\n" not in shown and time.monotonic() < deadline:
            shown += capsys.readouterr().out
            time.sleep(0.01)
        assert page.process.poll() is None
    assert shown == "watch      http://127.0.0.1:1/#training\n"
    assert page.process.poll() == 0
    own_session, arguments, path = json.loads((tmp_path / "server.py.json").read_text())
    assert own_session
    assert arguments == ["-P", "-m", "gpt.cli.watch", str(tmp_path / "run")]
    assert path.split(os.pathsep) == [str(tmp_path / "modules"), *filter(None, sys.path[1:])]


OPENS = """
import sys, time
from pathlib import Path
from gpt.cli import watch
watch.ENDING = 0.1
watch.sys.executable = sys.argv[1]
with watch.watching(watch.Console()) as page:
    page.open(Path("run"))
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
"""


@posix
def test_training_does_not_wait_for_a_browser_that_stays_open(tmp_path, stand_in):
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\ntouch "{opened}"\nexec sleep 60\n')
    browser.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", OPENS, str(stand_in), str(opened)],
        stdout=subprocess.DEVNULL,
        env={**ONE_THREAD, "BROWSER": str(browser), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
    try:
        assert process.wait(20) == 0
        assert opened.exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_that_fails_is_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watch.sys, "executable", "/bin/false" if os.name == "posix" else "where")
    with watch.watching(watch.Console()) as page:
        page.open(tmp_path)
        page.process.wait(10)
        page.stay()
    assert "warning: the page could not be opened" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "expected"), [("DISPLAY", True), ("BROWSER", True), (None, False)])
def test_a_browser_is_opened_only_where_it_has_a_window(monkeypatch, name, expected):
    for each in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(watch.sys, "platform", "linux")
    if name:
        monkeypatch.setenv(name, ":0")
    assert watch.has_browser() is expected
