"""Passes that act at sites, and how a caller asks for some of them by name."""

from __future__ import annotations

import abc
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..ir import Graph, Node
from .base import Context, Pass, Remark, done


class Asked:
    """The sites that a caller named; all, where none is named."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = dict.fromkeys(names)
        self.left = dict.fromkeys(names)  # those that have not been met

    def __call__(self, *nodes: Node) -> bool:
        """Whether a site that goes by the name of any of these nodes is asked for."""
        met = [node.name for node in nodes if node.name in self.names]
        for name in met:
            self.left.pop(name, None)
        return bool(met) or not self.names


@dataclass(frozen=True, kw_only=True)
class SitePass(Pass):
    """A pass that acts at sites of the graph.

    Args:
        sites: The names of the values at which to act; everywhere, if there are none.
    """

    what: ClassVar[str]  # that is a site
    sites: tuple[str, ...] = ()

    @abc.abstractmethod
    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        """Rewrite the graph at the sites asked for."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        lines = {
            node.name: f"{node.name} ({node.op})\n{node.where}"
            for node in (*graph.inputs, *graph.params.values(), *graph.nodes)
        }
        asked = Asked(self.sites)
        remarks = self.visit(graph, context, asked)
        return [*remarks, *(self._no_site(name, lines) for name in asked.left)]

    def refused(self, remarks: Sequence[Remark]) -> list[Remark]:
        if not self.sites:
            return super().refused(remarks)
        sites = done(remarks)
        return [r for r in remarks if not r.applied and r.site not in sites]

    def _no_site(self, name: str, lines: dict[str, str]) -> Remark:
        text = f"a site of {self.name} is {self.what}"
        if name in lines:
            node, _, where = lines[name].partition("\n")
            return Remark(False, name, f"{node} is no site: {text}", where)
        close = difflib.get_close_matches(name, lines, 3)
        like = f"; there are {', '.join(close)}" if close else ""
        return Remark(False, name, f"nothing is called {name}{like}: {text}")
