"""Change a graph's weights by one element of a region's group, so that the function stays the same.

Everything is computed in the parameters' own dtype; the exact passes run on a float64 copy of the
graph, so that rounding is no part of the question whether an equality holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ..errors import GraphError
from ..graph import Graph, Node
from ..laws import Kind, Port
from ..types import of
from .inserted import center, insert, restore
from .region import Edit, Region, operand
from .tensors import spread, transformed

Place: TypeAlias = tuple[Node, Port]  # a reader, and its operand
Values: TypeAlias = Callable[[Node], torch.Tensor]  # of parameters
# The new values of a parameter, by one of the edits of it.
Change: TypeAlias = Callable[[torch.Tensor, Edit], torch.Tensor]


@dataclass(frozen=True)
class Untied:
    """A tie that had to be broken: the parameter, and what the second copy costs."""

    param: str
    bytes: int


def apply(
    graph: Graph,
    region: Region,
    element: torch.Tensor,
    compute: Callable[[Node], Node] | None = None,
) -> list[Untied]:
    """Fold a group element into the graph, in place.

    Args:
        compute: Makes the changed value from the original where the region has it computed;
            one op does where none is given.
        region: Found on this very graph.
        element: ``[size]``: positive scales s (``x / s``), signs, shifts z (``x - z``), or a
            permutation p (coordinate c comes to hold what p[c] held); for ORTHOGONAL and LINEAR
            ``[size, size]``; for CENTRE it is not looked at.

    Returns:
        The parameters that were tied and are no longer.
    """
    if reason := refusal(region, element):
        raise GraphError(reason, where=region.value.at)
    untied = change_parameters(graph, region, _folding(region, element, graph.value))
    if region.inserted:
        insert(graph, region, element, compute)
    for value in region.centered:
        center(graph, region, value)
    restore(graph, region, element)
    graph.prune()
    graph.sort()
    return untied


def change_parameters(graph: Graph, region: Region, change: Change) -> list[Untied]:
    """Change all that takes the region's action up, edit by edit, in place.

    Returns:
        The parameters that were tied and are no longer.
    """
    untied = separate(graph, region)
    for param, value in _changed(region, graph.value, change).items():
        graph.store[param.name] = value.to(param.dtype)
        param.type = of(graph.value(param))  # one number for all channels becomes one for each
    return untied


def ties_broken(graph: Graph, region: Region) -> list[Untied]:
    """The parameters that applying the region would untie."""
    shares: dict[Node, int] = {}
    split: dict[Node, None] = {}
    for param, edits in _shares(region):
        shares[param] = shares.get(param, 0) + 1
        if shares[param] > 1 or not _whole(param, edits):
            split[param] = None
    return [Untied(param.name, graph.store.bytes([param.name])) for param in split]


def refusal(region: Region, element: torch.Tensor) -> str:
    """Why the element is outside the region's group, or nothing."""
    groups, fixed = region.groups, region.fixed
    if region.kind in (Kind.SCALE, Kind.SIGN, Kind.SHIFT):
        neutral = 0 if region.kind is Kind.SHIFT else 1
        if not torch.equal(element, element[groups]):
            return "the element differs between channels that the graph ties together"
        if bool((element[fixed] != neutral).any()):
            return "the element moves channels that the graph holds fixed"
        if region.kind is Kind.SCALE and not bool(((element > 0) & element.isfinite()).all()):
            return "a scale must be positive and finite"
    elif region.kind is Kind.PERMUTATION:
        if not torch.equal(groups[element], groups) or element.unique().numel() != region.size:
            return "the element is no permutation within the region's cells"
    elif region.kind in (Kind.ORTHOGONAL, Kind.LINEAR):
        if bool(element[groups[:, None] != groups].any()):
            return "the matrix mixes channels of different cells"
        gram = element @ element.T
        one = torch.eye(region.size, dtype=gram.dtype)
        if region.kind is Kind.ORTHOGONAL and not torch.allclose(gram, one, atol=1e-10):
            return "the matrix is not orthogonal"
        if region.kind is Kind.LINEAR and not bool(torch.linalg.cond(element) < 1e8):
            return "the matrix cannot be inverted"
    return ""


