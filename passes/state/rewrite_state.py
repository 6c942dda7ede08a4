"""Give state another form: other inputs and outputs, and the graphs that translate.

    joined = cat(past, fresh)   becomes   joined parts = cat(past parts, encode(fresh))
                                          joined = decode(joined parts)

With a window of w tokens, the last w stay as they are, and a token is encoded as it leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from ...ir import Graph, Node
from ...ir.graph import Arg
from ...ir.state import Cache, expanded, passed_on, translate
from ..base import Remark, missed

Parts: TypeAlias = dict[str, Node]
RECENT = "recent"


def without_caches(graph: Graph) -> Remark:
    """That there is no state to give another form."""
    text = "no keys and values come in and go out with more tokens"
    return missed(graph.output, text, "compile with cache=True, or give a cache among the inputs")


@dataclass(frozen=True)
class Kept:
    """One tensor of state in its new form.

    Attributes:
        cache: As it was found.
        encode: Gets a graph, rows of tokens, and what comes after; gives parts with as many tokens
            on the same axis.
        decode: The inverse.
        window: How many of the last tokens stay as they are; a cache must hold as many.
    """

    cache: Cache
    encode: Callable[[Graph, Node, Node | None], Parts]
    decode: Callable[[Graph, Parts, Node | None], Node]
    window: int = 0

    def split(self, graph: Graph, rows: Node, before: Node | None) -> Parts:
        """All parts of rows: codes of the older, and the last as they are."""
        if not self.window:
            return self.encode(graph, rows, before)
        axis = self.cache.axis
        older = graph.add("slice", rows, dim=axis, start=0, end=-self.window, before=before)
        recent = graph.add(
            "slice", rows, dim=axis, start=-self.window, name=f"{rows.name}_recent", before=before
        )
        return {**self.encode(graph, older, before), RECENT: recent}

    def whole(self, graph: Graph, parts: Parts, before: Node | None) -> Node:
        """The rows of all parts."""
        coded = {name: part for name, part in parts.items() if name != RECENT}
        rows = self.decode(graph, coded, before)
        if RECENT not in parts:
            return rows
        return graph.add("cat", (rows, parts[RECENT]), dim=self.cache.axis, before=before)


def keep_as(graph: Graph, kept: list[Kept]) -> None:
    """Let caches be kept in another form from call to call."""
    by_input = {one.cache.past.name: one for one in kept}
    by_output: dict[Arg, Kept] = {one.cache.joined: one for one in kept}
    enter, parts = _enter(graph, by_input)
    inputs = {node.name: index for index, node in enumerate(graph.inputs)}
    outputs = [by_output.get(arg) for arg in graph.outputs]
    names = {one.cache.joined: list(parts[one.cache.past.name]) for one in kept}
    graph.in_spec = expanded(
        graph.in_spec, {inputs[name]: list(found) for name, found in parts.items()}
    )
    graph.out_spec = expanded(
        graph.out_spec,
        {index: names[one.cache.joined] for index, one in enumerate(outputs) if one is not None},
    )
    for one in kept:
        _rewrite(graph, one, parts[one.cache.past.name])
    leave = passed_on(graph, graph.outputs)
    _decode(leave, outputs, names)
    translate(graph, enter, leave)


def _enter(graph: Graph, kept: dict[str, Kept]) -> tuple[Graph, dict[str, Parts]]:
    """The graph that encodes the model's inputs, and its outputs for each cache."""
    enter = passed_on(graph, graph.inputs)
    made: list[Arg] = []
    parts: dict[str, Parts] = {}
    for node in enter.inputs:
        one = kept.get(node.name)
        if one is None:
            made.append(node)
            continue
        parts[node.name] = one.split(enter, node, None)
        made += parts[node.name].values()
    enter.returns(*made)
    return enter, parts


def _decode(
    leave: Graph, outputs: Sequence[Kept | None], names: Mapping[Node, Sequence[str]]
) -> None:
    """Make the model's outputs, each of its parts, of what a graph passes on, in place."""
    given = iter(leave.outputs)
    made: list[Arg] = []
    for one in outputs:
        if one is None:
            made.append(next(given))
            continue
        parts = {name: next(given) for name in names[one.cache.joined]}
        made.append(one.whole(leave, cast(Parts, parts), None))
    leave.returns(*made)


def _rewrite(graph: Graph, one: Kept, parts: Parts) -> None:
    """Let the graph itself take, join and give the parts."""
    cache = one.cache
    past, joined, axis = cache.past, cache.joined, cache.axis
    given = {name: graph.input(f"{past.name}_{name}", part.type) for name, part in parts.items()}
    del graph.inputs[-len(given) :]
    place = graph.inputs.index(past)
    graph.inputs[place : place + 1] = given.values()
    rows = cache.fresh
    if one.window:
        rows = graph.add("cat", (given[RECENT], rows), dim=axis, before=joined)
    fresh = one.split(graph, rows, joined)
    whole = {
        name: part
        if name == RECENT
        else graph.add("cat", (given[name], part), dim=axis, name=f"{name}_joined", before=joined)
        for name, part in fresh.items()
    }
    value = one.whole(graph, whole, joined)
    value.type = joined.type
    outputs: list[Arg] = []
    for arg in graph.outputs:
        outputs += whole.values() if arg is joined else [arg]
    graph.output.set(outputs)
    for reader in cache.readers:
        reader.replace_input(joined, value)
    graph.erase(joined)
    codes = next(iter(given.values()))
    for reader in list(past.users):  # who asks for a size
        reader.replace_input(past, codes)
        if one.window and int(reader.attrs["dim"]) % past.tensor.rank == axis:
            total = graph.add("int_add", reader, one.window, before=graph.following(reader))
            graph.replace(reader, total)
