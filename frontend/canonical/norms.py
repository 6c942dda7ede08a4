"""Norms that were written out become one op.

    x * rsqrt(mean(x^2) + eps)                       ->  rms_norm(x)
    (x - mean(x)) * rsqrt(mean((x - mean(x))^2) + eps)  =  rms_norm(x - mean(x))  ->  layer_norm(x)
    rms_norm(x) * w, layer_norm(x) * w + b           ->  rms_norm(x, w), layer_norm(x, w, b)
    rms_norm(x, 1 + w)                               ->  rms_norm(x, w')     w' = 1 + w, a parameter
                                                             of its own
    to(rms_norm(to(x, f32)), f16)                    ->  rms_norm(x)
    batch_norm(x, training=True) of a batch of one   ->  layer_norm(x) over all but its channels

The last stands in standardised weights; the others are over the last axis. A division by the square
root, a power of -1/2, and ``var`` without correction are read as well. The rule for casts is exact
over the reals; PyTorch's ``rms_norm`` of half-precision numbers works in float32 inside as well.
"""

from __future__ import annotations

from ...ir import Node, TensorType
from ...ir.graph import Arg
from .linear import changed
from .rewrite import At, Rules, alone, either, is_param, number, on, operand, sizes


def _inverse_root(arg: Arg) -> Arg:
    """``v`` where the argument is ``v ** -0.5``."""
    match arg:
        case Node("rsqrt", (v,)):
            return v
        case Node("pow", (v, exponent)) if number(exponent) == -0.5:
            return v
        case Node("reciprocal", (Node("sqrt", (v,)),)):
            return v
        case _:
            return None


def _root(arg: Arg) -> Arg:
    match arg:
        case Node("sqrt", (v,)):
            return v
        case Node("pow", (v, exponent)) if number(exponent) == 0.5:
            return v
        case _:
            return None


def _is_mean(arg: Arg, of: Node) -> bool:
    """Whether the argument is the mean of a value over its last axis, which is kept."""
    return (
        isinstance(arg, Node)
        and arg.op == "mean"
        and arg.args[0] is of
        and _last_axis(arg)
        and arg.type == TensorType(of.dtype, (*sizes(of)[:-1], 1))
    )


def _last_axis(reduction: Node) -> bool:
    rank = len(sizes(reduction.args[0]))
    dims = reduction.attrs.get("dim")
    dims = dims if isinstance(dims, tuple) else (dims,)
    keep = reduction.attrs.get("keepdim", False)
    return bool(keep) and all(isinstance(d, int) and d % rank == rank - 1 for d in dims)


def _spread(arg: Arg, x: Node) -> tuple[Node, float] | None:
    """``x`` and epsilon where the argument is ``mean(x^2) + eps``."""
    if not (isinstance(arg, Node) and arg.op == "add"):
        return None
    for mean, eps in either(arg):
        value = number(eps)
        if value is None or not (isinstance(mean, Node) and mean.op == "mean"):
            continue
        match mean.args[0]:
            case Node("pow", (y, exponent)) as square if y is x and number(exponent) == 2:
                return (x, float(value)) if _is_mean(mean, square) else None
            case _:
                continue
    return None


def _core(node: Node, at: At) -> Node | None:
    """The division by the root mean square."""
    pairs = either(node) if node.op == "mul" else (node.args,)
    inverse = _inverse_root if node.op == "mul" else _root
    for x, factor in pairs:
        variance = inverse(factor)
        if not isinstance(x, Node) or variance is None:
            continue
        found = _spread(variance, x)
        if found is not None and isinstance(sizes(x)[-1], int) and x.type == node.type:
            return at.instead("rms_norm", x, normalized_shape=(sizes(x)[-1],), eps=found[1])
        eps = _variance(variance, x)
        if eps is not None:
            source = x.args[0]
            return at.instead("layer_norm", source, normalized_shape=(sizes(x)[-1],), eps=eps)
    return None


