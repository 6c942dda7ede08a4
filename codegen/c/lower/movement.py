"""Ops that only move numbers, one after the other as one: a copy, or none where the numbers lie in
the right order already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ....ir import Node, ops
from ....ir.graph import substitute
from ....ir.laws import Movement, Pad, Parts
from ..moves import Loops, Rows, copies
from ..program import Program, Value

_REPEATING = tuple(f"upsample_nearest{n}d" for n in (1, 2, 3))
_OPAQUE = (
    "aten.channel_shuffle.default",
    "aten.pad.default",  # of what lies inside
    *(f"aten._upsample_nearest_exact{n}d.vec" for n in (1, 2, 3)),
)
_CHOOSING = ("index", "index_select")  # by constants
OPS = (
    *(op.name for op in ops.OPS.values() if isinstance(op.law, Movement | Parts | Pad)),
    *(*_REPEATING, *_OPAQUE, *_CHOOSING),
)


def moves(node: Node) -> bool:
    """Whether a node gives some of the numbers that it reads, wherever these are, or a number that
    is known."""
    if node.op in _CHOOSING:
        return all(part.op == "param" for part in node.inputs if part is not node.args[0])
    if node.op == "getitem":
        return isinstance(ops.get(node.args[0].op).law, Parts)
    return node.op in OPS


def _passes_on(node: Node) -> bool:
    """Whether those that read a node move its numbers on, so that it need not be there itself."""
    if isinstance(node.type, tuple):
        return True
    return node.op != "constant_pad_nd" and bool(node.users) and all(map(moves, node.users))


def lower(program: Program, node: Node) -> Value | None:
    """All that moves numbers up to this node, unless the next one moves them again."""
    if _passes_on(node):
        return None
    roots, between = _chain(node)
    sources = [program.operand(root) for root in roots]
    starts, places = [0], dict[Node, Any]()
    for root, source in zip(roots, sources, strict=True):
        places[root] = _places(source) + starts[-1]
        starts.append(starts[-1] + source.count)
    for step in between:
        places[step] = _moved(step, places, program)
    logical = places[node].round().to(torch.int64)
    if not logical.numel():
        raise program.refuses("no numbers", node)
    return _written(program, node, sources, starts, logical)


def _chain(node: Node) -> tuple[list[Node], list[Node]]:
    """What is moved, and the ops that move it, in their order."""
    roots, between = dict[Node, None](), dict[Node, None]()

    def visit(step: Node) -> None:
        for part in step.inputs:
            if part in between or (part.op == "param" and not _is_data(step, part)):
                continue
            if moves(part) and _passes_on(part):
                visit(part)
            else:
                roots[part] = None
        between[step] = None

    visit(node)
    return list(roots), list(between)


def _is_data(step: Node, part: Node) -> bool:
    """Whether it is what is moved, and not where it goes."""
    return step.op not in _CHOOSING or part is step.args[0]


def _places(value: Value) -> torch.Tensor:
    """Where each number of a value lies in memory."""
    if not value.channels_last:
        return torch.arange(value.count, dtype=torch.float64).reshape(value.shape)
    batch, channels, *rest = value.shape
    lying = torch.arange(value.count, dtype=torch.float64).reshape(batch, *rest, channels)
    return lying.movedim(-1, 1)


def _moved(step: Node, places: dict[Node, Any], program: Program) -> Any:
    def at(node: Node) -> Any:
        return places[node] if node in places else program.graph.value(node)

    attrs = dict(step.attrs)
    if step.op == "constant_pad_nd":
        attrs["value"] = -1.0
    return ops.call(step.op, substitute(step.args, at), attrs)


def _written(
    program: Program, node: Node, sources: Sequence[Value], starts: list[int], logical: torch.Tensor
) -> Value:
    """The value, in that of both orders in which it takes the least work."""
    known = next((s for s in sources if s.channels_last), sources[0])
    orders = [known.channels_last, not known.channels_last] if logical.dim() > 2 else [False]
    made: list[tuple[tuple[int, int], bool, list[Loops] | Rows]] = []
    for last in orders:
        lying = logical.movedim(1, -1) if last else logical
        if len(sources) == 1 and torch.equal(lying.reshape(-1), torch.arange(sources[0].count)):
            shape = tuple(logical.shape)
            return replace(sources[0], shape=shape, channels_last=last)
        found = copies(lying, starts)
        if isinstance(found, list) and found:
            row = sum(part.row for part in found) // len(found)
            made.append(((len(found), -min(row, 16)), last, found))
        elif isinstance(found, Rows):
            made.append(((1 << 20, -found.count), last, found))
    if not made:
        raise program.refuses("numbers from everywhere", node)
    _, last, found = min(made, key=lambda one: one[0])
    return _copied(program, node, sources, last, found, bool((logical < 0).any()))


def _copied(
    program: Program,
    node: Node,
    sources: Sequence[Value],
    last: bool,
    found: list[Loops] | Rows,
    padded: bool,
) -> Value:
    y = program.result(node, channels_last=last)
    if isinstance(found, Rows):
        first = program.constant(f"{node.name}_first", found.first)
        x = sources[found.source]
        return program.call(
            f"gather_{y.kind}", x, first, y, y.count // found.count, found.count, into=y
        )
    if padded:
        value = node.attrs.get("value") or 0
        number = float(value) if y.kind == "f32" else int(value)  # type: ignore[arg-type]
        program.call(f"fill_{y.kind}", y, y.count, number, into=y)
    for part in found:
        program.copy(sources[part.source], y, part)
    return y


LOWERINGS = dict.fromkeys(OPS, lower)
