"""Values for each batch of calibration data, which need not fit into memory."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch.utils import _pytree as pytree

from ..ir import Graph, Node
from ..ir.interpret import values_of


class Mapped(Sequence[Any]):
    """A function of each index, computed whenever it is asked for.

    Args:
        function: Called with the index of a batch.
        count: How many there are.
    """

    def __init__(self, function: Callable[[int], Any], count: int) -> None:
        self._function, self._count = function, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._function(i) for i in range(self._count)[index]]
        return self._function(range(self._count)[index])


class Shelf:
    """Keeps values until nobody refers to them: in memory up to a limit, then in files of a
    temporary folder, which goes away with the shelf.

    Args:
        limit: Bytes in memory.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0  # bytes in memory
        self._written = 0
        self._folder: Path | None = None

    def series(self) -> Series:
        """A place for the values of the batches, one after the other."""
        return Series(self)

    def put(self, value: Any) -> _Held | _Filed:
        leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        size = sum(leaf.nbytes for leaf in leaves)
        if self.held + size <= self.limit:
            return _Held(self, value, size)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="regauge-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._written += 1
        path = self._folder / f"{self._written}.pt"
        try:
            torch.save(pytree.tree_map_only(torch.Tensor, _alone, value), path)
        except OSError as error:
            error.add_note("calibration values that do not fit into memory go to this folder")
            raise
        return _Filed(self, path)


class Series(Sequence[Any]):
    """Values on a shelf, one a batch."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._entries: list[_Held | _Filed] = []

    def append(self, value: Any) -> None:
        self._entries.append(self._shelf.put(value))

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [entry.value for entry in self._entries[index]]
        return self._entries[index].value


def series_of(
    graph: Graph, batches: Sequence[Sequence[Any]], nodes: Sequence[Node], shelf: Shelf
) -> list[Series]:
    """Some values of a graph for each batch; what they do not need is not computed."""
    found = [shelf.series() for _ in nodes]
    for batch in batches if nodes else ():
        for series, value in zip(found, values_of(graph, batch, nodes), strict=True):
            series.append(value)
    return found


class _Held:
    """A value in memory, which counts for as long as it is referred to."""

    def __init__(self, shelf: Shelf, value: Any, size: int) -> None:
        self.value = value
        shelf.held += size
        weakref.finalize(self, _let_go, weakref.ref(shelf), size)


class _Filed:
    """A value in a file, which lasts for as long as it is referred to."""

    def __init__(self, shelf: Shelf, path: Path) -> None:
        self._shelf, self._path = shelf, path  # the shelf has the folder
        weakref.finalize(self, path.unlink, missing_ok=True)

    @property
    def value(self) -> Any:
        return torch.load(self._path, weights_only=True)


def _let_go(shelf: weakref.ref[Shelf], size: int) -> None:
    if (found := shelf()) is not None:
        found.held -= size


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without the rest of the storage that it is a part of, which would be saved too."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
