"""Change a graph's weights by one element of a region's group, so that the function stays the same.

Everything is computed in the parameters' own dtype; the exact passes run on a float64 copy of the
graph, so that rounding is no part of the question whether an equality holds.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from ..errors import GraphError
from ..graph import Graph, Node
from ..laws import Action, Kind
from .region import Edit, Region, operand


@dataclass(frozen=True)
class Untied:
    """A tie that had to be broken: the parameter, and what the second copy costs."""

    param: str
    bytes: int


def apply(graph: Graph, region: Region, element: torch.Tensor) -> list[Untied]:
    """Fold a group element into the graph, in place.

    Args:
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
        _insert(graph, region, element)
    for value in region.centered:
        _center(graph, region, value)
    for restore in region.restores:
        _restore(graph, region, restore.value, restore.user, element)
    graph.prune()
    graph.sort()
    return untied


def ties_broken(graph: Graph, region: Region) -> list[Untied]:
    """The parameters that applying the region would untie."""
    broken: list[Untied] = []
    for param in region.parameters:
        actions = {
            (edit.node, edit.port): edit.action
            for edit in region.edits.values()
            if edit.through is None and operand(edit.node, edit.port) is param
        }
        reads = sum(n is param for user in param.users for n in user.inputs)
        first = next(iter(actions.values()), None)
        agree = first is not None and all(action.same(first) for action in actions.values())
        if first is not None and (len(actions) != reads or not agree):
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
    elif region.kind is Kind.ORTHOGONAL:
        gram = element @ element.T
        if not torch.allclose(gram, torch.eye(region.size, dtype=gram.dtype), atol=1e-10):
            return "the matrix is not orthogonal"
    return ""


def spread(action: Action, element: torch.Tensor, neutral: float) -> torch.Tensor:
    """The element at each position of the labels; ``neutral`` where they say -1."""
    padded = torch.cat([element, element.new_full((1,), neutral)])
    return padded[action.labels.long()]


def _apply_edits(graph: Graph, region: Region, element: torch.Tensor) -> list[Untied]:
    by_param: dict[Node | None, list[Edit]] = defaultdict(list)
    for edit in region.edits.values():
        if edit.through is None:
            by_param[operand(edit.node, edit.port)].append(edit)
    untied: list[Untied] = []
    # What a bias makes up for is computed with the weights as they were before the shift (a shift
    # leaves them).
    for edit in [edit for edit in region.edits.values() if edit.through is not None]:
        _set_bias(graph, edit.node, -edit.action.power * _through(graph, edit, element))
    for param, edits in by_param.items():
        if region.kind is Kind.SHIFT:
            for edit in edits:
                if param is not None and edit.port != (2,):
                    untied += _change(graph, region, param, [edit], element)
                else:
                    shift = spread(edit.action, element, 0.0) * edit.action.power
                    _set_bias(graph, edit.node, shift)
        elif param is not None:
            untied += _change(graph, region, param, edits, element)
    return untied


def _change(
    graph: Graph, region: Region, param: Node, edits: list[Edit], element: torch.Tensor
) -> list[Untied]:
    """Give a parameter its new values: one tensor for readers that agree, a copy for others."""
    untied: list[Untied] = []
    left = list(edits)
    while left:
        same = [edit for edit in left if edit.action.same(left[0].action)]
        left = [edit for edit in left if edit not in same]
        value = transformed(region.kind, graph.value(param), same[0].action, element)
        readers = {edit.node for edit in same}
        ports = {edit.node: [e.port for e in same if e.node is edit.node] for edit in same}
        whole = all(
            len(ports.get(user, [])) == sum(n is param for n in user.inputs) for user in param.users
        )
        name = graph.store.origin.get(param.name, (param.name,))
        new = graph.param(param.name, value.to(param.dtype), origin=name)
        for reader in readers:
            reader.replace_input(param, new)
        if not whole:
            untied.append(Untied(param.name, value.numel() * param.dtype.itemsize))
        if not param.users:
            graph.supersede(param, new)
    return untied


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
            (axis,) = action.axes
            matrix = element if action.power < 0 else torch.linalg.inv(element).T
            return (tensor.movedim(axis, -1) @ matrix).movedim(-1, axis)


