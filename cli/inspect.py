"""What ``regauge inspect`` shows: the graph in figures, and where it can be transformed."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..driver.capture import capture
from ..driver.figures import count, shorten, size
from ..ir import Graph
from ..ir.gauge import Region, Site, classes, pairs, sites
from ..ir.text import line
from .source import Source


def show(source: Source) -> None:
    """Print the summary and the sites."""
    graph, _ = capture(source.model, source.args, source.kwargs, source.dynamic_shapes)
    console = Console(highlight=False, soft_wrap=False)
    console.print(summary(graph))
    for title, found in (
        ("Inputs of contractions", sites(graph)),
        ("Attention pairs", pairs(graph)),
        ("Channel classes", classes(graph)),
    ):
        if found:
            console.print(f"\n[bold]{title}[/]")
            console.print(table(found))


def summary(graph: Graph) -> Table:
    """Inputs, parameters and ops in figures."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("inputs", escape(", ".join(map(line, graph.inputs))))
    numbers = sum(
        graph.store.type(name).dtype.itemsize and graph.store.bytes([name]) for name in graph.params
    )
    facts.add_row("parameters", f"{count(len(graph.params))} tensors, {size(numbers)}")
    ops = Counter(node.op for node in graph.nodes)
    shown = [f"{op} {number}" for op, number in ops.most_common()]
    facts.add_row("ops", f"{len(graph.nodes)}: {shorten(shown, 12)}")
    return facts


def table(found: list[Site]) -> Table:
    """One row a site: what may be done, which parameters take it up, and what blocks the rest."""
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for heading in ("value", "size", "free", "absorbed by", "blocked"):
        rows.add_column(heading, overflow="fold")
    for site in found:
        free = ", ".join(str(kind.value) for kind in site.groups)
        regions = [region for region in site.found.values() if isinstance(region, Region)]
        taken = dict.fromkeys(node.name for region in regions for node in region.parameters)
        blocked = escape("\n".join(f"{kind.value}: {why}" for kind, why in site.blocked.items()))
        rows.add_row(site.value.name, str(site.size), free, shorten(list(taken), 3), blocked)
    return rows
