"""The Tensor of GPT-2's files for each of our Parameters: one table for reading and writing.

GPT-2 stores the matrix of a linear layer as (in, out), we store it as (out, in); and it stores query, key and value
side by side in `c_attn`. All else differs in names only. Names of their Tensors are those of Hugging Face's files,
without the prefix `transformer.`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import tensorlite as tl
from tensorlite import Tensor
from tensorlite.io import Entry

from ..config import GPTConfig, listed

FLOATS = ("float32", "float16", "bfloat16")  # each becomes float32 exactly

Shape = tuple[int, ...]


class Place(NamedTuple):
    """The Tensor of their files that holds one of our Parameters."""

    name: str  # of their Tensor
    part: int | None = None  # 0, 1 or 2 where it holds query, key and value side by side
    transposed: bool = False


def places(config: GPTConfig) -> dict[str, Place]:
    """Our name -> where it is in their files, for every Parameter of a GPT of that config."""
    table = {
        "token_embedding.weight": Place("wte.weight"),
        "position_embedding.weight": Place("wpe.weight"),
        "final_norm.weight": Place("ln_f.weight"),
        "final_norm.bias": Place("ln_f.bias"),
    }
    if not config.tie_head:
        table["head.weight"] = Place("lm_head.weight")
    for i in range(config.n_layer):
        for kind in ("weight", "bias"):
            matrix = kind == "weight"
            for norm, theirs in (("norm1", "ln_1"), ("norm2", "ln_2")):
                table[f"blocks.{i}.{norm}.{kind}"] = Place(f"h.{i}.{theirs}.{kind}")
            for linear, theirs in (
                ("attention.out_proj", "attn.c_proj"),
                ("feed_forward.expand", "mlp.c_fc"),
                ("feed_forward.contract", "mlp.c_proj"),
            ):
                table[f"blocks.{i}.{linear}.{kind}"] = Place(f"h.{i}.{theirs}.{kind}", transposed=matrix)
            for part, linear in enumerate(("W_query", "W_key", "W_value") if matrix or config.qkv_bias else ()):
                table[f"blocks.{i}.attention.{linear}.{kind}"] = Place(f"h.{i}.attn.c_attn.{kind}", part, matrix)
    return table


def their_shapes(config: GPTConfig) -> dict[str, Shape]:
    """The shapes of the Tensors of their files, by name; c_attn.bias is among them also where qkv_bias is False."""
    C, V = config.n_embd, config.vocab_size
    shapes: dict[str, Shape] = {"wte.weight": (V, C), "wpe.weight": (config.context_length, C)}
    for i in range(config.n_layer):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (C,), f"h.{i}.{norm}.bias": (C,)}
        for linear, n_in, n_out in (
            ("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("mlp.c_fc", C, 4 * C), ("mlp.c_proj", 4 * C, C),
        ):  # fmt: skip
            shapes |= {f"h.{i}.{linear}.weight": (n_in, n_out), f"h.{i}.{linear}.bias": (n_out,)}
    shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    return shapes if config.tie_head else shapes | {"lm_head.weight": (V, C)}


def our_shapes(config: GPTConfig) -> dict[str, Shape]:
    """The shapes of the Parameters of a GPT of that config, by name."""
    theirs, found = their_shapes(config), {}
    for name, place in places(config).items():
        *rows, columns = theirs[place.name]
        shape = (*rows, columns if place.part is None else columns // 3)
        found[name] = shape[::-1] if place.transposed else shape
    return found


def misfits(entries: Mapping[str, Entry], shapes: Mapping[str, Shape]) -> list[str]:
    """The differences between a file's Tensors and the expected names and shapes, one phrase each; [] if none."""
    missing = [name for name in shapes if name not in entries]
    unexpected = [name for name in entries if name not in shapes]
    lists = (("missing", missing), ("unexpected", unexpected))
    problems = [f"{kind} {listed(names)}" for kind, names in lists if names]
    wrong = []
    for name, shape in shapes.items():
        if name in entries:
            entry = entries[name]
            if entry.shape != shape:
                wrong.append(f"{name} has shape {entry.shape!s:.80} and not {shape}")
            if entry.dtype not in FLOATS:
                wrong.append(f"{name} has dtype {entry.dtype} and not one of {', '.join(FLOATS)}")
    return [*problems, listed(wrong, 6, 300, "; ")] if wrong else problems


def to_ours(x: Tensor, place: Place) -> Tensor:
    """Our Parameter, a view of their Tensor."""
    if place.part is not None:
        n = x.shape[-1] // 3
        x = x[..., place.part * n : (place.part + 1) * n]  # (C, 3 C) -> (C, C), or (3 C,) -> (C,)
    return x.T if place.transposed else x


def to_theirs(parts: list[Tensor], place: Place) -> Tensor:
    """Their Tensor, made of the one or three of our Parameters that it holds."""
    parts = [x.T if place.transposed else x for x in parts]
    return parts[0] if len(parts) == 1 else tl.concatenate(parts, axis=-1)
