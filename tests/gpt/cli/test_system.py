"""What differs between systems: tried here as it is, and as far as can be as Windows would have it."""

import os
import platform
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
from runs import ONE_THREAD, write_text

from gpt import system
from gpt.cli import doctor
from gpt.training import checkpoint, lockfile


class Msvcrt(types.ModuleType):
    """Windows' locks: a byte of a file belongs to one descriptor."""

    LK_NBLCK = 2

    def __init__(self):
        super().__init__("msvcrt")
        self.held, self.tries = {}, 0

    def locking(self, descriptor, mode, count):
        assert (mode, count) == (self.LK_NBLCK, 1)
        self.tries += 1
        place = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        owner = self.held.get(place, descriptor)
        if owner != descriptor and is_open(owner, place[0]):
            raise PermissionError(13, "Permission denied")
        self.held[place] = descriptor


def is_open(descriptor: int, inode: int) -> bool:
    """Whether the descriptor is still that of this file: closing it lets go."""
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


@pytest.fixture
def windows(monkeypatch):
    """gpt.system as on Windows."""
    msvcrt = Msvcrt()
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(system, "sys", types.SimpleNamespace(platform="win32"))
    return msvcrt


def two(path: Path):
    return open(path, "a+", encoding="utf-8"), open(path, "a+", encoding="utf-8")


@pytest.mark.parametrize("where", ["here", "windows"])
def test_a_lock_belongs_to_one(tmp_path, where, request):
    if where == "windows":
        request.getfixturevalue("windows")
    first, second = two(tmp_path / "lock")
    with first, second:
        assert system.lock(first)
        assert not system.lock(second)
    if where == "here":
        with open(tmp_path / "lock") as file:
            assert system.lock(file)  # closing lets go


@pytest.mark.parametrize("where", ["here", "windows"])
def test_a_second_training_names_the_first(tmp_path, where, request):
    if where == "windows":
        request.getfixturevalue("windows")
    with (
        lockfile.lock(tmp_path),
        pytest.raises(RuntimeError, match=f"process {os.getpid()} is training in"),
        lockfile.lock(tmp_path),
    ):
        pass


