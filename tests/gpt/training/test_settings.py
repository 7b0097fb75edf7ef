"""Settings that say how a step is computed: --activation-checkpointing changes no bit, --dtype bfloat16 little or nothing."""

import json

import pytest
from runs import contents, tiny, train

from tensorlite.kernels import precision
from tensorlite.kernels.cpu import onednn


@pytest.fixture(autouse=True)
def afterwards():
    yield
    precision.set_matmul_dtype("float32")


def weights(run) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_activation_checkpointing_trains_the_same_weights(tmp_path):
    for name, checkpointed in (("plain", False), ("again", True)):
        train(tiny(tmp_path, out=tmp_path / name, n_layer=2, steps=6, activation_checkpointing=checkpointed))
    assert weights(tmp_path / "plain") == weights(tmp_path / "again")
    plain, again = (contents(tmp_path / name)["metrics.jsonl"] for name in ("plain", "again"))
    assert plain == again


@pytest.mark.skipif(bool(onednn.missing()), reason=onednn.missing())
def test_bfloat16_is_said_and_used(tmp_path, monkeypatch):
    """A width at which products are large enough: other bits, nearly the same losses; the weights stay float32."""
    shape = {"n_embd": 64, "context_length": 32, "batch_size": 16, "steps": 8, "eval_every": 4, "dropout": 0.0}
    losses, calls = {}, []
    multiply = onednn.matmul
    monkeypatch.setattr(onednn, "matmul", lambda *args, **kwargs: calls.append(1) or multiply(*args, **kwargs))
    for dtype in ("float32", "bfloat16"):
        run = tmp_path / dtype
        said = train(tiny(tmp_path, out=run, dtype=dtype, **shape))
        assert ("products in bfloat16" in said) == (dtype == "bfloat16") == bool(calls)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[dtype] = [line["loss"] for line in lines if "loss" in line]
    assert weights(tmp_path / "float32") != weights(tmp_path / "bfloat16")
    assert len(weights(tmp_path / "float32")) == len(weights(tmp_path / "bfloat16"))
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


def test_where_there_is_no_bfloat16_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(onednn, "missing", lambda: "this CPU does not multiply bfloat16")
    train(tiny(tmp_path, out=tmp_path / "plain", steps=3))
    said = train(tiny(tmp_path, out=tmp_path / "off", steps=3, dtype="bfloat16"))
    assert "bfloat16 is off, all is computed in float32: this CPU does not multiply bfloat16" in " ".join(said.split())
    assert weights(tmp_path / "plain") == weights(tmp_path / "off")


def test_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of 'float32', 'tf32', 'bfloat16', got 'float16'"):
        tiny(tmp_path, dtype="float16")
