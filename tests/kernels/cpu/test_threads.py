"""Large ops run in parts on several threads: same numbers, whatever the number of threads."""

import os
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table import ROWS

import tensorlite as tl
from tensorlite import functional as F
from tensorlite import optim
from tensorlite.accelerate import storage
from tensorlite.devices import machine
from tensorlite.devices.workers import Worker
from tensorlite.kernels.cpu import attention, blocks, losses
from tensorlite.testing import smooth

FUSED = [row for row in ROWS if row.function in ("scaled_dot_product_attention", *F.__all__) and row.gradient]


@pytest.fixture
def threads():
    yield machine.set_threads
    machine.set_threads(1)


def results(rows: int) -> list[np.ndarray]:
    """The value and all gradients of a layer that is large enough to be split."""
    tl.manual_seed(1)
    shapes = (rows, 512), (768, 512), (768,)
    x, weight, bias = (tl.randn(*shape, dtype=tl.float64, requires_grad=True) for shape in shapes)
    out = F.gelu(F.linear(x, weight, bias))
    out.backward(tl.randn(rows, 768, dtype=tl.float64))
    return [t.numpy() for t in (out, x.grad, weight.grad, bias.grad)]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 15, 257])
@pytest.mark.parametrize("count", [2, 3])
def test_threads_change_no_number(threads, rows, count, monkeypatch):
    alone = results(rows)
    assert "1 thread" in threads(1) or "own threads" in threads(1)
    threads(count)
    split = []
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 20_000)
    begin = Worker.begin
    monkeypatch.setattr(Worker, "begin", lambda *args: split.append(args) or begin(*args))
    for got, expected in zip(results(rows), alone, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)
    assert split  # it did run in parts
    assert all(np.array_equal(a, b) for a, b in zip(results(rows), results(rows), strict=True))  # the same bits again


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW])
@pytest.mark.parametrize("block", [64, 1 << 17])
def test_an_optimizer_updates_the_same_in_parts(threads, monkeypatch, kind, block):
    def trained():
        rng = np.random.default_rng(0)
        shapes = (40, 30), (7,), (500,), (3,)
        params = [tl.tensor(rng.standard_normal(n).astype(np.float32), requires_grad=True) for n in shapes]
        optimizer = kind(params, lr=0.1, weight_decay=0.1)
        for _ in range(3):
            for p in params[:3]:
                p.grad = tl.tensor(rng.standard_normal(p.shape).astype(np.float32))
            optimizer.step(grad_scale=0.5)
        return [t.numpy() for t in (*params, *optimizer.state_dict()["tensors"].values())]

    alone = trained()
    monkeypatch.setattr(machine, "WORTH_SPLITTING", -1)
    monkeypatch.setattr(storage, "BLOCK", block)
    threads(3)
    for got, expected in zip(trained(), alone, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.fixture
def small_pieces():
    """Every block, tile and part as small as it can be, and two threads for them: what large inputs meet."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (blocks, "BLOCK", 2), (attention, "TILE_SCORES", 2), (attention, "TILE_QUERIES", 1),
            (attention, "FEW_SCORES", 0), (losses, "MIN_CLASSES", 1),
            (machine, "WORTH_SPLITTING", -1),
        ):  # fmt: skip
            patch.setattr(module, name, value)
        machine.set_threads(2)
        yield
        machine.set_threads(1)


@pytest.mark.slow
@pytest.mark.parametrize("row", FUSED, ids=str)
def test_the_size_of_blocks_changes_no_number(row, small_pieces):
    @given(data=st.data())
    def check(data):
        shapes, meta = data.draw(row.inputs)
        xs = data.draw(smooth(*shapes, **row.domain))
        tensors = [tl.Tensor(x, requires_grad=True) for x in xs]
        out = row.op(*tensors, **meta)
        np.testing.assert_allclose(out.data, row.value(*xs, **meta), rtol=1e-9, atol=1e-9)
        g = np.random.default_rng(out.size).normal(size=out.shape)
        for gradient, expected in zip(tl.grad(out, tensors, g), row.gradient(g, *xs, **meta), strict=True):
            np.testing.assert_allclose(gradient.data, expected, rtol=1e-9, atol=1e-9)

    check()


@given(n=st.integers(1, 40), count=st.integers(2, 5), late=st.sampled_from([0.0, 0.15, 0.5, 0.99, 2.0]))
def test_who_begins_later_gets_less_and_all_is_done_once(n, count, late):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "WORTH_SPLITTING", 0)
        patch.setattr(machine, "HAND_OVER", late * 1000)
        machine.set_threads(count)
        parts = machine.in_parts(lambda part: part, n, 1000.0)
        machine.set_threads(1)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
    _, *others = [part.stop - part.start for part in parts]
    count = min(count, n)  # no more parts than pieces of work
    each = n * (1 - late if late < 1 else 1) / count  # work that takes no longer than the hand-over: even parts
    assert len(others) == count - 1
    assert all(abs(size - each) <= 1 for size in others)


def test_a_failure_in_a_part_is_raised(threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 0)

    def fail(part):
        if part.start:
            raise ValueError("in the second part")

    with pytest.raises(ValueError, match="second part"):
        machine.in_parts(fail, 10, 1.0)


def test_a_failure_waits_for_the_other_parts(threads, monkeypatch):
    """Or the others would go on writing to arrays that somebody else has by then."""
    threads(2)
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 0)
    ended = []

    def fail(part):
        if not part.start:
            raise ValueError("in the first part")
        time.sleep(0.1)
        ended.append(part)

    with pytest.raises(ValueError, match="first part"):
        machine.in_parts(fail, 10, 1.0)
    assert ended == [slice(5, 10)]
    assert machine.in_parts(lambda part: part, 10, 1.0) == [slice(0, 5), slice(5, 10)]


def test_parts_of_parts_and_programs_with_threads_of_their_own(threads, monkeypatch):
    """Whoever finds the workers taken does the work himself: nobody waits for himself, or for others."""
    threads(3)
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 0)
    one = machine.in_parts(lambda part: [part.start], 6, 1.0)
    expected = [[[0], [2], [4]] for _ in range(3)]
    assert (one, machine.in_parts(lambda _: machine.in_parts(lambda part: [part.start], 6, 1.0), 6, 1.0)) == (
        [[0], [2], [4]],
        expected,
    )
    found = []

    def ask():
        for _ in range(200):
            found.append(machine.in_parts(lambda part: [part.start], 6, 1.0))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert found == [one] * 800


def test_a_worker_keeps_nothing_of_what_it_did(threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 0)
    array = np.zeros(4)
    gone = weakref.ref(array)
    machine.in_parts(lambda part, array=array: array[part].sum(), 4, 1.0)
    del array
    for _ in range(100):
        if gone() is None:
            break
        time.sleep(0.01)  # the worker may still be on its way out of the function
    assert gone() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_copy_starts_workers_of_its_own(threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 0)
    names = lambda part: threading.current_thread().name  # noqa: E731
    assert machine.in_parts(names, 10, 1.0) == ["MainThread", "tensorlite"]
    child = os.fork()
    if not child:
        right = machine.in_parts(names, 10, 1.0) == ["MainThread", "tensorlite"] and len(machine._workers) == 1
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0


# ----- how many: a setting of the machine, never its load ---------------------------------------------------------


@pytest.fixture
def no_variable(monkeypatch):
    for name in machine.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.finding("B13")
@pytest.mark.usefixtures("no_variable")
def test_the_load_average_is_never_asked_for(monkeypatch):
    def refused():
        raise AssertionError("the load average was asked for")

    expected = machine.default_threads()
    monkeypatch.setattr(os, "getloadavg", refused, raising=False)
    assert machine.default_threads() == expected == machine.usable_cores() >= 1


@pytest.mark.finding("B13")
@pytest.mark.usefixtures("no_variable")
@pytest.mark.parametrize(
    ("openblas", "omp", "threads"),
    [
        ("7", None, 7), (None, "5", 5), ("7", "5", 7), ("0", "5", 5), ("", "5", 5), ("many", "5", 5), (None, "4,2", 4),
        (None, " 3 ", 3), ("-1", None, None), ("\N{SUPERSCRIPT TWO}", None, None), (None, None, None),
    ],
)  # fmt: skip
def test_the_users_own_setting_wins(monkeypatch, openblas, omp, threads):
    """A value that is no number above 0 counts as unset, as OpenBLAS takes it; OMP_NUM_THREADS may be a list."""
    for name, value in zip(machine.THREAD_VARIABLES, (openblas, omp), strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert machine.default_threads() == (threads or machine.usable_cores())
    assert (machine.given_threads() is None) == (threads is None)


@pytest.mark.finding("B13")
@pytest.mark.usefixtures("no_variable")
@pytest.mark.parametrize(
    ("cores", "quota", "threads"), [(8, 3.0, 3), (8, 2.9, 2), (8, 0.5, 1), (8, float("inf"), 8), (2, 16.0, 2)]
)
def test_cores_are_limited_by_the_containers_quota(monkeypatch, cores, quota, threads):
    monkeypatch.setattr(os, "process_cpu_count", lambda: cores, raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.default_threads() == machine.usable_cores() == threads


@pytest.mark.finding("B13")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity mask")
@pytest.mark.usefixtures("no_variable")
def test_cores_are_those_of_the_affinity_mask(monkeypatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: float("inf"))
    before = os.sched_getaffinity(0)
    assert machine.usable_cores() == len(before)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert machine.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


QUOTAS = [  # /proc/self/cgroup, the files of the control groups, the quota
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/\n", {}, None),
    ("0::/pod/box\n", {"pod/cpu.max": "400000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 4.0),
    ("0::/pod/box\n", {"pod/cpu.max": "400000 100000\n", "pod/box/cpu.max": "50000 50000\n"}, 1.0),
    ("0::/host/path\n", {"cpu.max": "200000 100000\n"}, 2.0),  # only the container's own group is mounted
    ("0::/../..\n", {"cpu.max": "200000 100000\n"}, 2.0),
    ("4:cpu,cpuacct:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
    ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "50000\n"}, 2.0),
    ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ("5:memory:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    (None, {"cpu.max": "100000 100000\n"}, None),  # not Linux
]


@pytest.mark.finding("B13")
@pytest.mark.parametrize(("membership", "files", "quota"), QUOTAS)
def test_a_containers_cpu_quota(tmp_path, membership, files, quota):
    if membership is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(membership)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert machine.cpu_quota(tmp_path) == (float("inf") if quota is None else quota)


def test_fewer_than_one_thread_is_refused(threads):
    threads(2)
    with pytest.raises(ValueError, match="threads must be an integer from 1 to 1,024, got 0"):
        threads(0)
    assert machine.threads() == 2


@pytest.mark.parametrize(
    ("name", "variable"), [("accelerate", "VECLIB_MAXIMUM_THREADS"), ("mkl-sdl", "OMP_NUM_THREADS")]
)
def test_a_blas_that_takes_no_number_of_threads_is_named(monkeypatch, name, variable):
    """As on macOS, whose wheels have Accelerate: it is left alone, and the sentence says who sets its threads."""
    monkeypatch.setattr(machine, "_openblas", lambda: None)
    monkeypatch.setattr(machine, "blas", lambda: {"name": name, "version": "1"})
    said = machine.set_threads(2)
    assert name in said
    assert said.endswith(variable)
    assert machine._threads == 1


def test_variables_that_slow_openblas_down_are_named(monkeypatch):
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert machine.blas_environment() == []
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        monkeypatch.setenv(name, "Haswell")
        assert name in machine.blas_environment()[-1]


def test_threads_that_the_system_does_not_start_are_a_sentence_and_change_nothing(threads, monkeypatch):
    def refuses(*_):
        raise RuntimeError("can't start new thread")

    threads(1)
    monkeypatch.setattr(machine, "Worker", refuses)
    monkeypatch.setattr(machine, "_workers", [])
    with pytest.raises(RuntimeError, match="the system starts no 3 threads: set a smaller number of threads"):
        threads(3)
    assert machine.threads() == 1
    with pytest.raises(ValueError, match="threads must be an integer from 1 to 1,024, got 100000"):
        threads(100_000)
