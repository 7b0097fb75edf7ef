"""DataLoader: batches of a dataset in torch's order, at a position that can be saved and resumed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol, Self

import numpy as np

from ..creation import tensor
from ..derived import stack
from ..errors.suggestions import accepts_torch_arguments, hint
from ..random import Generator, default_generator
from ..tensor import Tensor


class Dataset(Protocol):
    """The protocol of a dataset: a length, and an item for each index from 0 on."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DataLoader:
    """Batches of a dataset, in the same order as PyTorch's DataLoader for the same seed.

    `collate` makes a batch of a list of items (default: `default_collate`). Where the length is not a multiple of
    batch_size, the last batch is smaller, or left out with `drop_last`. TypeError or ValueError for arguments that
    cannot be used, and for a dataset that is too small for one batch.

    Each `iter()` is an epoch. It takes one 64-bit number from the generator, as PyTorch does to seed its workers, also
    when not shuffling. When shuffling with the default generator, its first batch takes a second number, the seed of a
    new generator that permutes the indices. A `generator` argument permutes them itself, and draws one more
    permutation at the end, which is not used.
    """

    @accepts_torch_arguments("DataLoader")
    def __init__(
        self, dataset: Dataset, batch_size: int = 1, shuffle: bool = False, drop_last: bool = False,
        collate: Callable[[list[Any]], Any] | None = None, generator: Generator | None = None,
    ):  # fmt: skip
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(
                f"DataLoader: a dataset must have len() and [i], as a list has, got {type(dataset).__name__}"
            )
        if isinstance(dataset, Mapping):
            raise TypeError(
                "DataLoader: a dataset must have an item for each index from 0 on, and a dict does not: give "
                "list(d.items()) or list(d.values())"
            )
        if not isinstance(generator, Generator | None):
            raise TypeError(f"DataLoader: generator must be a tl.Generator, tl.Generator(seed), not {generator!r:.80}")
        if not (collate is None or callable(collate)):
            raise TypeError(f"DataLoader: collate must be a function of a list of items, not {collate!r:.80}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"DataLoader: batch_size must be a positive integer, not {batch_size!r}")
        for name, value in (("shuffle", shuffle), ("drop_last", drop_last)):
            if not isinstance(value, bool):
                raise TypeError(f"DataLoader: {name} must be True or False, not {value!r:.80}")
        if len(dataset) < (batch_size if drop_last else 1):
            raise ValueError(
                f"DataLoader: {len(dataset)} items are too few for a batch of {batch_size}: give more data"
                + (", a smaller batch_size, or drop_last=False" if drop_last else "")
            )
        self.dataset, self.batch_size, self.shuffle, self.drop_last = dataset, int(batch_size), shuffle, drop_last
        self.collate, self.generator = collate or default_collate, generator
        self._epoch: dict[str, Any] | None = None  # the position in the epoch that was started last, until it ends
        self._resuming = False

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"DataLoader has no attribute {name!r}{hint('DataLoader', name)}")

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return self._batches(len(self.dataset))

    def _batches(self, items: int) -> int:
        whole, rest = divmod(items, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        """A new epoch, or after `load_state_dict` the rest of the one that was interrupted."""
        if self._resuming and self._epoch is not None:
            epoch = self._epoch
        else:
            (self.generator or default_generator).loader_seed()  # PyTorch seeds its workers with it
            epoch = self._epoch = {"batches": 0, "order": None}
        self._resuming = False
        return _Epoch(self, epoch)

    def _order(self, epoch: dict[str, Any], n: int) -> Sequence[int] | np.ndarray:
        """The n indices of an epoch. The generator's state before it permutes them is stored in the position."""
        if not self.shuffle:
            return range(n)
        if epoch["order"] is not None:
            generator = Generator()
            generator.load_state_dict(epoch["order"])
        else:
            generator = self.generator or Generator(default_generator.loader_seed())
            epoch["order"] = generator.state_dict()
        return generator.randperm(n)

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch that was started last, as values for JSON, without the generator's own state.

        Inside a loop over the loader, the batch of the current iteration counts as drawn.
        """
        epoch = None if self._epoch is None else dict(self._epoch)
        return {**self._settings(), "epoch": epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next `iter()` continue with the batch after the one where `state_dict()` was called.

        No random number is drawn again. ValueError if the dataset's length or the batches have changed since.
        """
        shape = self._settings()
        if state.keys() != {*shape, "epoch"}:
            raise ValueError(
                f"a DataLoader's state has {', '.join(shape)} and epoch, not {', '.join(map(repr, state))}"
            )
        if wrong := [f"{name} {state[name]}, now {shape[name]}" for name in shape if state[name] != shape[name]]:
            raise ValueError(f"this position belongs to another DataLoader: {'; '.join(wrong)}")
        self._epoch = None if state["epoch"] is None else dict(state["epoch"])
        self._resuming = self._epoch is not None

    def _settings(self) -> dict[str, Any]:
        """The settings that a position depends on."""
        names = ("batch_size", "shuffle", "drop_last")
        return {"items": len(self.dataset), **{name: getattr(self, name) for name in names}}


class _Epoch:
    """An iterator over the batches of an epoch, from its position on. Unlike a generator, it can be copied."""

    def __init__(self, loader: DataLoader, epoch: dict[str, Any]):
        self.loader, self.epoch, self.items = loader, epoch, len(loader.dataset)
        self.order: Sequence[int] | np.ndarray | None = None
        self.ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        loader, epoch = self.loader, self.epoch
        if self.ended:
            raise StopIteration
        if self.order is None:
            self.order = loader._order(epoch, self.items)
        batch, size = epoch["batches"], loader.batch_size
        if batch >= loader._batches(self.items):
            self._end()
            raise StopIteration
        if len(loader.dataset) != self.items:
            raise RuntimeError(
                f"DataLoader: at batch {batch} of an epoch the dataset has {len(loader.dataset)} items, at its start "
                f"it had {self.items}: change a dataset between epochs"
            )
        items = self._batch(self.order[batch * size : (batch + 1) * size], batch)
        epoch["batches"] = batch + 1
        return items

    def _batch(self, indices: Sequence[int] | np.ndarray, batch: int) -> Any:
        """The items of these indices, collated. StopIteration becomes an error: it would end the epoch."""
        items: list[Any] = []
        index = None
        try:
            for i in indices:
                index = int(i)
                items.append(self.loader.dataset[index])
            index = None
            return self.loader.collate(items)
        except StopIteration as error:
            place = f"the dataset, at index {index}," if index is not None else f"collate, at batch {batch},"
            raise RuntimeError(
                f"DataLoader: {place} raised StopIteration, probably by next() on an iterator that has ended"
            ) from error

    def _end(self) -> None:
        loader, self.ended, self.order = self.loader, True, None
        if loader.shuffle and loader.generator is not None:
            loader.generator.randperm(self.items)  # as PyTorch does, to fill up the epoch with 0 indices
        if loader._epoch is self.epoch:
            loader._epoch = None


def default_collate(items: list[Any]) -> Any:
    """A batch of items of one kind: arrays, Tensors and numbers are stacked along a new first axis, as Tensors.

    ints become int64, floats float32; arrays keep their dtype. A list of tuples becomes a tuple of batches, a list of
    dicts a dict of batches; strings stay a list. TypeError or ValueError name the item that differs from the first one
    in its kind, its shape, its keys or its length.
    """
    first = items[0]
    _check_alike(items)
    if isinstance(first, Tensor | np.ndarray):
        return stack(items) if isinstance(first, Tensor) else Tensor(np.stack(items))
    if isinstance(first, tuple):
        return tuple(default_collate(list(column)) for column in zip(*items, strict=True))
    if isinstance(first, dict):
        return {key: default_collate([item[key] for item in items]) for key in first}
    if isinstance(first, str):
        return items
    if isinstance(first, bool | int | float | np.generic):
        return tensor(np.array(items) if isinstance(first, np.generic) else items)
    raise TypeError(
        f"collate: items of type {type(first).__name__} are not stacked: give arrays, numbers, strings, tuples, dicts, "
        "or give the DataLoader a collate function"
    )


def _check_alike(items: list[Any]) -> None:
    """The error for the first item that cannot be stacked with item 0."""
    first, advice = items[0], "give the DataLoader a collate function"
    kind: Any = next((kind for kind in (Tensor | np.ndarray, tuple, dict, str) if isinstance(first, kind)), None)
    for i, item in enumerate(items if kind else ()):
        if not isinstance(item, kind):
            raise TypeError(
                f"collate: item {i} of the batch is of type {type(item).__name__}, item 0 of {type(first).__name__}: "
                f"{advice} that makes them alike"
            )
        if kind is dict and item.keys() != first.keys():
            names = [sorted(map(repr, keys)) for keys in (item.keys(), first.keys())]
            raise ValueError(
                f"collate: item {i} of the batch has the keys {', '.join(names[0])}, item 0 has "
                f"{', '.join(names[1])}: {advice} that makes them alike"
            )
        if kind is tuple and len(item) != len(first):
            raise ValueError(
                f"collate: item {i} of the batch has length {len(item)}, item 0 has length {len(first)}: {advice}"
            )
        if kind not in (dict, tuple, str) and item.shape != first.shape:
            raise ValueError(
                f"collate: item {i} of the batch has shape {item.shape}, item 0 has {first.shape}: {advice} that pads"
            )
