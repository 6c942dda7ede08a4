"""Ops written in others: each function gives the value that its op has, made of simpler ones.

    rms_norm(x) w    =  x rsqrt(mean x^2 + eps) w  =  the first half of layer_norm((x, -x)) w
    layer_norm(x)    =  (x - mean x) rsqrt(mean (x - mean x)^2 + eps) w + b
    silu(x)          =  x sigmoid(x)
    gelu(x)          =  x (1 + erf(x / sqrt 2)) / 2
    sdpa(q, k, v)    =  softmax(s q k' + mask) v
    batch_norm(x)    =  x (w / r) + (b - m w / r), r = sqrt(v + eps)
    group_norm(x)    =  layer_norm(x, a row for each group) w + b
    max_pool1d(x)    =  max_pool2d(x, an image of one row)
    avg_pool(x)      =  conv(x, a window of 1 / size for each channel) size / count

Recurrent layers are written out step by step (``steps``).

A name here is that of an op in the table, and a function has its operands. One that gives back the
node itself says that this is in the simplest form already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from ...ir import Node, ops
from ...ir.graph import Arg
from ...ir.types import Dim
from ..fusion.fold_batch_norm import affine
from .steps import STEPS
from .writing import Apart, Ops


def _known(*sizes: Dim) -> tuple[int, ...]:
    """Sizes as numbers; raises ``Apart`` where one varies."""
    if any(isinstance(size, str) for size in sizes):
        raise Apart("sizes vary")
    return tuple(map(int, sizes))


def silu(o: Ops, node: Node, self: Node) -> Node:
    return o.mul(self, o.sigmoid(self))


def mish(o: Ops, node: Node, self: Node) -> Node:
    return o.mul(self, o.tanh(o.softplus(self)))


def hardsigmoid(o: Ops, node: Node, self: Node) -> Node:
    return o.mul(o.clamp(o.add(self, 3.0), min=0.0, max=6.0), 1 / 6)


def hardswish(o: Ops, node: Node, self: Node) -> Node:
    return o.mul(self, hardsigmoid(o, node, self))


def gelu(o: Ops, node: Node, self: Node, approximate: str = "none") -> Node:
    half = o.mul(self, 0.5)
    if approximate == "none":
        return o.mul(half, o.add(o.erf(o.mul(self, math.sqrt(0.5))), 1.0))
    cube = o.mul(o.mul(self, self), self)
    inner = o.mul(o.add(self, o.mul(cube, 0.044715)), math.sqrt(2 / math.pi))
    return o.mul(half, o.add(o.tanh(inner), 1.0))


def rms_norm(
    o: Ops,
    node: Node,
    input: Node,
    normalized_shape: tuple[int, ...],
    weight: Node | None = None,
    eps: float | None = None,
) -> Node:
    if eps is None:
        raise Apart("its epsilon is that of the precision it is computed in")
    if len(normalized_shape) == 1 and not {"layer_norm", "mean"} & {*o.lacks}:
        return _mirrored(o, input, weight, eps)
    return _affine(o, _level(o, input, len(normalized_shape), eps), weight, None)


def _mirrored(o: Ops, x: Node, weight: Node | None, eps: float) -> Node:
    """By a layer norm, where there is one: of numbers and their opposites the mean is zero."""
    size = int(x.shape[-1])
    both = o.cat((x, o.neg(x)), dim=-1)
    scale: tuple[Node, ...] = ()
    if weight is not None and weight.op == "param":
        value = o.graph.value(weight)
        scale = (o.graph.param(f"{weight.name}_twice", torch.cat([value, value])),)
    elif weight is not None:
        scale = (o.cat((weight, weight), dim=0),)
    normed = o.layer_norm(both, *scale, normalized_shape=(2 * size,), eps=eps)
    return o.slice(normed, dim=-1, start=0, end=size)


def layer_norm(
    o: Ops,
    node: Node,
    input: Node,
    normalized_shape: tuple[int, ...],
    weight: Node | None = None,
    bias: Node | None = None,
    eps: float = 1e-5,
) -> Node:
    axes = tuple(range(-len(normalized_shape), 0))
    centred = o.sub(input, o.mean(input, dim=axes, keepdim=True))
    return _affine(o, _level(o, centred, len(axes), eps), weight, bias)


def _level(o: Ops, x: Node, axes: int, eps: float) -> Node:
    """``x`` over the root of its mean square in the last axes."""
    square = o.mean(o.mul(x, x), dim=tuple(range(-axes, 0)), keepdim=True)
    return o.mul(x, o.rsqrt(o.add(square, eps)))


def _affine(o: Ops, x: Node, weight: Node | None, bias: Node | None) -> Node:
    x = x if weight is None else o.mul(x, weight)
    return x if bias is None else o.add(x, bias)


def batch_norm(
    o: Ops,
    node: Node,
    input: Node,
    weight: Node | None,
    bias: Node | None,
    running_mean: Node,
    running_var: Node,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> Node:
    """As one factor and one summand a channel, where these are constants."""
    parts = (weight, bias, running_mean, running_var)
    if training or any(part is not None and part.op != "param" for part in parts):
        raise Apart("its statistics are computed")
    beside = (-1, *(1,) * (len(node.shape) - 2))
    scale, shift = (part.reshape(beside) for part in affine(o.graph, node))
    product = o.mul(input, o.graph.param(f"{node.name}_scale", scale))
    return o.add(product, o.graph.param(f"{node.name}_shift", shift))


def group_norm(
    o: Ops,
    node: Node,
    input: Node,
    num_groups: int,
    weight: Node | None = None,
    bias: Node | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> Node:
    batch, *rest = _known(*input.shape)
    row = math.prod(rest) // num_groups
    rows = o.reshape(input, shape=(batch, num_groups, row))
    level = o.layer_norm(rows, normalized_shape=(row,), eps=eps)
    beside = (-1, *(1,) * (len(rest) - 1))
    parts = [part and o.reshape(part, shape=beside) for part in (weight, bias)]
    return _affine(o, o.reshape(level, shape=(batch, *rest)), *parts)


def mean(o: Ops, node: Node, self: Node, dim: tuple[int, ...] = (), keepdim: bool = False) -> Node:
    """Of images by pooling, which integer kernels have; of others as a sum."""
    sizes = _known(*self.shape)
    axes = sorted(axis % len(sizes) for axis in dim) or list(range(len(sizes)))
    if len(sizes) == 4 and axes == [2, 3]:
        pooled = o.avg_pool2d(self, kernel_size=sizes[2:], stride=(1, 1))
        return pooled if keepdim else o.reshape(pooled, shape=sizes[:2])
    count = math.prod(sizes[axis] for axis in axes)
    return o.mul(o.sum(self, dim=tuple(axes), keepdim=keepdim), 1 / count)


def avg_pool(
    o: Ops,
    node: Node,
    self: Node,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...] = (),
    padding: tuple[int, ...] = (),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Node:
    """Of windows that reach out of an image, as a convolution of each channel."""
    axes = len(kernel_size)
    channels, *sizes = _known(*self.shape[-axes - 1 :])
    stride, padding = stride or kernel_size, padding or (0,) * axes
    more = list[int]()
    share = torch.ones((), dtype=torch.float64)
    for had, given, k, s, p in zip(
        sizes, _known(*node.shape[-axes:]), kernel_size, stride, padding, strict=True
    ):
        starts = torch.arange(given, dtype=torch.float64) * s - p
        out = p if count_include_pad else 0  # how far what counts reaches out of the image
        share = share[..., None] * k / ((starts + k).clamp(max=had + out) - starts.clamp(min=-out))
        more = [0, max(0, int(starts[-1]) + k - had - p), *more]
    if not any(more) and not any(padding):
        return node
    image = o.constant_pad_nd(self, pad=tuple(more), value=0.0) if any(more) else self
    count = math.prod(kernel_size) if divisor_override is None else divisor_override
    window = torch.full((channels, 1, *kernel_size), 1 / count, dtype=self.dtype)
    weight = o.graph.param(f"{node.name}_window", window, ())
    convolve = getattr(o, f"conv{axes}d")
    mean = convolve(image, weight, stride=stride, padding=padding, groups=channels)
    if divisor_override is not None or bool((share == 1).all()):
        return mean
    return o.mul(mean, o.graph.param(f"{node.name}_share", share.to(self.dtype), ()))


def adaptive_avg_pool2d(o: Ops, node: Node, self: Node, output_size: tuple[int, ...]) -> Node:
    """Where windows are alike, by their size; a single one needs no step."""
    sizes = tuple(zip(_known(*self.shape[-2:]), _known(*node.shape[-2:]), strict=True))
    if any(had % given for had, given in sizes):
        return node
    kernel = tuple(had // given for had, given in sizes)
    stride = tuple(1 if given == 1 else k for (_, given), k in zip(sizes, kernel, strict=True))
    return o.avg_pool2d(self, kernel_size=kernel, stride=stride)


def max_pool1d(
    o: Ops,
    node: Node,
    self: Node,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...] = (),
    padding: tuple[int, ...] = (0,),
    dilation: tuple[int, ...] = (1,),
    ceil_mode: bool = False,
) -> Node:
    """Of an image of one row."""
    image = o.unsqueeze(self, dim=-2)
    pooled = o.max_pool2d(
        image,
        kernel_size=(1, *kernel_size),
        stride=(1, *(stride or kernel_size)),
        padding=(0, *padding),
        dilation=(1, *dilation),
        ceil_mode=ceil_mode,
    )
    return o.squeeze(pooled, dim=-2)


def upsample_nearest2d(
    o: Ops,
    node: Node,
    input: Node,
    output_size: tuple[int, ...] | None = None,
    scale_factors: tuple[float, ...] | None = None,
) -> Node:
    """As rows and columns that are looked up, where they are not all repeated as often."""
    had, given = _known(*input.shape[-2:]), _known(*node.shape[-2:])
    if all(many % few == 0 for few, many in zip(had, given, strict=True)):
        return node
    for axis in (-2, -1):
        places = torch.arange(had[axis], dtype=torch.float64)
        image = places.unflatten(0, (-1, *(1,) * (-axis - 1))).expand(1, 1, *had)
        found = ops.call(node.op, (image,), node.attrs)[0, 0].select(-3 - axis, 0).long()
        index = o.graph.param(f"{node.name}_places", found, ())
        input = o.index_select(input, index, dim=axis)
    return input


def conv_transpose(
    o: Ops,
    node: Node,
    input: Node,
    weight: Node,
    bias: Node | None = None,
    stride: tuple[int, ...] = (),
    padding: tuple[int, ...] = (),
    output_padding: tuple[int, ...] = (),
    groups: int = 1,
    dilation: tuple[int, ...] = (),
) -> Node:
    """All that it gives, of which its padding cuts off the ends."""
    if not any(padding) or all(step == 1 for step in stride):
        return node
    more = output_padding or (0,) * len(padding)
    if any(wide > cut for wide, cut in zip(more, padding, strict=True)):
        raise Apart("it gives more at its end than its padding cuts off")
    sizes = _known(*node.shape[-len(padding) :])
    attrs: dict[str, Arg] = {"stride": stride, "groups": groups}
    if dilation:
        attrs["dilation"] = dilation
    whole = getattr(o, node.op)(input, weight, *([] if bias is None else [bias]), **attrs)
    for axis, (cut, size) in enumerate(zip(padding, sizes, strict=True), -len(padding)):
        whole = o.slice(whole, dim=axis, start=cut, end=cut + size)
    return whole


def sub(o: Ops, node: Node, self: Arg, other: Arg) -> Node:
    negative = o.mul(other, -1) if isinstance(other, Node) else -other
    return o.add(self, negative) if isinstance(self, Node) else o.add(negative, self)


def div(o: Ops, node: Node, self: Node, other: Arg) -> Node:
    return o.mul(self, o.reciprocal(other) if isinstance(other, Node) else 1 / other)


def matmul(o: Ops, node: Node, self: Node, other: Node) -> Node:
    """Of stacks of matrices, as one stack."""
    left, right = self.shape, other.shape
    if len(left) != len(right) or len(left) < 3 or left[:-2] != right[:-2]:
        raise Apart("its operands are no equal stacks of matrices")
    count = math.prod(_known(*left, *right)[: len(left) - 2])
    parts = (o.reshape(part, shape=(count, *part.shape[-2:])) for part in (self, other))
    return o.reshape(o.bmm(*parts), shape=(*left[:-1], right[-1]))


def log_softmax(o: Ops, node: Node, self: Node, dim: int) -> Node:
    return o.log(o.softmax(self, dim=dim))


def softmax(o: Ops, node: Node, self: Node, dim: int) -> Node:
    powers = o.exp(o.sub(self, o.amax(self, dim=(dim,), keepdim=True)))
    return o.div(powers, o.sum(powers, dim=(dim,), keepdim=True))


def scaled_dot_product_attention(
    o: Ops,
    node: Node,
    query: Node,
    key: Node,
    value: Node,
    attn_mask: Node | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Node:
    if dropout_p:
        raise Apart("it drops what it attends to")
    if enable_gqa:
        groups = int(query.shape[-3]) // int(key.shape[-3])
        key, value = (o.repeat_interleave(part, repeats=groups, dim=-3) for part in (key, value))
    factor = int(query.shape[-1]) ** -0.5 if scale is None else scale
    scores = o.matmul(o.mul(query, factor), o.transpose(key, dim0=-2, dim1=-1))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = o.where(attn_mask, scores, o.masked)
    elif attn_mask is not None:
        finite = attn_mask if o.masked == -math.inf else o.clamp(attn_mask, min=o.masked)
        scores = o.add(scores, finite)
    if is_causal:
        scores = o.where(_lower(o, node, scores), scores, o.masked)
    return o.matmul(o.softmax(scores, dim=-1), value)


def _lower(o: Ops, node: Node, scores: Node) -> Node:
    """Whether a position is not after that of the query, ``[Q, K]``."""
    sizes = scores.shape[-2:]
    if all(isinstance(size, int) for size in sizes):
        lower = torch.ones(*map(int, sizes), dtype=torch.bool).tril()
        return o.graph.param(f"{node.name}_lower", lower)
    while len(scores.shape) > 2:
        scores = o.select(scores, dim=0, index=0)
    return o.tril(o.ones_like(scores, dtype=torch.bool))


_OWN: tuple[Callable[..., Node], ...] = (
    silu, mish, hardsigmoid, hardswish, gelu, rms_norm, layer_norm, batch_norm, group_norm, mean,
    adaptive_avg_pool2d, max_pool1d, upsample_nearest2d, sub, div, matmul, log_softmax, softmax,
    scaled_dot_product_attention,
)  # fmt: skip
_POOLS = {f"avg_pool{axes}d": avg_pool for axes in (1, 2, 3)}
_TRANSPOSED = {f"conv_transpose{axes}d": conv_transpose for axes in (1, 2, 3)}
EQUALS: Mapping[str, Callable[..., Node]] = {
    **STEPS,
    **_POOLS,
    **_TRANSPOSED,
    **{own.__name__: own for own in _OWN},
}
