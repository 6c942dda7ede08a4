"""Numbers as codes of a few bits give them back: simulated, to choose by or to learn on.

Rounding counts as the identity where gradients are taken (straight through), so that scales, ranges
and what is rounded can all be learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...ir import Graph, Node
from ...ir.gauge import Region, inputs_of_contractions, transformed, weighted
from ...ir.interpret import Read, Tap, execute
from ..base import Context
from ..calibration import Observation, as_rows, observe
from .integer_results import IntegerResults
from .solvers import scales as weight_scales
from .values import Activations, Limits, format_of, is_static


class _Round(torch.autograd.Function):
    """Round half to even; the gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return torch.round(value)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]


def _round(value: torch.Tensor) -> torch.Tensor:
    found: Any = _Round.apply(value)
    return found


def fake_quantize_weights(weight: torch.Tensor, bits: int, group: int | None) -> torch.Tensor:
    """Weights ``[O, n]`` as codes give them back.

    Args:
        group: How many neighbours share a scale; all of a row where not given.
    """
    if bits == 8 and group is None:
        step = weight_scales(weight)
        return _round(weight / step) * step
    n = weight.shape[1]
    size = n if group is None or n % group else group
    parts = weight.unflatten(1, (-1, size))
    low, high = parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
    zero = _round(-low / step)
    codes = torch.clamp(_round(parts / step) + zero, 0, 2**bits - 1)
    return ((codes - zero) * step).flatten(1)


def fake_quantize(rows: torch.Tensor, limits: Limits, mode: Activations | None) -> torch.Tensor:
    """Values ``[..., n]`` as their codes give them back.

    Args:
        limits: The range of all of them, for static scales.
        mode: How they are quantized (``values``); ``None``: they stay as they are.
    """
    if mode is None:
        return rows
    if (form := format_of(mode)) is not None:
        return form.fake(rows, form.of_range(*limits) if is_static(mode) else form.fit(rows))
    if mode == "dynamic":
        step = (rows.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-12)
        return _round(rows / step) * step
    if mode == "dynamic-tensor":
        limits = rows.amin(), rows.amax()
    most = 65535 if mode == "static16" else 255
    low, high = limits[0].clamp(max=0), limits[1].clamp(min=0)
    step = ((high - low) / most).clamp(min=1e-12)
    zero = _round(-low / step)
    return (torch.clamp(_round(rows / step) + zero, 0, most) - zero) * step


