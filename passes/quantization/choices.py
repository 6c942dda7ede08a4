"""What is chosen for each reader of weights: the format of these, and how what it reads is
quantized.

Readers of one value may differ. Those that choose alike share its codes; each other choice has
codes of its own, and who stays in floating point reads the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial

import torch

from ...ir import Graph, InputError, Node
from ...ir.codes import in_kernel_order, out_of_kernel_order
from ...ir.formats import named
from ...ir.gauge import Site, weighted
from ...ir.gauge.sites import CONTRACTIONS, TRANSPOSED, is_weight
from ...ir.recurrence import NAMES as RECURRENCES
from ..base import Remark, missed
from ..options import check_kinds
from ..patterns import named_sparsity
from .solvers import Hessian, Range, Solver
from .values import Activations
from .weights import Stored, WeightRounding
from .zeros import KEPT, Zeros

CHANNELWISE = "int8-channel"
PRODUCTS = ("matmul", "bmm")
_STAYS = "it stays in floating point"


@dataclass(frozen=True)
class Choice:
    """For one reader of weights.

    Args:
        weights: The format of its weights; ``None``: they stay in floating point.
        activations: How what it reads is quantized (``passes.values``); ``None``: not at all.
        zeros: The zeros that its weights have by then and keep: a pattern as ``Sparsify`` names it,
            with the part that goes where the pattern does not say it (``2:4``, ``rows-0.5``,
            ``32x32-0.75``); ``None``: whatever they have.
    """

    weights: str | None = CHANNELWISE
    activations: Activations | None = None
    zeros: str | None = None

    def __post_init__(self) -> None:
        check_kinds(self, weights=str | None, activations=str | None, zeros=str | None)
        if self.zeros is not None:
            named_sparsity(self.zeros)

    @property
    def in_floats(self) -> bool:
        """Whether nothing becomes codes."""
        return self.weights is None and self.activations is None

    @property
    def stored(self) -> tuple[str | None, str | None]:
        """What becomes of weights: their format and their zeros."""
        return self.weights, self.zeros


class Choices:
    """The choice of every reader of a graph.

    Args:
        given: By the names of readers.
        rest: For the others.
        tables: The format of embedding tables, where nobody who reads one was given a choice.

    Raises:
        InputError: A name is no reader's.
    """

    def __init__(
        self, graph: Graph, given: Mapping[str, Choice], rest: Choice, tables: str
    ) -> None:
        self.given, self.rest, self.tables = given, rest, tables
        self._turns: list[Node] = []
        self.readers = [node for node in graph.nodes if reads_weights(node)]
        names = [node.name for node in self.readers]
        for name in given.keys() - set(names):
            near = get_close_matches(name, names, n=3, cutoff=0) or ["none"]
            raise InputError(
                f"a choice is given for {name}, and no reader of weights is called that",
                do=f"the nearest names are: {', '.join(near)}",
            )

    def of(self, reader: Node) -> Choice:
        return self.given.get(reader.name, self.rest)

    def check_zeros(self, graph: Graph) -> None:
        """Raise ``InputError`` where a weight has not the zeros that were chosen for it."""
        for reader in self.readers:
            if (name := self.of(reader).zeros) is None:
                continue
            weight = reader.args[0 if reader.op == "embedding" else 1]
            if weight.op != "param":
                continue
            value = graph.value(weight)
            wanted = named_sparsity(name).zeros(len(value), value[0].numel())
            if (there := int((value == 0).sum())) < wanted:
                raise InputError(
                    f"{weight.name} was to keep zeros of {name}, which are {wanted:,}, and has "
                    f"{there:,}",
                    where=reader.at,
                    do="put Sparsify in front of Quantize, or let Allocate choose",
                )

    def spare_turns(self, graph: Graph) -> None:
        """Leave what turns values as it is, unless something was chosen for it."""
        asked = self.given.keys()
        self._turns = [n for n in self.readers if n.name not in asked and turns(graph, n)]
        self.given = {**self.given, **{node.name: Choice(None) for node in self._turns}}

    def left(self) -> Iterator[Remark]:
        """What is said of those that stay as they are."""
        for reader in self.readers:
            if reader in self._turns:
                yield missed(reader, f"{_STAYS}: all it does is to turn what it reads")
            elif self.of(reader).in_floats:
                yield missed(reader, f"{_STAYS}, as was chosen")

    def without_codes(self, readers: Iterable[Node]) -> None:
        """Let some read floats, whatever was chosen for them."""
        chosen = {reader.name: replace(self.of(reader), activations=None) for reader in readers}
        self.given = {**self.given, **chosen}

    def of_all(self, weight: Node) -> str | None:
        """The format of a weight or an embedding table, on which all who read it must agree."""
        table = any(user.op == "embedding" for user in weight.users)
        asked = {
            user.name: self.of(user)
            for user in weight.users
            if user.name in self.given or not table
        }
        formats = dict.fromkeys(choice.weights for choice in asked.values())
        if len(formats) > 1:
            raise InputError(
                f"{weight.name} is one weight, and {', '.join(asked)} choose different formats",
                do="choose the same for all who read it",
            )
        return next(iter(formats), self.tables)

    def split(self, site: Site) -> Iterator[tuple[Site, Activations | None]]:
        """The site once for each way in which its value is quantized, in the order of the readers.

        Those that stay as they are, weights and all, are in none.
        """
        parts: dict[Activations | None, list[Node]] = {}
        for reader in site.readers:
            if not (choice := self.of(reader)).in_floats:
                parts.setdefault(choice.activations, []).append(reader)
        for activations, readers in parts.items():
            yield replace(site, readers=tuple(readers)), activations


def reads_weights(node: Node) -> bool:
    """Whether a choice can be given for a node."""
    lookup = node.op == "embedding" and isinstance(node.args[0], Node)
    return weighted(node) or reads_floats(node) or lookup


def reads_floats(node: Node) -> bool:
    """Whether a node has weights that get codes, and data that get none: no runtime has kernels for
    it that take them."""
    return node.op in ("grouped_mm", *RECURRENCES) or (
        node.op in TRANSPOSED and is_weight(node.args[1])
    )


def turns(graph: Graph, node: Node) -> bool:
    """Whether a pass has put in a node that multiplies by an orthogonal matrix: codes of what it
    gives then lose less, and codes of what it reads would lose that already."""
    if not weighted(node) or node.op not in ("linear", "matmul"):
        return False
    weight = node.args[1]
    if weight.op != "param" or graph.store.origin.get(weight.name):
        return False
    if len(weight.shape) != 2 or weight.shape[0] != weight.shape[1]:
        return False
    matrix = graph.value(weight).double()
    near = partial(torch.allclose, rtol=0, atol=16 * torch.finfo(weight.dtype).eps)
    one = torch.eye(len(matrix), dtype=matrix.dtype)
    return near(matrix.square().sum(1), one.diagonal()) and near(matrix @ matrix.T, one)


def in_products(graph: Graph, least: int) -> Iterator[Remark]:
    """What is said of the weights that get no codes as no layer reads them, but a product of
    values, such as a stack of matrices."""
    for node in graph.nodes:
        if node.op not in PRODUCTS:
            continue
        for weight in dict.fromkeys(node.inputs):
            if weight.op == "param" and graph.value(weight).numel() >= least:
                text = f"{weight.name} stays in floating point: a {node.op} of values reads it"
                yield missed(node, text)


def computed_weights(graph: Graph) -> Iterator[Remark]:
    """What is said of readers of weights that other ops make."""
    for node in graph.nodes:
        if node.op in CONTRACTIONS and not is_weight(weight := node.args[1]):
            text = f"its weights are no parameter: {weight.name} ({weight.op}) computes them"
            yield missed(node, text, "put FoldWeights before, where they follow from parameters")


class ChosenRounding:
    """How the weights of each reader become codes, as was chosen for it.

    Args:
        solver: How weights are rounded, where there is a Hessian.
        ranges: Where the scales of linear layers in a format come from.
        rank: Of what makes up for the errors of linear layers; 0 for none.
        pairs: Whether neighbouring int8 codes that integer kernels read obey the limit of 16 bits.
        keep_zeros: From which share of zeros on a weight keeps them; ``None``: never.
    """

    def __init__(
        self,
        graph: Graph,
        choices: Choices,
        *,
        solver: Solver,
        ranges: Range,
        rank: int = 0,
        pairs: bool,
        keep_zeros: float | None = KEPT,
    ) -> None:
        self.graph, self.choices = graph, choices
        self.solver, self.rank, self.pairs = solver, rank, pairs
        self.keep_zeros = keep_zeros
        self.ranges: Range = ranges
        self.ahead: dict[Node, Stored] = {}
        self._found: dict[tuple[str, bool], WeightRounding] = {}

    def keeps(self, reader: Node) -> bool:
        """Whether the reader's weights stay as they are."""
        return self.choices.of(reader).weights is None and reader.args[1] not in self.ahead

    def of(self, reader: Node) -> WeightRounding:
        choice = self.choices.of(reader)
        return self._in(choice.weights or CHANNELWISE, choice.activations is not None)

    def zeros(self, reader: Node) -> Zeros:
        """The zeros of a weight that is to be decided."""
        value = self.graph.value(reader.args[1])
        chosen = self.choices.of(reader).zeros is not None
        kept = 0.0 if chosen else self.keep_zeros
        return Zeros.of(value, self.of(reader).format_of(reader.op, value), kept)

    def by_itself(self, weight: Node, form: str) -> Stored:
        """Codes for a weight that is decided for all who read it, before anything runs."""
        readers = [user for user in weight.users if weighted(user)]
        codes = any(self.choices.of(reader).activations is not None for reader in readers)
        flat = all(user.op in ("linear", "embedding") for user in weight.users)
        return self._in(form if flat else CHANNELWISE, codes).by_itself(weight)

    def zeros_ahead(self, weight: Node) -> str:
        """What is said of its zeros, which rounding to the nearest keeps where it can."""
        form = self.ahead[weight].quantized.format
        return Zeros.of(self.graph.value(weight), form, self.keep_zeros).note(weight)

    def read(self, reader: Node) -> torch.Tensor:
        """What a reader's weights are, where nothing is to be decided for them."""
        return self.of(reader).read(reader.args[1])

    def decides(self, reader: Node) -> bool:
        """Whether a reader's weights have no codes yet, and are to have some."""
        source: Node = reader.args[1]
        return source.op == "param" and source not in self.ahead and not self.keeps(reader)

    def round(
        self,
        readers: Iterable[Node],
        hessian: Hessian | None = None,
        aim: Callable[[torch.Tensor], torch.Tensor] | None = None,
        notes: list[str] | None = None,
    ) -> dict[Node, Stored]:
        """The weights of readers of the same rows, where they are to be decided.

        Args:
            hessian: Of what they read.
            aim: What codes are to stand for instead of a weight ``[O, n]``, as kernels read it.
            notes: Gets what is to be said of zeros.
        """
        parts: dict[tuple[WeightRounding, str], dict[Node, list[Node]]] = {}
        for reader in filter(self.decides, readers):
            part = parts.setdefault((self.of(reader), reader.op), {})
            part.setdefault(reader.args[1], []).append(reader)
        found: dict[Node, Stored] = {}
        for (rounding, op), sources in parts.items():
            weights = [self.graph.value(source) for source in sources]
            if aim is not None:
                weights = [
                    out_of_kernel_order(aim(in_kernel_order(weight)), weight.shape)
                    for weight in weights
                ]
            zeros = [self.zeros(users[0]) for users in sources.values()]
            if notes is not None:
                said = map(Zeros.note, zeros, sources)
                notes += filter(None, said)
            made = rounding.decide(op, weights, hessian, [part.held for part in zeros])
            for users, stored in zip(sources.values(), made, strict=True):
                found |= dict.fromkeys(users, stored)
        return found

    def _in(self, name: str, codes: bool) -> WeightRounding:
        """For a format, and whether what its readers read is codes."""
        pairs = self.pairs and codes
        if (name, pairs) not in self._found:
            form = None if name == CHANNELWISE else named(name)
            rounding = WeightRounding(
                self.graph,
                form,
                solver=self.solver,
                ranges=self.ranges,
                rank=self.rank,
                pairs=pairs,
            )
            rounding.ahead = self.ahead
            self._found[name, pairs] = rounding
        return self._found[name, pairs]
