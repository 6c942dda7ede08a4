"""Tables that are looked up and multiplied by: a head that shares the table of its embedding.

What acts on the table for the one would break the tie. It need not where each row is scaled alike:
what is looked up is then scaled too, and one op gives its readers the original back.
"""

from __future__ import annotations

from ..graph import Graph, Node
from ..laws import DIAGONAL, Action, Kind, interned
from .apply import ties_broken
from .region import Edit, Region, Restore, operand


def with_lookups(graph: Graph, region: Region) -> Region:
    """The region with every table whose tie it would break changed for its lookups too, whose
    readers get the original back by an op; as it is where one of the others reads it differently.

    Of scales and signs: other elements would take more than a pointwise op.
    """
    if region.kind not in DIAGONAL or region.kind is Kind.SHIFT:
        return region
    found = region.fork()
    for tie in ties_broken(graph, region):
        table = graph.params[tie.param]
        actions = {
            (key[2], edit.action.power): edit.action
            for key, edit in region.edits.items()
            if operand(*key[:2]) is table
        }
        changed = {key[0] for key in region.edits}
        others = [user for user in table.users if user not in changed]
        if len(actions) != 1 or not all(_looks_up(user, table) for user in others):
            return region
        ((axes, _), action), *_ = actions.items()
        if axes != (-1,):
            return region
        for lookup in others:
            found.edits[lookup, (0,), axes] = Edit(lookup, (0,), action)
            found.actions[lookup] = _of_lookup(lookup, action)
            found.restores += [Restore(user, lookup) for user in lookup.users]
    return region if ties_broken(graph, found) else found


def _looks_up(node: Node, table: Node) -> bool:
    return node.op == "embedding" and node.args[0] is table and table not in node.inputs[1:]


def _of_lookup(lookup: Node, action: Action) -> Action:
    """What is looked up changes as a row of the table does."""
    rank = len(lookup.shape)
    return interned(Action(action.labels.reshape(*[1] * (rank - 1), -1), action.power))
