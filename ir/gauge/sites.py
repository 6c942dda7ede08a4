"""Where a model can be transformed: its channel classes, and the inputs of its contractions.

A **class** is all values whose channels must be permuted together (a residual stream, the hidden
layer of an FFN). A **site** is a value that contractions with weights read: what quantization wants
to shift and scale. An **attention pair** is what queries and keys, or values and the result, hold
in their heads: the one takes what undoes the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..graph import Graph, Node
from ..laws import Kind
from ..recurrence import STATES
from ..types import TensorType
from .region import Blocked, Region
from .transport import transport

CONTRACTIONS = {
    "linear": -1,
    "conv1d": -2,
    "conv2d": -3,
    "conv3d": -4,
}  # op -> axis of the channels
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
LINEAR_MAPS = (*CONTRACTIONS, *TRANSPOSED)
WRITERS = {**CONTRACTIONS, "embedding": -1, "grouped_mm": -1, **dict.fromkeys(STATES, -1)}


@dataclass
class Site:
    """A value with what each kind of group can do there.

    Attributes:
        value: The value.
        axis: The axis of its channels.
        readers: The contractions that read it.
        heads: The axis of the heads, where the channels of each are coordinates of their own.
        found: For each kind that was tried: the region, or what blocks it.
    """

    value: Node
    axis: int
    readers: tuple[Node, ...]
    found: dict[Kind, Region | Blocked] = field(default_factory=dict[Kind, "Region | Blocked"])
    heads: int | None = None

    @property
    def axes(self) -> tuple[int, ...]:
        """All axes over which coordinates vary."""
        return (self.axis,) if self.heads is None else (self.heads, self.axis)

    @property
    def size(self) -> int:
        sizes = [self.value.shape[axis] for axis in self.axes]
        return math.prod(size for size in sizes if isinstance(size, int))

    @property
    def groups(self) -> tuple[Kind, ...]:
        """The kinds whose elements act here for free."""
        return tuple(kind for kind, region in self.found.items() if isinstance(region, Region))

    @property
    def blocked(self) -> dict[Kind, Blocked]:
        return {kind: region for kind, region in self.found.items() if isinstance(region, Blocked)}


def weighted(node: Node) -> bool:
    """Whether the node contracts data with weights."""
    if node.op not in CONTRACTIONS or len(node.args) < 2:
        return False
    data, weight = node.args[0], node.args[1]
    return (
        isinstance(data, Node)
        and isinstance(weight, Node)
        and data.op != "param"
        and is_weight(weight)
    )


def is_weight(node: Node) -> bool:
    """Whether a value is a parameter, perhaps stored as codes."""
    return node.op == "param" or (node.op in ("dequantize", "decode") and is_weight(node.inputs[0]))


def inputs_of_contractions(graph: Graph) -> Iterator[Site]:
    """The sites, in order: each value once, with all contractions that read it."""
    found: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if weighted(node):
            found.setdefault(node.args[0], []).append(node)
    for value, readers in found.items():
        yield Site(value, CONTRACTIONS[readers[0].op], tuple(readers))


def sites(graph: Graph, kinds: tuple[Kind, ...] = (Kind.SCALE, Kind.SHIFT)) -> list[Site]:
    """The inputs of contractions, with what may be done at each."""
    found = list(inputs_of_contractions(graph))
    for site in found:
        for kind in kinds:
            site.found[kind] = transport(graph, site.value, kind, axes=(site.axis,))
    return found


def attention_pairs(graph: Graph) -> Iterator[Site]:
    """For each attention the keys, and with them the queries; the values, and with them the
    result."""
    for node in graph.nodes:
        if node.op == "scaled_dot_product_attention":
            for value in dict.fromkeys(node.args[1:3]):
                yield Site(value, -1, (node,), heads=-3)


def attention_heads(graph: Graph) -> Iterator[Site]:
    """The heads of each attention, every head a coordinate: those of its keys and values, which
    heads of its queries may share."""
    for node in graph.nodes:
        if node.op == "scaled_dot_product_attention" and len(node.shape) > 3:
            yield Site(node.args[1], -3, (node,))


def split_channels(graph: Graph) -> Iterator[Site]:
    """Where a reshape has split channels into heads of as many channels each: all heads, every one
    a coordinate, and all channels of each head."""
    for node in graph.nodes:
        if node.op != "reshape":
            continue
        before, after = node.args[0].shape, node.shape
        rank = len(after)
        for place, (heads, width) in enumerate(itertools.pairwise(after)):
            if not isinstance(heads, int) or not isinstance(width, int) or min(heads, width) < 2:
                continue
            if (*after[:place], heads * width, *after[place + 2 :]) == before:
                yield Site(node, place - rank, ())
                yield Site(node, place + 1 - rank, (), heads=place - rank)


def pairs(graph: Graph) -> list[Site]:
    """The attention pairs, with the groups that mix the channels of a head tried."""
    found = list(attention_pairs(graph))
    for site in found:
        for kind in (Kind.SCALE, Kind.PERMUTATION, Kind.ORTHOGONAL, Kind.LINEAR):
            site.found[kind] = transport(graph, site.value, kind, axes=site.axes)
    return found


def classes(graph: Graph) -> list[Site]:
    """The channel classes that weights write, each once, with what mixes channels tried."""
    found: list[Site] = []
    covered: set[tuple[Node, int]] = set()
    for node in graph.nodes:
        if node.op not in WRITERS or not isinstance(node.type, TensorType):
            continue
        axis = WRITERS[node.op]
        if (node, axis) in covered:
            continue
        site = Site(node, axis, ())
        for kind in (Kind.PERMUTATION, Kind.CENTRE, Kind.ORTHOGONAL):
            site.found[kind] = transport(graph, node, kind, axes=(axis,))
        region = site.found[Kind.PERMUTATION]
        if isinstance(region, Region):
            covered |= {(n, along) for n, action in region.actions.items() for along in action.axes}
        covered.add((node, axis))
        found.append(site)
    return found
