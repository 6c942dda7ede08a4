"""Options that are of no kind that a pass takes: each is refused by name, with what it may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from graphs import filled

from regauge.ir import InputError
from regauge.passes import (
    Choice,
    Distill,
    DropLayers,
    Factorize,
    FuseBlocks,
    PermuteInputs,
    Prune,
    PruneExperts,
    Reorder,
    Sparsify,
    SparsifyInputs,
    with_exits,
)
from regauge.passes.allocation.gradient import Gradient
from regauge.passes.allocation.hessian import Hessian
from regauge.passes.patterns import NofM, named_pattern, named_sparsity
from regauge.passes.structure.depth.layer_scores import OutputChange, Position, SampledChange
from regauge.passes.structure.experts.expert_scores import DriftScore
from regauge.passes.structure.sparsity.rates import RateDistortion
from regauge.passes.structure.width.importance import Taylor

TEXT = """
def graph(x: f64[8, 4], *, a: f64[6, 4], o: f64[2, 6]):
    h: f64[8, 6] = linear(x, a)
    z: f64[8, 6] = relu(h)
    y: f64[8, 2] = linear(z, o)
    return y
"""


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (Prune, {"score": 3}, "3 is no score.*'magnitude'.*an object of the class Importance"),
        (Prune, {"score": None}, "None is no score"),
        (Prune, {"roles": "hidden"}, "roles='hidden' is no tuple.*roles=('hidden',)"),
        (Prune, {"roles": 3}, "roles=3 is no tuple.*roles=('hidden',)"),
        (Prune, {"solver": "greedy"}, "solver='greedy' is not what Prune takes.*class Solver or N"),
        (Prune, {"of": "latency", "latency": 0.5}, "latency=0.5 is not.*a function or None"),
        (Taylor, {"metric": "luck"}, "no metric 'luck'.*'error', 'likelihood'"),
        (DropLayers, {"score": 3}, "3 is no score.*class LayerScore"),
        (DropLayers, {"kinds": "block"}, "kinds='block' is no tuple.*kinds=('block',)"),
        (DropLayers, {"solver": 3}, "solver=3 is not what DropLayers takes"),
        (DropLayers, {"latency": 3}, "latency=3 is not what DropLayers takes"),
        (OutputChange, {"change": "luck"}, "no change 'luck'.*'error', 'angle'"),
        (SampledChange, {"sample": 3}, "sample=3 is not what SampledChange takes.*a function"),
        (Position, {"drop": "luck"}, "no place to drop 'luck'.*'top'"),
        (FuseBlocks, {"score": 3}, "3 is no score"),
        (FuseBlocks, {"fitter": 3}, "fitter=3 is not.*class Fitter"),
        (Distill, {"fitter": None}, "fitter=None is not.*class Fitter"),
        (Distill, {"cut": "luck"}, "no cut 'luck'.*'graph', 'block'"),
        (Reorder, {"order": 3}, "order=3 is no tuple"),
        (Reorder, {"order": (1, "a")}, "does not name each of two layers or more once"),
        (PruneExperts, {"score": 3}, "3 is no score.*class ExpertScore"),
        (PruneExperts, {"experts": 3}, "experts=3 is not.*a mapping or None"),
        (DriftScore, {"base": 3}, "base=3 is not.*class Graph or a mapping"),
        (Factorize, {"solver": 3}, "solver=3 is not what Factorize takes"),
        (SparsifyInputs, {"shares": 0.5}, "shares=0.5 is no tuple"),
        (Sparsify, {"pattern": 3}, "there is no pattern 3"),
        (Sparsify, {"pattern": {"a": 3}}, "there is no pattern '3'"),
        (Sparsify, {"pattern": {"a": None}}, "there is no pattern 'None'"),
        (Sparsify, {"rates": 3}, "3 is no rule for rates"),
        (Sparsify, {"rates": {}}, "{} is no rule for rates"),
        (RateDistortion, {"solver": 3}, "solver=3 is not what RateDistortion takes"),
        (PermuteInputs, {"pattern": None}, "there is no pattern None"),
        (NofM, {"n": 1.5}, "n=1.5 is not what NofM takes"),
        (Choice, {"zeros": 3}, "zeros=3 is not what Choice takes.*a name or None"),
        (Choice, {"zeros": "luck"}, "there is no pattern 'luck'"),
        (Choice, {"weights": 8}, "weights=8 is not what Choice takes"),
        (Gradient, {"metric": "luck"}, "no metric 'luck'"),
        (Gradient, {"batches": 0}, "batches=0 is not what Gradient takes"),
        (Hessian, {"of": "luck"}, "no measure of curvature 'luck'"),
    ],
)
def test_what_is_of_no_kind_is_refused(
    make: Callable[..., Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as raised:
        make(**options)
    assert _has(str(raised.value), says)


def _has(text: str, says: str) -> bool:
    """Whether a text has some parts, in order."""
    parts = ".*".join(re.escape(part) for part in says.split(".*"))
    return re.search(parts, text, re.DOTALL) is not None


@pytest.mark.parametrize("name", [3, None, ["2:4"], {}])
def test_patterns_have_names(name: Any) -> None:
    for of in (named_pattern, named_sparsity):
        with pytest.raises(InputError, match="there is no pattern"):
            of(name)


@pytest.mark.parametrize("option", ["sites", "protect"])
def test_one_site_is_named_in_a_tuple_as_well(option: str) -> None:
    """Letter by letter it would be the name of nothing."""
    graph, _ = filled(TEXT)
    options: dict[str, Any] = {option: "h"}
    with pytest.raises(InputError, match=rf"{option}='h' is no tuple\n.*{option}=\('h',\)"):
        Prune(score="magnitude", recover=False, **options)(graph)


def test_exits_are_behind_whole_numbers_of_blocks() -> None:
    graph, _ = filled(TEXT)
    after: Any
    for after, says in ((1, "after=1 is no tuple"), ([1.5], "no exit after 1.5 blocks")):
        with pytest.raises(InputError, match=says):
            with_exits(graph, after)
