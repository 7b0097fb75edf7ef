"""Batches in torch's order, positions that resume exactly, windows, and token files that are checked."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite.data import DataLoader, TokenFile, Windows, default_collate, token_file, write_tokens


def batches(loader) -> list:
    return [batch.tolist() for batch in loader]


# ----- order ------------------------------------------------------------------------------------------------------


def test_order_is_torchs_for_the_same_seed():
    """The lists are what torch 2.13 gives; tests/peers compares with torch itself."""
    tl.manual_seed(123)
    loader = DataLoader(range(10), batch_size=4, shuffle=True)
    assert batches(loader) == [[8, 2, 6, 7], [0, 3, 9, 1], [5, 4]]
    assert batches(loader) == [[5, 9, 2, 7], [8, 6, 4, 0], [1, 3]]
    assert tl.rand(1).item() == pytest.approx(0.1841, abs=5e-5)
    loader = DataLoader(range(5), batch_size=2, shuffle=True, drop_last=True, generator=tl.Generator(7))
    assert [batches(loader) for _ in range(3)] == [[[1, 3], [0, 4]], [[3, 2], [4, 0]], [[0, 4], [3, 2]]]


def test_iterating_takes_a_random_number_even_without_shuffling():
    tl.manual_seed(5)
    list(DataLoader(range(3)))
    after = tl.rand(1).item()
    tl.manual_seed(5)
    tl.default_generator.random64(1)
    assert after == tl.rand(1).item()


@given(n=st.integers(1, 20), size=st.integers(1, 7), shuffle=st.booleans(), drop_last=st.booleans())
def test_an_epoch_has_every_index_once_in_batches_of_the_size_asked_for(n, size, shuffle, drop_last):
    if drop_last and n < size:
        return
    loader = DataLoader(range(n), size, shuffle, drop_last)
    epoch = batches(loader)
    flat = [i for batch in epoch for i in batch]
    kept = n - n % size if drop_last else n
    assert [len(batch) for batch in epoch] == [size] * (kept // size) + [kept % size] * (kept % size > 0)
    assert len(loader) == len(epoch)
    assert len(set(flat)) == len(flat) == kept
    assert shuffle or flat == list(range(kept))


# ----- position ---------------------------------------------------------------------------------------------------


@given(
    n=st.integers(3, 12), size=st.integers(1, 3), done=st.integers(0, 5), shuffle=st.booleans(),
    drop_last=st.booleans(), own=st.booleans(), began=st.booleans(),
)  # fmt: skip
def test_a_resumed_epoch_goes_on_with_the_next_batch(n, size, done, shuffle, drop_last, own, began):
    """Stopped after `done` batches of the second epoch (or between epochs), all that follows is as if it had not."""

    def new_loader():
        generator = tl.Generator(3) if own else None
        return DataLoader(range(n), size, shuffle, drop_last, generator=generator), generator or tl.default_generator

    tl.manual_seed(11)
    loader, generator = new_loader()
    list(loader)
    if began or done:
        iterator = iter(loader)
        for _ in range(min(done, len(loader))):
            next(iterator)
    saved = json.loads(json.dumps([loader.state_dict(), generator.state_dict()]))
    rest = batches(iterator) if began or done else []
    rest += [batches(loader), generator.rand(1).item()]

    tl.manual_seed(99)
    resumed, generator = new_loader()
    resumed.load_state_dict(saved[0])
    generator.load_state_dict(saved[1])
    again = batches(resumed) if began or done else []
    assert [*again, batches(resumed), generator.rand(1).item()] == rest


def test_the_position_counts_the_batch_at_hand_as_done():
    loader = DataLoader(range(6), 2)
    seen = [(loader.state_dict()["epoch"]["batches"], batch.tolist()) for batch in loader]
    assert seen == [(1, [0, 1]), (2, [2, 3]), (3, [4, 5])]
    assert loader.state_dict()["epoch"] is None


def test_a_saved_position_does_not_move_on():
    loader = DataLoader(range(6), 2)
    iterator = iter(loader)
    state = loader.state_dict()
    next(iterator)
    assert state["epoch"]["batches"] == 0


def test_the_position_is_that_of_the_epoch_begun_last():
    loader = DataLoader(range(6), batch_size=2)
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(second)
    assert len(list(first)) == 2  # it ends, and the other is still on its way
    assert loader.state_dict()["epoch"] == {"batches": 1, "order": None}
    assert len(list(second)) == 2
    assert loader.state_dict()["epoch"] is None


def test_a_position_is_resumed_once():
    loader = DataLoader(range(6), 2)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    assert [next(iter(loader)).tolist() for _ in range(2)] == [[2, 3], [0, 1]]


def test_a_position_of_another_loader_is_refused():
    state = DataLoader(range(6), 2).state_dict()
    with pytest.raises(ValueError, match="another DataLoader: items 6, now 7; batch_size 2, now 3"):
        DataLoader(range(7), 3).load_state_dict(state)
    with pytest.raises(ValueError, match="state has items, batch_size, shuffle, drop_last and epoch, not 'position'"):
        DataLoader(range(7), 3).load_state_dict({"position": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataLoader([]), "0 items are too few for a batch of 1: give more data$"),
        (lambda: DataLoader(range(3), 4, drop_last=True), "3 items are too few for a batch of 4.*or drop_last=False"),
        (lambda: DataLoader(range(3), 0), "batch_size must be a positive integer, not 0"),
        (lambda: DataLoader(range(3), 2.0), "batch_size must be a positive integer, not 2.0"),
    ],
)
def test_a_loader_without_batches_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ----- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "dtype", "expected"),
    [
        ([1, 2], tl.int64, [1, 2]),
        ([0.5, 2.0], tl.float32, [0.5, 2.0]),
        ([True, False], tl.bool_, [True, False]),
        ([np.uint8(1), np.uint8(2)], tl.uint8, [1, 2]),
        ([np.float64(1), np.float64(2)], tl.float64, [1, 2]),
        ([np.ones((2,)), np.zeros((2,))], tl.float64, [[1, 1], [0, 0]]),
        ([tl.ones(1), tl.zeros(1)], tl.float32, [[1], [0]]),
    ],
)
def test_collate_stacks_what_looks_alike(items, dtype, expected):
    batch = default_collate(items)
    assert isinstance(batch, tl.Tensor)
    assert (batch.dtype, batch.tolist()) == (dtype, expected)


def test_collate_goes_into_tuples_and_dicts():
    batch = default_collate([(np.ones(2), {"label": 1, "text": "a"}), (np.zeros(2), {"label": 0, "text": "b"})])
    assert batch[0].tolist() == [[1, 1], [0, 0]]
    assert batch[1]["label"].tolist() == [1, 0]
    assert batch[1]["text"] == ["a", "b"]


def test_collate_says_what_does_not_stack():
    with pytest.raises(ValueError, match=r"item 1 of the batch has shape \(3,\), item 0 has \(2,\)"):
        default_collate([np.ones(2), np.ones(3)])
    with pytest.raises(TypeError, match="items of type list are not stacked"):
        default_collate([[1, 2], [3, 4]])


def test_a_collate_function_gets_the_items():
    assert list(DataLoader(["a", "bb", "c"], 2, collate="-".join)) == ["a-bb", "c"]


# ----- windows ----------------------------------------------------------------------------------------------------


@given(n=st.integers(2, 30), length=st.integers(1, 10), stride=st.integers(1, 10))
def test_windows_are_the_books(n, length, stride):
    tokens = list(range(100, 100 + n))
    expected = [(tokens[i : i + length], tokens[i + 1 : i + length + 1]) for i in range(0, n - length, stride)]
    if not expected:
        with pytest.raises(ValueError, match=f"{n} tokens are too few: a window of {length} .* need {length + 1}"):
            Windows(tokens, length, stride)
        return
    windows = Windows(tokens, length, stride)
    assert len(windows) == len(expected) == math.ceil((n - length) / stride)
    assert [(x.tolist(), y.tolist()) for x, y in windows] == expected
    assert windows[-1][0].tolist() == expected[-1][0]
    assert windows[0][0].dtype == windows[0][1].dtype == np.int64


@pytest.mark.parametrize(
    ("tokens", "length", "stride", "message"),
    [
        ([1, 2, 3], 0, 1, "length must be a positive integer, not 0"),
        ([1, 2, 3], 1, 1.0, "stride must be a positive integer, not 1.0"),
        ([1.5, 2.5], 1, 1, "tokens must be integers in a row, not float64"),
        ([[1, 2], [3, 4]], 1, 1, r"tokens must be integers in a row, not int64 \(2, 2\)"),
        ([], 1, 1, "0 tokens are too few"),
    ],
)
def test_windows_name_bad_input(tokens, length, stride, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Windows(tokens, length, stride)


# ----- token files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocab_size", "itemsize"), [(1, 2), (65_536, 2), (65_537, 4), (2**32, 4)])
def test_a_token_file_gives_back_what_was_written(tmp_path, vocab_size, itemsize):
    ids = [0, vocab_size - 1, vocab_size // 2, 0]
    assert write_tokens(tmp_path / "t", ids, vocab_size) == 4
    tokens = TokenFile(tmp_path / "t")
    assert (len(tokens), tokens.vocab_size, tokens.tokens.dtype) == (4, vocab_size, np.dtype(f"<u{itemsize}"))
    assert tokens.tokens.tolist() == ids
    assert (tokens[1], tokens[1:3].tolist()) == (vocab_size - 1, ids[1:3])
    assert not tokens.tokens.flags.writeable
    assert (tmp_path / "t").stat().st_size == token_file.HEADER.size + 4 * itemsize
    x, y = tokens.windows(2, 1)[1]
    assert (x.tolist(), y.tolist()) == (ids[1:3], ids[2:4])
    assert len(Windows(tokens[:3], 2, 1)) == 1


@given(
    st.lists(
        st.one_of(st.integers(0, 9), st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)).map(tuple)), min_size=1
    )
)
def test_ids_may_come_one_by_one_or_in_pieces(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("tokens") / "t"
    ordered = sorted(parts, key=lambda part: isinstance(part, int))  # ints last: they are gathered in one piece
    expected = [i for part in ordered for i in (part if isinstance(part, list | tuple) else [part])]
    if not expected:
        with pytest.raises(ValueError, match="there are no tokens to write"):
            write_tokens(path, ordered, 10)
        return
    write_tokens(path, iter(ordered), 10)
    assert TokenFile(path).tokens.tolist() == expected


def test_writing_streams(tmp_path, monkeypatch):
    monkeypatch.setattr(token_file, "CHUNK", 10)
    written, ahead = [], []

    def ids():
        for i in range(35):
            written.append(i)
            yield i % 7

    check = token_file._check_ids
    monkeypatch.setattr(token_file, "_check_ids", lambda *args: (ahead.append(len(written)), check(*args)))
    write_tokens(tmp_path / "t", ids(), 7)
    assert ahead == [10, 20, 30, 35]  # never more than a chunk taken before it is written
    assert TokenFile(tmp_path / "t").tokens.tolist() == [i % 7 for i in range(35)]
    assert write_tokens(tmp_path / "t", np.arange(35) % 7, 7) == 35


@pytest.mark.parametrize(
    ("ids", "vocab_size", "message"),
    [
        ([], 5, "there are no tokens to write"),
        ([[], []], 5, "there are no tokens to write"),
        ([0, 1, 5], 5, r"token 2 is 5, outside 0 \.\. 4 \(the vocabulary\)"),
        ([[0, 1], [2, -1]], 5, r"token 3 is -1, outside"),
        ([70_000], 65_536, "token 0 is 70000"),
        ([0.5], 5, "token ids must be integers in a row, not float64"),
        (["ab"], 5, "token ids must be integers in a row, not <U2"),
        (np.zeros((2, 2), int), 5, r"token ids must be integers in a row, not int64 of shape \(2, 2\)"),
        ([0], 0, r"vocab_size must be an integer from 1 to 2\*\*32, not 0"),
        ([0], 2**32 + 1, "vocab_size must be an integer from 1"),
        ([0], 5.0, "vocab_size must be an integer from 1"),
    ],
)
def test_bad_ids_are_named_and_leave_the_old_file_alone(tmp_path, ids, vocab_size, message):
    path = tmp_path / "t"
    write_tokens(path, [1, 2, 3], 5)
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError), match=message):
        write_tokens(path, ids, vocab_size)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["t"]


def file_of(ids, magic=b"tltokens", version=1, itemsize=2, vocab_size=10, count=None) -> bytes:
    """The format, written down a second time."""
    body = b"".join(int(i).to_bytes(itemsize, "little") for i in ids)
    return struct.pack("<8sIIQQ", magic, version, itemsize, vocab_size, len(ids) if count is None else count) + body


def test_the_format_is_what_it_says(tmp_path):
    write_tokens(tmp_path / "t", [1, 2, 9], 10)
    assert (tmp_path / "t").read_bytes() == file_of([1, 2, 9])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"empty or too short for a header \(0 bytes\)"),
        (file_of([1, 2])[:20], r"too short for a header \(20 bytes\)"),
        (b"Once upon a time there was a text, not tokens.", r"starts with b'Once upo', not with b'tltokens'"),
        (file_of([1, 2], version=2), "has format version 2, and this tensorlite reads version 1"),
        (file_of([1, 2], itemsize=3), "header is invalid: 3 bytes per id"),
        (file_of([1, 2], vocab_size=0), "header is invalid: 2 bytes per id, vocabulary 0"),
        (file_of([1, 2], vocab_size=65_537), "header is invalid"),
        (file_of([]), "header is invalid: 2 bytes per id, vocabulary 10, 0 ids"),
        (file_of([1, 2])[:-1], "header says 2 ids of 2 bytes, but 3 bytes follow it: the file was cut off or changed"),
        (file_of([1, 2]) + b"\0\0", "header says 2 ids of 2 bytes, but 6 bytes follow it"),
        (file_of([1, 2], count=2**60), "but 4 bytes follow it"),
        (file_of([1, 10]), r"t: token 1 is 10, outside 0 \.\. 9"),
    ],
)
def test_a_file_that_is_not_as_its_header_says_is_refused(tmp_path, content, message):
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        TokenFile(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        TokenFile(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match=Path(tmp_path).name):
        TokenFile(tmp_path)
    (tmp_path / "t").write_bytes(file_of([1, 10]))
    assert len(TokenFile(tmp_path / "t", check=False)) == 2


def test_the_books_loader(data_dir):
    """Chapter 2's windows over the-verdict.txt; bytes stand in for its 5,145 tokens, the counts are the same."""
    ids = np.frombuffer((data_dir / "the-verdict.txt").read_bytes(), np.uint8)[:5145]
    assert [len(Windows(ids, L, stride)) for L, stride in [(256, 256), (256, 128), (4, 1)]] == [20, 39, 5141]
    loader = DataLoader(Windows(ids, 256, 128), batch_size=4, shuffle=True, drop_last=True)
    x, y = next(iter(loader))
    assert (x.shape, y.shape, x.dtype, len(loader)) == ((4, 256), (4, 256), tl.int64, 9)
    np.testing.assert_array_equal(x.numpy()[:, 1:], y.numpy()[:, :-1])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
