"""Fuse blocks into their neighbours: what a block that goes could do is learned by those that stay
(FuseGPT, A96, F7.5).

    W_j  <-  W_j + B_j A_j + (P_j Q_j) * W_gone        for every contraction j of the neighbours

Block by block: the one without which the outputs turn least goes, and the neighbours learn, as one
section of the graph, to give what came out at its place in the graph as it was. W_gone is the
weight of the block that goes at the same place. B and P are zero at the start, which is the graph
without the block; what is learned is folded into the weights in the end, so no op is added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ....ir import Graph, InputError, Node
from ....ir.blocks import Block, flow, repeated
from ....ir.gauge import weighted
from ....ir.sections import Section
from ...base import Context, Promise, Remark, Stage, applied, missed
from ...fitting import Fitter, Learnable
from ...options import AMOUNT, COUNT, POSITIVE, check_kinds, check_numbers, named
from ...shelf import Shelf
from ...sites import Asked, SparingPass
from ...ties import own
from ..costs import Costs
from ..distill import Pupil
from ..groups import in_full
from ..options import at_most, check_part, spared
from .bridging import bridge
from .layer_scores import SCORES, LayerScore, OutputChange
from .layers import Layer, asked_for, layers, without


@dataclass(frozen=True)
class FuseBlocks(SparingPass):
    """Leave out repeated blocks, and let the blocks around each learn what it did.

    Args:
        remove: The part of the blocks that is to go, between 0 and 1; rounded up.
        neighbours: How many blocks around the one that goes learn.
        rank: Of the two products that are learned for each weight.
        score: What a block is worth (``layer_scores``), or a score's name.
        fitter: How neighbours learn.
        rate: The learning rate of all factors, for weights of root mean square 1.
        recover: Whether, before learning, the last linear map before the gap makes up for it.
        damping: Of its least squares.
    """

    remove: float = 0.25
    neighbours: int = 6
    rank: int = 32
    score: LayerScore | str = field(default_factory=lambda: OutputChange("angle"))
    fitter: Fitter = field(default_factory=Fitter)
    rate: float = 1e-2
    recover: bool = True
    damping: float = 0.1
    what: ClassVar[str] = "one of several equal blocks, or what it gives"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_part(self.remove)
        check_kinds(self, fitter=Fitter)
        named(self.score, SCORES, "score", LayerScore)
        check_numbers(self, neighbours=COUNT, rank=COUNT, rate=POSITIVE, damping=AMOUNT)

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        before = Costs(graph, [], context.inputs).both()
        chain = repeated(graph)
        if not chain:
            return [missed(graph.output, "there are no blocks that repeat one another")]
        found, stay = asked_for(_blocks(graph, context), asked)
        if not found or not self.remove:
            return stay
        count = math.ceil(self.remove * len(chain) * (1 - 1e-9))
        if count >= len(chain):
            raise InputError(
                f"remove={self.remove} leaves none of {len(chain)} blocks",
                where=chain[0].exit.at,
                do=f"remove={at_most(1 - 1 / len(chain))}, at most",
            )
        if count > len(found):
            raise InputError(
                f"remove={self.remove} takes {count} of {len(chain)} blocks, and {len(found)} of "
                "them may go",
                where=found[0].value.at,
                do=f"remove={at_most(len(found) / len(chain))}, at most",
            )
        names = {layer.name for layer in found}
        work, remarks = _Work(self, graph, context, asked), list[Remark]()
        for _ in range(count):
            found = [layer for layer in _blocks(graph, context) if layer.name in names]
            if not found:
                raise InputError(
                    f"{len(remarks)} blocks went, and none is left of {count} that are to go",
                    do="remove less: a block that reads the graph's inputs stays",
                )
            worth = self._score.of(graph, found, context, work.original)
            remarks.append(work.take_out(found[int(worth.argmin())], float(worth.min())))
        after = Costs(graph, [], context.inputs).both()
        text = f"{count} of {len(chain)} blocks are fused into those around them"
        return [*stay, *remarks, spared(graph, before, after, first=text)]

    @property
    def _score(self) -> LayerScore:
        return named(self.score, SCORES, "score", LayerScore)


class _Work:
    """A graph from which one block after another is taken out.

    Attributes:
        original: The graph as it was, in float32.
        stands: For the name of a value before a gap, the name of the one in the original that it
            stands for.
        watched: What blocks of the original gave, by name, on a shelf.
    """

    def __init__(self, options: FuseBlocks, graph: Graph, context: Context, asked: Asked) -> None:
        self.options, self.graph, self.context, self.asked = options, graph, context, asked
        self.original, self.stands = in_full(graph), dict[str, str]()
        self.shelf, self.watched = Shelf(context.in_memory), dict[str, Sequence[Any]]()
        if options.fitter.steps:
            pupil = self._pupil()
            pupil.watch_original([pupil.single[block.exit.name] for block in repeated(graph)])

    def take_out(self, gone: Layer, worth: float) -> Remark:
        """Leave a block out, and let those around it learn."""
        graph, options, context = self.graph, self.options, self.context
        chain = repeated(graph)
        place = next(i for i, block in enumerate(chain) if block.exit is gone.value)
        around = [chain[i] for i in _around(len(chain), place, options.neighbours)]
        names = {node.name for block in around for node in block.nodes}
        donors = _donors(graph, chain[place], around)
        (by,) = without(graph, [gone]).values()
        self.stands[by.name] = self.stands.pop(gone.value.name, gone.value.name)
        if options.recover:
            goal = {self.original[self.stands[by.name]]: by}
            bridge(graph, goal, self.original, context, options.damping, options.name, self.asked)
        text = f"block {gone.name} left out, worth {worth:.3g}"
        if not options.fitter.steps:
            return applied(by, text)
        pupil = self._pupil()
        section = Section.of([node for node in pupil.single.nodes if node.name in names])
        learned = list(self._learnables(pupil.single, section, donors))
        if not learned:
            return applied(by, f"{text}; no weight of the {len(around)} around it may change")
        fit = pupil.learn(section, learned, options.fitter)
        data = {"error_before": fit.before**0.5, "error_after": fit.after**0.5, "step": fit.step}
        return applied(by, f"{text}; {len(around)} around it learned: {fit}", **data)

    def _pupil(self) -> Pupil:
        return Pupil(
            self.graph,
            self.original,
            self.context,
            self.options.name,
            self.stands,
            self.shelf,
            self.watched,
        )

    def _learnables(
        self, graph: Graph, section: Section, donors: Mapping[str, torch.Tensor]
    ) -> Iterator[Learnable]:
        rank, rate, generator = self.options.rank, self.options.rate, self.context.generator()
        for node in section.nodes:
            param = own(node, 1) if weighted(node) else None
            if param is not None and not self.asked.protected(node, param):
                weight, donor = graph.value(param), donors.get(node.name)
                fits = donor is not None and donor.shape == weight.shape
                other = donor if fits else None
                yield Fused((node, param), weight, other, rank, rate, generator)


class Fused(Learnable):
    """A weight and what is learned to be added to it, of which a part is another weight's.

    Args:
        weight: ``[O, n, ...]``.
        donor: Of the same shape, if there is one.
        rank: Of the factors.
    """

    def __init__(
        self,
        place: tuple[Node, Node],
        weight: torch.Tensor,
        donor: torch.Tensor | None,
        rank: int,
        rate: float,
        generator: torch.Generator,
    ) -> None:
        rows, columns = weight.flatten(1).shape
        rank = min(rank, rows, columns)

        def start(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=weight.dtype) / rank**0.5

        tensors = {"b": weight.new_zeros(rows, rank), "a": start(rank, columns)}
        if donor is not None:
            tensors |= {"p": weight.new_zeros(rows, rank), "q": start(rank, columns)}
        super().__init__([place], tensors, dict.fromkeys(tensors, rate))
        self.weight = weight
        self.donor = None if donor is None else donor.to(weight.dtype)
        self.scale = float(weight.square().mean().sqrt())

    def value(self, value: Any, done: float | None) -> torch.Tensor:
        added = self.scale * (self.tensors["b"] @ self.tensors["a"])
        if self.donor is not None:
            added = added + (self.tensors["p"] @ self.tensors["q"]) * self.donor.flatten(1)
        return self.weight + added.view_as(self.weight)


def _blocks(graph: Graph, context: Context) -> list[Layer]:
    return layers(graph, ("block",), Costs(graph, [], context.inputs))


def _around(count: int, place: int, neighbours: int) -> list[int]:
    """The places around one of so many, itself left out, as evenly to both sides as can be."""
    first = max(0, min(place - neighbours // 2, count - 1 - neighbours))
    return [i for i in range(first, min(first + neighbours + 1, count)) if i != place]


def _donors(graph: Graph, gone: Block, around: Sequence[Block]) -> dict[str, torch.Tensor]:
    """For each contraction of the blocks around one, the weight that stands there in its place."""
    maps = [[node for node in flow(block) if weighted(node)] for block in (gone, *around)]
    return {
        mine.name: graph.value(other.args[1])
        for some in maps[1:]
        for mine, other in zip(some, maps[0], strict=True)
    }
