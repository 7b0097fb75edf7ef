"""`gpt` on a real GPU: trained there, moved there and back, measured and writing; the same again, to the bit."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "gpt" / "support"))

from runs import tiny, train, write_text

import tensorlite as tl
from gpt import fast
from gpt.attention import MultiHeadAttention
from gpt.cli import doctor
from gpt.cli import main as cli
from gpt.config import GPTConfig
from gpt.fast import decode as fast_decode
from gpt.generation import generate
from gpt.kv_cache import KVCache
from gpt.model import GPT
from gpt.tasks import classify, instruct
from gpt.tasks.classify import ClassifyConfig, data
from gpt.tasks.evaluate import total_loss
from gpt.tasks.pretrain import TrainConfig, check_memory
from gpt.training import checkpoint, plots, session
from tensorlite import backend, optim
from tensorlite.devices import machine, memory
from tensorlite.kernels import precision

fast.attach()
pytestmark = pytest.mark.gpu

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "context_length": 16, "batch_size": 4, "steps": 20, "dropout": 0.0}
CONSTANT = {"lr": 0.01, "min_lr": 0.01, "warmup": 0}


@pytest.fixture(autouse=True)
def afterwards():
    fast.attach()
    yield
    precision.set_matmul_dtype("float32")


def losses(run) -> list[float]:
    return [line["loss"] for line in plots.read_metrics(run / "metrics.jsonl") if "loss" in line]


def weights(run) -> dict:
    return {name: x.numpy() for name, x in tl.io.load(run / "model.safetensors").items()}


def run_on(folder, device, name=None, **changes):
    run = folder / (name or device)
    said = train(tiny(folder, out=run, device=device, **{**SHAPE, **CONSTANT, **changes}))
    return run, said


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    return run_on(tmp_path_factory.mktemp("cpu"), "cpu")[0]


def test_training_there_is_training_here(cpu, tmp_path):
    run, said = run_on(tmp_path, "cuda")
    assert "device     cuda:0, NVIDIA" in said
    assert 1 < int(re.search(r"GPU memory taken +│ +([\d,]+) MiB", said)[1].replace(",", "")) < 100_000
    assert "cuda graph off" not in said
    assert losses(run) == pytest.approx(losses(cpu), rel=2e-3)
    for name, x in weights(run).items():
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, weights(cpu)[name], rtol=0.05, atol=5e-3, err_msg=name)
    made_with = json.loads((run / "config.json").read_text())["made_with"]
    assert made_with["device"].startswith("NVIDIA")


@pytest.mark.parametrize(
    "changes",
    [{}, {"dropout": 0.2}, {"dtype": "bfloat16"}, {"activation_checkpointing": True}, {"grad_accumulation": 2}],
)
def test_the_same_run_again_has_the_same_bits(tmp_path, changes):
    first, again = (run_on(tmp_path, "cuda", name, **changes)[0] for name in ("first", "again"))
    assert losses(first) == losses(again)
    for name in ("model.safetensors", "training.safetensors"):
        assert (first / name).read_bytes() == (again / name).read_bytes()


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
def test_coarser_products_learn_the_same(cpu, tmp_path, dtype):
    """The weights in the checkpoint are float32 all the same."""
    run, said = run_on(tmp_path, "cuda", dtype=dtype)
    assert f"products in {dtype}" in said
    assert losses(run) == pytest.approx(losses(cpu), rel=0.05)
    assert all(x.dtype == np.float32 for x in weights(run).values())


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_is_the_unbroken_one(tmp_path, dropout):
    """To the bit: dropout's stream too goes on where it was."""
    whole, _ = run_on(tmp_path, "cuda", "whole", dropout=dropout)
    broken, _ = run_on(tmp_path, "cuda", "broken", dropout=dropout, steps=12)
    train(TrainConfig(**{**vars(session.settings(broken, TrainConfig)), "device": "cuda", "steps": 20}))
    assert losses(broken) == losses(whole)
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_moves_between_cpu_and_gpu(cpu, tmp_path, first, then):
    run, _ = run_on(tmp_path, first, "run", steps=12)
    said = train(TrainConfig(**{**vars(session.settings(run, TrainConfig)), "device": then, "steps": 20}))
    assert "warning: device was" in said
    assert losses(run) == pytest.approx(losses(cpu), rel=2e-3)