def test_a_pipe_is_refused_as_a_token_file_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    code = "import sys, tensorlite.data as d\ntry: d.TokenFile(sys.argv[1])\nexcept OSError as error: print(error)"
    command = [sys.executable, "-c", code, str(tmp_path / "pipe")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "pipe is not a regular file" in done.stdout


# ----- what would end an epoch early or lose a part of it -----------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
def test_stop_iteration_in_a_dataset_is_an_error_with_its_index(shuffle):
    class Ends(list):
        def __getitem__(self, i):
            return next(iter(())) if i == 5 else super().__getitem__(i)

    with pytest.raises(RuntimeError, match="the dataset, at index 5, raised StopIteration") as error:
        list(DataLoader(Ends(range(8)), 3, shuffle=shuffle))
    assert isinstance(error.value.__cause__, StopIteration)


def test_stop_iteration_in_collate_is_an_error_with_its_batch():
    lines = iter([1, 2])
    with pytest.raises(RuntimeError, match="collate, at batch 2, raised StopIteration"):
        list(DataLoader(range(8), 2, collate=lambda items: next(lines)))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "change", [lambda items: items.pop(), lambda items: items.append(0), lambda items: items.clear()]
)
def test_a_dataset_that_changes_its_length_during_an_epoch_is_an_error(change, shuffle):
    items = list(range(8))
    epoch = iter(DataLoader(items, 2, shuffle=shuffle))
    next(epoch)
    change(items)
    with pytest.raises(RuntimeError, match=f"at batch 1 of an epoch the dataset has {len(items)} items, .* had 8"):
        list(epoch)


