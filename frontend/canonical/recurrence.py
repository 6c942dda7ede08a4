"""Recurrent layers: what is made of the input at all times at once is a ``linear``, what steps
through time an op of its own, for each layer and direction.

    lstm, gru, rnn                ->  linear, lstm_states (gru_states, ...), cat of the directions
    lstm_cell, gru_cell, rnn_cell ->  the same for one step

Times come first, as ``[T, B, n]``. States before the first step that are zeros are left out; the
state after the last step is the one at the last time, or at the first if the layer runs backwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Node
from ...ir.graph import Arg
from .rewrite import At, Rules, number, on, operand

_STATES = {
    "lstm": "lstm_states",
    "gru": "gru_states",
    "rnn_tanh": "rnn_tanh_states",
    "rnn_relu": "rnn_relu_states",
}


@dataclass(frozen=True)
class _Direction:
    """One direction of one layer: its gates, its weights, its states before the first step."""

    kind: str
    operands: tuple[Arg, ...]
    reverse: bool

    @classmethod
    def of(
        cls, kind: str, x: Node, weights: tuple[Arg, ...], states: tuple[Arg, ...], at: At,
        *, reverse: bool = False,
    ) -> _Direction:  # fmt: skip
        """From the input ``[T, B, I]`` and its weights, those of the biases perhaps ``None``."""
        inner, outer, inner_bias, outer_bias = weights
        gates = at("linear", x, inner, inner_bias)
        return cls(kind, (gates, outer, outer_bias, *states), reverse)

    def add(self, at: At, op: str) -> Node:
        if self.reverse:
            return at(op, *self.operands, reverse=True)
        return at(op, *self.operands)

    def states(self, at: At) -> Node:
        """The hidden states ``[T, B, H]``."""
        return self.add(at, _STATES[self.kind])

    def last(self, at: At) -> Node:
        """The hidden state ``[B, H]`` after the last step."""
        return at("select", self.states(at), dim=0, index=0 if self.reverse else -1)

    def cell(self, at: At) -> Node:
        """The cell state ``[B, H]`` after the last step."""
        return self.add(at, "lstm_last_cell")


def _is_zero(state: Node) -> bool:
    match state.op:
        case "zeros" | "zeros_like" | "aten.new_zeros.default":
            return True
        case "full":
            return number(state.attrs["fill_value"]) == 0
        case _:
            return False


def _state(state: Arg, at: At, index: int | None = None) -> Arg:
    """A state before the first step, or one of several; nothing if it is zero."""
    if not isinstance(state, Node) or _is_zero(state):
        return None
    return state if index is None else at("select", state, dim=0, index=index)


def _result(node: Node, at: At) -> Node | None:
    """One of the results of a whole recurrent network: all outputs, or the last states."""
    source, index = node.args
    layers = _layers(source, at) if isinstance(source, Node) else None
    if layers is None:
        return None
    output, directions = layers
    if index == 0:
        return output
    parts = tuple(d.last(at) if index == 1 else d.cell(at) for d in directions)
    if len(parts) == 1:
        return at.instead("unsqueeze", parts[0], dim=0)
    return at.instead("stack", parts, dim=0)


def _kind(node: Node) -> str:
    """Which network a node is a whole one of, if it is one."""
    if node.op == "regauge.recurrent_layers.default":
        return node.attrs["kind"]
    kind = node.op.removeprefix("aten.").removesuffix(".input")
    return kind if kind in _STATES and not node.attrs["train"] else ""


def _layers(node: Node, at: At) -> tuple[Node, list[_Direction]] | None:
    """The outputs of the last layer, and all layers' directions; ``None`` for a projected state."""
    kind = _kind(node)
    if not kind:
        return None
    x, given, params = node.args
    a = node.attrs
    given = given if isinstance(given, tuple) else (given,)
    each = 4 if a["has_biases"] else 2
    ways = 2 if a["bidirectional"] else 1
    if len(params) != each * ways * a["num_layers"]:
        return None
    if a["batch_first"]:
        x = at("permute", x, dims=(1, 0, 2))
    found: list[_Direction] = []
    for _ in range(a["num_layers"]):
        outputs: list[Node] = []
        for way in range(ways):
            place = len(found)
            weights = (*params[each * place : each * (place + 1)], None, None)[:4]
            states = tuple(_state(state, at, place) for state in given)
            found.append(_Direction.of(kind, x, weights, states, at, reverse=way == 1))
            outputs.append(found[-1].states(at))
        x = outputs[0] if ways == 1 else at("cat", tuple(outputs), dim=2)
    return at("permute", x, dims=(1, 0, 2)) if a["batch_first"] else x, found


def _cell(node: Node, at: At) -> Node | None:
    """One step of a GRU or of a plain recurrent network."""
    return _step(node, at).last(at)


def _cell_result(node: Node, at: At) -> Node | None:
    """The hidden or the cell state of one step of an LSTM."""
    source, index = node.args
    if not isinstance(source, Node) or source.op != "aten.lstm_cell.default":
        return None
    direction = _step(source, at)
    return direction.last(at) if index == 0 else direction.cell(at)


def _step(node: Node, at: At) -> _Direction:
    """A cell as one step through time."""
    x, given = node.args[:2]
    weights = tuple(operand(node, i) for i in range(2, 6))
    states = tuple(_state(s, at) for s in (given if isinstance(given, tuple) else (given,)))
    name = node.op.removeprefix("aten.").removesuffix("_cell.default")
    return _Direction.of(name, at("unsqueeze", x, dim=0), weights, states, at)


RULES: Rules = {
    **on("getitem", _result, _cell_result),
    **on("aten.gru_cell.default aten.rnn_tanh_cell.default aten.rnn_relu_cell.default", _cell),
}
