"""A C function in the making: values in memory, constants, and calls of kernels in their order."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

from ...ir import Graph, Node, TargetError
from ...ir.graph import Arg
from .kernels import KERNELS, MATHEMATICS, RESERVED
from .moves import Loops

KINDS = {
    torch.float32: "f32",
    torch.uint8: "u8",
    torch.int8: "s8",
    torch.int32: "s32",
    torch.int64: "s64",
}
C_TYPES = {"f32": "float", "u8": "uint8_t", "s8": "int8_t", "s32": "int32_t", "s64": "int64_t"}
BYTES = {"f32": 4, "u8": 1, "s8": 1, "s32": 4, "s64": 8}

Argument: TypeAlias = "Value | Window | str | int | float"


@dataclass(eq=False)
class Buffer:
    """Where values lie: in an array of this name, or in the arena while steps need it."""

    bytes: int
    array: str = ""
    first: int = 0
    last: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Value:
    """A tensor in C.

    Attributes:
        name: Of the pointer to it; values that only differ in shape share one.
        kind: Of its numbers, a key of ``C_TYPES``.
        shape: As PyTorch has it.
        channels_last: Whether ``[N, C, ...]`` lies in memory as ``[N, ..., C]``.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    buffer: Buffer
    channels_last: bool = False

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Window:
    """How a window moves over an image; pairs are of rows and columns."""

    batch: int
    size: tuple[int, int]
    channels: int
    out_size: tuple[int, int]
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]  # padding above and to the left
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Step:
    """A call of a kernel; ``over`` may be overwritten by what it writes, position by position."""

    kernel: str
    arguments: tuple[Argument, ...]
    writes: tuple[Value, ...]
    over: Value | None = None
    reads: tuple[Value, ...] = ()  # besides arguments

    @property
    def values(self) -> list[Value]:
        given = (a for a in self.arguments if isinstance(a, Value))
        return [*dict.fromkeys((*given, *self.reads, *self.writes))]


