"""Laws of norms, softmax and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .core import OUT, Action, Call, Flow, Kind, Law, Port, Stop


@dataclass(frozen=True)
class Normalize(Law):
    """LayerNorm (``centres``) and RMSNorm over the last axis n, with weight and bias on n.

    The result's scale and shift are taken by weight and bias. The input may be permuted; a
    LayerNorm does not see the mean of its input (CENTRE), an RMSNorm without weight commutes with
    every orthogonal matrix.
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
                return Flow({(0,): action}, cells=call.held(action, "the norm is over"))
            case Kind.PERMUTATION if not self.grouped:
                cells = call.held(action, "the norm is over")
                ports: dict[Port, Action] = {(0,): action, OUT: action}
                return Flow({**ports, **self._affine(call, action)}, cells=cells)
            case Kind.ORTHOGONAL if not self.centres and not self._affine(call, action):
                return Flow({(0,): action, OUT: action})
            case Kind.ORTHOGONAL if not self.centres:
                raise Stop(
                    "its weight does not commute with it, and must go into its readers first"
                )
            case _:
                raise Stop(
                    f"a {call.kind.value} of the channels changes the statistics of {call.node.op}"
                )


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
        if len(call.known) > 1 and call.kind is not Kind.PERMUTATION:
            raise Stop("the input's and the result's channels are acted on at once")
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
    """A reduction: these kinds pass along the axes left; a permutation of the others ends here."""

    kinds: frozenset[Kind]
    window: int = 0  # pooling, or resizing, over as many last axes

    def passes(self, kind: Kind) -> bool:
        return kind in self.kinds or kind is Kind.PERMUTATION

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind not in self.kinds:
            raise Stop(f"a {call.kind.value} does not pass {call.node.op}")
        rank = len(call.shapes[(0,)])
        reduced = self._reduced(call, rank)
        keep = self.window > 0 or bool(call.attrs.get("keepdim", False))
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
        if ends and acted <= set(reduced):
            return [Flow({(0,): action}, cells=call.held(action, f"{call.node.op} reduces"))]
        raise Stop(f"{call.node.op} reduces the channels")

    def _reduced(self, call: Call, rank: int) -> tuple[int, ...]:
        if self.window:
            return tuple(range(rank - self.window, rank))
        dims = call.attrs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        return tuple(sorted(d % rank for d in dims)) if dims else tuple(range(rank))
