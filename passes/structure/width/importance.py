"""What each unit of a group is worth: the score of a removal."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from ....ir import Graph, Node
from ....ir.gauge.sites import CONTRACTIONS
from ....ir.gauge.tensors import at_all_places, places_of
from ....ir.interpret import execute
from ....ir.laws import Action
from ....ir.state import answered
from ...base import Context
from ...calibration import as_matrix, as_rows
from ...options import COUNT, POSITIVE, check_known, check_numbers
from ...probes import Metric, power, seeds
from ...quantization.simulated import floats
from ..elimination import Elimination, order_of_elimination
from ..groups import Group, Reader, in_full, readers


@dataclass(frozen=True)
class Importance(abc.ABC):
    """A value with typed options."""

    @abc.abstractmethod
    def of(self, graph: Graph, groups: Sequence[Group], context: Context) -> list[torch.Tensor]:
        """For each group, what its units are worth, ``float64[units]``, none negative."""

    @property
    def name(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Magnitude(Importance):
    """``sum |w|^power`` over all parameters that hold a unit.

    Args:
        power: 1 or 2, or another.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        check_numbers(self, power=POSITIVE)

    def of(self, graph: Graph, groups: Sequence[Group], context: Context) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for group in groups:
            total = torch.zeros(len(group.unit), dtype=torch.float64)
            for param, action in group.held():
                value = graph.value(param).double().abs() ** self.power
                total += places_of(at_all_places(value, action), action, len(total)).sum(1)
            found.append(by_unit(group, total))
        return found


@dataclass(frozen=True)
class Activation(Importance):
    """``mean over positions of x^2``, of what is read of a unit by contractions."""

    def of(self, graph: Graph, groups: Sequence[Group], context: Context) -> list[torch.Tensor]:
        batches = context.need_calibration(self.name)
        cuts = Cuts(groups)
        totals = [torch.zeros(len(group.unit), dtype=torch.float64) for group in groups]
        single = in_full(graph)

        def read(reader: Node, used: Node, value: Any) -> Any:
            for index, action in cuts.at(reader, used):
                rows = value.detach().double().square().mean(0, keepdim=True)
                totals[index] += coordinates(rows, action, len(totals[index]))[0]
            return value

        with torch.no_grad():
            for batch in context.progress(batches, f"{self.name}: watching activations"):
                execute(single, batch, read=read)
        return [by_unit(g, t / len(batches)) for g, t in zip(groups, totals, strict=True)]


@dataclass(frozen=True)
class Taylor(Importance):
    """What the outputs lose with a unit, to first order, from gradients alone (A74, A70, F9.3).

        E_r (sum_t g_t' x_t)^2 = |J x|^2,     g = the gradient of r'y by what is read of the unit

    With outputs y and their Jacobian J by the unit's values x, over the positions t of a sample.
    No labels are needed: with r normal, r'y is the gradient of the squared error from a disturbed
    output, which at the undisturbed one would vanish.

    Args:
        probes: Random directions r for each batch.
        batches: At most so many of the calibration batches.
        metric: ``error`` of the outputs, relative; or ``likelihood``, where they are logits.
        absolute: ``E |sum_t g_t' x_t|`` in place of the square, and relative to the group's mean.
    """

    probes: int = 4
    batches: int = 8
    metric: Metric = "error"
    absolute: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, probes=COUNT, batches=COUNT)
        check_known([self.metric], get_args(Metric), "metric")

    def of(self, graph: Graph, groups: Sequence[Group], context: Context) -> list[torch.Tensor]:
        batches = context.need_calibration(self.name)[: self.batches]
        single, cuts, generator = in_full(graph), Cuts(groups), context.generator()
        found = [torch.zeros(group.count, dtype=torch.float64) for group in groups]
        scale = 0.0
        runs = [batch for batch in batches for _ in range(self.probes)]
        for batch in context.progress(runs, f"{self.name}: probing"):
            products = [torch.zeros(()) for _ in groups]

            def read(reader: Node, used: Node, value: Any, products: Any = products) -> Any:
                here = cuts.at(reader, used)
                if not here:
                    return value
                own = value.view_as(value) if value.requires_grad else value.detach()
                own.requires_grad_()

                def hook(gradient: torch.Tensor) -> None:
                    lost = gradient * own.detach()
                    for index, action in here:
                        size = len(groups[index].unit)
                        products[index] = products[index] + coordinates(lost, action, size)

                own.register_hook(hook)
                return own

            with torch.enable_grad():
                outputs = answered(single, execute(single, batch, read=read))
                directions = seeds(outputs, self.metric, generator)
                torch.autograd.backward(floats(outputs), directions)
            scale += power(outputs, self.metric)
            for index, group in enumerate(groups):
                lost = by_unit(group, products[index].double().reshape(-1, len(group.unit)))
                found[index] += lost.abs().sum(0) if self.absolute else lost.square().sum(0)
        if self.absolute:
            return [each / each.mean().clamp(min=1e-300) for each in found]
        return [each / max(scale, 1e-30) for each in found]


