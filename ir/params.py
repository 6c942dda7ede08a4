"""Where weights live: named tensors, their ties, and those still on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from .errors import GraphError
from .types import TensorType


@dataclass(frozen=True, slots=True)
class Lazy:
    """A tensor that is read when it is first used; nothing is kept.

    Attributes:
        exact: The value in float64, where it was computed and rounded to its dtype; nothing if it
            was learned.
        narrow: What it is a wider form of, without loss, where it is that.
    """

    type: TensorType
    read: Callable[[], torch.Tensor]
    exact: Callable[[], torch.Tensor] | None = None
    narrow: torch.Tensor | None = None


@dataclass
class ParameterStore(Mapping[str, torch.Tensor]):
    """Tensors by the name of their node; ``origin`` keeps every name the user knows each by.

    One tensor has one name here however often the model uses it, so a tie is a parameter node with
    several readers, and untying is to give one reader a parameter of its own.
    """

    tensors: dict[str, torch.Tensor | Lazy] = field(default_factory=dict[str, torch.Tensor | Lazy])
    origin: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def __getitem__(self, name: str) -> torch.Tensor:
        value = self.tensors[name]
        if isinstance(value, Lazy):
            tensor = value.read()
            if TensorType(tensor.dtype, tuple(tensor.shape)) != value.type:
                raise GraphError(f"{name} on disk is not {value.type}, as it was when opened")
            return tensor
        return value

    def __setitem__(self, name: str, value: torch.Tensor | Lazy) -> None:
        self.tensors[name] = value

    def __delitem__(self, name: str) -> None:
        del self.tensors[name]
        self.origin.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def type(self, name: str) -> TensorType:
        """The type of a tensor, without reading it."""
        value = self.tensors[name]
        if isinstance(value, Lazy):
            return value.type
        return TensorType(value.dtype, tuple(value.shape))

    def bytes(self, names: Iterable[str] | None = None) -> int:
        """Size in bytes, each tied tensor counted once."""
        total = 0
        for name in self if names is None else names:
            type_ = self.type(name)
            size = type_.dtype.itemsize
            for extent in type_.shape:
                size *= int(extent)
            total += size
        return total

    def let_go(self, name: str, why: str) -> None:
        """Forget a tensor; its type stays known, and who reads it is told why it is gone."""

        def read() -> torch.Tensor:
            raise GraphError(f"{name} cannot be read any more: {why}")

        self.tensors[name] = Lazy(self.type(name), read)

    def copy(self) -> ParameterStore:
        """A store of its own with the same tensors (they are never changed in place)."""
        return ParameterStore(dict(self.tensors), dict(self.origin))