def test_writing_there_is_writing_here(cpu):
    (near, tokenizer), (far, _) = (checkpoint.load_model(cpu, device) for device in ("cpu", "cuda"))
    assert next(far.parameters()).device == "cuda:0"
    prompts = [tokenizer.encode(text) for text in ("9", "59 bottles", "take one")]
    for use_cache in (True, False):
        for options in ({}, {"temperature": 0.8, "top_k": 9, "seed": 3}):
            found = [generate(model, prompts, 25, use_cache=use_cache, **options) for model in (near, far)]
            assert found[0] == found[1]


def test_a_recorded_token_step_is_used_for_the_weights_that_it_was_recorded_with(cpu):
    (near, _), (far, _) = (checkpoint.load_model(cpu, device) for device in ("cpu", "cuda"))
    (other, _) = checkpoint.load_model(cpu, "cpu")
    for p in other.parameters():
        p.data[...] = p.data[::-1].copy()
    changes = [
        lambda model: None,
        lambda model: model.load_state_dict(other.state_dict()),  # in place: the record reads the new ones
        lambda model: optim.AdamW(model.parameters()),  # moves them
    ]
    for change in changes:
        for model in (near, far):
            change(model)
        for length in (9, 9, 7):
            assert generate(far, [[1, 2, 3], [4]], length) == generate(near, [[1, 2, 3], [4]], length)
        assert fast_decode._spare[far].best_graph.recorded


def test_what_is_on_its_way_to_the_host_waits_for_nothing_later():
    x = tl.arange(1000, device="cuda")
    first = memory.start_copy_to_host(x.data)
    x.data[...] = 7
    second = memory.start_copy_to_host(x.data)
    assert first().tolist() == list(range(1000))
    assert second().tolist() == [7] * 1000


def test_a_bfloat16_model_writes(cpu):
    model, tokenizer = checkpoint.load_model(cpu, "cuda")
    precision.set_matmul_dtype("bfloat16", "cuda")
    prompts = [tokenizer.encode(text) for text in ("9", "59 bottles")]
    for options in ({}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}):
        for text in generate(model, prompts, 20, **options):
            assert len(text) == 20
    cache = model.new_cache(1)
    with tl.no_grad():
        model.hidden_states(tl.tensor([prompts[1]], device="cuda"), cache)
    assert cache[0].keys.dtype.name == "bfloat16"


def test_measuring_there_is_measuring_here(cpu):
    (near, tokenizer), (far, _) = (checkpoint.load_model(cpu, device) for device in ("cpu", "cuda"))
    ids = tokenizer.encode("9 bottles stand on the wall; take one down, and 8 stand on the wall.")
    here, there = (total_loss(model, ids, stride=5, batch_size=3) for model in (near, far))
    assert there == pytest.approx(here, rel=1e-4)


def test_the_projections_lie_together_there_and_after_an_optimizer_took_them():
    attention = MultiHeadAttention(16, 16, 8, 0.0, 2, qkv_bias=True).to("cuda")
    for _ in range(2):
        parts = attention.W_query, attention.W_key, attention.W_value
        weight, bias = (
            memory.adjacent_view([getattr(part, kind).data for part in parts]) for kind in ("weight", "bias")
        )
        assert weight.tolist() == [row for part in parts for row in part.weight.tolist()]
        assert bias.tolist() == [x for part in parts for x in part.bias.tolist()]
        assert weight.data.ptr == parts[0].weight.data.data.ptr  # no copy
        optim.AdamW(optim.decay_groups(attention.parameters(), 0.1))
    x = tl.randn(2, 5, 16, device="cuda")
    with tl.no_grad():
        whole = attention(x)
        cache = KVCache(2, 2, 8, 8)
        pieces = [attention(x[:, a:b], cache) for a, b in ((0, 3), (3, 4), (4, 5))]
    np.testing.assert_allclose(tl.concatenate(pieces, axis=1).numpy(), whole.numpy(), rtol=1e-4, atol=1e-5)


# ----- fine-tuning ------------------------------------------------------------------------------------------------

