"""The dtype that products are computed in: one switch for all kernels.

One idea: weights, their gradients, moments and losses stay float32; what may be coarser is what is multiplied.

    float32    all in float32
    tf32       GPU: products of float32 arrays round their operands to 10 bits of fraction; the results are float32
    bfloat16   GPU: embeddings and linear layers give bfloat16, so activations between them are; sums are in float32
               CPU: operands of large products are rounded, where the CPU and oneDNN can (kernels/onednn.py)
"""

DTYPES = ("float32", "tf32", "bfloat16")
_dtype = "float32"


def matmul_dtype() -> str:
    """What is in force."""
    return _dtype


def set_matmul_dtype(name: str, device: str = "cpu") -> str:
    """Compute products in `name` from now on; returns the sentence that says what holds now.

    Where the device cannot do it, it stays float32, and the sentence says why. ValueError for another name.
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
    if device != "cpu":
        return ""
    if name == "tf32":
        return "tf32 is a mode of NVIDIA GPUs"
    from .cpu import onednn

    return onednn.missing()
