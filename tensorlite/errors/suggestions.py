"""Habits from torch and NumPy, answered by a sentence that names our word: names, arguments, lists, in-place changes.

Nothing here computes. `missing` supports the `__getattr__` of the package, `explain` wraps functions whose arguments
torch names differently, and `adapt` gives the class Tensor the names and the operators that it does not have.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from .checks import unusable_array

# ----- names --------------------------------------------------------------------------------------------------------

NAMES = {  # of torch and NumPy -> what to write with a Tensor x
    "view": "x.reshape(shape)", "view_as": "x.reshape(y.shape)", "reshape_as": "x.reshape(y.shape)",
    "flatten": "x.reshape(-1)", "ravel": "x.reshape(-1)", "unflatten": "x.reshape(shape)",
    "permute": "x.transpose(axes)", "t": "x.T, or x.swapaxes(0, 1)", "t_": "x.T", "mT": "x.swapaxes(-1, -2)",
    "movedim": "x.transpose(axes)", "moveaxis": "x.transpose(axes)", "swapdims": "x.swapaxes(a, b)",
    "unsqueeze": "x.expand_dims(axis)", "expand": "x.broadcast_to(shape)", "expand_as": "x.broadcast_to(y.shape)",
    "repeat_interleave": "x.repeat(repeats, axis)", "chunk": "x.split(sections, axis)", "unbind": "list(x)",
    "cat": "tl.concatenate(xs, axis)", "concat": "tl.concatenate(xs, axis)", "hstack": "tl.concatenate(xs, axis)",
    "vstack": "tl.concatenate(xs, axis)", "narrow": "x[start:stop]", "select": "x[index]", "fliplr": "x.flip(1)",
    "gather": "x.take_along_axis(indices, axis)", "index_select": "x[indices]", "take": "x[indices]",
    "scatter": "tl.scatter_add(x, index, shape)", "index_add": "tl.scatter_add(x, index, shape)",
    "masked_select": "x[mask]", "compress": "x[mask]", "numel": "x.size", "nelement": "x.size", "dim": "x.ndim",
    "ndimension": "x.ndim", "itemsize": "x.data.itemsize", "nbytes": "x.data.nbytes", "strides": "x.data.strides",
    "flags": "x.data.flags", "contiguous": "x itself, or x.clone() for a copy", "is_contiguous": "x.data.flags",
    "copy": "x.clone()", "deepcopy": "x.clone()", "data_ptr": "x.data.ctypes.data", "grad_fn": "x.node",
    "cpu": 'x.to("cpu")', "cuda": 'x.to("cuda")', "is_cuda": 'x.device != "cpu"', "get": "x.numpy()",
    "type": "x.astype(dtype)", "type_as": "x.astype(y.dtype)", "float": "x.astype(tl.float32)",
    "double": "x.astype(tl.float64)", "half": "x.astype(tl.float16)", "bfloat16": "x.astype(tl.bfloat16)",
    "long": "x.astype(tl.int64)", "int": "x.astype(tl.int32)", "byte": "x.astype(tl.uint8)",
    "bool": "x.astype(bool)", "requires_grad_": "x.requires_grad = True", "retain_grad": "tl.grad(y, x)",
    "register_hook": "tl.grad(y, x)", "add": "x + y", "sub": "x - y", "subtract": "x - y", "mul": "x * y",
    "multiply": "x * y", "div": "x / y", "divide": "x / y", "true_divide": "x / y", "pow": "x ** y",
    "power": "x ** y", "neg": "-x", "negative": "-x", "eq": "x == y", "ne": "x != y", "lt": "x < y", "le": "x <= y",
    "gt": "x > y", "ge": "x >= y", "mm": "x @ y", "bmm": "x @ y", "mv": "x @ y", "dot": "x @ y", "inner": "x @ y",
    "absolute": "x.abs()", "clamp": "x.clip(low, high)", "amax": "x.max(axis)", "amin": "x.min(axis)",
    "where": "tl.where(condition, x, y)", "softmax": "tl.functional.softmax(x, axis)", "nonzero": "np.nonzero(x.numpy())",
    "log_softmax": "tl.functional.log_softmax(x, axis)", "relu": "tl.functional.relu(x)", "gelu": "tl.functional.gelu(x)",
    "silu": "tl.functional.silu(x)", "dropout": "tl.functional.dropout(x, p)", "unique": "np.unique(x.numpy())",
    "new_zeros": "tl.zeros(shape, x.dtype)", "new_ones": "tl.ones(shape, x.dtype)", "new_tensor": "tl.tensor(data)",
}  # fmt: skip

FUNCTIONS = {  # of the package torch or numpy -> what to write, where that is not the same as with a Tensor x
    "array": "tl.tensor(data)", "asarray": "tl.tensor(data)", "as_tensor": "tl.tensor(data)",
    "from_numpy": "tl.tensor(array)", "FloatTensor": "tl.tensor(data)", "LongTensor": "tl.tensor(data, tl.int64)",
    "float": "tl.float32", "double": "tl.float64", "half": "tl.float16", "long": "tl.int64", "int": "tl.int32",
    "bool": "tl.bool_", "inference_mode": "tl.no_grad()", "set_grad_enabled": "tl.no_grad()", "cuda": 'x.to("cuda")',
    "enable_grad": "code outside tl.no_grad()", "save": "tl.io.save(path, tensors)", "load": "tl.io.load(path)",
    "rand_like": "tl.rand(x.shape)", "randn_like": "tl.randn(x.shape)",
    "rand_int": "tl.randint(low, high, shape)", "permute": "tl.transpose(x, axes)", "seed": "tl.manual_seed(seed)",
    "Size": "a tuple", "device": 'a name, "cpu" or "cuda"', "linalg": "tl.norm(x)", "F": "tl.functional",
}  # fmt: skip

ARGUMENTS = {  # torch's and NumPy's names of arguments -> ours
    "dim": "axis", "dims": "axis", "axes": "axis", "keepdim": "keepdims", "input": "x", "a": "x", "other": "y",
    "correction": "ddof", "unbiased": "ddof", "min": "low", "max": "high", "a_min": "low", "a_max": "high",
    "size": "shape", "pad": "widths", "pad_width": "widths", "constant_values": "value",
    "tensors": "xs", "arrays": "xs", "shifts": "shift", "fill_value": "value", "diagonal": "k",
    "dim0": "a", "dim1": "b",
}  # fmt: skip


ADVICE = {  # arguments that have no counterpart -> what to write
    "descending": "write x.sort(axis).flip(axis), or for the order (-x).argsort(axis)",
    "create_graph": "write tl.grad(y, x, create_graph=True), which returns gradients that can be differentiated",
    "allow_unused": "omit it, the gradient is zeros where the output does not depend on an input",
    "decimals": "write (x * 10**decimals).round() / 10**decimals",
}

IN_PLACE = "abs add bernoulli ceil clamp clip copy cos div exp fill floor log masked_fill mul neg normal pow reciprocal"
IN_PLACE += " round rsqrt scatter scatter_add sigmoid sign sin sqrt square squeeze sub tanh uniform unsqueeze zero"


WRAPPED = ("clip", "round")  # methods without an axis that other libraries call with other arguments


def missing(owner: str, name: str, table: dict[str, str], known: Iterable[str]) -> AttributeError:
    """The error for a name that is not there: what to write, or names that look like it."""
    if name in table:
        return AttributeError(f"{owner} has no attribute {name!r}: write {table[name]}")
    import difflib  # only when something is wrong already

    close = difflib.get_close_matches(name, [each for each in known if not each.startswith("_")])
    hint = f": did you mean {' or '.join(close)}?" if close else ""
    return AttributeError(f"{owner} has no attribute {name!r}{hint}")


class Elsewhere:
    """A name that Tensor does not have. (A `__getattr__` would slow down every attribute of every Tensor.)"""

    def __init__(self, name: str, hint: str):
        self.name, self.hint = name, hint

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(f"a Tensor has no attribute {self.name!r}: {self.hint}", name=self.name, obj=instance)


# ----- arguments ----------------------------------------------------------------------------------------------------


def unknown_argument(name: str, unknown: str, takes: Iterable[str]) -> str:
    """The sentence for an argument that the function `name` does not have."""
    takes = list(takes)
    if unknown in ADVICE:
        return f"{name}: no argument {unknown!r} here: {ADVICE[unknown]}"
    word = ARGUMENTS.get(unknown)
    hint = f": write {word}= for {unknown}=" if word in [each.partition("=")[0] for each in takes] else ""
    return f"{name}: no argument {unknown!r} here; it takes {', '.join(takes)}{hint}"


def explaining(function: Callable) -> Callable:
    """`function`, whose errors about wrong arguments say which it takes."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (TypeError, AttributeError) as error:
            wrong = _misuse(function, args, kwargs, error)
            if not wrong:
                raise
            raise TypeError(wrong) from error

    return call


