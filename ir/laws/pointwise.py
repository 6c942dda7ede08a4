"""Laws of ops that act position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .core import (
    OUT,
    Action,
    Call,
    Flow,
    Kind,
    Law,
    Port,
    Stop,
    Ties,
    align,
    beside,
    is_param,
    joined,
    on_result,
    shared,
    side_by_side,
    widen,
)


@dataclass(frozen=True)
class Elementwise(Law):
    """``f`` acts position by position and commutes with these kinds: f(g x) = g f(x)."""

    kinds: frozenset[Kind]

    def passes(self, kind: Kind) -> bool:
        return kind in self.kinds

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind not in self.kinds:
            raise Stop(f"{call.node.op} does not commute with a {call.kind.value}")
        action = joined(call.kind, list(call.known.values()))
        return [Flow({(0,): action, OUT: action})]


@dataclass(frozen=True)
class Cast(Elementwise):
    """A conversion between dtypes; one to whole numbers, or to truths, rounds."""

    def flow(self, call: Call) -> Sequence[Flow]:
        dtype = call.node.dtype
        if call.kind is not Kind.PERMUTATION and not (dtype.is_floating_point or dtype.is_complex):
            raise Stop(f"it rounds to {dtype}, which does not commute with a {call.kind.value}")
        return super().flow(call)


@dataclass(frozen=True)
class Together(Law):
    """``f(a, b)`` acts position by position: f(g a, g b) = g f(a, b) for these kinds."""

    kinds: frozenset[Kind]

    def passes(self, kind: Kind) -> bool:
        return kind in self.kinds

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind not in self.kinds:
            raise Stop(f"{call.node.op} does not commute with a {call.kind.value}")
        flow = Flow({OUT: on_result(call)})
        for port in ((0,), (1,)):
            taken = port in call.shapes and _taken(call, flow, flow.ports[OUT], port)
            if not taken and call.kind is not Kind.PERMUTATION:
                raise Stop("one operand is the same in every channel")
        return [flow]


@dataclass(frozen=True)
class Add(Law):
    """``a + b``: both take the action, but a shift is taken by one alone."""

    def passes(self, kind: Kind) -> bool:
        return True

    def flow(self, call: Call) -> Sequence[Flow]:
        out = on_result(call)
        if call.kind is Kind.SHIFT:
            return self._shift(call, out)
        flow = Flow({OUT: out})
        for port in ((0,), (1,)):
            if port not in call.shapes:  # a number
                if call.kind is not Kind.PERMUTATION and call.args[port[0]] != 0:
                    raise Stop(
                        f"it adds a number to every channel, which a {call.kind.value} changes"
                    )
                continue
            stretch = call.kind in (Kind.SCALE, Kind.SIGN) and is_param(call, port)
            taken = _taken(call, flow, out, port, stretch=stretch)
            if not taken and call.kind is not Kind.PERMUTATION:
                raise Stop("it adds the same value to every channel")
        return [flow]

    def _shift(self, call: Call, out: Action) -> Sequence[Flow]:
        if len([port for port in call.known if port != OUT]) > 1:
            raise Stop("both operands are shifted")
        sign: dict[Port, int] = {(0,): 1, (1,): 1 if call.node.op == "add" else -1}
        if call.node.op == "rsub":
            sign = {(0,): -1, (1,): 1}
        if call.attrs.get("alpha", 1) != 1:
            raise Stop("it adds with a factor")
        known = [port for port in call.known if port != OUT]
        if known:
            action = call.known[known[0]]
            wide = widen(action, call.shapes[OUT])
            return [
                Flow({known[0]: action, OUT: Action(wide.labels, action.power * sign[known[0]])})
            ]
        answers = []
        for port in call.operands:
            action = align(out, call.shapes[port], stretch=is_param(call, port))
            if action is not None:
                answers.append(
                    Flow({OUT: out, port: Action(action.labels, out.power * sign[port])})
                )
        return answers


@dataclass(frozen=True)
class Mul(Law):
    """``a * b`` and ``a / b``: a scale is taken by one factor; a permutation by both."""

    def passes(self, kind: Kind) -> bool:
        return kind is not Kind.SHIFT

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind is Kind.SHIFT:
            raise Stop(f"a shift does not pass {call.node.op}")
        if call.attrs.get("rounding_mode") and call.kind is not Kind.PERMUTATION:
            raise Stop("the quotient is rounded")
        if len(call.node.inputs) == 2 and call.node.inputs[0] is call.node.inputs[1]:
            if call.kind is not Kind.PERMUTATION:
                raise Stop("a value meets itself here")
        if call.kind in (Kind.SCALE, Kind.SIGN):
            return self._scale(call)
        out = on_result(call)
        flow = Flow({OUT: out})
        for port in call.operands:
            _taken(call, flow, out, port)
        if call.kind is not Kind.PERMUTATION and len(flow.ports) != 2:
            raise Stop(f"a {call.kind.value} does not pass a product of two vectors")
        if call.kind is not Kind.PERMUTATION and (1,) in flow.ports and call.node.op == "div":
            raise Stop("it divides by the vector")
        return [flow]

    def _scale(self, call: Call) -> Sequence[Flow]:
        def sign(port: Port) -> int:
            return -1 if call.node.op == "div" and port == (1,) else 1

        known = [port for port in call.known if port != OUT]
        if len(known) > 1:
            raise Stop("both factors are scaled")
        if known:
            action = call.known[known[0]]
            wide = widen(action, call.shapes[OUT])
            return [
                Flow({known[0]: action, OUT: Action(wide.labels, action.power * sign(known[0]))})
            ]
        out = call.known[OUT]
        answers = []
        for port in call.operands:
            action = align(out, call.shapes[port], stretch=is_param(call, port))
            if action is not None:
                answers.append(
                    Flow({OUT: out, port: Action(action.labels, out.power * sign(port))})
                )
        if not answers:
            raise Stop("neither factor varies over the channels")
        # A parameter takes up the scale at once; failing that, the factor that comes last is the
        # one that was not gated.
        return sorted(answers, key=lambda flow: not any(is_param(call, p) for p in flow.ports if p))


@dataclass(frozen=True)
class Where(Law):
    """``where(c, a, b)``: both branches take the action; a number stays if it is 0 or infinite."""

    def passes(self, kind: Kind) -> bool:
        return kind in (Kind.SCALE, Kind.PERMUTATION)

    def flow(self, call: Call) -> Sequence[Flow]:
        if not self.passes(call.kind):
            raise Stop(f"a {call.kind.value} does not pass a selection")
        value_ports = [(1,), (2,)] if call.node.op == "where" else [(0,), (2,)]
        mask_port = (0,) if call.node.op == "where" else (1,)
        out = on_result(call, ignore=mask_port)
        flow = Flow({OUT: out})
        if call.kind is Kind.PERMUTATION:  # a place may not move where the mask is another
            differs = [a for a in out.axes if _size(call.shapes[mask_port], a) > 1]
            if set(differs) == set(out.axes):
                raise Stop("the mask differs between channels")
            flow.cells += call.within(out, differs)
            flow.ties += _met(call, out, mask_port)
        for port in value_ports:
            if port not in call.shapes:
                value = call.args[port[0]]
                if call.kind is Kind.SCALE and not (
                    value == 0 or value in (float("inf"), -float("inf"))
                ):
                    raise Stop("it puts a number in place of a scaled value")
                continue
            if not _taken(call, flow, out, port) and call.kind is Kind.SCALE:
                raise Stop("it puts the same value in every channel")
        return [flow]


def _taken(call: Call, flow: Flow, out: Action, port: Port, *, stretch: bool = False) -> bool:
    """Let an operand take the action of a broadcast result; says whether it varies over it.

    An operand that varies along only some of the labelled axes can bear a permutation: if it is a
    parameter, one that does the same everywhere along the others, and if not, one that moves no
    place along those on which it varies.
    """
    shape = call.shapes[port]
    along = [axis for axis in out.axes if _size(shape, axis) > 1]
    rest = [axis for axis in out.axes if axis not in along]
    if call.kind is not Kind.PERMUTATION or not along or not rest:
        action = align(out, shape, stretch=stretch)
        if action is not None:
            flow.ports[port] = action
        elif call.kind is Kind.PERMUTATION:
            flow.ties += _met(call, out, port)
        return action is not None
    if is_param(call, port):
        labels, ties = shared(out, rest, call.kind)
        flow.ports[port] = Action(labels[(0,) * (labels.dim() - len(shape))], out.power)
        flow.ties += ties
        flow.cells += call.within(out, rest)
    else:
        flow.cells += beside(call, out, rest, along)
        flow.ties += _met(call, out, port)
    return True


def _met(call: Call, out: Action, port: Port) -> Ties:
    """What an operand that holds other coordinates than the result ties them to."""
    if port not in call.known:
        return []
    return side_by_side(widen(call.known[port], call.shapes[OUT]).labels, out.labels)


def _size(shape: tuple[int, ...], axis: int) -> int:
    """The size along an axis counted from the end, of which there may be fewer."""
    return shape[axis] if len(shape) >= -axis else 1
