"""Turn values by orthogonal matrices, so that no channel stands out (A13, A24, A54; F8.1).

    RMSNorm(x Q) = RMSNorm(x) Q       W x = (W Q) (Q' x)       softmax(..) (v Q) = (softmax(..) v) Q

Three places, each found from the graph. A **residual stream** that norms without weight read is
turned by one matrix: whatever writes it is multiplied by Q, whatever reads it by Q'. Where a table
shares its weights with the head, the stream is turned by an op behind the table, and turned back by
one before the last norm; not more than ``ops`` such are put in, and fewer than there are norms. The
**values of each attention head** and the result take one matrix a head. What **contractions read**
and nothing else turns may be turned by an op put in (a product of small factors), and turned back
in their weights. Exact; norms with weights are folded first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias, get_args

import torch

from ...ir import Graph, InputError, Node, TensorType
from ...ir.gauge import (
    Blocked,
    Region,
    Site,
    apply,
    attention_pairs,
    inputs_of_contractions,
    transport,
)
from ...ir.laws import Kind
from ...ir.symbols import spelled_out
from ...ir.types import of
from ..base import Context, Remark, Stage, applied, blocked, missed
from ..calibration import observe
from ..options import SOME, Range, check_kinds, check_known, check_numbers, divisors, nearest
from ..sites import Asked, SitePass
from ..ties import broken_tie, tie_in_the_way, transport_with_ties
from .fold_norm_affine import FoldNormAffine
from .hadamard import factors, hadamard, product, widest

Plain: TypeAlias = Literal["hadamard", "random"]
Matrix: TypeAlias = Plain | Literal["pca"]

_BLOCK = Range(2, whole=True)


@dataclass(frozen=True)
class Rotate(SitePass):
    """Turn residual streams, attention heads and the inputs of contractions.

    Args:
        residual: The matrix of a stream: ``hadamard`` with random signs, ``random``, or ``pca``
            (the principal axes of calibration data, the greatest first); ``None`` for none.
        heads: The matrix of each head's values.
        inputs: Whether an op turns what contractions read, where nothing else does: all channels
            by one matrix, or blocks of so many by one each, as groups of their weights (A36).
        ops: How many ops a stream may cost.
        untie: Whether tied parameters may be stored twice instead.
    """

    residual: Matrix | None = "hadamard"
    heads: Plain | None = "hadamard"
    inputs: bool | int = False
    ops: int = 2
    untie: bool = False
    what: ClassVar[str] = "what an RMSNorm, an attention or a contraction reads, or the reader"
    stage: ClassVar[Stage] = Stage.GAUGE

    def __post_init__(self) -> None:
        check_known([self.residual], (*get_args(Plain), "pca", None), "matrix of streams")
        check_known([self.heads], (*get_args(Plain), None), "matrix of heads")
        check_numbers(self, ops=SOME, inputs=_BLOCK | False | True)
        check_kinds(self, untie=bool)
        if self.inputs and factors(self.inputs) is None:
            raise InputError(
                f"there is no Hadamard matrix of order {self.inputs} at hand",
                do=f"inputs: {widest(self.inputs)}, or a power of two",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        remarks: list[Remark] = []
        turned: set[Node] = set()
        generator = context.generator()
        if self.residual is not None:
            folds = FoldNormAffine(self.untie).run(graph, context)
            remarks += [replace(r, data={"preparation": True}) for r in folds if r.applied]
            for norm in [node for node in graph.nodes if node.op == "rms_norm"]:
                if not norm.args or not asked(norm, norm.args[0]):
                    continue
                if norm.args[0] not in turned and norm not in turned:
                    remarks.append(self._stream(graph, context, norm, turned, generator))
        if self.heads is not None:
            for site in list(attention_pairs(graph)):
                if site.value is site.readers[0].args[2] and asked(site.value, *site.readers):
                    remarks.append(self._heads(graph, site, self.heads, turned, generator))
        if self.inputs:
            for site in list(inputs_of_contractions(graph)):
                if not asked(site.value, *site.readers):
                    continue
                if site.value not in turned and site.axis == -1:
                    remarks.append(self._input(graph, site))
        return remarks

    # -- residual streams -----------------------------------------------------------------------

    def _stream(
        self,
        graph: Graph,
        context: Context,
        norm: Node,
        turned: set[Node],
        generator: torch.Generator,
    ) -> Remark:
        value: Node = norm.args[0]
        # The whole stream; where that would break a tie, behind what first writes it.
        region, broken = transport_with_ties(
            graph, value, Kind.ORTHOGONAL, untie=self.untie, restore="anywhere", insert=True
        )
        if isinstance(region, Blocked):
            text = broken_tie(broken) or f"its stream cannot be turned: {region}"
            return blocked(norm, text, region)
        norms = [n for n in region.seen if n.op == "rms_norm" and n.args[0] in region.actions]
        costs = len({restore.value for restore in region.restores}) + region.inserted
        if costs >= len(norms):
            return missed(
                norm, f"its stream is not worth turning: {costs} ops for {len(norms)} norms"
            )
        if costs > self.ops:
            causes = dict.fromkeys(str(cause) for cause in region.restore_causes)
            text = (
                f"its stream cannot be turned: {costs} ops would be needed, as {'; '.join(causes)}"
            )
            return missed(norm, text)
        assert self.residual is not None
        if self.residual == "pca":
            matrix, name = _principal_axes(graph, context, region), "its principal axes"
        else:
            matrix, name = _by_cell(region, self.residual, generator)
        turned.update(region.actions)
        turned.update(norms)
        apply(graph, region, matrix)
        text = f"turned by {name} through {len(region.parameters)} parameters"
        return applied(value, f"{text}, with {costs} ops; {len(norms)} norms", ops=costs)

    # -- heads and inputs -----------------------------------------------------------------------

    def _heads(
        self,
        graph: Graph,
        site: Site,
        kind: Plain,
        turned: set[Node],
        generator: torch.Generator,
    ) -> Remark:
        region = transport(graph, site.value, Kind.ORTHOGONAL, axes=site.axes)
        if isinstance(region, Blocked):
            return blocked(site.value, f"its heads cannot be turned: {region}", region)
        if sentence := tie_in_the_way(graph, region, self.untie):
            return missed(site.value, sentence)
        matrix, name = _by_cell(region, kind, generator)
        apply(graph, region, matrix)
        turned.update(region.actions)
        return applied(site.value, f"{len(region.members)} heads turned by {name}")

    def _input(self, graph: Graph, site: Site) -> Remark:
        region = transport(graph, site.value, Kind.ORTHOGONAL, insert="always", restore=True)
        if isinstance(region, Blocked):
            return blocked(site.value, str(region), region)
        if region.restores:
            cause = region.restore_causes[0]
            return blocked(site.value, f"it is also read by others: {cause}", cause)
        if sentence := tie_in_the_way(graph, region, self.untie):
            return missed(site.value, sentence)
        size = widest(site.size) if self.inputs is True else self.inputs
        if site.size % size:
            text = f"its {site.size} channels are no blocks of {size}"
            near = nearest(size, [n for n in divisors(site.size) if n > 1 and factors(n)])
            return missed(site.value, text, f"inputs={near}" if near else "")
        if size == 1:
            return missed(site.value, f"there is no Hadamard matrix for {site.size} channels")
        parts = _parts(site.size, size)
        apply(graph, region, product(parts), compute=lambda value: turn(graph, value, parts))
        orders = " x ".join(str(len(part)) for part in parts if not _is_identity(part))
        blocks = f", in {site.size // size} blocks" if size < site.size else ""
        return applied(site.value, f"turned by an op of order {orders}{blocks}")


def turn(graph: Graph, value: Node, parts: tuple[torch.Tensor, ...]) -> Node:
    """``x (A kron B kron ...)`` on the last axis, as one product for each factor."""
    *rows, last = value.shape
    sizes = tuple(len(part) for part in parts)
    rank = len(rows)
    lead = spelled_out(graph, rows, value)
    spread = graph.add("reshape", value, shape=(*lead, *sizes), name=f"{value.name}_spread",
                       type=TensorType(value.dtype, (*rows, *sizes)))  # fmt: skip
    new = spread
    for i, part in enumerate(parts):
        if _is_identity(part):
            continue
        weight = _shared(graph, part.T.contiguous().to(value.dtype), f"{value.name}_rotation")
        order = [*range(rank + len(parts))]
        order[rank + i], order[-1] = order[-1], order[rank + i]
        swap = tuple(order)
        type_ = TensorType(value.dtype, tuple(new.shape[k] for k in order))
        if i < len(parts) - 1:
            new = graph.add("permute", new, dims=swap, type=type_, name=f"{value.name}_swapped")
        new = graph.add("linear", new, weight, type=type_, name=f"{value.name}_product")
        if i < len(parts) - 1:
            new = graph.add("permute", new, dims=swap, type=spread.type, name=f"{value.name}_back")
    return graph.add(
        "reshape", new, shape=(*lead, last), type=value.type, name=f"{value.name}_turned"
    )


def _shared(graph: Graph, matrix: torch.Tensor, name: str) -> Node:
    """The parameter that a matrix is: one, however many values are turned by it."""
    for param in graph.params.values():
        made = not graph.store.origin.get(param.name)
        if made and param.type == of(matrix) and torch.equal(graph.value(param), matrix):
            return param
    return graph.param(name, matrix, ())


def _is_identity(part: torch.Tensor) -> bool:
    return torch.equal(part, torch.eye(len(part), dtype=part.dtype))


def _parts(n: int, size: int) -> tuple[torch.Tensor, ...]:
    """Factors of a Hadamard matrix of an order, or of one on each block of so many of n."""
    known = factors(size)
    assert known is not None
    blocks = () if size == n else (torch.eye(n // size, dtype=torch.float64),)
    return (*blocks, *known)


def _by_cell(region: Region, kind: Plain, generator: torch.Generator) -> tuple[torch.Tensor, str]:
    """A matrix that keeps to the region's cells, and the name of that of each cell."""
    whole = torch.zeros(region.size, region.size, dtype=torch.float64)
    name = ""
    for members in region.members:
        whole[members[:, None], members], name = _block(len(members), kind, generator)
    return whole, name


