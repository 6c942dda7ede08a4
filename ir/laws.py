"""The laws by which a symmetry passes through an op.

A **coordinate** is one of the channels that a group acts on, and an **action** says how a value changes: for each of
its positions, which coordinate it holds (``labels``, -1 for one that stays as it is), and with which sign of the
exponent. With a group element g, a value x becomes, position by position,

    SCALE        x * s[label] ** power         s > 0
    SIGN         x * s[label]                  s = +-1
    SHIFT        x + power * z[label]
    PERMUTATION  the value that coordinate p[label] held
    CENTRE       x - mean(x) over the labelled axis (a projection: it only flows back to what writes x)
    ORTHOGONAL   x @ Q ** power over the labelled axis
    LINEAR       x @ M ** power, any invertible M; the other side of a contraction takes the inverse

``labels`` has the rank of its value and size 1 along each axis on which it does not vary. Labels move with positions: a
reshape, a head split, or the repetition of grouped-query attention is followed by running that very op on the labels.

A law gets the actions known at some of an op's ports and answers with those that all ports must then have, or with
several such answers to choose from, or it stops with the reason. Every law is tested on random numbers by
``tests/ir/test_laws.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from .graph import Node


class Kind(Enum):
    """A family of group elements."""

    SCALE = "scale"
    SIGN = "sign"
    SHIFT = "shift"
    PERMUTATION = "permutation"
    CENTRE = "centre"
    ORTHOGONAL = "orthogonal"
    LINEAR = "linear"


DIAGONAL = frozenset({Kind.SCALE, Kind.SIGN, Kind.SHIFT})  # coordinates do not mix

# (i,) is the i-th operand, (i, j) the j-th of a tuple of operands, () the result.
Port: TypeAlias = tuple[int, ...]
OUT: Port = ()


@dataclass(frozen=True, eq=False)
class Action:
    """How one value changes; see the top of this file."""

    labels: torch.Tensor
    power: int = 1

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which coordinates vary, counted from the end: -1 is the last."""
        rank = self.labels.dim()
        return tuple(i - rank for i, size in enumerate(self.labels.shape) if size > 1)

    def inverse(self) -> Action:
        return replace(self, power=-self.power)

    def same(self, other: Action) -> bool:
        return self.power == other.power and torch.equal(self.labels, other.labels)


class Stop(Exception):
    """The symmetry does not pass; the message says why."""


@dataclass
class Flow:
    """What must hold at an op's ports.

    Attributes:
        ports: Actions that values and parameters at these ports must have.
        through: Shifts that the op's bias takes up: the action at an operand, carried through the weights.
        cells: Rows of coordinates, ``[rows, n]``; a permutation must keep each row's coordinates in the row.
    """

    ports: dict[Port, Action] = field(default_factory=dict[Port, Action])
    through: dict[Port, Action] = field(default_factory=dict[Port, Action])
    cells: list[torch.Tensor] = field(default_factory=list[torch.Tensor])


@dataclass(frozen=True)
class Call:
    """An op with the actions known at its ports, and the concrete shapes of all."""

    node: Node
    kind: Kind
    known: Mapping[Port, Action]
    shapes: Mapping[Port, tuple[int, ...]]
    attrs: Mapping[str, Any]  # with numbers in place of symbolic sizes
    args: tuple[Any, ...]  # the operands, nodes replaced by None
    size: int  # how many coordinates there are

    @property
    def operands(self) -> Iterator[Port]:
        return (port for port in self.shapes if port != OUT)

    def complete(self, action: Action) -> bool:
        """Whether the labelled axes hold every coordinate, each as often as any other, and nothing else."""
        flat = action.labels.flatten()
        if bool((flat < 0).any()):
            return False
        counts = torch.bincount(flat, minlength=self.size)
        return bool((counts == counts[0]).all())


class Law:
    """No symmetry passes: the law of an op of which nothing is known."""

    def flow(self, call: Call) -> Sequence[Flow]:
        """The alternatives, best first; raises ``Stop``."""
        raise Stop(f"no law is known for {call.node.op}")

    def passes(self, kind: Kind) -> bool:
        """Whether some element of this kind may pass."""
        return False


OPAQUE = Law()


