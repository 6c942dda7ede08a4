"""Take experts out of a graph: their places, their terms in sums, and their numbers."""

from __future__ import annotations

from typing import Any

import torch

from ....ir import Graph, GraphError, Node, ops
from ....ir.gauge import Untied
from ....ir.gauge.apply import change_parameters
from ....ir.gauge.region import Edit, Region, operand
from ....ir.infer import infer, sample
from ....ir.laws import Movement
from .holding import NUMBERS, SAME, Held, Holding, State, Terms, refuse

_SIZED = {"reshape": "shape", "expand": "size", "full": "size", "zeros": "size", "ones": "size"}


def narrowed(labels: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The labels that are left where some experts stay, renumbered; along the last labelled axis.

    Raises:
        GraphError: Other numbers would be left of the parts.
    """
    number = torch.where(kept, kept.long().cumsum(0) - 1, -2)
    new = torch.where(labels >= 0, number[labels], -1)
    return _select(new, new != -2, [i for i, size in enumerate(labels.shape) if size > 1])


def selected(value: torch.Tensor, labels: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """What is left of a value with these labels."""
    stays = torch.where(labels >= 0, kept[labels], True)
    axes = [i - labels.dim() for i, size in enumerate(labels.shape) if size > 1]
    return _select(value, stays, [axis % value.dim() for axis in axes])


def _select(value: torch.Tensor, stays: torch.Tensor, axes: list[int]) -> torch.Tensor:
    if not axes:
        return value
    front = list(range(len(axes)))
    moved = value.movedim(axes, front)
    mask = stays.flatten()
    lead = [value.shape[axis] for axis in axes]
    counts = mask.reshape(-1, lead[-1]).sum(1).unique()
    if len(counts) != 1:
        raise GraphError(f"of {len(mask)} places in parts of {lead[-1]} other numbers would stay")
    left = moved.flatten(0, len(axes) - 1)[mask] if len(axes) > 1 else moved[mask]
    return left.reshape(*lead[:-1], int(counts), *moved.shape[len(axes) :]).movedim(front, axes)


def remove(holding: Holding, region: Region, kept: torch.Tensor) -> list[Untied]:
    """Leave all but some experts out of the graph, in place.

    Args:
        region: Of the parameters that hold them (``Mixture.region``).
        kept: ``bool[experts]``.

    Returns:
        The parameters that were tied and are no longer.
    """
    graph = holding.graph
    _without_terms(holding, kept)
    graph.prune()
    live = {*graph.nodes}
    region.edits = {key: edit for key, edit in region.edits.items() if key[0] in live}
    own_constants(graph, region)

    def change(old: torch.Tensor, edit: Edit) -> torch.Tensor:
        value = selected(old, edit.action.labels.long(), kept).contiguous()
        return (
            torch.arange(value.numel()).reshape(value.shape).to(old.dtype)
            if (edit.node, edit.port) in holding.numbered
            else value
        )

    untied = change_parameters(graph, region, change)
    for node in graph.nodes:
        _narrow(holding, node, kept)
    return untied


def own_constants(graph: Graph, region: Region) -> None:
    """Give constants that others read too, such as zeros to write into, to each reader."""
    for edit in region.edits.values():
        index, *rest = edit.port
        param = operand(edit.node, edit.port)
        if not rest and param is not None and len(param.users) > 1 and is_constant(graph, param):
            graph.give(edit.node, index, graph.value(param).clone())


def is_constant(graph: Graph, param: Node) -> bool:
    """Whether a parameter is one number, or counts up from zero: no weight."""
    value = graph.value(param)
    if not value.is_floating_point():
        return True
    return value.numel() > 0 and bool((value == value.flatten()[0]).all())


def _without_terms(holding: Holding, kept: torch.Tensor) -> None:
    """Let what experts give alone fall out of sums, and out of what is put together of all."""
    graph = holding.graph
    stands: dict[Node, Node | None] = {}  # for a value that is left out, or a sum with one term

    def now(value: Any) -> Any:
        while value in stands:
            value = stands[value]
        return value

    for node in list(graph.nodes):
        state = holding.state(node)
        if _is_gone(state, kept):
            stands[node] = None
        elif node in holding.terms:
            terms = [now(arg) for arg in node.args]
            left = [term for term in terms if term is not None]
            if len(left) == 1:
                stands[node] = left[0]
                graph.replace(node, left[0])
        elif node.op in ("stack", "cat") and isinstance(state, Held):
            rank, dim = len(node.shape), int(node.attrs.get("dim", 0))
            if Held(state.labels).axes == (dim % rank - rank,) and node.op == "stack":
                labels = state.labels.flatten()
                parts = [p for p, e in zip(node.args[0], labels.tolist(), strict=True) if kept[e]]
                node.set((tuple(parts),))


def _is_gone(state: State, kept: torch.Tensor) -> bool:
    match state:
        case Held(only=only) if only is not None and only >= 0:
            return not bool(kept[only])
        case Terms(experts=experts):
            return not any(bool(kept[e]) for e in experts)
        case _:
            return False


def _narrow(holding: Holding, node: Node, kept: torch.Tensor) -> None:
    """Change an op's attributes, and the type of its result."""
    graph, state = holding.graph, holding.state(node)
    args, attrs = list(node.args), dict(node.attrs)
    number = (kept.long().cumsum(0) - 1).tolist()
    read = [holding.state(value) for value in node.inputs]
    if isinstance(state, Held) and node.op in _SIZED:
        sizes = list(attrs[_SIZED[node.op]])
        new = narrowed(state.labels, kept)
        shape = holding.shape(node)
        for axis in Held(state.labels).axes:
            held = state.labels.shape[axis] == shape[axis]
            sizes[axis] = sizes[axis] if sizes[axis] == -1 or not held else new.shape[axis]
        attrs[_SIZED[node.op]] = tuple(sizes)
    elif node.op == "repeat" and isinstance(state, Held) and read[0] == SAME:
        repeats, axis = list(attrs["repeats"]), holding.repeated(node, state.labels)
        assert axis is not None
        repeats[axis] = int(kept.sum())
        attrs["repeats"] = tuple(repeats)
    elif node.op in ("slice", "select") and isinstance(source := read[0], Held):
        rank = source.labels.dim()
        axis = int(attrs["dim"]) % rank - rank
        if axis in source.axes:
            if len(source.axes) > 1 or attrs.get("step", 1) != 1:
                refuse(node, "it takes some of the experts, in steps or out of parts")
            stays = torch.where(source.labels >= 0, kept[source.labels], True).flatten()
            for key in {"start", "end", "index"} & attrs.keys():
                attrs[key] = int(stays[: attrs[key]].sum())
    elif NUMBERS in read:
        count = int(kept.sum())
        changed = {"bins": count, "max": count - 1, "num_classes": count, "minlength": count}
        if node.op.startswith("aten.") and isinstance(state, Held):
            attrs |= {key: value for key, value in changed.items() if key in attrs}
        if isinstance(state, Held) and state.only is not None and node.op in ("eq", "ne"):
            args = [number[int(arg)] if isinstance(arg, (int, float)) else arg for arg in args]
    if args != list(node.args) or attrs != dict(node.attrs):
        node.set(args, attrs)
    if isinstance(state, Held) or any(isinstance(s, Held) for s in read) or NUMBERS in read:
        node.type = infer(graph, node.op, node.args, node.attrs)
        if isinstance(state, Held):
            _need_labels(holding, node, kept)


def _need_labels(holding: Holding, node: Node, kept: torch.Tensor) -> None:
    """Each expert that stays must come to stand where it does now."""
    state = holding.state(node)
    if not isinstance(state, Held) or not isinstance(ops.get(node.op).law, Movement):
        return
    wanted = narrowed(state.labels, kept)
    parts: list[torch.Tensor] = []
    for value in node.inputs:
        held = holding.state(value)
        if not isinstance(held, Held):
            return
        parts.append(narrowed(held.labels, kept).expand(holding.shape(value)))
    attrs = {key: sample(value, holding.point) for key, value in node.attrs.items()}
    moved = ops.call(
        node.op, (tuple(parts) if isinstance(node.args[0], tuple) else parts[0],), attrs
    )
    if not torch.equal(moved, wanted.expand(moved.shape)):
        refuse(node, "it would move the experts to other places")
