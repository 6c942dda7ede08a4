"""Pooling and resizing over the last one, two or three axes; an op's name says how many."""

from __future__ import annotations

import torch

from ....ir import Node
from ....ir.graph import Arg
from ..builder import Builder, Declined, pair
from .contractions import batched


def _rank(node: Node) -> int:
    return int(node.op.removesuffix("d")[-1])


def max_pool(
    b: Builder,
    node: Node,
    self: Node,
    kernel_size: Arg,
    stride: Arg = (),
    padding: Arg = 0,
    dilation: Arg = 1,
    ceil_mode: bool = False,
) -> str:
    n = _rank(node)
    attributes = {
        "kernel_shape": pair(kernel_size, n),
        "strides": pair(stride if stride != () else kernel_size, n),
        "pads": pair(padding, n) * 2,
        "dilations": pair(dilation, n),
        "ceil_mode": int(ceil_mode),
    }
    return batched(b, node, self, n, lambda x: b.op("MaxPool", x, **attributes))


def avg_pool(
    b: Builder,
    node: Node,
    self: Node,
    kernel_size: Arg,
    stride: Arg = (),
    padding: Arg = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> str:
    n = _rank(node)
    kernel = pair(kernel_size, n)
    whole = int(torch.tensor(kernel).prod())
    if divisor_override not in (None, whole) or (ceil_mode and divisor_override):
        raise Declined("with divisor_override")
    attributes = {
        "kernel_shape": kernel,
        "strides": pair(stride if stride != () else kernel_size, n),
        "pads": pair(padding, n) * 2,
        "ceil_mode": int(ceil_mode),
        "count_include_pad": int(count_include_pad or divisor_override is not None),
    }
    return batched(b, node, self, n, lambda x: b.op("AveragePool", x, **attributes))


def adaptive_avg_pool(b: Builder, node: Node, self: Node, output_size: Arg) -> str:
    n = _rank(node)
    wanted, sizes = pair(output_size, n), self.shape[-n:]
    if wanted == [1] * n:
        return b.op("ReduceMean", b.tensor(self), b.ints(*range(-n, 0)), keepdims=1)
    kernel = [
        size // want for size, want in zip(sizes, wanted, strict=True) if isinstance(size, int)
    ]
    if len(kernel) != n or any(k * w != s for k, w, s in zip(kernel, wanted, sizes, strict=True)):
        raise Declined("with windows of unequal sizes")
    attributes = {"kernel_shape": kernel, "strides": kernel}
    return batched(b, node, self, n, lambda x: b.op("AveragePool", x, **attributes))


def upsample(
    b: Builder,
    node: Node,
    input: Node,
    output_size: Arg = None,
    align_corners: bool = False,
    scale_factors: Arg = None,
) -> str:
    """By factors where the user gave these, for they say where a pixel lies; else by sizes."""
    n = _rank(node)
    attributes: dict[str, str | float] = {"mode": "nearest"}
    if "nearest" in node.op:
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        corners = "align_corners" if align_corners else "pytorch_half_pixel"
        attributes["coordinate_transformation_mode"] = corners
        attributes["mode"] = "linear" if "linear" in node.op else "cubic"
        attributes["cubic_coeff_a"] = -0.75
    x = b.tensor(input)
    if isinstance(scale_factors, tuple):
        scales = b.constant([1.0, 1.0, *scale_factors], torch.float32)
        return b.op("Resize", x, "", scales, **attributes)
    sizes = node.shape[-n:]
    if not all(isinstance(size, int) for size in sizes):
        raise Declined("to a symbolic size")
    whole = b.op("Concat", b.op("Shape", x, end=2), b.ints(*(int(s) for s in sizes)), axis=0)
    return b.op("Resize", x, "", "", whole, **attributes)


LOWERINGS = {
    **{f"max_pool{n}d": max_pool for n in (1, 2, 3)},
    **{f"avg_pool{n}d": avg_pool for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": adaptive_avg_pool for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": upsample for n in (1, 2, 3)},
    "upsample_bilinear2d": upsample,
    "upsample_bicubic2d": upsample,
}
