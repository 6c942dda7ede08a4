"""Branches over one value as they are added up to one linear map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from ...ir import Graph, Node
from ..base import Remark, applied
from ..ties import broken_tie, untied
from .channelwise import as_diagonal, by_channel
from .linear_maps import Apart, Form, form_of, unit

Term: TypeAlias = "tuple[float, Any]"  # a factor, and the value or number that it multiplies


@dataclass
class Branches:
    """A linear map of one value as it is put together.

    Attributes:
        root: The value that it will be.
        tree: What goes with the root.
        source: The value that it reads.
        form: Its form so far.
        maps: Its branches, each with a factor, ``[O]`` or a number.
        names: Of all that went in.
        scale: What it adds of each channel of the source, ``[O]``.
        shift: And of constants, ``[O]``.
    """

    graph: Graph
    root: Node
    tree: set[Node]
    source: Node
    form: Form
    maps: list[tuple[Any, Node, Form]] = field(default_factory=list[tuple[Any, Node, Form]])
    names: list[str] = field(default_factory=list[str])
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    def start(self, factor: Any, node: Node) -> None:
        """Take the first branch, whose form the sum has."""
        self.maps.append((factor, node, self.form))
        self.names.append(node.name)

    def take(self, factor: float, value: Any) -> bool:
        """Add a term, if it is one of a map of the source; raises ``Apart`` if it does not fit."""
        if is_map(value, self.root) and value.args[0] is self.source:
            form = form_of(value)
            assert form is not None
            self.widen(form, value)
            self.maps.append((factor, value, form))
        elif isinstance(value, Node) and value.type == self.root.type:
            found = as_diagonal(self.graph, value, self.source, self.form)
            if found is None:
                return self.take_constant(factor, value)
            self.widen(unit(self.form))
            scale, shift = found
            self.scale = _plus(self.scale, factor * scale)
            self.shift = self.shift if shift is None else _plus(self.shift, factor * shift)
        else:
            return self.take_constant(factor, value)
        self.names.append(value.name)
        return True

    def take_constant(self, factor: float, value: Any) -> bool:
        found = by_channel(self.graph, value, self.form)
        if found is not None:
            self.shift = _plus(self.shift, factor * found)
            self.names.append(str(value) if isinstance(value, int | float) else value.name)
        return found is not None

    def widen(self, form: Form, node: Node | None = None) -> None:
        """Make room for another branch, where that has no more weights than what goes for it."""
        joined = self.form.join(form)
        joined.attributes(self.source, self.root)
        going = {*(n for _, n, _ in self.maps), *([] if node is None else [node])}
        room = sum(size_of(n) for n in going if goes(n, self.tree))
        if joined.size > room:
            for n in going:
                if others := [user.name for user in n.users if user not in self.tree]:
                    raise Apart(f"{n.name} is also read by {', '.join(others)}")
            raise Apart(f"together they have {joined.size} weights, apart {room}")
        self.form = joined

    def write(self, rest: list[Term], untie: bool) -> Remark:
        """Put it into the graph in the root's place, and the other terms behind it."""
        graph, root, maps = self.graph, self.root, self.maps
        nodes = [node for _, node, _ in maps]
        going = [node for node in nodes if goes(node, self.tree)]
        broken = untied(graph, nodes, going, self.form.size * root.dtype.itemsize)
        if not untie and (sentence := broken_tie(broken)):
            raise Apart(sentence)
        weight, bias = self.weight(), self.bias()
        first = maps[0][1]
        name = f"{first.name}_merged" if rest else root.name
        total = new = graph.add(
            self.form.op, *first.args, name=name, type=root.type, where=first.where,
            before=root, **self.form.attributes(self.source, root),
        )  # fmt: skip
        for factor, value in rest:
            alpha = {} if abs(factor) == 1 else {"alpha": abs(factor)}
            op = "add" if factor > 0 else "sub"
            total = graph.add(op, total, value, name=root.name, type=root.type,
                              where=root.where, before=root, **alpha)  # fmt: skip
        graph.supersede(root, total)
        graph.prune()
        graph.give(new, 1, weight)
        if bias is not None:
            graph.give(new, 2, bias, name=f"{new.name}_bias")
        if len(self.names) == 1:
            return applied(total, f"the weights of {first.name} took up its factor")
        return applied(total, f"{', '.join(self.names)} are one {self.form.op}")

    def weight(self) -> torch.Tensor:
        total = torch.zeros(self.form.shape, dtype=torch.float64)
        for factor, node, form in self.maps:
            value = self.graph.value(node.args[1]) * _column(factor, len(self.form.shape))
            total = total + self.form.place(value, form)
        if self.scale is not None:
            total = total + self.form.place(self.form.diagonal(self.scale), unit(self.form))
        return total.to(self.root.dtype)

    def bias(self) -> torch.Tensor | None:
        total = self.shift
        for factor, node, _ in self.maps:
            if node.operand(2) is not None:
                total = _plus(total, self.graph.value(node.args[2]) * factor)
        return None if total is None else total.to(self.root.dtype).contiguous()


def _column(factor: Any, rank: int) -> Any:
    """A factor for each row of a weight."""
    return factor.reshape(-1, *[1] * (rank - 1)) if isinstance(factor, torch.Tensor) else factor


def is_map(value: Any, root: Node) -> bool:
    return isinstance(value, Node) and value.type == root.type and form_of(value) is not None


def goes(node: Node, tree: set[Node]) -> bool:
    """Whether a branch is needed for nothing but the sum."""
    return set(node.users) <= tree


def size_of(node: Node) -> int:
    form = form_of(node)
    return 0 if form is None else form.size


def _plus(total: torch.Tensor | None, part: torch.Tensor) -> torch.Tensor:
    return part if total is None else total + part
