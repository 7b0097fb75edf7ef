"""Ops that are computed by a kernel: one fast forward and one rule, in place of the many small ops of a formula.

kernels/table.py makes such an op for each formula and kind of device. Three things set it apart from the ops of ops.py:

- It has a **specification**, the formula. What its kernel does not support (other dtypes, other shapes) the
  specification computes. The tests hold that both give the same values and derivatives.
- Its rule is written for arrays. Where a gradient is to be differentiated in turn, the engine differentiates the
  specification instead.
- It may be cheap to **recompute**. LayerNorm and GELU take far less time than the product that follows them, so no
  other kernel-backed op saves their large results: in its place it saves their node, and the first rule that asks for
  the result computes it again.
"""

import contextvars
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

from ..autograd import Node, Variable, grad
from ..backend import Array
from ..errors.explain import argument_error, op_error
from ..grad_mode import setting
from ..primitive import FAILURES, Primitive, astype, identity

RECOMPUTE_SIZE = 1 << 19  # elements: smaller arrays stay in a cache, and saving them is faster than recomputing
_use_kernels = contextvars.ContextVar("use_kernels", default=True)


def unfused() -> AbstractContextManager[None]:
    """`with unfused():` no kernel is used; the graph shows every step of each formula.

    Values are the same up to rounding, which depends on the order of a kernel's sums.
    """
    return setting(_use_kernels, False)


class KernelOp(Primitive):
    """A formula with a kernel: a fast forward on arrays, and one rule for the gradients of all arguments.

    `forward` and `spec` have the same arguments. `forward` may return `out, residuals`: a dict of arrays that the rule
    asks for by their names, which are given as `residuals`. The rule gets `g` and a bool per argument, whether its
    gradient is needed; then what it asks for by name, as any rule does. It returns a gradient, or None, per argument.
    `supports(*raw, **meta)` says whether `forward` can be called with these raw arguments.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        spec: Callable[..., Any],
        residuals: Sequence[str] = (),
        supports: Callable[..., bool] = lambda *raw, **meta: True,
        recompute: bool = False,
    ):
        super().__init__(forward)
        self.residuals, self.spec, self.supports, self.recompute = residuals, spec, supports, recompute
        self.rule: Any = None

    def vjp(self, *rules: Callable[..., Any] | None) -> Self:
        """Attach the one rule; None says that the op is not differentiable."""
        (self.rule,) = rules
        if self.rule is None:
            self.plan([None] * len(self.arguments))
            return self
        names = list(inspect.signature(self.rule).parameters)[2:]
        saved = [*names, *self.arguments, *self.keywords]  # the specification may need all arguments
        self.plan([[*saved, "out"] if self.recompute else saved] * len(self.arguments))
        self.asked = [self.position[name] for name in names]
        self.asks_out = "out" in names
        return self

    def __call__(self, *args: Any, **meta: Any) -> Any:
        """The result as an array, or as a Variable if an argument is one; recorded if one requires a gradient."""
        if len(args) != self.arity or (meta and not self.keywords.keys() >= meta.keys()):
            args, meta = self.bind(args, meta)
        raw, mask, bit, variables = [], 0, 1, 0
        for a in args:
            if isinstance(a, Variable):
                variables += 1
                if a._requires_grad:
                    mask |= bit
                a = a.data
            raw.append(a)
            bit += bit
        try:
            if not (_use_kernels.get() and self.supports(*raw, **meta)):
                return self.spec(*args, **meta)
        except (AttributeError, TypeError) as error:  # a list has no shape
            if wrong := argument_error(self, error, raw):
                raise wrong from error
            raise
        try:
            out = self.forward(*raw, **meta)
        except FAILURES as error:
            raise op_error(self, error, raw, meta) from error
        if type(out) is tuple:
            out, residuals = out
            meta = meta | residuals  # by name, as rules ask for both
        return self.wrap(args, raw, out, meta, mask) if variables else out

    def _reader(self, name: str) -> Callable[..., Any]:
        return (lambda raw, out, meta: meta[name]) if name in self.residuals else super()._reader(name)

    def asked_names(self, i: int) -> tuple[str, ...]:
        return tuple(inspect.signature(self.rule).parameters)[2:]

    def known_names(self) -> list[str]:
        return [*super().known_names(), *self.residuals]

    def wrap(self, args: Sequence[Any], raw: Sequence[Any], out: Array, meta: dict[str, Any], mask: int) -> Variable:
        result = super().wrap(args, raw, out, meta, mask)
        if (node := result.node) is not None:
            for i in node.wanted:
                if raw[i].size > RECOMPUTE_SIZE and _can_recompute(node.parents[i]):
                    node.saved[self.position[self.arguments[i]]] = node.parents[i]
            if self.recompute and (out.size > RECOMPUTE_SIZE or not self.asks_out):
                node.saved[self.position["out"]] = None
        return result

    def apply_vjp(self, node: Node, g: Any, wanted: Sequence[int], record: bool) -> list[tuple[Any, ...]]:
        saved = self.complete(node, self.asks_out)
        if record:
            gradients: Any = dict(zip(wanted, self._differentiate_specification(node, g, wanted), strict=True))
        else:
            needs_grad = [False] * self.arity
            for i in wanted:
                needs_grad[i] = True
            gradients = self.rule(g, needs_grad, *[saved[slot] for slot in self.asked])
        return [(node.parents[i], self.fit(gradients[i], g, node.parents[i], i)) for i in wanted]

    def complete(self, node: Node, out: bool) -> list[Any]:
        """The saved values of the node, with unsaved results recomputed; its own result only if `out`."""
        saved: list[Any] = node.saved
        for slot, value in enumerate(saved):
            if type(value) is Node:
                value.check()
                saved[slot] = value.op.complete(value, True)[value.op.position["out"]]
        if out and saved[self.position["out"]] is None:
            meta = {name: saved[self.position[name]] for name in self.keywords}
            result = self.forward(*[saved[self.position[name]] for name in self.arguments], **meta)
            saved[self.position["out"]] = result[0] if type(result) is tuple else result
        return saved

    def _differentiate_specification(self, node: Node, g: Any, wanted: Sequence[int]) -> list[Any]:
        values = self.saved_variables(node)
        args = [values[slot] for slot, _ in self.argument_slots]
        for i in wanted:  # partial derivatives: as an argument may be computed from another, each gets its own node
            args[i] = identity(args[i])
        meta = {name: values[self.position[name]] for name in self.keywords}
        out = astype(self.spec(*args, **meta), g.data.dtype)  # the loss of a GPU's kernel may be wider
        found: list[Any] = grad(out, [args[i] for i in wanted], g, create_graph=True)
        return found


def _can_recompute(parent: Any) -> bool:
    return isinstance(parent, Node) and isinstance(parent.op, KernelOp) and parent.op.recompute
