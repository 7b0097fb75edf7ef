"""Training that starts from another run's weights: `gpt train --from RUN --text FILE`."""

import hashlib
import json
from pathlib import Path

import folders
import numpy as np
import pytest
from runs import TINY, gpt, tiny, train, write_text

import tensorlite as tl
from gpt import pretrained
from gpt.tasks.pretrain import TrainConfig
from gpt.tokenizer import CharTokenizer
from gpt.training.checkpoint import load_model
from tensorlite import io

NEW = "take one down; and stand on the wall, all bottles down.\n" * 20
SETTINGS = {key: TINY[key] for key in ("batch_size", "eval_every", "eval_batches", "sample_tokens", "lr")}


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    train(tiny(folder))
    return folder / "run"


@pytest.fixture
def text(tmp_path) -> Path:
    (tmp_path / "new.txt").write_text(NEW, encoding="utf-8")
    return tmp_path / "new.txt"


def start(base: Path, text: Path, out: Path, **changes) -> TrainConfig:
    return TrainConfig(**{"base": base, "text": text, "out": out, **SETTINGS, "steps": 6, **changes})


def first_loss(run: Path) -> float:
    return json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])["validation_loss"]


def loss_on(run: Path, base: Path, T: int) -> float:
    """The base model's loss on the first evaluation batch of the new run's validation text, computed by hand."""
    model, tokenizer = load_model(base)
    cut = next(n for n in range(1, len(NEW)) if tokenizer.encode(NEW[-n:]) == validation_ids(run))
    ids = np.array(tokenizer.encode(NEW[-cut:]))
    windows = (len(ids) - 1) // T
    chosen = [i * windows // min(windows, 2) for i in range(min(windows, 2))]
    losses = []
    with tl.no_grad():
        for i in chosen:
            logits = model(ids[None, i * T : i * T + T])[0].numpy()[0].astype(float)
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            losses.append(-np.log(p[np.arange(T), ids[i * T + 1 : i * T + T + 1]]).mean())
    return float(np.mean(losses))


def validation_ids(run: Path) -> list[int]:
    from tensorlite.data import TokenFile

    return TokenFile(run / "validation.tokens")[:].tolist()


def test_a_run_starts_from_the_weights_and_tokenizer_of_another_and_leaves_it_unchanged(base, text, tmp_path):
    before = digests(base)
    train(start(base, text, tmp_path / "run"))
    assert digests(base) == before
    assert first_loss(tmp_path / "run") == pytest.approx(loss_on(tmp_path / "run", base, 8), rel=1e-5)
    model, tokenizer = load_model(tmp_path / "run")
    old, old_tokenizer = load_model(base)
    assert tokenizer.characters == old_tokenizer.characters
    assert model.config == old.config
    assert any((p.data != q.data).any() for p, q in zip(model.parameters(), old.parameters(), strict=True))


def test_imported_weights_are_trained_further(tmp_path, text):
    folders.write(tmp_path / "folder")
    pretrained.import_folder(tmp_path / "folder", tmp_path / "imported")
    train(start(tmp_path / "imported", text, tmp_path / "run", steps=2))
    model, tokenizer = load_model(tmp_path / "run")
    assert (model.config.vocab_size, model.config.context_length, tokenizer.vocab_size) == (260, 6, 260)
    ids = validation_ids(tmp_path / "run")
    assert NEW.endswith(tokenizer.decode(ids))


def test_a_resumed_run_ends_with_the_bytes_of_an_unbroken_one(base, text, tmp_path):
    changes = {"add_token": ("<|sing|>",), "dropout": 0.2, "checkpoint_every": 3, "min_lr": 0.02, "warmup": 0}
    train(start(base, text, tmp_path / "whole", **changes))
    train(start(base, text, tmp_path / "broken", **changes | {"steps": 3}))
    train(
        TrainConfig(
            **{**start(base, text, tmp_path / "x", **changes).__dict__, "out": None, "resume": tmp_path / "broken"}
        )
    )
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


def test_added_tokens_get_the_last_ids_and_the_other_rows_stay(base, tmp_path):
    text = tmp_path / "new.txt"
    text.write_text(NEW.replace(";", "<|sing|>"), encoding="utf-8")
    train(start(base, text, tmp_path / "run", steps=1, lr=0.0, add_token=("<|sing|>", "<|rest|>")))
    old, new = (io.load(run / "model.safetensors") for run in (base, tmp_path / "run"))
    V = len(old["token_embedding.weight"])
    for name, value in old.items():
        np.testing.assert_array_equal(new[name].numpy()[: len(value)], value.numpy())
    assert len(new["token_embedding.weight"]) == len(new["head.weight"]) == V + 2
    assert np.ptp(new["token_embedding.weight"].numpy()[V:]) > 0
    tokenizer = load_model(tmp_path / "run")[1]
    assert isinstance(tokenizer, CharTokenizer)
    assert tokenizer.special_tokens == {"<|sing|>": V, "<|rest|>": V + 1}
    assert V in validation_ids(tmp_path / "run")


def test_a_shorter_context_gives_the_same_logits_where_both_reach(base, text, tmp_path):
    train(start(base, text, tmp_path / "run", steps=1, lr=0.0, context_length=5))
    model, old = load_model(tmp_path / "run")[0], load_model(base)[0]
    idx = np.array([[3, 1, 4, 1, 5]])
    with tl.no_grad():
        np.testing.assert_array_equal(model(idx)[0].numpy(), old(idx)[0].numpy())
    assert model.config.context_length == 5


def test_the_default_learning_rate_is_that_of_fine_tuning(base, text, tmp_path):
    train(start(base, text, tmp_path / "run", steps=1, lr=None))
    settings = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["training"]
    assert settings["lr"] == pytest.approx(5e-5 * 768 / 8)
    assert settings["base"] == str(base)
    rates = [TrainConfig().default_lr(n_embd) for n_embd in (8, 128, 384, 768, 1600)]
    assert rates == [3e-3, 3e-3, 1e-3, 5e-4, 2.4e-4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": ()}, "text is missing: gpt train --from RUN --text FILE"),
        ({"preset": "micro"}, "preset is that of the run to start from"),
        ({"n_layer": 2}, "n_layer is that of the run to start from"),
        ({"tokenizer": "gpt2"}, "tokenizer is that of the run to start from"),
        ({"context_length": 9}, "context_length must be at most 8, the run's own, got 9"),
        ({"add_token": ("",)}, "a special token is a string with at least one character"),
        ({"base": None, "add_token": ("<|a|>",)}, "add_token extends the vocabulary of a run"),
    ],
)
def test_one_sentence_for_what_cannot_be(base, text, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(start(**{"base": base, "text": text, "out": tmp_path / "run", **changes}))
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_written_over_by_one_that_starts_from_it(base, text):
    before = digests(base)
    for out in (base, base.parent):
        with pytest.raises(ValueError, match="cannot be written to"):
            train(start(base, text, out, overwrite=True))
    assert digests(base) == before


def test_the_command(base, text, tmp_path):
    status, out, err = gpt(
        "train", "--from", base, "--text", text, "--steps", 1, "--batch-size", 2, "--out", tmp_path / "run"
    )
    assert (status, err) == (0, "")
    assert f"model      {base}: 1 layer, 2 heads, 8 wide, context 8" in out
    other = tmp_path / "other.txt"
    other.write_text(NEW + "Ω", encoding="utf-8")
    status, _, err = gpt("train", "--from", base, "--text", other, "--out", tmp_path / "second")
    assert status == 1
    assert err.startswith("gpt: ")
    assert "'Ω'" in err
    write_text(tmp_path)
