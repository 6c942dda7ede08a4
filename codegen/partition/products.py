"""Regions of products: linear layers on codes, and on weights of few bits.

linear(dequantize(codes), dequantize(codes))      int8, with its activation and quantizer
linear(dequantize(codes), decode(codes))          E4M3, and integers of few bits as int8
linear(x, decode(codes))                          integers of 2 to 6 bits in groups
linear(H x, decode(codes))                        ternary numbers, for few rows (A36)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ...ir import InputError, Node
from ...ir.formats import Format, Integer, Packed, named
from ...ir.graph import Arg
from .. import grouped, ternary
from ..description import E4M3, FLOATS, Quantize, Region
from ..matmul import Matmul, weight_sums
from ..sparse import BlockSparse, SemiSparse, of_blocks, semi_sparse
from .build import Build, activation, integer_bits, sole, value_of
from .rows import Front, rotation

E4M3_CHANNELS = "fp8-e4m3-channel"


def place_products(build: Build) -> None:
    """Kernels for linear layers."""
    for node in list(build.graph.nodes):
        if node.op == "linear" and node.users:
            try:
                _linear(build, node)
                build.graph.prune()
            except InputError as error:
                build.reasons[node.name] = error.what


def _linear(build: Build, node: Node) -> None:
    x, weight = _uncast(node.args[0]), node.args[1]
    if node.dtype not in FLOATS:
        raise InputError(f"no kernel for products in {node.dtype}")
    if weight.op == "dequantize":
        if x.op != "dequantize":
            raise InputError("no kernel multiplies int8 weights by what is no codes")
        _codes(build, node, x, weight)
    elif weight.op == "decode" and all(part.op == "param" for part in weight.inputs):
        if x.op == "dequantize" and _by_channel(weight):
            _codes(build, node, x, weight)
        else:
            _grouped(build, node, weight)
    elif (value := value_of(build, weight)) is not None:
        _sparse(build, node, value)
    else:
        raise InputError("its weight comes with the data")


def _by_channel(weight: Node) -> bool:
    """Whether codes of a weight are multiplied as they are."""
    form = named(weight.attrs["format"])
    return str(form) == E4M3_CHANNELS or bool(integer_bits(form, "channel"))


def _uncast(node: Node) -> Node:
    return node.args[0] if node.op == "to" else node


# -- codes by codes ------------------------------------------------------------------------------


def _codes(build: Build, node: Node, x: Node, weight: Node) -> None:
    codes, steps, zero = x.args[0], x.args[1], x.operand(2)
    values, weight_steps = weight_codes(build, weight)
    if (codes.dtype == E4M3) != (values.dtype == E4M3):
        raise InputError(f"no kernel multiplies codes of {codes.dtype} by {values.dtype}")
    operands: dict[str, Node] = {"input": codes}
    tensor = not steps.shape
    if not tensor and steps.shape != (*codes.shape[:-1], 1):
        raise InputError("a kernel takes codes with a scale of the tensor or of each token")
    middle = None if zero is None else value_of(build, zero)
    if zero is not None and (middle is None or middle.dim()):
        raise InputError("a kernel takes codes with a zero point of the tensor")
    outer, inner = values.shape
    end, kind = end_of(node)
    end, quantize = _quantized(build, end)
    region = Matmul(
        inner,
        outer,
        codes.dtype,
        "tensor" if tensor else "token",
        zero=middle is not None,
        bias=node.operand(2) is not None,
        activation=kind,
        quantize=quantize,
        dtype=node.dtype,
    )
    operands["weight"] = build.constant(f"{node.name}_weight", values)
    operands["steps"] = _single(build, steps)
    operands["weight_steps"] = build.constant(f"{node.name}_weight_steps", weight_steps)
    if zero is not None:
        operands["input_zero"] = zero
    if region.summed:
        operands["sums"] = build.constant(f"{node.name}_sums", weight_sums(values))
    if region.bias:
        operands["bias"] = build.cast(node.args[2], node.dtype, node)
    if quantize is not None:
        operands["scale"] = _single(build, end.args[1])
        if "zero" in quantize.takes:
            operands["zero"] = end.args[2]
    found = build.place(region, operands, _between(node, end), end)
    build.graph.replace(end, found["codes" if quantize else "output"])


def _single(build: Build, scale: Node) -> Node:
    """A scale in float32, in which kernels take it."""
    if scale.dtype == torch.float32:
        return scale
    value = value_of(build, scale)
    if value is None:
        raise InputError("a kernel takes scales in float32")
    return build.constant(f"{scale.name}_single", value.float())


def weight_codes(build: Build, weight: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes ``[O, I]``, int8 or E4M3, and steps ``[O]``."""
    if weight.op == "decode":
        found = _packed(build, weight).unpack()
        codes, element = found.codes.reshape(found.shape), found.format.element
        codes = element.integers(codes) if isinstance(element, Integer) else codes.view(E4M3)
        return codes, found.parameters.step.float().reshape(-1)
    codes, scale = (value_of(build, part) for part in weight.args[:2])
    if codes is None or scale is None or codes.dtype != torch.int8:
        raise InputError("a kernel takes weights in int8")
    zero = weight.operand(2)
    middle = None if zero is None else value_of(build, zero)
    if zero is not None and (middle is None or bool(middle.any())):
        raise InputError("a kernel takes weights without zero points")
    if scale.numel() not in (1, len(codes)) or (scale.dim() and scale.shape[-1] != 1):
        raise InputError("a kernel takes weights with a scale of each channel")
    return codes, scale.float().reshape(-1).expand(len(codes))


