"""Laws of sums of products: linear maps, convolutions, tables."""

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
    compact,
    is_param,
    rows_of,
)


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
            cells = [*flow.cells, *back.cells]
            return Flow(ports, through=flow.through, also=also, cells=cells)
        raise Stop("no single factor has the labelled axes")

    def _contracted(
        self, call: Call, letters: dict[Port, list[str]], port: Port, other: Port, mine: list[str]
    ) -> Flow:
        """An index that is summed over: the other factor takes the inverse."""
        action = call.known[port]
        if not set(mine) <= set(letters[other]):
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
        partner = Action(_carry(action.labels, letters[port], letters[other]), -action.power)
        if call.kind is Kind.PERMUTATION:
            partner = partner.inverse()
        if len(contracted) < len(mine):
            kept = [axis for axis, name in enumerate(letters[port]) if name not in contracted]
            cells.append(rows_of(action.labels, kept))
        return Flow({port: action, other: partner}, cells=cells)

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
        if call.kind is Kind.PERMUTATION and mine & set(letters[other]):
            ports[other] = Action(
                _carry(action.labels, letters[port], letters[other]), action.power
            )
        if bias is not None:
            if mine <= set(letters[bias]):
                ports[bias] = Action(
                    _carry(action.labels, letters[port], letters[bias]), action.power
                )
            elif call.kind is not Kind.PERMUTATION:
                raise Stop("a bias is added after it")
        return Flow(ports, cells=_by_index(call, action, letters[port], letters[other]))

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
                others = [p for p in factors if p != port and mine & set(letters[p])]
                ports = {OUT: out, port: Action(labels, out.power)}
                if call.kind is Kind.PERMUTATION:
                    for p in others:
                        ports[p] = Action(_carry(out.labels, letters[OUT], letters[p]), out.power)
                if bias is not None and mine <= set(letters[bias]):
                    carried = _carry(out.labels, letters[OUT], letters[bias])
                    ports[bias] = Action(carried, out.power)
                elif bias is not None and call.kind is not Kind.PERMUTATION:
                    continue
                other = next(p for p in letters if p in ((0,), (1,)) and p != port)
                cells = _by_index(call, out, letters[OUT], letters[other])
                answers.append(Flow(ports, cells=cells))
        if not answers:
            raise Stop("no single factor has the labelled axes")
        return answers


@dataclass(frozen=True)
class GroupedContract(Contract):
    """A product by rows whose groups lie side by side: a row is bound to its place."""

    def flow(self, call: Call) -> Sequence[Flow]:
        for port, action in call.known.items():
            if call.kind not in DIAGONAL and port in ((0,), OUT) and -2 in action.axes:
                raise Stop("rows cannot move from one group to another")
        return super().flow(call)


@dataclass(frozen=True)
class Conv(Law):
    """A convolution ``x[b, i, *], w[o, i/groups, *] -> y[b, o, *]``; channels are indices.

    ``transposed``: the weight is ``w[i, o/groups, *]``, and where the result's border is made of
    fewer products a shift of the input is no shift of the result.
    """

    transposed: bool = False

    def passes(self, kind: Kind) -> bool:
        return True

    def flow(self, call: Call) -> Sequence[Flow]:
        rank = len(call.shapes[OUT])
        batched = len(call.shapes[(1,)]) == rank
        if not batched:
            raise Stop("a convolution without a batch axis")
        flows: list[Flow] = []
        if self.transposed and call.attrs.get("groups", 1) != 1:
            raise Stop("a transposed convolution in groups")
        for port, action in call.known.items():
            if port in ((1,), (2,)):
                continue
            if action.axes != (1 - rank,):
                raise Stop("the labels vary over more than the channels")
            labels = action.labels.flatten()
            write = self._write if port == OUT else self._read
            flows.append(write(call, action, labels))
        merged = Flow()
        for flow in flows:
            for port, action in flow.ports.items():
                if port in merged.ports and not merged.ports[port].same(action):
                    raise Stop("the input's and the result's channels are acted on at once")
                merged.ports[port] = action
            merged.through |= flow.through
            merged.cells += flow.cells
        return [merged]

    def _write(self, call: Call, action: Action, labels: torch.Tensor) -> Flow:
        ports: dict[Port, Action] = {OUT: action}
        bias = Action(labels, action.power)
        if call.kind is Kind.SHIFT:
            return Flow({OUT: action, (2,): bias})
        groups = call.attrs.get("groups", 1)
        if call.kind not in DIAGONAL and groups != 1:
            if groups != labels.numel() or call.kind is not Kind.PERMUTATION:
                raise Stop(
                    f"a grouped convolution mixes no channels, so it takes no {call.kind.value}"
                )
            ports[(0,)] = action
        shape = call.shapes[(1,)]
        ports[(1,)] = Action(self._along(labels, shape, 1 if self.transposed else 0), action.power)
        if (2,) in call.shapes:
            ports[(2,)] = bias
        return Flow(ports)

    def _read(self, call: Call, action: Action, labels: torch.Tensor) -> Flow:
        if call.kind is Kind.CENTRE:
            raise Stop("it reads the value without a norm that would take out the mean")
        groups = call.attrs.get("groups", 1)
        shape = call.shapes[(1,)]
        if call.kind is Kind.SHIFT:
            if self.transposed:
                raise Stop("the border of a transposed convolution is made of fewer products")
            padding = call.attrs.get("padding", (0,))
            if any(padding) if isinstance(padding, tuple) else padding not in (0, "valid"):
                raise Stop("the convolution pads with zeros, which a shift would have to move too")
            return Flow({(0,): action}, {(0,): action})
        if call.kind in DIAGONAL and not self.transposed:
            by_group = labels.reshape(groups, -1)  # (groups, I / groups)
            rows = by_group.repeat_interleave(shape[0] // groups, dim=0)  # (O, I / groups)
            weight = compact(rows.reshape(*rows.shape, *[1] * (len(shape) - 2)))
            return Flow({(0,): action, (1,): Action(weight, -action.power)})
        if groups == 1:
            cells = [] if call.kind in DIAGONAL else call.held(action, "it reads")
            weight = self._along(labels, shape, 0 if self.transposed else 1)
            power = action.power if call.kind is Kind.PERMUTATION else -action.power
            return Flow({(0,): action, (1,): Action(weight, power)}, cells=cells)
        if groups != labels.numel() or shape[0] != groups or call.kind is not Kind.PERMUTATION:
            raise Stop(f"a grouped convolution takes no {call.kind.value} of its input channels")
        return self._write(call, action, labels)

    @staticmethod
    def _along(labels: torch.Tensor, shape: tuple[int, ...], axis: int) -> torch.Tensor:
        return labels.reshape([-1 if i == axis else 1 for i in range(len(shape))])


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
