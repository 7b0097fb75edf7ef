"""Activation checkpointing: what a module computes is not saved for the backward pass, but computed again in it.

To the engine a module under `activation_checkpoint` is one node. In the forward pass nothing inside it is recorded, and
only its inputs are saved. When the gradient of its result arrives, the module runs again, with recording and with the
random numbers and modes of the first time, and the gradient goes through what that recorded. A GPT so holds one vector
per position and block, and the rest for one block at a time: about a third more computation for a fraction of the
memory, and the same bits. Chen et al., "Training deep nets with sublinear memory cost", 2016.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..autograd import Node, Variable, grad, walk
from ..grad_mode import no_grad, recording, setting
from ..nn import Module
from ..primitive import Primitive, identity
from ..random import Generator, default_generator
from ..tensor import Tensor


def activation_checkpoint(module: Module, *inputs: Any) -> Tensor:
    """module(*inputs), a Tensor, for which the backward pass saves nothing but the inputs.

    The gradients are those of a plain call, bit for bit, to any order. TypeError if `module` is not a Module (its
    Parameters must be known) or returns anything but one Tensor. RuntimeError in the backward pass if it uses a Tensor
    that requires a gradient and is neither an input nor a Parameter.
    """
    if not isinstance(module, Module):
        raise TypeError(
            f"activation_checkpoint: a Module is needed, whose Parameters are known, not {type(module).__name__}"
        )
    arguments = [*inputs, *module.parameters()]
    wanted = [i for i, x in enumerate(arguments) if isinstance(x, Variable) and x.requires_grad]
    if not recording.get() or not wanted:
        out: Tensor = module(*inputs)
        return out
    conditions = _conditions(module)
    with no_grad():
        out = module(*inputs)
    if not isinstance(out, Tensor):
        raise TypeError(
            f"activation_checkpoint: {type(module).__name__} must return one Tensor, not {type(out).__name__}"
        )
    parents = [(x.node or x) if i in wanted else None for i, x in enumerate(arguments)]
    versions = [(i, x._version, x._version[0]) for i, x in enumerate(arguments) if isinstance(x, Variable)]
    node = Node(_checkpointed, parents, wanted, [module, inputs, conditions], versions, out.data)
    return Tensor(out.data, True, node, out._version)


class CheckpointedModule(Primitive):
    """The op of such a node. Its arguments are the module's inputs and, after them, its Parameters."""

    name = "activation_checkpoint"

    def __init__(self) -> None:
        super().__init__(lambda *xs: xs)
        self.plan([[]])

    def apply_vjp(self, node: Node, g: Any, wanted: Sequence[int], record: bool) -> list[tuple[Any, ...]]:
        """Run the module again, with recording: a pair (parent, its gradient) for each wanted argument."""
        module, inputs, conditions = node.saved
        if record:
            with _restored(module, conditions):
                again = [identity(x) if i in wanted else x for i, x in enumerate(inputs)]
                out = module(*again)
            arguments = [*again, *module.parameters()]
            pieces = grad(out, [arguments[i] for i in wanted], g, create_graph=True)
            return [(node.parents[i], piece) for i, piece in zip(wanted, pieces, strict=True)]
        again = [_leaf(x) if isinstance(x, Variable) else x for x in inputs]
        with setting(recording, True), _restored(module, conditions):
            out = module(*again)
        positions = {id(x): i for i, x in enumerate([*again, *module.parameters()])}
        grads, found = walk(out, g), []
        for leaf in grads.sums:
            if id(leaf) not in positions:
                raise RuntimeError(
                    f"activation_checkpoint: {type(module).__name__} uses a Tensor of shape {leaf.shape} that requires "
                    "a gradient and is neither an input nor a Parameter of it: make it one"
                )
            if (i := positions[id(leaf)]) in wanted:
                found.append((node.parents[i], grads.take(leaf)))
        return found


_checkpointed = CheckpointedModule()


def _leaf(x: Variable) -> Variable:
    """The same values as a leaf, at which a graph ends."""
    return Variable.result(x.data, x.requires_grad, None, x._version)


# ----- what else a module's result depends on ---------------------------------------------------------------------


def _conditions(module: Module) -> tuple[list[tuple[Any, ...]], list[bool]]:
    """The states of the random generators that a module may draw from, and the mode of each of its parts."""
    return [each.mark() for each in _generators(module)], [part.training for part in module.modules()]


def _generators(module: Module) -> list[Generator]:
    own = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Generator)]
    return list({id(each): each for each in (default_generator, *own)}.values())  # each once, in order


@contextmanager
def _restored(module: Module, conditions: tuple[list[tuple[Any, ...]], list[bool]]) -> Iterator[None]:
    """Generators and modes as `conditions` say, and afterwards as they are now."""
    now = _conditions(module)
    _restore(module, conditions)
    try:
        yield
    finally:
        _restore(module, now)


def _restore(module: Module, conditions: tuple[list[tuple[Any, ...]], list[bool]]) -> None:
    for generator, state in zip(_generators(module), conditions[0], strict=True):
        generator.back_to(state)
    for part, mode in zip(module.modules(), conditions[1], strict=True):
        part.training = mode
