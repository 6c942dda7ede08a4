"""What a group element does to a tensor whose places are labelled with coordinates."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import GraphError
from ..laws import Action, Kind


def spread(action: Action, element: torch.Tensor, neutral: float) -> torch.Tensor:
    """The element at each position of the labels; ``neutral`` where they say -1."""
    padded = torch.cat([element, element.new_full((1,), neutral)])
    return padded[action.labels.long()]


def transformed(
    kind: Kind, tensor: torch.Tensor, action: Action, element: torch.Tensor
) -> torch.Tensor:
    """A tensor acted on by a group element."""
    match kind:
        case Kind.SCALE | Kind.SIGN:
            return tensor * spread(action, element, 1.0).to(tensor.dtype) ** action.power
        case Kind.SHIFT:
            return tensor + spread(action, element, 0.0).to(tensor.dtype) * action.power
        case Kind.PERMUTATION:
            return _permuted(tensor, action, element)
        case Kind.CENTRE:
            return tensor - tensor.mean(dim=action.axes, keepdim=True)
        case Kind.ORTHOGONAL | Kind.LINEAR:
            matrix = element if action.power < 0 else torch.linalg.inv(element).T
            return _mixed(tensor, action, matrix)


def _permuted(tensor: torch.Tensor, action: Action, element: torch.Tensor) -> torch.Tensor:
    """Each place of coordinate c comes to hold what that of p[c] held, the first the first."""
    labels = action.labels.flatten().long()
    order, held, rank, counts = _places(labels, element.numel())
    if not torch.equal(counts[element], counts):
        raise GraphError(
            "the permutation exchanges channels that stand in different numbers of places"
        )
    start = counts.cumsum(0) - counts
    source = torch.arange(labels.numel())
    source[order] = order[start[element[held]] + rank]
    return _over_places(tensor, action, lambda rows: rows[source])


def _mixed(tensor: torch.Tensor, action: Action, matrix: torch.Tensor) -> torch.Tensor:
    """The first places of all coordinates times a matrix, and the second, and so on."""
    labels = action.labels.flatten().long()
    order, held, rank, _ = _places(labels, len(matrix))
    matrix = matrix.to(tensor.dtype)

    def mix(rows: torch.Tensor) -> torch.Tensor:
        new = rows.clone()
        for r in range(int(rank.max()) + 1):
            places, coordinates = order[rank == r], held[rank == r]
            absent = torch.ones(len(matrix), dtype=torch.bool)
            absent[coordinates] = False
            if bool(matrix[absent][:, coordinates].any()):
                raise GraphError("the matrix mixes channels with some that stand elsewhere")
            new[places] = matrix[coordinates][:, coordinates].T @ rows[places]
        return new

    return _over_places(tensor, action, mix)


def places_of(tensor: torch.Tensor, action: Action, size: int) -> torch.Tensor:
    """A tensor as a matrix with a row for each coordinate: all that stands in its places.

    Rows of coordinates that stand in fewer places than others are filled up with zeros.
    """
    labels = action.labels.flatten().long()
    order, held, rank, _ = _places(labels, size)
    axes = [axis % tensor.dim() for axis in action.axes]
    others = [axis for axis in range(tensor.dim()) if axis not in axes]
    flat = tensor.permute(*axes, *others).reshape(labels.numel(), -1)
    rows = flat.new_zeros(size, int(rank.max()) + 1, flat.shape[1])
    rows[held, rank] = flat[order]
    return rows.flatten(1)


def at_all_places(tensor: torch.Tensor, action: Action) -> torch.Tensor:
    """A tensor with a number at each place of an action: one of it may serve many."""
    shape = list(tensor.shape)
    for axis in action.axes:
        shape[axis] = action.labels.shape[axis]
    return tensor.expand(shape)


def bounds_of(tensor: torch.Tensor, action: Action, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the greatest number in the places of each coordinate, ``[size]``; zeros where
    it has none."""
    rows = at_all_places(tensor, action).movedim(action.axes, tuple(range(len(action.axes))))
    rows = rows.reshape(action.labels.numel(), -1)
    labels = action.labels.flatten().long()
    held = labels >= 0
    zeros = tensor.new_zeros(size)
    low, high = (
        zeros.scatter_reduce(0, labels[held], found[held], way, include_self=False)
        for found, way in ((rows.amin(1), "amin"), (rows.amax(1), "amax"))
    )
    return low, high


def _places(
    labels: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The labelled places by coordinate and, within one, in their own order; the coordinate of
    each, its rank among those of its coordinate; and how many places each coordinate has."""
    order = torch.argsort(labels, stable=True)
    order = order[labels[order] >= 0]
    held = labels[order]
    counts = torch.bincount(held, minlength=size)
    rank = torch.arange(order.numel()) - (counts.cumsum(0) - counts)[held]
    return order, held, rank, counts


def _over_places(
    tensor: torch.Tensor, action: Action, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Apply a function to a tensor as ``[places, rest]``."""
    axes = [axis % tensor.dim() for axis in action.axes]
    order = [*axes, *(axis for axis in range(tensor.dim()) if axis not in axes)]
    moved = tensor.permute(*order)
    flat = change(moved.reshape(action.labels.numel(), -1)).reshape(moved.shape)
    return flat.permute(*[order.index(axis) for axis in range(tensor.dim())]).contiguous()