def test_a_dataset_may_change_its_length_between_epochs():
    items = [1, 2, 3]
    loader = DataLoader(items, 2)
    assert batches(loader) == [[1, 2], [3]]
    items.append(4)
    assert batches(loader) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("items", "error", "sentence"),
    [
        ([{"x": 1}, {"x": 1, "y": 2}], ValueError, "item 1 of the batch has the keys 'x', 'y', item 0 has 'x'"),
        ([{"x": 1}, {"x": 2}, {"y": 2}], ValueError, "item 2 of the batch has the keys 'y', item 0 has 'x'"),
        ([({"x": 1},), ({},)], ValueError, "item 1 of the batch has the keys"),
        ([(1, 2), (1,)], ValueError, "item 1 of the batch has length 1, item 0 has length 2"),
        ([(1,), (1, 2)], ValueError, "item 1 of the batch has length 2, item 0 has length 1"),
        ([{"x": 1}, (1,)], TypeError, "item 1 of the batch is of type tuple, item 0 of dict"),
        ([(1,), 1], TypeError, "item 1 of the batch is of type int, item 0 of tuple"),
        ([np.ones(2), 1.0], TypeError, "item 1 of the batch is of type float, item 0 of ndarray"),
        (["a", 1], TypeError, "item 1 of the batch is of type int, item 0 of str"),
        ([np.ones(2), np.ones(3)], ValueError, r"item 1 of the batch has shape \(3,\), item 0 has \(2,\)"),
    ],
)
def test_items_that_are_not_alike_are_named(items, error, sentence):
    with pytest.raises(error, match=f"collate: {sentence}.*: give the DataLoader a collate function"):
        list(DataLoader(items, len(items)))


