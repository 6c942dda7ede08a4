"""An ``ExportedProgram`` as a graph, one node for one, before any canonical form."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from ..ir import Graph, Node, TraceError
from ..ir import ops as table
from ..ir.types import dim, of, symbols
from .literals import literal

_DROPPED = {"layout", "pin_memory", "non_blocking", "device", "memory_format"}


def convert(program: ExportedProgram) -> Graph:
    """The graph of a functional exported program (after ``run_decompositions``)."""
    return _Converter(program).graph


class _Converter:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.graph = Graph()
        self.made: dict[fx.Node, Any] = {}
        self.tied: dict[tuple[Any, ...], Node] = {}
        inputs = iter(program.graph_signature.input_specs)
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self.placeholder(node, next(inputs))
            elif node.op == "call_function":
                self.made[node] = self.function(node)
            elif node.op == "output":
                self.output(node)
            elif node.op != "get_attr":  # the body of a branch; what calls it is refused below
                raise TraceError(
                    f"the exported program holds a {node.op} node", where=node.format_node() or ""
                )
        self.graph.in_spec = program.call_spec.in_spec
        self.graph.out_spec = program.call_spec.out_spec
        self.ranges()

    def placeholder(self, node: fx.Node, spec: Any) -> None:
        if spec.kind == InputKind.USER_INPUT:
            value = node.meta.get("val")
            if isinstance(value, (torch.Tensor, torch.SymInt)):
                self.made[node] = self.graph.input(node.name, of(value))
            else:  # a constant that the trace specialised on; it stays in the calling convention
                self.made[node] = self.graph.input(node.name, of(0 if value is None else value))
            return
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            tensor = self.program.state_dict.get(spec.target)
            tensor = self.program.constants.get(spec.target) if tensor is None else tensor
        elif spec.kind == InputKind.CONSTANT_TENSOR:
            tensor = self.program.constants[spec.target]
        else:
            raise TraceError(
                f"the model takes {spec.kind.name.lower()} {spec.target}, which is not supported"
            )
        assert isinstance(tensor, torch.Tensor)
        self.made[node] = self.parameter(spec.target, tensor.detach())

    def parameter(self, name: str, tensor: torch.Tensor) -> Node:
        """One parameter for each tensor, however many names it has."""
        where = () if tensor.device.type == "meta" else (tensor.data_ptr(),)
        key = (*where, tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)
        known = self.tied.get(key) if where and tensor.numel() else None
        if known is not None:
            self.graph.store.origin[known.name] += (name,)
            return known
        node = self.graph.param(name, literal(name, tensor))
        self.tied[key] = node
        return node

    def function(self, node: fx.Node) -> Any:
        name, args, attrs = self.call(node)
        where = location(node)
        type_ = of(node.meta["val"]) if node.meta.get("val") is not None else ()
        return self.graph.add(name, *args, name=node.name, type=type_, where=where, **attrs)

    def call(self, node: fx.Node) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """The op's name, operands and attributes."""
        target = node.target
        if target in table.NUMBERS:
            return table.NUMBERS[target], tuple(map(self.value, node.args)), {}
        schema = getattr(target, "_schema", None)
        if schema is None:
            raise TraceError(
                f"the model calls {target}, which holds graphs of its own; they are not supported",
                where=location(node),
                do="compute both branches and choose by torch.where",
            )
        given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(
            node.kwargs
        )
        name = table.name_of(target)
        operands = table.get(name).operands
        bound = {key: self.value(value) for key, value in given.items()}
        defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        args = [bound.pop(key, None) for key in operands]
        while args and args[-1] is None:
            args.pop()
        attrs = {
            key: value
            for key, value in bound.items()
            if key not in _DROPPED and not (key in defaults and _same(value, defaults[key]))
        }
        return name, tuple(args), attrs

    def value(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self.made[arg]
        if isinstance(arg, (list, tuple)):
            return tuple(self.value(part) for part in arg)
        return arg

    def output(self, node: fx.Node) -> None:
        kept = []
        specs = self.program.graph_signature.output_specs
        for arg, spec in zip(node.args[0], specs, strict=True):  # type: ignore[arg-type]
            if spec.kind == OutputKind.USER_OUTPUT:
                kept.append(self.value(arg))
            elif self.stays(arg, spec):
                continue
            elif spec.kind != OutputKind.TOKEN:
                raise TraceError(
                    f"the model changes {spec.target} when it runs",
                    do="call model.eval(), or make the state an input and an output",
                )
        self.graph.returns(*kept)

    def stays(self, arg: Any, spec: Any) -> bool:
        """Whether a buffer is only set to the value that it has."""
        signature = self.program.graph_signature
        changes = spec.kind == OutputKind.BUFFER_MUTATION and isinstance(arg, fx.Node)
        return changes and signature.inputs_to_buffers.get(arg.name) == spec.target

    def ranges(self) -> None:
        typed = (*self.graph.inputs, *self.graph.nodes)
        used = {name for node in typed for name in symbols(node.type)}
        for symbol, limits in self.program.range_constraints.items():
            if str(symbol) not in used:
                continue  # found to be a number after all
            high = None if limits.upper > 1 << 30 else int(limits.upper)
            self.graph.symbols[str(dim(symbol))] = (int(limits.lower), high)


def location(node: fx.Node) -> str:
    """The user's line: the innermost frame outside PyTorch, as ``file:line in function``. Where all
    of them are PyTorch's own, as in ``nn.Sequential``, the innermost module by its path."""
    trace = node.meta.get("stack_trace") or ""
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    for frame in reversed(frames):
        path, line, function = frame.removeprefix("File ").split(", ", 2)
        if "/torch/" not in path and not path.startswith('"<'):
            return f"{path.strip(chr(34))}:{line.removeprefix('line ')} {function}"
    for path, kind in reversed((node.meta.get("nn_module_stack") or {}).values()):
        if path:
            return f"module {path}, {kind.rpartition('.')[2]}"
    return ""


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, tuple) and isinstance(default, (list, tuple)):
        return list(value) == list(default)
    return type(value) is type(default) and value == default
