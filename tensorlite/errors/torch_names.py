"""What PyTorch calls by another name, or has and tensorlite has not: one table, read only when a name or an argument
was not found.

NAMES: for a name that is missing in a class or module, what to write instead. ARGUMENTS: for an argument that is
unknown, what to write instead; where it is given one of the listed values, which ask for nothing, it is ignored.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

_SET_LR = "optimizer.lr = optim.warmup_cosine(step, lr=..., min_lr=..., warmup=..., total=...) before each step"
_FREEZE = "for p in module.parameters(): p.requires_grad = False"
_INIT = "write to p.data[...] and call p.changed()"
_CLIP = "optimizer.step(grad_scale=optim.clip_scale(optim.grad_norm(params), max_norm))"

NAMES: dict[str, dict[str, str]] = {
    "Module": {
        "cuda": 'use .to("cuda")',
        "cpu": 'use .to("cpu")',
        "float": "use .to(tl.float32)",
        "double": "use .to(tl.float64)",
        "half": "use .to(tl.float16)",
        "bfloat16": "use .to(tl.bfloat16)",
        "type": "use .to(dtype)",
        "named_children": "use .children(), which gives (name, module)",
        "apply": "for module in model.modules(): ...",
        "requires_grad_": _FREEZE,
        "register_parameter": "assign a nn.Parameter in __init__",
        "add_module": "assign the module in __init__, or use a nn.ModuleList",
        "register_module": "assign the module in __init__, or use a nn.ModuleList",
        "get_submodule": "use dict(model.named_modules())[name]",
        "get_parameter": "use dict(model.named_parameters())[name]",
        "register_forward_hook": "there are no hooks: change forward",
        "register_forward_pre_hook": "there are no hooks: change forward",
        "register_full_backward_hook": "there are no hooks: read .grad after backward()",
        "share_memory": "use model.state_dict() and load_state_dict() to hand weights to another process",
        "compile": "there is no compilation: kernels are fused already",
        "generate": "use gpt.generate.generate(model, prompts, max_new_tokens)",
        "extend": "append each module",
        "insert": "make a new nn.ModuleList",
    },
    "Optimizer": {
        "param_groups": "use .groups",
        "state": "use .state_dict()",
        "defaults": "use .groups[0]",
        "add_param_group": "give all groups when the optimizer is made",
        "load": "use .load_state_dict(state)",
    },
    "DataLoader": {
        "sampler": "an epoch's order comes from `shuffle` and `generator`",
        "batch_sampler": "an epoch's order comes from `shuffle` and `generator`",
        "collate_fn": "use .collate",
        "num_workers": "there are no worker processes",
    },
    "nn": {
        "functional": "use tensorlite.functional (linear, softmax, cross_entropy, ...)",
        "utils": f"to clip gradients: {_CLIP}",
        "init": f"to set a Parameter's values: {_INIT}",
        "CrossEntropyLoss": "use tensorlite.functional.cross_entropy(logits, targets)",
        "NLLLoss": "use tensorlite.functional.cross_entropy(logits, targets)",
        "MSELoss": "use tensorlite.functional.mse_loss(x, y)",
        "Softmax": "use tensorlite.functional.softmax(x, axis=-1)",
        "LogSoftmax": "use tensorlite.functional.log_softmax(x, axis=-1)",
        "MultiheadAttention": "use tensorlite.functional.multi_head_attention, or gpt.attention.MultiHeadAttention",
        "Transformer": "use gpt.model.GPT",
        "TransformerEncoderLayer": "use gpt.model.Block",
        "TransformerDecoderLayer": "use gpt.model.Block",
        "ModuleDict": "use attributes, or a nn.ModuleList",
        "ParameterList": "use attributes, or a nn.ModuleList of modules that have one Parameter each",
        "ParameterDict": "use attributes",
        "Identity": "use nn.Sequential(), which returns its input",
        "Flatten": "use x.reshape(len(x), -1) in forward",
        "Buffer": "use register_buffer(name, tensor)",
        "DataParallel": "there is one device to a process",
        "Conv1d": "there are no convolutions",
        "Conv2d": "there are no convolutions",
        "BatchNorm1d": "use nn.LayerNorm or nn.RMSNorm",
        "BatchNorm2d": "use nn.LayerNorm or nn.RMSNorm",
        "RNN": "there are no recurrent layers: write the loop in forward",
        "LSTM": "there are no recurrent layers: write the loop in forward",
        "GRU": "there are no recurrent layers: write the loop in forward",
        "Swish": "use nn.SiLU",
    },
    "optim": {
        "lr_scheduler": f"set the learning rate: {_SET_LR}",
        "clip_grad_norm_": f"use {_CLIP}",
        "RMSprop": "use optim.AdamW",
        "Adagrad": "use optim.AdamW",
        "Adamax": "use optim.AdamW",
        "NAdam": "use optim.AdamW",
        "RAdam": "use optim.AdamW",
        "LBFGS": "use optim.AdamW",
    },
    "data": {
        "TensorDataset": "give DataLoader a list of tuples: list(zip(x, y))",
        "Subset": "give DataLoader a list: [dataset[i] for i in indices]",
        "random_split": "permute with tl.randperm and give DataLoader a list: [dataset[i] for i in indices]",
        "ConcatDataset": "give DataLoader a list of all items",
        "IterableDataset": "a dataset has len() and [i]",
        "RandomSampler": "use DataLoader(dataset, shuffle=True)",
        "SequentialSampler": "use DataLoader(dataset, shuffle=False)",
        "BatchSampler": "use DataLoader(dataset, batch_size=...)",
        "DistributedSampler": "there is one device to a process",
    },
}  # fmt: skip

_ANYTHING = object()  # an argument whose value never matters here
_DEVICE = ((None,), 'use .to("cuda") afterwards, or make it inside `with tl.default_device("cuda"):`')
_DTYPE = ((None,), "use .to(dtype) afterwards")
_FUSED = ((_ANYTHING,), "")

ARGUMENTS: dict[str, dict[str, tuple[tuple, str]]] = {
    "Module": {
        "device": _DEVICE,
        "dtype": _DTYPE,
        "inplace": ((_ANYTHING,), ""),
        "padding_idx": ((None,), "mask the padding in the loss: targets of -100 do not count"),
        "max_norm": ((None,), "scale the rows in forward"),
        "sparse": ((False,), "gradients are dense"),
        "elementwise_affine": ((True,), "use tl.functional.layer_norm(x), which has neither weight nor bias"),
        "normalized_shape": ((), "the argument is `dim`, the length of the last axis"),
    },
    "Optimizer": {
        "fused": _FUSED,
        "foreach": _FUSED,
        "capturable": _FUSED,
        "differentiable": ((False,), "use tl.grad(..., create_graph=True) and update by hand"),
        "maximize": ((False,), "call backward on the negative loss"),
        "amsgrad": ((False,), "it is not implemented"),
        "dampening": ((0, 0.0), "it is not implemented"),
        "decoupled_weight_decay": ((False,), "use optim.AdamW"),
    },
    "DataLoader": {
        "num_workers": ((0,), "batches are made in this process: give 0 or omit it"),
        "collate_fn": ((None,), "the argument is `collate`"),
        "pin_memory": ((False,), "move batches with .to(device): omit it"),
        "persistent_workers": ((False,), "batches are made in this process: omit it"),
        "prefetch_factor": ((None,), "batches are made in this process: omit it"),
        "worker_init_fn": ((None,), "batches are made in this process: omit it"),
        "multiprocessing_context": ((None,), "batches are made in this process: omit it"),
        "timeout": ((0,), "batches are made in this process: omit it"),
        "sampler": ((None,), "give a dataset that is a list in the order that you want"),
        "batch_sampler": ((None,), "give batch_size, shuffle and drop_last"),
    },
}  # fmt: skip


def hint(owner: str, name: str) -> str:
    """What to write for PyTorch's `name` in `owner`, as ': ...'; '' where the table has nothing."""
    advice = NAMES[owner].get(name)
    return f": {advice}" if advice else ""