@dataclass
class Program:
    """What lowerings write to."""

    graph: Graph
    steps: list[Step] = field(default_factory=list[Step])
    constants: dict[str, tuple[str, torch.Tensor]] = field(
        default_factory=dict[str, tuple[str, torch.Tensor]]
    )
    held: dict[tuple[str, bytes], str] = field(default_factory=dict[tuple[str, bytes], str])
    values: dict[Node, Value] = field(default_factory=dict[Node, Value])
    decoded: dict[str, None] = field(default_factory=dict[str, None])  # codes held as floats
    taken: set[str] = field(  # in small letters, as the header has names in capitals too
        default_factory=lambda: {name.lower() for name in (*RESERVED, *MATHEMATICS, *KERNELS)}
    )

    # -- values ---------------------------------------------------------------------------------

    def name(self, hint: str) -> str:
        """A name for C that nothing has."""
        base = name = re.sub(r"[^A-Za-z0-9_]", "_", hint)
        count = 0
        while name.lower() in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name.lower())
        return name

    def new(
        self, hint: str, kind: str, shape: Sequence[int], *, channels_last: bool = False
    ) -> Value:
        """A value in the arena."""
        size = math.prod(shape) * BYTES[kind]
        return Value(self.name(hint), kind, tuple(shape), Buffer(size), channels_last)

    def result(self, node: Node, *, channels_last: bool = False) -> Value:
        """A value for what a node gives."""
        kind, shape = self.kind(node), self.shape(node)
        return self.new(node.name, kind, shape, channels_last=channels_last)

    def given(self, node: Node) -> Value:
        """A value that the caller holds."""
        name = self.name(node.name)
        kind, shape = self.kind(node), self.shape(node)
        return Value(name, kind, shape, Buffer(math.prod(shape) * BYTES[kind], name))

    def constant(self, hint: str, value: torch.Tensor) -> Value:
        """A value that the program holds."""
        kind = KINDS[value.dtype]
        size = value.numel() * BYTES[kind]
        same = (kind, value.detach().contiguous().numpy().tobytes())
        if same not in self.held:
            self.held[same] = self.name(hint)
            self.constants[self.held[same]] = (kind, value)
        name = self.held[same]
        return Value(name, kind, tuple(value.shape), Buffer(size, name))

    def kind(self, node: Node) -> str:
        """The kind of a node's numbers; raises where C kernels have none."""
        found = KINDS.get(node.dtype)
        if found is None:
            raise TargetError(
                f"target 'c' computes in float32, uint8 and int8, and {node.name} is {node.type}",
                where=node.at,
                do="give the model and its inputs as float32: model.float(), x.float()"
                if node.dtype.is_floating_point
                else "write it with other PyTorch functions, or choose target='onnxruntime'",
            )
        return found

    def shape(self, node: Node) -> tuple[int, ...]:
        """A node's sizes; raises where one is a symbol."""
        if not all(isinstance(size, int) for size in node.shape):
            raise TargetError(
                f"target 'c' needs every size as a number, and {node.name} is {node.type}",
                where=node.at,
                do="trace without dynamic_shapes, with an example as large as what shall run",
            )
        return tuple(int(size) for size in node.shape)

    def operand(self, arg: Arg) -> Value:
        """An operand's value; numbers and parameters are constants."""
        if not isinstance(arg, Node):
            return self.constant("number", torch.tensor([float(arg)]))
        if arg.op == "param" and arg not in self.values:
            self.kind(arg)
            self.values[arg] = self.constant(arg.name, self.graph.value(arg))
        return self.values[arg]

    def floats(self, arg: Arg, reader: Node) -> Value:
        """An operand's value, which must be of floats."""
        value = self.operand(arg)
        if value.kind != "f32":
            raise self.refuses(f"operands in {C_TYPES[value.kind]}", reader)
        return value

    def per_channel(
        self, node: Node, what: str, value: torch.Tensor | None, count: int, rest: float
    ) -> Value:
        """A constant number for each channel, that of all where an op has none."""
        numbers = torch.full((count,), rest) if value is None else value.reshape(-1)
        return self.constant(f"{node.name}_{what}", numbers)

    def fixed(self, arg: Arg, what: str, at: Node) -> torch.Tensor:
        """The tensor of an operand that must be a parameter."""
        if not isinstance(arg, Node) or arg.op != "param":
            raise TargetError(
                f"target 'c' takes {what} only as a constant, and that of {at.name} is computed",
                where=at.at,
                do="choose static scales, such as passes='w8a8', or target='onnxruntime'",
            )
        return self.graph.value(arg)

    def single(self, value: torch.Tensor, what: str, node: Node) -> float:
        """The number of a tensor that must hold one."""
        if value.numel() != 1:
            raise self.refuses(f"a {what} that varies within a tensor", node)
        return value.item()

    def refuses(self, what: str, node: Node) -> TargetError:
        """The error that an op comes in a form that no kernel has."""
        return TargetError(
            f"target 'c' has no kernel for {node.op} with {what}",
            where=node.at,
            do="write it in another form, or choose target='onnxruntime'",
        )

    def note_floats(self, codes: Node) -> None:
        """Remember weights that are held as floats, where they were given as codes."""
        if codes.op == "param" and codes.dtype in (torch.int8, torch.uint8):
            self.decoded[codes.name] = None

    @property
    def alignment(self) -> int:
        """Of the arena and all that lies there, in bytes: that of float32, or what is longer."""
        return max(
            [4, *(BYTES[v.kind] for s in self.steps for v in s.values if not v.buffer.array)]
        )

    # -- steps ----------------------------------------------------------------------------------

    def call(
        self,
        kernel: str,
        *arguments: Argument,
        into: Value,
        over: Value | None = None,
        scratch: tuple[Value, ...] = (),
        reads: tuple[Value, ...] = (),
    ) -> Value:
        """Add a call that writes ``into``; gives that.

        Args:
            over: What ``into`` may take the place of.
            scratch: Other values that it writes.
            reads: Values that no argument is, as arguments start within them.
        """
        self.steps.append(Step(kernel, arguments, (into, *scratch), over, reads))
        return into

    def copy(self, source: Value, into: Value, loops: Loops) -> Value:
        """Add a copy of some numbers."""
        places = [
            f"{value.name} + {place}" if place else value
            for value, place in ((source, loops.first), (into, loops.into))
        ]
        return self.call(f"copy_{into.kind}", *places, str(loops), reads=(source,), into=into)

    def plain(self, value: Value) -> Value:
        """The value in PyTorch's order."""
        return self._swapped(value, False) if value.channels_last else value

    def channels_last(self, value: Value) -> Value:
        """The value with its channels side by side."""
        return value if value.channels_last else self._swapped(value, True)

    def alike(self, one: Value, other: Value) -> tuple[Value, Value]:
        """Two values of one shape in one order."""
        if one.channels_last != other.channels_last:
            return self.channels_last(one), self.channels_last(other)
        return one, other

    def permuted(self, value: Value, order: Sequence[int]) -> Value:
        """The value with its axes in another order, in PyTorch's order before and after."""
        shape = [value.shape[axis] for axis in order]
        loops = tuple(
            (size, math.prod(value.shape[axis + 1 :]), math.prod(shape[place + 1 :]))
            for place, (axis, size) in enumerate(zip(order, shape, strict=True))
        )
        new = self.new(f"{value.name}_permuted", value.kind, shape)
        return self.copy(value, new, Loops(0, 0, 0, loops))

    def repeated(self, value: Value, shape: tuple[int, ...]) -> Value:
        """The value repeated along axes that it lacks or has one number on, in PyTorch's order."""
        value = self.plain(value)
        padded = (*(1,) * (len(shape) - len(value.shape)), *value.shape)
        loops: list[tuple[int, int, int]] = []
        for axis, size in enumerate(shape):
            step = math.prod(padded[axis + 1 :]) if padded[axis] != 1 else 0
            loops.append((size, step, math.prod(shape[axis + 1 :])))
        new = self.new(f"{value.name}_repeated", value.kind, shape)
        return self.copy(value, new, Loops(0, 0, 0, tuple(loops)))

    def _swapped(self, value: Value, channels_last: bool) -> Value:
        batch, channels, *rest = value.shape
        positions = math.prod(rest)
        if channels == 1 or positions == 1:  # both orders are the same
            return replace(value, channels_last=channels_last)
        rows, columns = (channels, positions) if channels_last else (positions, channels)
        order = "by_channels" if channels_last else "by_positions"
        new = self.new(
            f"{value.name}_{order}", value.kind, value.shape, channels_last=channels_last
        )
        whole = rows * columns
        loops = ((batch, whole, whole), (columns, 1, rows), (rows, columns, 1))
        return self.copy(value, new, Loops(0, 0, 0, loops))
