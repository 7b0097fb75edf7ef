"""How a step is computed: --activation-checkpointing changes no bit, --dtype bfloat16 little or nothing."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from runs import ONE_THREAD, contents, tiny, train

from gpt.fingerprint import fingerprint
from gpt.tasks.pretrain import TrainConfig
from gpt.training import checkpoint, session
from tensorlite import io
from tensorlite.kernels import precision
from tensorlite.kernels.cpu import onednn


@pytest.fixture(autouse=True)
def afterwards():
    yield
    precision.set_matmul_dtype("float32")


def weights(run) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.mark.slow
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


@pytest.mark.slow
def test_where_there_is_no_bfloat16_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(onednn, "missing", lambda: "this CPU does not multiply bfloat16")
    train(tiny(tmp_path, out=tmp_path / "plain", steps=3))
    said = train(tiny(tmp_path, out=tmp_path / "off", steps=3, dtype="bfloat16"))
    assert "bfloat16 is off, all is computed in float32: this CPU does not multiply bfloat16" in " ".join(said.split())
    assert weights(tmp_path / "plain") == weights(tmp_path / "off")


def test_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of 'float32', 'tf32', 'bfloat16', got 'float16'"):
        tiny(tmp_path, dtype="float16")


# ----- runs of version 0.1.0 --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("on", [True, False])
def test_a_run_whose_setting_had_its_old_name_is_resumed(tmp_path, on):
    """activation_checkpointing was called checkpoint_blocks."""
    run = tmp_path / "run"
    train(tiny(tmp_path, steps=4, n_layer=2, activation_checkpointing=on))
    for folder in (run / "checkpoints").iterdir():
        path = folder / "config.json"
        description = json.loads(path.read_text())
        training = description["training"]
        training["checkpoint_blocks"] = training.pop("activation_checkpointing")
        checkpoint.write_json(path, description)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["config.json"] = fingerprint(path)
        checkpoint.write_json(folder / "manifest.json", manifest)
    settings = session.settings(run, TrainConfig)
    assert settings.activation_checkpointing is on
    assert "changed    activation" not in train(replace(settings, steps=6))
    assert json.loads((run / "config.json").read_text())["training"]["activation_checkpointing"] is on


# ----- the core modules alone -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_without_acceleration_gives_the_same_bits(tmp_path):
    """Whoever imports the loop itself has the plain one: no module of gpt.fast is loaded, and the run is the same."""
    train(tiny(tmp_path))
    code = (
        "import sys; from pathlib import Path; from runs import tiny; from gpt.training.loop import train;"
        "train(tiny(Path(sys.argv[1]), out=Path(sys.argv[1]) / 'plain'));"
        "print(*[name for name in sys.modules if name.startswith('gpt.fast')])"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True,
        env={**ONE_THREAD, "PYTHONPATH": path, "TENSORLITE_PREPARE": "0"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == ""
    for name in ("model.safetensors", "training.safetensors", "metrics.jsonl", "samples.txt"):
        assert contents(tmp_path / "plain")[name] == contents(tmp_path / "run")[name], name


@pytest.mark.parametrize(("beta1", "beta2"), [(0.6, 0.7), (0.8, 0.999)])
def test_both_betas_are_those_of_adams_averages(tmp_path, beta1, beta2):
    """After one step from zero they are (1 - beta1) g and (1 - beta2) g^2, so their ratio does not depend on g."""
    train(tiny(tmp_path, steps=1, warmup=0, beta1=beta1, beta2=beta2))
    found = {name: tensor.numpy() for name, tensor in io.load(tmp_path / "run" / "training.safetensors").items()}
    squares = [name for name in found if name.endswith(".v")]
    assert squares
    for name in squares:
        mean = found[name[:-1] + "m"].astype("f8")
        expected = (1 - beta2) / (1 - beta1) ** 2 * mean**2
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("name", ["base", "text", "preset", "prompt", "keep_best", "cuda_graph", "shard_optimizer"])
def test_a_number_of_a_config_file_is_no_text_path_or_switch(name):
    with pytest.raises(ValueError, match=f"{name} has the wrong type: got 3"):
        TrainConfig.from_dict({**TrainConfig(preset="nano").to_dict(), name: 3})
    assert TrainConfig.from_dict({**TrainConfig(preset="nano").to_dict(), "clip": 3}).clip == 3
