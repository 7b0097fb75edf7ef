"""GPTConfig: what it refuses and what it says, its way to JSON and back, the presets."""

import copy
import json
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from gpt import GPT, generate, lora, train
from gpt.cli import prepare
from gpt.config import PRESETS, GPTConfig
from gpt.tasks.evaluate import total_loss
from gpt.tasks.pretrain import TrainConfig
from gpt.tokenizer import BPETokenizer
from gpt.training import loop

SMALL = GPTConfig(vocab_size=65, context_length=64, n_layer=4, n_head=4, n_embd=128)


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_json(name):
    config = PRESETS[name].with_dropout(0.25)
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("field", ["vocab_size", "context_length", "n_layer", "n_head", "n_embd"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "4", None, math.nan])
def test_a_size_is_a_positive_integer(field, value):
    with pytest.raises(ValueError, match=rf"^{field} must be an integer of at least 1, got {value!r}$"):
        replace(SMALL, **{field: value})


@pytest.mark.parametrize("field", ["embedding_dropout", "attention_dropout", "residual_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1, 1.5, math.nan, math.inf, True, "x", None])
def test_a_dropout_is_a_number_below_1(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be a finite number of at least 0 and below 1, got {value!r}$"):
        replace(SMALL, **{field: value})


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "x", None])
def test_a_standard_deviation_is_not_negative(value):
    with pytest.raises(ValueError, match=f"^position_std must be a finite number of at least 0, got {value!r}$"):
        replace(SMALL, position_std=value)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("qkv_bias", 1, "True, False"),
        ("tie_head", "yes", "True, False"),
        ("init", "xavier", "'torch', 'gpt2'"),
        ("init", None, "'torch', 'gpt2'"),
    ],
)
def test_a_choice_is_one_of_those_named(field, value, allowed):
    with pytest.raises(ValueError, match=f"^{field} must be one of {allowed}, got {value!r}$"):
        replace(SMALL, **{field: value})


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match=r"n_head must divide n_embd.*n_head 5 and n_embd 128"):
        replace(SMALL, n_head=5)


def test_every_unknown_and_missing_name_is_said_at_once():
    values = SMALL.to_dict() | {"n_layers": 4, "block_size": 8}
    del values["n_layer"], values["n_embd"]
    with pytest.raises(ValueError, match="unknown n_layers, block_size; missing n_layer, n_embd; its fields are vocab"):
        GPTConfig.from_dict(values)
    assert GPTConfig.from_dict({k: v for k, v in SMALL.to_dict().items() if k != "init"}) == SMALL  # has a default


def test_with_dropout_sets_all_three_and_nothing_else():
    config = SMALL.with_dropout(0.3)
    assert {k: v for k, v in config.to_dict().items() if v != SMALL.to_dict()[k]} == {
        "embedding_dropout": 0.3,
        "attention_dropout": 0.3,
        "residual_dropout": 0.3,
    }


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        SMALL.n_layer = 5


def test_the_default_vocabulary_is_that_of_the_default_preset():
    """Of `gpt train` and of `gpt data prepare`, so that a text prepared without flags fits."""
    config = TrainConfig()
    sizes = {config.vocab_size, PRESETS[config.preset].vocab_size, prepare.DataPrepare.vocab_size}
    assert sizes == {2048}


def test_the_numbers_of_numpy_are_numbers():
    config = replace(SMALL, n_layer=np.int64(4), position_std=np.float32(0.5), embedding_dropout=np.float64(0.25))
    assert config == replace(SMALL, position_std=0.5, embedding_dropout=0.25)
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    settings = TrainConfig(steps=np.int32(7), lr=np.float32(0.25), seed=np.uint8(3), validation=np.float32(0.5))
    assert settings == TrainConfig(steps=7, lr=0.25, seed=3, validation=0.5)
    assert json.loads(json.dumps(settings.to_dict()))["lr"] == 0.25
    for wrong in ({"steps": np.bool_(True)}, {"steps": np.float32(3)}, {"lr": np.float32(np.nan)}, {"lr": np.ones(1)}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            TrainConfig(**wrong)


def test_a_dict_is_no_config():
    with pytest.raises(TypeError, match="GPT: config must be a GPTConfig, not dict: write GPTConfig"):
        GPT(SMALL.to_dict())
    for start in (train, loop.train):
        with pytest.raises(TypeError, match=r"train: settings are needed, such as TrainConfig.*, not dict"):
            start({"steps": 3})


def test_numpys_numbers_reach_no_file_and_no_sum(tmp_path):
    """Those of few bits overflow in a sum with larger ones, and JSON has none of them."""
    model = GPT(replace(SMALL, vocab_size=300, n_embd=16))
    first = generate(model, [[1]], 3, temperature=0.5, top_k=5, seed=1)
    assert generate(model, [[1]], np.int8(3), temperature=np.float16(0.5), top_k=np.int8(5), seed=1) == first
    ids = [*range(300)]
    assert total_loss(model, ids, np.int8(60), np.int8(60), np.int8(3)) == total_loss(model, ids, 60, 60, 3)
    base = copy.deepcopy(model)
    lora.apply(model, rank=np.int8(2), alpha=np.float32(4))
    lora.save(model, tmp_path / "adapters")
    assert lora.load(base, tmp_path / "adapters")
    assert BPETokenizer.train("abc abc", np.int16(258)).vocab_size == 258
