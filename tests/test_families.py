"""Every family of the model zoo through the whole line: exact passes, eight bits, the runtime."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import small_models
import torch
from oracle import doubled

from regauge.backends.profiles import target
from regauge.frontend import trace
from regauge.ir import Graph, GraphError, astype
from regauge.ir.gauge import (
    Region,
    attention_heads,
    attention_pairs,
    classes,
    drop,
    mask,
    random_element,
    sites,
    transport,
    units,
)
from regauge.ir.gauge import apply as fold
from regauge.ir.interpret import execute, flatten
from regauge.ir.laws import Kind
from regauge.passes import (
    Align,
    CenterResidual,
    Complexify,
    CompressResidual,
    Context,
    FoldAttentionBias,
    FoldBatchNorm,
    FoldNormAffine,
    JoinReaders,
    MergeBranches,
    MergeChains,
    Pass,
    PassReport,
    Quantize,
    Rotate,
    Smooth,
    SortChannels,
    UnitScale,
    apply,
)
from regauge.passes.gauges import smooth
from regauge.passes.manager import EXACT_TOLERANCE, difference

NAMES = set(small_models.NAMES)
FLOAT32_TOLERANCE = 1e-4  # relative L2; a dozen layers of rounding by 6e-8
# How many LayerNorms become RMSNorms. The others read a stream that a norm writes (post-LN), that a
# patch merging takes apart, or the result of a depthwise convolution.
CENTRED = {
    "bert": 1, "gpt2": 5, "opt": 5, "bloom": 5, "vit": 5, "swin": 6, "convnext": 1,
    "whisper_encoder": 5,
}  # fmt: skip


@pytest.fixture(scope="module", params=small_models.NAMES)
def family(request: pytest.FixtureRequest) -> tuple[str, Graph, list[Any]]:
    made = small_models.zoo_model(request.param)
    graph = trace(made.model, made.args, made.kwargs)
    return request.param, graph, flatten(graph, made.args, made.kwargs)


def through(family: tuple[str, Graph, list[Any]], *passes: Pass) -> tuple[Graph, list[PassReport]]:
    """A family's graph through passes, and the report of each; each leaves the outputs as they are
    in float64, and what all of them make runs in float32 on ONNX Runtime."""
    _, graph, inputs = family
    new, reports = apply(graph, passes, Context(inputs=inputs, calibration=[inputs]))
    assert [report.name for report in reports] == [*(step.name for step in passes), "Round"]
    assert max(report.damage for report in reports[:-1]) < EXACT_TOLERANCE
    found = target("onnxruntime").lower(new)(inputs)
    assert difference(found, execute(new, inputs)) < FLOAT32_TOLERANCE
    return new, reports[:-1]


def check_idle(name: str, reports: list[PassReport]) -> None:
    """Each pass did something, but for those that have nothing to do in this family."""
    idle = {report.name for report in reports if not report.applied}
    assert idle == {report.name for report in reports if name in IDLE[report.name]}


# Where a pass has nothing to do, of those that do something in some family.
IDLE = {
    # Only these have batch norms, factors behind linear maps, linear maps in a row.
    "FoldBatchNorm": NAMES - {"resnet", "mobilenet_v2"},
    "MergeBranches": NAMES - {"opt", "convnext", "whisper_encoder"},
    "MergeChains": NAMES - {"mobilenet_v2"},
    # One linear layer makes queries, keys and values; there is no attention.
    "JoinReaders": {"gpt2", "bloom", "mamba", "convnext", "resnet", "mobilenet_v2"},
    # Keys and values have no bias, or it is that of queries too.
    "FoldAttentionBias": NAMES - {"bert", "opt", "vit", "swin", "whisper_encoder"},
    # No LayerNorms; no norms but those of convolutions; no linear maps behind the norms alone.
    "CenterResidual": NAMES - CENTRED.keys(),
    "FoldNormAffine": {"bert", "resnet", "mobilenet_v2"},
    "Complexify": {"resnet", "mobilenet_v2"},
    # Norms are read by others too, or the table of the words is that of the head.
    "CompressResidual": NAMES - {"vit"},
    "Rotate": {"resnet", "mobilenet_v2"},
    "SortChannels": set(),
    "UnitScale": set(),
    "Align": set(),
    "Smooth": set(),
}


def test_folds_keep_the_function(family: tuple[str, Graph, list[Any]]) -> None:
    name = family[0]
    _, reports = through(
        family,
        FoldBatchNorm(),
        MergeBranches(),
        MergeChains(),
        CenterResidual(),
        FoldAttentionBias(),
        JoinReaders(),
        FoldNormAffine(),
        SortChannels(),
        UnitScale(whole=False),
        Complexify(),
    )
    check_idle(name, reports)
    norms = sum(remark.data.get("norms", 0) for remark in reports[3].applied)
    assert norms == CENTRED.get(name, 0)


def test_compressed_streams_keep_the_function(family: tuple[str, Graph, list[Any]]) -> None:
    _, reports = through(family, FoldBatchNorm(), CompressResidual(), Rotate("random", "random"))
    check_idle(family[0], reports)


def _as_far_as_possible(search: object, trial: object, z: torch.Tensor, s: torch.Tensor) -> float:
    """An objective that is the lower, the more a shift and a scale change."""
    return 1 / (1 + float(z.abs().sum() + s.log().abs().sum()))


def test_every_rule_of_smoothing_keeps_the_function(
    family: tuple[str, Graph, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the objective would say, which is no matter of exactness."""
    monkeypatch.setattr(smooth.SiteSearch, "error", _as_far_as_possible)
    # One range for all channels leaves nothing to do, so it comes last.
    rules = ("exponent", "threshold", "power", "mean", "range")
    steps = [
        Smooth(
            rule in ("threshold", "range"),
            rule,
            (3.0 if rule == "exponent" else 0.5,),
            insert=rule == "threshold",
        )
        for rule in rules
    ]
    _, reports = through(family, FoldBatchNorm(), *steps)
    for rule, report in zip(rules, reports[1:], strict=True):
        assert any(rule in remark.text for remark in report.applied), rule


