"""Our graph as an ONNX model: fused into the forms of the runtime, then one lowering a node."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, ValueInfoProto, helper

from ...ir import Graph, Node, TargetError, TensorType
from ...ir.types import Type, show
from ..lowering import lowered
from . import fallback
from .builder import DTYPES, SCALARS, Builder, Declined, Value
from .dialect import ONNX_RUNTIME, Dialect
from .forms import fuse
from .lower import LOWERINGS

WIDE_SUMS = {"regauge.sums": "32 bits"}  # in a model's properties: 16 may saturate
_EXTERNAL = 1_500_000_000  # bytes; a protobuf file ends at 2 GB


def emit(graph: Graph, dialect: Dialect = ONNX_RUNTIME) -> ModelProto:
    """The graph as an ONNX model; the same graph gives the same bytes.

    Values keep the names of our nodes, symbolic sizes become named dimensions.

    Raises:
        TargetError: An op has no ONNX form.
    """
    fused = fuse(graph, dialect)
    builder = Builder(fused, dialect)
    inputs = [_input(builder, node) for node in fused.inputs if node.users or _is_tensor(node)]
    for node in fused.nodes:
        builder.values[node] = lower(builder, node)
    names = [arg.name if isinstance(arg, Node) else "" for arg in graph.outputs]
    outputs = _outputs(builder, fused, names)
    _prune(builder, {value.name for value in outputs})
    model = helper.make_model(
        helper.make_graph(
            builder.nodes, "regauge", inputs, outputs, list(builder.initializers.values())
        ),
        opset_imports=[helper.make_opsetid(d, v) for d, v in _domains(builder)],
        ir_version=dialect.ir_version,
        producer_name="regauge",
    )
    if builder.wide_sums:
        helper.set_model_props(model, WIDE_SUMS)
    return model


def is_large(model: ModelProto) -> bool:
    """Whether the weights go to a file of their own."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) > _EXTERNAL


def save(model: ModelProto, path: str | Path) -> list[Path]:
    """Write a model, weights of more than 1.5 GB to a file beside it; gives what was written."""
    path = Path(path)
    if not is_large(model):
        path.write_bytes(model.SerializeToString(deterministic=True))
        return [path]
    data = path.with_suffix(".weights")
    data.unlink(missing_ok=True)  # onnx appends
    copy = ModelProto()
    copy.CopyFrom(model)
    onnx.save_model(
        copy, str(path), save_as_external_data=True, location=data.name, size_threshold=1024
    )
    return [path, data]


def lower(builder: Builder, node: Node) -> Value:
    """One node of ours as ONNX nodes; a tensor that is a value of its own has the node's name."""
    builder.begin(node.name)
    if node.type == ():  # an assertion: it has no value
        return ()
    try:
        result = _lowered(builder, node)
    except Declined as reason:
        result = fallback.export(builder, node, str(reason))
    if isinstance(result, str) and builder.inner(result) and _is_tensor(node):
        builder.rename(result, node.name)
        return node.name
    return result


def _lowered(builder: Builder, node: Node) -> Value:
    if any(_is_complex(value) for value in (*node.inputs, node)):
        raise Declined("of complex numbers")  # which ONNX has as pairs, on an axis of their own
    if node.op.startswith("ort."):
        return LOWERINGS[node.op](builder, node, *node.args, **node.attrs)
    return lowered(LOWERINGS, builder, node)


def _input(builder: Builder, node: Node) -> ValueInfoProto:
    """Declare a graph input; a number comes as a scalar and is made an ``int64[1]``."""
    info = _info(node.name, node.type, node)
    builder.begin(node.name)
    builder.values[node] = node.name
    if not isinstance(node.type, TensorType):
        builder.values[node] = builder.op("Reshape", node.name, builder.ints(1))
    return info


def _is_complex(node: Node) -> bool:
    return isinstance(node.type, TensorType) and node.dtype.is_complex


def _is_tensor(node: Node) -> bool:
    return isinstance(node.type, TensorType)


def _outputs(builder: Builder, graph: Graph, names: list[str]) -> list[ValueInfoProto]:
    """The outputs that are values, each under a name of its own.

    Who has the graph knows those that are constants. What a node makes gets the name itself: a copy
    of it would be one of a whole cache.
    """
    infos: list[ValueInfoProto] = []
    taken = {node.name for node in graph.inputs} | set(graph.params)
    made = {name for node in builder.nodes for name in node.output}
    made -= {name for node in builder.nodes for name in _reads(node) - set(node.input)}
    for place, arg in enumerate(graph.outputs):
        if not isinstance(arg, Node):
            continue
        info = _info("", arg.type, arg)
        name = names[place] if names[place] not in taken else f"{names[place]}_output_{place}"
        value = builder.tensor(arg)
        if value != name and value in made - taken and name not in made:
            made.remove(value)
            builder.rename(value, name, everywhere=True)
        elif value != name:
            builder.begin(name)
            builder.rename(builder.op("Identity", value), name)
        taken.add(name)
        info.name = name
        infos.append(info)
    return infos


def _info(name: str, type_: Type, node: Node) -> ValueInfoProto:
    """The type of an input or an output."""
    if isinstance(type_, tuple):
        raise TargetError(f"{node.name} is {show(type_)}: ONNX takes tensors only", where=node.at)
    dtype = type_.dtype if isinstance(type_, TensorType) else SCALARS[type_.kind]
    shape = type_.shape if isinstance(type_, TensorType) else ()
    if dtype not in DTYPES:
        raise TargetError(f"ONNX has no {dtype}, which {node.name} is", where=node.at)
    return helper.make_tensor_value_info(name, DTYPES[dtype], list(shape))


def _prune(builder: Builder, wanted: set[str]) -> None:
    """Drop nodes and initializers that reach no output."""
    kept: list[onnx.NodeProto] = []
    for node in reversed(builder.nodes):
        if any(name in wanted for name in node.output):
            wanted.update(_reads(node))
            kept.append(node)
    builder.nodes = kept[::-1]
    builder.initializers = {n: t for n, t in builder.initializers.items() if n in wanted}


def _reads(node: onnx.NodeProto) -> set[str]:
    """The names a node reads, those of its subgraphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                names |= _reads(inner)
    return names


def _domains(builder: Builder) -> list[tuple[str, int]]:
    used = {"", *(node.domain for node in builder.nodes)}
    return [
        (domain, version) for domain, version in sorted(builder.domains.items()) if domain in used
    ]
