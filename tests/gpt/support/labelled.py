"""What the tests of classification share: labelled sentences that are easy to tell apart, and a tiny fine-tuning."""

import random

from runs import train

from gpt.tasks.classify import Classification, ClassifyConfig, data

LABELS = ("drink", "fruit")
WORDS = {"drink": ("milk", "tea", "juice", "water"), "fruit": ("pear", "plum", "fig", "lime")}


def entries(count: int = 60) -> list[data.Entry]:
    """Sentences that name a fruit or, twice as often, a drink: easy to tell apart."""
    chance = random.Random(5)
    kinds = ["fruit" if i % 3 == 0 else "drink" for i in range(count)]
    return [
        data.Entry(kind, f"{chance.choice(('I want', 'we took', 'give me'))} a {chance.choice(WORDS[kind])} {i}")
        for i, kind in enumerate(kinds)
    ]


def tune(folder, base, **changes) -> ClassifyConfig:
    """A tiny fine-tuning into folder/run."""
    values = {
        "base": base, "data": folder / "data.tsv", "out": folder / "run", "batch_size": 4, "epochs": 3, "lr": 0.02,
        "layers": "all", "position": "last-real", "eval_every": 4, "checkpoint_every": 3, "sample_every": 5,
        "threads": 1, "dropout": 0.1,
    }  # fmt: skip
    return ClassifyConfig(**{**values, **changes})


def write_tsv(path, rows=None) -> None:
    path.write_text("".join(f"{e.label}\t{e.text}\n" for e in rows or entries()), encoding="utf-8")


def learn(config: ClassifyConfig) -> str:
    return train(config, Classification)
