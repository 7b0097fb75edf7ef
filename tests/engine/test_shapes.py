"""`tensorlite.testing.strategies`: how often shapes have a side of length 0."""

from hypothesis import given, settings

from tensorlite.testing.strategies import broadcastable, matmul_shapes, shapes

DRAWS = settings(max_examples=200, database=None, derandomize=True)


def share_of_empty(strategy, draws: settings = DRAWS) -> float:
    """The share of draws in which a shape has a side of length 0."""
    found = []

    @draws
    @given(strategy)
    def draw(drawn):
        several = drawn if drawn and isinstance(drawn[0], tuple) else (drawn,)
        found.append(any(0 in shape for shape in several))

    draw()
    return sum(found) / len(found)


def test_some_shapes_are_empty_and_most_are_not():
    """One in six by the definition; Hypothesis draws the ends of a range more often than what is between."""
    assert 1 / 10 < share_of_empty(shapes(1, 3, 0, 5)) < 1 / 2
    assert 1 / 40 < share_of_empty(broadcastable(2, 3, 0, 3)) < 1 / 2
    assert 1 / 40 < share_of_empty(matmul_shapes(3)) < 1 / 2


def test_no_shape_is_empty_where_sides_have_a_least_length():
    assert share_of_empty(shapes(1, 3, 1, 5)) == 0
    assert share_of_empty(broadcastable(2, 3, 1, 3)) == 0
