"""What `help`, `inspect.signature`, an editor and mypy say of a public name: the same, and something, for every one."""

import ast
import inspect
import pydoc
from pathlib import Path

import pytest

import tensorlite as tl
from tensorlite import data, derived, formulas, functional, io, nn, op_docs, ops, optim, random, testing
from tensorlite import inspect as tl_inspect
from tensorlite import typing as types
from tensorlite.primitive import PRIMITIVES, Primitive

STUB = Path(ops.__file__).with_suffix(".pyi")
MODULES = [tl, ops, derived, functional, formulas, nn, optim, data, io, random, tl_inspect, testing]


def public(module) -> list[str]:
    """The public functions and classes of a module: of `__all__`, or those that it defines."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        ]  # fmt: skip
    return [name for name in names if callable(getattr(module, name))]


def methods(kind: type):
    """(name, function) of the public methods and properties that a class of ours defines itself."""
    for base in kind.__mro__:
        if not base.__module__.startswith("tensorlite"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or not (inspect.isroutine(value) or isinstance(value, (property, classmethod))):
                continue
            if type(value).__name__ == "Elsewhere":  # a name that Tensor does not have
                continue
            yield name, value


FUNCTIONS, CLASSES = {}, {}
for module in MODULES:
    for name in public(module):
        value, path = getattr(module, name), f"{module.__name__}.{name}"
        (CLASSES if inspect.isclass(value) else FUNCTIONS)[path] = value


def problems(path: str, function) -> list[str]:
    """What is missing in the docstring and the signature of a function."""
    found = []
    if len((inspect.getdoc(function) or "").split()) < 2:
        found.append(f"{path}: no docstring")
    if isinstance(function, property):
        function = function.fget
    elif isinstance(function, (classmethod, staticmethod)):
        function = function.__func__
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.annotation is parameter.empty:
            found.append(f"{path}: argument {parameter.name} has no type")
        if parameter.kind is parameter.VAR_KEYWORD and f"`{parameter.name}`" not in (inspect.getdoc(function) or ""):
            found.append(f"{path}: the docstring does not say what **{parameter.name} is")
    if signature.return_annotation is signature.empty:
        found.append(f"{path}: no type of the result")
    return found


@pytest.mark.parametrize("path", FUNCTIONS)
def test_every_public_function_has_a_docstring_and_types(path):
    assert not problems(path, FUNCTIONS[path])


def test_a_method_has_the_text_of_the_function_of_its_name_or_none_of_it():
    assert tl.cumsum.__doc__ in tl.Tensor.cumsum.__doc__
    assert tl.Tensor.__add__.__doc__ is None


@pytest.mark.parametrize("path", CLASSES)
def test_every_public_class_and_method_has_a_docstring_and_types(path):
    kind = CLASSES[path]
    found = [] if kind.__doc__ else [f"{path}: no docstring"]
    for name, value in methods(kind):
        found += problems(f"{path}.{name}", value)
    assert not found, "\n".join(found)


# ----- ops: objects that are shown as functions -------------------------------------------------------------------


def test_help_shows_an_op_as_a_function_with_its_derivative():
    def shown(op) -> str:  # Python 3.13 breaks long lines; before 3.14 annotations that are strings have quotes
        return " ".join(pydoc.plain(pydoc.render_doc(op)).replace("'", "").split())

    text = shown(tl.tanh)
    assert "tanh(x: Tensor | Array | float) -> Tensor" in text
    assert "by x: g * (1 - out * out)" in text
    assert "class" not in text
    assert "x: Tensor | Array, axis: int | tuple[int, ...] | None = None" in shown(tl.sum)
    assert (tl.tanh.__name__, tl.tanh.__module__, tl.sum.__qualname__) == ("tanh", "tensorlite.ops", "sum")


def test_each_text_of_the_table_belongs_to_an_op_and_each_op_has_one():
    public_ops = {name for name, op in vars(ops).items() if isinstance(op, Primitive) and name[0] != "_"} - {"identity"}
    assert set(op_docs.DOCS) == public_ops
    assert all(text[0] not in " a" and text.endswith(".") for text in op_docs.DOCS.values())


def test_the_derivative_in_a_docstring_is_the_text_of_the_rule():
    assert op_docs.source(ops.div.rules[1]) == "-g * out / y"
    assert op_docs.source(ops.max.rules[0]) == "_share_among(g, x, out, axis, keepdims)"
    assert "by condition: not differentiable\n    by x: where(condition, g, 0)" in tl.where.__doc__
    assert tl.equal.__doc__.endswith("Not differentiable.")
    text = Path(ops.__file__).read_text(encoding="utf-8")
    for op in PRIMITIVES.values():
        for rule in [rule for rule in op.rules if rule] if op.__module__ == ops.__name__ else []:
            assert f": {op_docs.source(rule)}" in text, op.name


def test_without_the_source_an_op_has_its_docstring_all_the_same():
    assert op_docs.source(eval("lambda g: -g")) == ""


# ----- the stub ---------------------------------------------------------------------------------------------------


def stub() -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(STUB.read_text(encoding="utf-8")).body if hasattr(node, "args")}


def line_of(name: str, function) -> str:
    """The line that the stub should have for a function: its signature, with the aliases of typing.py."""
    text = str(inspect.signature(function)).replace("collections.abc.", "").replace("typing.", "")
    for alias in ("Shape", "Axis", "DType", "Operand", "ArrayLike"):
        meaning = inspect.formatannotation(getattr(types, alias)).replace("collections.abc.", "")
        text = text.replace(meaning, alias)
    return f"def {name}{text.replace(chr(39), '')}: ..."


@pytest.mark.parametrize("name", ops.__all__)
def test_the_stub_says_what_the_op_says(name):
    assert line_of(name, getattr(ops, name)) in STUB.read_text(encoding="utf-8").splitlines()


def test_the_stub_has_no_line_too_many():
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    listed = next(node.value for node in tree.body if isinstance(node, ast.AnnAssign))
    assert ast.literal_eval(listed) == ops.__all__
    assert [name for name in stub() if not hasattr(ops, name)] == []


# ----- the namespace ----------------------------------------------------------------------------------------------


def test_the_package_has_the_names_that_one_looks_for():
    assert tl.functional is functional
    assert tl.testing is testing
    assert tl.activation_checkpoint
    for name in ("unfused", "no_grad", "set_matmul_dtype", "set_threads", "use_device", "default_device", "formulas"):
        assert name in tl.__all__
    assert len(set(tl.__all__)) == len(tl.__all__)
    assert set(tl.__all__) <= set(dir(tl))
    space: dict = {}
    exec("from tensorlite import *", space)
    assert set(tl.__all__) <= set(space)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fused", "tl.functional"), ("graph", "tl.CudaGraph"), ("recompute", "tl.activation_checkpoint"),
        ("machine", "tl.devices.machine"), ("checkpoint", "tl.activation_checkpoint"),
        ("gelu", "tl.functional.gelu"), ("set_num_threads", "tl.set_threads"),
    ],
)  # fmt: skip
def test_an_old_name_is_answered_with_the_new_place(old, new):
    with pytest.raises(AttributeError, match=f"tensorlite has no attribute '{old}': write {new}"):
        getattr(tl, old)
