"""What the tests of classification share: sentences that are easy to tell apart, a tiny fine-tuning, a model."""

import random

from runs import train

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.look.loaded import LoadedModel
from gpt.tasks.classify import Classification, ClassifyConfig, data, inference
from gpt.tasks.classify.batches import Padding
from gpt.tasks.classify.model import Classifier
from gpt.tokenizer import CharTokenizer

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
        "threads": 1, "dropout": 0.1, "seed": 1334,
    }  # fmt: skip
    return ClassifyConfig(**{**values, **changes})


def write_tsv(path, rows=None) -> None:
    path.write_text("".join(f"{e.label}\t{e.text}\n" for e in rows or entries()), encoding="utf-8")


def learn(config: ClassifyConfig) -> str:
    return train(config, Classification)


PAD = 1  # the id of "<" in the vocabulary of `classifier`


def classifier(folder, position="last-real", labels=3, matters=False, causal=True, length=12, seed=3) -> LoadedModel:
    """A classifier of the characters "abcdéfg xyz<" with random weights in float64; its run, `folder`, has no files."""
    tl.manual_seed(seed)
    tokenizer = CharTokenizer.train("abcdéfg xyz<")
    shape = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=16, n_layer=2, n_head=2, n_embd=8, causal=causal)
    model = Classifier(shape, labels, position).to(tl.float64).eval()
    for p in model.parameters():  # far from the linear range
        p.data[...] *= 3
        p.changed()
    names = [f"label <{i}>" for i in range(labels)]
    trained = inference.TrainedClassifier(model, tokenizer, names, Padding(PAD, length, matters))
    return LoadedModel(folder, None, "classify", model.body, tokenizer, {}, trained)
