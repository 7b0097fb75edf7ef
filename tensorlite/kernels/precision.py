"""The dtype in which matrix products are computed: one setting for all kernels.

Weights, their gradients, the optimizer's moments and losses stay float32. What changes is the precision of the
operands of matrix products:

    float32    all of it in float32
    tf32       GPU: operands of float32 products are rounded to 10 bits of fraction; results are float32
    bfloat16   GPU: embeddings and linear layers return bfloat16, so activations between them are, too; sums are float32
               CPU: operands of large products are rounded, where the CPU and oneDNN can (cpu/onednn.py)
"""

DTYPES = ("float32", "tf32", "bfloat16")
_dtype = "float32"


def matmul_dtype() -> str:
    """The setting in force: one of `DTYPES`."""
    return _dtype


def set_matmul_dtype(name: str, device: str = "cpu") -> str:
    """Compute matrix products in `name` from now on; returns a sentence that says what is in force.

    `name`: "float32", "tf32" or "bfloat16" (ValueError for another one). Where `device` cannot compute in it, the
    setting becomes float32, and the sentence gives the reason.
    """
    global _dtype
    if name not in DTYPES:
        raise ValueError(f"the dtype of products must be one of {', '.join(map(repr, DTYPES))}, got {name!r}")
    why_not = "" if name == "float32" else _why_not(name, device)
    _dtype = "float32" if why_not else name
    if why_not:
        return f"{name} is off, all is computed in float32: {why_not}"
    if name == "float32":
        return "all in float32"
    return f"products in {name}, sums, weights and losses in float32"


def _why_not(name: str, device: str) -> str:
    """The reason why `device` does not compute products in `name`; "" if it does."""
    if device != "cpu":
        return ""
    if name == "tf32":
        return "tf32 is a mode of NVIDIA GPUs"
    from .cpu import onednn

    return onednn.missing()
