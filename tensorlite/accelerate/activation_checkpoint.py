"""Gradient checkpointing: a module's activations are not kept for the backward pass, but computed again in it.

One idea: a module is one node. Going forward it records nothing and keeps its inputs alone; when a gradient arrives, it
runs again with recording, with the random numbers and the modes of the first time, and pulls the gradient through. So a
GPT holds one vector a position and block, and within one block at a time the rest: about a third more computation for
a fraction of the memory, and the same bits. Chen et al., "Training deep nets with sublinear memory cost", 2016.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..autograd import Node, Variable, _walk, grad, recording, setting
from ..grad_mode import no_grad
from ..nn import Module
from ..primitive import Primitive, identity
from ..random import Generator, default_generator
from ..tensor import Tensor


class Checkpoint(Primitive):
    """The op behind `checkpoint`: its arguments are the module's inputs and, behind them, its Parameters."""

    name = "checkpoint"

    def __init__(self) -> None:
        super().__init__(lambda *xs: xs)
        self._plan([[]])

    def __call__(self, module: Module, *inputs: Any) -> Tensor:
        """module(*inputs), a Tensor, of which backward keeps nothing but the inputs.

        TypeError for what is not a Module (its Parameters must be known) or gives something else than one Tensor.
        """
        if not isinstance(module, Module):
            raise TypeError(f"checkpoint: a Module is needed, whose Parameters are known, not {type(module).__name__}")
        arguments = [*inputs, *module.parameters()]
        wanted = [i for i, x in enumerate(arguments) if isinstance(x, Variable) and x.requires_grad]
        if not recording.get() or not wanted:
            return module(*inputs)
        then = _conditions(module)
        with no_grad():
            out = module(*inputs)
        if not isinstance(out, Tensor):
            raise TypeError(f"checkpoint: {type(module).__name__} must give one Tensor, not {type(out).__name__}")
        parents = [(x.node or x) if i in wanted else None for i, x in enumerate(arguments)]
        versions = [(i, x._version, x._version[0]) for i, x in enumerate(arguments) if isinstance(x, Variable)]
        node = Node(self, parents, wanted, [module, inputs, then], versions, out.data)
        return Tensor.result(out.data, True, node, out._version)  # type: ignore[return-value]

    def pull(self, node: Node, g: Any, wanted: Sequence[int], record: bool) -> list[tuple]:
        """Run again, with recording: (parent, the gradient by it) for each wanted argument."""
        self._check(node)
        module, inputs, then = node.saved
        if record:
            with _as_before(module, then):
                again = [identity(x) if i in wanted else x for i, x in enumerate(inputs)]
                out = module(*again)
            arguments = [*again, *module.parameters()]
            pieces = grad(out, [arguments[i] for i in wanted], g, create_graph=True)
            return [(node.parents[i], piece) for i, piece in zip(wanted, pieces, strict=True)]
        again = [_leaf(x) if isinstance(x, Variable) else x for x in inputs]
        with setting(recording, True), _as_before(module, then):
            out = module(*again)
        places = {id(x): i for i, x in enumerate([*again, *module.parameters()])}
        pulled = []
        for leaf, piece, owned in _walk(out, g, None, keep=False, record=False):
            if id(leaf) not in places:
                raise RuntimeError(
                    f"checkpoint: {type(module).__name__} uses a Tensor of shape {leaf.shape} that requires a gradient "
                    "and is neither an input nor a Parameter of it: make it one"
                )
            if (i := places[id(leaf)]) in wanted:
                pulled.append((node.parents[i], piece if owned else piece.copy()))
        return pulled


def _leaf(x: Variable) -> Variable:
    """The same values, where a graph of its own ends."""
    return Variable.result(x.data, x.requires_grad, None, x._version)


# ----- what else a module's result depends on ---------------------------------------------------------------------


def _conditions(module: Module) -> tuple[list[tuple], list[bool]]:
    """Where the random streams stand that a module may draw from, and the mode of each of its parts."""
    return [each.mark() for each in _generators(module)], [part.training for part in module.modules()]


def _generators(module: Module) -> list[Generator]:
    own = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Generator)]
    return list({id(each): each for each in (default_generator, *own)}.values())  # each once, in order


@contextmanager
def _as_before(module: Module, then: tuple[list[tuple], list[bool]]) -> Iterator[None]:
    """Streams and modes as they were `then`, and afterwards as they are now."""
    now = _conditions(module)
    _put(module, then)
    try:
        yield
    finally:
        _put(module, now)


def _put(module: Module, conditions: tuple[list[tuple], list[bool]]) -> None:
    for generator, state in zip(_generators(module), conditions[0], strict=True):
        generator.back_to(state)
    for part, mode in zip(module.modules(), conditions[1], strict=True):
        part.training = mode


checkpoint = Checkpoint()
