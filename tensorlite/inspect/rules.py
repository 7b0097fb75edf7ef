"""The mathematics of an op as text: its formula, and the derivative rule of each argument.

For an op of ops.py both are read from its line of the table. A kernel's source is loops over blocks of an array; FUSED
has its formulas instead, in the names that its derivative rule uses. They are Python expressions, and the tests
evaluate each of them and compare the result with what the kernel computes.
"""

import ast
import inspect
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from ..op_docs import source
from ..primitive import Primitive

WORDS = {  # what the formulas of FUSED use besides Python, the arguments and NumPy's elementwise functions
    ".T": ".T exchanges the last two axes",
    "rows": "rows(x) is x with one row for each position: (..., C) -> (N, C)",
    "mean_of": "mean_of(x) is the mean over the last axis, which stays with length 1",
    "total_of": "total_of(x) is the sum over the last axis, which stays with length 1",
    "masked": "masked makes the scores of positions that must not be seen -inf: with is_causal, the later ones",
    "join": "join puts arrays side by side along the last axis",
    "split": "split(x, 3) cuts the last axis into 3 parts",
    "split_heads": "split_heads cuts channels into heads: (B, T, H D) -> (B, H, T, D); of qkv, three such arrays",
    "join_heads": "join_heads puts heads side by side: (B, H, T, D) -> (B, T, H D)",
    "D": "D is the number of channels of a head",
    "one_hot": "one_hot(i) is 1 at the indices i and 0 elsewhere",
    "N": "N is the number of targets",
}
_SCORES = "dw = g @ v.T; ds = weights * (dw - total_of(dw * weights))"
_QKV = "gq, gk, gv = split(g, 3)"
_U = "sqrt(2 / pi)"
FUSED: dict[str, tuple[str, dict[str, str]]] = {  # formula: (what it computes, {argument: derivative rule})
    "linear": (
        "x @ weight.T + bias",
        {"x": "g @ weight", "weight": "rows(g).T @ rows(x)", "bias": "rows(g).sum(0)"},
    ),
    "projections": (
        "join(x @ query.T + query_bias, x @ key.T + key_bias, x @ value.T + value_bias)",
        {
            "x": f"gq @ query + gk @ key + gv @ value, where {_QKV}",
            **{name: f"rows(g{name[0]}).T @ rows(x), where {_QKV}" for name in ("query", "key", "value")},
            **{f"{name}_bias": f"rows(g{name[0]}).sum(0), where {_QKV}" for name in ("query", "key", "value")},
        },
    ),
    "embedding": ("weight[idx]", {"weight": "rows(one_hot(idx)).T @ rows(g)"}),
    "layer_norm": (
        "(x - mean) * rstd * weight + bias, where mean = mean_of(x); rstd = 1 / sqrt(mean_of((x - mean)**2) + eps)",
        {
            "x": "rstd * (h - mean_of(h) - z * mean_of(h * z)), where h = g * weight; z = (x - mean) * rstd",
            "weight": "rows(g * z).sum(0), where z = (x - mean) * rstd",
            "bias": "rows(g).sum(0)",
        },
    ),
    "gelu": (
        f"0.5 * x * (1 + tanh({_U} * (x + 0.044715 * x**3)))",
        {"x": f"g * (s + 2 * u * out * (1 - s)), where s = out / x; u = {_U} * (1 + 3 * 0.044715 * x**2)"},
    ),
    "apply_dropout_mask": ("where(keep, x / (1 - p), 0)", {"x": "where(keep, g / (1 - p), 0)"}),
    "attention": (
        "weights @ v, where weights = softmax(masked(scale * q @ k.T))",
        {
            "q": f"scale * ds @ k, where {_SCORES}",
            "k": f"scale * ds.T @ q, where {_SCORES}",
            "v": "weights.T @ g",
            "mask": f"ds, where {_SCORES}",
        },
    ),
    "heads_attention": (
        "join_heads(weights @ v), where q, k, v = split_heads(qkv); weights = softmax(masked(q @ k.T / sqrt(D)))",
        {
            "qkv": "join(join_heads(ds @ k / sqrt(D)), join_heads(ds.T @ q / sqrt(D)), join_heads(weights.T @ g)), "
            f"where q, k, v = split_heads(qkv); g = split_heads(g); {_SCORES}"
        },
    ),
    "cross_entropy": (
        "-(one_hot(targets) * log(softmax(logits))).sum() / N",
        {"logits": "g * (softmax(logits) - one_hot(targets)) / N"},
    ),
    "linear_cross_entropy": (
        "-(one_hot(targets) * log(softmax(x @ weight.T))).sum() / N",
        {
            "x": "d @ weight, where d = g * (softmax(x @ weight.T) - one_hot(targets)) / N",
            "weight": "rows(d).T @ rows(x), where d = g * (softmax(x @ weight.T) - one_hot(targets)) / N",
        },
    ),
}


