"""No function is written twice: what the kernels for CPU and GPU have in common is in kernels/shared.py."""

import ast
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import functional as F
from tensorlite import kernels
from tensorlite.devices import memory
from tensorlite.kernels import shared

FOLDER = Path(kernels.__file__).parent


def normalized(function: ast.FunctionDef) -> str:
    """The function as text without names of its own: its name, docstring, annotations, arguments and variables."""
    function = ast.parse(ast.unparse(function)).body[0]
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    arguments = [node.arg for node in ast.walk(function) if isinstance(node, ast.arg)]
    stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    names = {name: f"_{i}" for i, name in enumerate(dict.fromkeys([*arguments, *stored]))}
    function.name, function.returns = "f", None
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            node.arg, node.annotation = names[node.arg], None
        elif isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(function)


def statements(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return sum(isinstance(node, ast.stmt) for statement in body for node in ast.walk(statement))


def functions(text: str, at_least: int = 2) -> list[ast.FunctionDef]:
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    return [function for function in found if statements(function) >= at_least]


def test_no_function_is_written_twice():
    places = defaultdict(list)
    for path in sorted(FOLDER.rglob("*.py")):
        for function in functions(path.read_text(encoding="utf-8")):
            places[normalized(function)].append(f"{path.relative_to(FOLDER)}: {function.name}")
    assert sum(map(len, places.values())) > 100  # it did read them
    assert [same for same in places.values() if len(same) > 1] == []


def test_names_docstrings_and_annotations_make_no_difference():
    one = 'def f(x: int, y):\n    "About x."\n    z = x + y\n    return z * x\n'
    two = "def g(a, b) -> int:\n    c: int = a + b\n    return c * a\n".replace(": int", "")
    other = "def f(x, y):\n    z = x - y\n    return z * x\n"
    assert normalized(*functions(one)) == normalized(*functions(two)) != normalized(*functions(other))
    assert functions("def f(x):\n    'About x.'\n    return x\n") == []


# ----- what the functions compute ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.75, 4.0), (1.0, 0.0)])
def test_dropout_scale(p, expected):
    assert shared.dropout_scale(p) == expected


def test_attention_scale():
    q = np.zeros((2, 3, 16), np.float32)
    assert shared.attention_scale(None, q) == 0.25
    assert shared.attention_scale(0.0, q) == 0.0
    assert type(shared.attention_scale(np.float64(0.5), q)) is float  # a float64 scalar would widen float32 arrays


def test_projections_are_one_linear_of_stacked_weights():
    rng = np.random.default_rng(0)
    x, *weights = [rng.standard_normal(shape) for shape in ((5, 3), (2, 3), (4, 3), (1, 3))]
    biases = [rng.standard_normal(len(w)) for w in weights]
    calls = []

    def linear(x, weight, bias):
        calls.append(weight.shape)
        return x @ weight.T + (0 if bias is None else bias)

    expected = np.concatenate([x @ w.T + b for w, b in zip(weights, biases, strict=True)], axis=-1)
    np.testing.assert_allclose(shared.projections(linear, x, *weights, *biases), expected)
    np.testing.assert_allclose(shared.projections(linear, x, *weights), expected - np.concatenate(biases))
    assert calls == [(7, 3), (7, 3)]
    dx, dw, db = object(), np.arange(21.0).reshape(7, 3), np.arange(7.0)
    assert shared.split_gradients((dx, None, None), weights[0], weights[1]) == (dx, *[None] * 6)
    first, *parts = shared.split_gradients((None, dw, db), weights[0], weights[1])
    assert first is None
    for whole, three in ((dw, parts[:3]), (db, parts[3:])):
        assert [len(part) for part in three] == [2, 4, 1]
        np.testing.assert_array_equal(np.concatenate(three), whole)


@pytest.mark.parametrize("argument", range(7))
def test_a_gradient_that_one_projection_needs_is_computed_for_the_stacked_weights(argument):
    needs = [i == argument for i in range(7)]
    assert shared.stacked_needs(needs) == (argument == 0, argument in (1, 2, 3), argument > 3)


def test_split_result_is_a_view_by_heads():
    x = np.arange(2 * 3 * 8).reshape(2, 3, 8)
    heads = shared.split_result(x, 4)
    assert heads.shape == (2, 4, 3, 2)
    assert np.shares_memory(heads, x)
    np.testing.assert_array_equal(heads[1, 2], x[1, :, 4:6])


def test_arrays_are_concatenated_as_a_view_where_they_are_adjacent_and_of_one_kind():
    flat = np.arange(24, dtype=np.float32)
    a, b, c = (flat[i : i + 8].reshape(4, 2) for i in (0, 8, 16))
    one = memory.adjacent_view([a, b, c])
    assert one.tolist() == flat.reshape(12, 2).tolist()
    assert np.shares_memory(one, flat)
    assert memory.adjacent_view([b, c]).tolist() == flat[8:].reshape(8, 2).tolist()
    assert memory.adjacent_view([a]).tolist() == a.tolist()
    other = np.arange(8, dtype=np.float32).reshape(4, 2)
    apart = [[a, c], [b, a], [a, a], [a, a, b], [a, other], [other, a], [a, b.T], [a, flat[8:16]], []]
    apart += [[a, flat[8:16].view(np.int32).reshape(4, 2)]]
    for arrays in apart:
        assert memory.adjacent_view(arrays) is None
    for arrays in apart[:4]:
        assert memory.concatenated(*arrays).tolist() == np.concatenate(arrays).tolist()


@pytest.mark.parametrize("given", list(itertools.product([False, True], repeat=3)), ids=str)
def test_projections_with_some_biases_are_three_products_side_by_side(given):
    rng = np.random.default_rng(0)
    x, *weights = [rng.standard_normal(shape) for shape in ((2, 3, 4), (5, 4), (2, 4), (3, 4))]
    biases = [rng.standard_normal(len(w)) if has else None for w, has in zip(weights, given, strict=True)]
    parts = [x @ w.T + (0 if b is None else b) for w, b in zip(weights, biases, strict=True)]
    tensors = [None if a is None else tl.tensor(a, requires_grad=True) for a in (x, *weights, *biases)]
    out = F.projections(*tensors)
    np.testing.assert_allclose(out.numpy(), np.concatenate(parts, axis=-1), rtol=1e-12)
    g = rng.standard_normal(out.shape)
    by = [None if t is None else tl.grad(out, t, g, retain_graph=True).numpy() for t in tensors]
    pieces = np.split(g, [5, 7], axis=-1)
    np.testing.assert_allclose(by[0], sum(p @ w for p, w in zip(pieces, weights, strict=True)), rtol=1e-12)
    for piece, by_weight, by_bias in zip(pieces, by[1:4], by[4:], strict=True):
        np.testing.assert_allclose(by_weight, np.einsum("bto,bti->oi", piece, x), rtol=1e-12)
        if by_bias is not None:
            np.testing.assert_allclose(by_bias, piece.sum((0, 1)), rtol=1e-12)