@pytest.fixture
def open_files_stay(windows, monkeypatch):
    """As on Windows: no file that this process has open is replaced or removed."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("open files are found in /proc")

    def checked(real):
        def call(path, *others, **kwargs):
            target = others[0] if others else path
            for descriptor in descriptors.iterdir():
                if os.path.exists(target) and os.path.exists(descriptor) and os.path.samefile(target, descriptor):
                    raise PermissionError(13, "Permission denied", str(target))
            return real(path, *others, **kwargs)

        return call

    for name in ("replace", "rename", "unlink", "remove"):
        monkeypatch.setattr(os, name, checked(getattr(os, name)))


@pytest.fixture
def linked(tmp_path):
    """Two folders whose lock is one file, as in a snapshot that was made of hard links."""
    for name in ("run", "snapshot"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "lock").write_text("17")
    os.link(tmp_path / "run" / "lock", tmp_path / "snapshot" / "lock")
    return tmp_path / "run", tmp_path / "snapshot"


def test_the_lock_of_a_snapshot_becomes_a_file_of_its_own_on_windows(linked, open_files_stay):
    with lockfile.lock(linked[0]), lockfile.lock(linked[1]):
        assert not os.path.samefile(linked[0] / "lock", linked[1] / "lock")
        assert (linked[0] / "lock").read_text() == str(os.getpid())


def test_the_lock_of_a_snapshot_that_another_process_has_open_is_a_sentence_on_windows(linked, open_files_stay):
    """That process may have become the owner in the moment in which the file is released to be replaced."""
    with (
        open(linked[1] / "lock", encoding="utf-8"),
        pytest.raises(RuntimeError, match=r"another process has .*lock open: wait for it, or name another directory"),
        lockfile.lock(linked[0]),
    ):
        pass
    assert (linked[0] / "lock").read_text() == "17"
    with lockfile.lock(linked[0]):
        pass


def test_a_lock_that_another_process_has_opened_meanwhile_is_left_to_it_on_windows(tmp_path, open_files_stay):
    with lockfile.lock(tmp_path) as held:
        held.remove = True
        other = open(tmp_path / "lock", encoding="utf-8")  # noqa: SIM115
    with other:
        assert (tmp_path / "lock").exists()
    with lockfile.lock(tmp_path) as held:
        held.remove = True
    assert not (tmp_path / "lock").exists()


def test_waiting_on_windows(tmp_path, windows, monkeypatch):
    """It tries again until the other lets go, and stands where it stood in the file."""
    first, second = two(tmp_path / "lock")
    with first, second:
        second.write("12")
        second.flush()
        assert system.lock(first)
        monkeypatch.setattr(system.time, "sleep", lambda _: windows.held.clear() if windows.tries > 3 else None)
        assert system.lock(second, wait=True)
        assert windows.tries == 5
        second.write("3")
        second.seek(0)
        assert second.read() == "123"


def test_a_lock_moves_nobodys_place_in_the_file(tmp_path, windows):
    (tmp_path / "lock").write_bytes(b"ab")
    with open(tmp_path / "lock", "rb+", buffering=0) as file:
        assert file.read(1) == b"a"
        assert system.lock(file)
        assert file.read(1) == b"b"


def test_a_file_whose_name_is_gone_already_is_closed(tmp_path):
    with open(tmp_path / "lock", "w") as file:
        (tmp_path / "lock").unlink()
        system.remove_open(file, tmp_path / "lock")
        assert file.closed


def test_what_is_synced(tmp_path, windows, monkeypatch):
    """Windows opens no directory, and syncs a file only where it may write to it."""
    opened, real = [], os.open
    monkeypatch.setattr(
        system.os, "open", lambda path, flags: opened.append((Path(path).name, flags)) or real(path, flags)
    )
    (tmp_path / "file").write_text("text")
    system.sync(tmp_path)
    system.sync(tmp_path / "file")
    assert opened == [("file", os.O_RDWR)]


def test_peak_memory_grows_with_what_is_held(tmp_path):
    """In bytes: 64 MiB more are 64 MiB more."""
    grow = "a = peak_memory(); b = bytearray(1 << 26); b[::4096] = b'1' * len(b[::4096]); print(peak_memory() - a)"
    code = f"from gpt.system import peak_memory; {grow}"
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.9 * 2**26 < grown < 1.5 * 2**26


def test_peak_memory_on_windows(windows, monkeypatch):
    class Kernel:
        class GetCurrentProcess:
            restype = None

            def __new__(cls):
                return 7

        class K32GetProcessMemoryInfo:
            def __new__(cls, process, address, size):
                counters = address._obj
                assert (process, size) == (7, counters.size)
                counters.peak = 123 << 20
                return size

    monkeypatch.setattr(system.ctypes, "windll", types.SimpleNamespace(kernel32=Kernel), raising=False)
    assert system.peak_memory() == 123 << 20
    assert system._Counters.peak.offset == 8  # after two DWORDs
    Kernel.K32GetProcessMemoryInfo = lambda *args: 0
    Kernel.K32GetProcessMemoryInfo.argtypes = None
    with pytest.raises(OSError, match="does not say"):
        system.peak_memory()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="its kernels have other names")
def test_doctor_says_what_the_environment_does_to_blas():
    """Started with the kernels of a CPU of 2008, it names those and the CPU's own; started clean, none."""
    own = dict(os.environ)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        own.pop(name, None)
    code = "from gpt.cli import doctor; print(*doctor.slower_kernels(), sep='|'); print(*doctor.processor()[2])"
    run = {"args": [sys.executable, "-c", code], "capture_output": True, "text": True, "check": True}
    first, threads, _ = subprocess.run(
        **run, env={**own, "OPENBLAS_CORETYPE": "Nehalem", "OMP_NUM_THREADS": "3"}
    ).stdout.split("\n")
    assert "but the environment sets Nehalem" in first
    assert threads.strip() == "threads 3, as OMP_NUM_THREADS says"
    assert subprocess.run(**run, env=own).stdout.startswith("\n")


