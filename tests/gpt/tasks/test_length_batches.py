"""Batches of texts of similar length: every text once, few tokens of padding, results in the order of the texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.tasks.length_batches import length_batches, longest_first


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 120))
def test_each_text_is_in_one_batch_which_is_as_small_as_allowed(lengths, tokens):
    batches = list(length_batches(lengths, tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens
    shown = [lengths[i] for batch in batches for i in batch]
    assert shown == sorted(shown, reverse=True)


def test_texts_of_equal_length_keep_their_order_and_fill_each_batch():
    assert longest_first([3, 5, 3, 5]) == [1, 3, 0, 2]
    assert list(length_batches([4] * 5, 8)) == [[0, 1], [2, 3], [4]]


def test_texts_that_are_all_padded_to_one_length_are_counted_with_it_and_still_sorted_by_their_own():
    assert list(length_batches([1, 3, 2, 3, 1], 8, 4)) == [[1, 3], [2, 0], [4]]


@pytest.mark.parametrize(("lengths", "tokens", "expected"), [([9, 1, 1], 6, [[0], [1, 2]]), ([], 6, [])])
def test_a_text_that_is_too_long_is_alone(lengths, tokens, expected):
    assert list(length_batches(lengths, tokens)) == expected
