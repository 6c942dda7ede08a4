"""A pass asked for a site: it acts there and nowhere else, or says what is in the way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from regauge.frontend import trace
from regauge.ir import Graph, SiteError
from regauge.passes import (
    Align,
    CenterResidual,
    ClusterOutputs,
    Complexify,
    CompressResidual,
    Context,
    Distill,
    DropLayers,
    Factorize,
    FoldAttentionBias,
    FoldNormAffine,
    FuseBlocks,
    MergeExperts,
    Parallelize,
    Pass,
    Prune,
    PruneExperts,
    Reorder,
    Rotate,
    ShareExperts,
    Smooth,
    SortChannels,
    Sparsify,
    SparsifyInputs,
    UnitScale,
    Upcycle,
    apply,
)
from regauge.passes.sites import SitePass


class Block(nn.Module):
    """Two layers behind a stream of two norms, and attention over it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        n = self.first(x)
        q, k, v = (layer(n).unflatten(-1, (2, 4)).transpose(1, 2) for layer in self.qkv)
        a = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(a.transpose(1, 2).flatten(2))
        x = x + self.down(torch.relu(self.up(self.second(x))))
        return x.abs()


X = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
CONTEXT = Context(inputs=[X], calibration=[[X]])


def block() -> Graph:
    torch.manual_seed(0)
    model = Block()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.first.weight[0] = 30.0  # what smoothing is for
    return trace(model.eval(), (X,))


