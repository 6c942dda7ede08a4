"""Every family of the model zoo through the whole line: exact passes, eight bits, the runtime."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from oracle import doubled

from regauge.backends.base import target
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
    CenterResidual,
    Complexify,
    Context,
    FoldAttentionBias,
    FoldBatchNorm,
    FoldNormAffine,
    Quantize,
    Rotate,
    Smooth,
    SortChannels,
    UnitScale,
    apply,
    pre_shift,
    repquant,
)
from regauge.passes.manager import EXACT_TOLERANCE, difference


def _models() -> ModuleType:
    """tests/models.py: with importlib's import mode tests cannot import each other by name."""
    path = Path(__file__).with_name("models.py")
    spec = importlib.util.spec_from_file_location("regauge_test_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


models = _models()
# How many LayerNorms become RMSNorms. The others read a stream that a norm writes (post-LN), that a
# patch merging takes apart, or the result of a depthwise convolution.
CENTRED = {
    "bert": 1, "gpt2": 5, "opt": 5, "bloom": 5, "vit": 5, "swin": 6, "convnext": 1,
    "whisper_encoder": 5,
}  # fmt: skip


@pytest.fixture(scope="module", params=models.NAMES)
def family(request: pytest.FixtureRequest) -> tuple[str, Graph, list[Any]]:
    made = models.zoo_model(request.param)
    graph = trace(made.model, made.args, made.kwargs)
    return request.param, graph, flatten(graph, made.args, made.kwargs)


def test_exact_passes_keep_the_function(family: tuple[str, Graph, list[Any]]) -> None:
    name, graph, inputs = family
    passes = [FoldBatchNorm(), CenterResidual(), FoldNormAffine(), Smooth(shift=True)]
    _, reports = apply(graph, passes, Context(inputs=inputs, calibration=[inputs]))
    assert max(r.damage for r in reports if r.promise == "exact") < EXACT_TOLERANCE
    smoothed = reports[3]
    assert len(smoothed.applied) > 0.7 * len(smoothed.remarks), [str(r) for r in smoothed.missed]
    norms = sum(remark.data.get("norms", 0) for remark in reports[1].applied)
    assert norms == CENTRED.get(name, 0)


def test_further_exact_passes_keep_the_function(family: tuple[str, Graph, list[Any]]) -> None:
    _, graph, inputs = family
    passes = [
        FoldBatchNorm(),
        FoldAttentionBias(),
        SortChannels(),
        repquant(),
        pre_shift(),
        UnitScale(whole=False),
        Complexify(),
    ]
    _, reports = apply(graph, passes, Context(inputs=inputs, calibration=[inputs]))
    assert max(r.damage for r in reports if r.promise == "exact") < EXACT_TOLERANCE
    done = {report.name for report in reports if report.applied}
    assert {"SortChannels", "UnitScale"} <= done


# What has a residual stream that norms read: all but post-LN models, convolution nets with batch
# norms, and nets whose norms write to the stream too.
TURNED = {
    "gpt2", "opt", "llama", "qwen3", "gemma", "mixtral", "bloom", "mamba", "t5_encoder", "vit",
    "swin", "whisper_encoder",
}  # fmt: skip


def test_rotations_keep_the_function(family: tuple[str, Graph, list[Any]]) -> None:
    name, graph, inputs = family
    passes = [FoldBatchNorm(), CenterResidual(), Rotate(inputs=True)]
    new, reports = apply(graph, passes, Context(inputs=inputs))
    assert reports[2].damage < EXACT_TOLERANCE
    assert any("ops" in remark.data for remark in reports[2].applied) == (name in TURNED)
    heads = sum("heads" in remark.text for remark in reports[2].applied)
    assert heads == sum(node.op == "scaled_dot_product_attention" for node in graph.nodes)
    found = target("onnxruntime").lower(new)(inputs)
    assert difference(found, execute(new, inputs)) < 1e-4


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
