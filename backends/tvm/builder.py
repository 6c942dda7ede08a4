"""A Relax function in the making, and our values in it.

A tensor of ours is a variable of Relax, a symbolic number is an expression over the symbols of the
graph, and a tuple is a tuple of values. Most ops are written as what stands at each position, with
the shape that our types say: TVM fuses these into one loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeAlias, TypeVar

import torch

from ...ir import Graph, Node, ScalarType, TensorType
from ...ir.graph import Arg
from ...ir.types import Dim, symbols
from ..lowering import Declined

Value: TypeAlias = Any  # an expression of TVM, or a tuple of values
Shared = TypeVar("Shared")
SCALARS = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as TVM calls it."""
    if dtype.is_complex:
        raise Declined(f"TVM has no {dtype}")
    return str(dtype).removeprefix("torch.")


_OPAQUE = 8  # the pattern of a function that is fused with no other


class Turned:
    """A tensor expression ``[N, ..., C]`` read as ``[N, C, ...]``."""

    def __init__(self, last: Any) -> None:
        self._last = last
        batch, *sizes, channels = last.shape
        self.shape, self.dtype = [batch, channels, *sizes], last.dtype

    def __call__(self, batch: Any, channel: Any, *place: Any) -> Any:
        return self._last(batch, *place, channel)


