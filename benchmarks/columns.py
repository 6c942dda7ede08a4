"""What one model is put through: a verdict and a reason for each column of the coverage table."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from oracle import FirstOfTies, doubled, eager_in_double
from torch.utils import _pytree as pytree

from regauge.backends.profiles import target
from regauge.frontend import trace
from regauge.ir import Graph, Node, RegaugeError, TensorType, astype
from regauge.ir.gauge import Blocked, Region, drop, mask, sites, transport, weighted
from regauge.ir.gauge.sites import WRITERS
from regauge.ir.interpret import execute, flatten
from regauge.ir.laws import Kind
from regauge.ir.ops import OPS
from regauge.passes import (
    PRESETS,
    CenterResidual,
    Context,
    FoldNormAffine,
    Pass,
    PassReport,
    PruneExperts,
    Quantize,
    Rotate,
    Smooth,
    SortChannels,
    apply,
)
from regauge.passes.manager import EXACT_TOLERANCE, difference
from regauge.passes.structure.experts.expert_scores import ExpertScore
from regauge.passes.structure.experts.mixtures import Mixture, mixtures
from regauge.passes.structure.groups import Group, groups

COLUMNS = ("traced", "canonical", "sites", "exact passes", "W8A8", "ONNX", "width", "experts")
FLOAT32_TOLERANCE = 1e-4  # relative L2; a dozen layers of rounding by 6e-8
ALONE = 6  # groups at most, or two more, that are left out by themselves
LEAST = 64  # elements of a matrix that is quantized: these models have no large ones

# What ran and held, in words; raises what did not.
Column: TypeAlias = Callable[[Graph, list[Any]], str]


class Failure(Exception):
    """A column does not hold; the message is the reason, for the table."""


class NotAsked(Exception):
    """The model has nothing that a column is about; the message says what."""


def check(
    model: torch.nn.Module, kwargs: Mapping[str, Any], asked: Collection[str] = COLUMNS
) -> Iterator[tuple[str, bool | None, str]]:
    """The columns in order, each with whether it holds and why not, or what was found; ``None``
    where the model has nothing that the column is about.

    Args:
        asked: Which; the first is anyway.
    """
    try:
        graph = trace(model, (), kwargs)
        flat = flatten(graph, (), kwargs)
    except Exception as error:
        yield "traced", False, reason(error)
        return
    unknown = sorted({node.op for node in graph.nodes if node.op not in OPS})
    yield "traced", True, f"{len(graph.nodes)} ops" + "".join(f", {op}" for op in unknown)
    columns: tuple[tuple[str, Column], ...] = (
        ("canonical", lambda graph, flat: canonical(graph, flat, model, kwargs)),
        ("sites", found_sites),
        ("exact passes", exact_passes),
        ("W8A8", eight_bits),
        ("ONNX", runs_on_onnxruntime),
        ("width", narrower),
        ("experts", fewer_experts),
    )
    for name, column in (pair for pair in columns if pair[0] in asked):
        try:
            yield name, True, column(graph, flat)
        except NotAsked as nothing:
            yield name, None, str(nothing)
        except Exception as error:
            yield name, False, reason(error)


def reason(error: BaseException) -> str:
    """What stopped a column, in one line: the message, the op, and the user's line."""
    if isinstance(error, Failure):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if not isinstance(error, RegaugeError):
        text = f"{type(error).__name__}: {text}"
    for note in getattr(error, "__notes__", ()):
        text += f" ({note.splitlines()[0].strip()})"
    user = re.search(r"([\w-]+\.py):(\d+)", str(getattr(error, "where", "") or ""))
    text += f" [{user[1]}:{user[2]}]" if user else ""
    return re.sub(r"0x[0-9a-f]+", "0x", text)[:400]


# -- canonical ----------------------------------------------------------------------------------


