"""Labels on a CPU, where threads divide the texts and the blocks compute no more than is read: as the whole model's."""

import threading
import time

import numpy as np
import pytest

import tensorlite as tl
from gpt import fast, lora
from gpt.attention import MultiHeadAttention
from gpt.config import GPTConfig
from gpt.fast import classify
from gpt.model import Block, inference_mode
from gpt.tasks.classify import inference
from gpt.tasks.classify.batches import Padding, Row
from gpt.tasks.classify.model import Classifier
from tensorlite import backend
from tensorlite.devices import machine
from tensorlite.testing.strict import strict

IDS = [[3, 1, 4, 1, 5, 9], [2, 6, 0, 0, 0, 0], [5, 3, 5, 0, 0, 0], [8, 0, 0, 0, 0, 0], [7, 9, 3, 2, 3, 0]]
LENGTHS = [6, 2, 3, 1, 5]


def model(position="last", **changes):
    tl.manual_seed(3)
    shape = {"vocab_size": 11, "context_length": 8, "n_layer": 2, "n_head": 2, "n_embd": 12, **changes}
    return Classifier(GPTConfig(**shape), 3, position)


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 0)
    yield machine.set_threads
    machine.set_threads(1)


@pytest.fixture
def blocks(monkeypatch):
    """The length of the texts in each call of a block."""
    found, forward = [], Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, x, cache=None: found.append(x.shape[1]) or forward(self, x))
    return found


@pytest.mark.parametrize("position", ["first", "last", "last-real"])
@pytest.mark.parametrize("changes", [{}, {"causal": False}, {"n_layer": 1}, {"qkv_bias": True, "init": "torch"}])
@pytest.mark.parametrize("padded", [5, 6, 7, 8])
def test_the_logits_are_those_of_the_whole_model(blocks, position, changes, padded):
    net = model(position, **changes).to(tl.float64).eval()
    lora.apply(net, rank=2, alpha=4)
    for p in net.parameters():
        p.data[...] += 0.1  # LoRA's matrices begin with 0
    idx = tl.tensor([[*ids, 0, 0][:padded] for ids in IDS])
    with inference_mode(net):
        ours = classify.logits(net, idx, [*LENGTHS[1:], 5]).numpy()
        assert len(blocks) == max(0, len(net.body.blocks) - 2)  # neither the first nor the last as a whole
        whole = net(idx, [*LENGTHS[1:], 5]).numpy()
    np.testing.assert_allclose(ours, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("ids", "end"), [
    ([[1, 2, 3], [1, 2, 3]], 0), ([[1, 2, 3], [2, 2, 3]], 1), ([[1, 2, 3], [1, 2, 4]], 3), ([[1, 2, 3]], 0),
    ([[5, 0, 0, 0], [6, 7, 0, 0], [8, 0, 0, 0]], 2), ([[1, 2], [1, 2], [1, 3]], 2),
])  # fmt: skip
def test_what_all_texts_end_with_is_projected_for_one_of_them(monkeypatch, ids, end):
    """As the longest text of a batch is often short, this is most of the first block's projections."""
    net, projected, project = model(), [], MultiHeadAttention.project
    monkeypatch.setattr(
        MultiHeadAttention, "project", lambda self, x: projected.append(x.shape[:2]) or project(self, x)
    )
    with inference_mode(net):
        classify.logits(net, tl.tensor(ids), [1] * len(ids))
    tail = len(ids[0]) - end
    assert projected == [(len(ids), end)] + [(1, tail)] * (tail > 0)


# ----- over threads