def forward_formula(op: Primitive, given: Sequence[str]) -> str:
    """What `op` computes, in the names of its arguments: "x + y", "tanh(x)", "x @ weight.T + bias".

    `given` are the arguments that the call has: a term of an optional one that was left out is omitted. "" where there
    is no source file.
    """
    if op.name == "add":
        return "x + y"  # once a GPU is used, its forward is a kernel's (kernels/table.py)
    if hasattr(op, "rules"):
        return _forward_source(op)
    if op.name in FUSED:
        return _without_absent(FUSED[op.name][0], op, given)
    return _summary(op.forward)


def rule_formula(op: Primitive, i: int, given: Sequence[str]) -> str:
    """The derivative rule of argument number `i`: "g * (1 - out * out)". `given` as in `forward_formula`."""
    if hasattr(op, "rules"):
        return _rule_source(op, i)
    if op.name in FUSED:
        return _without_absent(FUSED[op.name][1][op.arguments[i]], op, given)
    return _summary(op.rule)  # type: ignore[attr-defined]


@lru_cache(None)
def rule_note(op: Primitive, i: int) -> str:
    """What the words of a rule mean that are not public functions: of its helpers in ops.py, or of FUSED; or ""."""
    if hasattr(op, "rules"):
        return _note(_rule_of(op, i))
    return explain(FUSED[op.name][1][op.arguments[i]]) if op.name in FUSED else ""


def explain(formula: str) -> str:
    """What the words of a formula of FUSED mean, in one sentence; "" where there are none to explain."""
    used = set(re.findall(r"\w+|\.T\b", formula))
    found = [meaning for word, meaning in WORDS.items() if word in used]
    return f"{'; '.join(found)}." if found else ""


@lru_cache(None)
def _forward_source(op: Primitive) -> str:
    return re.sub(r"xp\(\w+(\[0\])?\)\.", "", source(op.forward))  # xp(x) is NumPy or CuPy


@lru_cache(None)
def _rule_source(op: Primitive, i: int) -> str:
    return source(_rule_of(op, i))


def _rule_of(op: Primitive, i: int) -> Callable[..., Any]:
    rule: Callable[..., Any] = op.rules[0 if op.variadic else i]
    return rule


def _without_absent(text: str, op: Primitive, given: Sequence[str]) -> str:
    """The text without the terms " + bias" and factors " * weight" of optional arguments that were left out."""
    optional = [name for name, default in zip(op.arguments, op.defaults, strict=True) if default is None]
    for name in set(optional) - set(given):
        text = re.sub(rf" [+*] {name}\b", "", text)
    return text


def _note(function: Callable[..., Any]) -> str:
    """The documentation of the helpers that a function of one expression calls and that are not public."""
    try:
        tree = ast.parse(source(function), mode="eval")
    except SyntaxError:
        return ""
    known = function.__globals__
    names = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    notes = []
    for name in dict.fromkeys(names):
        helper = known.get(name)
        if name in ("xp", *known.get("__all__", ())):
            continue
        if isinstance(helper, Primitive) and name.startswith("_"):
            notes.append(_note(helper.forward))
        elif inspect.isfunction(helper) and helper.__doc__:
            notes.append(f"{name}: {_summary(helper)}")
    return " ".join(filter(None, notes))


def _summary(function: Callable[..., Any]) -> str:
    """The first paragraph of a docstring, on one line; or ""."""
    return " ".join((function.__doc__ or "").split("\n\n")[0].split())
