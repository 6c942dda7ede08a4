"""Parameters of which several ops take a part each: the experts of a stack, the blocks of a table.

Each reader tells only of its own part, and leaves the rest as it is. Where no two of them differ
about a place, what they say together is one action of the whole parameter, which then need not be
stored once for each of them, and of which whole rows can be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from .. import ops
from ..graph import Node
from ..laws import Action, Movement, compact, interned
from .region import Edit, Region, operand


def join_parts(region: Region, seen: Callable[[Edit, Action], Action]) -> None:
    """Let the edits of a parameter by several movements be one, where they are parts of one.

    Args:
        seen: What the reader of an edit gives, of a parameter that is acted on so.
    """
    edits: dict[Node, list[Edit]] = {}
    for edit in region.edits.values():
        if (param := operand(edit.node, edit.port)) is not None:
            edits.setdefault(param, []).append(edit)
    for parts in edits.values():
        if len(parts) < 2 or not all(_takes_a_part(edit) for edit in parts):
            continue
        whole = _joined([edit.action for edit in parts])
        if whole is None or any(not seen(e, whole).same(seen(e, e.action)) for e in parts):
            continue
        for edit in parts:
            del region.edits[(edit.node, edit.port, edit.action.axes)]
            key = (edit.node, edit.port, whole.axes)
            region.edits[key] = replace(edit, action=whole)


def _takes_a_part(edit: Edit) -> bool:
    law = ops.get(edit.node.op).law
    return isinstance(law, Movement) and edit.through is None and edit.port == (0,)


def _joined(actions: list[Action]) -> Action | None:
    """What actions say together, if no two differ about a place."""
    labels = actions[0].labels
    for action in actions[1:]:
        both = torch.broadcast_tensors(labels, action.labels)
        if bool(((both[0] != both[1]) & (both[0] >= 0) & (both[1] >= 0)).any()):
            return None
        labels = torch.where(both[0] < 0, both[1], both[0])
    power = actions[0].power
    if any(action.power != power for action in actions):
        return None
    return interned(Action(compact(labels), power))
