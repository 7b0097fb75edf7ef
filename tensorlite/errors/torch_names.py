"""Names of PyTorch and NumPy that tensorlite does not have, and what to write instead: tables only.

suggestions.py makes the error messages of them. Nothing is read here unless a name or an argument was not found.
"""

_SET_LR = "optimizer.lr = optim.warmup_cosine(step, lr=..., min_lr=..., warmup=..., total=...) before each step"
_FREEZE = "for p in module.parameters(): p.requires_grad = False"
_INIT = "write to p.data[...] and call p.changed()"
_CLIP = "optimizer.step(grad_scale=optim.clip_scale(optim.grad_norm(params), max_norm))"

# ----- names --------------------------------------------------------------------------------------------------------

NAMES: dict[str, dict[str, str]] = {  # owner -> name -> what to do instead
    "Module": {
        "cuda": 'use .to("cuda")',
        "cpu": 'use .to("cpu")',
        "float": "use .to(tl.float32)",
        "double": "use .to(tl.float64)",
        "half": "use .to(tl.float16)",
        "bfloat16": "use .to(tl.bfloat16)",
        "type": "use .to(dtype)",
        "astype": "use .to(dtype)",
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
        "encode": "use tokenizer.encode(text); the functions of gpt.look take gpt.look.load(run)",
        "generate": "use gpt.generation.generate(model, prompts, max_new_tokens)",
        "extend": "append each module",
        "insert": "make a new nn.ModuleList",
    },
    "Optimizer": {
        "param_groups": "use .groups",
        "learning_rate": "use .lr",
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
        "MultiheadAttention": "use tensorlite.functional.multi_head_attention, or gpt.attention.MultiHeadAttention",
        "Transformer": "use gpt.model.GPT",
        "TransformerEncoderLayer": "use gpt.model.Block",
        "TransformerDecoderLayer": "use gpt.model.Block",
        "ModuleDict": "use attributes, or a nn.ModuleList",
        "ParameterList": "use attributes, or a nn.ModuleList of modules that have one Parameter each",
        "ParameterDict": "use attributes",
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
    "functional": {
        "tanh": "use tl.tanh(x)",
        "sigmoid": "use tl.sigmoid(x)",
        "swish": "use silu(x)",
        "pad": "use tl.pad(x, widths)",
        "add": "use tl.add(x, y), or x + y",
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

TENSOR = {  # method or attribute -> the expression to write with a Tensor x
    "view": "x.reshape(shape)", "view_as": "x.reshape(y.shape)", "reshape_as": "x.reshape(y.shape)",
    "flatten": "x.reshape(-1)", "ravel": "x.reshape(-1)", "unflatten": "x.reshape(shape)",
    "permute": "x.transpose(axes)", "t": "x.T, or x.swapaxes(0, 1)", "t_": "x.T", "mT": "x.swapaxes(-1, -2)",
    "movedim": "x.transpose(axes)", "moveaxis": "x.transpose(axes)", "swapdims": "x.swapaxes(a, b)",
    "unsqueeze": "x.expand_dims(axis)", "expand": "x.broadcast_to(shape)", "expand_as": "x.broadcast_to(y.shape)",
    "repeat_interleave": "x.repeat(repeats, axis)", "chunk": "x.split(sections, axis)", "unbind": "list(x)",
    "cat": "tl.concatenate(xs, axis)", "concat": "tl.concatenate(xs, axis)", "hstack": "tl.concatenate(xs, axis)",
    "vstack": "tl.concatenate(xs, axis)", "narrow": "x[start:stop]", "select": "x[index]", "fliplr": "x.flip(1)",
    "gather": "x.take_along_axis(indices, axis)", "index_select": "x[indices]", "take": "x[indices]",
    "index_add": "tl.scatter_add(x, index, shape)",
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
    "where": "tl.where(condition, x, y)", "nonzero": "np.nonzero(x.numpy())", "unique": "np.unique(x.numpy())",
    "softmax": "tl.functional.softmax(x, axis)", "log_softmax": "tl.functional.log_softmax(x, axis)",
    "relu": "tl.functional.relu(x)", "gelu": "tl.functional.gelu(x)", "silu": "tl.functional.silu(x)",
    "dropout": "tl.functional.dropout(x, p)",
    "new_zeros": "tl.zeros(shape, x.dtype)", "new_ones": "tl.ones(shape, x.dtype)", "new_tensor": "tl.tensor(data)",
}  # fmt: skip

PACKAGE = {  # function of torch or numpy -> the expression to write, where that is not the same as with a Tensor x
    "array": "tl.tensor(data)", "asarray": "tl.tensor(data)", "as_tensor": "tl.tensor(data)",
    "from_numpy": "tl.tensor(array)", "FloatTensor": "tl.tensor(data)", "LongTensor": "tl.tensor(data, tl.int64)",
    "float": "tl.float32", "double": "tl.float64", "half": "tl.float16", "long": "tl.int64", "int": "tl.int32",
    "bool": "tl.bool_", "inference_mode": "tl.no_grad()", "set_grad_enabled": "tl.no_grad()", "cuda": 'x.to("cuda")',
    "enable_grad": "code outside tl.no_grad()", "save": "tl.io.save(path, tensors)", "load": "tl.io.load(path)",
    "rand_like": "tl.rand(x.shape)", "randn_like": "tl.randn(x.shape)",
    "rand_int": "tl.randint(low, high, shape)", "permute": "tl.transpose(x, axes)", "seed": "tl.manual_seed(seed)",
    "Size": "a tuple", "device": 'a name, "cpu" or "cuda"', "linalg": "tl.norm(x)", "F": "tl.functional",
    "checkpoint": "tl.activation_checkpoint(module, x)", "recompute": "tl.activation_checkpoint(module, x)",
    "compile": "tl.CudaGraph(function)", "CUDAGraph": "tl.CudaGraph",
    "graph": "tl.CudaGraph", "fused": "tl.functional", "machine": "tl.devices.machine",
    "set_num_threads": "tl.set_threads(n)", "get_num_threads": "tl.devices.machine.threads()",
    "set_float32_matmul_precision": 'tl.set_matmul_dtype("tf32", device)',
    "set_default_device": "tl.use_device(device)",
}  # fmt: skip

# PyTorch's methods whose names end with an underscore, which change a tensor in place
IN_PLACE = "abs add bernoulli ceil clamp clip copy cos div exp fill floor log masked_fill mul neg normal pow reciprocal"
IN_PLACE += " round rsqrt scatter scatter_add sigmoid sign sin sqrt square squeeze sub tanh uniform unsqueeze zero"

# ----- arguments ----------------------------------------------------------------------------------------------------

RENAMED = {  # argument of a function -> ours
    "dim": "axis", "dims": "axis", "axes": "axis", "keepdim": "keepdims", "input": "x", "a": "x", "other": "y",
    "correction": "ddof", "unbiased": "ddof", "min": "low", "max": "high", "a_min": "low", "a_max": "high",
    "size": "shape", "pad": "widths", "pad_width": "widths", "constant_values": "value",
    "tensors": "xs", "arrays": "xs", "shifts": "shift", "fill_value": "value", "diagonal": "k",
    "dim0": "a", "dim1": "b", "attn_mask": "mask", "target": "targets",
}  # fmt: skip

ADVICE = {  # argument of a function that has no counterpart -> what to do instead
    "descending": "write x.sort(axis).flip(axis), or for the order (-x).argsort(axis)",
    "create_graph": "write tl.grad(y, x, create_graph=True), which returns gradients that can be differentiated",
    "allow_unused": "omit it, the gradient is zeros where the output does not depend on an input",
    "decimals": "write (x * 10**decimals).round() / 10**decimals",
    "inplace": "omit it, Tensors are not changed in place",
    "normalized_shape": "omit it, the last axis is normalized",
}

ANYTHING = object()  # stands for every value
_DEVICE = ((None,), 'use .to("cuda") afterwards, or make it inside `with tl.default_device("cuda"):`')
_DTYPE = ((None,), "use .to(dtype) afterwards")
_FUSED = ((ANYTHING,), "")

ARGUMENTS: dict[str, dict[str, tuple[tuple[object, ...], str]]] = {
    # argument of a class's methods -> values that ask for nothing and are ignored, and what to do instead of others
    "Module": {
        "device": _DEVICE,
        "dtype": _DTYPE,
        "inplace": ((ANYTHING,), ""),
        "padding_idx": ((None,), "mask the padding in the loss: targets of -100 do not count"),
        "max_norm": ((None,), "scale the rows in forward"),
        "sparse": ((False,), "gradients are dense"),
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
