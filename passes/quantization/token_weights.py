"""What each token counts in a Hessian: by the attention that it gets (RSQ, A13, F6.3).

    H = sum_t r_t x_t x_t',    r_t = sum over heads h and queries q of A[h, q, t]

brought to [0.005, 1] for each sequence by itself and then to a mean of one. What a block reads is
weighted by the attention in that block, and where it has none, by the last one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...ir import Graph, Node, astype, ops
from ...ir.blocks import blocks
from ...ir.graph import substitute
from ...ir.interpret import execute
from ..base import Context
from ..calibration import padding_mask

ATTENTION = "scaled_dot_product_attention"
LEAST = 0.005  # of what the token counts that gets most attention


@dataclass(frozen=True)
class TokenWeights:
    """What tokens count, for each attention of a graph.

    Attributes:
        attention: The attention that a node goes with, where there is one.
        counts: By attention, for each batch ``[batch, keys]``.
        masks: Which tokens of each batch are data, where an input says so.
    """

    attention: Mapping[Node, Node]
    counts: Mapping[Node, Sequence[torch.Tensor]]
    masks: Sequence[torch.Tensor | None]

    @classmethod
    def of(cls, graph: Graph, context: Context, who: str) -> TokenWeights:
        """By the attention that each token gets on the calibration data."""
        batches = context.need_calibration(who)
        counts = _attention_received(graph, context, who)
        return cls(_attentions(graph), counts, [padding_mask(batch) for batch in batches])

    def of_rows(self, reader: Node, lengths: Sequence[int]) -> Sequence[torch.Tensor] | None:
        """What each row that a node reads counts, ``[k]`` for each batch; ``None`` where no
        attention sees these rows as tokens.

        Args:
            lengths: How many rows there are in each batch.
        """
        node = self.attention.get(reader)
        counts = [] if node is None else self.counts.get(node, [])
        if len(counts) != len(lengths):
            return None
        found: list[torch.Tensor] = []
        for tokens, mask, length in zip(counts, self.masks, lengths, strict=True):
            of_data = mask is not None and mask.shape == tokens.shape and length < mask.numel()
            found.append(tokens[mask] if of_data else tokens.flatten())
            if len(found[-1]) != length:
                return None
        return found


def _attentions(graph: Graph) -> dict[Node, Node]:
    """For each node of a block, and of the blocks behind it, the attention that it goes with; of
    several in a block, the last."""
    found: dict[Node, Node] = {}
    last: Node | None = None
    for block in blocks(graph):
        here = [node for node in block.nodes if node.op == ATTENTION]
        last = here[-1] if here else last
        if last is not None:
            found |= dict.fromkeys(block.nodes, last)
    return found


def _attention_received(graph: Graph, context: Context, who: str) -> dict[Node, list[torch.Tensor]]:
    """What each token counts, ``[batch, keys]`` for each batch, by the attention that it gets."""
    single = astype(graph, torch.float32)
    by_name: dict[str, list[torch.Tensor]] = {}
    for batch in context.progress(context.calibration, f"{who}: watching attention"):
        operands: dict[Node, Any] = {}
        watch = _Watch(padding_mask(batch), by_name, operands)
        with torch.no_grad():
            execute(single, batch, tap=watch.tap, read=watch.read)
    return {node: by_name[node.name] for node in graph.nodes if node.name in by_name}


@dataclass
class _Watch:
    """What each attention of one run reads, until it has run."""

    mask: torch.Tensor | None
    found: dict[str, list[torch.Tensor]]
    operands: dict[Node, Any]

    def read(self, reader: Node, used: Node, value: Any) -> Any:
        if reader.op == ATTENTION:
            self.operands[used] = value
        return value

    def tap(self, node: Node, value: Any) -> None:
        if node.op == ATTENTION:
            if value.dim() == 4:
                received = _received(node, self.operands, self.mask)
                self.found.setdefault(node.name, []).append(_normed(received, self.mask))
            self.operands.clear()


def _received(node: Node, operands: Mapping[Node, Any], mask: torch.Tensor | None) -> torch.Tensor:
    """The attention that each key gets, ``[batch, keys]``: the derivative of the sum of what
    attention gives by each value, whatever the masks and the groups of heads are."""
    query, key, value, *rest = substitute(node.args, operands.__getitem__)
    attrs = {name: substitute(attr, operands.__getitem__) for name, attr in node.attrs.items()}
    with torch.enable_grad():
        marker = torch.zeros_like(value[..., :1]).requires_grad_()
        given = ops.call(node.op, (query, key, marker, *rest), attrs)  # [batch, heads, queries, 1]
        if mask is not None and mask.shape == given.shape[::2][:2]:
            given = given * mask[:, None, :, None]
        (found,) = torch.autograd.grad(given.sum(), marker)
    return found.sum((1, 3))


def _normed(received: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The same in [LEAST, 1] and then of mean one, over the data of each sequence."""
    if mask is None or mask.shape != received.shape:
        mask = torch.ones_like(received, dtype=torch.bool)
    low = received.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    high = received.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
    part = torch.where(high > low, (received - low) / (high - low), 1.0)
    counted = (LEAST + (1 - LEAST) * part) * mask
    return counted * mask.sum(1, keepdim=True) / counted.sum(1, keepdim=True)