def _variance(arg: Arg, centred: Node) -> float | None:
    """Epsilon where the argument is ``var(x) + eps`` and the other factor is ``x - mean(x)``."""
    source = _centred(centred)
    if source is None or not (isinstance(arg, Node) and arg.op == "add"):
        return None
    for var, eps in either(arg):
        value = number(eps)
        if value is None or not isinstance(var, Node) or not var.op.startswith("aten.var."):
            continue
        biased = var.attrs.get("correction") == 0 or var.attrs.get("unbiased") is False
        if biased and var.args[0] is source and _last_axis(var):
            return float(value)
    return None


def _centred(arg: Arg) -> Node | None:
    """``x`` where the argument is ``x - mean(x)``."""
    match arg:
        case Node("sub", (Node() as x, mean)) if _is_mean(mean, x) and "alpha" not in arg.attrs:
            return x
        case _:
            return None


def _layer_norm(node: Node, at: At) -> Node | None:
    x = _centred(node.args[0])
    if x is None or len(node.attrs["normalized_shape"]) != 1 or node.attrs.get("eps") is None:
        return None
    return at.instead("layer_norm", x, *node.args[1:], **node.attrs)


def _weight(node: Node, at: At) -> Node | None:
    """The product of a norm and a weight."""
    for norm, weight in either(node):
        if (
            not (alone(norm, "rms_norm") or alone(norm, "layer_norm"))
            or operand(norm, 1) is not None
        ):
            continue
        if operand(norm, 2) is not None or not isinstance(weight, Node) or norm.type != node.type:
            continue
        known = is_param(weight) or (_offset(weight) is not None)
        if known and sizes(weight) == norm.attrs["normalized_shape"] and weight.dtype == norm.dtype:
            return at.instead(norm.op, norm.args[0], weight, **norm.attrs)
    return None


def _bias(node: Node, at: At) -> Node | None:
    for norm, bias in either(node):
        if not alone(norm, "layer_norm") or operand(norm, 2) is not None or norm.type != node.type:
            continue
        if (
            is_param(bias, 1)
            and sizes(bias) == norm.attrs["normalized_shape"]
            and bias.dtype == norm.dtype
        ):
            return at.instead("layer_norm", norm.args[0], operand(norm, 1), bias, **norm.attrs)
    return None


def _offset(arg: Arg) -> tuple[Node, float] | None:
    """A weight and a number where the argument is their sum."""
    if not (isinstance(arg, Node) and arg.op == "add" and "alpha" not in arg.attrs):
        return None
    for weight, offset in either(arg):
        value = number(offset)
        if is_param(weight, 1) and value is not None and weight.type == arg.type:
            return weight, value
    return None


def _offset_weight(node: Node, at: At) -> Node | None:
    """A weight that is stored less one."""
    found = _offset(operand(node, 1))
    if found is None:
        return None
    weight, offset = found
    folded = at.param(weight, changed(at, weight, lambda t: t + offset, rounds=True))
    node.set((node.args[0], folded, *node.args[2:]))
    return node


def _in_float(node: Node, at: At) -> Node | None:
    """A norm of half-precision numbers that is taken in float32."""
    norm = node.args[0]
    if not (alone(norm, "rms_norm") and len(norm.args) == 1 and alone(norm.args[0], "to")):
        return None
    x = norm.args[0].args[0]
    wide = x.dtype.is_floating_point and x.dtype.itemsize < norm.dtype.itemsize
    return at.instead("rms_norm", x, **norm.attrs) if wide and x.type == node.type else None


def _one_sample(node: Node, at: At) -> Node | None:
    """A batch norm by the statistics of a batch of one."""
    shape = sizes(node)
    plain = all(arg is None for arg in node.args[1:]) and node.attrs.get("training")
    if not plain or shape[0] != 1 or any(isinstance(size, str) for size in shape):
        return None
    eps = node.attrs["eps"]
    return at.instead("layer_norm", node.args[0], normalized_shape=shape[2:], eps=eps)


RULES: Rules = {
    **on("batch_norm", _one_sample),
    **on("mul", _core, _weight),
    **on("div", _core),
    **on("add", _bias),
    **on("rms_norm", _layer_norm, _offset_weight),
    **on("layer_norm", _offset_weight),
    **on("to", _in_float),
}