def test_smoothing_reaches_most_sites(family: tuple[str, Graph, list[Any]]) -> None:
    _, reports = through(family, FoldBatchNorm(), Smooth(shift=True), Rotate("random"))
    smoothed = reports[1]
    assert len(smoothed.applied) > 0.7 * len(smoothed.remarks), [str(r) for r in smoothed.missed]
    check_idle(family[0], reports)


def test_channels_in_the_order_of_another_model_keep_the_function(
    family: tuple[str, Graph, list[Any]],
) -> None:
    other = family[1].copy()
    generator = torch.Generator().manual_seed(0)
    for name, node in other.params.items():
        if node.dtype.is_floating_point and node.shape:
            value = other.store[name]
            other.store[name] = value[torch.randperm(len(value), generator=generator)]
    _, reports = through(family, Align(other), Rotate("pca"))
    check_idle(family[0], reports)


# What has a residual stream that norms read: all but post-LN models, convolution nets with batch
# norms, and nets whose norms write to the stream too.
TURNED = {
    "gpt2", "opt", "llama", "qwen3", "gemma", "mixtral", "bloom", "mamba", "t5_encoder", "vit",
    "swin", "whisper_encoder",
}  # fmt: skip


def test_rotations_keep_the_function(family: tuple[str, Graph, list[Any]]) -> None:
    name, graph, _ = family
    _, reports = through(family, FoldBatchNorm(), CenterResidual(), Rotate(inputs=True))
    rotated = reports[2].applied
    assert any("ops" in remark.data for remark in rotated) == (name in TURNED)
    heads = sum("heads" in remark.text for remark in rotated)
    assert heads == sum(node.op == "scaled_dot_product_attention" for node in graph.nodes)
    check_idle(name, reports)


def test_eight_bits_run_on_the_runtime(family: tuple[str, Graph, list[Any]]) -> None:
    _, graph, inputs = family
    context = Context(inputs=inputs, calibration=[inputs])
    passes = [FoldBatchNorm(), Smooth(), Quantize("dynamic", least=256)]
    new, reports = apply(graph, passes, context)
    assert reports[-1].applied
    found = target("onnxruntime").lower(new)(inputs)
    # A code may fall on the other side of a rounding boundary in float32 than in float32 elsewhere;
    # what comes of it is of the size of the quantization error itself.
    wanted = execute(new, inputs)
    plain = difference(wanted, execute(graph, inputs))
    assert difference(found, wanted) < 1e-4 + plain


