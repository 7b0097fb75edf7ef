"""Neural-network modules: layers whose parameters have names.

A module is an ordinary object whose attributes are its structure: the Parameters and Modules among them, in the order
in which they were assigned, are what `parameters()`, `state_dict()` and `to()` visit. There is no registry and no
metaclass, so `super().__init__()` is not needed. Layers are initialized from PyTorch's default distributions, drawn in
PyTorch's order: the same seed gives PyTorch's weights.

`copy.deepcopy` and pickle give a module that shares nothing with the original and keeps its tied parameters, modes and
gradients; `copy.copy` gives one with attributes of its own and the same Parameters and children.

These are errors: a new attribute after `__init__` (mostly a mistyped name), Modules inside a plain list, a Tensor
assigned in a Parameter's place, and a state whose names, shapes or dtypes do not match.
"""

from ..errors.suggestions import module_getattr
from .containers import ModuleList, Sequential
from .layers import (
    ELU,
    GELU,
    Dropout,
    Embedding,
    Flatten,
    Identity,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogSigmoid,
    LogSoftmax,
    ReLU,
    RMSNorm,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    as_indices,
    skip_init,
)
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, KLDivLoss, MSELoss, NLLLoss
from .module import Module, Parameter, make_adjacent

__getattr__ = module_getattr("nn")
__all__ = [
    "BCEWithLogitsLoss", "CrossEntropyLoss", "ELU", "Dropout", "Embedding", "Flatten", "GELU", "Identity", "KLDivLoss",
    "LayerNorm", "LeakyReLU", "Linear", "LogSigmoid", "LogSoftmax", "MSELoss", "Module", "ModuleList", "NLLLoss",
    "Parameter", "RMSNorm", "ReLU", "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh", "as_indices",
    "make_adjacent", "skip_init",
]  # fmt: skip
