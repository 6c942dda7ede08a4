"""What a pass is: a graph rewrite with a promise, and remarks on what it did and did not."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, ClassVar, TypeAlias

import torch

from ..ir import Graph, InputError, Node, SiteError
from ..ir.gauge import Blocked
from .journal import Journal


class Promise(Enum):
    """What the manager checks after a pass."""

    EXACT = "exact"  # equal in float64 to 1e-9 relative
    APPROXIMATE = "approximate"  # the damage is measured and reported


class Stage(IntEnum):
    """The canonical order; a pass of an earlier stage cannot follow one of a later stage."""

    FOLD = 0  # affine maps folded into their neighbours
    GAUGE = 1  # exact transformations: centre, permute, rotate, shift, scale
    STRUCTURE = 2
    LEGALIZE = 3  # ops that a target does not take as others
    QUANTIZE = 4
    STATE = 5  # what is kept from call to call, in another form
    LOWER = 6


@dataclass(frozen=True)
class Remark:
    """One thing a pass did, or did not do and why.

    Attributes:
        applied: Whether it was done.
        site: The value or node it is about.
        text: What was done, or the reason why not.
        where: The user's line.
        data: Figures for the JSON report.
        do: What would help, where that is known.
    """

    applied: bool
    site: str
    text: str
    where: str = ""
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    do: str = ""

    def __str__(self) -> str:
        return f"{'applied' if self.applied else 'missed '} {self.site}: {self.text}"


def applied(node: Node, text: str, **data: Any) -> Remark:
    """A remark that something was done at a node."""
    return Remark(True, node.name, text, node.where, data)


def decided(graph: Graph, text: str, **data: Any) -> Remark:
    """A remark on what was decided for the whole graph, which the report shows in its summary."""
    return applied(graph.output, text, decided=True, **data)


def missed(node: Node, text: str, do: str = "", /, **data: Any) -> Remark:
    """A remark that something could not be done at a node."""
    return Remark(False, node.name, text, node.where, data, do)


def blocked(node: Node, text: str, by: Blocked) -> Remark:
    """A remark that another op keeps something from being done at a node."""
    do = "leave what the model gives, or put a head behind it" if by.node.op == "output" else ""
    return missed(node, text, do, blocker=by.node.name, blocker_where=by.node.where)


Progress: TypeAlias = Callable[[Iterable[Any], str], Iterator[Any]]


def unseen(sequence: Iterable[Any], _: str) -> Iterator[Any]:
    """Progress that nobody is shown."""
    return iter(sequence)


@dataclass
class Context:
    """What passes may ask for besides the graph.

    Attributes:
        inputs: The user's example, as flat graph inputs.
        calibration: Flat graph inputs, one list a batch; may be empty.
        original: The graph before the first pass that changed its function; only where a later pass
            asks for it (``compares``).
        unsigned_activations: Whether the target wants uint8 rather than int8 activations.
        pairs_in_16_bits: Whether the target may add two products in 16 bits, which saturate:
            neighbouring weight codes must then be small enough together.
        closed_convolutions: Whether a convolution on codes gains only where its result is codes.
        check: Raises ``TargetError`` where the target cannot take what a pass made of the graph.
        journal: What the run has decided so far, if that is written down.
        in_memory: How many bytes of activations may be in memory, beyond those of one batch.
        seed: Of everything random.
        progress: Called as ``progress(sequence, description)``; gives the sequence back, shown or
            not.
    """

    inputs: Sequence[Any]
    calibration: Sequence[Sequence[Any]] = ()
    original: Graph | None = None
    unsigned_activations: bool = True
    pairs_in_16_bits: bool = False
    closed_convolutions: bool = False
    check: Callable[[Graph], None] = lambda graph: None
    journal: Journal = field(default_factory=Journal)
    in_memory: int = 256 * 2**20
    seed: int = 0
    progress: Progress = unseen

    def need_calibration(self, who: str) -> Sequence[Sequence[Any]]:
        """The calibration batches; raises ``InputError`` if there are none."""
        if not self.calibration:
            raise InputError(
                f"{who} needs calibration data, and there is none",
                do="pass calibration=[...], an iterable of inputs such as the model's own",
            )
        return self.calibration

    def need_original(self, who: str) -> Graph:
        """The graph before it was changed; raises ``InputError`` if there is none."""
        if self.original is None:
            raise InputError(
                f"{who} learns from the graph as it was, and nothing before it has changed that",
                do=f"put {who} behind the passes that do, such as Prune or DropLayers",
            )
        return self.original

    @property
    def activation_dtype(self) -> torch.dtype:
        return torch.uint8 if self.unsigned_activations else torch.int8

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


class Pass(abc.ABC):
    """A value with typed options; ``run`` changes the graph it is given, a copy of its own."""

    promise: ClassVar[Promise] = Promise.EXACT
    stage: ClassVar[Stage] = Stage.FOLD
    compares: ClassVar[bool] = False  # whether it asks for the graph before its function changed

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats (``ir.formats``) in which it keeps weights: not every target takes all."""
        return ()

    @property
    def activation_codes(self) -> tuple[str, ...]:
        """How it quantizes activations (``quantization.values``): not every target runs all."""
        return ()

    @abc.abstractmethod
    def run(self, graph: Graph, context: Context) -> list[Remark]:
        """Rewrite the graph in place and say what was done and what was not."""

    def __call__(self, graph: Graph, context: Context | None = None) -> tuple[Graph, list[Remark]]:
        """A rewritten copy and the remarks; the input graph stays as it is.

        Raises:
            SiteError: It could not act where it was asked to, or anywhere. A pipeline only remarks
                on that: what is asked of it is whatever of its passes can be done.
        """
        new, remarks = self.attempt(graph, context)
        left = self.refused(remarks)
        if left or not done(remarks):
            raise _cannot(self.name, left)
        return new, remarks

    def attempt(
        self, graph: Graph, context: Context | None = None, *, in_place: bool = False
    ) -> tuple[Graph, list[Remark]]:
        """The same, with what could not be done in the remarks alone.

        Args:
            in_place: Whether the graph itself is rewritten, so that weights that are replaced need
                not stay in memory.
        """
        new = graph if in_place else graph.copy()
        remarks = self.run(new, context or Context(inputs=()))
        new.prune()
        new.verify()
        return new, remarks

    def refused(self, remarks: Sequence[Remark]) -> list[Remark]:
        """What the caller asked for and did not get."""
        return [] if done(remarks) else [remark for remark in remarks if not remark.applied]


def done(remarks: Sequence[Remark]) -> set[str]:
    """The sites where something was done, and not only to prepare it."""
    return {r.site for r in remarks if r.applied and not r.data.get("preparation")}


ANOTHER = "ask for another site (`regauge inspect` lists them)"


def _cannot(name: str, left: Sequence[Remark]) -> SiteError:
    """The error that says what was in the way, at the user's lines."""
    lines: list[str] = []
    some = sorted(left, key=lambda remark: not remark.do)[:5]
    for remark in some:
        lines.append(f"{remark.site}: {remark.text}")
        places = {remark.site: remark.where}
        if "blocker" in remark.data:
            places[remark.data["blocker"]] = remark.data["blocker_where"]
        lines += [f"  {name} is {where}" for name, where in places.items() if where]
    lines += [f"and {len(left) - 5} more"] if len(left) > 5 else []
    helps = "; ".join(dict.fromkeys(remark.do for remark in some if remark.do))
    names = ", ".join(dict.fromkeys(remark.site for remark in some))
    return SiteError(
        f"{name} cannot act at {names}" if left else f"{name} finds nothing to act on",
        where="\n".join(lines),
        do=f"{helps or ANOTHER}; in a pipeline this is a remark",
        missed=left,
    )
