"""Run a graph as it will be with channels left out, layer by layer beside the graph as it is, and
let the contractions that read what stays make up for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ....ir import Graph, Node, ops
from ....ir.gauge import separate
from ....ir.gauge.sites import CONTRACTIONS
from ....ir.gauge.tensors import spread
from ....ir.laws import Normalize, Reduce
from ...base import Context
from ...calibration import as_rows, padding_mask
from ...quantization.streams import Compute, Values, run_streams
from ...ties import own
from ..elimination import Moments
from ..groups import Group, kept_rows, readers


@dataclass
class Masked:
    """A graph whose groups are masked, and what its contractions read instead of what they did.

    Args:
        graph: Its parameters are changed where readers make up for what goes.
        groups: Of this graph.
        kept: Of each group, the units that stay.
        share: Which part of what a reader wants is from the graph as it was; the rest is what it
            reads now, with all of the channels that it is to lose.
        damping: Of the least squares, as a part of the mean square of the channels.
    """

    graph: Graph
    groups: Sequence[Group]
    kept: Sequence[torch.Tensor]
    share: float
    damping: float

    def __post_init__(self) -> None:
        self.made_up: dict[Node, dict[int, torch.Tensor]] = {}
        self.factors: dict[Node, list[torch.Tensor]] = {}  # of a parameter: zeros where it goes
        self.cut: dict[Node, torch.Tensor] = {}  # of a reader's channels, those that stay
        self.seen: dict[Node, torch.Tensor] = {}  # those of them that the masked graph has
        for group, kept in zip(self.groups, self.kept, strict=True):
            stays = group.coordinates(kept)
            if bool(stays.all()):
                continue
            separate(self.graph, group.region)
            at_writers = is_counted(group)
            for param, action in group.held() if at_writers else ():
                factor = spread(action, stays.to(param.dtype), 1.0)
                self.factors.setdefault(param, []).append(factor)
            for reader in readers(group):
                rows = kept_rows(reader.labels, stays)
                self.cut[reader.node] = self.cut.get(reader.node, rows) & rows
                if at_writers:
                    self.seen[reader.node] = self.seen.get(reader.node, rows) & rows

    def run(self, context: Context, who: str) -> None:
        """Let each reader make up for what it loses, those before it masked already."""
        alone = [node for node in self.cut if own(node, 1) is not None]
        self._masks = [padding_mask(batch) for batch in context.calibration]
        altered = {param: partial(self._masked, param) for param in self.factors}
        run_streams(
            self.graph,
            context.calibration,
            dict.fromkeys(alone, 0),
            self._visit,
            context,
            who,
            altered=altered,
        )
        for node, values in self.made_up.items():  # the graph as it was had to be run until here
            for index, value in values.items():
                self.graph.give(node, index, value)

    def _visit(self, node: Node, exact: Values, masked: Values) -> Compute:
        made_up = self.made_up[node] = self._make_up(node, exact, masked)
        params = [
            self._masked(arg, made_up.get(index, self.graph.value(arg)))
            for index, arg in enumerate(node.args)
            if isinstance(arg, Node) and index
        ]
        return lambda data: ops.call(node.op, (data, *params), node.attrs)

    def _masked(self, param: Node, value: torch.Tensor) -> torch.Tensor:
        """A parameter with zeros where channels go."""
        for factor in self.factors.get(param, ()):
            value = value * factor
        return value

    def _make_up(self, node: Node, exact: Values, masked: Values) -> dict[int, torch.Tensor]:
        """The operands of a reader with which what stays gives what all gave."""
        axis, stays, seen = CONTRACTIONS[node.op], self.cut[node], self.seen.get(node)
        weight, bias = self.graph.value(node.args[1]), own(node, 2)

        def rows(index: int) -> tuple[torch.Tensor, torch.Tensor]:
            mask = self._masks[index]
            now = as_rows(masked[index], axis, mask)
            if exact[index] is masked[index]:
                return now, now
            was = as_rows(exact[index], axis, mask)
            wanted = now + self.share * (was - now)
            return now, wanted if seen is None else torch.where(seen, wanted, was)

        moments = Moments.of(rows(index) for index in range(len(exact)))
        offset = bias is not None and not _is_padded(node)
        matrix, rest = moments.fill(stays, offset=offset, damping=self.damping)
        whole = torch.zeros(len(stays), len(stays), dtype=matrix.dtype)
        whole[:, stays] = matrix
        old = weight.double()
        new = (old.movedim(1, -1) @ whole).movedim(-1, 1)
        made_up = {1: new.to(weight.dtype).contiguous()}
        if bias is not None and offset:
            added = old.movedim(1, -1).flatten(1, -2).sum(1) if old.dim() > 2 else old
            found = self.graph.value(bias).double() + added @ rest
            made_up[2] = found.to(weight.dtype)
        return made_up


def is_counted(group: Group) -> bool:
    """Whether something else than contractions with weights sees that channels are gone: a norm, a
    reduction, or a product of queries and keys. They must be gone from what is written then, not
    only from what is read."""
    holders = group.region.actions
    seen = [node for node in holders if isinstance(ops.get(node.op).law, Normalize)]
    ends = {user for node in holders for user in node.users if user.op in ops.OPS} - holders.keys()
    seen += [node for node in ends if isinstance(ops.get(node.op).law, Reduce)]
    return bool(seen) or not readers(group)


def _is_padded(node: Node) -> bool:
    """Whether a convolution also sums over zeros, of which the mean is not that of the data."""
    padding = node.attrs.get("padding", 0)
    parts = padding if isinstance(padding, (tuple, list)) else (padding,)
    return any(part not in (0, "valid") for part in parts)
