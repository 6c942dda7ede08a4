"""Symmetries of recurrent layers: units change places and signs, gates do not come apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import filled

from regauge.ir import Graph
from regauge.ir.gauge import Blocked, Region, apply, classes, random_element, transport
from regauge.ir.interpret import execute
from regauge.ir.laws import Kind
from regauge.ir.recurrence import (
    gru_states,
    lstm_last_cell,
    lstm_states,
    rnn_relu_states,
    rnn_tanh_states,
)

# Two directions whose outputs and last states are read, in a stream of twice the width.
BOTH_WAYS = """
def graph(x: f64[5, 2, 6], *, e: f64[6, 6], w: f64[{n}, 6], u: f64[{n}, 4], b: f64[{n}],
          v: f64[{n}, 6], t: f64[{n}, 4], o: f64[3, 8], p: f64[3, 4]):
    a: f64[5, 2, 6] = linear(x, e)
    f: f64[5, 2, {n}] = linear(a, w, b)
    g: f64[5, 2, {n}] = linear(a, v)
    h: f64[5, 2, 4] = {op}(f, u, b)
    k: f64[5, 2, 4] = {op}(g, t, reverse=True)
    c: f64[5, 2, 8] = cat((h, k), dim=2)
    y: f64[5, 2, 3] = linear(c, o)
    s: f64[2, 4] = select(h, dim=0, index=4)
    z: f64[2, 3] = linear(s, p)
    return y, z
"""
# Two steps of a cell that starts from a state that is computed.
STEPS = """
def graph(x: f64[1, 2, 6], i: f64[2, 6], *, w: f64[16, 6], u: f64[16, 4], m: f64[4, 6],
          n: f64[4, 6], o: f64[3, 4]):
    h: f64[2, 4] = linear(i, m)
    c: f64[2, 4] = linear(i, n)
    f: f64[1, 2, 16] = linear(x, w)
    a: f64[1, 2, 4] = lstm_states(f, u, None, h, c)
    b: f64[2, 4] = select(a, dim=0, index=0)
    d: f64[2, 4] = lstm_last_cell(f, u, None, h, c)
    e: f64[1, 2, 4] = lstm_states(f, u, None, b, d)
    y: f64[1, 2, 3] = linear(e, o)
    return y
