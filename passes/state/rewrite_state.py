"""Give state another form: other inputs and outputs, and the graphs that translate.

    joined = cat(past, fresh)   becomes   joined parts = cat(past parts, encode(fresh))
                                          joined = decode(joined parts)

With a window of w tokens, the last w stay as they are, and a token is encoded as it leaves them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ...ir import Graph, Node
from ...ir.graph import Arg
from ...ir.state import Cache, chained, expanded
from ...ir.types import of

Parts: TypeAlias = dict[str, Node]
RECENT = "recent"


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
    by_output = {one.cache.joined.name: one for one in kept}
    enter, parts = _enter(graph, by_input)
    leave = _leave(graph, by_output, parts)
    places = {node.name: index for index, node in enumerate(graph.inputs)}
    graph.in_spec = expanded(
        graph.in_spec, {places[name]: list(found) for name, found in parts.items()}
    )
    graph.out_spec = expanded(
        graph.out_spec,
        {
            index: list(parts[by_output[arg.name].cache.past.name])
            for index, arg in enumerate(graph.outputs)
            if isinstance(arg, Node) and arg.name in by_output
        },
    )
    for one in kept:
        _rewrite(graph, one, parts[one.cache.past.name])
    graph.enter = chained(graph.enter, enter)
    graph.leave = leave if graph.leave is None else chained(leave, graph.leave)


def _enter(graph: Graph, kept: dict[str, Kept]) -> tuple[Graph, dict[str, Parts]]:
    """The graph that encodes the model's inputs, and its outputs for each cache."""
    enter = Graph()
    enter.symbols = dict(graph.symbols)
    made: list[Arg] = []
    parts: dict[str, Parts] = {}
    for node in [enter.input(node.name, node.type) for node in graph.inputs]:
        one = kept.get(node.name)
        if one is None:
            made.append(node)
            continue
        parts[node.name] = one.split(enter, node, None)
        made += parts[node.name].values()
    enter.returns(*made)
    return enter, parts


def _leave(graph: Graph, kept: dict[str, Kept], parts: dict[str, Parts]) -> Graph:
    """The graph that decodes the model's outputs."""
    leave = Graph()
    leave.symbols = dict(graph.symbols)
    made: list[Arg] = []
    for index, arg in enumerate(graph.outputs):
        one = kept.get(arg.name) if isinstance(arg, Node) else None
        if one is None:
            type_ = arg.type if isinstance(arg, Node) else of(0 if arg is None else arg)
            given = leave.input(f"output_{index}", type_)
            made.append(given if isinstance(arg, Node) else arg)
            continue
        inputs = {
            name: leave.input(f"output_{index}_{name}", part.type)
            for name, part in parts[one.cache.past.name].items()
        }
        made.append(one.whole(leave, inputs, None))
    leave.returns(*made)
    return leave


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
