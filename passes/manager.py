"""Run passes in order, check each one's promise, and keep the record.

Exact passes run on a float64 copy, where rounding is 1e-16 and an equality can be told from a near
miss; after the last of them the weights are cast back once, and that rounding is reported apart.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from ..ir import Graph, PassError, PromiseError, TargetError, TensorType, astype
from ..ir.interpret import execute
from ..ir.state import answered, run_as_traced
from ..ir.types import evaluate
from .base import Context, Pass, Promise, Remark, Stage

EXACT_TOLERANCE = 1e-9  # relative L2, in float64
CHUNK = 1 << 20  # numbers of outputs, which may be many, that are compared at once


@dataclass
class PassReport:
    """What one pass did: its promise, time in seconds, remarks, and the damage measured."""

    name: str
    promise: str
    seconds: float
    damage: float  # relative L2 of the outputs against the original's; float64 for exact passes
    remarks: list[Remark] = field(default_factory=list[Remark])

    @property
    def applied(self) -> list[Remark]:
        return [remark for remark in self.remarks if remark.applied]

    @property
    def missed(self) -> list[Remark]:
        return [remark for remark in self.remarks if not remark.applied]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_order(passes: Sequence[Pass]) -> None:
    """Refuse an order that breaks a promise. A smaller network is folded and transformed as any."""
    for before, after in itertools.pairwise(passes):
        if after.stage < before.stage and before.stage is not Stage.STRUCTURE:
            raise PassError(
                f"{after.name} comes after {before.name}, but a pass of the stage "
                f"{after.stage.name.lower()} must come before {before.stage.name.lower()}",
                do=f"move {after.name} before {before.name}",
            )


def apply(
    graph: Graph,
    passes: Sequence[Pass],
    context: Context,
    *,
    dtype: torch.dtype = torch.float32,
    release: bool = False,
) -> tuple[Graph, list[PassReport]]:
    """Run the passes; the result computes in ``dtype``.

    Args:
        release: Whether the graph that is given loses its weights, so that each can go once it is
            replaced.

    Raises:
        PassError: The order breaks a promise.
        PromiseError: A pass changed the function by more than it promised.
    """
    check_order(passes)
    current, doubled = astype(graph, torch.float64), True
    trials = probes(current, context)
    wanted = [execute(current, trial) for trial in trials]
    reports: list[PassReport] = []
    for name in graph.store if release else ():
        graph.store.let_go(name, "the weights of this graph were released")
    equal, known = wanted, 0.0  # what exact passes must give, and how far off the graph is
    original: Graph | None = None
    for index, step in enumerate(passes):
        exact = step.promise is Promise.EXACT
        if exact and not doubled:  # behind a pass that changed the function
            current, doubled = astype(current, torch.float64), True
            equal, known = [run_as_traced(current, trial) for trial in trials], 0.0
        elif not exact and doubled:
            current, doubled = _cast(current, dtype, trials, equal, reports), False
        if not exact and original is None and any(later.compares for later in passes[index + 1 :]):
            original = current.copy()
        own = replace(
            context, journal=context.journal.inside(f"{index}-{step.name}"), original=original
        )
        goal = equal if exact else wanted
        current = _run(
            step, current, own, trials, goal, reports, graph, known=known, release=release
        )
        known = reports[-1].damage
    if doubled:
        current = _cast(current, dtype, trials, equal, reports)
    return current, reports


def _run(
    step: Pass,
    graph: Graph,
    context: Context,
    trials: list[list[Any]],
    wanted: list[tuple[Any, ...]],
    reports: list[PassReport],
    traced: Graph,
    *,
    known: float,
    release: bool,
) -> Graph:
    """One pass, and what it did; ``known`` is the damage of the graph that it is given."""
    start, exact = time.perf_counter(), step.promise is Promise.EXACT
    try:
        # Of an exact pass that breaks its promise, the graph before is evidence.
        new, remarks = step.attempt(graph, context, in_place=release and not exact)
    except Exception as error:
        error.add_note(f"in pass {step.name}, after {[report.name for report in reports]}")
        raise
    _check(step, new, context)
    if exact and _is_same(graph, new):
        damage = known
    elif new.restarts:  # from another state than the model's, outputs cannot be compared
        damage = float("nan")
    else:
        # Damage is judged on the user's data alone, and by what the user reads: what a network
        # makes of noise is nobody's concern, nor is what it keeps for its next call.
        pairs = list(zip(trials, wanted, strict=True))[: None if exact else 1]
        judged = tuple if exact else partial(answered, traced)
        double = astype(new, torch.float64)
        damages = (
            difference(judged(run_as_traced(double, trial)), judged(want)) for trial, want in pairs
        )
        damage = max(damages, default=0.0)
    seconds = time.perf_counter() - start
    report = PassReport(step.name, step.promise.value, seconds, damage, remarks)
    reports.append(report)
    if exact and not damage <= EXACT_TOLERANCE:
        sites = ", ".join(remark.site for remark in report.applied[:5])
        raise PromiseError(
            f"{step.name} promised an equal function and changed the outputs by {damage:.2g} "
            "(relative L2, float64)",
            where=f"sites: {sites}",
            do="this is a defect of the pass: leave it out, and report it with the model",
            evidence=_evidence(step, graph, new, remarks),
        )
    return new


def _is_same(before: Graph, after: Graph) -> bool:
    """Whether a pass left a graph as it was: all that its text says, and the very tensors."""
    old, new = before.store.tensors, after.store.tensors
    return str(before) == str(after) and all(new[name] is old[name] for name in after.params)


def _check(step: Pass, new: Graph, context: Context) -> None:
    """Refuse, by the name of the pass, what the target cannot take."""
    try:
        context.check(new)
    except TargetError as error:
        raise TargetError(
            f"the target cannot take what {step.name} made: {error.what}",
            where=error.where,
            do=f"leave out {step.name}, or compile for another target",
        ) from None


def _evidence(step: Pass, before: Graph, after: Graph, remarks: list[Remark]) -> str:
    """What a pass did, as text."""
    parts = [
        f"{step.name}: {step!r}",
        "\n".join(map(str, remarks)),
        f"# before\n{before}",
        f"# after\n{after}",
    ]
    return "\n\n".join(parts) + "\n"


def _cast(
    graph: Graph,
    dtype: torch.dtype,
    trials: list[list[Any]],
    wanted: list[tuple[Any, ...]],
    reports: list[PassReport],
) -> Graph:
    """Back to the working dtype; what rounding the weights costs is measured in float64."""
    start = time.perf_counter()
    new = astype(graph, dtype)
    again = astype(new, torch.float64)
    damage = max(
        (difference(run_as_traced(again, t), w) for t, w in zip(trials, wanted, strict=True)),
        default=0.0,
    )
    reports.append(PassReport("Round", f"rounding to {dtype}", time.perf_counter() - start, damage))
    return new


def probes(graph: Graph, context: Context) -> list[list[Any]]:
    """The inputs on which promises are checked, in float64: the user's, and random ones like them.

    Integers are drawn from between the least and the greatest that the user's example holds.
    """
    mine = [_double(value) for value in context.inputs]
    generator = context.generator()
    return (
        [mine, [_random_like(value, generator) for value in mine]]
        if mine
        else [_made_up(graph, generator)]
    )


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().double()
    return value


def _random_like(value: Any, generator: torch.Generator) -> Any:
    if not isinstance(value, torch.Tensor) or value.dtype == torch.bool or not value.numel():
        return value
    if value.is_floating_point():
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        return value.mean() + (value.std() if value.numel() > 1 else 1.0) * noise
    low, high = int(value.min()), int(value.max())
    return torch.randint(low, high + 1, value.shape, generator=generator, dtype=value.dtype)


def _made_up(graph: Graph, generator: torch.Generator) -> list[Any]:
    point = {name: max(low, 2) for name, (low, _) in graph.symbols.items()}
    made: list[Any] = []
    for node in graph.inputs:
        assert isinstance(node.type, TensorType)
        shape = [evaluate(size, point) for size in node.type.shape]
        if node.type.dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator, dtype=node.type.dtype))
        else:
            made.append(torch.zeros(shape, dtype=node.type.dtype))
    return made


def difference(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The greatest relative L2 difference among the outputs; infinite where finiteness differs."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if not isinstance(b, torch.Tensor):
            worst = max(worst, 0.0 if a == b else float("inf"))
            continue
        if b.is_complex():
            a, b = torch.view_as_real(a), torch.view_as_real(b)
        gap = scale = 0.0
        pairs = zip(a.flatten().split(CHUNK), b.expand_as(a).flatten().split(CHUNK), strict=True)
        for x, y in ((x.double(), y.double()) for x, y in pairs):
            same = (x == y) | (x.isnan() & y.isnan())  # infinities of masks
            gap += float(torch.where(same, torch.zeros_like(x), x - y).square().sum())
            scale += float(torch.where(y.isfinite(), y, torch.zeros_like(y)).square().sum())
        ratio = math.sqrt(gap / scale) if scale > 0 else math.sqrt(gap)
        worst = max(worst, ratio if ratio == ratio else float("inf"))
    return worst
