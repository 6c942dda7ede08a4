"""Let the last linear map before a gap make up for the layers that were there.

Behind ``p = x + b``, where b is what a linear layer gives and nobody else reads, layers are gone
that made y of p. The map T that brings ``x + T b`` nearest to y on calibration data,

    T = 1 + cov(y - p, b) (cov(b, b) + damping)^-1,

goes into the weights of the layer; the difference of the means goes into its bias, if it has one.
Gaps are bridged in order, each by what the graph gives with those before it bridged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....ir import Graph, Node
from ....ir.interpret import values_of
from ...base import Context
from ...calibration import as_rows, padding_mask
from ...ties import own
from ..elimination import Moments
from ..groups import in_full


def bridge(
    graph: Graph,
    stands: Mapping[Node, Node],
    exact: Graph,
    context: Context,
    damping: float,
    who: str,
) -> dict[str, str]:
    """Change the weights before each gap, in place.

    Args:
        graph: With the layers left out.
        stands: For each value that went, the value of the graph that stands for it.
        exact: The graph as it was.

    Returns:
        For the name of each value that stands for others, the linear layer that makes up for them.
    """
    order = {node.name: index for index, node in enumerate(exact.nodes)}
    last: dict[Node, Node] = {}  # for what stands, the last of those that it stands for
    for value, by in stands.items():
        if by not in last or order[last[by].name] < order[value.name]:
            last[by] = value
    gaps = {by: exact[value.name] for by, value in last.items() if _map(by) is not None}
    batches = context.need_calibration(who)
    before = in_full(exact)
    goals = [before[value.name] for value in gaps.values()]
    wanted = [dict(zip(gaps, values_of(before, batch, goals), strict=True)) for batch in batches]
    made: dict[str, str] = {}
    places = {node: index for index, node in enumerate(graph.nodes)}
    for by in context.progress(sorted(gaps, key=places.__getitem__), f"{who}: bridging gaps"):
        layer = _map(by)
        assert layer is not None
        single = in_full(graph)

        def rows(index: int, by: Node = by, layer: Node = layer, single: Graph = single) -> Any:
            here, given = values_of(single, batches[index], [single[by.name], single[layer.name]])
            mask = padding_mask(batches[index])
            goal = wanted[index][by]
            now = as_rows(given, -1, mask)
            return now, now + as_rows(goal - here, -1, mask)

        moments = Moments.of(rows(index) for index in range(len(batches)))
        _fold(graph, layer, moments, damping)
        made[by.name] = layer.name
    return made


def _map(by: Node) -> Node | None:
    """The linear layer whose result the addition alone reads, with weights of its own."""
    for arg in by.args if by.op == "add" else ():
        if isinstance(arg, Node) and arg.op == "linear" and len(arg.users) == 1:
            if own(arg, 1) is not None:
                return arg
    return None


def _fold(graph: Graph, layer: Node, moments: Moments, damping: float) -> None:
    offset = own(layer, 2) is not None
    matrix, rest = moments.correct(offset=offset, damping=damping)
    weight = graph.value(layer.args[1])
    graph.give(layer, 1, (matrix @ weight.double()).to(weight.dtype))
    if offset:
        old = graph.value(layer.args[2])
        graph.give(layer, 2, (matrix @ old.double() + rest).to(old.dtype))
