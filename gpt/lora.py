"""LoRA: learn a small correction beside weights that stay as they are.

One idea: a Linear x W^T + b is taken into a LoRALinear that adds (alpha / rank) x A B, with A (in, rank) and B (rank,
out) the only things that learn (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021). B starts at
zero, so at first nothing has changed. Everything else is frozen: it gets no gradient, and no memory for one.

`merge` puts a plain Linear with weight W + (alpha / rank) (A B)^T in the place of each, and hands back what it took
out; `unmerge` puts that in again. The originals are kept and not computed back: subtracting in floating point does not
give the old bits. Whoever needs no way back drops what `merge` returned, and its memory goes.

What it refuses: to adapt a model twice, and to load an adapter onto weights that it was not trained beside. A tied
head is no Linear but the token embedding's matrix: it is not adapted, and asking for it by name is an error.
"""

import copy
import fnmatch
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorlite as tl
from tensorlite import Generator, Tensor, io, nn
from tensorlite import functional as F

from .config import check_integer, check_number
from .jsonfile import parse

FORMAT, VERSION = "gpt.lora", 1
PARTS = ("lora_A", "lora_B")  # an adapter's names in a state_dict are the Linear's, and these behind it


class LoRALinear(nn.Module):
    """linear(x) + (alpha / rank) x A B: (..., in_features) -> (..., out_features), as `linear` alone at the start.

    A is uniform in +-1/sqrt(rank): the book's kaiming_uniform_(a=sqrt(5)), which takes the second axis, here the rank,
    for the fan-in. B is zero.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, generator: Generator | None = None):
        check_integer("rank", rank, low=1)
        check_number("alpha", alpha, low=0)
        self.linear, self.rank, self.alpha = linear, rank, float(alpha)
        draw, bound, weight = (generator or tl.default_generator).uniform, 1 / math.sqrt(rank), linear.weight
        drawn = draw(-bound, bound, (linear.in_features, rank))
        self.lora_A = nn.Parameter(tl.tensor(drawn, weight.dtype, weight.device))
        self.lora_B = nn.Parameter(tl.zeros((rank, linear.out_features), weight.dtype, weight.device))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(x, self.lora_A.T) * (self.alpha / self.rank)  # (..., rank)
        return self.linear(x) + F.linear(inner, self.lora_B.T)

    def merged(self) -> nn.Linear:
        """A plain Linear that computes the same, frozen where the original was; its bias is the original's."""
        plain = copy.copy(self.linear)
        with tl.no_grad():
            change = (self.lora_A @ self.lora_B).swapaxes(0, 1) * (self.alpha / self.rank)  # (out, in)
            plain.weight = nn.Parameter(self.linear.weight + change)
        plain.weight.requires_grad = self.linear.weight.requires_grad
        return plain


# ----- putting it in ----------------------------------------------------------------------------------------------


def apply(
    model: nn.Module,
    rank: int = 16,
    alpha: float = 16,
    targets: str | Iterable[str] = "*",
    generator: Generator | None = None,
) -> list[str]:
    """Adapt every Linear that `targets` names, in place, and freeze all else; the names of those adapted.

    A target is a Linear's whole name or a part of it between dots, and may have `*`: "*" is all of them (as the book
    does, the head too), "attention" those of attention, "feed_forward", "W_query", "head", "blocks.0.*" as they say.
    Matrices A are drawn in the order of the model's parts, from `generator` or tensorlite's default one.

    ValueError for a target that fits no Linear, for a model that has adapters, and for a rank or alpha that makes no
    sense: then nothing has changed.
    """
    check_integer("rank", rank, low=1)
    check_number("alpha", alpha, low=0)
    names = _matching(model, [targets] if isinstance(targets, str) else list(targets))
    for p in model.parameters():
        p.requires_grad, p.grad = False, None
    for name in names:
        _replace(model, name, LoRALinear(model_part(model, name), rank, alpha, generator))
    return names


def check_rank(model: nn.Module, rank: int, targets: str | Iterable[str] = "*") -> None:
    """ValueError where the rank is above the smaller side of every Linear that `apply` would adapt."""
    linears = [
        model_part(model, name) for name in _matching(model, [targets] if isinstance(targets, str) else [*targets])
    ]
    most = max(min(linear.in_features, linear.out_features) for linear in linears)
    if rank > most:
        raise ValueError(f"--rank must be at most {most}, the smaller side of the largest Linear, got {rank:,}")


def check_unused(config: Any, *names: str) -> None:
    """ValueError where one of these settings of LoRA differs from its default, and LoRA is not asked for."""
    if changed := [name for name in names if getattr(config, name) != getattr(type(config), name)]:
        asks = "--layers lora" if hasattr(config, "layers") else "--lora"
        raise ValueError(f"--{changed[0]} has no effect without {asks}: add {asks}, or omit --{changed[0]}")


def _matching(model: nn.Module, targets: list[str]) -> list[str]:
    """The names of the Linears that the targets mean, in the model's order."""
    if adapters(model):
        raise ValueError("this model has LoRA adapters already: merge them first, or start from the model without")
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    chosen = set()
    for target in targets:
        found = {n for n in linears if any(fnmatch.fnmatchcase(part, target) for part in (n, *n.split(".")))}
        if not found:
            known = dict.fromkeys(part for name in linears for part in name.split(".") if not part.isdigit())
            raise ValueError(
                f"no Linear of this model is called {target!r}: '*' means all, or choose of {', '.join(known)}"
                + ("" if "head" in known else " (the head is tied to the token embedding and is no Linear)")
            )
        chosen |= found
    if not chosen:
        raise ValueError("there is no target: name at least one, or '*' for every Linear")
    return [name for name in linears if name in chosen]


