"""Structures that dependency-graph pruners get wrong: each is cut right, or refused by name.

Cut right means that the smaller graph computes what the model computes with zeros in all places of
its parameters that hold what goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import regauge as rg
from regauge.ir import Graph, astype
from regauge.ir.gauge import Region, drop, mask, transport
from regauge.ir.interpret import execute
from regauge.ir.laws import Kind
from regauge.passes import Context, Prune
from regauge.passes.structure.groups import ROLES, Group, groups
from regauge.passes.structure.width.importance import Importance


class Attention(nn.Module):
    """Heads by views, weights by an explicit softmax, queries in groups where asked for."""

    def __init__(self, heads: int = 4, shared: int = 4, how: str = "matmul") -> None:
        super().__init__()
        self.heads, self.shared, self.how = heads, shared, how
        self.q, self.o = nn.Linear(12, heads * 5), nn.Linear(heads * 5, 12)
        self.k, self.v = nn.Linear(12, shared * 5), nn.Linear(12, shared * 5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, 5).transpose(1, 2)
        k = self.k(x).view(b, t, self.shared, 5).transpose(1, 2)
        v = self.v(x).view(b, t, self.shared, 5).transpose(1, 2)
        if self.heads != self.shared:
            k = k.repeat_interleave(self.heads // self.shared, 1)
            v = v.repeat_interleave(self.heads // self.shared, 1)
        if self.how == "einsum":
            weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(5**-0.5).softmax(-1)
            found = torch.einsum("bhij,bhjd->bihd", weights, v)
            return self.o(found.reshape(b, t, -1))
        if self.how == "fused":
            found = F.scaled_dot_product_attention(q, k, v)
        else:
            found = (q @ k.transpose(-1, -2) * 5**-0.5).softmax(-1) @ v
        return self.o(found.transpose(1, 2).reshape(b, t, -1))


class FusedProjection(nn.Module):
    """Queries, keys and values cut from one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(12, 60), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 4, 5).permute(2, 0, 3, 1, 4).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v)
        return self.o(found.transpose(1, 2).flatten(2))


class Own(nn.Module):
    """PyTorch's own attention: tokens first, all in one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.MultiheadAttention(12, 4, batch_first=True), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.a(x, x, x, need_weights=False)[0])


class Shuffle(nn.Module):
    """Channels that become pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.pixel_shuffle(self.first(x).relu(), 2))


class Joined(nn.Module):
    """Parts side by side, one of them a sum, and a depthwise convolution over all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, n, 1) for n in (6, 4, 4))
        self.d, self.e = nn.Conv2d(10, 10, 3, padding=1, groups=10), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x), (self.b(x) + self.c(x)).relu()], 1)
        return self.e(self.d(joined))


class Grouped(nn.Module):
    """A convolution in groups between others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.c = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


