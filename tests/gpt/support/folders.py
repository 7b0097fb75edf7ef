"""What the tests of gpt.pretrained share: folders of GPT-2's weights, written here with NumPy and safetensors alone."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from gpt.model import GPT
from gpt.tokenizer import BPETokenizer

CONFIG = {"model_type": "gpt2", "vocab_size": 260, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2}
TOKENIZER = BPETokenizer([bytes([i]) for i in range(256)] + [b"ab", b"abab", b"abc"])
MERGES = "#version: 0.2\na b\nab ab\nab c\n"


def weights(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names, without the prefix."""
    V, T, C = (config[name] for name in ("vocab_size", "n_positions", "n_embd"))
    shapes = {"wte.weight": (V, C), "wpe.weight": (T, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    for i in range(config["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (C,), f"h.{i}.{norm}.bias": (C,)}
        for name, a, b in (("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("mlp.c_fc", C, 4 * C)):
            shapes |= {f"h.{i}.{name}.weight": (a, b), f"h.{i}.{name}.bias": (b,)}
        shapes |= {f"h.{i}.mlp.c_proj.weight": (4 * C, C), f"h.{i}.mlp.c_proj.bias": (C,)}
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (V, C)
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}


def ours(theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights as our Parameters, by name."""
    names = {
        "wte": "token_embedding", "wpe": "position_embedding", "ln_f": "final_norm", "ln_1": "norm1", "ln_2": "norm2",
        "lm_head": "head", "attn.c_proj": "attention.out_proj", "mlp.c_fc": "feed_forward.expand",
        "mlp.c_proj": "feed_forward.contract",
    }  # fmt: skip
    found = {}
    for name, x in theirs.items():
        *start, kind = name.split(".")
        block = f"blocks.{start[1]}." if start[0] == "h" else ""
        layer = ".".join(start[2:] if block else start)
        if layer == "attn.c_attn":
            for part, piece in zip(("W_query", "W_key", "W_value"), np.split(x, 3, axis=-1), strict=True):
                found[f"{block}attention.{part}.{kind}"] = piece.T
        else:
            turned = block and kind == "weight" and not layer.startswith("ln")
            found[f"{block}{names[layer]}.{kind}"] = x.T if turned else x
    return found


def write(folder: Path, config: dict | None = None, tensors: dict | None = None, tokenizer: bool = True) -> Path:
    """A folder as Hugging Face's; `tensors` in place of random ones."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG if config is None else config
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer:
        (folder / "vocab.json").write_text(json.dumps(vocabulary()))
        (folder / "merges.txt").write_text(MERGES)
    tensors = weights(config) if tensors is None else tensors
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors"
    )
    return folder


def vocabulary() -> dict[str, int]:
    """vocab.json of TOKENIZER: a byte is its Latin-1 character, or if that is not visible one from U+0100 on."""
    hidden = iter(range(256, 512))
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelt = [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]
    return {token: id for id, token in enumerate([*spelt, "ab", "abab", "abc", "<|endoftext|>"])}


def same_bits(model: GPT, expected: dict[str, np.ndarray]) -> None:
    """The model has exactly these Parameters."""
    found = {name: p.numpy() for name, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, x in found.items():
        np.testing.assert_array_equal(x, expected[name], err_msg=name, strict=True)
