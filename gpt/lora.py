"""LoRA: train a low-rank correction to frozen weights.

`apply` replaces a Linear x W^T + b by a LoRALinear, which adds (alpha / rank) x A B. Only A (in, rank) and B (rank,
out) are trained (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021). B starts at zero, so the model
computes the same at first. All other parameters are frozen: they get no gradient, and no memory for one.

`merge` replaces each LoRALinear by a Linear with weight W + (alpha / rank) (A B)^T and returns the LoRALinears;
`unmerge` puts them back. The original weights are kept, not computed by subtraction, which would not give the same
bits. Their memory is freed when the return value of `merge` is dropped.

A model can be adapted only once, and an adapter loads only onto the weights that it was trained with. A tied head is
the token embedding's matrix, not a Linear: it is not adapted, and naming it as a target is an error.
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
PARTS = ("lora_A", "lora_B")  # in a state_dict and in files these follow the Linear's name


class LoRALinear(nn.Module):
    """linear(x) + (alpha / rank) x A B: (..., in_features) -> (..., out_features), as `linear` alone at the start.

    A is uniform in +-1/sqrt(rank): the book's kaiming_uniform_(a=sqrt(5)), which takes the second axis, here the rank,
    for the fan-in. B is zero.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, generator: Generator | None = None):
        check_integer("rank", rank, low=1)
        check_number("alpha", alpha, low=0)
        self.linear, self.rank, self.alpha = linear, int(rank), float(alpha)
        draw, bound, weight = (generator or tl.default_generator).uniform, 1 / math.sqrt(rank), linear.weight
        drawn = draw(-bound, bound, (linear.in_features, rank))
        self.lora_A = nn.Parameter(tl.tensor(drawn, weight.dtype, weight.device))
        self.lora_B = nn.Parameter(tl.zeros((rank, linear.out_features), weight.dtype, weight.device))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(x, self.lora_A.T) * (self.alpha / self.rank)  # (..., rank)
        out: Tensor = self.linear(x) + F.linear(inner, self.lora_B.T)  # (..., out_features)
        return out

    def merged(self) -> nn.Linear:
        """A Linear with weight W + (alpha / rank) (A B)^T and the original's bias, frozen where the original is."""
        linear = copy.copy(self.linear)
        with tl.no_grad():
            change = (self.lora_A @ self.lora_B).swapaxes(0, 1) * (self.alpha / self.rank)  # (out, in)
            linear.weight = nn.Parameter(self.linear.weight + change)
        linear.weight.requires_grad = self.linear.weight.requires_grad
        return linear


# ----- adapting a model -------------------------------------------------------------------------------------------


def apply(
    model: nn.Module,
    rank: int = 16,
    alpha: float = 16,
    targets: str | Iterable[str] = "*",
    generator: Generator | None = None,
) -> list[str]:
    """Replace every Linear that `targets` names by a LoRALinear, freeze all else, and return the names of the Linears.

    A target is a Linear's whole name or one part of it between dots, and may contain `*`: "*" is all of them (as in the
    book, also the head), "attention" those of attention, and so on: "feed_forward", "W_query", "head", "blocks.0.*".
    The matrices A are drawn in the order of the model's parts, from `generator` or tensorlite's default generator.

    ValueError for a target that matches no Linear, for a model that has adapters already, and for a rank or alpha
    outside its range; the model is then unchanged.
    """
    check_integer("rank", rank, low=1)
    check_number("alpha", alpha, low=0)
    names = _matching(model, [targets] if isinstance(targets, str) else list(targets))
    for p in model.parameters():
        p.requires_grad, p.grad = False, None
    for name in names:
        _replace(model, name, LoRALinear(_submodule(model, name), rank, alpha, generator))
    return names


def check_rank(model: nn.Module, rank: int, targets: str | Iterable[str] = "*") -> None:
    """ValueError where the rank is above the smaller side of every Linear that `apply` would adapt."""
    linears = [
        _submodule(model, name) for name in _matching(model, [targets] if isinstance(targets, str) else [*targets])
    ]
    most = max(min(linear.in_features, linear.out_features) for linear in linears)
    if rank > most:
        raise ValueError(f"--rank must be at most {most}, the smaller side of the largest Linear, got {rank:,}")


def check_unused(config: Any, *names: str) -> None:
    """ValueError where one of these LoRA settings differs from its default; call it when LoRA is not used."""
    if changed := [name for name in names if getattr(config, name) != getattr(type(config), name)]:
        asks = "--layers lora" if hasattr(config, "layers") else "--lora"
        raise ValueError(f"--{changed[0]} has no effect without {asks}: add {asks}, or omit --{changed[0]}")