class Normed(Block):
    """The same with a norm at the end, so that nothing reads the stream but norms."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.down(torch.relu(self.up(self.first(x))))
        return nn.functional.linear(self.second(x), self.out.weight)


def normed() -> Graph:
    torch.manual_seed(0)
    return trace(Normed().eval(), (X,))


@pytest.mark.parametrize(
    ("step", "graph", "names"),
    [
        (FoldNormAffine, block, ("layer_norm_1",)),
        (FoldAttentionBias, block, ("permute_2",)),
        (Complexify, block, ("linear_4",)),
        (UnitScale, block, ("linear_5",)),
        (SortChannels, block, ("relu",)),
        (Smooth, block, ("layer_norm",)),
        (CenterResidual, normed, ("linear",)),
        (CompressResidual, normed, ("linear",)),
    ],
)
def test_it_acts_there_and_nowhere_else(
    step: type[SitePass], graph: object, names: tuple[str, ...]
) -> None:
    before = graph()  # type: ignore[operator]
    _, everywhere = step().attempt(before, CONTEXT)
    _, remarks = step(sites=names)(before, CONTEXT)
    sites = {remark.site for remark in remarks if remark.applied}
    assert len(sites) == 1
    assert len({remark.site for remark in everywhere}) > 1 or graph is normed


def test_align_moves_the_class_asked_for() -> None:
    torch.manual_seed(1)
    other = trace(Block().eval(), (X,))
    step = Align(other, sites=("relu",))  # any value of the class names it
    _, (remark,) = step(block(), CONTEXT)
    assert remark.site == "linear_5"


def test_rotate_turns_the_heads_asked_for() -> None:
    _, everywhere = Rotate(residual=None, inputs=True)(block(), CONTEXT)
    step = Rotate(residual=None, inputs=True, sites=("scaled_dot_product_attention",))
    _, (remark,) = step(block(), CONTEXT)
    assert "heads turned" in remark.text and len(everywhere) > 1


LINE = __file__.rpartition("/")[2]


@pytest.mark.parametrize(
    ("step", "what", "lines"),
    [
        pytest.param(
            CenterResidual(sites=("add_1",)),
            "CenterResidual cannot act at add_1",
            ["add_1: add_1 (add) is no site: a site of CenterResidual is what a LayerNorm reads"],
            id="a value that is no site",
        ),
        pytest.param(
            Rotate(sites=("layer_nrm",)),
            "Rotate cannot act at layer_nrm",
            ["layer_nrm: nothing is called layer_nrm; there are layer_norm, layer_norm_1"],
            id="a name that is not there",
        ),
        pytest.param(
            CenterResidual(sites=("layer_norm_1",)),
            "CenterResidual cannot act at layer_norm_1",
            ["layer_norm_1: its input cannot be centred: abs (abs): ", "  abs is "],
            id="a group that the site lacks",
        ),
        pytest.param(
            Smooth(insert=False, shift=True, rule=None, sites=("relu",)),
            "Smooth cannot act at relu",
            ["relu: no shift: relu (relu): ", "  relu is "],
            id="a shift behind an activation",
        ),
    ],
)
def test_an_error_names_what_is_in_the_way_and_the_users_line(
    step: Pass, what: str, lines: list[str]
) -> None:
    graph = block()
    with pytest.raises(SiteError) as caught:
        step(graph, CONTEXT)
    assert caught.value.what == what and caught.value.do
    for line in lines:
        assert line in caught.value.where
    for remark in caught.value.missed:
        assert not remark.applied and remark.where in caught.value.where
    assert LINE in caught.value.where or "nothing is called" in caught.value.where
    _, (report, _) = apply(graph, [step], CONTEXT)  # a pipeline goes on
    assert [str(r) for r in report.missed] == [str(r) for r in caught.value.missed]


def test_where_nothing_can_be_done_at_all_that_is_an_error_too() -> None:
    graph = block()
    with pytest.raises(SiteError, match="CenterResidual cannot act at layer_norm, layer_norm_1"):
        CenterResidual()(graph, CONTEXT)
    done, _ = FoldNormAffine()(graph, CONTEXT)
    with pytest.raises(SiteError, match="FoldNormAffine finds nothing to act on"):
        FoldNormAffine()(done, CONTEXT)
    assert FoldNormAffine().attempt(done, CONTEXT)[1] == []


@pytest.mark.parametrize(
    "step",
    [
        Prune,
        DropLayers,
        PruneExperts,
        MergeExperts,
        Factorize,
        Sparsify,
        SparsifyInputs,
        FuseBlocks,
        partial(Reorder, (1, 0)),
        Parallelize,
        ShareExperts,
        ClusterOutputs,
        Upcycle,
        Distill,
    ],
)
def test_what_is_to_be_protected_must_be_there(step: Callable[..., Pass]) -> None:
    graph = block()
    with pytest.raises(
        SiteError, match="upp cannot be protected: nothing is called upp; there are"
    ):
        step(protect=("upp",)).attempt(graph, CONTEXT)  # in a pipeline too


@pytest.mark.parametrize("name", ["linear_5", "up_weight", "up.weight", "up"])
def test_a_module_a_weight_and_a_value_are_names_of_a_site_and_of_what_is_protected(
    name: str,
) -> None:
    step = Sparsify(0.5, score="magnitude", recover="none", least=1, protect=(name,))
    done, remarks = step(block(), CONTEXT)
    assert [r.text for r in remarks if not r.applied] == [f"{name} is protected"]
    assert bool((done.store["up_weight"] != 0).all())
    sites = ("linear_5", "up_weight", "up.weight", "up") if name == "up" else (name,)
    for site in sites:
        asked = Sparsify(0.5, score="magnitude", recover="none", least=1, sites=(site,))
        _, remarks = asked(block(), CONTEXT)
        assert next(r.site for r in remarks if r.applied) == "linear_5"


def test_a_module_stands_for_all_in_it() -> None:
    step = Sparsify(0.5, score="magnitude", recover="none", least=1, protect=("qkv",))
    _, remarks = step(block(), CONTEXT)
    assert [r.text for r in remarks if not r.applied] == ["qkv is protected"] * 3


def test_of_two_that_protect_one_layer_the_first_is_named() -> None:
    step = Sparsify(0.5, score="magnitude", recover="none", least=1, protect=("up_weight", "up"))
    _, remarks = step(block(), CONTEXT)
    assert [r.text for r in remarks if not r.applied] == ["up_weight is protected"]


def test_the_layer_of_a_module_that_is_protected_stays() -> None:
    step = DropLayers(0.5, score="position", recover=False, protect=("up",))
    done, remarks = step(block(), CONTEXT)
    assert "up_weight" in done.params and "out_weight" not in done.params
    assert any(r.text == "up is protected" for r in remarks)


def test_an_error_says_what_would_help_where_that_is_known() -> None:
    with pytest.raises(SiteError) as caught:
        Prune(roles=("hidden",), score="magnitude", multiple=32)(block(), CONTEXT)
    assert caught.value.do == (
        "leave what the model gives, or put a head behind it; ask for a lesser multiple; in a "
        "pipeline this is a remark"
    )
