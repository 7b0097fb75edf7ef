"""Batches of texts of similar length: little of a batch is padding, and every batch takes about the same memory."""

from collections.abc import Iterator, Sequence


def longest_first(lengths: Sequence[int]) -> list[int]:
    """The numbers of the texts, the longest first; texts of equal length keep their order."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def length_batches(lengths: Sequence[int], tokens: int, padded: int | None = None) -> Iterator[list[int]]:
    """The numbers of the texts in batches, the longest texts first.

    A batch, with its texts padded to the longest of them or to `padded`, has at most `tokens` tokens; a longer text is
    alone.
    """
    order, start = longest_first(lengths), 0
    while start < len(order):
        count = max(1, tokens // max(1, padded or lengths[order[start]]))
        yield order[start : start + count]
        start += count
