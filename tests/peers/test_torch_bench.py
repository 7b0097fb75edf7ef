"""The benchmark's contestants compute the same: loss, gradients, tokens; and a duel, from one end to the other."""

import json
import math
from array import array
from types import SimpleNamespace

import pytest

import tensorlite as tl
from tensorlite.data import write_tokens
from tensorlite.devices import machine
from tensorlite.kernels import precision

torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")
pytest.importorskip("transformers", reason="the peer of this test: pip install -e '.[peers]'")

from examples.benchmarks import __main__ as program  # noqa: E402
from examples.benchmarks import duel, gpu, ours, ours_gpu, setup, theirs, theirs_gpu, worker  # noqa: E402
from examples.benchmarks.setup import Job  # noqa: E402
from gpt.config import GPTConfig  # noqa: E402

SMALL = GPTConfig(vocab_size=31, context_length=16, n_layer=2, n_head=2, n_embd=16, qkv_bias=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Weights and tokens of a small configuration, and a process that stays as it is."""
    monkeypatch.setitem(setup.CONFIGS, "small", (SMALL, 3))
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: "not asked for in a test")
    duel.prepare(tmp_path, "small")
    yield str(tmp_path)
    precision.set_matmul_dtype("float32")


def test_the_training_steps_are_the_same(folder, tmp_path):
    """The first gradients, and the losses of the steps after them, which see clipping, decay and both averages."""
    mine, peer = (
        side.Train(Job("train", who, "small", 1, folder))
        for side, who in ((ours, "tensorlite"), (theirs, "torch-fp32"))
    )
    first, again = mine.answers(), peer.answers()
    assert first.keys() == again.keys()
    tl.io.save(tmp_path / "first", first)
    tl.io.save(tmp_path / "again", {name: tl.tensor(x.tolist()) for name, x in again.items()})
    assert duel.agree(str(tmp_path / "first"), str(tmp_path / "again"), 1e-4) < 1e-5
    assert first["loss"].item() == pytest.approx(math.log(31), rel=0.05)
    mine.run(12)
    peer.run(12)
    last, again = mine.answers(), peer.answers()
    assert last["loss"].item() == pytest.approx(again["loss"].item(), rel=1e-4)
    assert last["loss"].item() < 0.95 * first["loss"].item()
    assert mine.products(1) > 0 < peer.products(1)


@pytest.mark.parametrize("batch", [1, 8])
def test_the_texts_are_the_same(folder, batch):
    mine, peer = (
        side.Decode(Job("decode", who, "small", 1, folder, batch=batch))
        for side, who in ((ours, "tensorlite"), (theirs, "transformers-fp32"))
    )
    found = mine.answers()["tokens"]
    assert found.shape == (9, batch)
    assert found.tolist() == peer.answers()["tokens"].tolist()


def test_both_learn_by_the_recipe(folder, tmp_path):
    """From about log V down, on a text that repeats itself."""
    ids = list(range(20)) * 40
    for part in ("train", "validation"):
        write_tokens(tmp_path / f"{part}.tokens", [ids], 20)
        (tmp_path / f"{part}.bin").write_bytes(array("H", ids).tobytes())
    for side, who in ((ours, "tensorlite"), (theirs, "torch-fp32")):
        player = side.Recipe(Job("recipe", who, "recipe", 1, folder, vocab_size=20))
        before = player.evaluate()
        assert before == pytest.approx(math.log(20), rel=0.15)
        player.run(30)
        assert player.evaluate() < before - 0.3
    schedules = [
        [theirs.schedule(step, **setup.SCHEDULE), tl.optim.warmup_cosine(step, **setup.SCHEDULE)]
        for step in (0, 50, 100, 700, 1999)
    ]
    assert all(a == pytest.approx(b, rel=1e-9) for a, b in schedules)


def test_small_ops_agree(folder):
    for op in setup.SMALL_OPS:
        mine, peer = (
            side.SmallOp(Job("overhead", who, op, 1, folder))
            for side, who in ((ours, "tensorlite"), (theirs, "torch-fp32"))
        )
        mine.run(1)
        peer.run(1)
        for a, b in ((mine.x.grad, peer.x.grad), (mine.y.grad, peer.y.grad)):
            assert (a is None) == (b is None), op
            assert a is None or a.tolist() == pytest.approx(b.tolist(), rel=1e-6), op


def test_who_differs_is_not_timed(folder, tmp_path):
    mine, peer = tmp_path / "mine", tmp_path / "peer"
    tl.io.save(mine, {"loss": tl.tensor(3.0), "weight": tl.tensor([1.0, 2.0])})
    tl.io.save(peer, {"loss": tl.tensor(3.0), "weight": tl.tensor([1.0, 2.01])})
    with pytest.raises(duel.Failed, match=r"weight by 4\.\de-03, more than 1e-04: nothing was timed"):
        duel.agree(str(mine), str(peer), 1e-4)
    assert duel.agree(str(mine), str(peer), 0.1) == pytest.approx(0.01 / math.sqrt(5), rel=1e-3)


def test_a_duel_from_end_to_end(monkeypatch, tmp_path):
    monkeypatch.setattr(setup, "SMALL_OPS", ("x * y",))
    path = tmp_path / "found.json"
    program.main(["--tasks", "overhead", "--turns", "1", "--seconds", "0.01", "--json", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    assert row["our_us"] > 0
    assert row["their_us"] > 0
    assert row["machine"]["torch"] == torch.__version__


def test_the_recipe_from_end_to_end(monkeypatch, tmp_path):
    """A turn of it: a target that everybody meets is met at the first look."""
    monkeypatch.setitem(setup.SCHEDULE, "total", 50)
    text, path = tmp_path / "text.txt", tmp_path / "found.json"
    text.write_text("to be or not to be, that is the question\n" * 60)
    program.main(
        ["--time-to", "2.9", "--text", str(text), "--peers", "torch-fp32", "--threads", "1", "--json", str(path)]
    )
    (row,) = json.loads(path.read_text())["rows"]
    for side in ("our", "their"):
        ((step, seconds, loss),) = row[f"{side}_curve"]
        assert step == 50
        assert loss == row[f"{side}_loss_at_last"] < 2.9
        assert seconds == row[f"{side}_seconds"] == row[f"{side}_seconds_in_all"]
    assert row["times_as_fast"] == row["their_seconds"] / row["our_seconds"]


# ----- the sides of a GPU's bouts, on the CPU -------------------------------------------------------------------------

UNTIED = GPTConfig(vocab_size=31, context_length=16, n_layer=2, n_head=2, n_embd=16, tie_head=False, init="torch")


@pytest.fixture
def on_cpu(folder, tmp_path, monkeypatch):
    """What a GPU's contestants do, done here: a function that makes one's Job."""
    for name, config in (("small", SMALL), ("untied", UNTIED)):
        monkeypatch.setitem(setup.GPU_CONFIGS, name, (config, 3))
    monkeypatch.setattr(setup, "GPU", "cpu")
    monkeypatch.setattr(theirs_gpu, "PAD", 32)
    monkeypatch.setattr(gpu, "used", lambda: 5 << 20)

    def job(task: str, who: str, config: str = "small", **more) -> Job:
        duel.prepare(tmp_path, config, "cuda")
        return Job(task, who, config, 1, folder, device="cuda", **more)

    return job


def largest(mine, peers, tmp_path, tolerance: float) -> float:
    """`duel.agree`, of answers that lie in this process."""
    tl.io.save(tmp_path / "mine", mine)
    tl.io.save(tmp_path / "peers", {name: tl.tensor(x.tolist()) for name, x in peers.items()})
    assert mine.keys() == peers.keys()
    return duel.agree(str(tmp_path / "mine"), str(tmp_path / "peers"), tolerance)


@pytest.mark.parametrize("config", ["small", "untied"])
def test_a_gpus_training_steps_are_the_same(on_cpu, tmp_path, config):
    """In float32 to rounding; with torch's products in bfloat16 and its padded vocabulary nearly."""
    mine = ours_gpu.Train(on_cpu("train", "tensorlite", config))
    peer = theirs_gpu.Train(on_cpu("train", "torch-fp32", config))
    half = theirs_gpu.Train(on_cpu("train", "torch-bf16", config))
    first = mine.answers()
    assert largest(first, peer.answers(), tmp_path, 1e-4) < 1e-5
    shapes = {name: value.shape for name, value in half.net.named_parameters()}
    assert shapes["token_embedding.weight" if config == "small" else "head.weight"] == (32, 16)
    assert largest(first, half.answers(), tmp_path, 0.1) > 1e-3
    for player in (mine, peer):
        player.forget()
        assert player.run(12) > 0
        assert player.peak() == 0
    last = mine.answers()
    assert largest(last, peer.answers(), tmp_path, 1e-3) < 1e-3
    assert last["loss"].item() < 0.95 * first["loss"].item()


def replayed(step):
    """theirs_gpu.recorded without a GPU: it warms up, and then its results are where they were."""
    for _ in range(3):
        found = step()
    return SimpleNamespace(replay=lambda: [old.copy_(new) for old, new in zip(found, step(), strict=True)]), found


@pytest.mark.parametrize("batch", [1, 3])
def test_a_gpus_texts_are_the_same(on_cpu, tmp_path, batch, monkeypatch):
    monkeypatch.setattr(theirs_gpu, "recorded", replayed)
    job = on_cpu("decode", "tensorlite", batch=batch)
    mine = ours_gpu.Decode(job)
    mine.run(1)
    for who in ("transformers-fp32", "torch-fp32", "torch-fp32-graph"):
        peer = theirs_gpu.decode(on_cpu("decode", who, batch=batch))
        assert largest(mine.answers(), peer.answers(), tmp_path, 1e-4) < 1e-5
        assert peer.run(1) > 0
        assert peer.texts == mine.texts
        assert [len(peer.texts), len(peer.texts[0])] == [3, batch]


class Here(duel.Player):
    """A player in this process."""

    def __init__(self, job):
        self.who, self.contestant, self.job = job.who, None, job

    def answer(self):
        return "ready"

    def ask(self, *words):
        if "broken" in self.who:
            raise duel.Failed("it is broken")
        if self.contestant is None:
            module = {"ours_gpu": ours_gpu, "theirs_gpu": theirs_gpu}[worker.side(self.job)]
            self.contestant = module.TASKS[self.job.task](self.job)
        return worker.obey(self.contestant, self.job, *map(str, words))

    def close(self):
        self.contestant = None


def test_a_bout_from_end_to_end(on_cpu, monkeypatch, tmp_path):
    """Two peers meet us at once, and one that fails keeps nobody from it."""
    on_cpu("train", "tensorlite")
    monkeypatch.setattr(gpu, "Player", Here)
    monkeypatch.setitem(setup.GPU_OPTIONS, "torch", {"fp32", "compile", "broken"})
    monkeypatch.setattr(torch, "compile", lambda f: f)
    monkeypatch.setattr(gpu, "smi", lambda: {"gpu": "NVIDIA H200", "driver": "580"})
    path = tmp_path / "found.json"
    flags = ["--device", "cuda", "--configs", "small", "--turns", "2", "--seconds", "0.01", "--json", str(path)]
    program.main([*flags, "--peers", "torch-fp32-compile,torch-fp32-broken,torch-fp32", "--tasks", "train"])
    rows = json.loads(path.read_text())["rows"]
    assert [row.get("failed") for row in rows] == [None, "it is broken", None]
    assert rows[0]["our_ms_all"] == rows[2]["our_ms_all"]
    assert rows[0]["their_difference"] < 1e-5
    assert rows[0]["our_tokens_s"] == pytest.approx(3 * 16 * 1e3 / rows[0]["our_ms"])
    program.main([*flags, "--peers", "transformers-fp32", "--tasks", "decode"])
    text = path.with_suffix(".md").read_text()
    assert text.count("###") == 2
    assert text.count("| small |") == 5
    assert "NVIDIA H200, driver 580" in text