class Builder:
    """Lowerings call ``compute``, ``map`` and ``op``, and give back the result.

    A convolution computes with its channels last, and what is computed from its result position by
    position does so too, while its value is the one with the channels second. TVM leaves out each
    of the two that nobody reads.

    Args:
        lower: What a node becomes that is wanted, and was left out so far.
        dots: Whether the processor adds four products of codes in one step.
    """

    def __init__(
        self, graph: Graph, lower: Callable[[Builder, Node], Value], *, dots: bool = False
    ) -> None:
        self.graph, self._lower, self.dots = graph, lower, dots
        self.relax: Any = import_module("tvm.relax")
        self.tirx: Any = import_module("tvm.tirx")
        self._renewed: Any = import_module("tvm.s_tir").renew_defs
        self.te_module: Any = import_module("tvm.te")
        self.block = self.relax.BlockBuilder()
        self.analyzer: Any = import_module("tvm.sym").Analyzer()
        self.values: dict[Node, Value] = {}
        self.weights: dict[str, torch.Tensor] = {}
        self.variables: dict[str, Any] = {}  # of the weights
        self._shared: dict[tuple[object, ...], Any] = {}
        self._last: dict[Any, Any] = {}  # values with their channels last
        self._asked: set[str] = set()  # the symbols that the node being lowered reads
        self._symbols = {name: self.tirx.Var(name, "int64") for name in graph.symbols}

    def begin(self) -> None:
        """Lower the next node."""
        self._asked.clear()

    # -- types ----------------------------------------------------------------------------------

    def size(self, size: Dim) -> Any:
        """One size as an integer of TVM."""
        if isinstance(size, int):
            return self.tirx.IntImm("int64", size)
        functions = {
            "Max": self.tirx.max, "max": self.tirx.max, "Min": self.tirx.min,
            "min": self.tirx.min, "Mod": self.tirx.floormod,
        }  # fmt: skip
        self._asked.update(symbols(TensorType(torch.int64, (size,))))
        try:
            found = eval(
                compile(size, "<dim>", "eval"),
                {"__builtins__": {}},
                {**functions, **self._symbols},
            )
        except NameError:
            raise Declined(f"of a size {size} that its data says") from None
        return found

    def shape(self, sizes: Sequence[Dim]) -> list[Any]:
        return [self.size(size) for size in sizes]

    def type(self, type_: TensorType) -> Any:
        return self.relax.TensorType(self.shape(type_.shape), dtype_name(type_.dtype))

    # -- values ---------------------------------------------------------------------------------

    def op(self, kind: str, *args: Any, **attrs: Any) -> Any:
        """An op of Relax, such as ``nn.softmax``."""
        function = functools.reduce(getattr, kind.split("."), self.relax.op)
        return self.block.emit(function(*args, **attrs))

    def te(self, function: Callable[..., Any], *args: Any, name: str) -> Any:
        """What a function on tensor expressions gives: a tensor, or several.

        It may use the symbols of the graph wherever it wants.
        """
        held = [
            self.te_module.placeholder(list(arg.ty.shape.values), str(arg.ty.dtype), f"in{i}")
            for i, arg in enumerate(args)
        ]
        found = function(*held)
        made = list(found) if isinstance(found, (tuple, list)) else [found]
        sizes = [size for tensor in (*held, *made) for size in tensor.shape]
        more = [
            symbol
            for name, symbol in self._symbols.items()
            if name in self._asked and not any(symbol.same_as(size) for size in sizes)
        ]
        code = self.te_module.create_prim_func([*held, *more, *made], "int64")
        code = self._renewed(code.without_attr("global_symbol"))
        if more:  # TVM cannot fuse what has a size as an argument with what has it as a size
            code = code.with_attr("op_pattern", _OPAQUE)
        types = [self.relax.TensorType(list(tensor.shape), tensor.dtype) for tensor in made]
        call = self.relax.call_tir(
            self.block.add_func(code, name),
            [*args, *more],
            types if isinstance(found, (tuple, list)) else types[0],
        )
        return self.block.emit(call)

    def compute(self, shape: Sequence[Dim], at: Callable[..., Any], *args: Any, name: str) -> Any:
        """A tensor that has ``at(*args, i, j, ...)`` at the position (i, j, ...).

        Args:
            args: Tensors.
        """
        return self._computed(self.shape(shape), at, args, name)

    def _computed(
        self, sizes: list[Any], at: Callable[..., Any], args: Sequence[Any], name: str
    ) -> Any:
        te, turned = self.te_module, [self._last.get(arg) for arg in args]
        if not any(x is not None and len(x.ty.shape.values) == len(sizes) for x in turned):
            return self.te(
                lambda *given: te.compute(sizes, lambda *place: at(*given, *place), name=name),
                *args,
                name=name,
            )

        def run(*given: Any) -> Any:
            views = [x if t is None else Turned(x) for x, t in zip(given, turned, strict=True)]

            def there(batch: Any, *place: Any) -> Any:
                return at(*views, batch, place[-1], *place[:-1])

            return te.compute([sizes[0], *sizes[2:], sizes[1]], there, name=name)

        held = [arg if t is None else t for arg, t in zip(args, turned, strict=True)]
        return self.channels_second(self.te(run, *held, name=name))

    def channels_second(self, last: Any) -> Any:
        """``[N, ..., C]`` as ``[N, C, ...]``."""
        rank = len(last.ty.shape.values)
        found = self.op("permute_dims", last, [0, rank - 1, *range(1, rank - 1)])
        self._last[found] = last
        return found

    def channels_last(self, value: Any) -> Any:
        """``[N, C, ...]`` as ``[N, ..., C]``."""
        if value not in self._last:
            rank = len(value.ty.shape.values)
            self._last[value] = self.op("permute_dims", value, [0, *range(2, rank), 1])
        return self._last[value]

    def map(self, shape: Sequence[Dim], function: Callable[..., Any], *args: Any, name: str) -> Any:
        """A function of numbers at each position; operands are broadcast to the shape."""
        tensors = [arg for arg in args if self._is_tensor(arg)]

        def at(*given: Any) -> Any:
            rest, place = iter(given[: len(tensors)]), given[len(tensors) :]
            values = (next(rest) if self._is_tensor(arg) else arg for arg in args)
            return function(*(self.element(value, place) for value in values))

        return self.compute(shape, at, *tensors, name=name)

    def _is_tensor(self, arg: Any) -> bool:
        return isinstance(getattr(arg, "ty", None), self.relax.TensorType)

    def element(self, value: Any, place: Sequence[Any]) -> Any:
        """What a tensor that is broadcast has at a position; a number is itself."""
        if not isinstance(value, (self.te_module.Tensor, Turned)):
            return value
        shape = value.shape
        own = place[len(place) - len(shape) :]
        return value(*(0 if _is_one(size) else i for size, i in zip(shape, own, strict=True)))

    def reduce(self, kind: str, value: Any, axes: Sequence[int] | None, *, keep: bool) -> Any:
        """``sum``, ``max``, ``min`` or ``mean`` over axes, or over all."""
        last = self._last.get(value)
        if axes is None or last is None:
            return self.op(kind, value, axis=None if axes is None else list(axes), keepdims=keep)
        rank = len(value.ty.shape.values)
        places = [0, rank - 1, *range(1, rank - 1)]
        found = self.op(kind, last, axis=[places[axis] for axis in axes], keepdims=keep)
        if keep:
            return self.channels_second(found)
        left = [places[axis] for axis in range(rank) if axis not in {a % rank for a in axes}]
        order = sorted(left)
        if left == order:
            return found
        return self.op("permute_dims", found, [order.index(place) for place in left])

    def cast(self, value: Any, found: torch.dtype, dtype: torch.dtype | None) -> Any:
        """A tensor in another dtype; truths are what is not zero."""
        if dtype in (None, found):
            return value
        name = dtype_name(dtype)
        return self.compute_like(value, lambda x: self.convert(x, name), name=f"to_{name}")

    def compute_like(self, value: Any, function: Callable[[Any], Any], *, name: str) -> Any:
        """A function at each position of one tensor."""

        sizes = list(value.ty.shape.values)
        return self._computed(sizes, lambda x, *i: function(x(*i)), [value], name)

    def convert(self, x: Any, name: str) -> Any:
        """A number of TVM in another dtype."""
        if name == "bool":
            kind = _name_of(x)
            return x if kind == "bool" else self.tirx.NE(x, self.tirx.const(0, kind))
        return x.astype(name)

    # -- constants ------------------------------------------------------------------------------

    def constant(self, value: torch.Tensor) -> Any:
        """A small constant inside the module."""
        return self.relax.const(value.numpy(), dtype_name(value.dtype))

    def number(self, value: Any, dtype: torch.dtype) -> Any:
        """A number inside an expression."""
        return self.tirx.const(value, dtype_name(dtype))

    def parameter(
        self,
        node: Node,
        form: str = "",
        change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Any:
        """A parameter as an input of the function, or in a changed form, held once."""
        name = f"{node.name}.{form}" if form else node.name
        if name not in self.variables:
            value = self.graph.value(node)
            value = value if change is None else change(value)
            value = value.detach().cpu().contiguous()
            self.weights[name] = value
            type_ = TensorType(value.dtype, tuple(value.shape))
            self.variables[name] = self.relax.Var(name.replace(".", "_"), self.type(type_))
        return self.variables[name]

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
        if node not in self.values:
            asked, self._asked = self._asked, set()
            self.values[node] = self._lower(self, node)
            self._asked = asked
        return self.values[node]

    def tensor(self, arg: Arg, dtype: torch.dtype | None = None) -> Any:
        """An operand as a tensor of a dtype."""
        if not isinstance(arg, Node):
            return self.constant(torch.tensor(arg, dtype=dtype))
        if isinstance(arg.type, ScalarType):
            number = self.scalar(arg, dtype or SCALARS[arg.type.kind])
            return self.compute((), lambda: number, name="number")
        return self.cast(self.value(arg), arg.dtype, dtype)

    def operand(self, arg: Arg, dtype: torch.dtype) -> Any:
        """An operand of ``map``: a tensor, or a number that is part of the expression."""
        if isinstance(arg, Node) and isinstance(arg.type, TensorType):
            return self.tensor(arg, dtype)
        return self.scalar(arg, dtype)

    def scalar(self, arg: Arg, dtype: torch.dtype = torch.int64) -> Any:
        """A number, symbolic or not, of a dtype."""
        if not isinstance(arg, Node):
            return self.number(arg, dtype)
        if not isinstance(arg.type, ScalarType):
            raise Declined("with a number that its data says")
        value = self.values[arg]
        self._asked.update(symbol.name for symbol in self.tirx.analysis.undefined_vars(value))
        return self.convert(value, dtype_name(dtype))


def _is_one(size: Any) -> bool:
    return getattr(size, "value", size) == 1 and isinstance(getattr(size, "value", size), int)


def _name_of(x: Any) -> str:
    return str(x.ty.dtype) if hasattr(x, "ty") else str(x.dtype)