def _block(n: int, kind: Plain, generator: torch.Generator) -> tuple[torch.Tensor, str]:
    """A matrix of order n and its name."""
    noise = torch.randn(n, n, generator=generator, dtype=torch.float64)
    if kind == "random":
        upper = torch.linalg.qr(noise)
        return upper[0] * torch.sign(upper[1].diagonal()), "a random matrix"
    signs = torch.sign(noise[0])
    whole = hadamard(n)
    if whole is not None:
        return signs[:, None] * whole, f"a Hadamard matrix of order {n}"
    size = widest(n)
    block = hadamard(size)
    assert block is not None
    return (
        signs[:, None] * torch.block_diag(*[block] * (n // size)),
        f"{n // size} Hadamard matrices of order {size} (there is none of order {n} at hand)",
    )


def _principal_axes(graph: Graph, context: Context, region: Region) -> torch.Tensor:
    """The eigenvectors of what the norms of a stream give, cell by cell, those of great variance
    first."""
    norms = {
        n.args[0].name: -1
        for n in region.seen
        if n.op == "rms_norm" and n.args[0].shape[-1] == region.size
    }
    seen = observe(graph, context, norms, "Rotate", sample=4 * region.size)
    total = torch.zeros(region.size, region.size, dtype=torch.float64)
    for found in seen.values():
        rows = found.rows.double()
        rows = rows / rows.square().mean(-1, keepdim=True).sqrt()
        total += rows.T @ rows
    axes = torch.zeros_like(total)
    for members in region.members:  # the principal axes of each cell
        block = members[:, None], members
        axes[block] = torch.linalg.eigh(total[block])[1].flip(-1)
    return axes