def test_the_order_of_keys_may_differ():
    (batch,) = DataLoader([{"x": 1, "y": 2}, {"y": 4, "x": 3}], 2)
    assert {name: value.tolist() for name, value in batch.items()} == {"x": [1, 3], "y": [2, 4]}


@pytest.mark.parametrize(
    ("dataset", "options", "sentence"),
    [
        ([1], {"generator": 3}, "generator must be a tl.Generator, tl.Generator.seed., not 3"),
        ([1], {"collate": 3}, "collate must be a function of a list of items, not 3"),
        ({"a": 1}, {}, r"and a dict does not: give list\(d.items\(\)\)"),
        ({0: 1}, {}, "and a dict does not"),
    ],
)
def test_what_a_loader_cannot_use_is_refused_when_it_is_made(dataset, options, sentence):
    with pytest.raises(TypeError, match=f"DataLoader: .*{sentence}"):
        DataLoader(dataset, **options)


@pytest.mark.parametrize("index", [5, -6, 100])
def test_a_window_out_of_range_is_named(index):
    with pytest.raises(IndexError, match=f"Windows: index {index} is out of range: there are 5 windows"):
        Windows(range(6), 1, 1)[index]


def test_of_two_wrong_lengths_the_first_is_named():
    with pytest.raises(ValueError, match="Windows: length must be a positive integer, not 0"):
        Windows(np.arange(9), 0, -1)
