"""The law of attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .core import OUT, Action, Call, Flow, Kind, Law, Port, Stop, align


@dataclass(frozen=True)
class ScaledDotProduct(Law):
    """Attention ``q[.. h s d], k[.. h t d], v[.. h t e] -> y[.. h s e]``, softmax of q k' over t.

    q and k contract d, so k takes the inverse of what q takes; what v takes on e, the result takes.
    The rows of the softmax sum to one, so the result takes a shift of v, and a shift of k adds the
    same number to all logits of a query and is gone. (The row of a query whose mask leaves it no
    key sums to nothing; its result is held to be nobody's concern, as that of padding is.) Where
    several heads of q share one of k and v, their coordinates are the same. Heads do not meet, so
    whole heads may be permuted, all operands' together.
    """

    def passes(self, kind: Kind) -> bool:
        return kind is not Kind.CENTRE

    def flow(self, call: Call) -> Sequence[Flow]:
        for action in call.known.values():
            if set(action.axes) - {-1, -3}:
                raise Stop("the labels vary along the sequence")
        if call.kind is Kind.CENTRE:
            raise Stop("attention reads the value without a norm that would take out the mean")
        if any(-1 not in action.axes for action in call.known.values()):
            return [self._heads(call)]
        whole = Flow()
        if OUT in call.known or (2,) in call.known:
            flow = self._value(call)
            whole = Flow(flow.ports, cells=flow.cells)
        if (0,) in call.known or (1,) in call.known:
            flow = self._shifted(call) if call.kind is Kind.SHIFT else self._pair(call)
            whole = Flow({**whole.ports, **flow.ports}, cells=[*whole.cells, *flow.cells])
        return [whole]

    def _heads(self, call: Call) -> Flow:
        if call.kind is not Kind.PERMUTATION:
            raise Stop("whole heads are acted on")
        if any(-1 in action.axes for action in call.known.values()):
            raise Stop("whole heads are acted on, and the channels in them")
        port, action = next(iter(call.known.items()))
        shared = action.labels if port in ((1,), (2,)) else self._fewer(call, action.labels, (1,))
        each = Action(self._more(call, shared, (1,)), action.power)
        shared = Action(shared, action.power)
        ports = {(0,): each, (1,): shared, (2,): shared, OUT: each}
        mask = align(each, call.shapes[(3,)]) if (3,) in call.shapes else None
        return Flow(ports if mask is None else {**ports, (3,): mask})

    def _shifted(self, call: Call) -> Flow:
        if (0,) in call.known:
            raise Stop("a shift of the queries moves each key's logit by another amount")
        return Flow({(1,): call.known[(1,)]})

    def _value(self, call: Call) -> Flow:
        if OUT in call.known:
            out = call.known[OUT]
            value = Action(self._fewer(call, out.labels, (2,)), out.power)
        else:
            value = call.known[(2,)]
        result = Action(self._more(call, value.labels, (2,)), value.power)
        return Flow(
            {(2,): value, OUT: result}, cells=[value.labels.reshape(-1, value.labels.shape[-1])]
        )

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
        """Labels of the query heads as labels of the heads they share."""
        ratio = self._ratio(call, port)
        return labels[..., ::ratio, :, :] if ratio > 1 and labels.shape[-3] > 1 else labels

    def _more(self, call: Call, labels: torch.Tensor, port: Port) -> torch.Tensor:
        ratio = self._ratio(call, port)
        if ratio > 1 and labels.shape[-3] > 1:
            return labels.repeat_interleave(ratio, dim=-3)
        return labels