def rows_of(ids):
    return [Row(row[:n], 0) for row, n in zip(ids, LENGTHS, strict=True)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("position", ["last", "last-real", "mean"])
def test_threads_compute_what_one_computes(threads, count, position):
    net, padding = model(position).to(tl.float64).eval(), Padding(0, 8, position == "last")
    rows = rows_of(IDS)
    batches = [rows[:2], rows[2:], rows[1:], rows[4:], rows]
    alone = [inference.probabilities(net, padding, [row])[0] for batch in batches for row in batch]
    threads(count)
    found = classify.in_batches(net, padding, batches)
    np.testing.assert_allclose(found, alone, rtol=1e-9)


def test_fewer_texts_than_threads_are_divided_too(threads, monkeypatch):
    threads(4)
    net, found, real = model(), [], inference.probabilities
    monkeypatch.setattr(classify, "probabilities", lambda *args: found.append(len(args[2])) or real(*args))
    assert len(classify.in_batches(net, Padding(0, 8, True), [rows_of(IDS)[:3], rows_of(IDS)[:1]])) == 4
    assert found == [1, 1, 1, 1]


@pytest.mark.parametrize("matters", [True, False])
@pytest.mark.parametrize("times", [1, 1.001])
def test_batches_are_divided_where_the_products_of_all_their_tokens_take_long_enough(
    threads, monkeypatch, times, matters
):
    threads(2)
    net, found, real = model(n_layer=3), [], inference.probabilities
    monkeypatch.setattr(classify, "probabilities", lambda *args: found.append(len(args[2])) or real(*args))
    tokens = len(IDS) * (8 if matters else 6)
    products = tokens * sum(p.size for p in net.body.blocks.parameters())
    monkeypatch.setattr(machine, "WORTH_SPLITTING", times * machine.product_time(products))
    assert len(classify.in_batches(net, Padding(0, 8, matters), [rows_of(IDS)])) == len(IDS)
    assert sorted(found) == ([2, 3] if times == 1 else [])


def test_a_thread_that_is_done_takes_the_next_part(threads, monkeypatch):
    """One thread is held at its first part until the other one has computed the rest."""
    threads(2)
    net, padding, real, by = model(), Padding(0, 8, True), inference.probabilities, []
    rest = threading.Semaphore(0)

    def held(*args):
        by.append(threading.current_thread())
        if by[-1] is by[0]:
            for _ in range(5):
                assert rest.acquire(timeout=60)
        found = real(*args)
        if by[-1] is not by[0]:
            rest.release()
        return found

    monkeypatch.setattr(classify, "probabilities", held)
    assert len(classify.in_batches(net, padding, [rows_of(IDS)[:2]] * 3)) == 6
    assert len(set(by)) == 2


@pytest.mark.parametrize("thread", [0, 1])
def test_after_an_error_the_other_threads_end_soon(threads, monkeypatch, thread):
    """As Ctrl-C is an error of the main thread."""
    threads(2)
    began, both = [], threading.Barrier(2, timeout=60)

    def probabilities(net, padding, rows):
        began.append(rows)
        if len(began) <= 2:
            both.wait()
        if thread == (threading.current_thread() is not threading.main_thread()):
            raise KeyboardInterrupt
        time.sleep(0.02)
        return [[1.0]] * len(rows)

    monkeypatch.setattr(classify, "probabilities", probabilities)
    with pytest.raises(KeyboardInterrupt):
        classify.in_batches(model(), Padding(0, 8, True), [rows_of(IDS)[:2]] * 100)
    assert len(began) < 200


@pytest.mark.parametrize("lengths", [[6, 5], [5, 5], [6, 6]])
def test_what_follows_a_text_is_not_read(lengths):
    net, rows = model("last-real").to(tl.float64).eval(), slice(0, 2)
    with inference_mode(net):
        ours = classify.logits(net, tl.tensor(IDS[rows]), lengths).numpy()
        for logits, ids, n in zip(ours, IDS, lengths, strict=False):
            np.testing.assert_allclose(logits, net(tl.tensor([ids[:n]]), [n]).numpy()[0], rtol=1e-9)


def test_it_is_for_models_on_the_cpu(monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    net, calls = model(), []
    monkeypatch.setattr(classify, "divided", lambda batch, count, *rest: calls.append(count) or [batch])
    for device in ("cpu", "strict"):
        machine.set_threads(3)
        try:
            assert classify.supports(net.to(device)) == (device == "cpu")
            classify.in_batches(net, Padding(0, 8, True), [rows_of(IDS)])
        finally:
            machine.set_threads(1)
    assert calls == [3, 1]


def test_other_models_are_computed_as_they_are(blocks):
    class Own(Block):
        def forward(self, x, cache=None):
            return 2 * super().forward(x, cache)

    mean = model("mean")
    others = [mean]
    for i in (0, 1):
        own, patched = model(), model()
        own.body.blocks[i] = Own(own.body.config)
        vars(patched.body.blocks[i])["forward"] = lambda x, cache=None: 3 * x
        others += [own, patched]
    for net in others:
        with inference_mode(net):
            found = classify.logits(net.eval(), tl.tensor(IDS), LENGTHS).numpy()
            np.testing.assert_array_equal(found, net(tl.tensor(IDS), LENGTHS).numpy())


def test_it_is_attached(monkeypatch, blocks):
    for name in ("logits", "in_batches"):
        monkeypatch.setattr(inference, name, getattr(inference, name))
    fast.attach_classify()
    assert inference.in_batches is classify.in_batches
    net, padding = model(n_layer=3), Padding(0, 6, True)
    found = inference.probabilities(net, padding, rows_of(IDS))
    assert len(blocks) == 1
    with inference_mode(net):
        logits = net(tl.tensor(IDS), LENGTHS).numpy().astype(np.float64)
    right = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, right, rtol=1e-4)


def test_a_text_that_does_not_fit_the_context_is_refused():
    with pytest.raises(ValueError, match="9 positions does not fit a context_length of 8"):
        classify.logits(model().eval(), tl.zeros((1, 9), dtype=tl.int64), [9])
