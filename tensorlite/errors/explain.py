"""What an op says when its forward function fails: one sentence that names the op and its arguments."""

from collections.abc import Sequence
from typing import Any

from ..backend import Scalar, device_of, is_array
from .checks import checked_axes

UNSUPPORTED_KINDS = frozenset("cOSUMm")  # kinds of dtypes: complex numbers, objects, strings, dates


def op_error(op: Any, error: Exception, raw: Sequence[Any], meta: dict[str, Any]) -> Exception:
    """The `error` of an array library as an error of `op` that says what is wrong. It is checked first whether the
    arguments are on different devices, then whether one is neither an array nor a number.
    """
    devices = sorted({device_of(x) for x in raw if is_array(x)})
    if len(devices) > 1:
        return ValueError(
            f"{op.name}: arguments on different devices, {' and '.join(devices)}: move one with .to(device)"
        )
    if wrong := argument_error(op, error, raw):
        return wrong
    call = call_text(op.name, raw)
    if isinstance(error, AttributeError) and error.__traceback__ and error.__traceback__.tb_next is None:
        return TypeError(f"{call}: its forward function must return one array, not {type(error.obj).__name__}")
    if "axis" in meta and raw and is_array(raw[0]):
        try:
            checked_axes(meta["axis"], raw[0].ndim)
        except (TypeError, ValueError, IndexError) as wrong_axis:
            return type(wrong_axis)(f"{call}: {wrong_axis}")
        if isinstance(meta["axis"], tuple) and isinstance(error, TypeError):
            return TypeError(f"{call}: axis must be one integer, not {meta['axis']}")
    if product := _product_mismatch(op.name, raw):
        return ValueError(f"{call}: {product}")
    if "zero-size array" in str(error):
        return ValueError(f"{call}: a maximum or minimum over no elements does not exist: an axis is empty")
    kind = next(kind for kind in (IndexError, ValueError, TypeError, AttributeError) if isinstance(error, kind))
    if kind is TypeError and "ufunc" in str(error):  # NumPy has no loop for these dtypes
        return TypeError(f"{call}: not defined for these dtypes: cast first, x.astype(dtype)")
    return kind(f"{call}: {error}")  # NumPy's subclasses take other arguments than a sentence


def _product_mismatch(name: str, raw: Sequence[Any]) -> str:
    """Why `matmul` or `linear` cannot multiply arrays of these shapes; '' where they fit, or for another op."""
    if name not in ("matmul", "linear"):
        return ""
    x, y = [getattr(a, "shape", ()) for a in raw[:2]]
    if not x or not y:
        return "one of them has no axis to sum over: write x * y"
    both = f"shapes {x} and {y} do not fit"
    if name == "linear":
        if x[-1] != y[1]:
            return f"x of shape {x} needs a weight of shape (n_out, {x[-1]}), not {y}: the last axes must be equal"
        return ""
    inner, where = (y[-2], "the last axis but one") if len(y) > 1 else (y[0], "the axis")
    if x[-1] != inner:
        return f"{both}: the last axis of the first, {x[-1]}, must equal {where} of the second, {inner}"
    if min(len(x), len(y)) > 2:
        return f"{both}: the axes before the last two, {x[:-2]} and {y[:-2]}, must be equal or 1"
    return ""


def call_text(name: str, raw: Sequence[Any]) -> str:
    """The call of an op as text, with the dtypes and shapes of its arguments: "add(float32[2, 3], int)"."""
    return f"{name}({', '.join(f'{x.dtype}{list(x.shape)}' if is_array(x) else type(x).__name__ for x in raw)})"


def unsupported_result(name: str, raw: Sequence[Any], dtype: Any) -> TypeError:
    """A TypeError for an op whose forward function has returned an array of a kind in `UNSUPPORTED_KINDS`."""
    wrong = f"the result would be of dtype {dtype}, which Tensors do not hold"
    parts = ", such as .real and .imag" if dtype.kind == "c" else ""
    return TypeError(f"{call_text(name, raw)}: {wrong}: return floats, integers or booleans{parts}")


def argument_error(op: Any, error: Exception, raw: Sequence[Any]) -> TypeError | None:
    """A TypeError for the first argument that is neither an array nor a number; None if there is none."""
    for i, x in enumerate(raw):
        if is_array(x):
            kind = getattr(x.dtype, "kind", None)  # the dtypes of torch have none
            wrong = f"floats, integers or booleans, not {x.dtype}" if kind in UNSUPPORTED_KINDS else ""
        elif isinstance(x, (int, float, Scalar)) and getattr(error, "obj", None) is x:  # the op needed its shape
            wrong = f"Tensors and arrays, not {type(x).__name__}: write tl.tensor(...)"
        elif isinstance(x, (int, float, Scalar)) or (x is None and op.defaults[i : i + 1] == [None]):
            wrong = ""
        elif isinstance(x, (list, tuple)):  # NumPy accepts them together with an array
            wrong = "" if isinstance(error, ValueError) else f"Tensors, not a {type(x).__name__}: write tl.tensor(...)"
        else:
            wrong = f"Tensors, arrays and numbers, not {type(x).__name__}"
        if wrong:
            return TypeError(f"{call_text(op.name, raw)}: give {wrong}")
    return None
