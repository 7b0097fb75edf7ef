"""Fixtures of the tests of classification."""

import pytest
from labelled import entries, learn, tune, write_tsv
from runs import train

from gpt.tasks.pretrain import TrainConfig


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A pretrained run."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "text.txt").write_text("\n".join(e.text for e in entries()) * 3, encoding="utf-8")
    train(
        TrainConfig(
            text=(folder / "text.txt",),
            out=folder / "base",
            vocab_size=270,
            n_layer=3,
            n_head=2,
            n_embd=16,
            context_length=24,
            steps=5,
            batch_size=2,
            threads=1,
        )
    )
    return folder / "base"


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, base):
    """A classifier: its folder, and what training it printed."""
    folder = tmp_path_factory.mktemp("tuned")
    write_tsv(folder / "data.tsv")
    return folder, learn(tune(folder, base))
