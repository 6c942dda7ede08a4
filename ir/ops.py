"""Every op: the PyTorch function that it is, its operands, and the law by which symmetries pass
through it.

An op outside the table is an ATen overload by its full name (``aten.fft_rfft.default``): it runs as
any other, and no symmetry passes through it. To add an op, add a row; the law test finds it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from . import own as own  # registers our own op namespace
from . import recurrence as recurrence
from .errors import GraphError
from .laws import (
    OPAQUE,
    Add,
    Along,
    BatchNorm,
    Cast,
    Contract,
    Conv,
    Elementwise,
    Embedding,
    Fill,
    Fourier,
    Gather,
    GroupedContract,
    Kind,
    Law,
    Lookup,
    MaskedScatter,
    Movement,
    Mul,
    Normalize,
    Pad,
    Parts,
    Recode,
    Recurrence,
    Reduce,
    ScaledDotProduct,
    Softmax,
    Together,
    Update,
    WeightNorm,
    Where,
)


@dataclass(frozen=True)
class Op:
    """One row of the table.

    Attributes:
        name: The op's name in a graph.
        target: What runs it: an ATen packet, a custom op, or a Python function on numbers.
        operands: The names of ``Node.args``, in order; all else is in ``Node.attrs``.
        law: How a group's action on one value becomes actions on the others.
        impure: Why a graph may not hold the op ("draws random numbers"), or nothing.
        required: How many operands the function wants to be told of, be it that there are none.
    """

    name: str
    target: Any
    operands: tuple[str, ...]
    law: Law = OPAQUE
    impure: str = ""
    positional: bool = False
    required: int = 0

    def bind(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """The operands by name; those left out at the end keep the function's defaults."""
        missing = (None,) * (self.required - len(args))
        return dict(zip(self.operands, (*args, *missing), strict=False))

    def run(self, args: tuple[Any, ...], attrs: Mapping[str, Any]) -> Any:
        if self.positional:
            return self.target(*args, **attrs)
        return self.target(**self.bind(args), **attrs)

    def emit(self, graph: fx.Graph, kwargs: dict[str, Any]) -> fx.Node:
        """A call of the op in an fx graph."""
        if self.positional:
            args = tuple(kwargs.pop(name) for name in self.operands if name in kwargs)
            return graph.call_function(self.target, (*args, *kwargs.values()))
        return graph.call_function(self.target, (), kwargs)


def _op(
    name: str,
    operands: str,
    law: Law = OPAQUE,
    target: str = "",
    impure: str = "",
    required: int = 0,
) -> Op:
    packet = getattr(torch.ops.aten, target or name)
    return Op(name, packet, tuple(operands.split()), law, impure, required=required)


def _number(name: str, function: Callable[..., Any], operands: str = "a b") -> Op:
    return Op(name, function, tuple(operands.split()), positional=True)


def _ours(name: str, operands: str, law: Law = OPAQUE) -> Op:
    return Op(name, getattr(torch.ops.regauge, name), tuple(operands.split()), law)


_ALL = frozenset(Kind)
_PERMUTES = frozenset({Kind.PERMUTATION})
_SCALES = frozenset({Kind.PERMUTATION, Kind.SCALE})  # f(sx) = s f(x) for s > 0
_ODD = frozenset({Kind.PERMUTATION, Kind.SIGN})  # f(-x) = -f(x)

