"""Codes that ops give of codes, where floats between them say nothing that codes do not.

    quantize(f(dequantize(q)))          ->  c.table(q, T)      f any function of one number
    quantize(cat(f(dequantize(p)), dequantize(q)))  ->  cat(c.table(p, T), q)
    quantize(max(f(dequantize(q))))     ->  max(c.table(q, T))
    quantize(cat(x, dequantize(q)))     ->  cat(quantize(x), q)
    quantize(mul(dequantize(p), dequantize(q)))     ->  c.mul_integer(p, q)
    cat(dequantize(p), dequantize(q))   ->  dequantize(cat(p, q))      of one scale

A function of one code is a table of 256, which the graph itself fills: it runs on all codes. So
``x * sigmoid(x)`` and ``relu6(x + 3) / 6`` are tables as much as a change of scale is, which is a
table where codes of several scales are put together. Rounding passes through ops that move numbers
or pick the greatest, as it changes no order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...ir import Graph, Node, TensorType, ops
from ...ir.graph import Arg, ancestors, substitute
from ...ir.interpret import compute
from ...ir.laws import Elementwise
from .lower.movement import moves
from .lower.pointwise import LOWERINGS as POINTWISE

_CODES = (torch.uint8, torch.int8)
_PICKS = ("max_pool1d", "max_pool2d", "amax", "amin", "c.adaptive_max_pool", "embedding")


def fuse(graph: Graph) -> None:
    """Let ops between codes compute on codes."""
    for node in list(graph.nodes):
        if _is_real(node) and (moves(node) or node.op in _PICKS):
            _sink(graph, node)
    for node in list(graph.nodes):
        if node.op == "quantize" and node.dtype in _CODES and _is_scalar(node.args[1:]):
            region = _Region(graph, node)
            source = node.args[0]
            found = region.codes(source) if region.takes(source) else region.product(source)
            if found is not None:
                _put(graph, node, found)
    graph.prune()


def _sink(graph: Graph, node: Node) -> None:
    """Move or pick codes, if those of all parts are of one scale, and not what they stand for."""
    parts = _parts(node)
    if not parts or any(part.op != "dequantize" for part in parts):
        return
    dtype = parts[0].args[0].dtype
    if dtype not in _CODES or not all(_read_codes(part, dtype) for part in parts):
        return
    region = _Region(graph, parts[0])
    if not all(map(region.same, parts)) or node.attrs.get("value"):
        return
    made = region.moved(node, lambda part: part.args[0], before=node)
    new = graph.add("dequantize", made, *parts[0].args[1:], type=node.type, before=node)
    graph.supersede(node, new)


def _parts(node: Node) -> list[Node]:
    """The values that it moves or picks from; none where one is a tuple."""
    tensors = all(isinstance(part.type, TensorType) for part in node.inputs)
    return [part for part in node.inputs if _is_real(part)] if tensors else []


def _is_real(node: Node) -> bool:
    return isinstance(node.type, TensorType) and node.dtype == torch.float32


def _put(graph: Graph, old: Node, new: Node) -> None:
    """Codes in the place of a ``quantize``; those that were there before keep their name."""
    made = graph.nodes.index(new) + 1 == graph.nodes.index(old) if new in graph.nodes else False
    if made:
        graph.supersede(old, new)
    else:
        graph.replace(old, new)
        graph.erase(old)


def _is_scalar(parts: tuple[Arg, ...]) -> bool:
    return all(isinstance(part, Node) and _is_number(part) for part in parts)


def _is_number(node: Node) -> bool:
    """Whether it is a constant of one number."""
    if not isinstance(node.type, TensorType) or any(size != 1 for size in node.shape):
        return False
    return node.op == "param" or (
        node.op not in ("input", "output") and all(part.op == "param" for part in node.inputs)
    )


@dataclass(frozen=True)
class _Region:
    """Values as codes of the scale and zero point that ``of`` has, a ``quantize`` or its like."""

    graph: Graph
    of: Node

    @property
    def dtype(self) -> torch.dtype:
        return self.of.dtype if self.of.op == "quantize" else self.of.args[0].dtype

    def takes(self, value: Node) -> bool:
        """Whether a value's codes can be had without the value."""
        if _read_codes(value, self.dtype) or self._leaf(value) is not None:
            return True
        parts = _parts(value)
        if value.op in _PICKS:
            return all(map(self.takes, parts))
        # what is not in codes is rounded before it moves, unless much of it is left behind
        whole = sum(map(_count, parts)) <= _count(value)
        return moves(value) and bool(parts) and (whole or all(map(self.takes, parts)))

    def codes(self, value: Node) -> Node:
        """The codes of a value."""
        if _read_codes(value, self.dtype) and self.same(value):
            return value.args[0]
        if (leaf := self._leaf(value)) is not None:
            table = self.graph.param(f"{self.of.name}_table", self._table(value, leaf), origin=())
            return self._add("c.table", leaf.args[0], table, like=value)
        if self.takes(value):
            return self.moved(value, self.codes, before=self.of)
        return self._add("quantize", value, *self.of.args[1:], like=value, **self.of.attrs)

    def moved(self, value: Node, codes: Callable[[Node], Node], before: Node) -> Node:
        """The op on codes, where zero has one too."""
        attrs = dict(value.attrs)
        if value.op == "constant_pad_nd":
            number = torch.tensor(float(attrs.get("value") or 0))  # type: ignore[arg-type]
            attrs["value"] = int(self._rounded(number))
        args = substitute(value.args, lambda part: codes(part) if _is_real(part) else part)
        return self._add(value.op, *args, like=value, before=before, **attrs)

    def product(self, value: Node) -> Node | None:
        """The codes of a product of codes."""
        if value.op != "mul" or not all(
            isinstance(arg, Node) and _read_codes(arg, self.dtype) for arg in value.args
        ):
            return None
        given = (part for arg in value.args for part in (arg.args[0], *_coding(arg)))
        return self._add("c.mul_integer", *given, *_coding(self.of), like=value)

    def same(self, value: Node) -> bool:
        """Whether a value is read from codes of the same scale and zero point."""
        return all(
            one is other or self._number(one) == self._number(other)
            for one, other in zip(_coding(value), _coding(self.of), strict=True)
        )

    def _number(self, part: Node | None) -> float:
        return 0 if part is None else self.graph.value(part).item()

    def _add(
        self, op: str, *args: Arg, like: Node, before: Node | None = None, **attrs: Arg
    ) -> Node:
        type_, where = TensorType(self.dtype, like.shape), like.where or self.of.where
        before = self.of if before is None else before
        return self.graph.add(
            op, *args, name=like.name, type=type_, where=where, before=before, **attrs
        )

    def _leaf(self, value: Node) -> Node | None:
        """The one value read from codes that each number is a function of."""
        found = dict[Node, None]()

        def visit(node: Node) -> bool:
            if _read_codes(node, self.dtype) and node.args[0].op != "param":
                found[node] = None
                return True
            if _is_number(node):
                return True
            alike = node.op not in ("input", "param") and node.shape == value.shape
            return alike and _is_pointwise(node) and all(map(visit, node.inputs))

        whole = _is_real(value) and visit(value) and len(found) == 1
        leaf = next(iter(found), None)
        return leaf if whole and leaf is not None and leaf.shape == value.shape else None

    def _table(self, value: Node, leaf: Node) -> torch.Tensor:
        """What becomes of each code, in the order of the bytes that codes are."""
        codes = torch.arange(256).to(torch.uint8).view(self.dtype)
        values = {node: self.graph.value(node) for node in self.graph.params.values()}
        values[leaf] = ops.call("dequantize", (codes, *self._numbers(leaf)), {})
        needed = {value, *ancestors([value])} - {*values, *ancestors([leaf])}
        with torch.no_grad():
            compute([n for n in self.graph.nodes if n in needed], values, keep=[value, leaf])
        return self._rounded(values[value].reshape(-1))

    def _rounded(self, value: torch.Tensor) -> torch.Tensor:
        return ops.call("quantize", (value, *self._numbers(self.of)), {"dtype": self.dtype})

    def _numbers(self, node: Node) -> list[torch.Tensor | None]:
        return [None if p is None else self.graph.value(p).reshape(()) for p in _coding(node)]


def _coding(node: Node) -> tuple[Node, Node | None]:
    """The scale and the zero point of a ``quantize`` or a ``dequantize``."""
    return node.args[1], node.operand(2)  # type: ignore[return-value]


def _count(node: Node) -> int:
    return math.prod(map(int, node.shape))


def _read_codes(node: Node, dtype: torch.dtype) -> bool:
    """Whether a value is what codes of one scale stand for."""
    if node.op != "dequantize" or not _is_real(node):
        return False
    return node.args[0].dtype == dtype and _is_scalar(node.args[1:])


def _is_pointwise(node: Node) -> bool:
    """Whether each number of a result is computed of the number at the same place."""
    if node.op in POINTWISE or node.op not in ops.OPS:
        return node.op in POINTWISE
    law = ops.get(node.op).law
    packet = ops.get(node.op).target
    overloads = getattr(packet, "overloads", list)()
    tags = (getattr(packet, name).tags for name in overloads)
    return isinstance(law, Elementwise) or any(torch.Tag.pointwise in tag for tag in tags)