@pytest.mark.parametrize(
    ("own", "said"), [("Haswell", []), ("SkylakeX", ["SkylakeX, but the environment sets Haswell"])]
)
def test_doctor_compares_kernels_with_those_of_a_clean_environment(monkeypatch, own, said):
    environments = []

    def run(command, env, **kwargs):
        environments.append(env)
        return subprocess.CompletedProcess(command, 0, f"{own}\n")

    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "1024")
    monkeypatch.setattr(doctor.machine, "blas", lambda: {"kernels": "Haswell"})
    monkeypatch.setattr(doctor.subprocess, "run", run)
    found = doctor.slower_kernels()
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))
    assert {name for name in os.environ if name not in environments[0]} == {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
    monkeypatch.setattr(doctor.machine, "blas", dict)  # not the OpenBLAS of NumPy's wheels
    assert doctor.slower_kernels() == []
    assert len(environments) == 1


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux")
def test_the_processor_has_the_name_that_linux_gives():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    assert doctor.cpu_name() in (names or {platform.processor(), platform.machine()})


def test_doctor_says_whether_several_processes_can_train(monkeypatch):
    monkeypatch.setattr(doctor.distributed, "launched", lambda: (1, 4, 1))
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    finding, advice = doctor.about_processes()
    assert finding == "this is process 1 of 4; one: mpi4py is not installed"
    assert advice.startswith("pip install 'tensorlite[mpi]'")
    monkeypatch.setattr(doctor, "installed", lambda name: "4.1")
    for code, output, expected in (
        (1, "", "one: mpi4py finds no MPI"),
        (0, "MPICH Version:  5.0\n", "by MPICH 5.0, start"),
    ):
        done = subprocess.CompletedProcess([], code, output)
        monkeypatch.setattr(doctor.subprocess, "run", lambda *args, done=done, **kwargs: done)
        assert expected in doctor.about_processes()[0]
    for launcher, expected in (
        ("/opt/mpiexec", "started by /opt/mpiexec"),
        (None, "started by srun, or by the mpiexec"),
    ):
        monkeypatch.setattr(doctor.shutil, "which", lambda *args, launcher=launcher, **kwargs: launcher)
        assert doctor.about_processes()[0].partition("5.0, ")[2].startswith(expected)
    for found, expected in ((True, "each with a GPU"), (False, "NCCL is missing")):
        monkeypatch.setattr(doctor.nccl, "available", lambda found=found: found)
        assert expected in doctor.about_nccl()[0]


@pytest.mark.slow
def test_doctor_asks_the_mpi_that_is_here():
    """In a process of its own and in two that mpiexec has started, whose children are none of theirs."""
    import several  # here: the process below that plays Windows imports this module

    launcher = several.mpiexec()
    code = "from gpt.cli import doctor; print(doctor.about_processes()[0])"
    environment = {**several.environment(), "PATH": f"{Path(launcher).parent}{os.pathsep}{os.environ['PATH']}"}
    said = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=240).stdout
        for command in ([sys.executable, "-c", code], [launcher, "-n", "2", sys.executable, "-c", code])
    ]
    about = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"Version: +(\S+)", about)
    if "HYDRA" not in about or not version:
        pytest.skip("knows how MPICH's mpiexec says its version")
    alone = f"several, by MPICH {version[1]}, started by {launcher}"
    assert said[0].splitlines() == [alone]
    assert sorted(said[1].splitlines()) == [f"this is process {rank} of 2; {alone}" for rank in range(2)]


def test_doctor_says_whether_there_is_bfloat16(monkeypatch):
    monkeypatch.setattr(doctor.onednn, "missing", lambda: "pip install it")
    assert ("bfloat16", "off", "pip install it") in doctor.processor()
    monkeypatch.setattr(doctor.onednn, "missing", lambda: "")
    assert ("bfloat16", "on request: gpt train --dtype bfloat16", "") in doctor.processor()