def _permuted(tensor: torch.Tensor, action: Action, element: torch.Tensor) -> torch.Tensor:
    """Each place of coordinate c comes to hold what that of p[c] held, the first the first."""
    axes = [axis % tensor.dim() for axis in action.axes]
    labels = action.labels.flatten().long()
    source = torch.arange(labels.numel())
    order = torch.argsort(labels, stable=True)
    order = order[labels[order] >= 0]  # places by coordinate, and in their own order within one
    counts = torch.bincount(labels[order], minlength=element.numel())
    if not torch.equal(counts[element], counts):
        raise GraphError(
            "the permutation exchanges channels that stand in different numbers of places"
        )
    start = counts.cumsum(0) - counts
    held = labels[order]
    rank = torch.arange(order.numel()) - start[held]
    source[order] = order[start[element[held]] + rank]
    others = [axis for axis in range(tensor.dim()) if axis not in axes]
    moved = tensor.permute(*axes, *others)
    flat = moved.reshape(labels.numel(), -1)[source].reshape(moved.shape)
    back = [*axes, *others]
    return flat.permute(*[back.index(axis) for axis in range(tensor.dim())]).contiguous()


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


def _constant(graph: Graph, region: Region, value: Node, element: torch.Tensor, name: str) -> Node:
    action = region.actions[value]
    neutral = 0.0 if region.kind is Kind.SHIFT else 1.0
    tensor = spread(action, element, neutral).to(value.dtype)
    while tensor.dim() > 1 and tensor.shape[0] == 1:
        tensor = tensor[0]
    return graph.param(f"{value.name}_{name}", tensor, origin=())


def _insert(graph: Graph, region: Region, element: torch.Tensor) -> None:
    """Compute the changed value: ``x / s`` as a product with 1 / s, or ``x - z``."""
    value = region.value
    readers = [user for user in value.users if user not in {r.user for r in region.restores}]
    region.restores = [r for r in region.restores if r.value is not value]
    if region.kind is Kind.SHIFT:
        constant = _constant(graph, region, value, -element, "shift")
        new = graph.add("add", value, constant, name=f"{value.name}_shifted", type=value.type)
    else:
        constant = _constant(graph, region, value, 1 / element, "scale")
        new = graph.add("mul", value, constant, name=f"{value.name}_scaled", type=value.type)
    new.where = value.where
    for user in readers:
        user.replace_input(value, new)


def _center(graph: Graph, region: Region, value: Node) -> None:
    """Compute ``x - mean(x)``, and let all readers read that."""
    (axis,) = region.actions[value].axes
    readers = list(value.users)
    following = min((user for user in readers), key=graph.nodes.index)
    mean = graph.add(
        "mean", value, dim=(axis,), keepdim=True, name=f"{value.name}_mean", before=following
    )
    name = f"{value.name}_centered"
    centered = graph.add("sub", value, mean, name=name, type=value.type, before=following)
    centered.where = mean.where = value.where
    for user in readers:
        user.replace_input(value, centered)


def _restore(graph: Graph, region: Region, value: Node, user: Node, element: torch.Tensor) -> None:
    """Give a reader the original value: ``x' * s`` or ``x' + z``; several readers share it."""
    power = region.actions[value].power
    if region.kind is Kind.SHIFT:
        op, tensor, name = "add", -power * element, "shift"
    else:
        op, tensor, name = "mul", element ** float(-power), "scale"
    label = f"{value.name}_original"
    for node in value.users:
        if node.op == op and node.name.startswith(label):
            user.replace_input(value, node)
            return
    constant = _constant(graph, region, value, tensor, name)
    new = graph.add(op, value, constant, name=label, type=value.type, where=value.where)
    user.replace_input(value, new)