def _misuse(function: Callable, args: tuple, kwargs: dict, error: Exception) -> str:
    """What is wrong with the arguments of a call that failed; '' if nothing is found."""
    signature, name = inspect.signature(function), function.__name__
    takes = [str(p.replace(annotation=p.empty)) for p in signature.parameters.values() if p.name != "self"]
    if unknown := [key for key in kwargs if key not in signature.parameters]:
        return unknown_argument(name, unknown[0], takes)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as misfit:
        hint = f": {ADVICE['decimals']}" if name == "round" else ""
        return f"{name}: {misfit}; it takes {', '.join(takes) or 'no arguments'}{hint}"
    found = [_not_a_tensor(value) for value in args if isinstance(error, AttributeError)]
    return next((f"{name}: {sentence}" for sentence in found if sentence), "")


def _not_a_tensor(value: Any) -> str:
    """For what stands where a Tensor or a list of Tensors belongs: what to write."""
    if isinstance(value, (list, tuple)) and any(isinstance(each, (list, tuple)) for each in value):
        return "give Tensors, not lists of lists: write tl.tensor(...) of numbers, tl.stack(...) of a list of Tensors"
    if hasattr(value, "shape"):
        return unusable_array(value)
    return f"give a Tensor or an array, not {type(value).__name__}: write tl.tensor(...)"