def end_of(node: Node) -> tuple[Node, Arg]:
    """The last node of a product with the activation that alone reads it, and the activation's
    kind."""
    reader = sole(node)
    if reader is None or (kind := activation(reader)) is None:
        return node, None
    return reader, kind


def _quantized(build: Build, end: Node) -> tuple[Node, Quantize | None]:
    """What alone quantizes a result, with a scale of the tensor."""
    reader = sole(end)
    if reader is None or reader.op != "quantize" or reader.args[0] is not end:
        return end, None
    scale, zero = reader.args[1], reader.operand(2)
    dtype = reader.attrs.get("dtype", torch.uint8)
    known = [value_of(build, part) for part in (scale, zero) if part is not None]
    if any(part is None or part.dim() for part in known):
        return end, None
    if dtype == torch.uint8 and zero is not None:
        return reader, Quantize(dtype, "tensor")
    if dtype == torch.int8 and (len(known) == 1 or not bool(known[1])):
        return reader, Quantize(dtype, "tensor")
    return end, None


def _between(node: Node, end: Node) -> list[Node]:
    """A node and its only readers, up to the last."""
    found = [node]
    while found[-1] is not end:
        found.append(next(iter(found[-1].users)))
    return found


# -- weights of few bits -------------------------------------------------------------------------


def _packed(build: Build, weight: Node) -> Packed:
    parts = [None if part is None else build.graph.value(part) for part in weight.args]
    codes, scale, whole, zero = (*parts, *[None] * (4 - len(parts)))
    attrs = weight.attrs
    shape = torch.Size(attrs["shape"])
    assert codes is not None and scale is not None
    return Packed(named(attrs["format"]), shape, attrs["dtype"], codes, scale, whole, zero)


def _grouped(build: Build, node: Node, weight: Node) -> None:
    bias = node.operand(2) is not None
    _, kind = end_of(node)
    dtype = node.dtype if node.dtype != torch.float32 else build.half
    packed = _packed(build, weight)
    front = _turned(build, node, packed.format)
    made = grouped.of_packed if front is None else ternary.of_packed
    region, found = made(packed, dtype or torch.bfloat16, bias=bias, activation=kind)
    if dtype is None:
        raise InputError(_TOO_WIDE)
    _place_half(build, node, region, found, dtype, front)


# For more, each tile of the result would turn the same input anew.
_MOST_TURNED = 32


def _turned(build: Build, node: Node, form: Format) -> Front | None:
    """What turns the few rows, or nobody knows how many, that a product reads, by the blocks that
    have a scale in a ternary weight."""
    x: Node = node.args[0]
    known = [size for size in x.shape[:-1] if isinstance(size, int)]
    many = len(known) == len(x.shape) - 1 and math.prod(known) > _MOST_TURNED
    if many or str(form.element) != "ternary" or x.op != "reshape":
        return None
    front = rotation(build, x, node)
    return front if form.granularity.size == front.fields.get("hadamard") else None


_TOO_WIDE = (
    "kernels for weights of few bits and sparse ones take bfloat16 or float16, and it is in "
    "float32: options={'half': 'bfloat16'} rounds their inputs, or convert the model"
)


def _place_half(
    build: Build,
    node: Node,
    region: Region,
    constants: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    front: Front | None = None,
) -> None:
    """A kernel whose input, bias and result are of a dtype that may not be the graph's.

    Args:
        front: What it does itself with what it reads.
    """
    end, _ = end_of(node)
    front = front or Front(node.args[0])
    operands = {
        "input": build.cast(front.input, dtype, node),
        **{name: build.constant(f"{node.name}_{name}", part) for name, part in constants.items()},
    }
    if (bias := node.operand(2)) is not None:
        operands["bias"] = build.cast(bias, dtype, node)
    results = build.place(region, operands, [*front.covers, *_between(node, end)], end)
    build.graph.replace(end, build.cast(results["output"], end.dtype, end))


# -- sparse weights ------------------------------------------------------------------------------


def _sparse(build: Build, node: Node, weight: torch.Tensor) -> None:
    """A weight that is half empty at least, in a way that a kernel profits from."""
    outer, inner = weight.shape
    dtype = node.dtype if node.dtype != torch.float32 else build.half
    bias = node.operand(2) is not None
    _, kind = end_of(node)
    if float((weight == 0).float().mean()) < 0.5:
        raise InputError("its weight is in floating point, for which PyTorch has the kernels")
    if dtype is None:
        raise InputError(_TOO_WIDE)
    weight = weight.to(dtype)
    for block in (size for size in (128, 64, 32) if not (outer % size or inner % size)):
        count, found = of_blocks(weight, block)
        if 0 < 2 * count * block**2 <= outer * inner:
            region = BlockSparse(inner, outer, count, block, bias, kind, dtype)
            return _place_half(build, node, region, found, dtype)
    if not semi_sparse(weight):
        raise InputError("its weight has zeros, but neither whole blocks nor two of each four")
    region = SemiSparse(inner, outer, bias, kind, dtype)
    _place_half(build, node, region, region.pack(weight), dtype)
