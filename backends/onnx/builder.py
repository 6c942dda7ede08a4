"""An ONNX graph in the making: nodes, initializers and names, and our values by their ONNX names.

A tensor of ours is one ONNX value. A symbolic number is an ``int64[1]`` (``float64[1]``,
``bool[1]``), since shapes are put together from numbers far more often than numbers meet tensors.
A tuple is a tuple of values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from ...ir import Graph, Node, ScalarType, TensorType
from ...ir.formats import pack
from ...ir.graph import Arg
from ..lowering import Declined as Declined
from ..lowering import axis_of as axis_of
from ..lowering import pair as pair
from ..lowering import rank as rank
from .dialect import ONNX_RUNTIME, Dialect

Value: TypeAlias = "str | tuple[str, ...]"
Attribute: TypeAlias = (
    "int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | TensorProto | GraphProto"
)
Shared = TypeVar("Shared")

MICROSOFT = "com.microsoft::"  # ONNX Runtime's own ops
INT64_MAX = (1 << 63) - 1

DTYPES: Mapping[torch.dtype, int] = {
    torch.float64: TensorProto.DOUBLE,
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int16: TensorProto.INT16,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.uint16: TensorProto.UINT16,
    torch.bool: TensorProto.BOOL,
    torch.float8_e4m3fn: TensorProto.FLOAT8E4M3FN,
    torch.float8_e5m2: TensorProto.FLOAT8E5M2,
}
_CODES = {4: TensorProto.UINT4, 8: TensorProto.UINT8}
SCALARS = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}


def tensor_proto(name: str, value: torch.Tensor) -> TensorProto:
    """A tensor as an initializer."""
    if value.dtype not in DTYPES:
        raise Declined(f"ONNX has no {value.dtype}")
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    proto = TensorProto(name=name, dims=list(value.shape), data_type=DTYPES[value.dtype])
    proto.raw_data = flat.numpy().tobytes()
    return proto


class Builder:
    """Lowerings call ``op`` for each ONNX node and give back the name of the result."""

    def __init__(self, graph: Graph, dialect: Dialect = ONNX_RUNTIME) -> None:
        self.graph, self.dialect = graph, dialect
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.values: dict[Node, Value] = {}
        self.domains = {"": dialect.opset, "com.microsoft": 1}
        self.wide_sums = False  # whether 16 bits may be too few for a sum of two products of codes
        self._constants: dict[tuple[torch.dtype, tuple[int, ...], bytes], str] = {}
        self._current = "v"  # the node being lowered, after which its inner values are named
        self.exported: dict[
            str, ModelProto
        ] = {}  # what PyTorch's exporter made of ops, by their text
        self._shared: dict[tuple[object, ...], Any] = {}
        self._counts: dict[str, int] = {}
        self._start = 0

    # -- nodes ----------------------------------------------------------------------------------

    def begin(self, name: str) -> None:
        """Name the values that follow after this node of ours: ``name.0``, ``name.1``, ..."""
        self._current, self._start = name, len(self.nodes)

    def fresh(self) -> str:
        """A name for an inner value; ours hold no dot."""
        count = self._counts.get(self._current, 0)
        self._counts[self._current] = count + 1
        return f"{self._current}.{count}"

    def ops(self, kind: str, *inputs: str, count: int, **attrs: Attribute) -> tuple[str, ...]:
        """Add a node with this many outputs; an input called '' is left out."""
        outputs = tuple(self.fresh() for _ in range(count))
        last = max((i + 1 for i, name in enumerate(inputs) if name), default=0)
        domain, _, plain = kind.rpartition("::")
        node = helper.make_node(
            plain,
            inputs[:last],
            outputs,
            name=f"{outputs[0]}.{plain}",
            doc_string=None,
            domain=domain,
            overload=None,
            **attrs,
        )
        self.nodes.append(node)
        return outputs

    def op(self, kind: str, *inputs: str, **attrs: Attribute) -> str:
        """Add a node with one output."""
        return self.ops(kind, *inputs, count=1, **attrs)[0]

    def rename(self, old: str, new: str, *, everywhere: bool = False) -> None:
        """Give a value made since ``begin`` another name; or one made by any node but in whose
        subgraphs it is not read."""
        if everywhere:
            for node, value in self.values.items():
                if value == old:
                    self.values[node] = new
        for node in self.nodes[0 if everywhere else self._start :]:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
            node.name = f"{new}.{node.op_type}" if node.output[0] == new else node.name

    def inner(self, name: str) -> bool:
        """Whether the value was made since ``begin``, under a name of its own."""
        return name.startswith(f"{self._current}.")

    # -- constants ------------------------------------------------------------------------------

    def constant(self, value: object, dtype: torch.dtype) -> str:
        """A small constant, stored once however often it is used."""
        tensor = torch.as_tensor(value, dtype=dtype).contiguous()
        key = (dtype, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        name = self._constants.get(key)
        if name is None:
            name = self._constants[key] = f"constant.{len(self._constants)}"
            self.initializers[name] = tensor_proto(name, tensor)
        return name

    def ints(self, *values: int) -> str:
        """A constant ``int64[n]``."""
        return self.constant(list(values), torch.int64)

    def parameter(
        self,
        node: Node,
        form: str = "",
        change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> str:
        """A parameter as an initializer, or in a changed form of this name, stored once."""
        name = f"{node.name}.{form}" if form else node.name
        if name not in self.initializers:
            tensor = self.graph.value(node)
            self.initializers[name] = tensor_proto(
                name, tensor if change is None else change(tensor)
            )
        return name

    def codes(self, node: Node, form: str, bits: int, make: Callable[[], torch.Tensor]) -> str:
        """Codes ``uint8`` made of a parameter as an initializer of 4 or 8 bits each."""
        name = f"{node.name}.{form}"
        if name not in self.initializers:
            codes = make()
            proto = TensorProto(name=name, dims=list(codes.shape), data_type=_CODES[bits])
            proto.raw_data = pack(codes.flatten(), 2**bits).numpy().tobytes()
            self.initializers[name] = proto
        return name

    def memo(self, key: tuple[object, ...], make: Callable[[], Shared]) -> Shared:
        """What several nodes share, made where it is first asked for."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    # -- operands -------------------------------------------------------------------------------

    def value(self, node: Node) -> Value:
        """What a node of ours became."""
        if node.op == "param":
            return self.parameter(node)
        return self.values[node]

    def tensor(self, arg: Arg, dtype: torch.dtype | None = None) -> str:
        """An operand as a tensor, cast where it has another dtype. ``None`` is left out."""
        if arg is None:
            return ""
        if not isinstance(arg, Node):
            return self.constant(
                arg, dtype or torch.result_type(torch.empty(1, dtype=torch.int64), arg)
            )
        name = self.value(arg)
        assert isinstance(name, str), f"{arg.name} is a tuple"
        if isinstance(arg.type, ScalarType):
            found = SCALARS[arg.type.kind]
            name = self.op("Squeeze", name)
        else:
            found = arg.dtype
        return name if dtype in (None, found) else self.cast(name, dtype)

    def cast(self, name: str, dtype: torch.dtype | None) -> str:
        if dtype is None or dtype not in DTYPES:
            raise Declined(f"ONNX has no {dtype}")
        return self.op("Cast", name, to=DTYPES[dtype])

    def number(self, arg: Arg) -> str:
        """An integer operand as ``int64[1]``."""
        if not isinstance(arg, Node):
            return self.ints(int(arg))
        name = self.value(arg)
        assert isinstance(name, str)
        if isinstance(arg.type, TensorType):
            name = self.op("Reshape", name, self.ints(1))
            return name if arg.dtype == torch.int64 else self.cast(name, torch.int64)
        return name

    def numbers(self, args: Arg) -> str:
        """Integers as ``int64[n]``; a constant where all are known."""
        many: tuple[Arg, ...] = args if isinstance(args, tuple) else (args,)
        if all(isinstance(arg, int) for arg in many):
            return self.ints(*many)
        if len(many) == 1:
            return self.number(many[0])
        return self.op("Concat", *map(self.number, many), axis=0)

    def size(self, name: str, axis: int) -> str:
        """One size of a value, as ``int64[1]``."""
        end = {} if axis == -1 else {"end": axis + 1}
        return self.op("Shape", name, start=axis, **end)
