"""Matrix products, convolutions, and look-ups in a table."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ....ir import Node
from ....ir.graph import Arg
from ...lowering import windows
from ..builder import INT64_MAX, Builder, Declined, pair, rank


def transposed(b: Builder, weight: Node, user: Node) -> str:
    """A weight ``[O, I]`` as the ``[I, O]`` that MatMul wants.

    A parameter is stored in that layout, so that nothing is left to do at load, unless something
    else reads it as it is (an embedding tied to the output head): then it is stored once, and the
    runtime folds the Transpose.
    """
    readers = list(weight.users)
    if weight.op == "param" and all(_as_weight(reader, weight) for reader in readers):
        if len(readers) == 1 or user.op != "ort.linear_integer":
            return b.parameter(weight, "transposed", torch.Tensor.t)
    name = b.tensor(weight)
    if user.op == "ort.linear_integer" and readers.index(user):
        # ONNX Runtime's exact mode for CPUs without VNNI fails on codes that two products share.
        # A Slice of everything, to an end of its own, is folded and keeps this reader's apart.
        end = b.ints(INT64_MAX - readers.index(user))
        name = b.op("Slice", name, b.ints(0), end, b.ints(0))
    return b.op("Transpose", name, perm=[1, 0])


def _as_weight(user: Node, weight: Node) -> bool:
    place = {"linear": 1, "ort.linear_integer": 3, "ort.linear_codes": 1}.get(user.op)
    return place is not None and all(
        (arg is weight) == (i == place) for i, arg in enumerate(user.args)
    )


def linear(b: Builder, node: Node, input: Arg, weight: Node, bias: Arg = None) -> str:
    if rank(weight) != 2:
        raise Declined("with a weight that is no matrix")
    return affine(b, input, transposed(b, weight, node), bias)


def affine(b: Builder, input: Arg, matrix: str, bias: Arg) -> str:
    """``input @ matrix + bias``, the matrix ``[I, O]``."""
    product = b.op("MatMul", b.tensor(input), matrix)
    return product if bias is None else b.op("Add", product, b.tensor(bias))


def matmul(b: Builder, node: Node, self: Arg, other: Arg) -> str:
    return b.op("MatMul", b.tensor(self), b.tensor(other))


def addmm(
    b: Builder, node: Node, self: Arg, mat1: Arg, mat2: Arg, beta: float = 1, alpha: float = 1
) -> str:
    if beta != 1 or alpha != 1:
        raise Declined("with factors")
    return b.op("Add", b.op("MatMul", b.tensor(mat1), b.tensor(mat2)), b.tensor(self))


def bmm(b: Builder, node: Node, self: Arg, mat2: Arg) -> str:
    return matmul(b, node, self, mat2)


def embedding(b: Builder, node: Node, weight: Arg, indices: Arg) -> str:
    return b.op("Gather", b.tensor(weight), b.tensor(indices))


def conv_attributes(
    weight: Node, stride: Arg, padding: Arg, dilation: Arg, groups: int
) -> dict[str, list[int] | int]:
    """A convolution's attributes as ONNX has them; padding may be given for both sides."""
    strides, pads, dilations = windows(weight, stride, padding, dilation)
    return {
        "kernel_shape": [int(size) for size in weight.shape[2:]],
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "group": groups,
    }


def batched(b: Builder, node: Node, input: Node, spatial: int, run: Callable[[str], str]) -> str:
    """Run an op that wants a batch; one image alone gets a batch of one."""
    x = b.tensor(input)
    if rank(input) == spatial + 2:
        return run(x)
    return b.op("Squeeze", run(b.op("Unsqueeze", x, b.ints(0))), b.ints(0))


def conv(
    b: Builder,
    node: Node,
    input: Node,
    weight: Node,
    bias: Arg = None,
    stride: Arg = 1,
    padding: Arg = 0,
    dilation: Arg = 1,
    groups: int = 1,
) -> str:
    attributes = conv_attributes(weight, stride, padding, dilation, groups)
    operands = (b.tensor(weight), b.tensor(bias))
    return batched(
        b, node, input, rank(weight) - 2, lambda x: b.op("Conv", x, *operands, **attributes)
    )


def conv_transpose(
    b: Builder,
    node: Node,
    input: Node,
    weight: Node,
    bias: Arg = None,
    stride: Arg = 1,
    padding: Arg = 0,
    output_padding: Arg = 0,
    groups: int = 1,
    dilation: Arg = 1,
) -> str:
    attributes = conv_attributes(weight, stride, padding, dilation, groups)
    n = rank(weight) - 2
    attributes["output_padding"] = pair(output_padding, n)
    operands = (b.tensor(weight), b.tensor(bias))
    return batched(b, node, input, n, lambda x: b.op("ConvTranspose", x, *operands, **attributes))


def grouped_mm(b: Builder, node: Node, input: Node, weight: Node, offsets: Node) -> str:
    """One product for each group, of the rows that lie between two offsets."""
    x, matrices = b.tensor(input), b.tensor(weight)
    count, width = int(weight.shape[0]), int(weight.shape[2])
    ends = b.tensor(offsets, torch.int64)
    start = b.ints(0)
    parts: list[str] = []
    for i in range(count):
        end = b.op("Slice", ends, b.ints(i), b.ints(i + 1))
        rows = b.op("Slice", x, start, end, b.ints(0))
        matrix = b.op("Gather", matrices, b.constant(i, torch.int64), axis=0)
        parts.append(b.op("MatMul", rows, matrix))
        start = end
    left = b.op("Sub", b.size(x, 0), start)  # rows of no group
    shape = b.op("Concat", left, b.ints(width), axis=0)
    parts.append(b.op("Expand", b.constant(0, node.dtype), shape))
    return b.op("Concat", *parts, axis=0)


LOWERINGS = {
    "grouped_mm": grouped_mm,
    "linear": linear,
    "matmul": matmul,
    "aten.mm.default": bmm,
    "aten.addmm.default": addmm,
    "bmm": bmm,
    "embedding": embedding,
    "conv1d": conv,
    "conv2d": conv,
    "conv3d": conv,
    **{f"conv_transpose{n}d": conv_transpose for n in (1, 2, 3)},
}
