"""Products of codes, and of weights in codes with what is none.

    y[r, o] = s[r] t[o] (sum_k q[r, k] W[k, o]  -  z sum_k W[k, o]) + b[o]          in 32 bits
    y[r, o] = t[o] (sum_k x[r, k] W[k, o]) + b[o]                                     in floats
    y[r, o] = sum_k x[r, k] (u[k, o] - z[k div g, o]) t[k div g, o] + b[o]

for codes ``q`` and ``W`` of 8 bits, and packed codes ``u`` of fewer. What follows on a product,
such as a clip and the next codes, TVM computes in the same loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ....ir import Node, TargetError
from ....ir.formats import Packed, named
from ....ir.graph import Arg
from ...blocks import BlockKernels, Blocks
from ...lowering import rank
from ...onnx.forms.quantized import activation_codes, weight_codes
from ...profiles import target
from ..builder import Builder, dtype_name
from .windows import DOT, Window, channels_last, in_dots

_Weight = tuple[Node, Node, Node | None]
_DOTS = (torch.uint8, torch.int8)  # whose products processors add four at a time
_Activation = tuple[Node, Node, "Node | int | None"]


# -- codes of 8 bits -----------------------------------------------------------------------------


def linear(b: Builder, node: Node, input: Node, weight: Node) -> Any | None:
    """A product without its bias where the weight is codes; else ``None``."""
    if weight.op == "decode":
        return _linear_blocks(b, node, input, weight)
    found = weight_codes(weight)
    if found is None or rank(weight) != 2:
        return None
    activation = activation_codes(input)
    if activation is None:
        return _linear_weights(b, node, input, found)
    return _linear_codes(b, node, activation, found)


def _outputs(codes: Node) -> Callable[[torch.Tensor], torch.Tensor]:
    """Scales or zero points as one each output."""
    return lambda value: value.reshape(-1).expand(int(codes.shape[0]))


def _summed(codes: torch.Tensor) -> torch.Tensor:
    """The sum of the weights of each output, ``[O]``."""
    return codes.flatten(1).sum(1, dtype=torch.int32)


def _matrix(b: Builder, weight: _Weight) -> tuple[Any, Any, Any]:
    """Codes ``[I, O]``, and the scale and the zero point of each output, ``[O]``."""
    codes, scale, zero = weight
    return (
        b.parameter(codes, "transposed", torch.Tensor.t),
        b.parameter(scale, "outputs", _outputs(codes)),
        None if zero is None else b.parameter(zero, "outputs", _outputs(codes)),
    )


def _linear_weights(b: Builder, node: Node, input: Node, weight: _Weight) -> Any:
    codes, scale, zero = _matrix(b, weight)
    name, te = dtype_name(node.dtype), b.te_module

    def run(x: Any, codes: Any, scale: Any, *zeros: Any) -> Any:
        k = te.reduce_axis((0, codes.shape[0]), name="k")

        def at(*place: Any) -> Any:
            o, value = place[-1], codes(k, place[-1]).astype(name)
            for zero in zeros:
                value = value - zero(o).astype(name)
            return te.sum(x(*place[:-1], k) * value, axis=k)

        product = te.compute(b.shape(node.shape), at, name="product")
        return te.compute(
            product.shape, lambda *place: product(*place) * scale(place[-1]), name="linear"
        )

    zeros = [] if zero is None else [zero]
    return b.te(run, b.tensor(input), codes, scale, *zeros, name="linear_weights")


def _linear_codes(b: Builder, node: Node, activation: _Activation, weight: _Weight) -> Any:
    codes, scale, shift = weight
    q, step, zero = activation
    factor, sums = b.parameter(scale, "outputs", _outputs(codes)), None
    if shift is not None:
        matrix, _, shifts = _matrix(b, weight)
        centred = b.map(
            (q.shape[-1], node.shape[-1]),
            lambda w, z: w.astype("int16") - z.astype("int16"),
            matrix,
            shifts,
            name="centre_codes",
        )
        total = b.op("matmul", b.value(q), centred, out_dtype="int32")
        sums = None if zero in (0, None) else _sums(b, centred)
    else:
        total = _product(b, node, q, codes)
        sums = None if zero in (0, None) else b.parameter(codes, "sums", _summed)
    return _scaled(b, node, total, sums, zero, step, factor, lambda place: place[-1])


def _product(b: Builder, node: Node, q: Node, codes: Node) -> Any:
    """Sums of products of codes, ``[..., O]``, where it is faster with more that nobody reads."""
    deep = q.shape[-1]
    if not b.dots or (q.dtype, codes.dtype) != _DOTS or not isinstance(deep, int) or deep % DOT:
        matrix = b.parameter(codes, "transposed", torch.Tensor.t)
        return b.op("matmul", b.value(q), matrix, out_dtype="int32")
    te = b.te_module

    def run(q: Any, w: Any) -> Any:
        k, j = te.reduce_axis((0, w.shape[0]), name="k"), te.reduce_axis((0, DOT), name="j")

        def at(*place: Any) -> Any:
            left, right = q(*place[:-1], k * DOT + j), w(k, place[-1], j)
            return te.sum(left.astype("int32") * right.astype("int32"), axis=[k, j])

        return te.compute([*b.shape(node.shape[:-1]), w.shape[1]], at, name="linear_codes")

    return b.te(run, b.value(q), b.parameter(codes, "dots", in_dots), name="linear_codes")


def _sums(b: Builder, codes: Any) -> Any:
    """The sum of the weights of each output, ``[O]``, of what is no parameter."""
    te = b.te_module

    def run(w: Any) -> Any:
        k = te.reduce_axis((0, w.shape[0]), name="k")
        return te.compute(
            (w.shape[1],), lambda o: te.sum(w(k, o).astype("int32"), axis=k), name="sums"
        )

    return b.te(run, codes, name="sums")


def _scaled(
    b: Builder,
    node: Node,
    total: Any,
    sums: Any,
    zero: Node | int | None,
    scale: Node,
    factor: Any,
    output: Callable[..., Any],
) -> Any:
    """Sums of products of codes as what they stand for.

    Args:
        output: Which output a position is one of.
    """
    name = dtype_name(node.dtype)
    tensors = [b.tensor(scale), factor]
    tensors += [] if sums is None else [sums]
    tensors += [b.tensor(zero)] if sums is not None and isinstance(zero, Node) else []

    def at(total: Any, *rest: Any) -> Any:
        (scale, factor, *more), place = rest[: len(tensors)], rest[len(tensors) :]
        value = total(*place)
        if more:
            sums, *given = more
            first = b.element(given[0], place).astype("int32") if given else zero
            value = value - sums(output(place)) * first
        return value.astype(name) * (b.element(scale, place) * factor(output(place)))

    return b.compute(node.shape, at, total, *tensors, name="scale")


def convolution(b: Builder, input: Node, weight: Node, node: Node, window: Window) -> Any | None:
    """A convolution of codes without its bias; else ``None``."""
    found, activation = weight_codes(weight), activation_codes(input)
    if found is None or activation is None or found[2] is not None or rank(activation[1]) > 1:
        return None
    if rank(input) != rank(weight):
        return None
    codes, scale, _ = found
    q, step, zero = activation
    dots = b.dots and window.groups == 1 and (q.dtype, codes.dtype) == _DOTS
    w = b.parameter(codes, *(("dots", in_dots) if dots else ("channels_last", channels_last)))
    fill = [] if zero in (0, None) or not any(window.pads) else [b.tensor(zero, q.dtype)]
    sizes = node.shape[2:]
    total = window.sums(b, b.value(q), w, sizes, torch.int32, *fill, name="conv_codes")
    factor = b.parameter(scale, "outputs", _outputs(codes))
    sums = None if zero in (0, None) else b.parameter(codes, "sums", _summed)
    return _scaled(b, node, total, sums, zero, step, factor, lambda place: place[1])


def embedding(b: Builder, node: Node, weight: Node, indices: Node) -> Any | None:
    """Rows of a table of codes; else ``None``."""
    if weight.op == "decode":
        blocks = _blocks(b, weight)
        value = _unpacked(b, blocks, transposed=False)
        return _rows(b, node, indices, value, *blocks_of(b, weight, blocks, transposed=False))
    found = weight_codes(weight)
    if found is None:
        return None
    name = dtype_name(node.dtype)

    def value(row: Any, column: Any, codes: Any, scale: Any, *zeros: Any) -> Any:
        code = codes(row, column).astype(name)
        for zero in zeros:
            code = code - b.element(zero, (row, column)).astype(name)
        return code * b.element(scale, (row, column))

    return _rows(b, node, indices, value, *(b.tensor(part) for part in found if part is not None))


def _rows(b: Builder, node: Node, indices: Node, value: Callable[..., Any], *parts: Any) -> Any:
    places = rank(indices)

    def at(rows: Any, *rest: Any) -> Any:
        tensors, place = rest[: len(parts)], rest[len(parts) :]
        return value(rows(*place[:places]), place[-1], *tensors)

    return b.compute(node.shape, at, b.tensor(indices), *parts, name="embedding_codes")


# -- packed codes --------------------------------------------------------------------------------


def _blocks(b: Builder, node: Node) -> Blocks:
    """The blocks of packed codes; raises ``TargetError``."""
    parts: list[Node | None] = [*node.args, None, None][:4]
    codes: Node = node.args[0]
    form, shape = named(node.attrs["format"]), node.attrs["shape"]
    place = target("tvm")
    weight = ", ".join(b.graph.store.origin.get(codes.name, ())) or codes.name
    place.check_weights(form, weight, node.at)
    if len(shape) != 2 or any(part is not None and part.op != "param" for part in parts):
        raise TargetError(
            f"target 'tvm' decodes constant matrices alone, not {weight}, {form}",
            where=node.at,
            do="leave this weight out, or compile for target='torch'",
        )
    kernels = place.weights
    assert isinstance(kernels, BlockKernels)

    def make() -> Blocks:
        values = [None if part is None else b.graph.value(part) for part in parts]
        packed = Packed(form, torch.Size(shape), torch.float32, *values)  # pyright: ignore
        return kernels.blocks(packed.unpack())

    return b.memo(("blocks", codes), make)


def blocks_of(b: Builder, node: Node, blocks: Blocks, *, transposed: bool) -> list[Any]:
    """The codes ``[O, bytes]``, the scales ``[O, blocks]`` and the zero points, in bytes, of rows;
    or each with its axes exchanged."""
    parts = {"codes": blocks.codes.flatten(1), "scales": blocks.scale, "zeros": blocks.zero}
    side = "columns" if transposed else "rows"
    return [
        b.parameter(node.args[0], f"{name}.{side}", lambda _, v=value: v.t() if transposed else v)
        for name, value in parts.items()
        if value is not None
    ]


def _unpacked(b: Builder, blocks: Blocks, *, transposed: bool) -> Callable[..., Any]:
    """The weight of an output and an input, from what ``blocks_of`` gives."""
    t, many, mask = b.tirx, 8 // blocks.bits, 2**blocks.bits - 1
    middle = float(2 ** (blocks.bits - 1))

    def read(table: Any, output: Any, place: Any) -> Any:
        return table(place, output) if transposed else table(output, place)

    def code(table: Any, output: Any, place: Any) -> Any:
        byte = read(table, output, t.floordiv(place, many)).astype("int32")
        shift = (t.floormod(place, many) * blocks.bits).astype("int32")
        return t.bitwise_and(t.shift_right(byte, shift), mask).astype("float32")

    def value(output: Any, k: Any, codes: Any, scale: Any, *zeros: Any) -> Any:
        block = t.floordiv(k, blocks.size)
        zero = code(zeros[0], output, block) if zeros else middle
        return (code(codes, output, k) - zero) * read(scale, output, block)

    return value


def _linear_blocks(b: Builder, node: Node, input: Node, weight: Node) -> Any:
    blocks = _blocks(b, weight)
    value, te = _unpacked(b, blocks, transposed=True), b.te_module
    outputs, inputs = weight.attrs["shape"]

    def run(x: Any, *parts: Any) -> Any:
        matrix = te.compute(
            (b.size(inputs), b.size(outputs)), lambda k, o: value(o, k, *parts), name="decode"
        )
        k = te.reduce_axis((0, b.size(inputs)), name="k")
        return te.compute(
            b.shape(node.shape),
            lambda *place: te.sum(x(*place[:-1], k) * matrix(k, place[-1]), axis=k),
            name="linear",
        )

    parts = blocks_of(b, weight, blocks, transposed=True)
    return b.te(run, b.tensor(input), *parts, name="linear_blocks")


def decode(
    b: Builder,
    node: Node,
    codes: Node,
    scale: Node,
    whole: Arg = None,
    zero: Arg = None,
    format: str = "",
    shape: Arg = (),
) -> Any:
    """The whole weight, for a reader that does not take codes."""
    blocks = _blocks(b, node)
    value = _unpacked(b, blocks, transposed=False)
    parts = blocks_of(b, node, blocks, transposed=False)

    def at(*rest: Any) -> Any:
        return value(*rest[len(parts) :], *rest[: len(parts)])

    return b.compute(node.shape, at, *parts, name="decode")


LOWERINGS = {"decode": decode}