def compact(labels: torch.Tensor) -> torch.Tensor:
    """Labels with size 1 along each axis on which they do not vary."""
    for axis, size in enumerate(labels.shape):
        if size > 1:
            first = labels.narrow(axis, 0, 1)
            if labels.stride(axis) == 0 or bool((labels == first).all()):
                labels = first
    return labels


def align(action: Action, shape: tuple[int, ...], *, stretch: bool = False) -> Action | None:
    """The action of a broadcast result on an operand of this shape; ``None`` if the operand is constant over the labels.

    With ``stretch`` an operand that does not vary where the labels do may be made to (a parameter can).
    """
    labels = action.labels
    while labels.dim() > len(shape):
        if labels.shape[0] != 1:
            if not stretch:
                return None if not action_varies(labels, shape) else _cannot(shape)
            break
        labels = labels[0]
    while labels.dim() < len(shape):
        labels = labels[None]
    if not stretch and any(n > 1 and m == 1 for n, m in zip(labels.shape, shape, strict=True)):
        if all(m == 1 for n, m in zip(labels.shape, shape, strict=True) if n > 1):
            return None
        _cannot(shape)
    return Action(labels, action.power)


def action_varies(labels: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """Whether an operand of this shape varies along some labelled axis."""
    pairs = zip(reversed(labels.shape), reversed(shape), strict=False)
    return any(n > 1 and m > 1 for n, m in pairs)


def _cannot(shape: tuple[int, ...]) -> None:
    raise Stop(f"an operand of shape {list(shape)} varies along only a part of the labelled axes")


def widen(action: Action, shape: tuple[int, ...]) -> Action:
    """The action of a broadcast operand on the result of this shape."""
    labels = action.labels
    while labels.dim() < len(shape):
        labels = labels[None]
    return Action(labels, action.power)


@dataclass(frozen=True)
class Elementwise(Law):
    """``f`` acts position by position and commutes with these kinds: f(g x) = g f(x)."""

    kinds: frozenset[Kind]

    def passes(self, kind: Kind) -> bool:
        return kind in self.kinds

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind not in self.kinds:
            raise Stop(f"{call.node.op} does not commute with a {call.kind.value}")
        action = next(iter(call.known.values()))
        return [Flow({(0,): action, OUT: action})]


@dataclass(frozen=True)
class Add(Law):
    """``a + b``: both take the action, but a shift is taken by one alone."""

    def passes(self, kind: Kind) -> bool:
        return True

    def flow(self, call: Call) -> Sequence[Flow]:
        out = _result(call)
        if call.kind is Kind.SHIFT:
            return self._shift(call, out)
        ports: dict[Port, Action] = {OUT: out}
        for port in ((0,), (1,)):
            if port not in call.shapes:  # a number
                if call.kind is not Kind.PERMUTATION and call.args[port[0]] != 0:
                    raise Stop(f"it adds a number to every channel, which a {call.kind.value} changes")
                continue
            stretch = call.kind in (Kind.SCALE, Kind.SIGN) and _is_param(call, port)
            action = align(out, call.shapes[port], stretch=stretch)
            if action is None:
                if call.kind is not Kind.PERMUTATION:
                    raise Stop("it adds the same value to every channel")
                continue
            ports[port] = action
        return [Flow(ports)]

    def _shift(self, call: Call, out: Action) -> Sequence[Flow]:
        if len(call.known) > 1 and OUT not in call.known:
            raise Stop("both operands are shifted")
        sign = {(0,): 1, (1,): 1 if call.node.op == "add" else -1}
        if call.node.op == "rsub":
            sign = {(0,): -1, (1,): 1}
        if call.attrs.get("alpha", 1) != 1:
            raise Stop("it adds with a factor")
        known = [port for port in call.known if port != OUT]
        if known:
            action = call.known[known[0]]
            wide = widen(action, call.shapes[OUT])
            return [Flow({known[0]: action, OUT: Action(wide.labels, action.power * sign[known[0]])})]
        answers = []
        for port in call.operands:
            action = align(out, call.shapes[port], stretch=_is_param(call, port))
            if action is not None:
                answers.append(Flow({OUT: out, port: Action(action.labels, out.power * sign[port])}))
        return answers


@dataclass(frozen=True)
class Mul(Law):
    """``a * b`` and ``a / b``: a scale is taken by one factor; a permutation by both."""

    def passes(self, kind: Kind) -> bool:
        return kind is not Kind.SHIFT

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind is Kind.SHIFT:
            raise Stop(f"a shift does not pass {call.node.op}")
        if len(call.node.inputs) == 2 and call.node.inputs[0] is call.node.inputs[1]:
            if call.kind is not Kind.PERMUTATION:
                raise Stop("a value meets itself here")
        if call.kind in (Kind.SCALE, Kind.SIGN):
            return self._scale(call)
        out = _result(call)
        ports: dict[Port, Action] = {OUT: out}
        for port in call.operands:
            action = align(out, call.shapes[port])
            if action is not None:
                ports[port] = action
        if call.kind is not Kind.PERMUTATION and len(ports) != 2:
            raise Stop(f"a {call.kind.value} does not pass a product of two vectors")
        if call.kind is not Kind.PERMUTATION and (1,) in ports and call.node.op == "div":
            raise Stop("it divides by the vector")
        return [Flow(ports)]

    def _scale(self, call: Call) -> Sequence[Flow]:
        def sign(port: Port) -> int:
            return -1 if call.node.op == "div" and port == (1,) else 1

        known = [port for port in call.known if port != OUT]
        if len(known) > 1:
            raise Stop("both factors are scaled")
        if known:
            action = call.known[known[0]]
            wide = widen(action, call.shapes[OUT])
            return [Flow({known[0]: action, OUT: Action(wide.labels, action.power * sign(known[0]))})]
        out = call.known[OUT]
        answers = []
        for port in call.operands:
            action = align(out, call.shapes[port], stretch=_is_param(call, port))
            if action is not None:
                answers.append(Flow({OUT: out, port: Action(action.labels, out.power * sign(port))}))
        if not answers:
            raise Stop("neither factor varies over the channels")
        # A parameter takes up the scale at once; failing that, the factor that comes last is the one
        # that was not gated.
        return sorted(answers, key=lambda flow: not any(_is_param(call, p) for p in flow.ports if p))


@dataclass(frozen=True)
class Where(Law):
    """``where(c, a, b)``: both branches take the action; a number stays only if it is 0 or infinite."""

    def passes(self, kind: Kind) -> bool:
        return kind in (Kind.SCALE, Kind.PERMUTATION)

    def flow(self, call: Call) -> Sequence[Flow]:
        if not self.passes(call.kind):
            raise Stop(f"a {call.kind.value} does not pass a selection")
        value_ports = [(1,), (2,)] if call.node.op == "where" else [(0,), (2,)]
        mask_port = (0,) if call.node.op == "where" else (1,)
        out = _result(call, ignore=mask_port)
        ports: dict[Port, Action] = {OUT: out}
        if align(out, call.shapes[mask_port]) is not None and call.kind is Kind.PERMUTATION:
            raise Stop("the mask differs between channels")
        for port in value_ports:
            if port not in call.shapes:
                value = call.args[port[0]]
                if call.kind is Kind.SCALE and not (value == 0 or value in (float("inf"), -float("inf"))):
                    raise Stop("it puts a number in place of a scaled value")
                continue
            action = align(out, call.shapes[port])
            if action is not None:
                ports[port] = action
            elif call.kind is Kind.SCALE:
                raise Stop("it puts the same value in every channel")
        return [Flow(ports)]


@dataclass(frozen=True)
class Movement(Law):
    """Positions change and values do not, so the labels move as the values do, whatever the group.

    ``whole`` says that some axis passes unchanged, so that a matrix on it does.
    """

    whole: bool = True

    def passes(self, kind: Kind) -> bool:
        return self.whole or kind in DIAGONAL or kind is Kind.PERMUTATION

    def flow(self, call: Call) -> Sequence[Flow]:
        if OUT in call.known:
            return [self._back(call, call.known[OUT])]
        power = next(iter(call.known.values())).power
        if any(action.power != power for action in call.known.values()):
            raise Stop("its operands are scaled opposite ways")
        parts = [self._labels(call, port) for port in call.operands]
        moved = compact(self._run(call, parts))
        return [Flow({**call.known, OUT: Action(moved, power)}, cells=_part(call, moved))]

    def _labels(self, call: Call, port: Port) -> torch.Tensor:
        if port in call.known:
            return call.known[port].labels.expand(call.shapes[port])
        return torch.full((1,), -1, dtype=torch.int32).expand(call.shapes[port])

    def _run(self, call: Call, parts: list[torch.Tensor]) -> torch.Tensor:
        from .ops import call as run

        operand = tuple(parts) if isinstance(call.args[0], tuple) else parts[0]
        attrs = {key: value for key, value in call.attrs.items() if key != "memory_format"}
        return run(call.node.op, (operand, *call.args[1:]), attrs)

    def _back(self, call: Call, out: Action) -> Flow:
        """Where each position came from, found by moving the positions' numbers."""
        ports = {OUT: out}
        start = 0
        numbers: list[torch.Tensor] = []
        for port in call.operands:
            shape = call.shapes[port]
            count = 1
            for size in shape:
                count *= size
            numbers.append(torch.arange(start, start + count, dtype=torch.int32).reshape(shape))
            start += count
        source = self._run(call, numbers)
        labels = torch.full((start,), -1, dtype=torch.int32)
        spread = out.labels.expand(source.shape)
        labels[source.flatten().long()] = spread.flatten()
        if not torch.equal(labels[source.flatten().long()], spread.flatten()):
            raise Stop("one value is repeated into several channels")
        begin = 0
        cells: list[torch.Tensor] = []
        for port, number in zip(call.operands, numbers, strict=True):
            part = labels[begin : begin + number.numel()].reshape(number.shape)
            begin += number.numel()
            if bool((part >= 0).any()):
                ports[port] = Action(compact(part), out.power)
                cells += _part(call, part)
        return Flow(ports, cells=cells)


def _part(call: Call, labels: torch.Tensor) -> list[torch.Tensor]:
    """Where only some of the coordinates go one way, a permutation must keep them together."""
    if call.kind is not Kind.PERMUTATION:
        return []
    held = labels.unique()
    held = held[held >= 0]
    return [held[None]] if held.numel() < call.size else []


@dataclass(frozen=True)
class Contract(Law):
    """A product summed over the indices that the result lacks, in einsum's notation, and perhaps a bias.

    The sum over i of a[i] b[i] does not change when a takes M and b its inverse transpose; an index of the
    result is taken by the operand it comes from, and by the bias.
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
        if OUT in call.known:
            return self._back(call, letters, factors, bias)
        port, action = next(iter(call.known.items()))
        mine = [letters[port][axis] for axis in action.axes]
        other = next(p for p in factors if p != port)
        if set(mine) <= set(letters[OUT]):
            return [self._along(call, letters, port, other, bias)]
        if not set(mine) <= set(letters[other]):
            raise Stop("the channels are summed together with an axis that the other factor lacks")
        if call.kind is Kind.CENTRE:
            raise Stop("it reads the value without a norm that would take out the mean")
        if call.kind is Kind.SHIFT:
            if call.node.op != "linear" or port != (0,):
                raise Stop(f"{call.node.op} has no bias to take up a shift")
            return [Flow({port: action}, {port: action})]
        contracted = [name for name in mine if name not in letters[OUT]]
        if call.kind not in DIAGONAL and len(contracted) == len(mine) and not call.complete(action):
            raise Stop("it reads only a part of the channels")
        partner = Action(_carry(action.labels, letters[port], letters[other]), -action.power)
        if call.kind is Kind.PERMUTATION:
            partner = partner.inverse()
        cells: list[torch.Tensor] = []
        if len(contracted) < len(mine):
            kept = [axis for axis, name in enumerate(letters[port]) if name not in contracted]
            cells.append(rows_of(action.labels, kept))
        return [Flow({port: action, other: partner}, cells=cells)]

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
            ports[other] = Action(_carry(action.labels, letters[port], letters[other]), action.power)
        if bias is not None:
            if mine <= set(letters[bias]):
                ports[bias] = Action(_carry(action.labels, letters[port], letters[bias]), action.power)
            elif call.kind is not Kind.PERMUTATION:
                raise Stop("a bias is added after it")
        return Flow(ports)

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
                answers.append(Flow(ports))
        if not answers:
            raise Stop("no single factor has the labelled axes")
        return answers


def rows_of(labels: torch.Tensor, kept: Sequence[int]) -> torch.Tensor:
    """Labels as a matrix: a row for each position on the kept axes."""
    rest = [axis for axis in range(labels.dim()) if axis not in kept]
    count = 1
    for axis in kept:
        count *= labels.shape[axis]
    return labels.permute(*kept, *rest).reshape(count, -1)


def _carry(labels: torch.Tensor, source: list[str], target: list[str]) -> torch.Tensor:
    """Labels moved from one list of axis names to another; a name that the target lacks must not vary."""
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


@dataclass(frozen=True)
class Conv(Law):
    """A convolution ``x[b, i, *], w[o, i/groups, *] -> y[b, o, *]``: the channels are indices like any other."""

    def passes(self, kind: Kind) -> bool:
        return True

    def flow(self, call: Call) -> Sequence[Flow]:
        rank = len(call.shapes[OUT])
        batched = len(call.shapes[(1,)]) == rank
        if not batched:
            raise Stop("a convolution without a batch axis")
        flows: list[Flow] = []
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
        return [merged]

    def _write(self, call: Call, action: Action, labels: torch.Tensor) -> Flow:
        ports: dict[Port, Action] = {OUT: action}
        bias = Action(labels, action.power)
        if call.kind is Kind.SHIFT:
            return Flow({OUT: action, (2,): bias})
        groups = call.attrs.get("groups", 1)
        if call.kind not in DIAGONAL and groups != 1:
            if groups != labels.numel() or call.kind is not Kind.PERMUTATION:
                raise Stop(f"a grouped convolution mixes no channels, so it takes no {call.kind.value}")
            ports[(0,)] = action
        shape = call.shapes[(1,)]
        ports[(1,)] = Action(labels.reshape(-1, *[1] * (len(shape) - 1)), action.power)
        if (2,) in call.shapes:
            ports[(2,)] = bias
        return Flow(ports)

    def _read(self, call: Call, action: Action, labels: torch.Tensor) -> Flow:
        if call.kind is Kind.CENTRE:
            raise Stop("it reads the value without a norm that would take out the mean")
        groups = call.attrs.get("groups", 1)
        shape = call.shapes[(1,)]
        if call.kind is Kind.SHIFT:
            padding = call.attrs.get("padding", (0,))
            if any(padding) if isinstance(padding, tuple) else padding not in (0, "valid"):
                raise Stop("the convolution pads with zeros, which a shift would have to move too")
            return Flow({(0,): action}, {(0,): action})
        if call.kind in DIAGONAL:
            by_group = labels.reshape(groups, -1)  # (groups, I / groups)
            rows = by_group.repeat_interleave(shape[0] // groups, dim=0)  # (O, I / groups)
            weight = compact(rows.reshape(*rows.shape, *[1] * (len(shape) - 2)))
            return Flow({(0,): action, (1,): Action(weight, -action.power)})
        if groups == 1:
            if not call.complete(action):
                raise Stop("it reads only a part of the channels")
            weight = labels.reshape(1, -1, *[1] * (len(shape) - 2))
            power = action.power if call.kind is Kind.PERMUTATION else -action.power
            return Flow({(0,): action, (1,): Action(weight, power)})
        if groups != labels.numel() or shape[0] != groups or call.kind is not Kind.PERMUTATION:
            raise Stop(f"a grouped convolution takes no {call.kind.value} of its input channels")
        return self._write(call, action, labels)


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


@dataclass(frozen=True)
class Normalize(Law):
    """LayerNorm (``centres``) and RMSNorm over the last axis n, with weight and bias on n.

    The result's scale and shift are taken by weight and bias. The input may be permuted; a LayerNorm does not see the
    mean of its input (CENTRE), an RMSNorm without weight commutes with every orthogonal matrix.
    """

    centres: bool
    grouped: bool = False

    def passes(self, kind: Kind) -> bool:
        if kind in (Kind.SCALE, Kind.SIGN) or (kind is Kind.SHIFT and self.centres):
            return True
        own = {Kind.PERMUTATION, Kind.CENTRE if self.centres else Kind.ORTHOGONAL}
        return kind in own and not self.grouped

    def flow(self, call: Call) -> Sequence[Flow]:
        last = (1 - len(call.shapes[OUT]),) if self.grouped else (-1,)
        over = 1 if self.grouped else len(call.attrs["normalized_shape"])
        for action in call.known.values():
            if over != 1 or action.axes != last:
                raise Stop("the labels vary over more than the axis of the norm")
        if (0,) in call.known:
            return [self._read(call, call.known[(0,)])]
        return [self._write(call, call.known[OUT])]

    def _affine(self, call: Call, action: Action) -> dict[Port, Action]:
        labels = action.labels.flatten()
        return {port: Action(labels, action.power) for port in ((1,), (2,)) if port in call.shapes}

    def _write(self, call: Call, out: Action) -> Flow:
        affine = self._affine(call, out)
        match call.kind:
            case Kind.SCALE | Kind.SIGN:
                if (1,) not in affine:
                    raise Stop("the norm has no weight to take up a scale")
                return Flow({OUT: out, **affine})
            case Kind.SHIFT:
                if not self.centres:
                    raise Stop("an RMSNorm has no bias to take up a shift")
                return Flow({OUT: out, (2,): Action(out.labels.flatten(), out.power)})
            case Kind.PERMUTATION if not self.grouped:
                return Flow({OUT: out, (0,): out, **affine})
            case Kind.ORTHOGONAL if not self.centres and not affine:
                return Flow({OUT: out, (0,): out})
            case _:
                raise Stop(f"{call.node.op} gives a result that takes no {call.kind.value}")

    def _read(self, call: Call, action: Action) -> Flow:
        match call.kind:
            case Kind.CENTRE if self.centres and not self.grouped:
                if not call.complete(action):
                    raise Stop("the norm is over other channels than the centred ones")
                return Flow({(0,): action})
            case Kind.PERMUTATION if not self.grouped:
                if not call.complete(action):
                    raise Stop("the norm is over other channels than the permuted ones")
                return Flow({(0,): action, OUT: action, **self._affine(call, action)})
            case Kind.ORTHOGONAL if not self.centres and not self._affine(call, action):
                return Flow({(0,): action, OUT: action})
            case _:
                raise Stop(f"a {call.kind.value} of the channels changes the statistics of {call.node.op}")


@dataclass(frozen=True)
class BatchNorm(Law):
    """Inference batch norm, an affine map of each channel: (x - m) / sqrt(v + eps) * w + b."""

    def passes(self, kind: Kind) -> bool:
        return kind in (Kind.SCALE, Kind.SIGN, Kind.SHIFT, Kind.PERMUTATION)

    def flow(self, call: Call) -> Sequence[Flow]:
        if not self.passes(call.kind):
            raise Stop(f"batch_norm takes no {call.kind.value}")
        if call.attrs.get("training"):
            raise Stop("batch norm in training mode")
        port, action = next(iter(call.known.items()))
        if action.axes != (1 - len(call.shapes[OUT]),):
            raise Stop("the labels vary over more than the channels")
        labels = action.labels.flatten()
        own = Action(labels, action.power)
        if any(p not in call.shapes for p in ((1,), (2,), (3,), (4,))):
            raise Stop("the batch norm has no weight and bias")
        if call.kind is Kind.PERMUTATION:
            return [Flow({(0,): action, OUT: action, **{(i,): own for i in range(1, 5)}})]
        if call.kind is Kind.SHIFT:
            return [Flow({port: action, (2,) if port == OUT else (3,): own})]
        if port == OUT:
            return [Flow({OUT: action, (1,): own, (2,): own})]
        return [Flow({(0,): action, (3,): own, (1,): own.inverse()})]


@dataclass(frozen=True)
class Softmax(Law):
    """Softmax over one axis: any permutation passes, along the axis or off it."""

    def passes(self, kind: Kind) -> bool:
        return kind is Kind.PERMUTATION

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind is not Kind.PERMUTATION:
            raise Stop(f"softmax does not commute with a {call.kind.value}")
        action = next(iter(call.known.values()))
        return [Flow({(0,): action, OUT: action})]


@dataclass(frozen=True)
class Reduce(Law):
    """A reduction over some axes: these kinds pass along the others; a permutation of a reduced axis ends here."""

    kinds: frozenset[Kind]
    window: bool = False  # pooling over the axes behind the channels

    def passes(self, kind: Kind) -> bool:
        return kind in self.kinds or kind is Kind.PERMUTATION

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind not in self.kinds:
            raise Stop(f"a {call.kind.value} does not pass {call.node.op}")
        rank = len(call.shapes[(0,)])
        reduced = self._reduced(call, rank)
        keep = self.window or bool(call.attrs.get("keepdim", False))
        if (0,) not in call.known:
            labels = call.known[OUT].labels
            if keep and {axis % rank for axis in call.known[OUT].axes} & set(reduced):
                raise Stop(f"{call.node.op} reduces the labelled axis")
            for axis in () if keep else reduced:
                labels = labels.unsqueeze(axis)
            return [Flow({**call.known, (0,): Action(labels, call.known[OUT].power)})]
        action = call.known[(0,)]
        acted = {axis % rank for axis in action.axes}
        if not acted & set(reduced):
            labels = action.labels if keep else action.labels.squeeze(reduced)
            return [Flow({(0,): action, OUT: Action(labels, action.power)})]
        ends = call.kind is Kind.PERMUTATION and not self.window
        if ends and acted <= set(reduced) and call.complete(action):
            return [Flow({(0,): action})]
        raise Stop(f"{call.node.op} reduces the channels")

    def _reduced(self, call: Call, rank: int) -> tuple[int, ...]:
        if self.window:
            return (rank - 2, rank - 1)
        dims = call.attrs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        return tuple(sorted(d % rank for d in dims)) if dims else tuple(range(rank))


@dataclass(frozen=True)
class ScaledDotProduct(Law):
    """Attention ``q[.. h s d], k[.. h t d], v[.. h t e] -> y[.. h s e]``, softmax of q k' over t.

    q and k contract d, so k takes the inverse of what q takes; what v takes on e, the result takes. The rows of the
    softmax sum to one, so the result takes a shift of v, and a shift of k adds the same number to all logits of a
    query and is gone. Where several heads of q share one of k and v, their coordinates are the same.
    """

    def passes(self, kind: Kind) -> bool:
        return kind is not Kind.CENTRE

    def flow(self, call: Call) -> Sequence[Flow]:
        for action in call.known.values():
            if set(action.axes) - {-1, -3}:
                raise Stop("the labels vary along the sequence")
            if -1 not in action.axes:
                raise Stop("whole heads are acted on")
        if call.kind is Kind.CENTRE:
            raise Stop("attention reads the value without a norm that would take out the mean")
        if OUT in call.known or (2,) in call.known:
            return [self._value(call)]
        if call.kind is Kind.SHIFT:
            if (0,) in call.known:
                raise Stop("a shift of the queries moves each key's logit by another amount")
            return [Flow({(1,): call.known[(1,)]})]
        return [self._pair(call)]

    def _value(self, call: Call) -> Flow:
        if OUT in call.known:
            out = call.known[OUT]
            value = Action(self._fewer(call, out.labels, (2,)), out.power)
        else:
            value = call.known[(2,)]
        result = Action(self._more(call, value.labels, (2,)), value.power)
        return Flow({(2,): value, OUT: result}, cells=[value.labels.reshape(-1, value.labels.shape[-1])])

    def _pair(self, call: Call) -> Flow:
        def other(power: int) -> int:
            return power if call.kind is Kind.PERMUTATION else -power

        if (1,) in call.known:
            key = call.known[(1,)]
        else:
            query = call.known[(0,)]
            key = Action(self._fewer(call, query.labels, (1,)), other(query.power))
        query = Action(self._more(call, key.labels, (1,)), other(key.power))
        return Flow({(0,): query, (1,): key}, cells=[key.labels.reshape(-1, key.labels.shape[-1])])

    def _ratio(self, call: Call, port: Port) -> int:
        return call.shapes[(0,)][-3] // call.shapes[port][-3] if len(call.shapes[port]) > 2 else 1

    def _fewer(self, call: Call, labels: torch.Tensor, port: Port) -> torch.Tensor:
        """Labels of the query heads as labels of the heads they share; the engine ties what differs."""
        ratio = self._ratio(call, port)
        return labels[..., ::ratio, :, :] if ratio > 1 and labels.shape[-3] > 1 else labels

    def _more(self, call: Call, labels: torch.Tensor, port: Port) -> torch.Tensor:
        ratio = self._ratio(call, port)
        if ratio > 1 and labels.shape[-3] > 1:
            return labels.repeat_interleave(ratio, dim=-3)
        return labels


def _is_param(call: Call, port: Port) -> bool:
    node = call.node.args[port[0]] if port else None
    return getattr(node, "op", "") == "param"


def _result(call: Call, ignore: Port | None = None) -> Action:
    """The action on the result of a broadcasting op, known there or at an operand."""
    if OUT in call.known:
        return call.known[OUT]
    actions = [widen(a, call.shapes[OUT]) for port, a in call.known.items() if port != ignore]
    if not actions:
        raise Stop("a mask is acted on")
    return actions[0]
