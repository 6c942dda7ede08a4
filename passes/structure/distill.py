"""Let a network that lost something learn, from the one it came from, to give what that gave.

    min over w of  sum_t |g(x'_t; w) - y_t|^2 / |y_t|^2

g is a section of the graph, x' what flows into it now, and y what flowed out of the same place
before anything was changed: blocks learn one after the other, each from what those before it give
by then (block-wise distillation), or all at once by the outputs. Values are the same place where
they have the same name and type, so any pass may have done anything in between; where a block has
no such value left, as its stream is narrower, it learns together with the next.

Weights are learned however they are read: by a linear layer or in a product, as they are or looked
up by number; those that are zero stay zero. The error on batches that learning does not see
decides, so nothing is worse there than without.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

import torch

from ...ir import Graph, InputError, Node
from ...ir.interpret import compute, converted
from ...ir.laws import Contract, Conv, Gather, Lookup, Movement, Normalize
from ...ir.ops import has_law
from ...ir.sections import Cut, Section, sections
from ...ir.state import RECODE
from ...ir.types import is_real
from ..base import Context, Promise, Remark, Stage, missed
from ..calibration import padding_mask
from ..fitting import Fit, Fitter, Learnable, Samples, changed
from ..options import POSITIVE, check_kinds, check_known, check_numbers
from ..shelf import Mapped, Shelf, series_of
from ..sites import Asked, SparingPass
from .groups import in_full

TRAINED = (Contract, Conv, Normalize)  # the laws of ops whose parameters are learned
MOVED = (Movement, Lookup, Gather)  # of ops that give numbers of their first operand


@dataclass(frozen=True)
class Distill(SparingPass):
    """Learn the weights of a graph that passes before this one have changed.

    Args:
        fitter: How each section is learned.
        cut: What learns at once: blocks, or the whole ``graph``.
        features: For the whole graph: count what flows out of each block, too, relative to its own
            power, so that no block's error drowns the others' (normalized feature distillation,
            A99).
        rate: The learning rate of a parameter, as a part of its root mean square.
    """

    fitter: Fitter = field(default_factory=Fitter)
    cut: Cut = "block"
    features: bool = False
    rate: float = 5e-3
    what: ClassVar[str] = "an op whose weights can learn"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE
    compares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers(self, rate=POSITIVE)
        check_kinds(self, fitter=Fitter)
        check_known([self.cut], get_args(Cut), "cut")
        if self.features and (self.cut != "graph" or self.fitter.loss == "divergence"):
            raise InputError(
                "features are what flows between blocks that learn together, and are no logits",
                do='features=True with cut="graph" and a fitter whose loss is "relative"',
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        pupil = Pupil(graph, context.need_original(self.name), context, self.name)
        free, remarks = _free(pupil.single, asked)
        if not free:
            return [*remarks, missed(graph.output, "no weight is left that may learn")]
        fits: list[Remark] = []
        parts = pupil.parts(self.cut, features=self.features)
        pupil.watch_original(node for part in parts for node in part.exits)
        for index, part in enumerate(parts):
            learned = list(trained(pupil.single, part, self.rate, free))
            fit = pupil.learn(part, learned, self.fitter)
            if fit.before > 0:
                fits.append(fit.remark(graph[part.exits[-1].name], "learned"))
            pupil.go_on(part, {used for later in parts[index + 1 :] for used in later.entries})
        same = missed(graph.output, "left as it is: it gives what the graph gave before")
        return [*remarks, *(fits or [same])]


class Trained(Learnable):
    """A parameter, of which what is zero stays zero."""

    def __init__(
        self, sees: Sequence[tuple[Node, Node]], tensor: torch.Tensor, rate: float
    ) -> None:
        scale = float(tensor.square().mean().sqrt()) or 1.0
        super().__init__(sees, {"tensor": tensor}, {"tensor": rate * scale})
        sparse = tensor.dim() > 1 and bool((tensor == 0).any())
        self.stays = tensor != 0 if sparse else None

    def value(self, value: Any, done: float | None) -> torch.Tensor:
        tensor = self.tensors["tensor"]
        return tensor if self.stays is None else tensor * self.stays


def trained(
    graph: Graph, section: Section, rate: float, free: Collection[Node] | None = None
) -> Iterator[Learnable]:
    """The weights of a section's contractions and norms, those that they look up among them, and
    what is added to results, unless others read them too; of some parameters only, if given."""
    inside, read = set(section.nodes), dict[Node, None]()
    for node in section.nodes:
        read |= dict.fromkeys([*_weights(node), *_added(node)])
    for param in read:
        if free is not None and param not in free:
            continue
        if param.dtype.is_floating_point and param.users.keys() <= inside:
            yield Trained([(user, param) for user in param.users], graph.value(param), rate)


def _free(graph: Graph, asked: Asked) -> tuple[set[Node], list[Remark]]:
    """The parameters that may learn, and why others stay as they are."""
    free, held, remarks = set[Node](), set[Node](), list[Remark]()
    for node in graph.nodes:
        params = [*_weights(node), *_added(node)]
        if not params or not asked(node, *params):
            continue
        if sentence := asked.protected(node, *params):
            remarks.append(missed(node, sentence))
            held |= {*params}
        free |= {*params}
    return free - held, remarks


def _weights(node: Node) -> list[Node]:
    """The parameters that a contraction or a norm applies to data."""
    if node.op == "aten.einsum.default":
        first, *rest = sorted(node.inputs, key=lambda value: _stored(value) is not None)
    elif node.op != RECODE and has_law(node.op, *TRAINED):
        first, *rest = node.inputs
    else:
        return []
    found = [] if first.op == "param" else map(_stored, rest)
    return [param for param in found if param is not None]


def _added(node: Node) -> list[Node]:
    """The parameters that are added to what a contraction gives: biases, and no masks of
    attention, whose scores have no weights."""
    if node.op != "add" or any(not isinstance(arg, Node) for arg in node.args):
        return []
    params = [arg for arg in map(_stored, node.args) if arg is not None]
    others = [_behind(arg) for arg in node.args if _stored(arg) is None]
    return params if any(_weights(other) for other in others) else []


def _stored(value: Node) -> Node | None:
    """The parameter that a value is, or that it is looked up in."""
    source = _behind(value)
    return source if source.op == "param" else None


def _behind(value: Node) -> Node:
    """What a value is moved from, or looked up in."""
    while has_law(value.op, *MOVED):
        source = value.args[0]
        if not isinstance(source, Node):
            break
        value = source
    return value


class Pupil:
    """A graph beside the one that it came from, on all calibration batches.

    Args:
        graph: Gets what is learned.
        original: Is not changed.
        stands: For the name of a value, the name of the one in the original that it is to give.
            Others are to give what has their own name.
        shelf: Where values lie, if there is one already.
        watched: What some values of the original are, by name; gets those that are watched.
    """

    def __init__(
        self,
        graph: Graph,
        original: Graph,
        context: Context,
        who: str,
        stands: Mapping[str, str] | None = None,
        shelf: Shelf | None = None,
        watched: dict[str, Sequence[Any]] | None = None,
    ) -> None:
        self.graph, self.context, self.who = graph, context, who
        self.batches = context.need_calibration(who)
        self.single, self.original = in_full(graph), in_full(original)
        self.masks = [padding_mask(batch) for batch in self.batches]
        self.shelf = shelf or Shelf(context.in_memory)
        self.watched: dict[str, Sequence[Any]] = {} if watched is None else watched
        self.values: dict[Node, Sequence[Any]] = {}
        for index, node in enumerate(self.single.inputs):
            self.values[node] = Mapped(
                lambda i, index=index, node=node: converted(node, self.batches[i][index]),
                self.count,
            )
        places = {node.name: node for node in self.original.nodes}
        self.goals: dict[Node, Node] = {}
        for node in self.single.nodes:
            goal = places.get((stands or {}).get(node.name, node.name))
            if goal is not None and goal.type == node.type and is_real(node.type):
                self.goals[node] = goal

    @property
    def count(self) -> int:
        return len(self.batches)

    def parts(self, cut: Cut, *, features: bool = False) -> list[Section]:
        """The sections that learn one after the other, each with a value that the original has; in
        the exits of the whole graph, with ``features``, are those of its blocks."""
        nodes, found = list[Node](), list[Section]()
        for section in sections(self.single, cut):
            nodes += section.nodes
            joined = Section.of(nodes)
            if any(node in self.goals for node in joined.exits):
                found.append(joined)
                nodes = []
        if features:
            exits = dict.fromkeys(node for s in sections(self.single, "block") for node in s.exits)
            found = [replace(section, exits=tuple(exits)) for section in found]
        return found

    def watch_original(self, nodes: Iterable[Node]) -> None:
        """Have at hand what values are to be, in one run."""
        wanted = dict.fromkeys(self.goals[node] for node in nodes if node in self.goals)
        missing = [goal for goal in wanted if goal.name not in self.watched]
        series = series_of(self.original, self.batches, missing, self.shelf)
        self.watched |= zip([goal.name for goal in missing], series, strict=True)

    def learn(self, section: Section, learned: Sequence[Learnable], fitter: Fitter) -> Fit:
        """Learn what a section gives, and store it in the graph."""
        missing = [node for node in section.entries if node not in self.values]
        found = series_of(self.single, self.batches, missing, self.shelf)
        self.values |= zip(missing, found, strict=True)
        exits = changed(section, learned)
        self.watch_original(exits)
        goals = {node: self.goals[node].name for node in exits if node in self.goals}
        wanted = self._by_batch({node: self.watched[name] for node, name in goals.items()})
        given = self._given(section)
        samples = Samples(given, given, self.masks, wanted)
        name = f"section-{section.exits[-1].name}"
        who = f"{self.who}: learning"
        fit = fitter.fit_once(section, samples, learned, self.context, who, name)
        for part in learned if fit.step else ():
            param = part.sees[0][1]
            with torch.no_grad():
                found = part.value(self.single.value(param), None).detach().clone()
            self.single.store[param.name] = found
            self.graph.store[param.name] = found.to(self.graph.params[param.name].dtype)
        return fit

    def go_on(self, section: Section, needed: Collection[Node]) -> None:
        """Run a section as it is by now; what is needed later is kept."""
        kept = [node for node in section.exits if node in needed]
        found = {node: self.shelf.series() for node in kept}
        for values in self._given(section) if kept else ():
            with torch.no_grad():
                compute(section.nodes, values, keep=kept)
            for node in kept:
                found[node].append(values[node])
        self.values |= found
        for done in section.exits:
            if done in self.goals:
                self.watched.pop(self.goals[done].name, None)
        for node in [node for node in self.values if node not in needed and node.op != "input"]:
            del self.values[node]

    def _given(self, section: Section) -> Sequence[dict[Node, Any]]:
        """What flows into a section, with the parameters that it reads, by batch."""
        used = dict.fromkeys(used for node in section.nodes for used in node.inputs)
        params = [used for used in used if used.op == "param"]
        entries = {node: self.values[node] for node in section.entries}
        return self._by_batch(entries, params)

    def _by_batch(
        self, values: Mapping[Node, Sequence[Any]], params: Sequence[Node] = ()
    ) -> Sequence[dict[Node, Any]]:
        def batch(index: int) -> dict[Node, Any]:
            stored = {param: self.single.value(param) for param in params}
            return {node: of[index] for node, of in values.items()} | stored

        return Mapped(batch, self.count)