@dataclass
class Simulation:
    """A graph as it computes once weights, and what contractions read, are quantized; by
    ``execute(graph, inputs, read=simulation.reading())``.

    Attributes:
        activations: How; ``None``: not at all.
        bits, group: Of the weights.
        values: What is quantized, with the axes over which its channels vary.
        reads: The readers that see its codes.
        seen: The range of each channel, on calibration data.
    """

    activations: Activations | None
    bits: int
    group: int | None
    values: dict[Node, tuple[int, ...]]
    reads: set[tuple[Node, Node]]
    seen: dict[Node, Observation]

    @classmethod
    def of(
        cls,
        graph: Graph,
        context: Context,
        who: str,
        *,
        activations: Activations | None = "static",
        bits: int = 8,
        group: int | None = None,
        attention: bool = False,
    ) -> Simulation:
        """What ``Quantize`` would do to the graph, or with ``attention`` somewhat more: what
        attention multiplies."""
        results = IntegerResults.find(graph, context, activations or "none")
        sites = [results.readers_of(site) for site in inputs_of_contractions(graph)]
        values: dict[Node, tuple[int, ...]] = {s.value: (s.axis,) for s in sites if s.readers}
        reads = {(reader, site.value) for site in sites for reader in site.readers}
        for node in graph.nodes:
            if attention and node.op == "scaled_dot_product_attention":
                reads |= {(node, value) for value in node.args[:3]}
                values |= {value: (-3, -1) for value in node.args[:3] if value not in values}
        axes = {value.name: found for value, found in values.items()}
        seen = observe(graph, context, axes, who, sample=0)
        named = {value: seen[value.name] for value in values}
        for found in named.values():  # what nothing was sent to has no range
            found.low, found.high = (part.nan_to_num(0, 0, 0) for part in (found.low, found.high))
        return cls(activations, bits, group, values, reads, named)

    def reading(self, folded: Sequence[tuple[Region, torch.Tensor]] = ()) -> Read:
        """What readers see, for runs with the same parameters.

        Args:
            folded: Regions with the elements that are folded into these parameters, in order: they
                change what was seen.
        """
        last: tuple[Node, Any, torch.Tensor] | None = None  # readers of a value mostly follow

        def read(reader: Node, used: Node, value: Any) -> Any:
            nonlocal last
            if (reader, used) in self.reads:
                if last is None or last[0] is not used or last[1] is not value:
                    coded = fake_quantize(value, self._limits(used, folded), self._mode(used))
                    last = used, value, coded
                return last[2]
            if weighted(reader) and used is reader.args[1] and used.op == "param":
                rows = fake_quantize_weights(value.flatten(1), self.bits, self.group)
                return rows.reshape(value.shape)
            return value

        return read

    def watch(self, means: dict[Node, torch.Tensor], mask: torch.Tensor | None) -> Tap:
        """Keep the mean of each channel of what linear maps with a bias give, ``[O]``."""

        def tap(node: Node, value: Any) -> None:
            if _biased(node):
                means[node] = as_rows(value, -1, mask).mean(0)

        return tap

    def correct(
        self,
        means: dict[Node, torch.Tensor],
        folded: Sequence[tuple[Region, torch.Tensor]],
        mask: torch.Tensor | None,
    ) -> Tap:
        """Let biases take up the mean error."""

        def tap(node: Node, value: Any) -> Any:
            if not _biased(node) or not value.numel():
                return None
            (wanted,) = _acted(node, (-1,), (means[node],), folded)
            return value + (wanted - as_rows(value, -1, mask).mean(0))

        return tap

    def _mode(self, value: Node) -> str | None:
        by_token = self.activations == "dynamic" and -1 in self.values[value]
        return self.activations if by_token or self.activations != "dynamic" else "dynamic-tensor"

    def _limits(self, value: Node, folded: Sequence[tuple[Region, torch.Tensor]]) -> Limits:
        """The range that a value has: that of its channels, each acted on."""
        seen = self.seen[value]
        low, high = _acted(value, self.values[value], (seen.low, seen.high), folded)
        return low.amin(), high.amax()


def floats(outputs: Sequence[Any]) -> list[torch.Tensor]:
    """The outputs that errors are measured on."""
    return [v for v in outputs if isinstance(v, torch.Tensor) and v.is_floating_point()]


def squared_error(
    graph: Graph,
    batches: Sequence[Sequence[Any]],
    wanted: Sequence[Sequence[torch.Tensor]],
    read: Read,
) -> float:
    """``sum |y' - y|^2 / sum |y|^2`` over the outputs and batches, y as wanted."""
    wrong = power = 0.0
    for batch, outputs in zip(batches, wanted, strict=True):
        with torch.no_grad():
            found = floats(execute(graph, batch, read=read))
        for one, other in zip(found, outputs, strict=True):
            wrong += float((one - other).double().square().sum())
            power += float(other.double().square().sum())
    return wrong / max(power, 1e-30)


def _biased(node: Node) -> bool:
    return node.op == "linear" and weighted(node) and node.operand(2) is not None


def _acted(
    value: Node,
    axes: tuple[int, ...],
    statistics: tuple[torch.Tensor, ...],
    folded: Sequence[tuple[Region, torch.Tensor]],
) -> Iterator[torch.Tensor]:
    """What statistics of a value's channels become, broadcast against the value."""
    shape = [1] * value.tensor.rank
    for axis in axes:
        shape[axis] = int(value.shape[axis])
    for statistic in statistics:
        found = statistic.reshape(shape)
        for region, element in folded:
            if (action := region.actions.get(value)) is not None:
                found = transformed(region.kind, found, action, element)
        yield found
