"""Let passes change the form in which a decoder keeps its keys and values.

    joined = cat(recode(past, P), fresh)      output = recode(joined, Q)      P = Q = 1

What a decoder keeps between two calls has no meaning of its own: in any other basis, with fewer
heads, it computes the same, as long as what comes out comes in again. While the state is open, the
weights P and Q of its own ops take up what passes do to keys and values, as any parameters do.
Closing it is exact where

    P Q = 1      on what the graph keeps,

which is checked: P is then what makes the graph's state of the model's, and Q what makes the
model's of the graph's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph, GraphError, Node, TensorType
from ...ir.state import (
    RECODE,
    State,
    expanded,
    find_state,
    passed_on,
    share_length,
    translate,
)
from ..base import Context, Pass, Promise, Remark, Stage, applied

FORM = "recoded"  # the name of the part that a leaf of the state becomes
# How far the product of two inverse matrices, rounded to a precision, may be from the identity.
_ROUNDING = {torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class OpenState(Pass):
    """Let state enter and leave the graph through ops whose weights take up what passes do."""

    promise: ClassVar[Promise] = Promise.EXACT
    stage: ClassVar[Stage] = Stage.FOLD

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        share_length(graph)
        same: dict[tuple[int, int], torch.Tensor] = {}  # one for all states of a shape
        for state in find_state(graph):
            past, joined = state.past, state.joined
            if past.tensor.rank != 4 or state.axis != 2 or state.is_open:
                continue
            heads, channels = past.shape[1], past.shape[-1]
            if not (isinstance(heads, int) and isinstance(channels, int)):
                continue
            shape = heads, channels
            if shape not in same:
                one = torch.eye(heads * channels, dtype=past.dtype)
                same[shape] = one.reshape(*shape, *shape)
            weights = [
                graph.param(f"{past.name}_{end}", same[shape], origin=())
                for end in ("enter", "leave")
            ]
            name, type_ = f"{past.name}_recoded", past.type
            entered = graph.add(RECODE, past, weights[0], name=name, type=type_, before=joined)
            joined.replace_input(past, entered)
            name, type_ = f"{joined.name}_recoded", joined.type
            left = graph.add(RECODE, joined, weights[1], name=name, type=type_)
            graph.output.set([left if arg is joined else arg for arg in graph.outputs])
            remarks.append(applied(joined, "what is kept of it may take another form"))
        return remarks


@dataclass(frozen=True)
class CloseState(Pass):
    """Let the graph take and give its state in the form that passes have brought it."""

    promise: ClassVar[Promise] = Promise.EXACT
    stage: ClassVar[Stage] = Stage.STATE

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by the place of the input
        places: dict[int, int] = {}  # of its output
        enter = passed_on(graph, graph.inputs)
        for state in find_state(graph):
            if not state.is_open:
                continue
            there, back = (graph.value(node.args[1]) for node in (state.entered, state.left))
            _need_inverse(state, there, back)
            place = graph.inputs.index(state.past)
            if not (_is_identity(there) and _is_identity(back)):
                weights[place] = there, back
                places[place] = list(graph.outputs).index(state.left)
                remarks.append(applied(state.joined, _text(state)))
            _close(graph, state)
        graph.prune()
        if still := [node for node in graph.nodes if node.op == RECODE]:
            raise GraphError(
                f"{still[0].name} is still open: a pass read its state more than once",
                where=still[0].at,
            )
        if not weights:
            return remarks
        leave = passed_on(graph, graph.outputs)
        given, wanted = list(enter.outputs), list(leave.outputs)
        for place, (there, back) in weights.items():
            given[place] = _recoded(enter, given[place], there)
            wanted[places[place]] = _recoded(leave, wanted[places[place]], back)
        enter.returns(*given)
        leave.returns(*wanted)
        translate(graph, enter, leave)
        graph.in_spec = expanded(graph.in_spec, dict.fromkeys(weights, (FORM,)))
        graph.out_spec = expanded(graph.out_spec, dict.fromkeys(places.values(), (FORM,)))
        return remarks


def _close(graph: Graph, state: State) -> None:
    """Let the input be joined, and what is joined be the output."""
    past, joined, entered, left = state.past, state.joined, state.entered, state.left
    past.type = TensorType(past.dtype, entered.shape)
    joined.replace_input(entered, past)
    graph.output.set([joined if arg is left else arg for arg in graph.outputs])


def _need_inverse(state: State, there: torch.Tensor, back: torch.Tensor) -> None:
    """Raise ``GraphError`` unless state that leaves the graph comes back as it was."""
    size = there.shape[0] * there.shape[1]
    product = there.reshape(size, -1).double() @ back.reshape(-1, size).double()
    gap = float((product - torch.eye(size, dtype=torch.float64)).abs().max())
    if not gap <= _rounding(there, back):
        raise GraphError(
            f"what {state.joined.name} gives would come back changed, by {gap:.2g}",
            where=state.joined.at,
        )


def _rounding(*weights: torch.Tensor) -> float:
    """How much the precision that all weights were rounded to may take."""
    for dtype, gap in _ROUNDING.items():
        if all(torch.equal(weight.to(dtype).to(weight.dtype), weight) for weight in weights):
            return gap
    return 1e-9


def _is_identity(weight: torch.Tensor) -> bool:
    size = weight.shape[0] * weight.shape[1]
    square = weight.shape[:2] == weight.shape[2:]
    return square and torch.equal(weight.reshape(size, size), torch.eye(size, dtype=weight.dtype))


def _text(state: State) -> str:
    before, after = state.past.shape, state.entered.shape
    if before == after:
        return "kept in another basis"
    return (
        f"kept as {after[1]} heads of {after[3]} channels, in place of {before[1]} of {before[3]}"
    )


def _recoded(graph: Graph, value: object, weight: torch.Tensor) -> Node:
    """A value of a translating graph in another form."""
    assert isinstance(value, Node)
    param = graph.param(f"{value.name}_weight", weight, origin=())
    batch, _, tokens, _ = value.shape
    type_ = TensorType(value.dtype, (batch, weight.shape[0], tokens, weight.shape[1]))
    return graph.add(RECODE, value, param, name=f"{value.name}_recoded", type=type_)