_ROWS: tuple[Op, ...] = (
    # -- contractions: each index of a parameter takes up any invertible matrix
    _op("linear", "input weight bias", Contract("... i, o i, o -> ... o")),
    _op("matmul", "self other", Contract("... m k, ... k n -> ... m n")),
    _op("bmm", "self mat2", Contract("b m k, b k n -> b m n")),
    _ours("grouped_mm", "input weight offsets", GroupedContract("t i, e i o -> t o")),
    Op("recode", own.recode, ("input", "weight"), Recode("b h t d, g e h d -> b g t e")),
    _op("scaled_dot_product_attention", "query key value attn_mask", ScaledDotProduct()),
    _op("conv1d", "input weight bias", Conv()),
    _op("conv2d", "input weight bias", Conv()),
    _op("conv3d", "input weight bias", Conv()),
    _op("conv_transpose1d", "input weight bias", Conv(transposed=True)),
    _op("conv_transpose2d", "input weight bias", Conv(transposed=True)),
    _op("conv_transpose3d", "input weight bias", Conv(transposed=True)),
    _op("embedding", "weight indices", Embedding()),
    # -- steps through time: a change of sign passes tanh, in the blocks of gates that it has
    _ours("lstm_states", "gates weight bias hidden cell", Recurrence(4, _ODD, odd=(2,))),
    _ours("lstm_last_cell", "gates weight bias hidden cell", Recurrence(4, _ODD, odd=(2,))),
    _ours("gru_states", "gates weight bias hidden", Recurrence(3, _ODD, odd=(2,))),
    _ours("rnn_tanh_states", "gates weight bias hidden", Recurrence(1, _ODD, odd=(0,))),
    _ours("rnn_relu_states", "gates weight bias hidden", Recurrence(1, _SCALES, odd=(0,))),
    # -- norms
    _op("layer_norm", "input weight bias", Normalize(centres=True)),
    _op("rms_norm", "input weight", Normalize(centres=False)),
    _op("group_norm", "input weight bias", Normalize(centres=True, grouped=True)),
    _op("batch_norm", "input weight bias running_mean running_var", BatchNorm(), required=5),
    _op("_weight_norm", "v g", WeightNorm()),
    _op("softmax", "self", Softmax()),
    _op("log_softmax", "self", Softmax()),
    # -- arithmetic of two values
    _op("add", "self other", Add()),
    _op("sub", "self other", Add()),
    _op("rsub", "self other", Add()),
    _op("mul", "self other", Mul()),
    _op("div", "self other", Mul()),
    _op("where", "condition self other", Where()),
    _op("masked_fill", "self mask value", Where()),
    _op("maximum", "self other", Together(_SCALES)),
    _op("minimum", "self other", Together(_SCALES)),
    _op("pow", "self exponent", Together(_PERMUTES)),
    _op("eq", "self other"),
    _op("ne", "self other"),
    _op("lt", "self other"),
    _op("le", "self other"),
    _op("gt", "self other"),
    _op("ge", "self other"),
    _op("logical_and", "self other"),
    _op("logical_or", "self other"),
    _op("bitwise_and", "self other"),
    _op("bitwise_or", "self other"),
    _op("floor_divide", "self other"),
    _op("remainder", "self other"),
    # -- functions of one value, position by position
    _op("neg", "self", Elementwise(_ALL - {Kind.SHIFT})),
    _op("relu", "self", Elementwise(_SCALES)),
    _op("leaky_relu", "self", Elementwise(_SCALES)),
    _op("abs", "self", Elementwise(_SCALES)),
    _op("gelu", "self", Elementwise(_PERMUTES)),
    _op("silu", "self", Elementwise(_PERMUTES)),
    _op("sigmoid", "self", Elementwise(_PERMUTES)),
    _op("tanh", "self", Elementwise(_ODD)),
    _op("erf", "self", Elementwise(_ODD)),
    _op("sin", "self", Elementwise(_ODD)),
    _op("cos", "self", Elementwise(_PERMUTES)),
    _op("exp", "self", Elementwise(_PERMUTES)),
    _op("log", "self", Elementwise(_PERMUTES)),
    _op("sqrt", "self", Elementwise(_PERMUTES)),
    _op("rsqrt", "self", Elementwise(_PERMUTES)),
    _op("reciprocal", "self", Elementwise(_ODD)),
    _op("softplus", "self", Elementwise(_PERMUTES)),
    _op("hardtanh", "self", Elementwise(_PERMUTES)),
    _op("relu6", "self", Elementwise(_PERMUTES)),
    _op("hardswish", "self", Elementwise(_PERMUTES)),
    _op("hardsigmoid", "self", Elementwise(_PERMUTES)),
    _op("mish", "self", Elementwise(_PERMUTES)),
    _op("elu", "self", Elementwise(_PERMUTES)),
    _op("clamp", "self", Elementwise(_PERMUTES)),
    _op("logical_not", "self", Elementwise(_PERMUTES)),
    _op("bitwise_not", "self", Elementwise(_PERMUTES)),
    _op("floor", "self", Elementwise(_PERMUTES)),
    _op("round", "self", Elementwise(_PERMUTES)),
    _op("to", "self", Cast(_ALL), target="_to_copy"),
    # -- movement: positions change, values do not
    _op("clone", "self", Movement()),
    _op("contiguous", "self", Movement()),
    _op("reshape", "self", Movement()),
    _op("permute", "self", Movement()),
    _op("transpose", "self", Movement()),
    _op("unsqueeze", "self", Movement()),
    _op("squeeze", "self", Movement()),
    _op("expand", "self", Movement()),
    _op("slice", "self", Movement()),
    _op("select", "self", Movement()),
    _op("cat", "tensors", Movement()),
    _op("stack", "tensors", Movement()),
    _op("flip", "self", Movement()),
    _op("roll", "self", Movement()),
    _op("repeat", "self", Movement()),
    _op("repeat_interleave", "self", Movement()),
    _op("unfold", "self", Movement()),
    _op("aten.split_with_sizes.default", "self", Parts(cuts=True), target="split_with_sizes"),
    _op("pixel_shuffle", "self", Movement(whole=False)),
    _op("pixel_unshuffle", "self", Movement(whole=False)),
    _op("constant_pad_nd", "self", Pad()),
    _op("index", "self indices", Lookup()),
    _op("index_select", "self index", Lookup()),
    _op("gather", "self index", Gather()),
    _op("scatter", "self index src", Update(2, dense=False)),
    _op("index_add", "self index source", Update(2)),
    _op(
        "aten.masked_scatter.default",
        "self mask source",
        MaskedScatter(),
        target="masked_scatter",
    ),
    _op("index_put", "self indices values", Update(2)),
    # -- reductions
    _op("mean", "self", Reduce(frozenset(_ALL))),
    _op("sum", "self", Reduce(_ALL - {Kind.SHIFT})),
    _op("amax", "self", Reduce(_SCALES)),
    _op("amin", "self", Reduce(_SCALES)),
    _op("linalg_vector_norm", "self", Reduce(_SCALES)),
    *(
        row
        for n in (1, 2, 3)
        for row in (
            _op(f"max_pool{n}d", "self", Reduce(_SCALES | {Kind.SHIFT}, window=n)),
            _op(f"avg_pool{n}d", "self", Reduce(_ALL - {Kind.SHIFT}, window=n)),
            _op(f"adaptive_avg_pool{n}d", "self", Reduce(_ALL, window=n)),
            _op(f"upsample_nearest{n}d", "input", Reduce(_ALL, window=n)),
        )
    ),
    _op("upsample_bilinear2d", "input", Reduce(_ALL, window=2)),
    _op("upsample_bicubic2d", "input", Reduce(_ALL, window=2)),
    _op("cumsum", "self", Along()),
    _op("fft_fftn", "self", Fourier()),
    _op("any", "self"),
    _op("all", "self"),
    _op("argmax", "self"),
    _op("topk", "self"),
    # -- sources of constants
    _op("arange", ""),
    _op("full", "", Fill()),
    _op("zeros", "", Fill()),
    _op("ones", ""),
    _op("full_like", "self", Fill()),
    _op("zeros_like", "self", Fill()),
    _op("ones_like", "self"),
    _op("scalar_tensor", "s"),
    _op("tril", "self"),
    _op("triu", "self"),
    _op("sym_size", "self"),
    _op("dropout", "input", impure="draws random numbers"),
    _op("bernoulli", "self", impure="draws random numbers"),
    _op("rand", "", impure="draws random numbers"),
    _op("randn", "", impure="draws random numbers"),
    # -- ours
    _ours("crms_norm", "input weight"),
    _ours("quantize", "input scale zero_point"),
    _ours("dequantize", "input scale zero_point"),
    _ours("dynamic_quantize", "input"),
    _ours("decode", "codes scale whole zero"),
    _ours("fake_quantize", "input scale zero"),
    # -- numbers
    Op("getitem", operator.getitem, ("value", "index"), Parts(cuts=False), positional=True),
    _number("int_add", operator.add),
    _number("int_sub", operator.sub),
    _number("int_mul", operator.mul),
    _number("int_floordiv", operator.floordiv),
    _number("int_mod", operator.mod),
    _number("int_neg", operator.neg, "a"),
    _number("int_truediv", operator.truediv),
    _number("int_eq", operator.eq),
    _number("int_ne", operator.ne),
    _number("int_lt", operator.lt),
    _number("int_le", operator.le),
    _number("int_gt", operator.gt),
    _number("int_ge", operator.ge),
    _number("int_max", torch.sym_max),
    _number("int_min", torch.sym_min),
    _number("int_where", torch.sym_ite, "condition a b"),
)

