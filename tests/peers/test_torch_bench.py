"""The benchmark's contestants compute the same: loss, gradients, tokens; and a duel, from one end to the other."""

import json
import math
from array import array

import pytest

import tensorlite as tl
from tensorlite import backend
from tensorlite.data import write_tokens
from tensorlite.kernels import precision

torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")
pytest.importorskip("transformers", reason="the peer of this test: pip install -e '.[peers]'")

from gpt.bench import __main__ as program  # noqa: E402
from gpt.bench import duel, ours, setup, theirs  # noqa: E402
from gpt.bench.setup import Job  # noqa: E402
from gpt.config import GPTConfig  # noqa: E402

SMALL = GPTConfig(vocab_size=31, context_length=16, n_layer=2, n_head=2, n_embd=16, qkv_bias=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Weights and tokens of a small configuration, and a process that stays as it is."""
    monkeypatch.setitem(setup.CONFIGS, "small", (SMALL, 3))
    monkeypatch.setattr(backend, "keep_freed_memory", lambda: "not asked for in a test")
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
