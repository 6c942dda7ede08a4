"""Which parts of a graph become kernels (``Division.placed``), and why others do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from ...ir import Graph
from ..op import NAME
from .build import Build, Placed, constants
from .planes import place_planes
from .products import place_products
from .rows import place_rows

# What moves or renames values, and computes nothing.
_FREE = {"reshape", "permute", "getitem", "slice", "expand", "unsqueeze", "squeeze", "to", "select"}


@dataclass(frozen=True)
class Division:
    """A graph with kernels.

    Args:
        graph: Regions are nodes of the op ``regauge.kernel``.
        placed: Its kernels, in order.
        reasons: Why an op that might have had a kernel has none, by the op's name.
        rest: How often each op that stayed is there.
        decoded: The bytes of weights that are in floating point there and were in codes, by name.
    """

    graph: Graph
    placed: tuple[Placed, ...]
    reasons: dict[str, str]
    rest: dict[str, int]
    decoded: dict[str, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """The same in words."""
        kinds = Counter(describe(part) for part in self.placed)
        made = "; ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "none"
        found = [f"kernels: {made}"]
        names: dict[str, list[str]] = {}
        for node, reason in self.reasons.items():
            names.setdefault(reason, []).append(node)
        for reason, nodes in names.items():
            more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
            found.append(f"PyTorch's own op for {', '.join(nodes[:3])}{more}: {reason}")
        rest = ", ".join(f"{count} {op}" for op, count in sorted(self.rest.items()))
        if rest:
            found.append(f"PyTorch's own ops, for which no kernel is made: {rest}")
        if self.decoded:
            size = sum(self.decoded.values())
            names_ = ", ".join(self.decoded)
            found.append(f"kept in floating point, {size} bytes, and not in codes: {names_}")
        return tuple(found)


def divide(
    graph: Graph, *, capability: int, half: torch.dtype | None = None, tries: int = 0
) -> Division:
    """Put kernels in place of regions.

    Args:
        graph: Is not changed.
        capability: Of the device: 80, 90.
        half: What is rounded to, where the graph is in float32, for kernels whose input is bfloat16
            or float16; without it they are not used there.
        tries: Options that a kernel may time.
    """
    build = Build(graph.copy(), capability, half, tries)
    build.graph.enter = build.graph.leave = None
    place_planes(build)
    build.graph.prune()
    place_rows(build, all=False)
    build.graph.prune()
    place_products(build)
    build.graph.prune()
    place_rows(build, all=True)
    build.graph.prune()
    decoded = constants(build.graph)
    build.graph.sort()
    build.graph.verify()
    there = {node.name for node in build.graph.nodes}
    reasons = {name: text for name, text in build.reasons.items() if name in there}
    rest = Counter(
        node.op
        for node in build.graph.nodes
        if node.op != NAME and node.op not in _FREE and node.name not in reasons
    )
    placed = tuple(part for part in build.placed if part.node in there)
    return Division(build.graph, placed, reasons, dict(rest), decoded)


def describe(part: Placed) -> str:
    """A kernel in words: the ops that it stands for."""
    graph_ops = " + ".join(part.kinds)
    return f"{type(part.region).__name__} ({graph_ops})"
