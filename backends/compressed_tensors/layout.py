"""The tensors of a linear layer in codes, as the format ``compressed-tensors`` lays them out.

    pack-quantized    weight_packed     int32 [O, I b / 32]   q + 2^(b-1), the first in the low bits
                      weight_scale      [O, I / g], or [O, 1]
                      weight_zero_point int32 [O b / 32, I / g]   packed along O, offset likewise
                      weight_shape      int64 [2]
    int-quantized     weight int8 [O, I], weight_scale [O, 1]
    float-quantized   weight float8 [O, I], weight_scale [O, 1]

    W = s (q - z), scales in the dtype of the weights

What does not fill a word is filled up with zero bits. Kernels have 4 and 8 bits, so int2 and int3
take four, int5 to int7 eight; z is there only in asymmetric formats. Source: the package
compressed-tensors 0.20, compressors/pack_quantized and naive_quantized.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import pad

from ...ir import Graph, Node
from ...ir.formats import (
    Format,
    Granularity,
    Integer,
    Minifloat,
    Packed,
    Parameters,
    Quantized,
    named,
    pack,
)

WIDTHS = (4, 8)
CHANNEL = Format(Integer(8), Granularity("channel"))


@dataclass(frozen=True)
class Layouts:
    """The formats of weights that there is a layout for."""

    examples: tuple[str, ...] = ("int4-g128", "int4-g32-asym", "int8-channel", "fp8-e4m3-channel")

    def take(self, form: Format) -> bool:
        """Whether weights ``[O, I]`` in a format can be written."""
        shared, element = form.granularity, form.element
        if form.scale.twofold or shared.pad:
            return False
        rows = shared.kind == "tensor" or (
            shared.kind == "channel" and shared.axis in (None, 0, -2)
        )
        if isinstance(element, Integer):
            groups = shared.kind == "group" and shared.axis in (None, 1, -1)
            return not element.fraction and (rows or groups)
        return rows and element == Minifloat(4, 3)

    def store(self, form: Format) -> bool:
        """Whether such weights keep their width."""
        return self.take(form) and form.element.bits in WIDTHS

    def __str__(self) -> str:
        return "int2 .. int8, -asym too, as 4, 8 bits; by channel or in groups; fp8-e4m3 by channel"


@dataclass(frozen=True)
class Layer:
    """A linear layer's part of the checkpoint.

    Attributes:
        tensors: By what follows the layer's name.
        scheme: What its group in ``config_groups`` says.
        format: Of its tensors.
    """

    tensors: dict[str, torch.Tensor]
    scheme: dict[str, Any]
    format: str


@dataclass(frozen=True)
class Reading:
    """How what a layer reads is quantized.

    Attributes:
        scheme: As ``input_activations`` has it.
        tensors: Its scale and zero point, where they are static.
    """

    scheme: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])


def quantized(graph: Graph, node: Node, dtype: torch.dtype) -> Quantized:
    """The codes of a parameter, with scales as the checkpoint has them, in the dtype given."""
    values = [None if arg is None else graph.value(arg) for arg in node.args]
    if node.op == "dequantize":  # int8 [O, I], scale [O, 1]
        codes, scale = values[0], values[1]
        assert codes is not None and scale is not None
        parts = Parameters(scale.to(dtype).float())
        return Quantized(CHANNEL, codes.shape, dtype, codes.view(torch.uint8), parts)
    form, shape = named(node.attrs["format"]), torch.Size(node.attrs["shape"])
    codes, scale, whole, zero = (*values, *[None] * (4 - len(values)))
    assert codes is not None and scale is not None
    found = Packed(form, shape, dtype, codes, scale, whole, zero).unpack()
    step = found.parameters.step.to(dtype).float()
    return Quantized(form, shape, dtype, found.codes, Parameters(step, None, found.parameters.zero))


def laid_out(weight: Quantized, reading: Reading | None) -> Layer:
    """A weight ``[O, I]`` in a format that ``Layouts`` takes, and what the layer reads."""
    form, (outputs, inputs) = weight.format, weight.shape
    group = form.granularity.size or inputs
    scale = form.spread(weight.parameters.scale, weight.shape)[:, ::group]
    scale = scale.to(weight.dtype).contiguous()  # (O, I / g)
    codes = form.join(weight.codes, weight.shape)  # (O, I)
    scheme: dict[str, Any] = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "group" if form.granularity.kind == "group" else "channel",
        "group_size": form.granularity.size or None,
        "dynamic": False,
    }
    read = Reading({}) if reading is None else reading
    both = {"weights": scheme, "input_activations": read.scheme or None, "output_activations": None}
    element = form.element
    if isinstance(element, Minifloat):
        scheme["type"] = "float"
        tensors = {"weight": codes.contiguous().view(torch.float8_e4m3fn), "weight_scale": scale}
        return Layer({**tensors, **read.tensors}, both, "float-quantized")
    assert isinstance(element, Integer)
    bits = min(width for width in WIDTHS if width >= element.width)
    if read.scheme and bits == 8 and scheme["strategy"] == "channel" and element.signed:
        tensors = {"weight": element.integers(codes).contiguous(), "weight_scale": scale}
        return Layer({**tensors, **read.tensors}, both, "int-quantized")
    scheme |= {"num_bits": bits, "symmetric": element.signed}
    unsigned = element.integers(codes).short() + 2 ** (bits - 1) if element.signed else codes
    tensors = {
        "weight_packed": words(unsigned, bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor([outputs, inputs]),
    }
    if not element.signed:
        zero = weight.parameters.zero
        zero = torch.zeros_like(weight.parameters.scale) if zero is None else zero
        zero = form.spread(zero, weight.shape)[:, ::group]
        tensors["weight_zero_point"] = words(zero.T, bits).T.contiguous()
    return Layer({**tensors, **read.tensors}, both, "pack-quantized")


def words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned codes ``[n, m]`` as ``int32 [n, ceil(m bits / 32)]``, the first in the low bits."""
    filled = pad(codes, (0, -codes.shape[1] % (32 // bits))).to(torch.uint8)
    return pack(filled, 2**bits).contiguous().view(torch.int32)


def dynamic(per_token: bool) -> Reading:
    """Eight bits with a scale for each token, or one for all of them and a zero point."""
    strategy = {"strategy": "token" if per_token else "tensor", "symmetric": per_token}
    return Reading({"num_bits": 8, "type": "int", "dynamic": True, **strategy})


def static(scale: torch.Tensor, zero: torch.Tensor) -> Reading:
    """Eight bits with one scale and zero point, both single numbers."""
    moved = zero.short() - (128 if zero.dtype == torch.uint8 else 0)
    tensors = {
        "input_scale": scale.reshape(1).clone(),  # no two tensors of a file may share memory
        "input_zero_point": moved.to(torch.int8).reshape(1),
    }
    settings = {"strategy": "tensor", "symmetric": False, "dynamic": False}
    return Reading({"num_bits": 8, "type": "int", **settings}, tensors)
