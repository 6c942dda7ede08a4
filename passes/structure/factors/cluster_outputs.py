"""Output heads of few rows: the classes of one cluster share theirs (VQ-Logits, A73).

    y_v = c_m(v) h + b_v            c of [K, n], m(v) the cluster of class v

The K rows are the means of clusters of the head's rows, by k-means in the norm of what the head
gives, ``|R' (w_v - c)|`` with R R' the second moments of h. Within a cluster all logits would be
equal but for b, which breaks the ties:

    mean           the mean of what is lost, ``(w_v - c_m(v)) E[h]``: least squares
    distribution   such that each class is as probable, on average over the calibration data, as it
                   was: what the divergence of the distributions is least for

K rows for V save products; parameters only where the head's weight is not tied to an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import torch

from ....ir import Graph, InputError, Node
from ....ir.gauge import weighted
from ....ir.graph import walk
from ....ir.interpret import values_of
from ...base import Context, Promise, Remark, Stage, applied, missed
from ...calibration import as_rows, evenly, padding_mask
from ...options import AMOUNT, COUNT, check_numbers
from ...quantization.solvers import Hessian
from ...sites import Asked, SparingPass
from ..groups import in_full
from .clusters import clusters, means
from .forms import Writer

TieBreak: TypeAlias = Literal["none", "mean", "distribution"]
ROWS = 1024  # of what the head reads, over which distributions are averaged
AT_ONCE = 128  # rows of logits in memory
ROUNDS = 8  # of the fit of a bias to distributions


@dataclass(frozen=True)
class ClusterOutputs(SparingPass):
    """Give a head's classes the rows of clusters.

    Args:
        codes: K, how many rows there are to be.
        bias: How ties within a cluster are broken.
        likely: Whether likely classes count for more in the clusters, by their mean probability;
            otherwise all count the same.
        iterations: Of k-means.
        damping: Of the second moments, as a part of their mean diagonal.
    """

    codes: int = 4096
    bias: TieBreak = "distribution"
    likely: bool = False
    iterations: int = 10
    damping: float = 0.01
    what: ClassVar[str] = "a linear layer whose result is the graph's, or a softmax reads"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_numbers(self, codes=COUNT, iterations=COUNT, damping=AMOUNT)
        if self.bias not in get_args(TieBreak):
            raise InputError(
                f"ties are not broken by {self.bias!r}",
                do=f"one of {', '.join(get_args(TieBreak))}",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        remarks: list[Remark] = []
        heads: list[Node] = []
        for node in graph.nodes:
            if node.op == "linear" and weighted(node) and (self.sites or is_head(graph, node)):
                if asked(node):
                    reason = asked.protected_in([node]) or self._refused(node)
                    remarks += [missed(node, reason)] if reason else []
                    heads += [] if reason else [node]
        if not heads:
            return remarks
        seen = _read(graph, heads, context, self.name)
        for node in heads:
            remarks.append(self._cluster(graph, node, seen[node], context))
        return remarks

    def _refused(self, node: Node) -> str:
        weight: Node = node.args[1]
        if weight.op != "param":
            return f"{weight.name} is stored as codes"
        if self.codes >= int(weight.shape[0]):
            return f"it has only {weight.shape[0]} outputs"
        return ""

    def _cluster(self, graph: Graph, node: Node, rows: torch.Tensor, context: Context) -> Remark:
        weight = graph.value(node.args[1]).float()
        old = node.operand(2)
        given = torch.zeros(len(weight)) if old is None else graph.value(old).float()
        wide = rows.double()
        root = torch.linalg.cholesky(Hessian(wide.T @ wide).damped(self.damping)).float()
        chances = _chances(rows, lambda some: some @ weight.T + given)
        power = chances if self.likely else torch.ones(len(weight))
        code_of = clusters(weight @ root, self.codes, self.iterations, context.generator(), power)
        codes = means(weight, code_of, self.codes, power)
        lost = weight - codes[code_of]
        bias = given
        if self.bias == "mean":
            bias = given + lost @ rows.mean(0)
        elif self.bias == "distribution":
            bias = _levelled(rows, codes, code_of, given, chances)
        kept = float((lost @ root).square().sum() / (weight @ root).square().sum())
        source: Node = node.args[1]
        tied = [user.name for user in source.users if user is not node]
        text = f"{self.codes:,} rows for {len(weight):,}, {100 * kept:.3g} % of the power lost"
        if tied:
            text += f"; {source.name} stays, as {', '.join(tied)} reads it"
        plain = self.bias == "none" and old is None
        new = self._emit(graph, node, codes, code_of, None if plain else bias)
        return applied(new, text, lost=kept, codes=self.codes)

    def _emit(
        self,
        graph: Graph,
        node: Node,
        codes: torch.Tensor,
        code_of: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> Node:
        writer = Writer(graph, node)
        low = writer.add("linear", writer.data, writer.param("codes", codes))
        order = graph.param(f"{node.args[1].name}_code_of", code_of, origin=())
        found = writer.add("index_select", low, order, dim=len(node.shape) - 1)
        if bias is not None:
            found = writer.add("add", found, writer.param("bias", bias))
        graph.supersede(node, found)
        return found


def is_head(graph: Graph, node: Node) -> bool:
    """Whether a value is the graph's result, or what a softmax reads."""
    return any(out is node for out in walk(graph.outputs)) or any(
        user.op in ("softmax", "log_softmax") for user in node.users
    )


def _read(
    graph: Graph, heads: Sequence[Node], context: Context, who: str
) -> dict[Node, torch.Tensor]:
    """A sample of the rows that each head reads, ``[k, n]``."""
    batches = context.need_calibration(who)
    single, keep = in_full(graph), -(-ROWS // len(batches))
    sources = {head.args[0]: single[head.name].args[0] for head in heads}
    found: dict[Node, list[torch.Tensor]] = {source: [] for source in sources}
    for batch in context.progress(batches, f"{who}: watching activations"):
        mask, values = padding_mask(batch), values_of(single, batch, list(sources.values()))
        for source, value in zip(sources, values, strict=True):
            found[source].append(evenly(as_rows(value, -1, mask), keep).float().clone())
    return {head: torch.cat(found[head.args[0]]) for head in heads}


def _chances(rows: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The mean probability of each class over some rows."""
    parts = [logits(part).softmax(-1).double().sum(0) for part in rows.split(AT_ONCE)]
    return (torch.stack(parts).sum(0) / len(rows)).float()


def _levelled(
    rows: torch.Tensor,
    codes: torch.Tensor,
    code_of: torch.Tensor,
    bias: torch.Tensor,
    wanted: torch.Tensor,
) -> torch.Tensor:
    """The bias with which classes are as probable as wanted: ``b += log(wanted / found)`` until
    they are, nearly."""
    low = rows @ codes.T
    least = torch.finfo(torch.float32).tiny
    for _ in range(ROUNDS):
        found = _chances(low, lambda some, b=bias: some[:, code_of] + b)
        bias = bias + (wanted.clamp(min=least) / found.clamp(min=least)).log()
    return bias