def explain(namespace: dict[str, Any], names: Iterable[str]) -> None:
    """Wrap the plain functions among `names`."""
    for name in names:
        if inspect.isfunction(namespace[name]):
            namespace[name] = explaining(namespace[name])


# ----- changes in place ---------------------------------------------------------------------------------------------


class Count(int):
    """A number of elements; torch calls it as a method."""

    __slots__ = ()

    def __call__(self, *_: Any) -> None:
        raise TypeError("x.size is the number of elements, not a method: write x.shape for the lengths of the axes")


def _in_place(self, other: Any):
    """`x += y` binds the name to x + y; on a leaf that requires a gradient nobody wants that."""
    if self.node is None and self.requires_grad:
        raise RuntimeError(
            "an operator like += makes a new Tensor, which is not the leaf that gets a gradient: write y = x + ... for "
            "a new one; to change the values write to x.data and call x.changed()"
        )
    return NotImplemented


def _set_item(self, index: Any, value: Any) -> None:
    raise TypeError(
        "Tensors are not changed in place: write tl.where(mask, value, x) for a new one; to change the values write "
        "x.data[...] = value and call x.changed()"
    )


def adapt(tensor: type) -> None:
    """Give the class Tensor these answers: of its methods, those that torch calls with `dim` are wrapped."""
    tensor.backward = explaining(tensor.backward)  # type: ignore[attr-defined]
    for name, method in list(vars(tensor).items()):
        if inspect.isfunction(method) and (name in WRAPPED or "axis" in inspect.signature(method).parameters):
            setattr(tensor, name, explaining(method))
    hints = {f"{name}_": "Tensors are not changed in place, write x = ..." for name in IN_PLACE.split()}
    for name, hint in (hints | {name: f"write {ours}" for name, ours in NAMES.items()}).items():
        setattr(tensor, name, Elsewhere(name, hint))
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
        setattr(tensor, f"__i{name}__", _in_place)
    tensor.__setitem__ = _set_item  # type: ignore[attr-defined, index]
    tensor.__dir__ = _names  # type: ignore[method-assign, assignment]


def _names(self) -> list[str]:
    return [name for name in object.__dir__(self) if not isinstance(vars(type(self)).get(name), Elsewhere)]