def _matching(model: nn.Module, targets: list[str]) -> list[str]:
    """The names of the Linears that the targets match, in the model's order."""
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
                + ("" if "head" in known else " (the head is tied to the token embedding and is not a Linear)")
            )
        chosen |= found
    if not chosen:
        raise ValueError("no target is given: name at least one, or '*' for every Linear")
    return [name for name in linears if name in chosen]


def _submodule(model: nn.Module, name: str) -> Any:
    """The module of that name, as in `named_modules`; the model itself for ""."""
    for part in name.split(".") if name else ():
        model = getattr(model, part)
    return model


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(_submodule(model, parent), last, module)


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted Linears by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The Parameters that are not frozen, for an optimizer."""
    return [p for p in model.parameters() if p.requires_grad]


# ----- merging ----------------------------------------------------------------------------------------------------


def merge(model: nn.Module) -> dict[str, LoRALinear]:
    """Replace each LoRALinear by a Linear that computes the same, and return the LoRALinears by name, for `unmerge`.

    The model then has the names and the cost of one without adapters. Logits are the same up to rounding.
    ValueError for a model without adapters.
    """
    layers = adapters(model)
    if not layers:
        raise ValueError("this model has no LoRA adapters: there is nothing to merge")
    for name, layer in layers.items():
        _replace(model, name, layer.merged())
    return layers


def unmerge(model: nn.Module, layers: Mapping[str, LoRALinear]) -> None:
    """Put back the LoRALinears that `merge` returned: the original weights, bit for bit, and their adapters."""
    for name in layers:
        if not isinstance(_submodule(model, name), nn.Linear):
            raise ValueError(
                f"{name} is not a merged Linear: unmerge takes what merge returned for the same model, once"
            )
    for name, layer in layers.items():
        _replace(model, name, layer)


# ----- files ------------------------------------------------------------------------------------------------------


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the adapters alone: A, B, rank and alpha of each LoRALinear, and a fingerprint of the frozen weights."""
    layers = adapters(model)
    if not layers:
        raise ValueError("this model has no LoRA adapters: there is nothing to save")
    tensors = {f"{name}.{part}": getattr(layer, part).detach() for name, layer in layers.items() for part in PARTS}
    ranks = {name: [layer.rank, layer.alpha] for name, layer in layers.items()}
    about = {"version": VERSION, "layers": ranks, "base": fingerprint(layer.linear for layer in layers.values())}
    io.save(path, tensors, {FORMAT: json.dumps(about)})


def load(model: nn.Module, path: str | os.PathLike[str]) -> list[str]:
    """Adapt a model with the adapters that `save` wrote, freeze it as `apply` does, and return the Linears' names.

    ValueError where the file is not an adapter, does not fit the model's Linears, or was trained with other base
    weights; the model is then unchanged.
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
            f"{os.fspath(path)} was trained with other base weights than this model's: load it onto the model that it "
            "was trained from"
        )
    for p in model.parameters():
        p.requires_grad, p.grad = False, None
    for name, layer in layers.items():
        layer.load_state_dict({part: tensors[f"{name}.{part}"].astype(layer.lora_A.dtype) for part in PARTS}, False)
        _replace(model, name, layer)
    return list(layers)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file of `save`: {"version", "layers", "base"} and the tensors, checked against each other."""
    text, tensors = io.metadata(path).get(FORMAT), io.load(path)
    if text is None:
        raise ValueError(f"{os.fspath(path)} is not a LoRA adapter: its metadata lacks {FORMAT!r}")
    try:
        about = dict(parse(text))
        layers = {name: (rank, alpha) for name, (rank, alpha) in dict(about.get("layers", {})).items()}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)} is not a LoRA adapter: its metadata is damaged") from error
    if about.get("version") != VERSION:
        raise ValueError(f"{os.fspath(path)} has version {about.get('version')!r:.80}, and this gpt reads {VERSION}")
    if sorted(tensors) != sorted(f"{name}.{part}" for name in layers for part in PARTS):
        raise ValueError(f"{os.fspath(path)} is incomplete: its tensors are not those that its metadata lists")
    for name, (rank, _) in layers.items():  # before a matrix of that rank is made
        if tensors[f"{name}.lora_A"].shape[-1:] != (rank,) or type(rank) is not int:
            raise ValueError(f"{os.fspath(path)} is not a LoRA adapter: {name:.80} does not have the rank {rank!r:.80}")
    return {**about, "layers": layers}, tensors


def fingerprint(linears: Iterable[nn.Linear] | Iterator[nn.Linear]) -> str:
    """SHA-256 of the weights, by which an adapter recognizes the weights that it was trained with."""
    digest = hashlib.sha256()
    for linear in linears:
        digest.update(linear.weight.numpy().tobytes())
    return digest.hexdigest()
