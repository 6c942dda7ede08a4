"""Ops that a region puts into the graph: where no parameter takes an action up or gives it back."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..graph import Graph, Node
from ..laws import MIXING, Kind
from ..types import TensorType
from .region import Region, Restore
from .tensors import spread


def insert(
    graph: Graph,
    region: Region,
    element: torch.Tensor,
    compute: Callable[[Node], Node] | None,
) -> None:
    """Compute the changed value: ``x / s`` as a product with 1 / s, or ``x - z``."""
    value = region.value
    readers = [user for user in value.users if user not in {r.user for r in region.restores}]
    region.restores = [r for r in region.restores if r.value is not value]
    if compute is not None:
        new = compute(value)
    elif region.kind in MIXING:
        new = _mixed_by_op(graph, region, value, element, f"{value.name}_turned")
    elif region.kind is Kind.SHIFT:
        constant = _constant(graph, region, value, -element, "shift")
        new = graph.add("add", value, constant, name=f"{value.name}_shifted", type=value.type)
    else:
        constant = _constant(graph, region, value, 1 / element, "scale")
        new = graph.add("mul", value, constant, name=f"{value.name}_scaled", type=value.type)
    new.where = value.where
    for user in readers:
        user.replace_input(value, new)


def center(graph: Graph, region: Region, value: Node) -> None:
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


def restore(graph: Graph, region: Region, element: torch.Tensor) -> None:
    """Give readers the original value: ``x' * s``, ``x' + z`` or ``x' @ inv(M)``, each once."""
    originals: dict[Node, Node] = {}
    for wanted in region.restores:
        value = wanted.value
        if region.kind is Kind.SHIFT and _made_up(graph, region, wanted, element):
            continue
        if value not in originals:
            originals[value] = _original(graph, region, value, element)
        wanted.user.replace_input(value, originals[value])


def _made_up(graph: Graph, region: Region, wanted: Restore, element: torch.Tensor) -> bool:
    """Let a bias take up the shift of what is added to it, ``(x - z) + (W u + c + z)``, if it can:
    so a residual stream gets the original back without an op."""
    user, value = wanted.user, wanted.value
    others = [arg for arg in user.args if arg is not value]
    if user.op != "add" or user.attrs or len(others) != 1 or not isinstance(others[0], Node):
        return False
    layer = others[0]
    bias = layer.operand(2) if layer.op == "linear" else None
    if bias is None or bias.op != "param" or len(bias.users) > 1 or len(layer.users) > 1:
        return False
    shift = _tensor(region, value, -region.actions[value].power * element)
    if layer.shape != user.shape or shift.shape != bias.shape:
        return False
    graph.give(layer, 2, graph.value(bias) + shift.to(bias.dtype))
    return True


def _original(graph: Graph, region: Region, value: Node, element: torch.Tensor) -> Node:
    power = region.actions[value].power
    label = f"{value.name}_original"
    if region.kind is Kind.PERMUTATION:
        return _mixed_by_op(graph, region, value, torch.argsort(element), label)
    if region.kind in MIXING:
        back = torch.linalg.inv(element) if power < 0 else element.T
        return _mixed_by_op(graph, region, value, back, label)
    if region.kind is Kind.SHIFT:
        op, tensor, name = "add", -power * element, "shift"
    else:
        op, tensor, name = "mul", element ** float(-power), "scale"
    constant = _constant(graph, region, value, tensor, name)
    return graph.add(op, value, constant, name=label, type=value.type, where=value.where)


def _mixed_by_op(
    graph: Graph, region: Region, value: Node, element: torch.Tensor, name: str
) -> Node:
    """A permutation, or ``x @ M``, of the whole of one axis."""
    (axis,) = region.actions[value].axes
    if region.kind is Kind.PERMUTATION:
        order = graph.param(f"{name}_order", element, origin=())
        return graph.add("index_select", value, order, dim=axis, name=name, type=value.type)
    weight = graph.param(f"{name}_matrix", element.T.contiguous().to(value.dtype), origin=())
    if axis == -1:
        return graph.add("linear", value, weight, name=name, type=value.type)
    last = len(value.shape) - 1
    order = (*(i for i in range(last + 1) if i != last + 1 + axis), last + 1 + axis)
    back = tuple(order.index(i) for i in range(last + 1))
    type_ = TensorType(value.dtype, tuple(value.shape[i] for i in order))
    moved = graph.add("permute", value, dims=order, name=f"{name}_moved", type=type_)
    turned = graph.add("linear", moved, weight, name=f"{name}_product", type=type_)
    return graph.add("permute", turned, dims=back, name=name, type=value.type)


def _constant(graph: Graph, region: Region, value: Node, element: torch.Tensor, name: str) -> Node:
    return graph.param(f"{value.name}_{name}", _tensor(region, value, element), origin=())


def _tensor(region: Region, value: Node, element: torch.Tensor) -> torch.Tensor:
    """What broadcasts against a value, neutral where it is not acted on."""
    neutral = 0.0 if region.kind is Kind.SHIFT else 1.0
    tensor = spread(region.actions[value], element, neutral).to(value.dtype)
    while tensor.dim() > 1 and tensor.shape[0] == 1:
        tensor = tensor[0]
    return tensor