def model_part(model: nn.Module, name: str) -> Any:
    """The module called `name`, dots and all."""
    for part in name.split(".") if name else ():
        model = getattr(model, part)
    return model


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model_part(model, parent), last, module)


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted Linears by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The Parameters that learn: what an optimizer of a partly frozen model is given."""
    return [p for p in model.parameters() if p.requires_grad]


# ----- merging ----------------------------------------------------------------------------------------------------


def merge(model: nn.Module) -> dict[str, LoRALinear]:
    """Put a plain Linear that computes the same in the place of each adapted one; those, by name, for `unmerge`.

    The model is then as one that never had adapters: the same names, no cost for the correction. Logits agree with
    those before up to rounding.
    """
    taken = adapters(model)
    if not taken:
        raise ValueError("this model has no LoRA adapters: there is nothing to merge")
    for name, layer in taken.items():
        _replace(model, name, layer.merged())
    return taken


def unmerge(model: nn.Module, taken: Mapping[str, LoRALinear]) -> None:
    """Put back what `merge` took out: the original weights, to the bit, and the adapters beside them."""
    for name in taken:
        if not isinstance(model_part(model, name), nn.Linear):
            raise ValueError(f"{name} is no merged Linear: unmerge takes what merge returned for the same model, once")
    for name, layer in taken.items():
        _replace(model, name, layer)


# ----- files ------------------------------------------------------------------------------------------------------


def save(model: nn.Module, path: str | os.PathLike) -> None:
    """Write the adapters alone: A and B of each adapted Linear, with rank, alpha and a fingerprint of what is below."""
    layers = adapters(model)
    if not layers:
        raise ValueError("this model has no LoRA adapters: there is nothing to save")
    tensors = {f"{name}.{part}": getattr(layer, part).detach() for name, layer in layers.items() for part in PARTS}
    ranks = {name: [layer.rank, layer.alpha] for name, layer in layers.items()}
    about = {"version": VERSION, "layers": ranks, "base": fingerprint(layer.linear for layer in layers.values())}
    io.save(path, tensors, {FORMAT: json.dumps(about)})


def load(model: nn.Module, path: str | os.PathLike) -> list[str]:
    """Adapt a model as `save` wrote it down, frozen like after `apply`; the names of the adapted Linears.

    ValueError where the file is no adapter, does not fit the model's Linears, or was trained beside other weights:
    then nothing has changed.
    """
    about, tensors = _read(path)
    if adapters(model):
        raise ValueError("this model has LoRA adapters already: merge them first, or start from the model without")
    linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    if missing := [name for name in about["layers"] if name not in linears]:
        raise ValueError(f"{os.fspath(path)} adapts {missing[0]}, and this model has no Linear of that name")
    layers = {}
    for name, (rank, alpha) in about["layers"].items():
        layers[name] = LoRALinear(linears[name], rank, alpha, Generator(0))
        for part in PARTS:
            own, saved = getattr(layers[name], part), tensors[f"{name}.{part}"]
            if own.shape != saved.shape:
                raise ValueError(
                    f"{os.fspath(path)}: {name}.{part} has shape {saved.shape}, and this model needs {own.shape}: "
                    "it was made for another model"
                )
    if fingerprint(layer.linear for layer in layers.values()) != about.get("base"):
        raise ValueError(
            f"{os.fspath(path)} was trained beside other weights than this model's: load it onto the model that it "
            "was trained from"
        )
    for p in model.parameters():
        p.requires_grad, p.grad = False, None
    for name, layer in layers.items():
        layer.load_state_dict({part: tensors[f"{name}.{part}"].astype(layer.lora_A.dtype) for part in PARTS}, False)
        _replace(model, name, layer)
    return list(layers)


def _read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save` wrote: {"version", "layers", "base"} and the tensors, checked against each other."""
    text, tensors = io.metadata(path).get(FORMAT), io.load(path)
    if text is None:
        raise ValueError(f"{os.fspath(path)} is no LoRA adapter: its metadata lacks {FORMAT!r}")
    try:
        about = dict(parse(text))
        layers = {name: (rank, alpha) for name, (rank, alpha) in dict(about.get("layers", {})).items()}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)} is no LoRA adapter: its metadata is not as it was written") from error
    if about.get("version") != VERSION:
        raise ValueError(f"{os.fspath(path)} has version {about.get('version')!r:.80}, and this gpt reads {VERSION}")
    if sorted(tensors) != sorted(f"{name}.{part}" for name in layers for part in PARTS):
        raise ValueError(f"{os.fspath(path)} is not a whole adapter: its tensors are not those that it lists")
    for name, (rank, _) in layers.items():  # before a matrix of that rank is made
        if tensors[f"{name}.lora_A"].shape[-1:] != (rank,) or type(rank) is not int:
            raise ValueError(f"{os.fspath(path)} is no LoRA adapter: {name:.80} has not the rank {rank!r:.80}")
    return {**about, "layers": layers}, tensors


def fingerprint(linears: Iterable[nn.Linear] | Iterator[nn.Linear]) -> str:
    """SHA-256 of the weights: it says whether an adapter belongs to them."""
    digest = hashlib.sha256()
    for linear in linears:
        digest.update(linear.weight.numpy().tobytes())
    return digest.hexdigest()
