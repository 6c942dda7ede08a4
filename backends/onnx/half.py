"""Half precision in an ONNX model: for weights that are only stored in it, or for what is computed.

A weight is rounded where half precision holds it: none of its values lies beyond 65504, and what
rounding takes is no more than for normal numbers, 2⁻¹¹ of each value. Others stay in float32.
"""

from __future__ import annotations

from collections import defaultdict
from importlib import import_module
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

LARGEST = 65504.0
_ROUNDED = 2.0**-10  # relative L2 of what rounding may take: beyond it values are subnormal
_SMALL = 1024  # bytes, of what is not worth a cast
# Products, convolutions and tables, which read weights; not scales of codes or weights of norms.
_READERS = set(
    "MatMul Gemm Conv ConvTranspose Gather Transpose FusedMatMul FusedGemm FusedConv".split()
)
# What adds up many numbers or takes their powers, beyond what ONNX Runtime's converter knows.
_WIDE = (
    "Softmax LogSoftmax LayerNormalization SkipLayerNormalization LpNormalization "
    "RMSNormalization SimplifiedLayerNormalization SkipSimplifiedLayerNormalization "
    "InstanceNormalization GroupNormalization BatchNormalization Exp Pow Log Sqrt Reciprocal "
    "ReduceSum ReduceMean ReduceSumSquare ReduceL1 ReduceL2 ReduceProd ReduceLogSum "
    "ReduceLogSumExp GlobalAveragePool"
).split()


def stored(model: ModelProto) -> list[str]:
    """Round the weights of a model, which are made float32 where it is read; gives notes."""
    graph = model.graph
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for node in graph.node:
        for name in node.input:
            readers[name].add(node.op_type)
    casts: list[NodeProto] = []
    wide: list[str] = []
    for tensor in graph.initializer:
        if not (_is_weight(tensor) and readers[tensor.name] <= _READERS and readers[tensor.name]):
            continue
        value = _rounded(tensor)
        if value is None:
            wide.append(tensor.name)
            continue
        name = tensor.name
        tensor.name, tensor.data_type, tensor.raw_data = (
            f"{name}.half",
            TensorProto.FLOAT16,
            value.tobytes(),
        )
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], f"{name}.Cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return [
        f"{len(casts)} weights are stored in half precision and computed with in float32",
        *_kept(wide),
    ]


def computed(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """A model that computes in half precision, but for norms, softmax and sums; its inputs and
    outputs stay as they are. Gives notes too."""
    floats: Any = import_module("onnxruntime.transformers.float16")
    weights = [tensor for tensor in model.graph.initializer if _is_weight(tensor)]
    wide = {tensor.name for tensor in weights if _rounded(tensor) is None}
    beside = [node.name for node in model.graph.node if wide.intersection(node.input)]
    made = floats.convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*floats.DEFAULT_OP_BLOCK_LIST, *_WIDE],
        node_block_list=beside,
    )
    note = "computed in half precision, but for norms, softmax and sums, which are in float32"
    return made, [note, *_kept(sorted(wide))]


def _is_weight(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.raw_data) >= _SMALL


def _rounded(tensor: TensorProto) -> np.ndarray[Any, np.dtype[np.float16]] | None:
    """A weight in half precision; ``None`` where that does not hold it."""
    value = np.frombuffer(tensor.raw_data, np.float32)
    finite = value[np.isfinite(value)].astype(np.float64)
    if finite.size and np.abs(finite).max() > LARGEST:
        return None
    with np.errstate(under="ignore"):
        lost = np.linalg.norm(finite.astype(np.float16) - finite)
    return None if lost > _ROUNDED * np.linalg.norm(finite) else value.astype(np.float16)


def _kept(names: list[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [f"in float32 because half precision does not hold their values: {shown}"]