def test_sites_are_found_with_their_groups(family: tuple[str, Graph, list[Any]]) -> None:
    name, graph, _ = family
    found = sites(graph)
    assert any(Kind.SCALE in site.groups for site in found) or name == "mobilenet_v2"
    for site in found:
        for blocked in site.blocked.values():
            assert blocked.reason and blocked.node.name
    assert any(Kind.PERMUTATION in site.groups for site in classes(graph))


SITES = 5  # of each sort that are tried in each model


def regions_of(graph: Graph, restore: bool = False) -> Iterator[tuple[Graph, Region]]:
    """What each kind of group finds at the first few sites of each sort, in copies of the graph."""
    found = [*sites(graph, ())[:SITES], *list(attention_pairs(graph))[:SITES]]
    for site in [*found, *classes(graph)[:SITES]]:
        for kind in Kind:
            copy = graph.copy()
            value = copy[site.value.name]
            region = transport(copy, value, kind, axes=site.axes, restore=restore, insert=restore)
            if isinstance(region, Region) and kind is not Kind.CENTRE:
                yield copy, region


@pytest.mark.parametrize("restore", [False, True], ids=["free", "with ops"])
def test_a_random_element_of_each_group_is_exact(
    family: tuple[str, Graph, list[Any]], restore: bool
) -> None:
    """Whatever the analysis allows leaves the function as it is, in float64."""
    _, graph, inputs = family
    exact = astype(graph, torch.float64)
    wanted = execute(exact, doubled(inputs))
    generator = torch.Generator().manual_seed(0)
    kinds: set[Kind] = set()
    for copy, region in regions_of(exact, restore):
        name, kind = region.value.name, region.kind
        fold(copy, region, random_element(region, generator))
        copy.verify()
        assert difference(execute(copy, doubled(inputs)), wanted) < EXACT_TOLERANCE, (name, kind)
        kinds.add(kind)
    assert {Kind.SCALE, Kind.PERMUTATION} <= kinds


def test_dropping_coordinates_equals_masking_them(
    family: tuple[str, Graph, list[Any]],
) -> None:
    """A class, an attention pair or the heads lose a unit: the smaller graph computes the same."""
    name, graph, inputs = family
    centred, _ = apply(graph, [CenterResidual()], Context(inputs=inputs))
    exact = astype(centred, torch.float64)
    wanted = execute(exact, doubled(inputs))
    cuts, changes = 0, 0
    sorts = [list(sort(exact)) for sort in (classes, attention_pairs, attention_heads)]
    for site in (site for sort in sorts for site in sort[:: len(sort) // SITES + 1]):
        region = transport(exact, site.value, Kind.PERMUTATION, axes=site.axes)
        for unit in units(exact, region)[:1] if isinstance(region, Region) else ():
            masked, narrow = exact.copy(), exact.copy()
            for copy, change in ((masked, mask), (narrow, drop)):
                place = transport(copy, copy[site.value.name], Kind.PERMUTATION, axes=site.axes)
                assert isinstance(place, Region)
                change(copy, place, unit != int(unit.max()) // 2)
            narrow.verify()
            values = execute(masked, doubled(inputs))
            gap = difference(execute(narrow, doubled(inputs)), values)
            assert gap < EXACT_TOLERANCE, (name, site.value)
            cuts += 1
            changes += difference(values, wanted) > EXACT_TOLERANCE
    assert cuts and changes


def test_what_is_outside_the_group_is_refused_and_changes_the_function(
    family: tuple[str, Graph, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above can fail: ties are there for a reason."""
    _, graph, inputs = family
    exact = astype(graph, torch.float64)
    wanted = execute(exact, doubled(inputs))
    generator = torch.Generator().manual_seed(0)
    for copy, region in regions_of(exact):
        if region.kind is Kind.SCALE and len(region.groups.unique()) < region.size:
            element = torch.rand(region.size, generator=generator, dtype=torch.float64) + 0.5
            with pytest.raises(GraphError, match="ties"):
                fold(copy, region, element)
            monkeypatch.setattr(sys.modules[fold.__module__], "refusal", lambda *_: "")
            fold(copy, region, element)
            assert difference(execute(copy, doubled(inputs)), wanted) > 1e-6
            return
