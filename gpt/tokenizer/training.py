"""Learning byte-pair merges: count the pieces of a text once, then merge the most frequent pair, and again.

Byte-pair encoding (Sennrich, Haddow, Birch 2016, algorithm 1), on bytes and inside the pieces of GPT-2's
split pattern (Radford et al. 2019, section 2.2). Every distinct piece is processed once, however often it
occurs, and a merge visits only the places where its pair occurs.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import regex

from .base import chunks, special_pattern

Pair = tuple[int, int]

# A pair that occurs less often than this is not merged: a token seen once does not generalize to other text.
MIN_COUNT = 2


def count_pieces(texts: Iterable[str], pattern: str, special_tokens: Sequence[str]) -> Counter[str]:
    """How often each piece of `pattern` occurs in the texts, between the special tokens."""
    find = regex.compile(pattern).findall
    split = special_pattern(special_tokens).split
    counts: Counter[str] = Counter()
    for text in texts:
        for chunk in chunks(text, whole=special_tokens):
            for part in split(chunk):
                counts.update(find(part))
    return counts


class _Pieces:
    """All distinct pieces as one row of token ids, with the bookkeeping that keeps a merge local.

    Position p holds token `ids[p]`, or -1 after a merge has absorbed it. `following[p]` and `preceding[p]`
    are the neighbours' positions inside the piece, -1 at its ends. A piece counts `weight[p]` times.
    """

    def __init__(self, pieces: Counter[str]):
        self.ids: list[int] = []
        self.following: list[int] = []
        self.preceding: list[int] = []
        self.weight: list[int] = []
        self.counts: defaultdict[Pair, int] = defaultdict(int)
        # May hold places that a later merge has changed: `merge` checks each.
        self.places: defaultdict[Pair, list[int]] = defaultdict(list)
        for piece, weight in pieces.items():
            self._append(piece.encode("utf-8"), weight)

    def _append(self, piece: bytes, weight: int) -> None:
        first = len(self.ids)
        last = first + len(piece) - 1
        self.ids.extend(piece)
        self.following.extend(range(first + 1, last + 1))
        self.following.append(-1)
        self.preceding.append(-1)
        self.preceding.extend(range(first, last))
        self.weight.extend([weight] * len(piece))
        for place, pair in enumerate(pairwise(piece), first):
            self.counts[pair] += weight
            self.places[pair].append(place)

    def merge(self, pair: Pair, new: int) -> dict[Pair, int]:
        """Replace `pair` by `new` from left to right; returns the counts of the pairs that `new` is in."""
        ids, following, preceding = self.ids, self.following, self.preceding
        counts, places = self.counts, self.places
        left, right = pair
        new_pairs: dict[Pair, int] = {}
        for p in sorted(places.pop(pair)):
            q = following[p]
            if ids[p] != left or ids[q] != right:
                continue  # changed by an overlapping occurrence (aaa) or an earlier merge
            weight, before, after = self.weight[p], preceding[p], following[q]
            if before >= 0:
                counts[ids[before], left] -= weight
                counts[ids[before], new] += weight
                places[ids[before], new].append(before)
                new_pairs[ids[before], new] = 0
            if after >= 0:
                counts[right, ids[after]] -= weight
                counts[new, ids[after]] += weight
                places[new, ids[after]].append(p)
                new_pairs[new, ids[after]] = 0
                preceding[after] = p
            ids[p], ids[q], following[p] = new, -1, after
        return {pair: counts[pair] for pair in new_pairs}


def learn_merges(pieces: Counter[str], number: int) -> list[Pair]:
    """At most `number` merges, in order; merge i makes token 256 + i.

    Each step merges the pair with the highest count of occurrences (overlapping ones counted, as GPT-2's and
    other trainers do); among equals the smallest (left id, right id), so older tokens first. It stops early
    when no pair occurs `MIN_COUNT` times. The result depends on the counts alone, not on the order of the
    texts.
    """
    state = _Pieces(pieces)
    # A count only falls, except for pairs with the newest token, which are pushed when that is made. So an
    # entry with an outdated count is too high; it is corrected when it is popped, and the first entry with the
    # current count is the maximum.
    heap = [(-count, pair) for pair, count in state.counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < number:
        old_count, pair = heapq.heappop(heap)
        count = state.counts[pair]
        if count < MIN_COUNT:
            continue
        if count != -old_count:
            heapq.heappush(heap, (-count, pair))
            continue
        merges.append(pair)
        for new_pair, new_count in state.merge(pair, 255 + len(merges)).items():
            heapq.heappush(heap, (-new_count, new_pair))
    return merges
