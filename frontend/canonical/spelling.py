"""One name for one thing: ops that PyTorch spells in several ways get the name that the op table
knows.

view, _unsafe_view, flatten, unflatten, view_as      ->  reshape
transpose, t, numpy_T, mT, movedim                    ->  permute
mm, bmm                                               ->  matmul
addmm, baddbmm                                        ->  matmul, mul and add
zeros, ones, new_ones, zeros_like, scalar_tensor, ... ->  full
a & b of truth values, min(a, b), square(x), x + (y * alpha), rsub(a, b), ...
index_select of a table, a histogram of one bin        ->  embedding, full
rrelu in evaluation                                   ->  leaky_relu of the mean slope
glu(x)                                                ->  mul(x[: n], sigmoid(x[n:]))
inference batch norm, native_layer_norm, convolution  ->  batch_norm, layer_norm, conv1d ... conv3d
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ...ir import Node
from .rewrite import At, Rules, either, number, on, operand, sizes

_DEFAULT_PAD = {"constant": 0.0}


def _reshape(node: Node, at: At) -> Node | None:
    target = tuple(-1 if isinstance(size, str) else size for size in sizes(node))
    if target.count(-1) > 1:
        given = node.attrs.get("size")
        if given is None:  # flatten and unflatten say less than they know
            return None
        target = given
    return at.instead("reshape", node.args[0], shape=target)


def _permute(node: Node, at: At) -> Node | None:
    rank = len(sizes(node))
    order = list(range(rank))
    match node.op.removeprefix("aten.").split(".")[0]:
        case "transpose" | "swapaxes" | "swapdims":
            named = {"transpose": ("dim0", "dim1"), "swapaxes": ("axis0", "axis1")}
            first, second = named.get(node.op.split(".")[-1], ("dim0", "dim1"))
            if first not in node.attrs:
                first, second = "axis0", "axis1"
            a, b = node.attrs[first] % rank, node.attrs[second] % rank
            order[a], order[b] = order[b], order[a]
        case "mT" | "adjoint":
            order[-1], order[-2] = order[-2], order[-1]
        case _:  # t, numpy_T
            order.reverse()
    return at.instead("permute", node.args[0], dims=tuple(order))


def _movedim(node: Node, at: At) -> Node | None:
    rank = len(sizes(node))
    source, target = node.attrs["source"], node.attrs["destination"]
    pairs = zip(*[x if isinstance(x, tuple) else (x,) for x in (target, source)], strict=True)
    moved = {to % rank: of % rank for to, of in pairs}
    rest = iter(axis for axis in range(rank) if axis not in moved.values())
    return at.instead(
        "permute",
        node.args[0],
        dims=tuple(moved.get(i, -1) if i in moved else next(rest) for i in range(rank)),
    )


def _positive_order(node: Node, at: At) -> Node | None:
    rank = len(sizes(node))
    dims = tuple(d % rank for d in node.attrs["dims"]) if rank else ()
    if dims == node.attrs["dims"]:
        return None
    node.set(None, {"dims": dims})
    return node


def _full(node: Node, at: At) -> Node | None:
    base = node.op.removeprefix("aten.").split(".")[0]
    size: tuple[Any, ...] = node.attrs.get("size", ()) if "_like" not in base else sizes(node)
    if any(isinstance(s, str) for s in size):
        return at.instead("zeros_like", node.args[0]) if base == "empty_like" else None
    fill: Any
    if "zeros" in base or "empty" in base:  # what memory happens to hold nobody may rely on
        fill = 0
    elif "ones" in base:
        fill = 1
    else:
        fill = node.attrs.get("fill_value", operand(node, 0) if base == "scalar_tensor" else None)
    dtype = node.tensor.dtype
    if isinstance(fill, Node) or fill is None:
        return None
    kind = bool if dtype == torch.bool else float if dtype.is_floating_point else int
    fill = kind(fill)
    attrs = {"size": size, "fill_value": fill, "dtype": dtype}
    if node.op == "full" and dict(node.attrs) == attrs:
        return None
    return at.instead("full", **attrs)


def _arange(node: Node, at: At) -> Node | None:
    if "dtype" in node.attrs:
        return None
    node.set(None, {**node.attrs, "dtype": node.tensor.dtype})
    return node


def _cast(node: Node, at: At) -> Node | None:
    return at.instead("to", node.args[0], dtype=node.tensor.dtype)


def _logical(node: Node, at: At) -> Node | None:
    word = node.op.removeprefix("aten.").split(".")[0].strip("_").removeprefix("bitwise_")
    named = {"and": "logical_and", "or": "logical_or", "not": "logical_not"}
    if node.tensor.dtype == torch.bool and word in named:
        return at.instead(named[word], *node.args)
    if node.op.startswith("aten."):
        return at.instead(f"bitwise_{word}", *node.args)
    return None


def _rename(name: str, *keep: str) -> Any:
    def rule(node: Node, at: At) -> Node | None:
        return at.instead(
            name, *node.args, **{key: node.attrs[key] for key in keep if key in node.attrs}
        )

    return rule


def _square(node: Node, at: At) -> Node | None:
    return at.instead("pow", node.args[0], 2)


def _product_of_itself(node: Node, at: At) -> Node | None:
    """``x * x`` is ``x ** 2``."""
    return at.instead("pow", node.args[0], 2) if node.args[0] is node.args[1] else None


def _weighted(node: Node, at: At) -> Node | None:
    """``a + alpha * b`` in two steps."""
    alpha = node.attrs.get("alpha", 1)
    if alpha == 1:
        return None
    left, right = node.args
    scaled = right * alpha if isinstance(right, (int, float)) else at("mul", right, alpha)
    return at.instead(node.op, left, scaled)


def _turned(node: Node, at: At) -> Node | None:
    """``rsub(a, b) = b - a``; where b is a number, ``-a + b``."""
    if node.attrs.get("alpha", 1) != 1:
        return None
    left, right = node.args
    if isinstance(right, Node):
        return at.instead("sub", right, left)
    return at.instead("add", at("neg", left), right)


def _added_product(node: Node, at: At) -> Node | None:
    """``addmm(c, a, b) = beta c + alpha a b``, and so ``baddbmm``."""
    bias, left, right = (at.node.args + (None,) * 3)[:3]
    product = at("matmul", left, right, type_=node.type)
    alpha, beta = node.attrs.get("alpha", 1), node.attrs.get("beta", 1)
    if alpha != 1:
        product = at("mul", product, alpha, type_=node.type)
    if beta == 0:
        return product
    return at.instead("add", product, bias if beta == 1 else at("mul", bias, beta))


def _pad(node: Node, at: At) -> Node | None:
    if node.attrs.get("mode", "constant") != "constant":
        return None
    value = node.attrs.get("value")
    attrs = {} if value in (None, 0) else {"value": value}
    return at.instead("constant_pad_nd", node.args[0], pad=node.attrs["pad"], **attrs)


def _first_result(node: Node, at: At) -> Node | None:
    """The norm itself, where only that is read of an op that gives back its statistics too."""
    source, index = node.args
    if index != 0:
        return None
    a = dict(source.attrs)
    match source.op:
        case "aten._native_batch_norm_legit_no_training.default":
            args = source.args
        case "aten.native_layer_norm.default":
            shape = tuple(a["normalized_shape"])
            return at.instead("layer_norm", *source.args, normalized_shape=shape, eps=a["eps"])
        case "aten.native_group_norm.default":
            return at.instead("group_norm", *source.args, num_groups=a["group"], eps=a["eps"])
        case _:
            return None
    args = (*args, *(None,) * (5 - len(args)))
    return at.instead("batch_norm", *args, training=False, momentum=a["momentum"], eps=a["eps"],
                      cudnn_enabled=False)  # fmt: skip


def _convolution(node: Node, at: At) -> Node | None:
    a = node.attrs
    rank = len(sizes(node)) - 2
    if a.get("transposed") or rank not in (1, 2, 3):
        return None
    given = {key: a[key] for key in ("stride", "padding", "dilation")}
    default = {"stride": 1, "padding": 0, "dilation": 1}
    attrs = {key: value for key, value in given.items() if any(v != default[key] for v in value)}
    if a["groups"] != 1:
        attrs["groups"] = a["groups"]
    return at.instead(f"conv{rank}d", *node.args, **attrs)


def _without(*names: str) -> Any:
    """Drop what changes no value."""

    def rule(node: Node, at: At) -> Node | None:
        if not any(name in node.attrs for name in names):
            return None
        node.set(None, {key: value for key, value in node.attrs.items() if key not in names})
        return node

    return rule


def _cast_alone(node: Node, at: At) -> Node | None:
    """A cast says to which dtype, and nothing else: no device, no tensor to do as."""
    if dict(node.attrs) == {"dtype": node.dtype}:
        return None
    node.set(node.args[:1], {"dtype": node.dtype})
    return node


def _own_dtype(node: Node, at: At) -> Node | None:
    """A softmax or a reduction to the dtype that its operand has anyway."""
    if node.attrs.get("dtype") != node.args[0].tensor.dtype:
        return None
    node.set(None, {key: value for key, value in node.attrs.items() if key != "dtype"})
    return node


def _stack_of_numbers(node: Node, at: At) -> Node | None:
    """A tensor without axes in arithmetic is its number, where the result has the same type."""
    for index, arg in enumerate(node.args):
        value = number(arg) if isinstance(arg, Node) else None
        rest = [
            other for i, other in enumerate(node.args) if i != index and isinstance(other, Node)
        ]
        if value is None or not any(other.type == node.type for other in rest):
            continue
        args = [value if i == index else other for i, other in enumerate(node.args)]
        if index == 0 and node.op in ("add", "mul"):
            args.reverse()
        elif index == 0:
            return None
        node.set(args)
        return node
    return None


def _unit_weighted(node: Node, at: At) -> Node | None:
    """Numbers come second: ``2 * x`` is ``x * 2``."""
    left, right = node.args
    if isinstance(left, (int, float)) and isinstance(right, Node) and "alpha" not in node.attrs:
        node.set((right, left))
        return node
    return None


def _bounded(node: Node, at: At) -> Node | None:
    """The larger of a value and a number."""
    key = "min" if node.op == "maximum" else "max"
    for value, bound in either(node):
        limit = number(bound)
        if limit is not None and isinstance(value, Node) and value.type == node.type:
            return at.instead("clamp", value, **{key: limit})
    return None


def _clamped(node: Node, at: At) -> Node | None:
    """``hardtanh`` and ``clamp`` between 0 and 6, and from 0 up."""
    low = node.attrs.get("min_val", -1) if node.op == "hardtanh" else node.attrs.get("min")
    high = node.attrs.get("max_val", 1) if node.op == "hardtanh" else node.attrs.get("max")
    if low == 0 and high == 6:
        return at.instead("relu6", node.args[0])
    if low == 0 and high is None:
        return at.instead("relu", node.args[0])
    return None


def _rows_of_a_table(node: Node, at: At) -> Node | None:
    """Rows of a matrix that is stored, by their numbers, none of which is negative."""
    table, index = node.args
    if node.attrs.get("dim") != 0 or table.op != "param" or len(sizes(table)) != 2:
        return None
    return at.instead("embedding", table, index) if len(sizes(index)) == 1 else None


def _gated(node: Node, at: At) -> Node | None:
    """``glu``: the first half times the sigmoid of the second."""
    x = node.args[0]
    dim = int(node.attrs.get("dim", -1)) % len(sizes(x))
    half = sizes(node)[dim]
    if not isinstance(half, int):
        return None
    value = at("slice", x, dim=dim, start=0, end=half)
    gate = at("sigmoid", at("slice", x, dim=dim, start=half, end=2 * half))
    return at.instead("mul", value, gate)


def _mean_leak(node: Node, at: At) -> Node | None:
    """``rrelu``, which draws slopes in training only; in place it gives its noise as well."""
    leak = node
    if node.op == "getitem":
        leak, index = node.args
        if leak.op != "aten.rrelu_with_noise_functional.default" or index != 0:
            return None
    if leak.attrs.get("training"):
        return None
    slope = (leak.attrs.get("lower", 1 / 8) + leak.attrs.get("upper", 1 / 3)) / 2
    return at.instead("leaky_relu", leak.args[0], negative_slope=slope)


def _one_bin(node: Node, at: At) -> Node | None:
    """How many numbers lie between the least and the greatest of them: all."""
    bounds = node.attrs.get("min", 0) == node.attrs.get("max", 0)
    count = [s for s in sizes(node.args[0]) if isinstance(s, int)]
    if node.attrs.get("bins", 100) != 1 or not bounds or len(count) != len(sizes(node.args[0])):
        return None
    return at.instead("full", size=(1,), fill_value=float(math.prod(count)), dtype=node.dtype)


RULES: Rules = {
    **on("index_select", _rows_of_a_table),
    **on("aten.histc.default", _one_bin),
    **on("aten.concat.default aten.concatenate.default", _rename("cat", "dim")),
    **on("aten.glu.default", _gated),
    **on(
        "aten.view.default aten._unsafe_view.default aten.flatten.using_ints aten.unflatten.int"
        " aten.view_as.default aten.reshape_as.default aten.ravel.default",
        _reshape,
    ),
    **on(
        "transpose aten.t.default aten.numpy_T.default aten.mT.default aten.swapaxes.default"
        " aten.swapdims.default",
        _permute,
    ),
    **on("aten.movedim.int aten.movedim.intlist", _movedim),
    **on("permute", _positive_order),
    **on(
        "zeros ones full zeros_like ones_like full_like scalar_tensor aten.new_ones.default"
        " aten.new_zeros.default aten.new_full.default aten.new_empty.default"
        " aten.empty.memory_format aten.empty_like.default",
        _full,
    ),
    **on("arange", _arange),
    **on("aten.type_as.default", _cast),
    **on("aten.__and__.Tensor aten.__or__.Tensor bitwise_and bitwise_or bitwise_not", _logical),
    **on("aten.min.other", _rename("minimum")),
    **on("aten.max.other", _rename("maximum")),
    **on("aten.mm.default bmm", _rename("matmul")),
    **on(
        "aten.clamp_min.default", lambda n, at: at.instead("clamp", n.args[0], min=n.attrs["min"])
    ),
    **on("aten.square.default", _square),
    **on("mul", _product_of_itself, _unit_weighted, _stack_of_numbers),
    **on("add", _weighted, _unit_weighted, _stack_of_numbers),
    **on("sub", _weighted, _stack_of_numbers),
    **on("div eq ne lt le gt ge", _stack_of_numbers),
    **on("maximum minimum", _bounded),
    **on("rsub", _turned),
    **on("aten.addmm.default aten.baddbmm.default", _added_product),
    **on("aten.pad.default", _pad),
    **on("aten.rrelu.default", _mean_leak),
    **on("getitem", _first_result, _mean_leak),
    **on("aten.convolution.default", _convolution),
    **on("layer_norm", _without("cudnn_enable")),
    **on("softmax", _without("half_to_float"), _own_dtype),
    **on("log_softmax mean sum", _own_dtype),
    **on("embedding", _without("padding_idx", "scale_grad_by_freq", "sparse")),
    **on("to", _cast_alone),
    **on("hardtanh clamp", _clamped),
}