OPS: dict[str, Op] = {op.name: op for op in _ROWS}
NUMBERS: dict[Any, str] = {op.target: op.name for op in _ROWS if op.positional}


# Draw random numbers only where an argument says so, which the canonical form refuses.
_SWITCHED = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


@functools.cache
def get(name: str) -> Op:
    """The op of this name: a row of the table, or any registered overload by its full name."""
    if name in OPS:
        return OPS[name]
    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    try:
        target = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
    except (AttributeError, RuntimeError):
        raise GraphError(
            f"there is no op called {name}",
            do="add a row to ir/ops.py, or import what registers it",
        ) from None
    tensors = [a for a in target._schema.arguments if "Tensor" in str(a.type)]
    operands = tuple(a.name for a in tensors)
    impure = ""
    if target._schema.is_mutable:
        impure = "changes its input"
    elif torch.Tag.nondeterministic_seeded in target.tags and packet not in _SWITCHED:
        impure = "draws random numbers"
    required = sum(not a.has_default_value() for a in tensors)
    return Op(name, target, operands, impure=impure, required=required)


def has_law(name: str, *laws: type[Law]) -> bool:
    """Whether the table has an op of this name, under one of these laws."""
    return name in OPS and isinstance(OPS[name].law, laws)


def call(name: str, args: tuple[Any, ...], attrs: Mapping[str, Any]) -> Any:
    """Run an op on values."""
    return get(name).run(args, attrs)


# Overloads that share a name with an op in the table and compute something else.
_OTHERS = {"where.default"}  # the places of what is true


# ATen's further names of ops in the table.
_SPELLINGS = {
    "_to_copy": "to",
    "_softmax": "softmax",
    "multiply": "mul",
    "divide": "div",
    "subtract": "sub",
}


def name_of(overload: Any) -> str:
    """The name by which a graph calls an overload."""
    _, base, packet = str(overload).split(".")
    if overload.namespace == "aten":
        named = _SPELLINGS.get(base, base)
        apart = packet in ("out", "dim_max") or f"{base}.{packet}" in _OTHERS
        if named in OPS and not apart:
            return named
    if overload.namespace == "regauge" and base in OPS:
        return base
    return f"{overload.namespace}.{base}.{packet}"
