"""Passes that act at sites, and how a caller asks for some of them, or protects some, by name."""

from __future__ import annotations

import abc
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..ir import Graph, Node, SiteError
from .base import Context, Pass, Remark, done
from .options import check_several


class Names:
    """What a caller can name in a graph, as it is now.

    A value or a parameter by its name; a parameter also as the model has it (``l.0.a.weight``), and
    a module by its path (``l.0.a``): its parameters, and the ops that read them. Where a value and
    a module have one name, it is the value's.
    """

    def __init__(self, graph: Graph) -> None:
        self.wheres: dict[str, str] = {}  # of what a name is the name of, the user's line
        self.ops: dict[str, str] = {}
        self._modules: dict[str, dict[str, None]] = {}  # the nodes of each path, by name
        for node in (*graph.inputs, *graph.params.values(), *graph.nodes):
            self.wheres[node.name], self.ops[node.name] = node.where, node.op
        for param in graph.params.values():
            for known in graph.store.origin.get(param.name, ()):
                self._modules.setdefault(known, {})[param.name] = None
                path = known
                while path := path.rpartition(".")[0]:
                    own = self._modules.setdefault(path, {})
                    own |= dict.fromkeys([param.name, *(user.name for user in param.users)])

    def nodes(self, name: str) -> list[str]:
        """The names of the nodes that are meant; none where nothing is called so."""
        return [name] if name in self.ops else list(self._modules.get(name, ()))

    def shown(self, name: str) -> tuple[str, str]:
        """What is meant, and the user's line."""
        if name in self.ops:
            return f"{name} ({self.ops[name]})", self.wheres[name]
        return name, next(filter(None, map(self.wheres.__getitem__, self.nodes(name))), "")

    def unknown(self, name: str) -> str:
        """The sentence that says that nothing is called so, and what is called nearly so."""
        close = difflib.get_close_matches(name, dict.fromkeys([*self.ops, *self._modules]), 3)
        like = f"; there are {', '.join(close)}" if close else ""
        return f"nothing is called {name}{like}"


class Asked:
    """The sites that a caller named, all where none is named; and what is to stay as it is.

    Raises:
        SiteError: Nothing has the name of something to protect.
    """

    def __init__(self, graph: Graph, sites: Sequence[str], protect: Sequence[str] = ()) -> None:
        check_several(sites, "sites")
        check_several(protect, "protect")
        self.names = Names(graph)
        self.left = dict.fromkeys(sites)  # those that have not been met
        self._sites = self._by_node(sites)
        self._protect, self._protected = tuple(protect), self._by_node(protect)
        self._everywhere = not sites
        if unknown := [name for name in protect if not self.names.nodes(name)]:
            raise SiteError(
                f"{unknown[0]} cannot be protected: {self.names.unknown(unknown[0])}",
                do="a value or a weight by its name (`regauge inspect` lists them), or a module "
                "of the model by its path",
            )

    def _by_node(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Under which of some names each node goes, by its own."""
        found: dict[str, list[str]] = {}
        for name in names:
            for node in self.names.nodes(name):
                found.setdefault(node, []).append(name)
        return found

    def __call__(self, *nodes: Node) -> bool:
        """Whether a site that goes by the name of any of these nodes is asked for."""
        met = [name for node in nodes for name in self._sites.get(node.name, ())]
        for name in met:
            self.left.pop(name, None)
        return bool(met) or self._everywhere

    def protected(self, *nodes: Node) -> str:
        """The sentence that says that one of these nodes is to stay; empty where none is."""
        met = {name for node in nodes for name in self._protected.get(node.name, ())}
        return next((f"{name} is protected" for name in self._protect if name in met), "")

    def protected_in(self, nodes: Iterable[Node]) -> str:
        """The same of some nodes and the parameters that they read."""
        own = list(nodes)
        params = (used for node in own for used in node.inputs if used.op == "param")
        return self.protected(*own, *params)


@dataclass(frozen=True, kw_only=True)
class SitePass(Pass):
    """A pass that acts at sites of the graph.

    Args:
        sites: Where to act: the names of values, or the paths of modules; everywhere, if there are
            none.
    """

    what: ClassVar[str]  # that is a site
    sites: tuple[str, ...] = ()

    @abc.abstractmethod
    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        """Rewrite the graph at the sites asked for."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        asked = self._asked(graph)
        remarks = self.visit(graph, context, asked)
        return [*remarks, *(self._no_site(name, asked.names) for name in asked.left)]

    def refused(self, remarks: Sequence[Remark]) -> list[Remark]:
        if not self.sites:
            return super().refused(remarks)
        sites = done(remarks)
        return [r for r in remarks if not r.applied and r.site not in sites]

    def _asked(self, graph: Graph) -> Asked:
        return Asked(graph, self.sites)

    def _no_site(self, name: str, names: Names) -> Remark:
        text = f"a site of {self.name} is {self.what}"
        if names.nodes(name):
            node, where = names.shown(name)
            return Remark(False, name, f"{node} is no site: {text}", where)
        return Remark(False, name, f"{names.unknown(name)}: {text}")


@dataclass(frozen=True, kw_only=True)
class SparingPass(SitePass):
    """A pass that acts at sites, and leaves some as they are.

    Args:
        protect: What stays as it is: the names of values or weights, or the paths of modules.
    """

    protect: tuple[str, ...] = ()

    def _asked(self, graph: Graph) -> Asked:
        return Asked(graph, self.sites, self.protect)
