"""Laws of norms, softmax and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .core import (
    OUT,
    Action,
    Call,
    Flow,
    Kind,
    Law,
    Port,
    Stop,
    colours,
    compact,
    filled,
    joined,
    shared,
)


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
        if kind in (Kind.SCALE, Kind.SIGN, Kind.PERMUTATION) or (
            kind is Kind.SHIFT and self.centres
        ):
            return True
        return kind is (Kind.CENTRE if self.centres else Kind.ORTHOGONAL) and not self.grouped

    def flow(self, call: Call) -> Sequence[Flow]:
        rank = len(call.shapes[OUT])
        own = 1 - rank if self.grouped else -1
        over = 1 if self.grouped else len(call.attrs["normalized_shape"])
        tied = call.kind is Kind.PERMUTATION and not self.grouped
        if tied and all(axis < -over for a in call.known.values() for axis in a.axes):
            action = next(iter(call.known.values()))  # each row is normed by itself
            return [Flow({(0,): action, OUT: action})]
        for action in call.known.values():
            if over != 1 or (action.axes != (own,) and not (tied and own in action.axes)):
                raise Stop("the labels vary over more than the axis of the norm")
        if call.kind is Kind.PERMUTATION:
            return [self._permuted(call, joined(call.kind, list(call.known.values())))]
        if (0,) in call.known:
            return [self._read(call, call.known[(0,)])]
        return [self._write(call, call.known[OUT])]

    def _permuted(self, call: Call, action: Action) -> Flow:
        """Places keep to their group, and along other axes to their place; a weight that serves
        several positions has them all change alike."""
        others = action.axes if self.grouped else action.axes[:-1]
        labels, ties = shared(action, () if self.grouped else others, call.kind)
        cells = call.held(action, "the norm is over")
        cells += [] if self.grouped else call.within(action, others)
        if self.grouped:
            groups = int(call.attrs["num_groups"])
            size = labels.numel() // groups
            if size > 1:
                sorts = torch.arange(groups).repeat_interleave(size).reshape(action.labels.shape)
                cells.append(colours(action.labels, sorts, call.size))
        affine = self._affine(call, Action(labels, action.power))
        return Flow({(0,): action, OUT: action, **affine}, cells=cells, ties=ties if affine else [])

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
            case Kind.ORTHOGONAL if not self.centres and not affine:
                return Flow({OUT: out, (0,): out}, cells=call.held(out, "the norm is over"))
            case _:
                raise Stop(f"{call.node.op} gives a result that takes no {call.kind.value}")

    def _read(self, call: Call, action: Action) -> Flow:
        match call.kind:
            case Kind.CENTRE if self.centres and not self.grouped:
                return Flow({(0,): action}, cells=call.held(action, "the norm is over"))
            case Kind.ORTHOGONAL if not self.centres and not self._affine(call, action):
                cells = call.held(action, "the norm is over")
                return Flow({(0,): action, OUT: action}, cells=cells)
            case Kind.ORTHOGONAL if not self.centres:
                raise Stop(
                    "its weight does not commute with it, and must go into its readers first"
                )
            case _:
                raise Stop(
                    f"a {call.kind.value} of the channels changes the statistics of {call.node.op}"
                )


@dataclass(frozen=True)
class WeightNorm(Law):
    """``g v / |v|``, where the norm is over all axes but one, along which g varies.

    The norm is that of v after any orthogonal matrix along the axes it is over.
    """

    def passes(self, kind: Kind) -> bool:
        return kind in (Kind.PERMUTATION, Kind.SIGN, Kind.ORTHOGONAL, Kind.SCALE)

    def flow(self, call: Call) -> Sequence[Flow]:
        if (1,) in call.known:
            raise Stop("the lengths are acted on alone")
        rank = len(call.shapes[OUT])
        axis = int(call.attrs.get("dim", 0)) % rank - rank
        action = joined(call.kind, list(call.known.values()))
        if axis not in action.axes:
            if call.kind not in (Kind.PERMUTATION, Kind.SIGN, Kind.ORTHOGONAL):
                raise Stop(f"a {call.kind.value} changes the norm")
            return [Flow({(0,): action, OUT: action})]
        if action.axes != (axis,):
            raise Stop("the labels vary along the axis of the lengths and along others")
        match call.kind:
            case Kind.PERMUTATION:
                return [Flow({(0,): action, (1,): action, OUT: action})]
            case Kind.SCALE | Kind.SIGN if (0,) not in call.known:
                return [Flow({OUT: action, (1,): action})]
            case _:
                raise Stop(f"a {call.kind.value} changes the norm")


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
    """Softmax over one axis: any permutation along it passes, and any of whole rows; no place may
    go to another row alone."""

    def passes(self, kind: Kind) -> bool:
        return kind is Kind.PERMUTATION

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind is not Kind.PERMUTATION:
            raise Stop(f"softmax does not commute with a {call.kind.value}")
        action = joined(call.kind, list(call.known.values()))
        rank = len(call.shapes[OUT])
        axes = {axis % rank for axis in action.axes}
        along = int(call.attrs["dim"]) % rank
        cells = call.within(action, sorted(axes - {along})) if along in axes else []
        return [Flow({(0,): action, OUT: action}, cells=cells)]


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
        if call.kind is Kind.PERMUTATION and not self.window:  # within what becomes one number
            kept = acted - set(reduced)
            if not {axis % rank for axis in Action(compact(filled(action.labels))).axes} - kept:
                raise Stop("it reduces channels that change with channels that do not")
            cells = call.held(action, f"{call.node.op} reduces")
            return [Flow({(0,): action}, cells=[*cells, *call.within(action, sorted(kept))])]
        raise Stop(f"{call.node.op} reduces the channels")

    def _reduced(self, call: Call, rank: int) -> tuple[int, ...]:
        if self.window:
            return tuple(a for a in range(rank - self.window, rank) if not self._apart(call, a))
        dims = call.attrs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        return tuple(sorted(d % rank for d in dims)) if dims else tuple(range(rank))

    def _apart(self, call: Call, axis: int) -> bool:
        """Whether a window is one wide along an axis and takes each place once."""
        rank = len(call.shapes[OUT])
        if call.shapes[(0,)][axis] != call.shapes[OUT][axis]:
            return False
        given = {key: call.attrs.get(key) for key in ("scale_factors", "scales_h", "scales_w")}
        if "kernel_size" not in call.attrs:  # the sizes say all, unless a factor does
            return not any(given.values())

        def at(name: str, default: int) -> int:
            value = call.attrs.get(name) or default
            spread = value if isinstance(value, tuple) else (value,)
            return int(spread[(axis - rank) if len(spread) > 1 else 0])

        return at("kernel_size", 1) == 1 and at("stride", 1) == 1 and at("padding", 0) == 0