def missing(module: str) -> Callable[[str], Any]:
    """A module's `__getattr__`: an AttributeError that says what to write instead."""

    def __getattr__(name: str):
        raise AttributeError(f"module 'tensorlite.{module}' has no attribute {name!r}{hint(module, name)}")

    return __getattr__


def explaining(owner: str) -> Callable[[Callable], Callable]:
    """A decorator: unknown arguments of PyTorch are ignored if they ask for nothing, otherwise a TypeError says what to
    write. It costs nothing while all arguments are known.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(self, *args, **kwargs):
            try:
                return function(self, *args, **kwargs)
            except TypeError:
                unknown = kwargs.keys() - inspect.signature(function).parameters.keys()
                if not unknown & ARGUMENTS[owner].keys():
                    raise
                for name in sorted(unknown):
                    _ignore(owner, type(self).__name__, name, kwargs.pop(name))
            return function(self, *args, **kwargs)

        return call

    return decorate


def _ignore(owner: str, kind: str, argument: str, value: Any) -> None:
    """Nothing if the value asks for nothing; otherwise a TypeError."""
    ignored, advice = ARGUMENTS[owner].get(argument, ((), "it is unknown"))
    if _ANYTHING in ignored or any(type(value) is type(x) and value == x for x in ignored):
        return
    raise TypeError(f"{kind} has no argument {argument!r}: {advice}") from None
