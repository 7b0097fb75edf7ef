"""What the tests of `gpt look`'s Write view share: a model of bytes with clear preferences, in memory and as a run."""

from dataclasses import replace
from pathlib import Path

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.look import LoadedModel
from gpt.model import GPT
from gpt.tokenizer import BPETokenizer
from gpt.training import checkpoint
from tensorlite.optim import AdamW

CONTEXT = 48
BYTES = BPETokenizer([bytes([i]) for i in range(256)] + [b"th", b"the", b" d"])  # and <|endoftext|>
CONFIG = GPTConfig(
    vocab_size=BYTES.vocab_size, context_length=CONTEXT, n_layer=2, n_head=2, n_embd=16, init="torch", tie_head=False
)
DESCRIPTION = {"format": "gpt.run", "version": 1, "model": CONFIG.to_dict()}


def byte_model(seed: int = 3, sharpness: float = 3.0, context_length: int = CONTEXT, ends: bool = True) -> GPT:
    """An untrained model; `sharpness` multiplies its logits. Without `ends`, greedy text has no end."""
    tl.manual_seed(seed)
    model = GPT(replace(CONFIG, context_length=context_length))
    model.head.weight.data[...] *= sharpness
    if not ends:
        model.head.weight.data[BYTES.special_tokens["<|endoftext|>"]] = 0  # a logit of 0 is never the largest
    model.head.weight.changed()
    return model


def byte_writer(**options) -> LoadedModel:
    """The same, as `look.load` gives it."""
    return LoadedModel(Path("run"), 0, "pretrain", byte_model(**options), BYTES, DESCRIPTION)


def save_run(run: Path, step: int = 1, **options) -> None:
    """A run with a checkpoint of this model."""
    model = byte_model(**options)
    run.mkdir(exist_ok=True)
    optimizer = AdamW(model.parameters(), lr=0.1)
    config = {**DESCRIPTION, "model": model.config.to_dict()}
    checkpoint.save(run, step, config=config, tokenizer=BYTES, model=model, optimizer=optimizer, state={}, keep=10)
