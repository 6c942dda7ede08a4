"""A graph in which regions give way to kernels, and the record of what did and what did not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from ...ir import Graph, Node, ops
from ...ir.formats import Format, Integer
from ...ir.types import TensorType
from ..description import Region
from ..op import NAME, leading, spelled


@dataclass(frozen=True)
class Placed:
    """A kernel in a graph.

    Args:
        node: The name of its node.
        region: What it computes.
        covers: The names of the nodes that it stands for.
        kinds: Their ops.
    """

    node: str
    region: Region
    covers: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass
class Build:
    """A graph under change.

    Args:
        graph: Its own copy.
        capability: Of the device.
        half: What the inputs of kernels that take nothing wider are rounded to; ``None``: they are
            left to PyTorch.
        tries: Options that a kernel may time.
        placed: The kernels so far.
        reasons: Why an op that might have had a kernel has none, by its name.
    """

    graph: Graph
    capability: int
    half: torch.dtype | None
    tries: int
    placed: list[Placed] = field(default_factory=list[Placed])
    reasons: dict[str, str] = field(default_factory=dict[str, str])

    def place(
        self,
        region: Region,
        operands: Mapping[str, Node],
        covers: Iterable[Node],
        before: Node,
    ) -> dict[str, Node]:
        """Add a kernel, and give its results by name; who reads them is the caller's to say.

        Args:
            region: What it computes.
            operands: By the names that the region has for them.
            covers: The nodes that it stands for.
            before: Where it goes.
        """
        names = tuple(region.operands(1))
        values = region.results(1)
        front = leading(region, operands["input"].shape)
        types = [TensorType(v.dtype, (*front, *v.shape[1:])) for v in values.values()]
        node = self.graph.add(
            NAME,
            tuple(operands[name] for name in names),
            name=f"{before.name}_kernel",
            type=tuple(types),
            where=before.where,
            before=before,
            region=spelled(region),
            tries=self.tries,
        )
        parts = list(covers)
        kinds = tuple(part.op for part in parts)
        self.placed.append(Placed(node.name, region, tuple(part.name for part in parts), kinds))
        return {
            name: self.graph.add(
                "getitem", node, i, name=f"{before.name}_{name}", type=types[i], before=before
            )
            for i, name in enumerate(values)
        }

    def constant(self, name: str, value: torch.Tensor) -> Node:
        """A parameter as kernels take it."""
        return self.graph.param(name, value.contiguous(), ())

    def cast(self, value: Node, dtype: torch.dtype, before: Node) -> Node:
        """A value in another dtype."""
        if value.dtype == dtype:
            return value
        return self.graph.add(
            "to",
            value,
            dtype=dtype,
            type=TensorType(dtype, value.shape),
            name=f"{value.name}_cast",
            before=before,
        )


def sole(node: Node) -> Node | None:
    """The one that reads a value, and reads it once."""
    if len(node.users) != 1:
        return None
    reader = next(iter(node.users))
    once = sum(part is node for part in reader.inputs) == 1
    return reader if once and reader.op != "output" else None


def activation(node: Node) -> str | None:
    """The activation that a node is, by the name that kernels have for it."""
    match node.op:
        case "relu" | "silu":
            return node.op
        case "gelu":
            exact = node.attrs.get("approximate", "none") == "none"
            return "gelu" if exact else "gelu_tanh"
        case _:
            return None


def integer_bits(form: Format, granularity: str) -> int:
    """How many bits the integers of a format have, which share a scale in float32 and no zero point
    in each ``token`` or ``channel``; 0 for other formats."""
    element = form.element
    if not isinstance(element, Integer) or str(form) != f"{element}-{granularity}":
        return 0
    plain = element.signed and not element.fraction and not element.narrow
    return element.width if plain else 0


def value_of(build: Build, node: object) -> torch.Tensor | None:
    """The tensor of a constant."""
    return build.graph.value(node) if isinstance(node, Node) and node.op == "param" else None


def constants(graph: Graph) -> dict[str, int]:
    """Compute what follows from parameters alone, once; gives the bytes of each weight that is no
    longer in codes, by name.

    A table of int8 codes is left in codes: rows are taken from it, and from its scales.
    """
    found: dict[str, int] = {}
    for node in [node for node in graph.nodes if node.op == "embedding"]:
        _gather_codes(graph, node)
    graph.prune()
    for node in list(graph.nodes):
        if node.op not in ("decode", "dequantize", "to") or not node.users:
            continue
        if all(part.op == "param" for part in node.inputs):
            values = tuple(graph.value(arg) if isinstance(arg, Node) else arg for arg in node.args)
            value = ops.call(node.op, values, node.attrs)
            new = graph.param(f"{node.name}_made", value, ())  # `to` is no name for a parameter
            graph.replace(node, new)
            if value.dim() > 1 and node.op != "to":
                found[new.name] = value.nbytes
    graph.prune()
    return {name: size for name, size in found.items() if name in graph.params}


def _gather_codes(graph: Graph, node: Node) -> None:
    table = node.args[0]
    if table.op != "dequantize" or len(table.inputs) != 2 or len(table.users) != 1:
        return
    codes, scale = table.args[:2]
    if codes.op != "param" or scale.shape != (codes.shape[0], 1):
        return
    parts = [
        graph.add(
            "embedding",
            part,
            *node.args[1:],
            name=f"{node.name}_{name}",
            type=TensorType(part.dtype, (*node.shape[:-1], part.shape[-1])),
            before=node,
        )
        for name, part in (("codes", codes), ("scale", scale))
    ]
    value = graph.add("dequantize", *parts, type=node.type, name=f"{node.name}_value", before=node)
    graph.supersede(node, value)