def separate(graph: Graph, region: Region) -> list[Untied]:
    """Give all that takes the region's action up parameters of its own, in place; the function
    stays as it is.

    A bias that is missing becomes zeros, and of a tied parameter each share that changes in a way
    of its own becomes a copy.

    Returns:
        The parameters that were tied and are no longer.
    """
    for edit in region.edits.values():
        if region.kind is Kind.SHIFT and operand(edit.node, edit.port) is None:
            zeros = torch.zeros(_channels(graph, edit), dtype=edit.node.dtype)
            graph.give(edit.node, 2, zeros, name=f"{edit.node.name}_bias")
    untied: list[Untied] = []
    for param, edits in list(_shares(region)):
        if not _whole(param, edits):
            name = graph.store.origin.get(param.name, (param.name,))
            own = graph.param(param.name, graph.store.tensors[param.name], origin=name)
            for place in edits:
                _put(own, place)
            untied.append(Untied(param.name, graph.store.bytes([param.name])))
    return untied


def folded(region: Region, element: torch.Tensor, value: Values) -> dict[Node, torch.Tensor]:
    """What the parameters of a separated region become; differentiable by all that goes in.

    Regions of one graph may follow each other: the values of the next are those that this one
    gives.

    Args:
        value: The value of a parameter before.
    """
    return _changed(region, value, _folding(region, element, value))


def _folding(region: Region, element: torch.Tensor, value: Values) -> Change:
    """What one edit makes of a parameter, for an element."""

    def change(old: torch.Tensor, edit: Edit) -> torch.Tensor:
        if edit.through is None:
            return transformed(region.kind, old, edit.action, element)
        # The weights are those before: a shift leaves them.
        return old - edit.action.power * _through(edit, element, value(_param(edit.node, 1)))

    return change


def _changed(region: Region, value: Values, change: Change) -> dict[Node, torch.Tensor]:
    """The new values of the parameters of a separated region."""
    shares = [(param, next(iter(edits.values()))) for param, edits in _shares(region)]
    return {param: functools.reduce(change, edits, value(param)) for param, edits in shares}


def _shares(region: Region) -> Iterator[tuple[Node, dict[Place, list[Edit]]]]:
    """The parameters that take the action up, each with places that change alike, and what each
    place takes up, axis by axis."""
    edits: dict[Place, list[Edit]] = {}
    for key in sorted(region.edits, key=lambda key: key[2] or ()):
        edits.setdefault(key[:2], []).append(region.edits[key])
    places: dict[Node, list[Place]] = {}
    for place in dict.fromkeys(key[:2] for key in region.edits):
        if (param := operand(*place)) is not None:
            places.setdefault(param, []).append(place)
    for param, left in places.items():
        while left:
            first = left[0]
            alike = [at for at in left if at == first or _alike(edits[at], edits[first])]
            left = [place for place in left if place not in alike]
            yield param, {place: edits[place] for place in alike}


def _alike(some: Sequence[Edit], others: Sequence[Edit]) -> bool:
    """Whether two places change alike; what makes up for a shift depends on its op's weights."""
    return (
        len(some) == len(others)
        and all(edit.through is None for edit in (*some, *others))
        and all(a.action.same(b.action) for a, b in zip(some, others, strict=True))
    )


def _put(param: Node, place: Place) -> None:
    """Let a place hold another parameter."""
    node, (first, *rest) = place
    args = list(node.args)
    if rest:
        parts = list(args[first])
        parts[rest[0]] = param
        args[first] = tuple(parts)
    else:
        args[first] = param
    node.set(args)


def _whole(param: Node, places: Collection[Place]) -> bool:
    """Whether nobody reads the parameter at another place."""
    return len(places) == sum(n is param for user in param.users for n in user.inputs)


def _channels(graph: Graph, edit: Edit) -> int:
    """How many elements a bias has."""
    if edit.through is None:
        return edit.action.labels.numel()
    return graph.value(_param(edit.node, 1)).shape[0]


def _through(edit: Edit, element: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``W z``: what a shift of the input adds to the result."""
    shift = spread(edit.action, element, 0.0).flatten().to(weight.dtype)  # (I,)
    if edit.node.op == "linear":
        return weight @ shift
    total = weight.flatten(2).sum(-1)  # (O, I / groups)
    groups = edit.node.attrs.get("groups", 1)
    by_group = shift.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, dim=0)
    return (total * by_group).sum(-1)


def _param(node: Node, index: int) -> Node:
    param = node.args[index]
    if not isinstance(param, Node) or param.op != "param":
        raise GraphError(f"operand {index} of {node.name} is not a parameter", where=node.at)
    return param
