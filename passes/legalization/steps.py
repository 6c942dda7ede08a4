"""Recurrent layers (``ir.recurrence``) written out, one step behind the other.

    lstm:  c = sigmoid(f) c + sigmoid(i) tanh(g),  h = sigmoid(o) tanh(c),  i, f, g, o = x + W h + b
    gru:   n = tanh(x_n + sigmoid(r) (W_n h + b_n)),  h = n + sigmoid(z) (h - n)
    rnn:   h = tanh(x + W h + b),  or relu

The number of steps must be known. A first state that is not given is zeros, of which nothing is
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ...ir import Node
from .writing import Apart, Ops


def lstm(
    o: Ops,
    node: Node,
    gates: Node,
    weight: Node,
    bias: Node | None = None,
    hidden: Node | None = None,
    cell: Node | None = None,
    reverse: bool = False,
) -> Node:
    """The hidden states, or the last cell state."""
    h, c, states = hidden, cell, list[Node]()
    for given in _times(o, gates, reverse):
        i, f, g, out = _parts(o, _sum(o, given, _kept(o, weight, bias, h)), 4)
        new = o.mul(o.sigmoid(i), o.tanh(g))
        c = new if c is None else o.add(o.mul(o.sigmoid(f), c), new)
        h = o.mul(o.sigmoid(out), o.tanh(c))
        states.append(h)
    if node.op == "lstm_states":
        return _of_all_times(o, states, reverse)
    assert c is not None  # no sequence is without a step
    return c


def gru(
    o: Ops,
    node: Node,
    gates: Node,
    weight: Node,
    bias: Node | None = None,
    hidden: Node | None = None,
    reverse: bool = False,
) -> Node:
    h, states = hidden, list[Node]()
    for given in _times(o, gates, reverse):
        kept = _kept(o, weight, bias, h)
        r, z, n = _parts(o, given, 3)
        of_r, of_z, of_n = (None,) * 3 if kept is None else _parts(o, kept, 3)
        reset, update = o.sigmoid(_sum(o, r, of_r)), o.sigmoid(_sum(o, z, of_z))
        new = o.tanh(n if of_n is None else o.add(n, o.mul(reset, of_n)))
        if h is None:
            h = o.sub(new, o.mul(update, new))
        else:
            h = o.add(new, o.mul(update, o.sub(h, new)))
        states.append(h)
    return _of_all_times(o, states, reverse)


def rnn(
    o: Ops,
    node: Node,
    gates: Node,
    weight: Node,
    bias: Node | None = None,
    hidden: Node | None = None,
    reverse: bool = False,
) -> Node:
    h, states = hidden, list[Node]()
    function = o.tanh if node.op == "rnn_tanh_states" else o.relu
    for given in _times(o, gates, reverse):
        h = function(_sum(o, given, _kept(o, weight, bias, h)))
        states.append(h)
    return _of_all_times(o, states, reverse)


def _times(o: Ops, gates: Node, reverse: bool) -> Iterator[Node]:
    """What each step is given, in the order of the steps."""
    count = gates.shape[0]
    if not isinstance(count, int):
        raise Apart("the number of its steps varies")
    for t in reversed(range(count)) if reverse else range(count):
        yield o.select(gates, dim=0, index=t)


def _of_all_times(o: Ops, states: Sequence[Node], reverse: bool) -> Node:
    return o.stack(tuple(reversed(states) if reverse else states), dim=0)


def _kept(o: Ops, weight: Node, bias: Node | None, h: Node | None) -> Node | None:
    """What a step makes of the state before it."""
    return bias if h is None else o.linear(h, weight, bias)


def _sum(o: Ops, given: Node, kept: Node | None) -> Node:
    return given if kept is None else o.add(given, kept)


def _parts(o: Ops, value: Node, count: int) -> list[Node]:
    """The blocks of the last axis; those of a parameter are parameters."""
    if value.op == "param":
        blocks = o.graph.value(value).chunk(count, -1)
        return [o.graph.param(f"{value.name}_{i}", block) for i, block in enumerate(blocks)]
    size = int(value.shape[-1]) // count
    ends = range(size, (count + 1) * size, size)
    return [o.slice(value, dim=-1, start=end - size, end=end) for end in ends]


STEPS: Mapping[str, Callable[..., Node]] = {
    "lstm_states": lstm,
    "lstm_last_cell": lstm,
    "gru_states": gru,
    "rnn_tanh_states": rnn,
    "rnn_relu_states": rnn,
}