def canonical(
    graph: Graph, flat: list[Any], model: torch.nn.Module, kwargs: Mapping[str, Any]
) -> str:
    """The graph in float64 gives what the model gives in float64."""
    wanted = eager_in_double(model, (), kwargs)
    values = execute(astype(graph, torch.float64), doubled(flat))
    found = [value for value in values if isinstance(value, torch.Tensor)]
    shapes = [[tuple(value.shape) for value in many] for many in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise Failure(f"outputs of the shapes {shapes[0]}, the model's are {shapes[1]}")
    gap = difference(found, wanted)
    if not gap <= EXACT_TOLERANCE:
        whose = "" if _captured(model, kwargs) else ", as does what torch.export makes of it"
        raise Failure(f"differs from the model by {gap:.1e} in float64{whose}")
    return f"{gap:.0e}"


def _captured(model: torch.nn.Module, kwargs: Mapping[str, Any]) -> bool:
    """Whether PyTorch's own capture of the model computes what the model does."""
    with torch.no_grad():
        program = torch.export.export(model, (), dict(kwargs), strict=False)
        found, wanted = (pytree.tree_leaves(f(**kwargs)) for f in (program.module(), model))
    tensors = [
        [leaf for leaf in many if isinstance(leaf, torch.Tensor)] for many in (found, wanted)
    ]
    return difference(*tensors) <= FLOAT32_TOLERANCE


# -- sites --------------------------------------------------------------------------------------

_ACTIVATIONS = ("relu", "gelu", "silu", "sigmoid", "tanh", "elu", "leaky_relu", "hardswish", "mish")


def found_sites(graph: Graph, flat: list[Any]) -> str:
    """The residual stream, the pairs of attention and the FFNs, as many as the graph has.

    A model without one of them need not have it found. Inputs and outputs may change: these are
    bodies, and what makes their inputs and reads their outputs would take the change up.
    """
    regions = list(_classes(graph))
    free = [region for region in regions if isinstance(region, Region)]
    blocked = [region for region in regions if isinstance(region, Blocked)]
    counts = Counter[str]()
    missing: list[str] = []
    streams = [r for r in free if any(_joins(node) for node in r.seen)]
    if any(_joins(node) for node in graph.nodes):
        counts["residual"] = len(streams)
        if not streams:
            missing.append(f"no residual stream: {_most_frequent(blocked)}")
    hidden = [r for r in free if r not in streams and any(n.op in _ACTIVATIONS for n in r.seen)]
    if any(_is_hidden(node) for node in graph.nodes):
        counts["FFN"] = len(hidden)
        if not hidden and not streams:
            missing.append(f"no FFN: {_most_frequent(blocked)}")
    attentions = [node for node in graph.nodes if node.op == "scaled_dot_product_attention"]
    for what, operand in (("q-k", 1), ("v-o", 2)):
        found = [transport(graph, n.args[operand], Kind.PERMUTATION, free=True) for n in attentions]
        stopped = [region for region in found if isinstance(region, Blocked)]
        counts[what] = len(found) - len(stopped)
        if what == "v-o" and stopped:
            missing.append(f"{len(stopped)} of {len(found)} v-o pairs: {_most_frequent(stopped)}")
    if missing:
        raise Failure("; ".join(missing))
    scales = sum(Kind.SCALE in site.groups for site in sites(graph, (Kind.SCALE,)))
    return ", ".join(f"{count} {what}" for what, count in counts.items()) + f", {scales} scales"


def _classes(graph: Graph) -> Iterator[Region | Blocked]:
    """The channel classes that weights write, each once."""
    covered: set[Node] = set()
    for node in graph.nodes:
        if node.op in WRITERS and node not in covered and isinstance(node.type, TensorType):
            axes = (WRITERS[node.op],)
            region = transport(graph, node, Kind.PERMUTATION, axes=axes, free=True)
            if isinstance(region, Region):
                covered |= region.actions.keys()
            yield region


def _joins(node: Node) -> bool:
    """Whether a node adds to a value of three axes or more what follows from that very value."""
    if node.op != "add" or len(node.args) < 2:
        return False
    parts = [part for part in node.args if isinstance(part, Node) and part.op != "param"]
    alike = all(
        isinstance(p.type, TensorType) and p.type == node.type and p.dtype.is_floating_point
        for p in parts
    )
    if len(parts) != 2 or not alike or node.tensor.rank < 3:
        return False
    # a batch norm is an affine map of each channel
    whole: list[Node] = [p.args[0] if p.op == "batch_norm" else p for p in parts]
    return any(a in _ancestors(b) for a, b in (whole, reversed(whole)))


@functools.cache
def _ancestors(node: Node) -> frozenset[Node]:
    """All that a value follows from."""
    found: set[Node] = set()
    stack = [node]
    while stack:
        new = [part for part in stack.pop().inputs if part not in found]
        found.update(new)
        stack += new
    return frozenset(found)


def _is_hidden(node: Node) -> bool:
    """Whether a node is an activation of what a contraction with weights gives."""
    return node.op in _ACTIVATIONS and any(map(weighted, node.inputs))


def _most_frequent(blocked: list[Blocked]) -> str:
    reasons = Counter(f"{blocked.node.op}: {blocked.reason}" for blocked in blocked)
    return reasons.most_common(1)[0][0] if reasons else "no contraction writes one"


# -- passes -------------------------------------------------------------------------------------


def exact_passes(graph: Graph, flat: list[Any]) -> str:
    """Each pass keeps the function to 1e-9 in float64."""
    passes: list[Pass] = [
        *PRESETS["exact"](target("onnxruntime")),
        FoldNormAffine(),
        Rotate(),
        SortChannels(),
        Smooth(grid=(0.5,)),
    ]
    _, reports = apply(graph, passes, Context(inputs=flat, calibration=[flat]))
    return ", ".join(_applied(report) for report in reports if report.promise == "exact")


def _applied(report: PassReport) -> str:
    return f"{report.name} {len(report.applied)}"


def eight_bits(graph: Graph, flat: list[Any]) -> str:
    """Contractions are quantized, and the result is a number."""
    passes = [Smooth(activations="dynamic", grid=(0.5,)), Quantize("dynamic", least=LEAST)]
    _, reports = apply(graph, passes, Context(inputs=flat, calibration=[flat]))
    last = reports[-1]
    if not last.applied:
        raise Failure(str(last.missed[0]) if last.missed else "no contraction with weights")
    if not last.damage < 1:
        raise Failure(f"the outputs change by {last.damage:.1e}")
    return f"{len(last.applied)} sites, {last.damage:.0e}"


def narrower(graph: Graph, flat: list[Any]) -> str:
    """Whatever can lose channels, heads or head widths: the graph sliced is the graph masked, to
    1e-9 in float64; one group after the other, and all of them at once."""
    centred, _ = CenterResidual().attempt(astype(graph, torch.float64))
    inputs, random = doubled(flat), torch.Generator().manual_seed(0)
    masked, sliced = centred.copy(), centred.copy()
    found, stopped = groups(centred)
    if not found:
        raise Failure("; ".join(str(reason) for _, reason in stopped[:1]) or "no class of channels")
    order = sorted(found, key=lambda group: group.role == "heads")  # counted in others' places
    gaps: list[float] = []
    for index, group in enumerate(order):
        gone = torch.rand(group.count, generator=random).argsort() < max(1, group.count // 4)
        _cut(masked, group, gone, mask)
        _cut(sliced, group, gone, drop)
        if index % (len(order) // ALONE + 1) == 0:
            whole, small = centred.copy(), centred.copy()
            _cut(whole, group, gone, mask)
            _cut(small, group, gone, drop)
            gaps.append(difference(execute(small, inputs), execute(whole, inputs)))
    values = execute(masked, inputs)
    gaps.append(difference(execute(sliced, inputs), values))
    if not max(gaps) <= EXACT_TOLERANCE:
        raise Failure(f"sliced and masked differ by {max(gaps):.1e}")
    if not difference(values, execute(centred, inputs)) > EXACT_TOLERANCE:
        raise Failure("what is left out makes no difference")
    roles = Counter(group.role for group in order)
    return f"{', '.join(f'{n} {role}' for role, n in roles.items())}, {max(gaps):.0e}"


def _cut(graph: Graph, group: Group, gone: torch.Tensor, change: Callable[..., object]) -> None:
    region = transport(graph, graph[group.value.name], Kind.PERMUTATION, axes=group.axes)
    assert isinstance(region, Region)
    change(graph, region, group.coordinates(~gone))


class _Drawn(ExpertScore):
    """Experts that go by lot."""

    def of(self, graph: Graph, found: Sequence[Mixture], context: Context) -> list[torch.Tensor]:
        random = torch.Generator().manual_seed(0)
        return [torch.rand(mixture.count, generator=random) for mixture in found]


def fewer_experts(graph: Graph, flat: list[Any]) -> str:
    """Every mixture can lose experts: the graph sliced is the graph with minus infinity for their
    scores, to 1e-9 in float64, all mixtures at once."""
    whole, inputs = astype(graph, torch.float64), doubled(flat)
    found, stopped = mixtures(whole)
    if stopped:
        raise Failure("; ".join(str(reason) for _, reason in stopped[:1]))
    if not found:
        raise NotAsked("no mixture of experts")
    if full := [m for m in found if m.least == m.count]:
        raise NotAsked(f"rows take all {full[0].count} experts of {full[0].name}")
    kept = PruneExperts(remove=0.25, score=_Drawn()).kept(whole, found, Context(inputs=inputs))
    taps = [mixture.without(stays) for mixture, stays in zip(found, kept, strict=True)]
    chosen = {m.name: s.nonzero().flatten().tolist() for m, s in zip(found, kept, strict=True)}

    def without(node: Node, value: Any) -> Any:
        """Each value is of one mixture at most."""
        return next((new for tap in taps if (new := tap(node, value)) is not None), None)

    small, _ = PruneExperts(experts=chosen)(whole, Context(inputs=inputs))
    masked = execute(whole, inputs, tap=without)
    gap = difference(execute(small, inputs), masked)
    if not gap <= EXACT_TOLERANCE:
        raise Failure(f"sliced and masked differ by {gap:.1e}")
    if not difference(masked, execute(whole, inputs)) > EXACT_TOLERANCE:
        raise Failure("what is left out makes no difference")
    left, count = sum(map(len, chosen.values())), sum(mixture.count for mixture in found)
    return f"{left} of {count} experts of {len(found)} mixtures, {gap:.0e}"


def runs_on_onnxruntime(graph: Graph, flat: list[Any]) -> str:
    """ONNX Runtime gives what the interpreter gives in float32, which of equal values topk finds
    left aside."""
    found = target("onnxruntime").lower(graph)(flat)
    gap = difference(found, execute(graph, flat))
    if not gap <= FLOAT32_TOLERANCE and any(node.op == "topk" for node in graph.nodes):
        with FirstOfTies():
            gap = difference(found, execute(graph, flat))
    if not gap <= FLOAT32_TOLERANCE:
        raise Failure(f"differs from the interpreter by {gap:.1e} in float32")
    return f"{gap:.0e}"
