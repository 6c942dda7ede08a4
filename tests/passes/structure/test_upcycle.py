"""Dense networks made mixtures: equal at the start, and only with virtual groups."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import ZooModel
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.digits import DigitsViT

import regauge as rg
from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, InputError, SiteError, astype
from regauge.ir.interpret import execute, flatten
from regauge.passes import Context, Promise, Upcycle, UsageScore, apply
from regauge.passes.manager import difference
from regauge.passes.structure.experts.mixtures import mixtures

GRID = [
    (copies, shards, active)
    for copies in (1, 2, 4)
    for shards in (1, 2, 4)
    for active in range(shards, copies * shards + 1, shards)
    if copies * shards > 1
]


@functools.cache
def digits() -> tuple[Graph, tuple[Any, ...]]:
    torch.manual_seed(0)
    model = DigitsViT(width=16, depth=2, heads=2).eval()
    images = torch.randn(3, 1, 16, 16)
    return astype(rg.trace(model, (images,)), torch.float64), (images.double(),)


def text(zoo: ZooModel) -> tuple[Graph, tuple[Any, ...]]:
    graph = rg.trace(zoo.model, zoo.args, zoo.kwargs)
    return astype(graph, torch.float64), tuple(flatten(graph, zoo.args, zoo.kwargs))


@pytest.mark.parametrize(("copies", "shards", "active"), GRID)
def test_a_vision_transformer_gives_what_it_gave(copies: int, shards: int, active: int) -> None:
    graph, inputs = digits()
    mixed, remarks = Upcycle(copies, shards, active)(graph)
    assert [r.data for r in remarks if r.applied] == [
        {"experts": copies * shards, "active": active}
    ] * 2
    assert difference(execute(mixed, inputs), execute(graph, inputs)) < 1e-9
    found = mixtures(mixed)[0]
    assert [(m.count, m.active) for m in found] == [(copies * shards, active)] * 2


@pytest.mark.parametrize(("copies", "shards", "active"), [(4, 1, 2), (2, 2, 2), (3, 4, 8)])
def test_a_decoder_gives_what_it_gave(
    zoo_model: Callable[[str], ZooModel], copies: int, shards: int, active: int
) -> None:
    graph, inputs = text(zoo_model("llama"))
    mixed, _ = Upcycle(copies, shards, active)(graph)
    assert difference(execute(mixed, inputs), execute(graph, inputs)) < 1e-9
    single = astype(mixed, torch.float32)
    torch.testing.assert_close(
        lower(single)(inputs)[0], execute(single, inputs)[0], rtol=1e-3, atol=1e-4
    )


def test_a_router_without_virtual_groups_gives_something_else() -> None:
    graph, inputs = digits()
    mixed, _ = Upcycle(4, 2)(graph)
    for mixture in mixtures(mixed)[0]:
        router = mixture.router.args[1].name
        mixed.store[router] = torch.randn_like(mixed.store[router])
    assert difference(execute(mixed, inputs), execute(graph, inputs)) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("copies", "shards"), [(64, 4), (512, 2)])
def test_many_experts_in_half_precision(dtype: torch.dtype, copies: int, shards: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    x = torch.randn(300, 64)
    graph = astype(rg.trace(model, (x,)), dtype)
    mixed, _ = Upcycle(copies, shards)(graph)
    found, wanted = (execute(g, [x.to(dtype)])[0].double() for g in (mixed, graph))
    assert difference([found], [wanted]) < 2 * torch.finfo(dtype).eps  # sums of other parts
    assert len(mixtures(mixed)[0]) == 1


def test_rows_take_different_copies() -> None:
    graph, inputs = digits()
    mixed, _ = Upcycle(4, 2)(graph)
    context = Context(inputs=inputs, calibration=[inputs])
    for usage in UsageScore().of(mixed, mixtures(mixed)[0], context):
        assert bool((usage > 0).all())
        assert torch.equal(usage[::2], usage[1::2])  # both shards of a copy


def test_each_expert_may_change_alone() -> None:
    graph, inputs = digits()
    mixed, _ = Upcycle(2, 2)(graph)
    stack = mixed.store["linear_2_experts"].clone()
    stack[3] = torch.randn_like(stack[3])
    mixed.store["linear_2_experts"] = stack
    assert difference(execute(mixed, inputs), execute(graph, inputs)) > 1e-3


def test_the_manager_proves_it() -> None:
    graph, inputs = digits()
    _, reports = apply(graph, (Upcycle(2, 2),), Context(inputs=inputs))
    assert reports[0].promise == Promise.EXACT.value
    assert reports[0].damage < 1e-9


def test_sizes_may_be_symbolic() -> None:
    torch.manual_seed(0)
    rows = torch.export.Dim("rows", min=2, max=64)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)).eval()
    columns = torch.export.Dim("columns", min=2, max=64)
    for sizes in ({0: rows}, {0: rows, 1: columns}):
        graph = rg.trace(model, (torch.randn(4, 3, 6),), dynamic_shapes=(sizes,))
        mixed, _ = Upcycle(2, 4)(graph)
        x = torch.randn(9, 3 + 2 * len(sizes) - 2, 6)
        torch.testing.assert_close(execute(mixed, [x]), execute(graph, [x]))


class _Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(6, 8), nn.Linear(8, 6), nn.RMSNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(F.gelu(self.up(x))))


class _TwoReaders(_Normed):
    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.up(x))
        return self.down(hidden) + self.down(2 * hidden)


class _TwoSources(_Normed):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x) * self.up(x + 1))


class _ReadElsewhere(_Normed):
    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.up(x))
        return self.down(hidden) + hidden.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_Normed, "does not act neuron by neuron"),
        (_TwoReaders, "2 layers read the neurons"),
        (_TwoSources, "do not read one value"),
        (_ReadElsewhere, "mean"),
        (lambda: nn.Linear(6, 6), "the value is an output"),
        (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)), "9 hidden neurons"),
    ],
)
def test_what_is_no_such_network_stays(make: Callable[[], nn.Module], says: str) -> None:
    torch.manual_seed(0)
    graph = rg.trace(make().eval(), (torch.randn(4, 6),))
    with pytest.raises(SiteError) as raised:
        Upcycle(2, 2)(graph)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"copies": 1}, "no mixture"),
        ({"copies": 2, "shards": 2, "active": 3}, "3 of 4 experts do not have"),
        ({"copies": 2, "shards": 2, "active": 6}, "6 of 4 experts do not have"),
        ({"scale": 0.0}, "scale: a number above 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Upcycle(**options)


@pytest.mark.parametrize("name", ["0", "linear", "2.weight"])
def test_a_network_that_is_protected_stays(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)).eval()
    graph = rg.trace(model, (torch.randn(4, 6),))
    same, remarks = Upcycle(2, 2, protect=(name,)).attempt(graph)
    assert str(same) == str(graph)
    assert f"{name} is protected" in [remark.text for remark in remarks]
