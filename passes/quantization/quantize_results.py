"""Round to codes all that lies between ops, for processors that compute on integers alone.

    y = gelu(dequantize(q))   becomes   y' = dequantize(quantize(gelu(dequantize(q))))

for every value in floating point and every constant beside it, so that each op lies between codes
that it reads and codes that it gives: of the three, a runtime makes one kernel on integers. Each
value has one scale and zero point, from the range that was seen on calibration data. An op that
only moves numbers gives the codes that it reads, and a clip whose limits are those of the codes is
the rounding itself. Comes after ``Quantize``, whose weights and codes it keeps. Approximate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch

from ...ir import Graph, Node, TensorType, ops
from ...ir.clips import CLIPS, clip_limits
from ...ir.gauge import Site, weighted
from ...ir.graph import Arg
from ...ir.laws import Movement, Parts
from ..base import Context, Pass, Promise, Remark, Stage, applied
from ..calibration import observe
from .insertion import insert_static, range_to_scale
from .values import Activations, codes_dtype, static_parameters

_CODED = ("quantize", "dequantize", "decode", "dynamic_quantize", "fake_quantize")
_ARITHMETIC = ("add", "sub", "mul", "div")
# Values within limits that their op sets: the codes divide these evenly, whatever was seen, which
# is what processors take for granted.
_BOUNDED = {"sigmoid": (0, 1), "hardsigmoid": (0, 1), "softmax": (0, 1), "tanh": (-1, 1)}

_Coding: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # scale and zero point, scalars


@dataclass(frozen=True)
class QuantizeResults(Pass):
    """Give codes to every value in floating point that has none.

    Inputs and outputs of the graph stay in floating point, and are rounded where they come in and
    go out.

    Args:
        activations: ``static`` or ``static16``, as ``Quantize`` has them.
    """

    activations: Activations = "static"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.QUANTIZE

    @property
    def activation_codes(self) -> tuple[str, ...]:
        return (self.activations,)

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        dtype = codes_dtype(self.activations, context.activation_dtype)
        remarks = _quantize_constants(graph, dtype, context.activation_dtype)
        values = [node for node in (*graph.inputs, *graph.nodes) if _is_rounded(node)]
        for value, (scale, zero_point) in self._codings(graph, context, values, dtype).items():
            known = _quantized(value)
            _round(graph, value, scale, zero_point)
            if known is None:
                remarks.append(applied(value, "the result in codes"))
        return remarks

    def _codings(
        self, graph: Graph, context: Context, values: list[Node], dtype: torch.dtype
    ) -> dict[Node, _Coding]:
        """Of each value: that which it has, that of what it becomes by moving, or by its range;
        then all that is moved gets that of what it comes from."""
        found: dict[Node, _Coding] = {}
        for value in values:
            if value.op in _BOUNDED:
                found[value] = _between(*_BOUNDED[value.op], dtype)
            elif (known := _quantized(value)) is not None:
                found[value] = _coding_of(graph, known)
        bare = {value.name: -1 for value in values if value not in found}
        seen = observe(graph, context, bare, self.name, sample=0)
        for value in reversed(values):
            if value in found:
                continue
            moved = [user for user in value.users if _source(user) is value and user in found]
            if len(moved) == len(value.users) == 1:
                found[value] = found[moved[0]]
            else:
                limits = seen[value.name]
                low, high = limits.low.min(), limits.high.max()
                found[value] = static_parameters(
                    low, high, self.activations, context.activation_dtype
                )
        for value in values:
            source = _source(value)
            if source is None:
                continue
            if source in found:
                found[value] = found[source]
            elif source.op == "dequantize" and not source.args[1].shape:
                found[value] = _coding_of(graph, source)
        return found


def _between(low: int, high: int, dtype: torch.dtype) -> _Coding:
    """All codes of a dtype spread over a range, the last of which stands for one step less."""
    info = torch.iinfo(dtype)
    step = (high - low) / (info.max - info.min + 1)
    return torch.tensor(step), torch.tensor(round(info.min - low / step), dtype=dtype)


def _is_rounded(node: Node) -> bool:
    """Whether a value is one that codes are to stand for."""
    type_ = node.type
    if not isinstance(type_, TensorType) or type_.dtype != torch.float32:
        return False
    return bool(type_.shape and node.users) and node.op not in _CODED and not _is_clipped(node)


def _is_clipped(node: Node) -> bool:
    """Whether the one reader is a clip from zero on, which the limits of its codes say again."""
    if len(node.users) != 1:
        return False
    (user,) = node.users
    return user.op in CLIPS and clip_limits(user)[0] == 0


def _quantized(value: Node) -> Node | None:
    return next((user for user in value.users if user.op == "quantize"), None)


def _coding_of(graph: Graph, node: Node) -> _Coding:
    """Of a quantize or a dequantize."""
    scale, zero_point = (graph.value(param) for param in node.args[1:3])
    return scale, zero_point


def _source(node: Node) -> Node | None:
    """What a node moves, where that is one value and nothing else is done to it."""
    if node.op in ("input", "output"):
        return None
    if node.op == "embedding":
        return node.args[0]
    if node.op == "getitem" and isinstance(ops.get(node.args[0].op).law, Parts):
        node = node.args[0]
    elif not isinstance(ops.get(node.op).law, Movement):
        return None
    values = [arg for arg in node.inputs if isinstance(arg.type, TensorType)]
    return _unrounded(values[0]) if len(values) == 1 else None


def _unrounded(value: Node) -> Node:
    """The value whose codes another stands for."""
    if value.op == "dequantize" and value.args[0].op == "quantize":
        return value.args[0].args[0]
    return value


def _round(graph: Graph, value: Node, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
    """Let all that read a value read what its codes stand for."""
    codes = _quantized(value)
    if codes is None:
        insert_static(graph, Site(value, -1, tuple(value.users)), scale, zero_point)
        return
    back = next(iter(codes.users))
    for place, what, param in ((1, "scale", scale), (2, "zero", zero_point)):
        if not torch.equal(graph.value(codes.args[place]), param):
            new = graph.param(f"{value.name}_{what}", param, origin=())
            for node in (codes, *codes.users):
                node.set((*node.args[:place], new, *node.args[place + 1 :]))
    for user in [user for user in value.users if user is not codes]:
        user.replace_input(value, back)


def _quantize_constants(graph: Graph, dtype: torch.dtype, eight: torch.dtype) -> list[Remark]:
    """Codes for the constants that ops read beside values, numbers among them.

    The weights of norms are in eight bits as others are. Biases stay: runtimes round them to 32
    bits, in units of the sums that they are added to.
    """
    remarks: list[Remark] = []
    for node in list(graph.nodes):
        if node.op in _CODED or weighted(node):
            continue
        if node.op in _ARITHMETIC and node.dtype.is_floating_point:
            node.set([_as_param(graph, node, arg) for arg in node.args], node.attrs)
        operands = ops.get(node.op).bind(node.args)
        bias = operands.get("bias")
        weight = operands.get("weight") if node.op != "embedding" else None  # a table of values
        for param in dict.fromkeys(node.inputs):
            if param.op == "param" and param.dtype == torch.float32 and param is not bias:
                made = _in_codes(graph, param, eight if param is weight else dtype)
                remarks.append(applied(made, "a constant in codes"))
    return remarks


def _as_param(graph: Graph, node: Node, arg: Arg) -> Arg:
    if not isinstance(arg, (int, float)):
        return arg
    return graph.param(f"{node.name}_number", torch.tensor(float(arg)), origin=())


def _in_codes(graph: Graph, param: Node, dtype: torch.dtype) -> Node:
    """A constant as what codes of one scale and zero point stand for, for all its readers."""
    value, name = graph.value(param), param.name
    scale, zero_point = range_to_scale(value.min(), value.max(), dtype)
    codes = torch.ops.regauge.quantize(value, scale, zero_point, dtype=dtype)
    parts = {"codes": codes, "scale": scale, "zero": zero_point}
    stored = [graph.param(f"{name}_{key}", part, origin=()) for key, part in parts.items()]
    first = min(param.users, key=graph.nodes.index)
    made = graph.add("dequantize", *stored, name=f"{name}_value", type=param.type, before=first)
    graph.replace(param, made)
    graph.erase(param)
    return made
