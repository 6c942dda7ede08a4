"""Linear layers that read only the inputs that count, and the rest through few directions
(R-Sparse, A87, F9.6).

    y = W (x * m) + B A (x * (1 - m)),    m_j = 1 where |x_j| c_j > t,   c_j = |W_:j|

An input that is small, times the norm of the column it meets, is left to a product of rank r. Of
the numbers of W a part 1 - s is to be read: a share a of it as columns, the rest as A and B,

    k = floor(n (1 - s) a),    r = floor((n O (1 - s) - O k) / (n + O))

and t is the quantile that k of n inputs exceed, on average over the calibration data. The share is
chosen for each layer by what is lost of its result.

Simulated: the graph multiplies all of W, so nothing is smaller or faster; a kernel that reads only
the columns of m would be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ....ir import Graph, InputError, Node, ops
from ....ir.gauge import weighted
from ...base import Context, Promise, Remark, Stage, applied, missed
from ...calibration import as_rows, padding_mask
from ...options import AMOUNT, Range, check_numbers, check_several
from ...quantization.solvers import Hessian
from ...quantization.streams import Compute, Values, run_streams
from ...sites import Asked, SparingPass
from ..options import at_most, check_part, whole
from .cluster_outputs import is_head
from .forms import LowRank, Tensors, Writer

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ROWS = 4096  # of which quantiles are taken
NOTHING = 1e-20  # of the greatest score: what is not above it may as well go


@dataclass(frozen=True)
class Sparse:
    """What was decided for a layer.

    Attributes:
        scale: c / t, ``[n]``: inputs are kept where ``|x| scale > 1``.
        tensors: A ``[r, n]`` and B ``[O, r]``; ``None`` at rank 0.
        share: The part of what is read that is columns.
        lost: The part of the power of the result that is lost on the calibration data.
    """

    scale: torch.Tensor
    tensors: Tensors | None
    share: float
    lost: float

    def kept(self, data: torch.Tensor) -> torch.Tensor:
        return data.masked_fill(data.abs() * self.scale <= 1.0, 0.0)


@dataclass(frozen=True)
class SparsifyInputs(SparingPass):
    """Let linear layers read a part of their weights, chosen by what comes.

    Args:
        sparsity: s, the part of each layer's weights that is not read.
        shares: Those to choose from; 1 is columns alone.
        by_weights: Whether the norms of the columns count; otherwise the size of inputs alone.
        low_rank: Whether there is a product of thin matrices for the rest: otherwise all of what is
            read is columns.
        whitened: Whether that is the best for what is left to it on the calibration data, or for
            all inputs alike.
        damping: Of the Hessian, as a part of its mean diagonal.
    """

    sparsity: float = 0.5
    shares: tuple[float, ...] = SHARES
    by_weights: bool = True
    low_rank: bool = True
    whitened: bool = True
    damping: float = 0.01
    what: ClassVar[str] = "a linear layer with weights, and a head only by its name"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_part(self.sparsity, "sparsity", "a weight")
        check_numbers(self, damping=AMOUNT)
        check_several(self.shares, "shares", 1.0)
        parts = Range(0, 1, above=True)
        if not self.shares or not all(share in parts for share in self.shares):
            raise InputError(
                f"shares={self.shares} are not parts of what is read",
                do="numbers above 0 and at most 1, such as shares=(0.8, 1.0)",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        remarks: list[Remark] = []
        layers: dict[Node, int] = {}
        for node in graph.nodes:
            if node.op != "linear" or not weighted(node) or not asked(node):
                continue
            if reason := self._refused(graph, node, asked):
                remarks.append(missed(node, reason))
            else:
                self._need_some(node)
                layers[node] = 0
        if not layers:
            return remarks
        batches = context.need_calibration(self.name)
        masks = [padding_mask(batch) for batch in batches]
        found: dict[Node, Sparse] = {}

        def visit(node: Node, _: Values, now: Values) -> Compute:
            parts = [as_rows(value, -1, mask) for value, mask in zip(now, masks, strict=True)]
            found[node] = self._decide(graph.value(node.args[1]), torch.cat(parts))
            return _compute(graph, node, found[node])

        run_streams(
            graph, batches, layers, visit, context, f"{self.name}: fitting", exact_too=False
        )
        return remarks + [_insert(graph, node, sparse) for node, sparse in found.items()]

    def _refused(self, graph: Graph, node: Node, asked: Asked) -> str:
        """Why a layer stays as it is; empty where it does not."""
        if sentence := asked.protected(node, node.args[1]):
            return sentence
        if node.args[1].op != "param":
            return f"{node.args[1].name} is stored as codes"
        if is_head(graph, node) and not self.sites:
            return "it is a head: all that it reads counts"
        return ""

    def _choices(self, outputs: int, inputs: int) -> list[tuple[int, int, float]]:
        """How many columns, and the rank of the rest, for each share with which any are read."""
        tried = [
            (*_sizes(outputs, inputs, self.sparsity, share), share)
            for share in (self.shares if self.low_rank else (1.0,))
        ]
        return [choice for choice in tried if choice[0] or choice[1]]

    def _need_some(self, node: Node) -> None:
        """Raise where nothing of a layer would be read."""
        outputs, inputs = (int(size) for size in node.args[1].shape)
        if not self._choices(outputs, inputs):
            most = 1 - 1 / (inputs * (max(self.shares) if self.low_rank else 1.0))
            raise InputError(
                f"sparsity={self.sparsity} lets {node.name} read none of its {inputs} inputs",
                where=node.at,
                do=f"sparsity={at_most(max(most, 0.0))}, at most, or protect {node.name}",
            )

    def _decide(self, weight: torch.Tensor, rows: torch.Tensor) -> Sparse:
        """The share that loses least, of those that there are."""
        norms = weight.norm(dim=0) if self.by_weights else torch.ones(weight.shape[1])
        scores = rows.abs() * norms.to(rows.dtype)
        power = float((rows @ weight.T).double().square().sum())
        plain = None if self.whitened else LowRank().fit(weight, None, 0.0)
        tried: list[Sparse] = []
        for columns, rank, share in self._choices(*weight.shape):
            limit = _threshold(scores, columns)
            scale = norms.to(rows.dtype) / limit.clamp(min=NOTHING * float(scores.max()))
            rest = rows.masked_fill(rows.abs() * scale > 1.0, 0.0)
            hessian, tensors = Hessian((rest.T @ rest).double()), None
            wanted = weight.double()
            if rank:
                fit = plain or LowRank().fit(wanted, hessian, self.damping)
                tensors = fit(rank)
                wanted = wanted - LowRank().dense(tensors)
            lost = float(hessian.matrix.mul(wanted.T @ wanted).sum())
            tried.append(Sparse(scale, tensors, share, lost / max(power, 1e-300)))
        return min(tried, key=lambda sparse: sparse.lost)


def _sizes(outputs: int, inputs: int, sparsity: float, share: float) -> tuple[int, int]:
    """How many columns are read, and the rank of the rest."""
    columns = whole(inputs * (1 - sparsity) * share)
    rank = whole((inputs * outputs * (1 - sparsity) - outputs * columns) / (inputs + outputs))
    return columns, min(rank, outputs, inputs) if share < 1 else 0


def _threshold(scores: torch.Tensor, columns: int) -> torch.Tensor:
    """What so many of each row's numbers exceed, on average; of a sample of the rows."""
    if columns >= scores.shape[1]:
        return torch.zeros((), dtype=scores.dtype)
    some = scores[:: -(-len(scores) // ROWS)].flatten()
    place = round(some.numel() * (1 - columns / scores.shape[1]))
    return some.kthvalue(min(max(place, 1), some.numel())).values


def _compute(graph: Graph, node: Node, sparse: Sparse) -> Compute:
    """How the layer computes from then on."""
    operands = [None if arg is None else graph.value(arg) for arg in node.args[1:]]

    def compute(data: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            kept = sparse.kept(data)
            found = ops.call(node.op, (kept, *operands), node.attrs)
            if sparse.tensors is None:
                return found
            first, second = (tensor.to(data.dtype) for tensor in sparse.tensors)
            return found + (data - kept) @ first.T @ second.T

    return compute


def _insert(graph: Graph, node: Node, sparse: Sparse) -> Remark:
    writer = Writer(graph, node)
    data, rank = writer.data, 0
    size = writer.add("mul", writer.add("abs", data), writer.param("column_norm", sparse.scale))
    kept = writer.add("masked_fill", data, writer.add("le", size, 1.0), 0.0)
    found = writer.add("linear", kept, *node.args[1:])
    if sparse.tensors is not None:
        first, second = sparse.tensors
        rank = len(first)
        rest = writer.add("linear", writer.add("sub", data, kept), writer.param("low", first))
        found = writer.add("add", found, writer.add("linear", rest, writer.param("high", second)))
    graph.supersede(node, found)
    text = (
        f"simulated: columns for {100 * sparse.share:.3g} % of what is read, rank {rank} for the "
        f"rest; {100 * sparse.lost:.3g} % of the power of its result lost"
    )
    return applied(found, text, share=sparse.share, rank=rank, lost=sparse.lost)
