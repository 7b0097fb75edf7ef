"""The shuffled order of windows over shards, and the shards as one dataset."""

import copy
import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.data.shards import order
from gpt.data.shards.order import Epoch, ShuffledWindows
from gpt.data.shards.read import TokenShards
from tensorlite.data import TokenFile, write_tokens

few = settings(max_examples=max(8, settings().max_examples // 5))  # files take their time
lengths = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@pytest.fixture
def small(monkeypatch):
    """Blocks of 20 tokens, 3 of them together."""
    monkeypatch.setattr(order, "BLOCK", 20)
    monkeypatch.setattr(order, "TOGETHER", 3)


def shards(folder, lengths) -> TokenShards:
    """Shards whose tokens are numbered."""
    paths, first = [], 0
    for number, length in enumerate(lengths):
        paths.append(folder / f"{number}.tokens")
        write_tokens(paths[-1], range(first, first + length), 60_000)
        first += length
    return TokenShards(paths)


# ----- an epoch ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(1, 9), st.integers(0, 2**32), st.integers(0, 5)
)
def test_an_epoch_has_each_window_once(lengths, context, seed, number):
    """Windows that do not overlap and leave out fewer tokens than a window at each end of a shard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BLOCK", 20)
        patch.setattr(order, "TOGETHER", 3)
        epoch = Epoch(lengths, context, seed, number)
        found = [epoch[i] for i in range(len(epoch))]
    for shard, length in enumerate(lengths):
        starts = sorted(start for s, start in found if s == shard)
        if length <= context:
            assert starts == []
            continue
        assert starts == list(range(starts[0], starts[-1] + 1, context))
        assert 0 <= starts[0] < context
        assert starts[-1] + context < length <= starts[-1] + 2 * context
    assert len(set(found)) == len(found)


def test_another_seed_epoch_or_offset_is_another_order(small):
    first = [Epoch([400], 5, 1, 0)[i] for i in range(70)]
    assert first == [Epoch([400], 5, 1, 0)[i] for i in range(70)]
    assert first != [Epoch([400], 5, 2, 0)[i] for i in range(70)]
    assert first != [Epoch([400], 5, 1, 1)[i] for i in range(70)]
    assert {Epoch([400], 5, 1, number)[0][1] % 5 for number in range(40)} == set(range(5))


def test_the_order_of_a_seed_is_the_same_in_every_version():
    """A run may be resumed by a later version: it goes on in the same order."""
    epoch = Epoch([3_000_000, 500, 2_500_000], 1000, 7, 2)
    order = [epoch[i] for i in range(len(epoch))]
    assert (len(order), order[:3]) == (5498, [(2, 296948), (2, 498948), (0, 2846699)])
    assert hashlib.sha256(repr(order).encode()).hexdigest()[:16] == "fd799c6d625c08fc"


def test_only_the_blocks_of_one_group_are_read_at_a_time(small):
    """Without this, a text larger than memory would be read in random places: a page from the disk for each window."""
    epoch = Epoch([2000, 1000, 3000], 5, 7, 0)
    offsets = {block.shard: block.start % 5 for block in epoch.blocks}
    at = 0
    for group in epoch.groups:
        windows = sum(block.windows for block in group)
        places = [epoch[i] for i in range(at, at + windows)]
        assert len(group) <= 3
        assert {(shard, (start - offsets[shard]) // 20) for shard, start in places} == {
            (block.shard, (block.start - offsets[block.shard]) // 20) for block in group
        }
        at += windows
    assert at == len(epoch)
    assert len({block.shard for block in epoch.groups[0] + epoch.groups[1] + epoch.groups[2]}) > 1


@pytest.mark.slow
def test_each_window_is_equally_likely_at_each_place(small):
    """At the first, a middle and the last place of an epoch of 30 windows in 6 blocks, over 1,500 seeds."""
    counts: dict[int, Counter] = {0: Counter(), 14: Counter(), 29: Counter()}
    for seed in range(1500):
        epoch = Epoch([64, 64], 4, seed, 0)
        assert len(epoch) == 30
        for place, found in counts.items():
            shard, start = epoch[place]
            found[shard, start // 4] += 1
    for found in counts.values():
        assert len(found) == 30
        assert chi_square(list(found.values())) < 66  # 29 degrees of freedom: above it once in 10,000 times


@pytest.mark.slow
def test_two_windows_come_in_either_order(small):
    """Of one block, and of two: each order is equally likely."""
    near = far = 0
    for seed in range(800):
        epoch = Epoch([244], 4, seed, 0)
        places = {epoch[i][1] // 4: i for i in range(len(epoch))}
        near += places[20] < places[21]
        far += places[2] < places[50]
    assert abs(near - 400) < 71  # five standard deviations of 14
    assert abs(far - 400) < 71


def chi_square(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 / mean for count in counts)


# ----- windows ----------------------------------------------------------------------------------------------------


def test_windows_are_drawn_in_this_order_and_resumed_anywhere(tmp_path, small):
    files = shards(tmp_path, [70, 3, 120]).shards
    windows = ShuffledWindows(files, 5, seed=3)
    whole, states = [], []
    for _ in range(30):
        states.append(json.loads(json.dumps(windows.state_dict())))
        whole.append([(x.tolist(), y.tolist()) for x, y in windows.draw(4)])
    flat = [pair for batch in whole for pair in batch]
    wanted = []
    for number in range(5):
        epoch = Epoch([70, 3, 120], 5, 3, number)
        for i in range(len(epoch)):
            shard, start = epoch[i]
            first = start + [0, 70, 73][shard]
            wanted.append((list(range(first, first + 5)), list(range(first + 1, first + 6))))
    assert flat == wanted[: len(flat)]
    for at in (0, 1, 9, 29):
        again = ShuffledWindows(files, 5, seed=3)
        again.load_state_dict(states[at])
        assert [[(x.tolist(), y.tolist()) for x, y in again.draw(4)] for _ in whole[at:]] == whole[at:]
    again = copy.deepcopy(windows)
    assert [x.tolist() for x, _ in again.draw(3)] == [x.tolist() for x, _ in windows.draw(3)]


def test_the_next_group_is_asked_for_while_one_is_used(tmp_path, small, monkeypatch):
    files = shards(tmp_path, [400]).shards
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(TokenFile, "read_ahead", lambda self, start, stop: asked.append((start, stop)))
    windows = ShuffledWindows(files, 5, seed=0)
    for _ in range(len(windows.epoch)):
        ((x, y),) = windows.draw(1)
        assert any(start <= x[0] and y[-1] < stop for start, stop in asked)
        assert len(asked) <= 3 * (windows.group + 2)
    assert len(asked) == len(windows.epoch.blocks)


def test_reading_ahead_changes_nothing(tmp_path):
    (file,) = shards(tmp_path, [5000]).shards
    for start, stop in ((0, 5000), (4000, 9000), (17, 18), (5000, 5000)):
        file.read_ahead(start, stop)
    assert file.tokens.tolist() == list(range(5000))


def test_too_few_tokens_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no shard has more than 9 tokens: give more text or a shorter context_length"):
        ShuffledWindows(shards(tmp_path, [9, 4]).shards, 9, 0)
    with pytest.raises(ValueError, match="no shard has more than 9 tokens"):
        shards(tmp_path, [9, 4]).windows(9, 9)


# ----- the dataset ------------------------------------------------------------------------------------------------


@few
@given(lengths, st.data())
def test_shards_are_one_row_of_tokens(tmp_path_factory, lengths, data):
    tokens, total = shards(tmp_path_factory.mktemp("shards"), lengths), sum(lengths)
    assert len(tokens) == total
    start, stop = (data.draw(st.integers(-total - 3, total + 3)) for _ in range(2))
    assert tokens[start:stop] == list(range(total))[start:stop]
    assert [tokens[i] for i in (0, total - 1, -1)] == [0, total - 1, total - 1]
    with pytest.raises(IndexError):
        tokens[total]


@few
@given(lengths, st.integers(1, 8), st.integers(1, 8))
def test_windows_of_shards_are_those_of_each(tmp_path_factory, lengths, length, stride):
    tokens = shards(tmp_path_factory.mktemp("shards"), lengths)
    wanted, first = [], 0
    for size in lengths:
        wanted += [list(range(first + i, first + i + length)) for i in range(0, size - length, stride)]
        first += size
    if not wanted:
        with pytest.raises(ValueError, match="no shard has more than"):
            tokens.windows(length, stride)
        return
    windows = tokens.windows(length, stride)
    assert [windows[i][0].tolist() for i in range(len(windows))] == wanted
    assert [windows[i][1].tolist() for i in range(len(windows))] == [(np.array(x) + 1).tolist() for x in wanted]
    with pytest.raises(IndexError):
        windows[len(windows)]