@dataclass(frozen=True)
class Reconstruction(Importance):
    """What contractions lose with a unit, as a part of the power of their results, when the others
    make up for it: units are eliminated one after another (``elimination``).

    Groups that no contraction with weights sums over (keys) are scored as ``Taylor`` does.
    """

    def of(self, graph: Graph, groups: Sequence[Group], context: Context) -> list[torch.Tensor]:
        batches = context.need_calibration(self.name)
        single = in_full(graph)
        read_by = [readers(group) for group in groups]
        axes = {r.data.name: CONTRACTIONS[r.node.op] for some in read_by for r in some}
        second: dict[str, torch.Tensor] = {}

        def tap(node: Node, value: Any) -> None:
            if node.name in axes:
                rows = as_rows(value, axes[node.name])
                found = (rows.T @ rows).double()
                second[node.name] = second[node.name] + found if node.name in second else found

        with torch.no_grad():
            for batch in context.progress(batches, f"{self.name}: watching activations"):
                execute(single, batch, tap=tap)
        unread = [group for group, some in zip(groups, read_by, strict=True) if not some]
        by_gradients = iter(Taylor().of(graph, unread, context) if unread else ())
        found: list[torch.Tensor] = []
        for group, some in zip(groups, read_by, strict=True):
            if not some:
                found.append(next(by_gradients))
                continue
            parts: dict[Node, list[Reader]] = {}
            for reader in some:
                parts.setdefault(reader.data, []).append(reader)
            found.append(
                order_of_elimination(
                    [
                        Elimination(
                            second[data.name],
                            torch.cat([as_matrix(graph.value(r.node.args[1])) for r in of]),
                            of[0].units(group),
                        )
                        for data, of in parts.items()
                    ],
                    group.count,
                )
            )
        return found


class Cuts:
    """Where what leaves a group is read: a group is worth what goes through its cut.

    These are the contractions with weights that sum over its channels; where there are none (keys,
    say), the readers whose results hold the channels no more.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._at: dict[tuple[str, str], list[tuple[int, Action]]] = {}  # copies have the names
        for index, group in enumerate(groups):
            held = group.region.actions
            pairs = [(reader.node, reader.data) for reader in readers(group)]
            if not pairs:
                first = next(
                    (value, user) for value in held for user in value.users if user not in held
                )
                pairs = [(first[1], first[0])]
            for reader, value in dict.fromkeys(pairs):
                key = (reader.name, value.name)
                self._at.setdefault(key, []).append((index, held[value]))

    def at(self, reader: Node, used: Node) -> list[tuple[int, Action]]:
        """The groups that are read here, and how the value holds their channels."""
        return self._at.get((reader.name, used.name), [])


def coordinates(value: torch.Tensor, action: Action, size: int) -> torch.Tensor:
    """A value summed over its positions and over the places of each coordinate, for every sample
    (its first axis), ``[B, size]``."""
    axes = tuple(range(-len(action.axes), 0))
    moved = value.movedim(action.axes, axes).flatten(-len(axes))
    rows = moved.flatten(1, -2).sum(1) if moved.dim() > 2 else moved
    labels = action.labels.flatten().long()
    held = labels >= 0
    return rows.new_zeros(len(rows), size).index_add_(1, labels[held], rows[:, held])


def by_unit(group: Group, found: torch.Tensor) -> torch.Tensor:
    """Sums over the coordinates of each unit, along the last axis."""
    total = found.new_zeros(*found.shape[:-1], group.count)
    return total.index_add_(-1, group.unit, found)


SCORES: Mapping[str, Importance] = {
    "magnitude": Magnitude(),
    "activation": Activation(),
    "taylor": Taylor(),
    "reconstruction": Reconstruction(),
}
