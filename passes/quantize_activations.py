"""Quantize what contractions with int8 weights read, so that they run on integers.

    q = clip(round(x / s) + z, 0, 255),   x = s (q - z)

Static: one s and z for each value, from the range seen on calibration data. Dynamic: s for each token, as its row
comes, symmetric about 128. Readers that share a value share its codes; results stay in floating point, since no runtime
gains by more (F0). Approximate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..ir import Graph, TensorType
from ..ir.gauge import Site, inputs_of_contractions
from .base import Context, Pass, Promise, Remark, Stage, applied, missed
from .calibration import observe


@dataclass(frozen=True)
class QuantizeActivations(Pass):
    """Quantize the inputs of contractions whose weights are quantized.

    Args:
        mode: ``static``, or ``dynamic`` for a scale of each token, or ``dynamic-tensor`` for one of each value.
    """

    mode: Literal["static", "dynamic", "dynamic-tensor"] = "static"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        found = [site for site in inputs_of_contractions(graph) if _quantized(site)]
        if self.mode == "static":
            return self._static(graph, context, found)
        return [self._dynamic(graph, site) for site in found]

    def _static(self, graph: Graph, context: Context, found: list[Site]) -> list[Remark]:
        axes = {site.value.name: site.axis for site in found}
        seen = observe(graph, context, axes, self.name, sample=0)
        dtype = torch.uint8 if context.unsigned_activations else torch.int8
        remarks: list[Remark] = []
        for site in found:
            low, high = seen[site.value.name].low.min(), seen[site.value.name].high.max()
            scale, zero_point = range_to_scale(low, high, dtype)
            insert_static(graph, site, scale, zero_point)
            remarks.append(
                applied(
                    site.value,
                    f"static, {len(site.readers)} readers, range {float(low):.3g} to {float(high):.3g}",
                    low=float(low),
                    high=float(high),
                )
            )
        return remarks

    def _dynamic(self, graph: Graph, site: Site) -> Remark:
        per_token = self.mode == "dynamic"
        if site.axis != -1 and per_token:
            return missed(site.value, "its channels are not the last axis, so it has no tokens")
        value = site.value
        first = min(site.readers, key=graph.nodes.index)
        name = value.name
        codes = graph.add(
            "dynamic_quantize",
            value,
            per_token=per_token,
            dtype=torch.uint8,
            name=f"{name}_quantized",
            before=first,
            where=value.where,
        )
        parts = [
            graph.add("getitem", codes, index, name=f"{name}_{part}", before=first)
            for index, part in enumerate(("codes", "scale", "zero"))
        ]
        back = graph.add("dequantize", *parts, name=f"{name}_value", type=value.type, before=first)
        for reader in site.readers:
            reader.set((back, *reader.args[1:]))
        return applied(value, f"dynamic {'per token' if per_token else 'per tensor'}")


def _quantized(site: Site) -> bool:
    return all(reader.args[1].op == "dequantize" for reader in site.readers)


def range_to_scale(
    low: torch.Tensor, high: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of a range, which is widened to hold zero (padding must stay exact)."""
    low, high = torch.clamp(low.float(), max=0), torch.clamp(high.float(), min=0)
    info = torch.iinfo(dtype)
    scale = torch.clamp((high - low) / (info.max - info.min), min=1e-12)
    zero_point = torch.clamp(torch.round(info.min - low / scale), info.min, info.max)
    return scale, zero_point.to(dtype)


def insert_static(graph: Graph, site: Site, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
    """Put a quantize and a dequantize between a site's value and its readers."""
    value, name = site.value, site.value.name
    first = min(site.readers, key=graph.nodes.index)
    s = graph.param(f"{name}_scale", scale.to(value.dtype), origin=())
    z = graph.param(f"{name}_zero", zero_point, origin=())
    codes = graph.add(
        "quantize",
        value,
        s,
        z,
        dtype=zero_point.dtype,
        name=f"{name}_quantized",
        type=TensorType(zero_point.dtype, value.shape),
        before=first,
        where=value.where,
    )
    back = graph.add("dequantize", codes, s, z, name=f"{name}_value", type=value.type, before=first)
    for reader in site.readers:
        reader.set((back, *reader.args[1:]))