ELSEWHERE = """
    import asyncio, ctypes, os, subprocess, sys, types  # asyncio: since 3.13 it asks sysconf itself
    from rich.console import Console
    import numpy, matplotlib, tyro
    for name in ("sched_getaffinity", "getloadavg", "sysconf", "fork"):
        delattr(os, name)
    for name in ("fcntl", "resource", "pwd", "termios"):
        sys.modules[name] = None  # importing it fails
    sys.path[:0] = {tests!r}
    from test_system import Msvcrt
    sys.modules["msvcrt"] = Msvcrt()
    from gpt import system
    from gpt.cli import main as cli
    system.sys = types.SimpleNamespace(platform="win32")
    system._peak_on_windows = lambda: 1 << 20
    cli.main({args!r})
"""


@pytest.mark.slow
def test_training_without_what_windows_lacks(tmp_path):
    """A run from its beginning to its end, resumed, with nothing that only POSIX has."""
    start = ["train", "--text", str(write_text(tmp_path)), "--tokenizer", "char", "--n-layer", "1", "--n-embd", "8"]
    start += ["--n-head", "1", "--context-length", "8", "--steps", "3", "--sample-tokens", "3"]
    start += ["--out", str(tmp_path / "run")]
    here = Path(__file__).parent
    for args, last in ((start, 3), (["train", "--resume", str(tmp_path / "run"), "--steps", "5"], 5), (["doctor"], 5)):
        code = textwrap.dedent(ELSEWHERE.format(tests=[str(here), str(here.parent / "support")], args=args))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ONE_THREAD)
        assert (done.returncode, done.stderr) == (0, "")
        assert checkpoint.newest(tmp_path / "run")[0].step == last


COLLECT = """
    import builtins, os, signal, sys, types
    import pytest

    def without(module, names):
        found = types.ModuleType(module.__name__)
        vars(found).update({{name: value for name, value in vars(module).items() if name not in names}})
        return found

    missing = {{"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}}
    less = {{
        "os": without(os, {{"WNOHANG", "chown", "fork", "geteuid", "getloadavg", "getpgid", "getuid", "killpg",
                          "mkfifo", "mknod", "nice", "sched_getaffinity", "sched_setaffinity", "sched_yield",
                          "setsid", "statvfs", "sysconf", "uname", "wait"}}),
        "signal": without(signal, {{"ITIMER_PROF", "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE",
                                  "SIGPROF", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "alarm",
                                  "setitimer"}}),
    }}
    real, real_skip = builtins.__import__, pytest.importorskip

    def imports(name, globals=None, locals=None, fromlist=(), level=0):
        file = str((globals or {{}}).get("__file__"))
        if file.startswith({root!r}) and "site-packages" not in file:  # other packages know what to do on Windows
            if name in missing:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
            if name in less:
                return less[name]
        return real(name, globals, locals, fromlist, level)

    def importorskip(name, *args, **kwargs):
        if name in missing:
            pytest.skip(f"no {{name}}", allow_module_level=True)
        return real_skip(name, *args, **kwargs)

    builtins.__import__, pytest.importorskip = imports, importorskip
    sys.exit(pytest.main(["--collect-only", "-qq", "-n", "0", "-m", "", "-p", "no:cacheprovider", "tests"]))
"""


@pytest.mark.slow
def test_every_test_file_is_imported_without_what_windows_lacks():
    """Or skipped as a whole: one that cannot be imported would end the run."""
    root = Path(__file__).parents[3]
    code = textwrap.dedent(COLLECT.format(root=str(root)))
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, env=ONE_THREAD)
    errors = [line for line in done.stdout.splitlines() if line.startswith(("ERROR", "E  "))]
    assert (done.returncode, errors) == (0, []), done.stderr[-2000:]
    assert "tests/gpt/cli/test_system.py" in done.stdout
