"""Bags of embeddings, as modules make them: what they become, and what is then done to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regauge as rg
from regauge.ir import Graph, astype
from regauge.passes import Context, Prune

MODES = ("sum", "mean", "max")
IDS = torch.randint(0, 200, (6, 5), generator=torch.Generator().manual_seed(0))


class Bags(nn.Module):
    """Bags, and two layers behind them."""

    def __init__(self, mode: str = "sum") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bags = nn.EmbeddingBag(200, 32, mode=mode)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 48))

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.layers(self.bags(ids, per_sample_weights=weights))


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("mode", MODES)
def test_bags_of_a_two_dimensional_input_are_a_look_up_and_a_reduction(mode: str) -> None:
    model = Bags(mode).eval()
    graph = rg.trace(model, (IDS,))
    reduction = "amax" if mode == "max" else mode
    assert ops(graph) == ["embedding", reduction, "linear", "relu", "linear"]
    found = astype(graph, torch.float64).run(IDS)
    torch.testing.assert_close(found, model.double()(IDS), rtol=1e-12, atol=1e-12)


def test_weights_of_what_is_in_a_bag_are_a_product() -> None:
    model, weights = Bags().eval(), torch.rand(IDS.shape)
    graph = rg.trace(model, (IDS, weights))
    assert set(ops(graph)[:4]) == {"embedding", "unsqueeze", "mul", "sum"}
    torch.testing.assert_close(graph.run(IDS, weights), model(IDS, weights))


def test_a_batch_of_any_size() -> None:
    shapes: Any = {"ids": {0: torch.export.Dim("n", min=2, max=64)}, "weights": None}
    model = Bags("mean").eval()
    graph = rg.trace(model, (IDS, None), dynamic_shapes=shapes)
    assert ops(graph)[:2] == ["embedding", "mean"]
    torch.testing.assert_close(graph.run(IDS[:3], None), model(IDS[:3]))


class Padded(Bags):
    """A padding that does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.EmbeddingBag(200, 32, mode="mean", padding_idx=0)


class Told(Bags):
    """Bags of sizes that a run tells."""

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.layers(self.bags(ids.flatten(), weights))


@pytest.mark.parametrize(
    ("make", "inputs"),
    [(Padded, (IDS,)), (Told, (IDS, torch.tensor([0, 3, 4])))],
    ids=["padded", "told"],
)
def test_other_bags_stay_as_they_are(make: type[Bags], inputs: tuple[Any, ...]) -> None:
    model = make().eval()
    graph = rg.trace(model, inputs)
    assert any("embedding_bag" in op for op in ops(graph))
    torch.testing.assert_close(graph.run(*inputs), model(*inputs))


@pytest.mark.parametrize("mode", MODES)
def test_their_tables_get_codes_on_onnx_runtime(mode: str) -> None:
    model = Bags(mode).eval()
    batches = [IDS, IDS.flip(0)]
    art = rg.compile(model, (IDS,), passes="w8a8", calibration=batches, target="onnxruntime")
    tables = [art.graph.value(p) for n, p in art.graph.params.items() if n.startswith("bags")]
    assert any(table.shape == (200, 32) and table.dtype == torch.int8 for table in tables)
    error = (art(IDS) - model(IDS)).norm() / model(IDS).norm()
    assert error < 0.03


def test_their_widths_are_pruned() -> None:
    graph = rg.trace(Bags("mean").eval(), (IDS,))
    step = Prune(0.4, roles=("hidden", "stream"), score="magnitude", recover=False)
    less, _ = step.attempt(graph, Context(inputs=[IDS]))
    (table,) = (p for p in less.params.values() if any(u.op == "embedding" for u in p.users))
    assert int(table.shape[1]) < 32
