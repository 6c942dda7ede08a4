"""Move numbers by permutations of few axes, where a target takes no more.

    permute(x[a, b, c, d, e, f])   =   permute(reshape(.. permute(reshape(x)) ..))

An image that is cut into windows, or into the channels of its pixels, has six axes for a moment.
Axes that stay side by side count as one, and what is left of a permutation exchanges neighbouring
blocks of axes, one such exchange after the other, each a permutation of four axes at most. Shapes
in between vanish, as a reshape of a reshape is one. Exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...ir import Graph, Node, TensorType
from ..base import Context, Pass, Remark, Stage, applied, missed
from ..options import Range, check_numbers


@dataclass(frozen=True)
class FewerAxes(Pass):
    """Write permutations of many axes in others of few.

    Args:
        most: Axes that a value may have: four or more.
    """

    most: int
    stage: ClassVar[Stage] = Stage.LEGALIZE

    def __post_init__(self) -> None:
        check_numbers(self, most=Range(4, whole=True))

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        for node in [node for node in graph.nodes if self._is_long(node) and node.op == "permute"]:
            if any(isinstance(size, str) for size in node.shape):
                remarks.append(missed(node, f"it has {len(node.shape)} axes, and sizes vary"))
                continue
            count = len(node.shape)
            found, steps = self._moved(graph, node)
            remarks.append(applied(found, f"{count} axes in {steps} moves of {self.most} at most"))
        if any(remark.applied for remark in remarks):
            _join_reshapes(graph)
            graph.prune()
        return remarks

    def _is_long(self, node: Node) -> bool:
        return isinstance(node.type, TensorType) and len(node.shape) > self.most

    def _moved(self, graph: Graph, node: Node) -> tuple[Node, int]:
        """What stands in the place of a permutation, and how many there are in it."""
        source: Node = node.args[0]
        sizes = [int(size) for size in source.shape]
        order = [axis % len(sizes) for axis in node.attrs["dims"]]
        value, count = source, 0
        for shape, dims in exchanges(sizes, order, self.most):
            value = graph.add("reshape", value, shape=shape, where=node.where, before=node)
            value = graph.add("permute", value, dims=dims, where=node.where, before=node)
            count += 1
        value = graph.add("reshape", value, shape=node.shape, where=node.where, before=node)
        graph.replace(node, value)
        graph.erase(node)
        return value, count


def exchanges(
    sizes: Sequence[int], order: Sequence[int], most: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """A permutation as others of few axes: the shape and the order of each."""
    here = [axis for axis, size in enumerate(sizes) if size > 1]
    wanted = [axis for axis in order if sizes[axis] > 1]
    while here != wanted:
        blocks = _side_by_side(here, wanted)
        if len(blocks) > most:
            blocks = _one_exchange(here, wanted)
        # Each block in the order of what is here, and where the next value has it.
        places = sorted(range(len(blocks)), key=lambda i: here.index(blocks[i][0]))
        dims = tuple(places.index(i) for i in range(len(blocks)))
        yield tuple(math.prod(sizes[axis] for axis in blocks[i]) for i in places), dims
        here = [axis for block in blocks for axis in block]


def _side_by_side(here: list[int], wanted: list[int]) -> list[list[int]]:
    """Runs of axes that stay neighbours, in the order that is wanted."""
    blocks: list[list[int]] = []
    for axis in wanted:
        if blocks and here.index(blocks[-1][-1]) + 1 == here.index(axis):
            blocks[-1].append(axis)
        else:
            blocks.append([axis])
    return blocks


def _one_exchange(here: list[int], wanted: list[int]) -> list[list[int]]:
    """What is in place, the run that comes next, what it is exchanged with, and the rest."""
    first = next(i for i, (a, b) in enumerate(zip(here, wanted, strict=True)) if a != b)
    start = here.index(wanted[first])
    end = start
    while end < len(here) and here[end] == wanted[first + end - start]:
        end += 1
    parts = (here[:first], here[start:end], here[first:start], here[end:])
    return [part for part in parts if part]


def _join_reshapes(graph: Graph) -> None:
    """Let each reshape read what an earlier one only names anew."""
    for node in graph.nodes:
        if node.op == "reshape":
            source: Node = node.args[0]
            while source.op == "reshape":
                source = source.args[0]
            if source is not node.args[0]:
                node.set((source, *node.args[1:]))
