"""`gpt look` as a user starts it: its address, its errors, Ctrl-C, and training that goes on meanwhile."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from looked_at import served
from runs import ONE_THREAD, flags, quickly_drawn, short_run, start

from gpt.cli import look

short, run = short_run(keep=10)
slow = pytest.mark.slow


def ask(address: str, path: str = "", **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address + path, headers=headers), timeout=10) as answer:
        return answer.read()


# ----- what it says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), ("nowhere",), (".",)])
def test_without_a_run_it_says_how_to_make_one(call, tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    status, output, errors = call("look", *args, "--no-browser")
    assert (status, output) == (1, "")
    assert errors == f"gpt: there is no run in {args[0] if args else 'runs'}: gpt train makes one in runs/\n"


def test_each_folder_must_have_a_run(call, run, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, errors = call("look", run, tmp_path / "empty", "--no-browser")
    assert status == 1
    assert errors == f"gpt: there is no run in {tmp_path / 'empty'}: gpt train makes one in runs/\n"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "gpt.run", "version": 99, "model": {}}'])
def test_a_damaged_run_is_one_sentence(call, run, content):
    (run / "config.json").write_text(content)
    status, output, errors = call("look", run, "--no-browser")
    assert (status, output) == (1, "")
    assert errors.startswith(f"gpt: {run / 'config.json'}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [(("--port", "65536"), "port must be at most 65535, got 65536"), (("--port", "-1"), "at least 0, got -1"),
     (("--host", "no such host"), "'no such host' is not an address of this computer: give 127.0.0.1, ::1 or 0.0.0.0"),
     (("--host", "192.0.2.1", "--port", "0"), "cannot listen on port 0 of 192.0.2.1: "),
     (("--device", "gpu"), "device")],
)  # fmt: skip
def test_wrong_flags_are_one_sentence(call, run, args, says):
    status, output, errors = call("look", run, "--no-browser", *args)
    assert status in (1, 2)
    assert output == ""
    assert says in " ".join(errors.replace("│", " ").split())


def test_a_port_in_use_is_an_error_where_it_was_asked_for_and_the_next_is_taken_otherwise(call, run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, errors = call("look", run, "--no-browser", "--port", port)
        assert status == 1
        assert errors == f"gpt: cannot listen on port {port} of 127.0.0.1: it is in use: --port 0 takes a free one\n"
        monkeypatch.setattr(look, "PORT", port)
        with look.listen("127.0.0.1", None) as listener:
            assert port < listener.getsockname()[1] < port + look.TRIED
        monkeypatch.setattr(look, "TRIED", 1)
        with pytest.raises(OSError, match="--port 0 takes a free one"):
            look.listen("127.0.0.1", None)


@pytest.mark.parametrize(
    ("host", "token", "address"),
    [("127.0.0.1", None, "http://127.0.0.1:80/"), ("::1", None, "http://[::1]:80/"),
     ("localhost", None, "http://localhost:80/"), ("192.0.2.1", "t", "http://192.0.2.1:80/?token=t"),
     ("0.0.0.0", "t", f"http://{socket.gethostname()}:80/?token=t"),
     ("::", "t", f"http://{socket.gethostname()}:80/?token=t")],
)  # fmt: skip
def test_the_printed_address(host, token, address):
    assert look.page_address(host, 80, token) == address


# ----- what it does ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="there, a process that is sent a signal just ends")
@slow
def test_it_serves_and_ends_with_ctrl_c(short):
    with served(short) as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert process.stdout.readline() == "Ctrl-C ends it.\n"
        assert b"<title>gpt look</title>" in ask(address)
        (found,) = json.loads(ask(address, "api/runs"))
        assert found["name"] == "run"
        assert found["finished"] is True
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        output, errors = process.communicate(timeout=10)
        assert (process.returncode, output, errors) == (130, "", "")
        assert time.monotonic() - began < 2


def leads(terminal: int):
    """For a new process: the terminal becomes its own, so that a typed ^C is a signal for it."""

    def make() -> None:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    return make


@slow
def test_the_terminals_line_is_clean_after_ctrl_c(short):
    """After the terminal's ^C the shell's prompt begins a line."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gpt", "look", str(short), "--no-browser", "--port", "0"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=ONE_THREAD, preexec_fn=leads(theirs)
    ) as process:
        os.close(theirs)
        shown = b""
        while b"ends it.\r\n" not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, b"\x03")
        with contextlib.suppress(OSError):  # the end of the process is an error on Linux
            while piece := os.read(ours, 1000):
                shown += piece
        assert process.wait(10) == 130
    os.close(ours)
    assert shown.decode().splitlines()[1:] == ["Ctrl-C ends it.", "^C"]
    assert shown.endswith(b"\n")


