"""Every row of the table through the properties of tensorlite.testing; what is of this library alone; the registry."""

import functools

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from table import DIFFERENTIABLE, ROWS

import tensorlite as tl
from tensorlite import derived, ops
from tensorlite import functional as F
from tensorlite.accelerate.dispatch import KernelOp
from tensorlite.primitive import PRIMITIVES, Primitive
from tensorlite.testing import check_gradients, layouts, property_tests, smooth
from tensorlite.testing.properties import incoming

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
SEEDS = st.integers(0, 2**20)
NEVER_EMPTY = {"scaled_dot_product_attention"}  # test_cpu_kernels.py draws it without positions

test_property = property_tests(ROWS)


def test_differences_of_elements_that_lie_close_together():
    """What a nightly run found: with steps of 0.003 the differences themselves were wrong by 1e-4 of their value."""
    x = np.array([-2.9929, -2.9798, -2.9667])
    rows = {row.name: row for row in ROWS}
    check_gradients(rows["std"].op, x, order=2)
    check_gradients(functools.partial(rows["layer_norm, alone"].op, eps=0.1), x, order=2)


# ----- nothing is left out ----------------------------------------------------------------------------------------


def test_every_public_op_and_every_primitive_has_a_row():
    public = {*ops.__all__, *derived.__all__, *F.__all__}
    assert not public - {row.function for row in ROWS}
    assert not {op.name for op in PRIMITIVES.values()} - {name for row in ROWS for name in row.proves}
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", [row for row in ROWS if row.function not in NEVER_EMPTY], ids=lambda row: row.name)
def test_a_row_draws_empty_arrays(row):
    options = settings(max_examples=1000, derandomize=True, database=None, phases=[Phase.generate])
    find(row.inputs, lambda drawn: any(0 in shape for shape in drawn[0]), settings=options)


@every_row
def test_a_row_runs_the_primitives_that_it_proves_and_their_rules(row, monkeypatch):
    called, recorded = set(), set()

    def calling(call):
        def instead(self, *args, **meta):
            called.add(self.name)
            return call(self, *args, **meta)

        return instead

    def wrapping(self, *args):
        result = wrap(self, *args)
        if result.node:
            recorded.add(self.name)  # any backward applies the rules of a recorded node
        return result

    wrap = Primitive.wrap
    monkeypatch.setattr(Primitive, "wrap", wrapping)
    for kind in (Primitive, KernelOp):
        monkeypatch.setattr(kind, "__call__", calling(kind.__call__))

    @settings(max_examples=30, derandomize=True, database=None)
    @given(data=st.data())
    def use(data):
        shapes, meta = data.draw(row.inputs)
        row.op(*[tl.Tensor(x, requires_grad=True) for x in data.draw(smooth(*shapes, **row.domain))], **meta)

    use()
    assert set(row.proves) <= called
    assert row.gradient is None or set(row.proves) <= recorded


FUSED = {op.name for op in PRIMITIVES.values() if isinstance(op, KernelOp)}


@pytest.mark.parametrize(
    "row", [row for row in DIFFERENTIABLE if FUSED.intersection(row.proves)], ids=lambda row: row.name
)
@given(data=st.data(), seed=SEEDS)
def test_a_fused_op_is_its_specification_in_value_gradient_and_hessian_vector_product(row, data, seed):
    shapes, meta = data.draw(row.inputs)
    dtypes = data.draw(st.sampled_from([[np.float64] * 4, [np.float32] * 4, [np.float32, np.float64] * 2]))
    xs = [x.astype(dtype) for x, dtype in zip(data.draw(layouts(smooth(*shapes, **row.domain))), dtypes, strict=False)]

    def derivatives():
        tensors = [tl.Tensor(x, requires_grad=True) for x in xs]
        out = row.op(*tensors, **meta)
        gradients = tl.grad(out, tensors, incoming(out.shape, seed, out.dtype), create_graph=True)
        along = sum((p * incoming(p.shape, seed + 1, p.dtype)).sum() for p in gradients)
        return [out, *gradients, *(tl.grad(along, tensors) if along.requires_grad else ())]

    fast = derivatives()
    with tl.unfused():
        slow = derivatives()
    tolerance = 1e-9 if dtypes[0] == dtypes[1] == np.float64 else 2e-4
    for x, y in zip(fast, slow, strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x.data, y.data, rtol=tolerance, atol=tolerance)
