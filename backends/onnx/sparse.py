"""Weights of an ONNX model without the number that most of their places hold, such as zero.

Of N places, n hold other numbers. These are kept in order, and one bit for each place:

    i = bits * cumsum(bits),    weight = [most frequent, others][i]

in ``n size + N / 8`` bytes in place of ``N size``. All of that is constant: whoever reads the model
folds it once, when it is loaded, and computes with what was there before.
"""

from __future__ import annotations

from string import Template
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

_DOMAIN, _NAME = "regauge", "Unpack"
_SMALL = 4096  # bytes, of what is not worth a node more
_BITS: dict[int, Any] = {
    TensorProto.FLOAT: np.uint32,
    TensorProto.FLOAT16: np.uint16,
    TensorProto.INT8: np.uint8,
    TensorProto.UINT8: np.uint8,
}
_UNPACK = """
<domain: "regauge", opset_import: ["" : $opset]>
Unpack (numbers, bits, shape) => (weight)
{
    one = Constant <value_ints = [1]> ()
    bytes = Unsqueeze (bits, one)
    byte = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
    shifted = BitShift <direction = "RIGHT"> (bytes, byte)
    last = Constant <value = uint8 {1}> ()
    eights = BitwiseAnd (shifted, last)
    flat = Constant <value_ints = [-1]> ()
    padded = Reshape (eights, flat)
    first = Constant <value_ints = [0]> ()
    size = ReduceProd (shape)
    there = Slice (padded, first, size)
    whole = Cast <to = 6> (there)
    along = Constant <value_int = 0> ()
    counted = CumSum (whole, along)
    number = Mul (whole, counted)
    indices = Reshape (number, shape)
    weight = Gather (numbers, indices)
}
"""


def without_zeros(model: ModelProto) -> list[str]:
    """Leave out what most places hold, of each weight that takes less so; gives notes."""
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    before = after = 0
    for tensor in model.graph.initializer:
        parts = _parts(tensor)
        if parts is not None:
            before += len(tensor.raw_data)
            after += sum(len(part.raw_data) for part in parts)
            names = [part.name for part in parts]
            nodes.append(helper.make_node(_NAME, names, [tensor.name], domain=_DOMAIN))
        tensors += [tensor] if parts is None else parts
    text = f"{len(nodes)} weights are stored without their zeros"
    if not nodes:
        return [text]
    made = helper.make_graph(
        [*nodes, *model.graph.node],
        model.graph.name,
        model.graph.input,
        model.graph.output,
        tensors,
    )
    model.graph.CopyFrom(made)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    function = Template(_UNPACK).substitute(opset=opset)  # it must be the model's own
    model.functions.append(parser.parse_function(function))
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return [f"{text}, in {after / before:.0%} of the bytes"]


def _parts(tensor: TensorProto) -> list[TensorProto] | None:
    """What is kept of a weight: its numbers, a bit for each place, and its shape; ``None`` if that
    is no less."""
    if tensor.data_type not in _BITS or len(tensor.raw_data) < _SMALL:
        return None
    value = numpy_helper.to_array(tensor)
    raw = value.reshape(-1).view(_BITS[tensor.data_type])
    found, counts = np.unique(raw, return_counts=True)
    there = raw != found[counts.argmax()]  # by bits: a negative zero is a number of its own
    first = raw[~there][:1]
    numbers = np.concatenate([first, raw[there]]).view(value.dtype)
    bits = np.packbits(there, bitorder="little")
    kept = {"numbers": numbers, "bits": bits, "shape": np.array(value.shape, np.int64)}
    if sum(part.nbytes for part in kept.values()) >= raw.nbytes:
        return None
    return [numpy_helper.from_array(part, f"{tensor.name}.{key}") for key, part in kept.items()]
