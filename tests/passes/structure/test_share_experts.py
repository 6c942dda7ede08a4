"""Mixtures whose experts share a factor: exact at full rank, the best below, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import filled
from small_models import ZooModel

import regauge as rg
from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, InputError, SiteError, astype, parse
from regauge.ir.interpret import execute, flatten
from regauge.passes import Context, ShareExperts
from regauge.passes.manager import difference
from regauge.passes.structure.factors.share_experts import Side

MIXTURE = """
def graph(x: f64[60, 12], e: i32[3], *, w: f64[3, 12, 10]):
    y: f64[60, 10] = grouped_mm(x, w, e)
    return y
"""
sides = pytest.mark.parametrize("side", ["inputs", "outputs"])


def mixture() -> tuple[Graph, Context]:
    graph, random = parse(MIXTURE), torch.Generator().manual_seed(0)
    graph.store["w"] = torch.randn(3, 12, 10, generator=random, dtype=torch.float64)
    spread = torch.logspace(0, -2, 12, dtype=torch.float64)
    x = torch.randn(60, 12, generator=random, dtype=torch.float64) * spread
    inputs = [x, torch.tensor([20, 50, 60], dtype=torch.int32)]
    return graph, Context(inputs=inputs, calibration=[inputs])


def lost(step: ShareExperts) -> float:
    graph, context = mixture()
    found = step(graph, context)[0]
    return difference(execute(found, context.inputs), execute(graph, context.inputs))


@sides
@pytest.mark.parametrize("whitened", [False, True])
def test_at_full_rank_nothing_changes(side: Side, whitened: bool) -> None:
    assert lost(ShareExperts(rank=99, side=side, whitened=whitened, larger=True)) < 1e-9
    assert lost(ShareExperts(rank=9, side=side, whitened=whitened, larger=True)) > 1e-4


@sides
def test_what_is_shared_is_found_exactly(side: Side) -> None:
    graph, context = mixture()
    random = torch.Generator().manual_seed(1)
    own = torch.randn(3, 4, 10, generator=random, dtype=torch.float64)
    common = torch.randn(12, 4, generator=random, dtype=torch.float64)
    if side == "outputs":
        own, common = torch.randn(3, 12, 4, generator=random, dtype=torch.float64), own[0]
    graph.store["w"] = common @ own if side == "inputs" else own @ common
    found, remarks = ShareExperts(rank=4)(graph, context)
    assert remarks[0].data["side"] == side
    wanted = execute(graph, context.inputs)
    torch.testing.assert_close(execute(found, context.inputs), wanted, rtol=1e-9, atol=1e-9)
    count = sum(tensor.numel() for tensor in (found.value(p) for p in found.params.values()))
    assert count == remarks[0].data["parameters"] == 4 * (12 + 30 if side == "inputs" else 10 + 36)


def test_shared_outputs_are_the_truncated_svd_of_all_results() -> None:
    """All results, one below the other, in the best subspace of rank r: Eckart and Young."""
    graph, context = mixture()
    found, _ = ShareExperts(rank=5, side="outputs", damping=0.0)(graph, context)
    wanted = execute(graph, context.inputs)[0]
    tail = torch.linalg.svdvals(wanted)[5:].norm()
    torch.testing.assert_close((execute(found, context.inputs)[0] - wanted).norm(), tail)


@sides
def test_data_tell_what_counts(side: Side) -> None:
    found = [lost(ShareExperts(rank=5, side=side, whitened=w)) for w in (True, False)]
    assert found[0] < 0.9 * found[1]


@sides
def test_one_factor_for_all_loses_less_than_one_for_each(side: Side) -> None:
    """At equal parameters, of experts that have most in common."""
    graph, context = mixture()
    random = torch.Generator().manual_seed(2)
    rest = torch.randn(3, 12, 10, generator=random, dtype=torch.float64)
    shared = torch.randn(12, 10, generator=random, dtype=torch.float64)
    graph.store["w"] = shared + 0.05 * rest
    step = ShareExperts(remove=0.4, side=side, whitened=False)
    found, remarks = step(graph, context)
    rank = int(0.6 * 360 / (3 * 22))
    left, values, right = torch.linalg.svd(graph.store["w"], full_matrices=False)
    alone = (left[..., :rank] * values[:, None, :rank]) @ right[:, :rank]
    error = (alone - graph.store["w"]).square().sum() / graph.store["w"].square().sum()
    assert remarks[0].data["lost"] < float(error)
    assert found["y"].shape == (60, 10)


def test_a_traced_mixture_runs_on_onnx_runtime(zoo_model: Callable[[str], ZooModel]) -> None:
    zoo = zoo_model("mixtral")
    graph = rg.trace(zoo.model, zoo.args, zoo.kwargs)
    inputs = flatten(graph, zoo.args, zoo.kwargs)
    context = Context(inputs=inputs, calibration=[inputs])
    found, remarks = ShareExperts(remove=0.3)(graph, context)
    assert len([r for r in remarks if r.applied]) == 4
    torch.testing.assert_close(
        lower(found)(inputs)[0], execute(found, inputs)[0], rtol=1e-3, atol=1e-4
    )
    double = astype(graph, torch.float64)
    whole, _ = ShareExperts(rank=99, larger=True)(double, context)
    assert difference(execute(whole, inputs), execute(double, inputs)) < 1e-9


def test_nothing_grows_unless_that_is_asked_for() -> None:
    graph, context = mixture()
    with pytest.raises(SiteError, match="a common factor takes more parameters than its 360"):
        ShareExperts(rank=12)(graph, context)


def test_what_would_leave_no_factor_is_refused_with_the_most_that_can_go() -> None:
    graph, context = mixture()
    with pytest.raises(InputError, match="of rank 1 a common factor takes") as raised:
        ShareExperts(0.99)(graph, context)
    most = float(raised.value.do.partition("=")[2].partition(",")[0])
    _, (remark,) = ShareExperts(most)(graph, context)
    assert "rank 1" in remark.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remove": 1.0}, "not the part of a network"),
        ({"rank": 0}, "rank=0 is not"),
        ({"side": "luck"}, "share no 'luck'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ShareExperts(**options)


@pytest.mark.parametrize("name", ["y", "w"])
def test_a_mixture_that_is_protected_stays(name: str) -> None:
    graph, context = mixture()
    same, (remark,) = ShareExperts(rank=4, protect=(name,)).attempt(graph, context)
    assert remark.text == f"{name} is protected" and str(same) == str(graph)


def test_experts_that_all_rows_go_through_are_told_to_be_none() -> None:
    graph, inputs = filled("""
        def graph(x: f64[3, 8, 6], *, w: f64[3, 6, 5]):
            y: f64[3, 8, 5] = matmul(x, w)
            return y
        """)
    with pytest.raises(SiteError, match="no rows are multiplied by matrices of the experts"):
        ShareExperts(whitened=False)(graph, Context(inputs=inputs))
