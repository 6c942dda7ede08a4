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
from ...base import target
from ...blocks import BlockKernels, Blocks
from ...lowering import rank
from ...onnx.forms.quantized import activation_codes, weight_codes
from ..builder import Builder, dtype_name

_Weight = tuple[Node, Node, Node | None]
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


def _matrix(b: Builder, weight: _Weight) -> tuple[Any, Any, Any]:
    """Codes ``[I, O]``, and the scale and the zero point of each output, ``[O]``."""
    codes, scale, zero = weight
    outputs = codes.shape[0]

    def flat(value: torch.Tensor) -> torch.Tensor:
        return value.reshape(-1).expand(int(outputs))

    return (
        b.parameter(codes, "transposed", torch.Tensor.t),
        b.parameter(scale, "outputs", flat),
        None if zero is None else b.parameter(zero, "outputs", flat),
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
    codes, factor, shift = _matrix(b, weight)
    q, scale, zero = activation
    if shift is not None:
        codes = b.map(
            (q.shape[-1], node.shape[-1]),
            lambda w, z: w.astype("int16") - z.astype("int16"),
            codes,
            shift,
            name="centre_codes",
        )
    total = b.op("matmul", b.value(q), codes, out_dtype="int32")
    sums = None if zero in (0, None) else _sums(b, codes)
    return _scaled(b, node, total, sums, zero, scale, factor, lambda place: place[-1])


def _sums(b: Builder, codes: Any) -> Any:
    """The sum of the weights of each output, ``[O]``."""
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


def convolution(
    b: Builder, input: Node, weight: Node, node: Node, pads: list[int], **attrs: Any
) -> Any | None:
    """A convolution of codes without its bias; else ``None``."""
    found, activation = weight_codes(weight), activation_codes(input)
    if found is None or activation is None or found[2] is not None or rank(activation[1]) > 1:
        return None
    if rank(input) != rank(weight):
        return None
    codes, scale, _ = found
    q, step, zero = activation
    n = rank(weight) - 2
    outputs = int(codes.shape[0])
    padded = _padded(b, q, zero, pads, n)
    w = b.tensor(codes)
    total = b.op(f"nn.conv{n}d", padded, w, padding=[0] * (2 * n), out_dtype="int32", **attrs)
    factor = b.parameter(scale, "outputs", lambda value: value.reshape(-1).expand(outputs))
    sums = None
    if zero not in (0, None):
        sums = b.parameter(codes, "sums", lambda w: w.flatten(1).sum(1, dtype=torch.int32))
    return _scaled(b, node, total, sums, zero, step, factor, lambda place: place[1])


def _padded(b: Builder, q: Node, zero: Node | int | None, pads: list[int], n: int) -> Any:
    """Codes with those of zero around them."""
    if not any(pads):
        return b.value(q)
    sizes, t, kind = b.shape(q.shape), b.tirx, dtype_name(q.dtype)
    zeros = [b.tensor(zero)] if isinstance(zero, Node) else []
    before, after = [0, 0, *pads[:n]], [0, 0, *pads[n:]]
    shape = tuple(
        size + first + last if isinstance(size, int) else f"{size} + {first + last}"
        for size, first, last in zip(q.shape, before, after, strict=True)
    )

    def at(q: Any, *rest: Any) -> Any:
        given, place = rest[: len(zeros)], rest[len(zeros) :]
        source = [i - first for i, first in zip(place, before, strict=True)]
        pairs = zip(source[2:], sizes[2:], strict=True)
        inside = [part for i, size in pairs for part in (i >= 0, i < size)]
        fill = b.element(given[0], place) if given else t.const(zero or 0, kind)
        return t.if_then_else(t.all(*inside), q(*source), fill)

    return b.compute(shape, at, b.value(q), *zeros, name="pad_codes")


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