class Flattened(nn.Module):
    """Channels and pixels become one axis, which a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.gelu(self.a(x)).flatten(1))


class Turned(nn.Module):
    """Layers over tokens between layers over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 10), nn.Linear(10, 12)
        self.s, self.t = nn.Linear(7, 9), nn.Linear(9, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        h = h + self.t(self.s(h.transpose(1, 2)).relu()).transpose(1, 2)
        return self.b(h)


TOKENS, IMAGES = (2, 7, 12), (2, 3, 8, 8)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "views": (lambda: Attention(), TOKENS, {"heads", "keys", "values"}),
    "grouped queries": (lambda: Attention(4, 2), TOKENS, {"heads", "keys", "values"}),
    "einsum": (lambda: Attention(how="einsum"), TOKENS, {"heads", "keys", "values"}),
    "fused attention": (lambda: Attention(4, 2, "fused"), TOKENS, {"heads", "keys", "values"}),
    "fused projection": (FusedProjection, TOKENS, {"heads", "keys", "values"}),
    "PyTorch's attention": (Own, TOKENS, {"heads", "keys", "values", "hidden"}),
    "concatenation": (Joined, IMAGES, {"hidden", "stream"}),
    "groups": (Grouped, IMAGES, {"hidden"}),
    "flattened": (Flattened, IMAGES, {"hidden"}),
    "transposes": (Turned, TOKENS, {"stream", "hidden"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_goes_is_gone_everywhere(name: str) -> None:
    make, shape, roles = CASES[name]
    torch.manual_seed(0)
    single = rg.trace(make().eval(), (torch.randn(shape),))
    graph = astype(single, torch.float64)
    inputs = [torch.randn(shape, dtype=torch.float64)]
    found, _ = groups(graph)
    assert {group.role for group in found} == roles
    whole = execute(graph, inputs)
    for group in found:
        kept = torch.arange(group.count) % 2 == 0
        copies = [graph.copy(), graph.copy()]
        for copy, change in zip(copies, (mask, drop), strict=True):
            region = transport(copy, copy[group.value.name], Kind.PERMUTATION, axes=group.axes)
            assert isinstance(region, Region)
            change(copy, region, group.coordinates(kept))
        masked, smaller = copies
        wanted = execute(masked, inputs)
        torch.testing.assert_close(execute(smaller, inputs), wanted, rtol=1e-11, atol=1e-11)
        assert not torch.allclose(wanted[0], whole[0])
        size = [sum(g.value(p).numel() for p in g.params.values()) for g in (smaller, graph)]
        assert size[0] < size[1]


@dataclass(frozen=True)
class Told(Importance):
    """What units are worth, by the names of groups."""

    worth: dict[str, torch.Tensor]

    def of(self, graph: Graph, groups: Sequence[Group], context: Context) -> list[torch.Tensor]:
        return [self.worth[group.name] for group in groups]


@pytest.mark.parametrize("name", CASES)
def test_all_at_once(name: str) -> None:
    make, shape, roles = CASES[name]
    torch.manual_seed(0)
    graph = astype(rg.trace(make().eval(), (torch.randn(shape),)), torch.float64)
    inputs = [torch.randn(shape, dtype=torch.float64)]
    found, _ = groups(graph)
    worth = {group.name: torch.rand(group.count, dtype=torch.float64) for group in found}
    step = Prune(remove=0.5, roles=ROLES, score=Told(worth), recover=False)
    smaller, remarks = step(graph, Context(inputs))
    counts = next(remark.data["kept"] for remark in remarks if "kept" in remark.data)
    assert {name.split("/")[1] for name in counts} == roles
    assert all(counts[group.name] < group.count for group in found)
    masked = graph.copy()
    for group in found:
        kept = torch.zeros(group.count, dtype=torch.bool)
        kept[worth[group.name].argsort(descending=True)[: counts[group.name]]] = True
        region = transport(masked, masked[group.value.name], Kind.PERMUTATION, axes=group.axes)
        assert isinstance(region, Region)
        mask(masked, region, group.coordinates(kept))
    wanted = execute(masked, inputs)
    torch.testing.assert_close(execute(smaller, inputs), wanted, rtol=1e-11, atol=1e-11)
    assert not torch.allclose(wanted[0], execute(graph, inputs)[0], rtol=1e-2)


def test_channels_that_become_pixels_are_refused_by_the_op_that_makes_them() -> None:
    graph = rg.trace(Shuffle().eval(), (torch.randn(IMAGES),))
    step = Prune(score="magnitude", recover=False)
    with pytest.raises(rg.ir.SiteError, match=r"pixel_shuffle\): it puts .* conv2d_1 \(conv2d\)"):
        step(graph, Context([torch.randn(IMAGES)]))


def test_channels_that_are_an_output_too_are_refused() -> None:

    class Pinned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 10), nn.Linear(10, 12)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.a(x).relu()
            return h, self.b(h)

    graph = rg.trace(Pinned().eval(), (torch.randn(TOKENS),))
    step = Prune(score="magnitude", recover=False, roles=("stream", "hidden"))
    with pytest.raises(rg.ir.SiteError, match=r"output of the graph"):
        step(graph, Context([torch.randn(TOKENS)]))
