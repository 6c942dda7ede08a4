"""What is decided together, and how large it is.

A unit is the readers of one weight; or of one value, or of one of the graph's repeated blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...ir import Graph, InputError, Node
from ...ir.blocks import repeated
from ...ir.formats import named
from ...ir.gauge import weighted
from ...ir.sparse import sparse_nbytes
from ..patterns import named_sparsity
from ..quantization.choices import CHANNELWISE, Choice, reads_weights, turns

By: TypeAlias = Literal["weight", "value", "block"]


@dataclass(frozen=True)
class Unit:
    """Readers that get one choice.

    Attributes:
        readers: In order.
        block: The number of the repeated block that they are in; -1 outside of all.
    """

    readers: tuple[Node, ...]
    block: int = -1

    @property
    def name(self) -> str:
        return self.readers[0].name

    @property
    def weights(self) -> tuple[Node, ...]:
        """Their weights, each once."""
        return tuple(dict.fromkeys(map(weight_of, self.readers)))

    @property
    def size(self) -> int:
        """How many weights there are."""
        return sum(map(numel, self.weights))

    @property
    def macs(self) -> int:
        """Products for one run; a symbolic size counts as one."""
        return sum(
            math.prod(size for size in reader.shape if isinstance(size, int))
            // int(weight_of(reader).shape[0])
            * numel(weight_of(reader))
            for reader in self.readers
            if reader.op != "embedding"
        )

    def nbytes(self, choice: Choice) -> int:
        """What its weights take, with their scales."""
        return sum(weight_bytes(weight, *choice.stored) for weight in self.weights)

    def bits(self, choice: Choice) -> float:
        """For each weight."""
        return 8 * self.nbytes(choice) / self.size


def weight_of(reader: Node) -> Node:
    """The weight of a contraction, or the table of an embedding."""
    return reader.args[0 if reader.op == "embedding" else 1]


def data_of(reader: Node) -> Node:
    """What the weight is applied to."""
    return reader.args[1 if reader.op == "embedding" else 0]


def weight_bytes(weight: Node, form: str | None, zeros: str | None = None) -> int:
    """What a weight takes in a format; with zeros, what it takes where storage leaves these out
    (``ir.sparse``), if that is less. By chance more of it may be alike, and it takes less still.

    That storage knows numbers, and codes of four or eight bits; other codes take what they take.
    """
    shape, count, size = [int(n) for n in weight.shape], numel(weight), weight.dtype.itemsize
    kind = None if form is None or form == CHANNELWISE else named(form)
    if kind is None:
        codes, levels, scales = count, 1 << (8 if form else 8 * size), 1
        whole = count if form else count * size
        whole += shape[0] * size if form else 0
    else:
        (codes, scales), levels = kind.counts(shape), kind.element.levels
        whole = kind.nbytes(shape)
    bits = (levels - 1).bit_length()
    if zeros is None or 1 << bits != levels or bits % 8 not in (0, 4):
        return whole
    wanted = named_sparsity(zeros)
    others = count - wanted.zeros(shape[0], count // shape[0])  # what fills up groups is zero too
    together = wanted.pattern.together
    # Where there are zero points each group has a code of zero of its own, unless groups go whole.
    rows = 1
    if kind is not None and kind.asymmetric and together % (kind.granularity.size or count):
        rows = scales
    least = sparse_nbytes(codes, others, bits, rows)
    if bits == 4 and together % 2 == 0:  # bytes that go as a whole
        least = min(least, sparse_nbytes(codes // 2, others // 2, 8, rows))
    dense = -(-codes * bits // 8)
    return whole - dense + min(dense, least)


def units(
    graph: Graph,
    *,
    by: By = "weight",
    least: int = 0,
    embeddings: bool = True,
    settled: Iterable[str] = (),
) -> list[Unit]:
    """The units of a graph, in order.

    Args:
        by: What is decided together.
        least: Smaller weights are left out.
        embeddings: Whether tables that embeddings read are there, with all who read them.
        settled: Names of readers that are left out, and with them all who share a weight.
    """
    out = set(settled)
    number = {node: index for index, block in enumerate(repeated(graph)) for node in block.nodes}
    parts: dict[object, list[Node]] = {}
    for node in graph.nodes:
        if not _takes(node, embeddings, least) or turns(graph, node):
            continue
        if out & {user.name for user in weight_of(node).users}:
            continue
        weight, lookup = weight_of(node), node.op == "embedding"
        alone = not lookup and len({user.args[0] for user in weight.users}) == 1
        if by == "block" and node in number and alone:
            key: object = number[node]
        elif by == "value" and alone:
            key = node.args[0]
        else:
            key = weight
        parts.setdefault(key, []).append(node)
    found: list[Unit] = []
    for readers in parts.values():
        blocks = {number.get(reader, -1) for reader in readers}
        found.append(Unit(tuple(readers), blocks.pop() if len(blocks) == 1 else -1))
    return found


def nothing(
    graph: Graph, *, least: int = 0, embeddings: bool = True, settled: Iterable[str] = ()
) -> InputError:
    """The error that says why a graph has no units.

    Args:
        least, embeddings, settled: As those of ``units``.
    """
    told, out = list[str](), set(settled)
    left = [node for node in graph.nodes if reads_weights(node)]
    small = [node for node in left if _takes(node, embeddings, 0) and not _takes(node, True, least)]
    if chosen := [node for node in left if node.name in out]:
        told.append(f"of {listed(chosen)} the choice is given")
    if small := [node for node in small if node.name not in out]:
        told.append(f"the weights of {listed(small)} have fewer than least={least} elements")
    if others := [node for node in left if node not in small and node.name not in out]:
        told.append(
            f"the weights of {listed(others)} are codes, shared with other ops, or of ops that "
            "nothing is chosen for"
        )
    size = max((numel(weight_of(node)) for node in small), default=0)
    return InputError(
        "there is nothing to allocate bits to: "
        + ("; ".join(told) or "it has no linear layers, convolutions or tables"),
        where=next((node.at for node in left), ""),
        do=f"quantize=Quantize(None, least={size}), or less, lets small weights count"
        if small
        else "a graph with linear layers, convolutions or tables of embeddings that are in floats",
    )


def listed(nodes: Sequence[Node], most: int = 3) -> str:
    """The first of some nodes and how many others there are, as text."""
    shown = [f"{node.name} ({node.op})" for node in nodes[:most]]
    left = len(nodes) - len(shown)
    return f"{', '.join(shown)} and {left} more" if left else ", ".join(shown)


def _takes(node: Node, embeddings: bool, least: int) -> bool:
    """Whether ``Quantize`` gives codes to the weights of a reader, in the format it is told."""
    if not (weighted(node) or (node.op == "embedding" and isinstance(node.args[0], Node))):
        return False
    weight = weight_of(node)
    if weight.op != "param" or numel(weight) < least:
        return False
    users = list(weight.users)
    if any(user.op == "embedding" for user in users):
        return embeddings and all(
            user.op in ("embedding", "linear") and weight_of(user) is weight for user in users
        )
    return all(weighted(user) and user.args[1] is weight for user in users)


def numel(weight: Node) -> int:
    """How many numbers a weight has."""
    return math.prod(int(size) for size in weight.shape)


def of_readers(found: Iterable[Unit], chosen: Iterable[Choice]) -> Mapping[str, Choice]:
    """The choice of each reader by name, as ``Quantize`` takes it."""
    return {
        reader.name: choice
        for unit, choice in zip(found, chosen, strict=True)
        for reader in unit.readers
    }
