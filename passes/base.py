"""What a pass is: a graph rewrite with a promise, and remarks on what it did and did not."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, ClassVar

import torch

from ..ir import Graph, InputError, Node


class Promise(Enum):
    """What the manager checks after a pass."""

    EXACT = "exact"  # equal in float64 to 1e-9 relative
    APPROXIMATE = "approximate"  # the damage is measured and reported


class Stage(IntEnum):
    """The canonical order; a pass of an earlier stage cannot follow one of a later stage."""

    FOLD = 0  # affine maps folded into their neighbours
    GAUGE = 1  # exact transformations: centre, permute, rotate, shift, scale
    STRUCTURE = 2
    QUANTIZE = 3
    LOWER = 4


@dataclass(frozen=True)
class Remark:
    """One thing a pass did, or did not do and why.

    Attributes:
        applied: Whether it was done.
        site: The value or node it is about.
        text: What was done, or the reason why not.
        where: The user's line.
        data: Figures for the JSON report.
    """

    applied: bool
    site: str
    text: str
    where: str = ""
    data: dict[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        return f"{'applied' if self.applied else 'missed '} {self.site}: {self.text}"


def applied(node: Node, text: str, **data: Any) -> Remark:
    """A remark that something was done at a node."""
    return Remark(True, node.name, text, node.where, data)


def missed(node: Node, text: str, **data: Any) -> Remark:
    """A remark that something could not be done at a node."""
    return Remark(False, node.name, text, node.where, data)


@dataclass
class Context:
    """What passes may ask for besides the graph.

    Attributes:
        inputs: The user's example, as flat graph inputs.
        calibration: Flat graph inputs, one list a batch; may be empty.
        unsigned_activations: Whether the target wants uint8 rather than int8 activations.
        pairs_in_16_bits: Whether the target may add two products in 16 bits, which saturate:
            neighbouring weight codes must then be small enough together.
        closed_convolutions: Whether a convolution on codes gains only where its result is codes.
        seed: Of everything random.
        progress: Called as ``progress(sequence, description)``; gives the sequence back, shown or
            not.
    """

    inputs: Sequence[Any]
    calibration: Sequence[Sequence[Any]] = ()
    unsigned_activations: bool = True
    pairs_in_16_bits: bool = False
    closed_convolutions: bool = False
    seed: int = 0
    progress: Callable[[Iterable[Any], str], Iterator[Any]] = lambda sequence, _: iter(sequence)

    def need_calibration(self, who: str) -> Sequence[Sequence[Any]]:
        """The calibration batches; raises ``InputError`` if there are none."""
        if not self.calibration:
            raise InputError(
                f"{who} needs calibration data, and there is none",
                do="pass calibration=[...], an iterable of inputs such as the model's own",
            )
        return self.calibration

    @property
    def activation_dtype(self) -> torch.dtype:
        return torch.uint8 if self.unsigned_activations else torch.int8

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


class Pass(abc.ABC):
    """A value with typed options; ``run`` changes the graph it is given, a copy of its own."""

    promise: ClassVar[Promise] = Promise.EXACT
    stage: ClassVar[Stage] = Stage.FOLD

    @property
    def name(self) -> str:
        return type(self).__name__

    @abc.abstractmethod
    def run(self, graph: Graph, context: Context) -> list[Remark]:
        """Rewrite the graph in place and say what was done and what was not."""

    def __call__(self, graph: Graph, context: Context | None = None) -> tuple[Graph, list[Remark]]:
        """A rewritten copy and the remarks; the input graph stays as it is."""
        new = graph.copy()
        remarks = self.run(new, context or Context(inputs=()))
        new.prune()
        new.verify()
        return new, remarks
