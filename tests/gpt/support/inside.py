"""What the tests of the logit lens, the residual stream and the embeddings share: a small model in float64."""

from pathlib import Path

import numpy as np

import tensorlite as tl
from gpt import look
from gpt.config import GPTConfig
from gpt.model import GPT
from gpt.tokenizer import CharTokenizer

LETTERS = "abcdefghijklmnop<&"
TEXT = "badcab<deaf"


def loaded(tied: bool = True, layers: int = 3, context: int = 16, width: int = 12) -> look.LoadedModel:
    """A model whose weights, biases and norms are all random, so that leaving one out changes every result."""
    config = GPTConfig(
        vocab_size=len(LETTERS), context_length=context, n_layer=layers, n_head=3, n_embd=width, qkv_bias=True,
        tie_head=tied, attention_dropout=0.5, residual_dropout=0.5, embedding_dropout=0.5,
    )  # fmt: skip
    model = GPT(config).to(tl.float64)
    draw = np.random.default_rng(7)
    for p in model.parameters():
        p.data[...] = p.data + 0.4 * draw.standard_normal(p.shape)
        p.changed()
    return look.LoadedModel(Path("small"), None, "pretrain", model.eval(), CharTokenizer.train(LETTERS), {})


def layer_norm(x: np.ndarray, norm) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return centred / scale * norm.weight.numpy() + norm.bias.numpy()


def head_of(model: GPT) -> np.ndarray:
    return (model.token_embedding if model.head is None else model.head).weight.numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