@slow
def test_where_others_can_reach_it_it_wants_the_token(short):
    with served(short, "--host", "0.0.0.0") as (_, address):
        port, token = re.fullmatch(r"http://[^/]+:(\d+)/\?token=([\w-]{32,})", address).groups()
        local = f"http://127.0.0.1:{port}/"
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(local, "api/runs")
        assert refused.value.code == 401
        refused.value.close()
        assert json.loads(ask(local, "api/runs", Authorization=f"Bearer {token}"))[0]["name"] == "run"


@slow
@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6(short):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this computer has no address ::1")
    with served(short, "--host", "::1") as (_, address):
        assert address.startswith("http://[::1]:")
        assert json.loads(ask(address, "api/runs"))[0]["name"] == "run"


@slow
def test_the_page_is_opened_in_the_browser(short, tmp_path):
    """$BROWSER is the user's; without --no-browser it gets the address that is printed."""
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\necho "$1" > "{tmp_path}/opened.part"\nmv "{tmp_path}/opened.part" "{tmp_path}/opened"\n'
    )
    browser.chmod(0o755)
    env = {**ONE_THREAD, "BROWSER": f"{browser} %s"}
    command = [sys.executable, "-m", "gpt", "look", str(short), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        address = process.stdout.readline().strip()
        deadline = time.monotonic() + 10
        while not (tmp_path / "opened").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (tmp_path / "opened").read_text().strip() == address
        process.terminate()


@slow
def test_it_shows_a_run_whose_training_goes_on(tmp_path, short):
    """A run that begins after the server is listed, and its checkpoints as they are written; both end well."""
    runs = tmp_path / "runs"
    shutil.copytree(short / "run", runs / "old")
    with served(runs) as (_, address):
        args = flags(tmp_path, steps=120, checkpoint_every=10, eval_every=60, sample_every=0, keep=100)
        with start(*args, "--out", runs / "new") as training:
            seen = []
            while training.poll() is None:
                new = [entry for entry in json.loads(ask(address, "api/runs")) if entry["name"] == "new"]
                if new and "steps" in new[0] and (not seen or new[0]["steps"] != seen[-1]):
                    seen.append(new[0]["steps"])
                    body = json.dumps({"run": "new", "text": "bottles"}).encode()
                    request = urllib.request.Request(address + "api/tokens", body, {"Content-Type": "application/json"})
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        assert len(json.loads(answer.read())["tokens"]) == 7
            training.communicate()
        assert training.returncode == 0
        assert len(seen) >= 3, seen
        assert all(set(a) <= set(b) for a, b in itertools.pairwise(seen))


# ----- what it costs -------------------------------------------------------------------------------------------------


@slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a child's time")
def test_it_starts_within_two_seconds(short):
    """The processor's seconds until the first answers, and the end; on the clock a busy machine takes longer."""
    before = os.times()
    with served(short) as (_, address):
        ask(address)
        ask(address, "api/runs")
    after = os.times()
    used = sum(getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system"))
    assert 0.05 < used < 2


@slow
def test_other_commands_do_not_import_the_server():
    program = "import sys; from gpt.cli.main import parse; parse(['params']); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "gpt.cli.params" in found
    assert "gpt.cli.look" not in found  # a command is imported when it is used
    assert {"starlette", "uvicorn", "gpt.serve", "webbrowser"}.isdisjoint(found)


def test_the_folder_may_be_given_in_many_ways(run, tmp_path):
    """A run, a folder of runs, the run's checkpoint twice: what is found has one name each."""
    from gpt.serve.state import State

    assert list(State((run,)).runs()) == ["run"]
    assert list(State((run, tmp_path)).runs()) == ["run"]
    shutil.copytree(run, tmp_path / "deeper" / "down" / "run")
    assert sorted(State((tmp_path,)).runs()) == ["run", "run (2)"]
    assert isinstance(State((run,)).run("run"), Path)


assert quickly_drawn  # used by pytest
