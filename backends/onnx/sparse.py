"""Weights of an ONNX model without the number that most of their places hold, such as zero.

``ir.sparse`` says what is kept of them. All of that is constant: whoever reads the model folds it
once, when it is loaded, and computes with what was there before.
"""

from __future__ import annotations

from string import Template
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from ...ir.sparse import Sparse

_DOMAIN = "regauge"
_SMALL = 4096  # bytes, of what is not worth a node more
_BITS: dict[int, Any] = {
    TensorProto.FLOAT: np.int32,
    TensorProto.FLOAT16: np.int16,
    TensorProto.INT8: np.uint8,
    TensorProto.UINT8: np.uint8,
}
_INDICES = """
    one = Constant <value_ints = [1]> ()
    bytes = Unsqueeze (bits, one)
    byte = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
    shifted = BitShift <direction = "RIGHT"> (bytes, byte)
    last = Constant <value = uint8 {1}> ()
    eights = BitwiseAnd (shifted, last)
    flat = Constant <value_ints = [-1]> ()
    padded = Reshape (eights, flat)
    first = Constant <value_ints = [0]> ()
    $size
    present = Slice (padded, first, size)
    whole = Cast <to = 7> (present)
    along = Constant <value_int = 0> ()
    counted = CumSum (whole, along)
    before = Sub (rows, one)
    others = Add (counted, before)
    matrix = Concat <axis = 0> (rows, flat)
    cut = Reshape (others, matrix)
    there = Cast <to = 9> (whole)
    split = Reshape (there, matrix)
    none = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    count = Squeeze (rows)
    numbered = Range (none, count, step)
    row = Unsqueeze (numbered, one)
    index = Where (split, cut, row)
"""
_FUNCTIONS = {
    "Unpack": f"""
<domain: "regauge", opset_import: ["" : $opset]>
Unpack (numbers, bits, shape, rows) => (weight)
{{
{Template(_INDICES).substitute(size="size = ReduceProd (shape)")}
    indices = Reshape (index, shape)
    weight = Gather (numbers, indices)
}}
""",
    "UnpackHalves": f"""
<domain: "regauge", opset_import: ["" : $opset]>
UnpackHalves (numbers, bits, shape, rows) => (weight)
{{
{
        Template(_INDICES).substitute(
            size='''volume = ReduceProd (shape)
    two = Constant <value_ints = [2]> ()
    size = Mul (volume, two)'''
        )
    }
    half = Constant <value = uint8 {{15}}> ()
    four = Constant <value = uint8 {{4}}> ()
    low = BitwiseAnd (numbers, half)
    high = BitShift <direction = "RIGHT"> (numbers, four)
    lows = Unsqueeze (low, one)
    highs = Unsqueeze (high, one)
    both = Concat <axis = 1> (lows, highs)
    halves = Reshape (both, flat)
    found = Gather (halves, index)
    pair = Constant <value_ints = [-1, 2]> ()
    pairs = Reshape (found, pair)
    lower = Gather <axis = 1> (pairs, none)
    upper = Gather <axis = 1> (pairs, step)
    raised = BitShift <direction = "LEFT"> (upper, four)
    joined = BitwiseOr (lower, raised)
    weight = Reshape (joined, shape)
}}
""",
}


def without_zeros(model: ModelProto) -> list[str]:
    """Leave out what most places hold, of each weight that takes less so; gives notes."""
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    before = after = 0
    for tensor in model.graph.initializer:
        found = _parts(tensor)
        if found is None:
            tensors.append(tensor)
            continue
        name, parts = found
        before += len(tensor.raw_data)
        after += sum(len(part.raw_data) for part in parts)
        tensors += parts
        inputs = [part.name for part in parts]
        nodes.append(helper.make_node(name, inputs, [tensor.name], domain=_DOMAIN))
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
    for name in dict.fromkeys(node.op_type for node in nodes):
        function = Template(_FUNCTIONS[name]).substitute(opset=opset)  # it must be the model's own
        model.functions.append(parser.parse_function(function))
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return [f"{text}, in {after / before:.0%} of the bytes"]


def _parts(tensor: TensorProto) -> tuple[str, list[TensorProto]] | None:
    """What is kept of a weight, and what makes it of that: its numbers, a bit for each place, its
    shape, and how many rows there are; ``None`` if that is no less."""
    if tensor.data_type not in _BITS or len(tensor.raw_data) < _SMALL:
        return None
    value = numpy_helper.to_array(tensor)
    raw = value.view(_BITS[tensor.data_type])  # by bits: a negative zero is a number of its own
    found = Sparse.of(torch.from_numpy(raw.copy()))
    if found is None:
        return None
    numbers = found.numbers.numpy().view(value.dtype)
    kept = {
        "numbers": numbers,
        "bits": found.places.numpy(),
        "shape": np.array(value.shape, np.int64),
        "rows": np.array([found.rows], np.int64),
    }
    if sum(part.nbytes for part in kept.values()) >= len(tensor.raw_data):
        return None
    parts = [numpy_helper.from_array(part, f"{tensor.name}.{key}") for key, part in kept.items()]
    return "UnpackHalves" if found.halves else "Unpack", parts
