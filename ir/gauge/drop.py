"""Make a class of channels narrower or wider: a permutation with coordinates dropped or repeated.

What a permutation may exchange can also be left out. ``drop`` takes coordinates out of every
parameter and every value that holds them, so the graph becomes smaller; ``mask`` leaves the graph
as it is, with zeros in all places of the parameters that hold them. Both compute the same, so what
a cut costs is known before it is made.

They do where nothing counts what is gone:

- A product with parameters, summed over the channels: the zeros of the mask add nothing.
- A product of two values, or a sum of one, if what is dropped is zero there. A value is, if what
  writes it is masked, and all on the way keeps zero at zero.
- An RMSNorm over n channels of which m are left, where the others are zero:
  x / sqrt(S / n + eps) w = x / sqrt(S / m + eps n / m) w sqrt(n / m), with S the sum of squares.

All else (the mean of a LayerNorm, a softmax over the channels) is refused, by the node that counts.

``repeat`` gives coordinates several copies, and each weight that sums over them a part for each:

    W x  =  sum_j  sum_(m <= k_j)  (W_j / k_j) x_j

Nothing but such products may count them.
"""

from __future__ import annotations

import torch

from ..errors import GraphError
from ..graph import Graph
from .apply import Untied, change_parameters
from .region import Blocked, Refused, Region
from .resize import Plan, check_region
from .tensors import spread


def mask(graph: Graph, region: Region, kept: torch.Tensor) -> list[Untied]:
    """Put zeros in all places of the parameters that hold a dropped coordinate, in place.

    Args:
        region: Of a permutation, found on this very graph.
        kept: ``[size]``, booleans.

    Raises:
        GraphError: The region has ops inserted, or divides by a parameter.
    """
    check_region(region)
    factor = kept.to(torch.float64)
    return change_parameters(
        graph, region, lambda old, edit: old * spread(edit.action, factor, 1.0).to(old.dtype)
    )


def drop(graph: Graph, region: Region, kept: torch.Tensor) -> list[Untied]:
    """Take all other coordinates out of the graph, in place; see the top of this file.

    Args and errors are those of ``mask``; further errors: what is left of a value is no block of
    whole rows, or a node counts what is gone.
    """
    if kept.shape != (region.size,) or kept.dtype != torch.bool or not bool(kept.any()):
        raise GraphError(f"kept must be {region.size} booleans, not all of them false")
    return _carried_out(graph, region, kept.long(), "drop")


def repeat(graph: Graph, region: Region, copies: torch.Tensor) -> list[Untied]:
    """Give coordinates several copies, in place; the function stays as it is.

    Args:
        region: Of a permutation, found on this very graph.
        copies: ``[size]``, integers of at least 1.

    Raises:
        GraphError: The region has ops inserted, or a node counts the copies.
    """
    if copies.shape != (region.size,) or bool((copies < 1).any()):
        raise GraphError(f"each of {region.size} coordinates must be there at least once")
    return _carried_out(graph, region, copies, "repeat")


def can_repeat(graph: Graph, region: Region) -> Blocked | None:
    """What is in the way of copies of the coordinates, if anything is."""
    return _obstacle(graph, region, torch.full((region.size,), 2))


def _carried_out(graph: Graph, region: Region, copies: torch.Tensor, what: str) -> list[Untied]:
    try:
        plan = Plan(graph, region, copies)
        plan.make()
    except Refused as refused:
        blocked = refused.blocked
        raise GraphError(f"cannot {what}: {blocked}", where=blocked.node.at) from None
    return plan.carry_out()


def units(graph: Graph, region: Region) -> list[torch.Tensor]:
    """The ways to cut a class: for each, the unit that every coordinate belongs to, ``[size]``.

    Units are dropped as wholes. Where heads share an axis of a weight, one way is by heads, another
    by the channels that have the same place in each. The finest come first.
    """
    found: list[torch.Tensor] = []
    for candidate in _partitions(region):
        if any(torch.equal(candidate, other) for other in found) or candidate.max() == 0:
            continue
        try:
            for gone in {(0,), (int(candidate.max()),), (0, int(candidate.max()))}:
                kept = ~torch.isin(candidate, torch.tensor(gone))
                if bool(kept.any()):
                    Plan(graph, region, kept.long()).make()
        except (Refused, GraphError):
            continue
        found.append(candidate)
    return sorted(found, key=lambda unit: -int(unit.max()))


def cannot_drop(graph: Graph, region: Region) -> Blocked | None:
    """What is in the way of leaving out one coordinate, if anything is."""
    return _obstacle(graph, region, (torch.arange(region.size) > 0).long())


def _obstacle(graph: Graph, region: Region, copies: torch.Tensor) -> Blocked | None:
    try:
        Plan(graph, region, copies).make()
    except Refused as refused:
        return refused.blocked
    except GraphError as error:
        return Blocked(region.value, error.what)
    return None


def _partitions(region: Region) -> list[torch.Tensor]:
    """Each coordinate alone; by its place along each axis of the values that have several; by its
    place in the groups of a convolution that writes them; and by the groups that are normed."""
    found = [torch.arange(region.size)]
    actions = [*region.actions.values(), *(edit.action for edit in region.edits.values())]
    for labels in {id(a.labels): a.labels for a in actions if len(a.axes) > 1}.values():
        for axis in range(labels.dim()):
            if labels.shape[axis] > 1:
                found.append(_by_place(labels, axis, region.size))
    for node, action in region.actions.items():
        groups = node.attrs.get("groups", 1) if node.op.startswith("conv") else 1
        if groups > 1 and len(action.axes) == 1:
            found.append(_by_place(action.labels.reshape(groups, -1), 1, region.size))
        if node.op == "group_norm" and len(action.axes) == 1:
            together = action.labels.reshape(node.attrs["num_groups"], -1)
            found.append(_by_place(together, 0, region.size))
    return found


def _by_place(labels: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """A unit for each place along an axis; places that share a coordinate are one."""
    unit = torch.arange(size)
    for row in labels.movedim(axis, 0).flatten(1).long():
        held = row[row >= 0]
        if held.numel():
            unit[torch.isin(unit, unit[held])] = unit[held].min()
    return unit.unique(return_inverse=True)[1]
