"""Recurrent layers.

Where the gates are a linear map of the input, a layer is ONNX's LSTM, GRU or RNN, which has that
map in it; else it is a Scan over what computes the gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ....ir import Node, TargetError
from ....ir.graph import Arg
from ....ir.recurrence import NAMES
from ..builder import Builder
from .quantized import floats_of
from .scan import scan

_Linear: TypeAlias = "tuple[Node, tuple[Any, ...], Node | None]"
_FLOAT = torch.float32  # ONNX Runtime's kernels know no other


@dataclass(frozen=True)
class _Kind:
    """What ONNX calls a layer, which of our blocks of gates its blocks are, its attributes."""

    op: str
    order: tuple[int, ...]
    attrs: dict[str, int | list[str]]


_KINDS = {
    "lstm_states": _Kind("LSTM", (0, 3, 1, 2), {}),
    "lstm_last_cell": _Kind("LSTM", (0, 3, 1, 2), {}),
    "gru_states": _Kind("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "rnn_tanh_states": _Kind("RNN", (0,), {"activations": ["Tanh"]}),
    "rnn_relu_states": _Kind("RNN", (0,), {"activations": ["Relu"]}),
}


def states(
    b: Builder,
    node: Node,
    gates: Node,
    weight: Node,
    bias: Node | None = None,
    hidden: Arg = None,
    cell: Arg = None,
    reverse: bool = False,
) -> str:
    """The hidden states of all times, or the cell state after the last."""
    last = node.op == "lstm_last_cell"
    kind = _KINDS[node.op]
    # The two results of an LSTM are two nodes of ours and one of ONNX.
    key = (kind.op, gates, weight, bias, hidden, cell, reverse)
    initial = [hidden, cell] if kind.op == "LSTM" else [hidden]
    source = _linear(gates)
    if source is None or node.dtype != _FLOAT or _misread(b, node, source[0], key):
        found = b.memo(key, lambda: _scan(b, node, gates, weight, bias, initial, reverse))
        return found[1 if last else -1]
    found = b.memo(key, lambda: _layer(b, kind, source, weight, bias, initial, reverse))
    return b.op("Squeeze", found[2], b.ints(0)) if last else b.op("Squeeze", found[0], b.ints(1))


def _misread(b: Builder, node: Node, x: Node, key: tuple[object, ...]) -> bool:
    """Whether OpenVINO would compute a layer wrongly: of several that read one value, as two
    directions do, its CPU plugin may get all but the first wrong. A Scan of an RNN is no help."""
    if b.dialect.runtime or b.memo(("layer", x), lambda: key) == key:
        return False
    if key[0] == "RNN":
        raise TargetError(
            "OpenVINO computes RNN layers wrongly of which several read one value",
            where=node.at,
            do="take an LSTM or a GRU, or compile for target='onnxruntime'",
        )
    return True


def _linear(gates: Node) -> _Linear | None:
    """The input of a linear map that nobody else reads, its weight or its codes, and its bias."""
    if any(user.op not in NAMES for user in gates.users) or len(gates.args[0].shape) != 3:
        return None
    match gates.op:
        case "linear":
            return gates.args[0], (gates.args[1],), gates.operand(2)
        case "ort.linear_codes":
            return gates.args[0], gates.args[1:4], gates.operand(4)
        case _:
            return None


def _layer(
    b: Builder,
    kind: _Kind,
    source: _Linear,
    weight: Node,
    bias: Node | None,
    initial: Sequence[Arg],
    reverse: bool,
) -> tuple[str, ...]:
    x, inner, inner_bias = source
    gates, width = len(kind.order) * int(weight.shape[1]), int(weight.shape[1])
    zero = b.constant([[0.0] * gates], _FLOAT)
    biases = [
        _ordered(b, kind, width, part) if part is not None else zero for part in (inner_bias, bias)
    ]
    return b.ops(
        kind.op,
        b.tensor(x),
        _ordered(b, kind, width, *inner),
        _ordered(b, kind, width, weight),
        "" if inner_bias is None and bias is None else b.op("Concat", *biases, axis=1),
        "",  # all sequences have the same length
        *(b.op("Unsqueeze", b.tensor(s), b.ints(0)) if s is not None else "" for s in initial),
        count=1 + len(initial),
        hidden_size=width,
        direction="reverse" if reverse else "forward",
        **kind.attrs,
    )


def _ordered(b: Builder, kind: _Kind, width: int, value: Node, *unit: Any) -> str:
    """A weight or a bias with its blocks in ONNX's order, as ``[1, G H, ...]``.

    After codes come their scale and zero point. Where the value is no parameter this is computed;
    the runtime folds it at load if it is constant.
    """
    rows = [row for gate in kind.order for row in range(gate * width, (gate + 1) * width)]
    if value.op == "param" and not unit:
        return b.parameter(value, kind.op, lambda tensor: tensor[rows][None])
    name = floats_of(b, value, *unit) if unit else b.tensor(value)
    return b.op("Unsqueeze", b.op("Gather", name, b.ints(*rows), axis=0), b.ints(0))


def _scan(
    b: Builder,
    node: Node,
    gates: Node,
    weight: Node,
    bias: Node | None,
    initial: Sequence[Arg],
    reverse: bool,
) -> tuple[str, ...]:
    """The last states, and the hidden states of all times."""
    x, matrix, shift = b.tensor(gates), b.tensor(weight), b.tensor(bias)
    width = b.ints(int(weight.shape[1]))

    def zeros() -> str:
        shape = b.op("Concat", b.op("Shape", x, start=1, end=2), width, axis=0)
        return b.op("Expand", b.constant(0, node.dtype), shape)

    def step(b: Builder, states: list[str], inputs: list[str]) -> list[str]:
        product = b.op("Gemm", states[0], matrix, shift, transB=1)
        return _STEPS[node.op](b, inputs[0], product, states)

    given = [zeros() if state is None else b.tensor(state) for state in initial]
    states = [(name, node.dtype) for name in given]
    return scan(b, states, [(x, node.dtype)], step, reverse=reverse)


def _split(b: Builder, value: str, count: int) -> tuple[str, ...]:
    return b.ops("Split", value, count=count, axis=-1, num_outputs=count)


def _step_lstm(b: Builder, x: str, product: str, states: list[str]) -> list[str]:
    i, f, g, o = _split(b, b.op("Add", x, product), 4)
    kept = b.op("Mul", b.op("Sigmoid", f), states[1])
    cell = b.op("Add", kept, b.op("Mul", b.op("Sigmoid", i), b.op("Tanh", g)))
    return [b.op("Mul", b.op("Sigmoid", o), b.op("Tanh", cell)), cell]


def _step_gru(b: Builder, x: str, product: str, states: list[str]) -> list[str]:
    (xr, xz, xn), (hr, hz, hn) = _split(b, x, 3), _split(b, product, 3)
    reset = b.op("Sigmoid", b.op("Add", xr, hr))
    update = b.op("Sigmoid", b.op("Add", xz, hz))
    new = b.op("Tanh", b.op("Add", xn, b.op("Mul", reset, hn)))
    moved = b.op("Mul", update, b.op("Sub", states[0], new))
    return [b.op("Add", new, moved)]


def _step_tanh(b: Builder, x: str, product: str, states: list[str]) -> list[str]:
    return [b.op("Tanh", b.op("Add", x, product))]


def _step_relu(b: Builder, x: str, product: str, states: list[str]) -> list[str]:
    return [b.op("Relu", b.op("Add", x, product))]


_STEPS = {
    "lstm_states": _step_lstm,
    "lstm_last_cell": _step_lstm,
    "gru_states": _step_gru,
    "rnn_tanh_states": _step_tanh,
    "rnn_relu_states": _step_relu,
}

LOWERINGS = dict.fromkeys(NAMES, states)
