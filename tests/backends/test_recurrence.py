"""Recurrent layers in ONNX: its own ops over a linear map, a Scan over anything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import pytest

from regauge.ir import Graph
from regauge.ir.recurrence import NAMES
from regauge.passes import Context, Quantize

Make: TypeAlias = Callable[..., Graph]
Check: TypeAlias = Callable[..., None]
Kinds: TypeAlias = Callable[[Graph], Counter[str]]

WIDTHS: dict[str, int] = dict(zip(NAMES, (16, 12, 4, 4, 16), strict=True))
ONNX: dict[str, str] = dict(zip(NAMES, ("LSTM", "GRU", "RNN", "RNN", "LSTM"), strict=True))
# operands after the gates and the weight
OPERANDS = {
    "bare": "",
    "bias": ", b",
    "states": ", b, h{cell}",
    "backwards": ", None, h{cell}, reverse=True",
}


def head(op: str) -> str:
    n = WIDTHS[op]
    states = "h: f32[n, 4], c: f32[n, 4]"
    return f"x: f32[t, n, 6], {states}, *, w: f32[{n}, 6], u: f32[{n}, 4], b: f32[{n}]"


def layer(op: str, operands: str, gates: str = "g") -> str:
    cell = ", c" if op.startswith("lstm") else ""
    return f"y = {op}({gates}, u{operands.format(cell=cell)})"


@pytest.mark.parametrize("operands", OPERANDS.values(), ids=OPERANDS)
@pytest.mark.parametrize("op", NAMES)
def test_a_linear_map_is_part_of_the_layer(
    op: str, operands: str, graph_of: Make, check_runs: Check, kinds: Kinds
) -> None:
    graph = graph_of(head(op), "g = linear(x, w, b)", layer(op, operands))
    check_runs(graph)
    count = kinds(graph)
    assert count[ONNX[op]] == 1 and not count["MatMul"] and not count["Scan"]


@pytest.mark.parametrize("operands", OPERANDS.values(), ids=OPERANDS)
@pytest.mark.parametrize("op", NAMES)
def test_other_gates_are_scanned(
    op: str, operands: str, graph_of: Make, check_runs: Check, kinds: Kinds
) -> None:
    graph = graph_of(head(op), "f = linear(x, w)", "g = tanh(f)", layer(op, operands))
    check_runs(graph)
    assert kinds(graph)["Scan"] == 1 and not kinds(graph)[ONNX[op]]


def test_a_linear_map_that_others_read_is_scanned(
    graph_of: Make, check_runs: Check, kinds: Kinds
) -> None:
    graph = graph_of(
        head("gru_states"), "g = linear(x, w)", "s = gru_states(g, u)", "m = mean(g)",
        "y = add(s, m)",
    )  # fmt: skip
    check_runs(graph)
    assert kinds(graph)["Scan"] == kinds(graph)["MatMul"] == 1


def test_the_states_and_the_last_cell_are_one_layer(
    graph_of: Make, check_runs: Check, kinds: Kinds
) -> None:
    graph = graph_of(
        head("lstm_states"), "g = linear(x, w, b)", "s = lstm_states(g, u, b)",
        "l = lstm_last_cell(g, u, b)", "y = add(s, l)",
    )  # fmt: skip
    check_runs(graph)
    assert kinds(graph)["LSTM"] == 1


@pytest.mark.parametrize("activations", ["static", "dynamic", None])
def test_quantized_layers(
    activations: str | None,
    graph_of: Make,
    inputs_of: Callable[..., list[object]],
    check_runs: Check,
    kinds: Kinds,
) -> None:
    graph = graph_of(
        head("lstm_states"), "g = linear(x, w, b)", "s = lstm_states(g, u, b, h, c)",
        "l = lstm_last_cell(g, u, b, h, c)", "y = add(s, l)",
    )  # fmt: skip
    inputs = inputs_of(graph)
    step = Quantize(activations, rounding="nearest", correct_bias=False, least=16)  # type: ignore[arg-type]
    new, remarks = step(graph, Context(inputs=inputs, calibration=[inputs]))
    assert all(remark.applied for remark in remarks)
    assert {name for name in new.params if name.endswith("_codes")} == {"w_codes", "u_codes"}
    # A value that lies between two codes may become either.
    tolerance = 2e-5 if activations is None else 0.02
    check_runs(new, rtol=tolerance, atol=tolerance)
    assert kinds(new)["LSTM" if activations is None else "Scan"] == 1
