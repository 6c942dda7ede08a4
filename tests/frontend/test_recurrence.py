"""Recurrent modules: equal to the eager ones in float64, at any number of times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regauge.backends.onnxruntime import lower
from regauge.frontend import trace
from regauge.ir import Graph, GraphError, astype
from regauge.ir.interpret import execute, flatten
from regauge.ir.recurrence import NAMES
from regauge.passes.manager import difference

KINDS: dict[str, tuple[Callable[..., nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "rnn": (nn.RNN, {}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "batch first, both ways": {"batch_first": True, "bidirectional": True},
    "two layers, both ways": {"num_layers": 2, "bidirectional": True},
}
CELLS = [nn.LSTMCell, nn.GRUCell, nn.RNNCell]


class Net(nn.Module):
    """A recurrent module; gives all that it gives."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        module, more = KINDS[kind]
        self.net = module(6, 5, **more, **options)

    def states(self, batch: int) -> Any:
        count = self.net.num_layers * (2 if self.net.bidirectional else 1)
        state = torch.randn(2, count, batch, 5, generator=torch.Generator().manual_seed(1))
        return (state[0], state[1]) if isinstance(self.net, nn.LSTM) else state[0]

    def forward(self, x: Tensor, states: Any = None) -> Any:
        return self.net(x, states)


class Steps(nn.Module):
    """A cell, three times."""

    def __init__(self, kind: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = kind(6, 5)

    def forward(self, x: Tensor) -> Any:
        state = None
        for part in x.unbind(1):
            state = self.cell(part, state)
        return state


def sample(batch: int = 3, times: int = 4) -> Tensor:
    return torch.randn(batch, times, 6, generator=torch.Generator().manual_seed(2))


def check(
    model: nn.Module, args: tuple[Any, ...], exact_outputs: Callable[..., list[Tensor]]
) -> Graph:
    """The graph, equal to the model in float64."""
    graph = trace(model.eval(), args)
    wide = [value.double() if isinstance(value, Tensor) else value for value in flat(graph, args)]
    found = execute(astype(graph, torch.float64), wide)
    for ours, theirs in zip(found, exact_outputs(model, args), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    return graph


def flat(graph: Graph, args: tuple[Any, ...]) -> list[Any]:
    return flatten(graph, args, {})


def ops_of(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


def check_runs(graph: Graph, args: tuple[Any, ...]) -> None:
    """ONNX Runtime gives in float32 what the graph gives."""
    inputs = flat(graph, args)
    assert difference(lower(graph)(inputs), execute(graph, inputs)) < 1e-6


@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from a state"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_and_direction_is_a_linear_and_one_op(
    kind: str,
    options: dict[str, Any],
    given: bool,
    exact_outputs: Callable[..., list[Tensor]],
) -> None:
    model, x = Net(kind, **options), sample()
    batch = 3 if options.get("batch_first") else 4
    args = (x, model.states(batch)) if given else (x,)
    graph = check(model, args, exact_outputs)
    check_runs(graph, args)
    ops = ops_of(graph)
    directions = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    assert ops["linear"] == directions
    assert sum(ops[name] for name in NAMES) == directions * (2 if kind == "lstm" else 1)
    assert not any(op.startswith("aten.") for op in ops)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_a_layer_of_one_step(
    cell: Callable[[int, int], nn.Module], exact_outputs: Callable[..., list[Tensor]]
) -> None:
    args = (sample(times=3),)
    graph = check(Steps(cell), args, exact_outputs)
    check_runs(graph, args)
    ops = ops_of(graph)
    assert ops["linear"] == 3 and not any(op.startswith("aten.") for op in ops)


def test_a_single_sequence(exact_outputs: Callable[..., list[Tensor]]) -> None:
    args = (sample()[0],)
    graph = check(Net("gru"), args, exact_outputs)
    check_runs(graph, args)
    assert ops_of(graph)["gru_states"] == 1


def test_a_projected_state_stays_pytorchs_own_op(
    exact_outputs: Callable[..., list[Tensor]],
) -> None:
    ops = ops_of(check(Net("lstm", proj_size=3), (sample(),), exact_outputs))
    assert ops["aten.lstm.input"] == 1 and not ops["lstm_states"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_times(kind: str, exact_outputs: Callable[..., list[Tensor]]) -> None:
    model = Net(kind, batch_first=True, bidirectional=True, num_layers=2).eval()
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}
    graph = trace(model, (sample(),), dynamic_shapes={"x": dims})
    assert set(graph.symbols) == {"batch", "time"}
    x = sample(2, 9)
    found = execute(astype(graph, torch.float64), [x.double()])
    for ours, theirs in zip(found, exact_outputs(model, (x,)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    check_runs(graph, (x,))


def test_a_dropout_between_layers_is_gone_in_evaluation() -> None:
    graph = trace(Net("gru", num_layers=2, dropout=0.5).eval(), (sample(),))
    assert {node.op for node in graph.nodes} == {"linear", "gru_states", "select", "stack"}


class Trained(Net):
    """Stays in training mode behind our back."""

    def forward(self, x: Tensor, states: Any = None) -> Any:
        weights = tuple(self.net.parameters())
        return torch.gru(x, torch.zeros(2, 4, 5), weights, True, 2, 0.5, True, False, False)


def test_a_dropout_that_stays_is_refused() -> None:
    with pytest.raises(GraphError, match="drops weights at random"):
        trace(Trained("gru", num_layers=2).eval(), (sample(),))