WORDS = {"drink": ("milk", "tea", "juice", "water"), "fruit": ("pear", "plum", "fig", "lime")}
LABELLED = [data.Entry(kind, f"{n} times {words[n % 4]}") for n in range(15) for kind, words in WORDS.items()]
ASKED = [{"instruction": f"Say {word}.", "input": "", "output": word} for word in ("yes", "no")] * 15


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    text = "\n".join(e.text for e in LABELLED) + "\n".join(e["instruction"] + e["output"] for e in ASKED)
    (folder / "text.txt").write_text(text * 2, encoding="utf-8")
    shape = {**SHAPE, "context_length": 64, "tokenizer": "bpe", "vocab_size": 270, "steps": 3}
    train(tiny(folder, text=(folder / "text.txt",), out=folder / "base", device="cpu", **shape))
    data.write(folder / "labelled.jsonl", LABELLED)
    (folder / "asked.json").write_text(json.dumps(ASKED), encoding="utf-8")
    return folder


@pytest.mark.parametrize("position", ["last", "mean"])
@pytest.mark.parametrize(("layers", "dtype"), [("all", "float32"), ("lora", "float32"), ("lora", "bfloat16")])
def test_classification(base, tmp_path, position, layers, dtype):
    for device in ("cpu", "cuda"):
        config = ClassifyConfig(
            base=base / "base", data=base / "labelled.jsonl", out=tmp_path / device, device=device, position=position,
            batch_size=4, epochs=2, lr=0.01, layers=layers, dropout=0.0, dtype="float32" if device == "cpu" else dtype,
        )  # fmt: skip
        train(config, classify.Classification)
    limit = {"rel": 5e-3} if dtype == "float32" else {"abs": 0.05}
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), **limit)
    precision.set_matmul_dtype("float32")
    near, far = (classify.load(tmp_path / "cpu", device) for device in ("cpu", "cuda"))
    for a, b in zip(*(classify.predict(each, ["3 times tea", "fig"]) for each in (near, far)), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_instruction(base, tmp_path, dtype, lora):
    for device in ("cpu", "cuda"):
        config = instruct.InstructConfig(
            base=base / "base", data=base / "asked.json", out=tmp_path / device, device=device, style="phi3", steps=8,
            lr=0.01, dropout=0.0, max_new_tokens=4, eval_every=4, lora=lora, rank=4,
            dtype="float32" if device == "cpu" else dtype,
        )  # fmt: skip
        train(config, instruct.Instructions)
    near, far = losses(tmp_path / "cpu"), losses(tmp_path / "cuda")
    assert far == pytest.approx(near, rel=5e-3 if dtype == "float32" else 0.1)


# ----- the command line, and what is said -------------------------------------------------------------------------


def call(capsys, *args) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(arg) for arg in args])
    return left.value.code or 0, *capsys.readouterr()


def test_the_commands(cpu, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: "not asked for in a test")
    prompt = ["--prompt", "59 bottles", "--max-new-tokens", 20]
    found = [call(capsys, "generate", cpu, *prompt, "--device", device) for device in ("cpu", "cuda", "cuda:0")]
    assert found[0] == found[1] == found[2]
    evaluate = ["evaluate", cpu, "--text", write_text(tmp_path), "--json", "--device"]
    here, there = (json.loads(call(capsys, *evaluate, device)[1])["loss"] for device in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=1e-4)
    status, _, errors = call(capsys, "generate", cpu, "--device", "cuda:99")
    assert status == 1
    assert errors.startswith("gpt: there is no device 'cuda:99': CuPy finds ")


def test_auto_is_the_gpu():
    assert backend.driver_found()
    assert backend.use_device("auto") == "cuda:0"


def test_the_doctor_knows_it():
    found = {name: finding for name, finding, _ in doctor.graphics()}
    assert found["GPU"].startswith("NVIDIA ")
    assert "free of" in found["GPU memory"]
    assert found.keys() >= {"CUDA", "GPU products", "GPU attention"}


def test_memory_that_is_not_there_is_a_sentence():
    with pytest.raises(MemoryError) as found:
        tl.zeros((1 << 42,), device="cuda")
    said = cli.sentence(found.value)
    assert said.startswith("the GPU is out of memory: 16,384.00 GiB were requested, ")
    config = TrainConfig(preset="gpt2-xl", batch_size=100_000, device="cuda")
    with pytest.raises(ValueError, match=r"training this takes at least .* GiB of memory and cuda:0 has .* free: a sm"):
        check_memory(config.model(50257), config)


def test_a_model_goes_there_and_comes_back_as_it_was():
    config = GPTConfig(vocab_size=50, context_length=8, n_layer=2, n_head=2, n_embd=16)
    tl.manual_seed(1)
    model = GPT(config)
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    for name, p in model.to("cuda").to("cpu").named_parameters():
        np.testing.assert_array_equal(p.numpy(), before[name])
