"""What a search notes down in its region, and what it takes for two answers to agree.

Where coordinates are mixed, a place of which one answer knows nothing may be known from another (a
value is taken apart and each part tells of its own places): then the value's action grows, and what
was found out from the smaller one is found out anew.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .. import ops
from ..graph import Node
from ..laws import DIAGONAL, MIXING, Action, Kind, Movement, compact, filled, interned
from .region import Blocked, Edit, Refused, Region, is_computed_weight, operand


def record(region: Region, node: Node, value: Node, action: Action) -> list[Node]:
    """Give a value the action that ``node`` asks for; returns the ops to look at next."""
    if (node, value) in region.skipped:
        raise Refused(Blocked(node, "it reads the original value too"))
    old = region.actions.get(value)
    if old is None:
        need_whole(region, node, action)
        region.actions[value] = interned(action)
        again = node.inputs.count(value) > 1  # it has asked for one operand, and reads another
        return [other for other in (value, *value.users) if again or other is not node]
    grown = agree(region, node, old, action)
    if grown is old:
        return []
    region.actions[value] = interned(grown)
    around = [value, *value.users]
    weights = [operand(n, (1,)) for n in around if is_computed_weight(n, (1,))]
    stale = {*around, *weights}
    region.edits = {key: edit for key, edit in region.edits.items() if key[0] not in stale}
    return around


def edit(region: Region, edit: Edit) -> None:
    """Let a parameter take an action up."""
    key = (edit.node, edit.port, edit.action.axes)
    need_whole(region, edit.node, edit.action)
    old = region.edits.get(key)
    if old is not None:
        edit = replace(old, action=agree(region, edit.node, old.action, edit.action))
    region.edits[key] = edit


def agree(region: Region, node: Node, old: Action, new: Action) -> Action:
    """What two actions of one value make together: ties where they differ, or a larger action."""
    if old is new:
        return old
    # A sign and an orthogonal matrix are their own opposites.
    alike = old.power == new.power or region.kind in (Kind.SIGN, Kind.ORTHOGONAL)
    if alike and torch.equal(old.labels, new.labels):
        return old
    refused = Refused(Blocked(node, "it brings together channels that change in different ways"))
    left, right = torch.broadcast_tensors(old.labels, new.labels)
    if not alike or region.kind not in DIAGONAL | MIXING:
        raise refused
    if region.kind in DIAGONAL:
        region.ties.append((left.flatten(), right.flatten()))
        return old
    if bool(((right < 0) & (left >= 0)).any()):
        raise refused
    differ = (left != right) & (left >= 0)
    if bool(differ.any()):
        if region.kind is not Kind.PERMUTATION:
            raise refused
        region.ties.append((left[left >= 0], right[left >= 0]))
    if bool(((left < 0) & (right >= 0)).any()):
        return Action(compact(torch.where(left < 0, right, left)), old.power)
    return old


def partial_values(region: Region, node: Node) -> list[Node]:
    """The values that an op makes or reads of which some places are left as they are."""
    near = [value for value in (node, *node.inputs) if value in region.actions]
    if region.kind not in MIXING:
        return []
    return [value for value in near if bool((region.actions[value].labels < 0).any())]


def blamed(region: Region, blocked: Blocked) -> Blocked:
    """What is in the way, by the op that puts channels at positions where one does before."""
    seen: set[Node] = set()
    stack = list(blocked.node.inputs)
    while stack:
        value = stack.pop()
        action = region.actions.get(value)
        if value in seen or action is None or len(action.axes) < 2:
            continue
        seen.add(value)
        law = ops.get(value.op).law if value.op in ops.OPS else None
        if isinstance(law, Movement) and not law.whole:
            return Blocked(value, f"it puts channels at positions, which stops {blocked}")
        stack += value.inputs
    return blocked


def fill(region: Region, value: Node) -> list[Node]:
    """Let all positions of a value change as some do; returns the ops to look at again."""
    old = region.actions[value]
    return record(region, value, value, Action(compact(filled(old.labels)), old.power))


def need_whole(region: Region, node: Node, action: Action) -> None:
    """The mean is over one axis that holds all coordinates in order."""
    if region.kind is Kind.CENTRE:
        labels = action.labels.flatten()
        if len(action.axes) != 1 or not torch.equal(
            labels, torch.arange(region.size, dtype=labels.dtype)
        ):
            raise Refused(Blocked(node, "the channels are taken apart here"))


def need_side_by_side(region: Region, value: Node) -> None:
    """An op can mix channels where one axis holds all of them, in order."""
    if region.kind in MIXING:
        action = region.actions[value]
        whole = torch.arange(region.size, dtype=action.labels.dtype)
        if len(action.axes) != 1 or not torch.equal(action.labels.flatten(), whole):
            text = "no op can mix the channels here: they do not lie side by side"
            raise Refused(Blocked(value, text))
