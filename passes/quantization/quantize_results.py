"""Round to codes all that lies between ops, for processors that compute on integers alone.

    y = gelu(dequantize(q))   becomes   y' = dequantize(quantize(gelu(dequantize(q))))

for every value in floating point and every constant beside it, so that each op lies between codes
that it reads and codes that it gives: of the three, a runtime makes one kernel on integers. Each
value has one scale and zero point, from the range that was seen on calibration data. An op that
only moves numbers, picks the greatest or takes means of them gives the codes that it reads, and a
clip whose limits are those of the codes is the rounding itself. Comes after ``Quantize``, whose
weights it keeps. Approximate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias, TypeGuard

import networkx as nx
import torch

from ...ir import Graph, Node, TensorType, ops
from ...ir.clips import CLIPS, clip_limits
from ...ir.gauge import Site, weighted
from ...ir.gauge.sites import TRANSPOSED
from ...ir.graph import Arg
from ...ir.laws import Movement, Normalize, Parts
from ..base import Context, Pass, Promise, Remark, Stage, applied
from ..calibration import observe
from ..options import check_known
from .choices import reads_weights
from .insertion import about_zero, insert_static, range_to_scale
from .values import STATIC, Activations, codes_dtype, static_parameters

_CODED = ("quantize", "dequantize", "decode", "dynamic_quantize", "fake_quantize")
_ARITHMETIC = ("add", "sub", "mul", "div")
# Values within limits that their op sets: the codes divide these evenly, whatever was seen, which
# is what processors take for granted.
_BOUNDED = {"sigmoid": (0, 1), "hardsigmoid": (0, 1), "softmax": (0, 1), "tanh": (-1, 1)}
# Ops that give some of the numbers that they read, or means of them.
_MEANS = (
    *(f"{kind}_pool{n}d" for kind in ("avg", "adaptive_avg") for n in (1, 2, 3)),
    "upsample_bilinear2d",
)
_WITHIN = ("amax", "amin", *(f"max_pool{n}d" for n in (1, 2, 3)), *_MEANS)

_Coding: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # scale and zero point, scalars


@dataclass(frozen=True)
class QuantizeResults(Pass):
    """Give codes to every value in floating point that has none.

    Inputs and outputs of the graph stay in floating point, and are rounded where they come in and
    go out.

    Args:
        activations: ``static`` or ``static16``, as ``Quantize`` has them.
        floats: Ops with weights that may give floats of codes: what comes of the last of them up
            to the end of the graph is not rounded.
    """

    activations: Activations = "static"
    floats: frozenset[str] = field(default=frozenset(), repr=False)
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def __post_init__(self) -> None:
        check_known([self.activations], STATIC, "coding of results")

    @property
    def activation_codes(self) -> tuple[str, ...]:
        return (self.activations,)

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        dtype = codes_dtype(self.activations, context.activation_dtype)
        remarks: list[Remark] = []
        for weight in _weights_of_norms(graph):
            coding = _range_of(graph.value(weight), context.activation_dtype)
            remarks.append(applied(_in_codes(graph, weight, coding), "weights in codes"))
        end = _end(graph, self.floats)
        constants = _constants(graph, end)
        values = [
            node for node in (*graph.inputs, *graph.nodes) if _is_rounded(node) and node not in end
        ]
        codings = self._codings(graph, context, constants, values, dtype)
        for value in values:
            known = _quantized(value)
            _round(graph, value, *codings[value])
            if known is None:
                remarks.append(applied(value, "the result in codes"))
        for constant in constants:
            made = _in_codes(graph, constant, codings[constant])
            remarks.append(applied(made, "a constant in codes"))
        return remarks

    def _codings(
        self,
        graph: Graph,
        context: Context,
        constants: list[Node],
        values: list[Node],
        dtype: torch.dtype,
    ) -> dict[Node, _Coding]:
        """Of each value that of all that it shares codes with: what one of them has that its op
        sets limits to, or the range of all whose numbers are computed with."""
        found = {node: _of_constant(graph, node, dtype) for node in constants}
        for value in values:
            if value.op in _BOUNDED:
                found[value] = _between(*_BOUNDED[value.op], dtype)
            elif (known := _quantized(value)) is not None:
                found[value] = _coding_of(graph, known)
        bare = {value.name: -1 for value in values if value not in found}
        seen = observe(graph, context, bare, self.name, sample=0)
        for value in values:
            if value not in found:
                low, high = seen[value.name].low.min(), seen[value.name].high.max()
                found[value] = static_parameters(
                    low, high, self.activations, context.activation_dtype
                )
        made: dict[Node, _Coding] = {}
        for group in _sharing([*constants, *values]):
            bounded = [found[node] for node in group if node.op in _BOUNDED]
            others = [found[node] for node in group if _counts(node, group)]
            made |= dict.fromkeys(group, (bounded or [_widest(others)])[0])
        return made


def _sharing(values: list[Node]) -> Iterator[set[Node]]:
    """The sets of values that have the same codes: what is moved and what it is moved from, what is
    put together and its parts, and the table of constants that rows are taken of."""
    together: nx.Graph[Node] = nx.Graph()
    together.add_nodes_from(values)
    known = set(values)
    for value in values:
        together.add_edges_from((part, value) for part in _sources(value) if part in known)
    yield from nx.connected_components(together)


def _counts(value: Node, group: set[Node]) -> bool:
    """Whether the codes of a group must hold a value: a constant, or one that something computes
    with, be it by its codes. So do means: what is cut off of their parts is missing in them."""
    if value.op == "param":
        return True
    readers = [user for user in value.users if user.op != "quantize"]
    codes = _quantized(value)
    back = [] if codes is None else [user for part in codes.users for user in part.users]
    return any(user not in group or user.op in _MEANS for user in (*readers, *back))


def _widest(codings: list[_Coding]) -> _Coding:
    """One range for all of some; of several that are the same, that."""
    first = codings[0]
    if all(torch.equal(a, b) for coding in codings for a, b in zip(coding, first, strict=True)):
        return first
    info = torch.iinfo(first[1].dtype)
    ends = [((info.min - z.float()) * s, (info.max - z.float()) * s) for s, z in codings]
    lows, highs = (torch.stack(end) for end in zip(*ends, strict=True))
    return range_to_scale(lows.min(), highs.max(), first[1].dtype)


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


def _sources(node: Node) -> list[Node]:
    """The values of which a node gives numbers, or what lies between them; none where it computes
    others."""
    if node.op in ("input", "output", "param"):
        return []
    if node.op == "embedding":
        return [node.args[0]]
    if node.op == "getitem" and isinstance(ops.get(node.args[0].op).law, Parts):
        node = node.args[0]
    elif node.op not in _WITHIN and not isinstance(ops.get(node.op).law, Movement):
        return []
    values = [arg for arg in node.inputs if isinstance(arg.type, TensorType)]
    floats = [_unrounded(value) for value in values if value.dtype == torch.float32]
    # What has limits of its own is rounded anew where it is put together with others.
    return [] if len(floats) > 1 and any(v.op in _BOUNDED for v in floats) else floats


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
    for place, what, param in ((1, "scale", scale.to(value.dtype)), (2, "zero", zero_point)):
        if not torch.equal(graph.value(codes.args[place]), param):
            new = graph.param(f"{value.name}_{what}", param, origin=())
            for node in (codes, *codes.users):
                node.set((*node.args[:place], new, *node.args[place + 1 :]))
    for user in [user for user in value.users if user is not codes]:
        user.replace_input(value, back)


def _weights_of_norms(graph: Graph) -> list[Node]:
    """What norms multiply by: weights, in eight bits as others are."""
    found: dict[Node, None] = {}
    for node in graph.nodes:
        op = ops.get(node.op)
        if isinstance(op.law, Normalize):
            weight = op.bind(node.args).get("weight")
            if _is_constant(weight):
                found[weight] = None
    return list(found)


def _end(graph: Graph, ops: frozenset[str]) -> set[Node]:
    """What stays in floating point: from these ops on, where no weights come after."""
    before, found = set[Node](), set[Node]()
    for node in reversed(graph.nodes):
        if any(user in before or reads_weights(user) for user in node.users):
            before.add(node)
    for node in graph.nodes:
        begins = node.op in ops and node not in before
        if begins or any(part in found for part in node.inputs):
            found.add(node)
    return found


def _constants(graph: Graph, end: set[Node]) -> list[Node]:
    """The constants that ops read beside values, numbers among them, which become constants.

    Weights of contractions have codes. Biases stay: runtimes round them to 32 bits, in units of the
    sums that they are added to.
    """
    found: dict[Node, None] = {}
    for node in list(graph.nodes):
        if node.op in _CODED or weighted(node) or node in end:
            continue
        if node.op in _ARITHMETIC and node.dtype.is_floating_point:
            node.set([_as_param(graph, node, arg) for arg in node.args])
        bias = ops.get(node.op).bind(node.args).get("bias")
        found |= {arg: None for arg in node.inputs if _is_constant(arg) and arg is not bias}
    return list(found)


def _is_constant(arg: Arg) -> TypeGuard[Node]:
    return isinstance(arg, Node) and arg.op == "param" and arg.dtype == torch.float32


def _as_param(graph: Graph, node: Node, arg: Arg) -> Arg:
    if not isinstance(arg, (int, float)):
        return arg
    return graph.param(f"{node.name}_number", torch.tensor(float(arg)), origin=())


def _of_constant(graph: Graph, node: Node, dtype: torch.dtype) -> _Coding:
    """Of weights about zero, as those of other layers are; of numbers beside values by their range.

    Of a transposed convolution in groups no axis is that of its outputs, and ``Quantize`` leaves
    its weights.
    """
    value = graph.value(node)
    if any(user.op in TRANSPOSED and user.args[1] is node for user in node.users):
        return about_zero(value)
    return _range_of(value, dtype)


def _range_of(value: torch.Tensor, dtype: torch.dtype) -> _Coding:
    return range_to_scale(value.min(), value.max(), dtype)


def _in_codes(graph: Graph, param: Node, coding: _Coding) -> Node:
    """A constant as what codes stand for, for all its readers."""
    value, name, (scale, zero_point) = graph.value(param), param.name, coding
    codes = torch.ops.regauge.quantize(value, scale, zero_point, dtype=zero_point.dtype)
    parts = {"codes": codes, "scale": scale, "zero": zero_point}
    stored = [graph.param(f"{name}_{key}", part, origin=()) for key, part in parts.items()]
    first = min(param.users, key=graph.nodes.index)
    made = graph.add("dequantize", *stored, name=f"{name}_value", type=param.type, before=first)
    graph.replace(param, made)
    graph.erase(param)
    return made