"""
WIDTHS = {"lstm_states": 16, "gru_states": 12, "rnn_tanh_states": 4, "rnn_relu_states": 4}


def keeps(graph: Graph, inputs: list[torch.Tensor], region: Region) -> None:
    """A random element changes weights and no result."""
    before = dict(graph.store.tensors)
    wanted = execute(graph, inputs)
    apply(graph, region, random_element(region, torch.Generator().manual_seed(1)))
    graph.verify()
    torch.testing.assert_close(execute(graph, inputs), wanted, rtol=1e-10, atol=1e-10)
    changed = [n for n in graph.params if graph.store.tensors[n] is not before.get(n)]
    assert len(changed) > 1, "the element did nothing: the test could not fail"


@pytest.mark.parametrize("op", WIDTHS)
@pytest.mark.parametrize("kind", [Kind.PERMUTATION, Kind.SIGN, Kind.SCALE])
def test_units_pass_through_both_directions_and_the_last_state(op: str, kind: Kind) -> None:
    graph, inputs = filled(BOTH_WAYS.format(op=op, n=WIDTHS[op]))
    region = transport(graph, graph["h"], kind)
    passes = {"rnn_relu_states": (Kind.PERMUTATION, Kind.SCALE)}.get(
        op, (Kind.PERMUTATION, Kind.SIGN)
    )
    if kind not in passes:
        text = f"the functions of the gates take no {kind.value}"
        assert isinstance(region, Blocked) and region.reason == text
        return
    assert isinstance(region, Region) and region.size == 4
    axes = [action.axes for action in region.actions_of(graph["h"], (1,))]
    assert axes == [(-2,), (-1,)]  # the rows of W and its columns
    assert [action.axes for action in region.actions_of(graph["y"], (1,))] == [(-1,)]
    keeps(graph, inputs, region)


@pytest.mark.parametrize("kind", [Kind.PERMUTATION, Kind.SIGN])
def test_units_pass_through_steps_that_share_their_weights(kind: Kind) -> None:
    graph, inputs = filled(STEPS)
    region = transport(graph, graph["e"], kind)
    assert isinstance(region, Region)
    assert {"h", "c", "b", "d", "f"} < {node.name for node in region.actions}
    keeps(graph, inputs, region)


@pytest.mark.parametrize("kind", [Kind.SCALE, Kind.ORTHOGONAL, Kind.LINEAR])
def test_the_input_takes_any_map(kind: Kind) -> None:
    graph, inputs = filled(BOTH_WAYS.format(op="lstm_states", n=16))
    region = transport(graph, graph["a"], kind)
    assert isinstance(region, Region)
    assert {node.name for node in region.parameters} == {"e", "w", "v"}
    keeps(graph, inputs, region)


def test_a_shift_of_the_input_goes_to_the_bias() -> None:
    graph, inputs = filled(BOTH_WAYS.format(op="gru_states", n=12))
    region = transport(graph, graph["a"], Kind.SHIFT)
    assert isinstance(region, Region)
    keeps(graph, inputs, region)
    assert graph["g"].operand(2) is not None  # which had none


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        ("f", Kind.PERMUTATION, "the gates of a unit change places together"),
        ("f", Kind.ORTHOGONAL, "the functions of the gates take no orthogonal"),
        ("h", Kind.LINEAR, "the functions of the gates take no linear"),
        ("h", Kind.SHIFT, "the functions of the gates take no shift"),
        ("h", Kind.CENTRE, "the functions of the gates take no centre"),
    ],
)
def test_gates_do_not_mix(value: str, kind: Kind, reason: str) -> None:
    graph, _ = filled(BOTH_WAYS.format(op="lstm_states", n=16))
    region = transport(graph, graph[value], kind)
    assert isinstance(region, Blocked) and region.reason == reason


def test_a_sign_of_a_gate_is_held_but_for_those_of_the_odd_block() -> None:
    graph, inputs = filled(BOTH_WAYS.format(op="lstm_states", n=16))
    region = transport(graph, graph["f"], Kind.SIGN)
    assert isinstance(region, Region)
    assert region.fixed.tolist() == [True] * 8 + [False] * 4 + [True] * 4  # i, f, g, o
    keeps(graph, inputs, region)


def test_a_weight_that_is_computed_takes_nothing() -> None:
    text = BOTH_WAYS.format(op="lstm_states", n=16).replace("lstm_states(f, u, b)",
                                                            "lstm_states(f, r, b)")  # fmt: skip
    graph, _ = filled(text.replace("    h:", "    r: f64[16, 4] = tanh(u)\n    h:"))
    region = transport(graph, graph["h"], Kind.PERMUTATION)
    assert isinstance(region, Blocked) and region.reason == "its weight is no parameter"


def test_the_units_of_a_layer_are_a_class() -> None:
    graph, _ = filled(BOTH_WAYS.format(op="lstm_states", n=16))
    found = {site.value.name: site.groups for site in classes(graph)}
    assert found["h"] == found["k"] == (Kind.PERMUTATION,)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("op", "gates", "states"),
    [
        (lstm_states, 4, 2),
        (lstm_last_cell, 4, 2),
        (gru_states, 3, 1),
        (rnn_tanh_states, 1, 1),
        (rnn_relu_states, 1, 1),
    ],
)
def test_gradients_are_those_of_the_steps(
    op: Any, gates: int, states: int, begun: bool, reverse: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2, gates * 2), (gates * 2, 2), (gates * 2,), *[(2, 2)] * (states * begun)]
    given = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for tensor in given:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: op(*inputs, reverse=reverse), given)
