"""How the values that contractions read are quantized.

    static           uint8 codes, one scale and zero point from the range seen on calibration data
    static16         uint16 codes, the same
    dynamic          uint8 codes, a scale for each token, as it comes
    dynamic-tensor   uint8 codes, one scale and zero point as the value comes
    static-FORMAT    any format with one scale for the tensor, from the range that was seen
    FORMAT           any format (``ir.formats``), its scales from the value as it comes

The first four are real codes, which integer kernels read. The others are what codes give back,
computed in floating point: a simulation, for formats of which a target has no kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch

from ...ir import Graph, InputError
from ...ir.formats import Format, Granularity, Parameters, named
from ...ir.gauge import Site
from ..journal import journaled
from .insertion import insert_dynamic, insert_fake, insert_static, range_to_scale

Activations: TypeAlias = str  # as above
STATIC = ("static", "static16")
CODES = (*STATIC, "dynamic", "dynamic-tensor")
Limits: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # the least and the greatest

journaled(Parameters)


class Coding(Protocol):
    """What was decided for one value."""

    def simulate(self, value: torch.Tensor) -> torch.Tensor:
        """What the codes of a value give back."""
        ...

    def insert(self, graph: Graph, site: Site) -> None:
        """Let a site's readers read that."""
        ...


@journaled
@dataclass(frozen=True)
class Static:
    """Codes by one scale and zero point, scalars; the zero point has the codes' dtype."""

    scale: torch.Tensor
    zero_point: torch.Tensor

    def simulate(self, value: torch.Tensor) -> torch.Tensor:
        run, zero = torch.ops.regauge, self.zero_point
        return run.dequantize(
            run.quantize(value, self.scale, zero, dtype=zero.dtype), self.scale, zero
        )

    def insert(self, graph: Graph, site: Site) -> None:
        insert_static(graph, site, self.scale, self.zero_point)

    def __str__(self) -> str:
        return "static activations"


@journaled
@dataclass(frozen=True)
class Dynamic:
    """Codes by the range of each token, or of the value."""

    per_token: bool

    def simulate(self, value: torch.Tensor) -> torch.Tensor:
        run = torch.ops.regauge
        return run.dequantize(*run.dynamic_quantize(value, per_token=self.per_token))

    def insert(self, graph: Graph, site: Site) -> None:
        insert_dynamic(graph, site, per_token=self.per_token)

    def __str__(self) -> str:
        return f"activations scaled {'for each token' if self.per_token else 'for the tensor'}"


@journaled
@dataclass(frozen=True)
class Simulated:
    """What a format gives back, with given parameters or those of the value as it comes."""

    form: Format
    parameters: Parameters | None = None

    def simulate(self, value: torch.Tensor) -> torch.Tensor:
        given = self.parameters
        scale, zero = (None, None) if given is None else (given.step, given.zero)
        return torch.ops.regauge.fake_quantize(value, scale, zero, format=str(self.form))

    def insert(self, graph: Graph, site: Site) -> None:
        insert_fake(graph, site, self.form, self.parameters)

    def __str__(self) -> str:
        return f"activations in {self.form}" + ", static" * (self.parameters is not None)


def codes_dtype(activations: Activations, eight: torch.dtype) -> torch.dtype:
    """Of static codes; ``eight`` is that of those in eight bits."""
    return torch.uint16 if activations == "static16" else eight


def static_parameters(
    low: torch.Tensor, high: torch.Tensor, activations: Activations, eight: torch.dtype
) -> Limits:
    """Scale and zero point for the range that was seen.

    One of sixteen bits is spent on room, for twice that range: what data goes beyond it costs more
    than resolution of which there is plenty.
    """
    dtype = codes_dtype(activations, eight)
    room = 2 if dtype == torch.uint16 else 1
    return range_to_scale(low * room, high * room, dtype)


def is_static(activations: Activations | None) -> bool:
    """Whether ranges must have been seen."""
    return activations is not None and activations.split("-")[0] in STATIC


def format_of(activations: Activations | None) -> Format | None:
    """The format that is simulated, if any.

    Raises:
        InputError: It is none that is known, or a static one that shares no single scale.
    """
    if activations is None or activations in CODES:
        return None
    form = named(activations.removeprefix("static-"))
    if is_static(activations) and form.granularity != Granularity("tensor"):
        raise InputError(
            f"static activations have one scale for the tensor, and {form} has more",
            do=f"ask for '{form}', whose scales come with the value",
        )
    return form


def coding(
    activations: Activations | None,
    site: Site,
    limits: Callable[[], Limits],
    dtype: torch.dtype = torch.uint8,
) -> Coding | None:
    """How a site's value is quantized; ``None``: not at all.

    Args:
        limits: The range that was seen; asked for where it is needed.
        dtype: Of static codes in eight bits.
    """
    if activations is None:
        return None
    rows = site.axis == -1  # else, channels are not the last axis, and a row is no token
    if (form := format_of(activations)) is not None:
        if is_static(activations):
            return Simulated(form, form.of_range(*limits()))
        return Simulated(form if rows else replace(form, granularity=Granularity("tensor")))
    if activations in STATIC:
        return Static(*static_parameters(*limits(), activations, dtype))
    return Dynamic(per_token=activations == "dynamic" and rows)
