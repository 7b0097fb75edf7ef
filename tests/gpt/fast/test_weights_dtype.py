"""`--dtype bfloat16` and `int8` on a CPU: the same texts and losses up to rounding, no training, the commands."""

import json

import numpy as np
import pytest
from runs import tiny, train

import tensorlite as tl
from gpt import look
from gpt.config import GPTConfig
from gpt.fast.weights_dtype import set_weights_dtype, weight_bytes
from gpt.generation import generate
from gpt.model import GPT
from gpt.serve.state import State
from gpt.training import checkpoint
from tensorlite.kernels.cpu import choose_impl

pytestmark = pytest.mark.skipif(bool(choose_impl.missing()), reason="numba cannot be used")
IDS = [[3, 1, 4, 1, 5], [9, 2]]
KINDS = ["bfloat16", "int8"]


def model(dtype="float32", **options):
    tl.manual_seed(1)
    config = GPTConfig(vocab_size=30, context_length=16, n_layer=2, n_head=2, n_embd=32, **options)
    return set_weights_dtype(GPT(config).eval(), dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"tie_head": True}, {"tie_head": False, "qkv_bias": True}], ids=["tied", "untied"])
def test_logits_are_those_of_the_rounded_weights(kind, options):
    exact, rounded = model(**options), model(**options)
    for name, p in rounded.named_parameters():
        if p.ndim == 2 and name != "position_embedding.weight":
            if kind == "bfloat16":
                p.data[...] = tl.tensor(p.data).astype(tl.bfloat16).astype(tl.float32).data
            else:
                step = np.abs(p.data).max(axis=1, keepdims=True) / 127
                p.data[...] = np.rint(p.data / step) * step
            p.changed()
    with tl.no_grad():
        found = model(kind, **options)(tl.tensor(IDS[:1]))[0].data
        np.testing.assert_allclose(found, rounded(tl.tensor(IDS[:1]))[0].data, atol=2e-5)
        assert np.abs(found - exact(tl.tensor(IDS[:1]))[0].data).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_and_without_a_cache_gives_each_text_alone(kind):
    quantized = model(kind)
    together = generate(quantized, IDS, 20)  # beyond the context
    assert together == generate(quantized, IDS, 20, use_cache=False)
    assert together == [generate(quantized, [ids], 20)[0] for ids in IDS]


def test_the_bytes_are_a_half_and_a_quarter():
    sizes = {dtype: weight_bytes(model(dtype, tie_head=True)) for dtype in ("float32", *KINDS)}
    matrices = 4 * 32 * (30 + 2 * 12 * 32)
    assert sizes["float32"] - sizes["bfloat16"] == matrices // 2
    assert sizes["float32"] - sizes["int8"] == matrices * 3 // 4 - 4 * (30 + 2 * 9 * 32)  # a scale per row


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_refused_in_one_sentence(kind):
    quantized = model(kind).train()
    with pytest.raises(RuntimeError, match="quantized weights cannot be trained"):
        quantized.loss(tl.tensor([[1, 2]]), tl.tensor([[2, 3]]))


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="only matrices of float32"):
        set_weights_dtype(model().to(tl.float64), "int8")


# ----- the commands -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    train(tiny(folder, out=folder / "run", steps=4))
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_generate_and_evaluate(call, run, kind, tmp_path):
    quantized, tokenizer = checkpoint.load_model(run)
    set_weights_dtype(quantized, kind)
    (new,) = generate(quantized, [tokenizer.encode("the")], 12)
    options = ["--dtype", kind, "--device", "cpu"]
    status, output, _ = call("generate", run, "--prompt", "the", "--max-new-tokens", 12, "--temperature", 0, *options)
    assert (status, output) == (0, f"the{tokenizer.decode(new)}\n")
    (tmp_path / "text").write_text("9 bottles stand on the wall\n")
    losses = {}
    for dtype in ("float32", kind):
        _, output, _ = call("evaluate", run, "--text", tmp_path / "text", "--dtype", dtype, "--json")
        losses[dtype] = json.loads(output)["loss"]
    assert 0 < abs(losses[kind] - losses["float32"]) < 0.01 * losses["float32"]


def test_without_numba_the_command_says_what_to_install(call, run, monkeypatch):
    monkeypatch.setattr("tensorlite.kernels.cpu.quantized.missing", lambda: "numba is not installed: pip install it")
    status, _, errors = call("generate", run, "--dtype", "int8", "--device", "cpu")
    assert status == 1
    assert errors == "gpt: quantized weights need compiled loops, and numba is not installed: pip install it\n"


def test_only_what_writes_is_quantized_on_the_page(run):
    state = State((run,), "cpu", "int8")
    try:
        writer, shown = state.writer({"run": "run"}), state.model({"run": "run"})
        assert weight_bytes(writer.model) < weight_bytes(shown.model) / 2
        assert look.attention(shown, "the").weights.dtype == np.float32
        assert state.writer({"run": "run"}) is writer
    finally:
        state.worker.close()
