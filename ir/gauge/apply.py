"""Change a graph's weights by one element of a region's group, so that the function stays the same.

Everything is computed in the parameters' own dtype; the exact passes run on a float64 copy of the
graph, so that rounding is no part of the question whether an equality holds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ..errors import GraphError
from ..graph import Graph, Node
from ..laws import Action, Kind
from .inserted import center, insert, restore
from .region import Edit, Region, operand
from .tensors import spread, transformed

# The new values of a parameter, by one of the actions on it.
Change: TypeAlias = Callable[[torch.Tensor, Action], torch.Tensor]


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
    untied = _apply_edits(graph, region, element)
    if region.inserted:
        insert(graph, region, element, compute)
    for value in region.centered:
        center(graph, region, value)
    restore(graph, region, element)
    graph.prune()
    graph.sort()
    return untied


def ties_broken(graph: Graph, region: Region) -> list[Untied]:
    """The parameters that applying the region would untie."""
    broken: list[Untied] = []
    for param in region.parameters:
        places = {
            (edit.node, edit.port)
            for edit in region.edits.values()
            if edit.through is None and operand(edit.node, edit.port) is param
        }
        reads = sum(n is param for user in param.users for n in user.inputs)
        actions = [region.actions_of(*place) for place in places]
        if actions and (len(actions) != reads or not all(_same(a, actions[0]) for a in actions)):
            broken.append(Untied(param.name, graph.store.bytes([param.name])))
    return broken


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


def _apply_edits(graph: Graph, region: Region, element: torch.Tensor) -> list[Untied]:
    def act(value: torch.Tensor, action: Action) -> torch.Tensor:
        return transformed(region.kind, value, action, element)

    if region.kind is not Kind.SHIFT:
        return change_parameters(graph, region, act)
    untied: list[Untied] = []
    # What a bias makes up for is computed with the weights as they were before the shift (a shift
    # leaves them).
    for edit in [edit for edit in region.edits.values() if edit.through is not None]:
        _set_bias(graph, edit.node, -edit.action.power * _through(graph, edit, element))
    for edit in [edit for edit in region.edits.values() if edit.through is None]:
        param = operand(edit.node, edit.port)
        if param is not None and edit.port != (2,):
            untied += _change(graph, region, param, [edit], act)
        else:
            _set_bias(graph, edit.node, spread(edit.action, element, 0.0) * edit.action.power)
    return untied


def _same(some: tuple[Action, ...], others: tuple[Action, ...]) -> bool:
    return len(some) == len(others) and all(a.same(b) for a, b in zip(some, others, strict=True))


def change_parameters(graph: Graph, region: Region, change: Change) -> list[Untied]:
    """Give every parameter of a region its new values, made action by action."""
    by_param: dict[Node | None, list[Edit]] = defaultdict(list)
    for edit in region.edits.values():
        by_param[operand(edit.node, edit.port)].append(edit)
    changes = ((param, edits) for param, edits in by_param.items() if param is not None)
    return [one for param, edits in changes for one in _change(graph, region, param, edits, change)]


def _change(
    graph: Graph, region: Region, param: Node, edits: list[Edit], change: Change
) -> list[Untied]:
    """Give a parameter its new values: one tensor for readers that agree, a copy for others."""
    untied: list[Untied] = []
    left = list(dict.fromkeys((edit.node, edit.port) for edit in edits))
    while left:
        actions = region.actions_of(*left[0])
        same = [place for place in left if _same(region.actions_of(*place), actions)]
        left = [place for place in left if place not in same]
        value = graph.value(param)
        for action in actions:
            value = change(value, action)
        readers = {node for node, _ in same}
        reads = Counter(node for node, _ in same)
        whole = all(reads[user] == sum(n is param for n in user.inputs) for user in param.users)
        name = graph.store.origin.get(param.name, (param.name,))
        new = graph.param(param.name, value.to(param.dtype), origin=name)
        for reader in readers:
            reader.replace_input(param, new)
        if not whole:
            untied.append(Untied(param.name, value.numel() * param.dtype.itemsize))
        if not param.users:
            graph.supersede(param, new)
    return untied


def _through(graph: Graph, edit: Edit, element: torch.Tensor) -> torch.Tensor:
    """``W z``: what a shift of the input adds to the result."""
    assert edit.through is not None
    weight = graph.value(_param(edit.node, 1))
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


def _set_bias(graph: Graph, node: Node, change: torch.Tensor) -> None:
    """Add to the bias of a linear map, a convolution or a norm, which may have none yet."""
    old = node.operand(2)
    value = change if old is None else graph.value(_param(node, 2)) + change
    dtype = node.dtype if old is None else old.dtype
    graph.give(node, 2, value.to(dtype), name=f"{node.name}_bias")
