"""Modules that hold a list of modules."""

from collections.abc import Iterable, Iterator
from typing import Any, Self

from ..tensor import Tensor
from .module import Module


class ModuleList(Module):
    """A list of modules, under the names "0", "1", ...: indexed, replaced and iterated like a list.

    It has no `forward`. IndexError for an index out of range, TypeError for an element that is not a Module.
    """

    def __init__(self, modules: Iterable[Module] = ()):
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> Self:
        """Add a module at the end. Returns self."""
        vars(self)[str(len(self))] = _checked(module)
        return self

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __getitem__(self, index: Any) -> Any:
        try:
            return list(self)[index]
        except IndexError:
            raise self._index_error(index) from None

    def __setitem__(self, index: int, module: Module) -> None:
        try:
            name = str(range(len(self))[index])
        except IndexError:
            raise self._index_error(index) from None
        vars(self)[name] = _checked(module)

    def _index_error(self, index: int) -> IndexError:
        return IndexError(f"{type(self).__name__}: index {index} is out of range: it has {len(self)} modules")


class Sequential(ModuleList):
    """Modules one after another: the output of each is the input of the next."""

    def __init__(self, *modules: Module):
        super().__init__(modules)

    def forward(self, x: Any) -> Tensor:
        """module_n(... module_1(x)); x itself if there are no modules."""
        for module in self:
            x = module(x)
        return x


def _checked(module: Any) -> Module:
    if isinstance(module, list | tuple | dict):
        raise TypeError(
            f"a Module is needed here, not a {type(module).__name__}: nn.Sequential(*layers), nn.ModuleList(layers)"
        )
    if not isinstance(module, Module):
        raise TypeError(f"a Module is needed here, not {type(module).__name__}")
    return module
