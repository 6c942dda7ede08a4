"""Laws of sums of products: linear maps, tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .core import (
    DIAGONAL,
    MIXING,
    OUT,
    Action,
    Call,
    Flow,
    Kind,
    Law,
    Port,
    Stop,
    beside,
    is_param,
    rows_of,
    shared,
    side_by_side,
)

# Parameters that lack a labelled axis can serve all positions along it with these.
_TIED = frozenset({Kind.SCALE, Kind.SIGN, Kind.PERMUTATION})


@dataclass(frozen=True)
class Contract(Law):
    """A product summed over the indices that the result lacks, in einsum's notation, and perhaps a
    bias.

    The sum over i of a[i] b[i] does not change when a takes M and b its inverse transpose; an index
    of the result is taken by the operand it comes from, and by the bias.
    """

    indices: str

    def passes(self, kind: Kind) -> bool:
        return kind is not Kind.SHIFT or self.indices.count(",") == 2  # with a bias

    def summed(self, port: Port) -> int | None:
        """The axis of an operand over which it sums, counted from the end."""
        left, right = self.indices.split("->")
        names = left.split(",")[port[0]].split()
        axes = [i - len(names) for i, name in enumerate(names) if name not in right.split()]
        return axes[0] if axes else None

    def letters(self, call: Call) -> dict[Port, list[str]]:
        """A letter for each axis of each port; the axes of ``...`` are counted from the right."""
        left, right = self.indices.split("->")
        specs = dict(zip(((i,) for i in itertools.count()), left.split(","), strict=False))
        found: dict[Port, list[str]] = {}
        for port, spec in [*specs.items(), (OUT, right)]:
            if port in call.shapes:
                names = [name for name in spec.split() if name != "..."]
                free = len(call.shapes[port]) - len(names)
                found[port] = [f"@{free - i}" for i in range(free)] + names
        return found

    def flow(self, call: Call) -> Sequence[Flow]:
        letters = self.letters(call)
        factors = [port for port in letters if port in ((0,), (1,))]
        bias: Port | None = (2,) if (2,) in letters else None
        read = [port for port in call.known if port != OUT]
        if not read:
            return self._back(call, letters, factors, bias)
        port = read[0]
        action = call.known[port]
        mine = [letters[port][axis] for axis in action.axes]
        other = next(p for p in factors if p != port)
        if set(mine) <= set(letters[OUT]):
            if len(read) > 1 and call.kind is not Kind.PERMUTATION:
                raise Stop("both factors are acted on along axes that the product has")
            return [self._along(call, letters, port, other, bias)]
        flow = self._contracted(call, letters, port, other, mine)
        return [flow if OUT not in call.known else self._both(call, letters, flow, other, bias)]

    def _both(
        self, call: Call, letters: dict[Port, list[str]], flow: Flow, other: Port, bias: Port | None
    ) -> Flow:
        """The input and the result are acted on at once: the weights take both, axis by axis."""
        if set(call.known) != {*flow.ports, OUT} - {other} or not is_param(call, other):
            raise Stop("a factor that is no parameter would have to take two actions at once")
        for back in self._back(call, letters, [other], bias):
            also = {p: a for p, a in back.ports.items() if p == other}
            ports = {**back.ports, **flow.ports}
            cells, ties = [*flow.cells, *back.cells], [*flow.ties, *back.ties]
            return Flow(ports, through=flow.through, also=also, cells=cells, ties=ties)
        raise Stop("no single factor has the labelled axes")

    def _contracted(
        self, call: Call, letters: dict[Port, list[str]], port: Port, other: Port, mine: list[str]
    ) -> Flow:
        """An index that is summed over: the other factor takes the inverse."""
        action = call.known[port]
        lacks = [letters[port].index(name) for name in mine if name not in letters[other]]
        if lacks and not (is_param(call, other) and call.kind in _TIED):
            raise Stop("the channels are summed together with an axis that the other factor lacks")
        if call.kind is Kind.CENTRE:
            raise Stop("it reads the value without a norm that would take out the mean")
        if call.kind is Kind.SHIFT:
            if call.node.op != "linear" or port != (0,):
                raise Stop(f"{call.node.op} has no bias to take up a shift")
            return Flow({port: action}, {port: action})
        contracted = [name for name in mine if name not in letters[OUT]]
        cells: list[torch.Tensor] = []
        if call.kind not in DIAGONAL and len(contracted) == len(mine):
            cells += call.held(action, "it reads")
        labels, ties = shared(action, lacks, call.kind)
        partner = Action(_carry(labels, letters[port], letters[other]), -action.power)
        if call.kind is Kind.PERMUTATION:
            partner = partner.inverse()
        if len(contracted) < len(mine) and call.kind not in DIAGONAL:
            kept = [axis for axis, name in enumerate(letters[port]) if name not in contracted]
            cells += call.within(action, kept)
        return Flow({port: action, other: partner}, cells=cells, ties=ties)

    def _along(
        self, call: Call, letters: dict[Port, list[str]], port: Port, other: Port, bias: Port | None
    ) -> Flow:
        """An index of an operand that the result keeps."""
        action = call.known[port]
        if call.kind is Kind.SHIFT:
            raise Stop("a shift of one factor is not a shift of the product")
        mine = {letters[port][axis] for axis in action.axes}
        ports = {port: action}
        ports[OUT] = Action(_carry(action.labels, letters[port], letters[OUT]), action.power)
        flow = Flow(ports, cells=_by_index(call, action, letters[port], letters[other]))
        if call.kind is Kind.PERMUTATION:
            self._other(call, letters, flow, ports[OUT], other)
        if bias is not None:
            if mine <= set(letters[bias]):
                ports[bias] = Action(
                    _carry(action.labels, letters[port], letters[bias]), action.power
                )
            elif call.kind is not Kind.PERMUTATION:
                raise Stop("a bias is added after it")
        return flow

    @staticmethod
    def _other(
        call: Call, letters: dict[Port, list[str]], flow: Flow, out: Action, other: Port
    ) -> None:
        """The factor from which a permuted result does not come, along the axes that both have."""
        names = letters[OUT]
        along = [axis for axis in out.axes if names[axis] in letters[other]]
        rest = [axis for axis in out.axes if axis not in along]
        if along and not rest:
            flow.ports[other] = Action(_carry(out.labels, names, letters[other]), out.power)
        elif along:
            flow.cells += beside(call, out, rest, along)
        if rest and other in call.known:
            labels = _carry(call.known[other].labels, letters[other], names)
            flow.ties += side_by_side(labels, out.labels)

    def _back(
        self, call: Call, letters: dict[Port, list[str]], factors: list[Port], bias: Port | None
    ) -> Sequence[Flow]:
        out = call.known[OUT]
        mine = {letters[OUT][axis] for axis in out.axes}
        if call.kind is Kind.SHIFT:
            if call.node.op != "linear" or mine != {letters[OUT][-1]}:
                raise Stop(f"{call.node.op} has no bias to take up a shift")
            labels = out.labels.flatten()
            return [Flow({OUT: out, (2,): Action(labels, out.power)})]
        answers: list[Flow] = []
        for port in factors:
            if mine <= set(letters[port]):
                labels = _carry(out.labels, letters[OUT], letters[port])
                ports = {OUT: out, port: Action(labels, out.power)}
                other = next(p for p in letters if p in ((0,), (1,)) and p != port)
                flow = Flow(ports, cells=_by_index(call, out, letters[OUT], letters[other]))
                if call.kind is Kind.PERMUTATION and other in factors:
                    self._other(call, letters, flow, out, other)
                if bias is not None and mine <= set(letters[bias]):
                    carried = _carry(out.labels, letters[OUT], letters[bias])
                    ports[bias] = Action(carried, out.power)
                elif bias is not None and call.kind is not Kind.PERMUTATION:
                    continue
                answers.append(flow)
            elif mine & set(letters[port]) and is_param(call, port) and call.kind in _TIED:
                if bias is None or call.kind is Kind.PERMUTATION:
                    answers.append(self._repeated(call, letters, port, bias))
        if not answers:
            raise Stop("no single factor has the labelled axes")
        return answers

    def _repeated(
        self, call: Call, letters: dict[Port, list[str]], port: Port, bias: Port | None
    ) -> Flow:
        """A parameter that lacks labelled axes does the same at all positions along them."""
        out = call.known[OUT]
        names = letters[OUT]
        lacks = [i for i, name in enumerate(names) if name not in letters[port]]
        labels, ties = shared(out, lacks, call.kind)
        flow = Flow({OUT: out}, cells=call.within(out, lacks), ties=ties)
        for taker in (port, bias):
            if taker is not None:
                own = _carry(labels, names, letters[taker])
                flow.ports[taker] = Action(own, out.power)
        return flow


@dataclass(frozen=True)
class Recode(Contract):
    """A change of the form of state, by a matrix over heads and channels that is its own: what a
    law asks of it costs nothing, since it is done outside of the graph."""


@dataclass(frozen=True)
class GroupedContract(Contract):
    """A product by rows whose groups lie side by side: a row is bound to its place."""

    def flow(self, call: Call) -> Sequence[Flow]:
        for port, action in call.known.items():
            if call.kind not in DIAGONAL and port in ((0,), OUT) and -2 in action.axes:
                raise Stop("rows cannot move from one group to another")
        return super().flow(call)


@dataclass(frozen=True)
class Embedding(Law):
    """``y[t, n] = w[id[t], n]``: anything on n."""

    def passes(self, kind: Kind) -> bool:
        return True

    def flow(self, call: Call) -> Sequence[Flow]:
        out = call.known.get(OUT)
        if out is None or out.axes != (-1,):
            raise Stop("the labels vary over more than the embedding's last axis")
        return [Flow({OUT: out, (0,): Action(out.labels.flatten()[None], out.power)})]


def _by_index(call: Call, action: Action, mine: list[str], other: list[str]) -> list[torch.Tensor]:
    """What mixes channels may not do so across an index that the other factor has too."""
    if call.kind not in MIXING - {Kind.PERMUTATION}:
        return []
    shared = [a for a, name in enumerate(mine) if name in other and action.labels.shape[a] > 1]
    return [rows_of(action.labels, shared)] if shared else []


def _carry(labels: torch.Tensor, source: list[str], target: list[str]) -> torch.Tensor:
    """Labels moved between lists of axis names; along a name that is dropped they do not vary."""
    sizes = dict(zip(source, range(labels.dim()), strict=True))
    order = [sizes[name] for name in target if name in sizes]
    dropped = [axis for axis in range(labels.dim()) if axis not in order]
    moved = labels.permute(*dropped, *order)
    for _ in dropped:
        if moved.shape[0] != 1:
            raise Stop("the other side lacks an axis along which the channels vary")
        moved = moved[0]
    for axis, name in enumerate(target):
        if name not in sizes:
            moved = moved.unsqueeze(axis)
    return moved
