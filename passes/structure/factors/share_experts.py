"""Experts that share a part: the matrices of a mixture as one common factor and a small matrix for
each (mixture of latent experts, MoLE, A61, F12.4).

    W_e ~ B C_e    B [I, r] for all, before the rows are told apart        (shared inputs)
    W_e ~ C_e B    B [r, O] for all, behind                                (shared outputs)

With shared inputs B and the C_e are the truncated singular value decomposition of all matrices side
by side, in the norm of all that the experts read; with shared outputs B is that of all matrices one
below the other, each in the norm of what its expert reads
(the leading eigenvectors of ``sum_e W_e' H_e W_e``). Exact at full rank; of one rank, shared
inputs have ``r (I + E O)`` numbers where the experts had ``E I O``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch

from ....ir import Graph, InputError, Node
from ....ir.interpret import execute
from ...base import Context, Promise, Remark, Stage, applied, missed
from ...options import AMOUNT, COUNT, check_numbers
from ...quantization.solvers import Hessian, singular
from ...sites import Asked, SparingPass
from ..groups import in_full
from ..options import at_most, check_part, whole
from .forms import Writer

Side: TypeAlias = Literal["inputs", "outputs", "best"]


@dataclass(frozen=True)
class Shared:
    """What stands for the matrices of experts.

    Attributes:
        common: ``[r, I]`` or ``[O, r]``, as a linear layer has it.
        own: ``[E, r, O]`` or ``[E, I, r]``.
        lost: The part of the power of the results that is lost.
    """

    side: Side
    common: torch.Tensor
    own: torch.Tensor
    lost: float


@dataclass(frozen=True)
class ShareExperts(SparingPass):
    """Give the experts of a mixture a common factor.

    Args:
        remove: The part of the experts' parameters that is to go, between 0 and 1.
        rank: In place of ``remove``.
        side: Where the common factor is; ``best``: where less is lost.
        whitened: Whether data say what counts; otherwise all weights count the same.
        damping: Of the Hessians, as a part of their mean diagonal.
        larger: Also where that takes more parameters.
    """

    remove: float = 0.3
    rank: int | None = None
    side: Side = "best"
    whitened: bool = True
    damping: float = 0.01
    larger: bool = False
    what: ClassVar[str] = "the product of rows with the matrices of their experts (grouped_mm)"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_part(self.remove)
        check_numbers(self, rank=COUNT | None, damping=AMOUNT)
        if self.side not in get_args(Side):
            raise InputError(
                f"experts share no {self.side!r}", do=f"one of {', '.join(get_args(Side))}"
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        remarks: list[Remark] = []
        mixtures: list[Node] = []
        if not any(node.op == "grouped_mm" for node in graph.nodes):
            text = "no rows are multiplied by matrices of the experts they are sent to (grouped_mm)"
            remarks.append(missed(graph.output, text))
        for node in graph.nodes:
            if node.op == "grouped_mm" and asked(node):
                reason = asked.protected_in([node]) or _refused(node)
                remarks += [missed(node, reason)] if reason else []
                mixtures += [] if reason else [node]
        seen: dict[Node, list[Hessian]] = {}
        if self.whitened and mixtures:
            seen = _observed(graph, mixtures, context, self.name)
        for node in mixtures:
            remarks.append(self._share(graph, node, seen.get(node)))
        return remarks

    def _share(self, graph: Graph, node: Node, hessians: list[Hessian] | None) -> Remark:
        weight = graph.value(node.args[1]).double()
        sides: tuple[Side, ...] = ("inputs", "outputs") if self.side == "best" else (self.side,)
        tried: list[Shared] = []
        for side in sides:
            rank = self._rank(weight, side)
            count = rank * _each(weight, side)
            if rank and (self.larger or count < weight.numel()):
                tried.append(_shared(weight, hessians, side, rank, self.damping))
        if not tried:
            least = min(_each(weight, side) for side in sides)
            if self.rank is None and least < weight.numel():
                raise InputError(
                    f"remove={self.remove} leaves nothing of {node.name}: of rank 1 a common "
                    f"factor takes {least:,} of its {weight.numel():,} parameters",
                    where=node.at,
                    do=f"remove={at_most(1 - least / weight.numel())}, at most",
                )
            room = f"{weight.numel():,}"
            return missed(node, f"a common factor takes more parameters than its {room}")
        best = min(tried, key=lambda shared: shared.lost)
        count = best.common.numel() + best.own.numel()
        new = _emit(graph, node, best)
        text = (
            f"{len(weight)} experts share their {best.side}, rank {min(best.common.shape)}: "
            f"{weight.numel():,} parameters to {count:,}, "
            f"{100 * best.lost:.3g} % of the power of the results lost"
        )
        return applied(new, text, side=best.side, lost=best.lost, parameters=count)

    def _rank(self, weight: torch.Tensor, side: Side) -> int:
        experts, inputs, outputs = weight.shape
        most = (
            min(inputs, experts * outputs) if side == "inputs" else min(outputs, experts * inputs)
        )
        room = whole((1 - self.remove) * weight.numel() / _each(weight, side))
        return min(most, room if self.rank is None else self.rank)


def _refused(node: Node) -> str:
    weight: Node = node.args[1]
    if weight.op != "param":
        return f"{weight.name} is stored as codes, or computed"
    others = [user.name for user in weight.users if user is not node]
    return f"{weight.name} is also read by {', '.join(others)}" if others else ""


def _each(weight: torch.Tensor, side: Side) -> int:
    """How many parameters each rank takes."""
    experts, inputs, outputs = weight.shape
    return inputs + experts * outputs if side == "inputs" else outputs + experts * inputs


def _observed(
    graph: Graph, mixtures: Sequence[Node], context: Context, who: str
) -> dict[Node, list[Hessian]]:
    """The second moments of what each expert of each mixture reads."""
    batches, single = context.need_calibration(who), in_full(graph)
    own = {single[node.name]: node for node in mixtures}
    read = {used for node in own for used in (node.args[0], node.args[2])}
    sums: dict[Node, torch.Tensor] = {}
    for batch in context.progress(batches, f"{who}: watching experts"):
        values: dict[Node, torch.Tensor] = {}

        def tap(node: Node, value: Any, values: dict[Node, torch.Tensor] = values) -> None:
            if node in read:
                values[node] = value
            if node in own:
                rows, ends = values[node.args[0]], values[node.args[2]].tolist()
                parts = [rows[a:b].double() for a, b in zip([0, *ends], ends, strict=False)]
                found = torch.stack([part.T @ part for part in parts])
                sums[own[node]] = sums.get(own[node], torch.zeros(())) + found

        with torch.no_grad():
            execute(single, batch, tap=tap)
    return {node: [Hessian(matrix) for matrix in some] for node, some in sums.items()}


def _shared(
    weight: torch.Tensor, hessians: list[Hessian] | None, side: Side, rank: int, damping: float
) -> Shared:
    experts, inputs, outputs = weight.shape
    if side == "inputs":
        beside = weight.movedim(1, 2).reshape(experts * outputs, inputs)
        whole = (
            None if hessians is None else Hessian(torch.stack([h.matrix for h in hessians]).sum(0))
        )
        left, values, common = singular(beside, whole, damping)
        common = common[:rank]
        own = (left[:, :rank] * values[:rank]).reshape(experts, outputs, rank).movedim(1, 2)
        stands = common.T @ own
    else:
        gram = weight.movedim(1, 2) @ weight  # of the results, [E, O, O]
        if hessians is not None:
            # An expert that saw few rows may see others, so none of its inputs counts for nothing.
            mean = torch.stack([h.diagonal.mean() for h in hessians]).mean()
            matrices = torch.stack([h.matrix for h in hessians])
            gram = damping * mean * gram + weight.movedim(1, 2) @ matrices @ weight
        common = torch.linalg.eigh(gram.sum(0)).eigenvectors.flip(1)[:, :rank]
        own = weight @ common
        stands = own @ common.T
    return Shared(side, common, own, _lost(weight, stands, hessians))


def _lost(weight: torch.Tensor, stands: torch.Tensor, hessians: list[Hessian] | None) -> float:
    def power(matrices: torch.Tensor) -> float:
        if hessians is None:
            return float(matrices.square().sum())
        pairs = zip(matrices, hessians, strict=True)
        return sum(float(((h.matrix @ matrix) * matrix).sum()) for matrix, h in pairs)

    return power(weight - stands) / max(power(weight), 1e-300)


def _emit(graph: Graph, node: Node, shared: Shared) -> Node:
    writer, offsets = Writer(graph, node), node.args[2]
    common, own = writer.param("common", shared.common), writer.param("own", shared.own)
    if shared.side == "inputs":
        low = writer.add("linear", writer.data, common)
        found = writer.add("grouped_mm", low, own, offsets)
    else:
        found = writer.add("linear", writer.add("grouped_mm", writer.data, own, offsets), common)
    graph.supersede(node, found)
    return found
