"""Labels where only the position that is read is computed in the last block: those of the whole model."""

import numpy as np
import pytest

import tensorlite as tl
from gpt import fast, lora
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


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("position", ["first", "last", "last-real"])
@pytest.mark.parametrize("changes", [{}, {"causal": False}, {"n_layer": 1}, {"qkv_bias": True, "init": "torch"}])
def test_the_logits_are_those_of_the_whole_model(threads, blocks, count, position, changes):
    threads(count)
    net = model(position, **changes).to(tl.float64).eval()
    lora.apply(net, rank=2, alpha=4)
    for p in net.parameters():
        p.data[...] += 0.1  # LoRA's matrices begin with 0
    with inference_mode(net):
        ours = classify.logits(net, tl.tensor(IDS), LENGTHS).numpy()
        n_layer = len(net.body.blocks)
        assert len(blocks) == count * (n_layer - 1)  # each thread, all blocks but the last
        whole = net(tl.tensor(IDS), LENGTHS).numpy()
    np.testing.assert_allclose(ours, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("times", [1, 1.001])
def test_threads_divide_the_texts_where_the_products_of_all_their_tokens_take_long_enough(threads, monkeypatch, times):
    threads(2)
    net, forward, found = model(n_layer=3), Block.forward, []
    monkeypatch.setattr(Block, "forward", lambda self, x, cache=None: found.append(len(x)) or forward(self, x))
    products = len(IDS) * len(IDS[0]) * sum(p.size for p in net.body.blocks.parameters())
    monkeypatch.setattr(machine, "WORTH_SPLITTING", times * machine.product_time(products))
    with inference_mode(net):
        classify.logits(net, tl.tensor(IDS), LENGTHS)
    assert sorted(found) == ([2, 2, 3, 3] if times == 1 else [5, 5])


@pytest.mark.parametrize("lengths", [[6, 5], [5, 5], [6, 6]])
def test_what_follows_a_text_is_not_read(lengths):
    net, rows = model("last-real").to(tl.float64).eval(), slice(0, 2)
    with inference_mode(net):
        ours = classify.logits(net, tl.tensor(IDS[rows]), lengths).numpy()
        for logits, ids, n in zip(ours, IDS, lengths, strict=False):
            np.testing.assert_allclose(logits, net(tl.tensor([ids[:n]]), [n]).numpy()[0], rtol=1e-9)


def test_it_is_for_models_on_the_cpu(monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    net = model()
    assert classify.supports(net)
    assert not classify.supports(net.to("strict"))


def test_other_models_are_computed_as_they_are(blocks):
    class Own(Block):
        def forward(self, x, cache=None):
            return 2 * super().forward(x, cache)

    mean = model("mean")
    own = model()
    own.body.blocks[1] = Own(own.body.config)
    patched = model()
    vars(patched.body.blocks[1])["forward"] = lambda x, cache=None: 3 * x
    for net in (mean, own, patched):
        with inference_mode(net):
            found = classify.logits(net.eval(), tl.tensor(IDS), LENGTHS).numpy()
            np.testing.assert_array_equal(found, net(tl.tensor(IDS), LENGTHS).numpy())


def test_it_is_attached(monkeypatch, blocks):
    monkeypatch.setattr(inference, "logits", inference.logits)
    fast.attach_classify()
    net, padding = model(), Padding(0, 6, True)
    rows = [Row(ids[:n], 0) for ids, n in zip(IDS, LENGTHS, strict=True)]
    found = inference.probabilities(net, padding, rows)
    assert len(blocks) == 1
    with inference_mode(net):
        logits = net(tl.tensor(IDS), LENGTHS).numpy().astype(np.float64)
    right = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, right, rtol=1e-4)


def test_a_text_that_does_not_fit_the_context_is_refused():
    with pytest.raises(ValueError, match="9 positions does not fit a context_length of 8"):
        classify.logits(model().eval(), tl.zeros((1, 9), dtype=tl.int64), [9])
