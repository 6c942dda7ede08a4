"""Every lowering computes in ONNX Runtime what the op table computes in PyTorch."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from regauge.backends.onnx.lower import LOWERINGS
from regauge.backends.onnx.lower.pooling import LOWERINGS as POOLING
from regauge.ir import Graph, ops
from regauge.ir.recurrence import NAMES as RECURRENT

Make: TypeAlias = Callable[..., Graph]
Check: TypeAlias = Callable[..., None]

X = "x: f32[n, t, 8]"
IMAGE = "x: f32[n, 4, 9, 8]"

CASES: dict[str, tuple[str, ...]] = {
    # -- contractions
    "linear": (f"{X}, *, w: f32[6, 8], c: f32[6]", "y = linear(x, w, c)"),
    "linear, weight computed": (f"{X}, w: f32[6, 8]", "y = linear(x, w)"),
    "linear, weight tied": (
        "i: i64[n, t], *, w: f32[6, 8]",
        "x = embedding(w, i)",
        "y = linear(x, w)",
    ),
    "matmul": (f"{X}, z: f32[n, 8, t]", "y = matmul(x, z)"),
    "matmul, vector": (f"{X}, z: f32[8]", "y = matmul(x, z)"),
    "aten.mm.default": ("x: f32[n, 8], z: f32[8, 3]", "y = aten.mm.default(x, z)"),
    "aten.addmm.default": (
        "x: f32[n, 8], *, w: f32[8, 3], c: f32[3]",
        "y = aten.addmm.default(c, x, w)",
    ),
    "bmm": (f"{X}, z: f32[n, 8, 7]", "y = bmm(x, z)"),
    "embedding": ("i: i64[n, t], *, w: f32[6, 8]", "y = embedding(w, i, padding_idx=0)"),
    "conv1d": (
        "x: f32[n, 4, t], *, w: f32[6, 2, 3], c: f32[6]",
        "y: f32[n, 6, (t+1)//2] = conv1d(x, w, c, padding=(1,), stride=(2,), groups=2)",
    ),
    "conv2d": (
        f"{IMAGE}, *, w: f32[6, 4, 3, 2], c: f32[6]",
        "y = conv2d(x, w, c, stride=(2, 1), padding=(1, 0), dilation=(1, 2))",
    ),
    "conv2d, same": (f"{IMAGE}, *, w: f32[6, 4, 4, 3]", "y = conv2d(x, w, padding='same')"),
    "conv2d, one image": ("x: f32[4, 9, 8], *, w: f32[6, 4, 3, 3]", "y = conv2d(x, w)"),
    "conv3d": ("x: f32[n, 2, 4, 5, 6], *, w: f32[3, 2, 2, 2, 2]", "y = conv3d(x, w)"),
    # -- attention
    "sdpa": ("x: f32[n, 4, t, 8]", "y = scaled_dot_product_attention(x, x, x)"),
    "sdpa, causal, fewer queries": (
        "x: f32[n, 4, t, 8], z: f32[n, 4, 7, 8]",
        "y = scaled_dot_product_attention(x, z, z, is_causal=True, scale=0.3)",
    ),
    "sdpa, bool mask by key": (
        "x: f32[n, 4, t, 8], m: bool[n, 1, 1, t]",
        "y = scaled_dot_product_attention(x, x, x, m)",
    ),
    "sdpa, float mask of queries and keys": (
        "x: f32[n, 4, t, 8], m: f32[t, t]",
        "y = scaled_dot_product_attention(x, x, x, m)",
    ),
    "sdpa, float mask by key": (
        "x: f32[n, 4, t, 8], m: f32[n, 1, 1, t]",
        "y = scaled_dot_product_attention(x, x, x, m)",
    ),
    "sdpa, mask by head": (
        "x: f32[n, 4, t, 8], m: f32[1, 4, t, t]",
        "y = scaled_dot_product_attention(x, x, x, m)",
    ),
    "sdpa, grouped": (
        "x: f32[n, 4, t, 8], z: f32[n, 2, 7, 8]",
        "y = scaled_dot_product_attention(x, z, z, enable_gqa=True)",
    ),
    "sdpa, no heads": (f"{X}, z: f32[n, 7, 8]", "y = scaled_dot_product_attention(x, z, z)"),
    # -- norms
    "layer_norm": (
        f"{X}, *, w: f32[8], c: f32[8]",
        "y = layer_norm(x, w, c, normalized_shape=(8,), eps=1e-3, cudnn_enable=False)",
    ),
    "layer_norm, two axes": ("x: f32[n, 5, 8]", "y = layer_norm(x, normalized_shape=(5, 8))"),
    "rms_norm": (f"{X}, *, w: f32[8]", "y = rms_norm(x, w, normalized_shape=(8,), eps=1e-3)"),
    "rms_norm, bare": (X, "y = rms_norm(x, normalized_shape=(8,))"),
    "crms_norm": (f"{X}, *, w: f32[8]", "y = crms_norm(x, w, eps=1e-3)"),
    "group_norm": (
        f"{IMAGE}, *, w: f32[4], c: f32[4]",
        "y = group_norm(x, w, c, num_groups=2, eps=1e-3, cudnn_enabled=False)",
    ),
    "group_norm, bare": (IMAGE, "y = group_norm(x, num_groups=4)"),
    "batch_norm": (
        f"{IMAGE}, *, w: f32[4], c: f32[4], mean: f32[4], var: f32[4]",
        "y = batch_norm(x, w, c, mean, var, training=False, momentum=0.1, eps=1e-3, "
        "cudnn_enabled=True)",
    ),
    "batch_norm, bare": (
        f"{IMAGE}, *, mean: f32[4], var: f32[4]",
        "y = batch_norm(x, None, None, mean, var, training=False, momentum=0.1, "
        "eps=1e-3, cudnn_enabled=True)",
    ),
    "aten._native_batch_norm_legit_no_training.default": (
        f"{IMAGE}, *, w: f32[4], c: f32[4], mean: f32[4], var: f32[4]",
        "p = aten._native_batch_norm_legit_no_training.default("
        "x, w, c, mean, var, momentum=0.1, eps=1e-3)",
        "y = getitem(p, 0)",
    ),
    "softmax": (X, "y = softmax(x, dim=1)"),
    "log_softmax": (X, "y = log_softmax(x, dim=-1)"),
    # -- arithmetic
    "add": (f"{X}, z: f32[8]", "y = add(x, z)"),
    "add, alpha": (f"{X}, z: f32[8]", "y = add(x, z, alpha=0.5)"),
    "add, promoted": (f"{X}, i: i64[8]", "y = add(x, i)"),
    "add, integers and a fraction": ("i: i64[t]", "y = add(i, 0.5)"),
    "add, truths": ("p: bool[t], q: bool[t]", "y = add(p, q)"),
    "sub": (f"{X}, z: f32[8]", "y = sub(x, z, alpha=2)"),
    "rsub": (X, "y = rsub(x, 1)"),
    "mul": (f"{X}, z: f32[t, 8]", "y = mul(x, z)"),
    "mul, by a size": (X, "s = sym_size(x, dim=1)", "y = mul(x, s)"),
    "mul, truths": ("p: bool[t], q: bool[t]", "y = mul(p, q)"),
    "div": (f"{X}, z: f32[8]", "y = div(x, z)"),
    "div, integers": ("i: i64[t]", "y = div(i, 4)"),
    "div, floor": (X, "y = div(x, 0.7, rounding_mode='floor')"),
    "div, trunc": (X, "y = div(x, 0.7, rounding_mode='trunc')"),
    "div, integers, trunc": ("i: i64[t]", "j = sub(i, 2)", "y = div(j, 2, rounding_mode='trunc')"),
    "div, integers, floor": ("i: i64[t]", "j = sub(i, 2)", "y = div(j, 2, rounding_mode='floor')"),
    "floor_divide": ("i: i64[t]", "j = sub(i, 3)", "y = floor_divide(j, 2)"),
    "floor_divide, floats": (X, "y = floor_divide(x, 0.7)"),
    "remainder": ("i: i64[t]", "j = sub(i, 3)", "y = remainder(j, 2)"),
    "remainder, floats": (X, "y = remainder(x, 0.7)"),
    "pow": (X, "a = abs(x)", "y = pow(a, 1.5)"),
    "pow, square": (X, "y = pow(x, 2)"),
    "pow, root": (X, "a = abs(x)", "y = pow(a, 0.5)"),
    "pow, of a number": (X, "y = pow(2.0, x)"),
    "where": (f"p: bool[t, 8], {X}, z: f32[8]", "y = where(p, x, z)"),
    "where, numbers": (f"p: bool[t, 8], {X}", "y = where(p, x, -1.0)"),
    "masked_fill": (f"p: bool[t, 8], {X}", "y = masked_fill(x, p, -inf)"),
    "aten.max.other": (f"{X}, z: f32[8]", "y = aten.max.other(x, z)"),
    "aten.min.other": (f"{X}, z: f32[8]", "y = aten.min.other(x, z)"),
    "maximum": (f"{X}, z: f32[8]", "y = maximum(x, z)"),
    "minimum": (f"{X}, z: f32[8]", "y = minimum(x, z)"),
    "eq": ("i: i64[t], j: i64[t]", "y = eq(i, j)"),
    "eq, truths": ("p: bool[t], q: bool[t]", "y = eq(p, q)"),
    "ne": ("i: i64[t]", "y = ne(i, 1)"),
    "lt": (f"{X}, z: f32[8]", "y = lt(x, z)"),
    "le": ("i: i64[t]", "y = le(i, 1.5)"),
    "gt": (X, "y = gt(x, 0)"),
    "ge": ("i: i64[t], z: f32[t]", "y = ge(i, z)"),
    "logical_and": ("p: bool[t], i: i64[t]", "y = logical_and(p, i)"),
    "logical_or": ("p: bool[t], q: bool[t]", "y = logical_or(p, q)"),
    "bitwise_and": ("p: bool[t], q: bool[t]", "y = bitwise_and(p, q)"),
    "bitwise_and, integers": ("i: i64[t]", "y = bitwise_and(i, 2)"),
    "bitwise_or": ("i: i64[t], j: i64[t]", "y = bitwise_or(i, j)"),
    "aten.__and__.Tensor": ("p: bool[t], q: bool[t]", "y = aten.__and__.Tensor(p, q)"),
    "aten.__or__.Tensor": ("p: bool[t], q: bool[t]", "y = aten.__or__.Tensor(p, q)"),
    # -- functions of one value
    **{
        name: (X, f"y = {name}(x)")
        for name in (
            "neg relu leaky_relu abs gelu silu sigmoid tanh erf sin cos exp reciprocal "
            "softplus hardtanh "
            "relu6 hardswish hardsigmoid mish elu floor logical_not"
        ).split()
    },
    **{name: (X, "a = abs(x)", f"y = {name}(a)") for name in ("log", "sqrt", "rsqrt")},
    "round, of halves": (X, "a = mul(x, 2.0)", "b = round(a)", "c = div(b, 2.0)", "y = round(c)"),
    "gelu, tanh": (X, "y = gelu(x, approximate='tanh')"),
    "silu, double": ("x: f64[n, 8]", "y = silu(x)"),
    "relu, of integers": ("i: i64[n, t]", "j = sub(i, 2)", "y = relu(j)"),
    "leaky_relu, steep": (X, "y = leaky_relu(x, negative_slope=0.3)"),
    "softplus, beta": (X, "y = softplus(x, beta=2.0)"),
    "elu, scaled": (X, "y = elu(x, alpha=1.5, scale=1.1)"),
    "clamp": (X, "y = clamp(x, min=-0.5, max=0.7)"),
    "clamp, below": ("i: i64[t]", "y = clamp(i, min=1)"),
    "aten.clamp.Tensor": (f"{X}, z: f32[8]", "y = clamp(x, min=z)"),
    "bitwise_not": ("p: bool[t]", "y = bitwise_not(p)"),
    "bitwise_not, integers": ("i: i64[t]", "y = bitwise_not(i)"),
    "exp, integers": ("i: i64[t]", "y = exp(i)"),
    "to": (X, "y = to(x, dtype=i64)"),
    "to, bool": ("i: i64[t]", "y = to(i, dtype=bool)"),
    # -- movement
    "clone": (X, "c = clone(x)", "y = relu(c)"),
    "clone, of an input": (X, "y = clone(x)"),
    "contiguous": (X, "c = contiguous(x)", "y = relu(c)"),
    "aten.alias.default": (X, "c = aten.alias.default(x)", "y = relu(c)"),
    "aten.detach.default": (X, "c = aten.detach.default(x)", "y = relu(c)"),
    "aten.lift_fresh_copy.default": (X, "c = aten.lift_fresh_copy.default(x)", "y = relu(c)"),
    "reshape": (X, "s = sym_size(x, dim=0)", "y = reshape(x, shape=(s, -1, 2, 4))"),
    "reshape, two sizes by number": (
        X,
        "s = sym_size(x, dim=0)",
        "u = sym_size(x, dim=1)",
        "y = reshape(x, shape=(u, s, 8))",
    ),
    "reshape, merged": (X, "y = reshape(x, shape=(-1, 8))"),
    "aten.view.default": (X, "y: f32[4*n*t, 2] = aten.view.default(x, size=(-1, 2))"),
    "aten._unsafe_view.default": (X, "y: f32[8*n*t] = aten._unsafe_view.default(x, size=(-1,))"),
    "aten.flatten.using_ints": (X, "y = aten.flatten.using_ints(x, start_dim=1)"),
    "permute": (X, "y = permute(x, dims=(2, -3, 1))"),
    "transpose": (X, "y = transpose(x, dim0=-1, dim1=0)"),
    "aten.t.default": ("x: f32[t, 8]", "y = aten.t.default(x)"),
    "unsqueeze": (X, "y = unsqueeze(x, dim=-1)"),
    "squeeze": ("x: f32[n, 1, t, 1]", "y = squeeze(x, dim=1)"),
    "squeeze, all": ("x: f32[n, 1, t, 1]", "y = squeeze(x)"),
    "squeeze, no one": (X, "y = squeeze(x, dim=2)"),
    "expand": (
        "x: f32[t, 1, 8]",
        "s = sym_size(x, dim=0)",
        "y = expand(x, size=(s, -1, 4, 8))",
    ),
    "expand, as it is": (X, "y = expand(x, size=(-1, -1, 8))"),
    "slice": (X, "y = slice(x, dim=2, start=-6, end=9223372036854775807, step=2)"),
    "slice, to a size": (
        "x: f32[16, 8], z: f32[t]",
        "s = sym_size(z, dim=0)",
        "y: f32[t, 8] = slice(x, dim=0, start=0, end=s)",
    ),
    "slice, whole": (X, "c = slice(x, start=0, end=9223372036854775807)", "y = relu(c)"),
    "select": (X, "y = select(x, dim=-1, index=-2)"),
    "select, at a number": (
        f"{X}, z: f32[2]",
        "s = sym_size(x, dim=1)",
        "k = int_sub(s, 1)",
        "y = select(x, dim=1, index=k)",
    ),
    "cat": (f"{X}, i: i64[n, t, 3]", "y = cat((x, i), dim=-1)"),
    "stack": (X, "y = stack((x, x), dim=-1)"),
    "flip": (X, "y = flip(x, dims=(0, -1))"),
    "roll": (X, "y = roll(x, shifts=(3, -1), dims=(2, 1))"),
    "roll, flat": (X, "y = roll(x, shifts=(2,))"),
    "repeat": (X, "y = repeat(x, repeats=(2, 1, 3, 1))"),
    "repeat_interleave": (X, "y = repeat_interleave(x, repeats=3, dim=1)"),
    "repeat_interleave, flat": (X, "y: f32[16*n*t] = repeat_interleave(x, repeats=2)"),
    "pixel_shuffle": (IMAGE, "y = pixel_shuffle(x, upscale_factor=2)"),
    "pixel_unshuffle": ("x: f32[n, 3, 6, 4]", "y = pixel_unshuffle(x, downscale_factor=2)"),
    "constant_pad_nd, zeros before a max pool": (
        "x: f32[n, 3, 8, 8], *, w: f32[3, 3, 1, 1]",
        "a = conv2d(x, w)",
        "c = abs(a)",
        "m = neg(c)",
        "p = constant_pad_nd(m, pad=(1, 1, 1, 1))",
        "y = max_pool2d(p, kernel_size=(3, 3), stride=(2, 2))",
    ),
    "constant_pad_nd": (X, "y = constant_pad_nd(x, pad=(1, -2, 0, 3), value=0.5)"),
    "constant_pad_nd, between movements": (
        X,
        "p = permute(x, dims=(0, 2, 1))",
        "q = constant_pad_nd(p, pad=(0, 3))",
        "y = permute(q, dims=(0, 2, 1))",
    ),
    "aten.split.Tensor": (
        X,
        "p = aten.split.Tensor(x, split_size=3, dim=2)",
        "y = getitem(p, 2)",
    ),
    "aten.split_with_sizes.default": (
        X,
        "p = aten.split_with_sizes.default(x, split_sizes=(1, 7), dim=-1)",
        "y = getitem(p, 1)",
    ),
    "aten.chunk.default": (X, "p = aten.chunk.default(x, chunks=3, dim=2)", "y = getitem(p, 0)"),
    "aten.unbind.int": ("x: f32[n, 3]", "p = aten.unbind.int(x, dim=1)", "y = getitem(p, 1)"),
    # -- indexing
    "index": (f"{X}, i: i64[2, 1]", "y = index(x, (None, i))"),
    "index, two that broadcast": (f"{X}, i: i64[2, 1], j: i64[3]", "y = index(x, (None, i, j))"),
    "index, apart": (
        f"{X}, i: i64[2], j: i64[2]",
        "k = clamp(i, max=2)",
        "y = index(x, (k, None, j))",
    ),
    "index, by a mask": ("x: f32[t, 8], p: bool[t]", "y: f32[k, 8] = index(x, (p,))"),
    "index_select": (f"{X}, i: i64[4]", "y = index_select(x, i, dim=-1)"),
    "gather": (f"{X}, i: i64[n, t, 3]", "y = gather(x, i, dim=-1)"),
    "scatter": (f"{X}, z: f32[n, t, 1], i: i64[n, t, 1]", "y = scatter(x, i, z, dim=2)"),
    "scatter, a number": (f"{X}, i: i64[n, t, 1]", "y = scatter(x, i, dim=-1, value=7.0)"),
    "index_add": (
        "x: f32[t, 8], i: i64[2], z: f32[2, 8]",
        "y = index_add(x, i, z, dim=0, alpha=2)",
    ),
    "index_put": ("x: f32[t, 8], i: i64[1], z: f32[8]", "y = index_put(x, (i,), z)"),
    "index_put, added": (
        "x: f32[t, 8], i: i64[4], z: f32[4, 8]",
        "y = index_put(x, (i,), z, accumulate=True)",
    ),
    "index_put, by a mask": (
        "x: f32[t, 8], p: bool[t]",
        "v = scalar_tensor(2.0, dtype=f32)",
        "y = index_put(x, (p,), v)",
    ),
    # -- reductions
    "mean": (X, "y = mean(x, dim=(1, -1), keepdim=True)"),
    "mean, all": (X, "y = mean(x)"),
    "sum": (X, "y = sum(x, dim=(1,))"),
    "linalg_vector_norm": (X, "y = linalg_vector_norm(x, dim=(-1,), keepdim=True)"),
    "linalg_vector_norm, magnitudes": (X, "y = linalg_vector_norm(x, ord=1)"),
    "_weight_norm": ("v: f32[6, 3, 2], g: f32[6, 1, 1]", "y = _weight_norm(v, g, dim=0)"),
    "_weight_norm, by place": ("v: f32[6, 3, 2], g: f32[1, 1, 2]", "y = _weight_norm(v, g, dim=2)"),
    "unfold": ("x: f32[n, 7, 3]", "y = unfold(x, dimension=1, size=3, step=2)"),
    "sum, truths": ("p: bool[n, t]", "y = sum(p, dim=(1,))"),
    "amax": (X, "y = amax(x, dim=(1,))"),
    "amin": (X, "y = amin(x)"),
    "aten.max.default": (X, "y = aten.max.default(x)"),
    "aten.min.default": (X, "y = aten.min.default(x)"),
    "aten.max.dim": (X, "p = aten.max.dim(x, dim=1)", "y = getitem(p, 0)"),
    "aten.min.dim": (X, "p = aten.min.dim(x, dim=-1, keepdim=True)", "y = getitem(p, 1)"),
    "any": ("p: bool[n, t]", "y = any(p, dim=1)"),
    "all": ("p: bool[n, t]", "y = all(p)"),
    "argmax": (X, "y = argmax(x, dim=-1)"),
    "argmax, all": (X, "y = argmax(x)"),
    "topk": (X, "p = topk(x, k=3)", "y = getitem(p, 1)"),
    "topk, smallest": (X, "p = topk(x, k=2, dim=1, largest=False)", "y = getitem(p, 0)"),
    "aten.sort.default": (X, "p = aten.sort.default(x, dim=1)", "y = getitem(p, 0)"),
    "cumsum": ("p: bool[n, t]", "y = cumsum(p, dim=-1)"),
    "aten.diff.default": ("i: i64[n, t]", "y = aten.diff.default(i)"),
    "aten.cummax.default": (X, "c = aten.cummax.default(x, dim=1)", "y = getitem(c, 0)"),
    "aten.cummax.default, places": (
        "i: i64[n, t]", "c = aten.cummax.default(i, dim=1)", "y = getitem(c, 1)"
    ),
    "aten.cummin.default": (X, "c = aten.cummin.default(x, dim=-2)", "y = getitem(c, 1)"),
    # -- sources
    "arange": (f"{X}", "s = sym_size(x, dim=1)", "y = arange(end=s)"),
    "arange, steps": ("x: f32[2]", "y = arange(start=1.0, end=4.0, step=0.5, dtype=f32)"),
    "full": (X, "s = sym_size(x, dim=0)", "y = full(size=(s, 2), fill_value=1.5)"),
    "zeros": (X, "s = sym_size(x, dim=0)", "y = zeros(size=(s, 2))"),
    "ones": (X, "y = ones(size=(3, 2), dtype=i64)"),
    "full_like": (X, "y = full_like(x, fill_value=-2)"),
    "zeros_like": (X, "y = zeros_like(x)"),
    "ones_like": (X, "y = ones_like(x, dtype=bool)"),
    "aten.new_full.default": (X, "y = aten.new_full.default(x, size=(2, 3), fill_value=4.0)"),
    "aten.new_zeros.default": (X, "y = aten.new_zeros.default(x, size=(2,), dtype=bool)"),
    "aten.new_ones.default": (
        X,
        "s = sym_size(x, dim=0)",
        "y = aten.new_ones.default(x, size=(s,))",
    ),
    "scalar_tensor": (X, "c = scalar_tensor(0.5, dtype=f32)", "y = mul(x, c)"),
    "tril": ("p: bool[t, t]", "y = tril(p, diagonal=-1)"),
    "triu": ("i: i32[t, t]", "y = triu(i, diagonal=1)"),
    # -- numbers
    "sym_size": (X, "y = sym_size(x, dim=-2)"),
    **{
        f"int_{name}": (X, "s = sym_size(x, dim=0)", f"y = int_{name}(s, 2)")
        for name in "add sub mul floordiv mod truediv eq ne lt le gt ge max min".split()
    },
    "int_where": (X, "s = sym_size(x, dim=1)", "p = int_gt(s, 4)", "y = int_where(p, s, 7)"),
    "int_neg": (X, "s = sym_size(x, dim=0)", "y = int_neg(s)"),
    "int_floordiv, down": (X, "s = sym_size(x, dim=0)", "m = int_neg(s)", "y = int_floordiv(m, 2)"),
    "getitem": (X, "p = topk(x, k=1)", "y = getitem(p, 0)"),
    # -- codes
    "quantize": (
        f"{X}, *, scale: f32[], z: u8[]",
        "q = quantize(x, scale, z, dtype=u8)",
        "y = dequantize(q, scale, z)",
    ),
    "quantize, by channel": (
        f"{X}, *, scale: f32[8]",
        "q = quantize(x, scale, dtype=i8)",
        "y = dequantize(q, scale)",
    ),
    "quantize, by row of a weight": (
        "x: f32[n, 8], *, w: i8[6, 8], scale: f32[6, 1], z: i8[6, 1]",
        "y = dequantize(w, scale, z)",
    ),
    "quantize, in groups": (
        "x: f32[n, 4, 2], *, scale: f32[3, 4, 1], z: u8[3, 4, 1]",
        "q = quantize(x, scale, z, dtype=u8)",
        "y = dequantize(q, scale, z)",
    ),
    "dequantize": ("q: i8[n, 8], *, scale: f32[]", "y = dequantize(q, scale)"),
    "dynamic_quantize": (
        X,
        "p = dynamic_quantize(x, per_token=False, dtype=u8)",
        "y = getitem(p, 0)",
    ),
    "dynamic_quantize, scale": (X, "p = dynamic_quantize(x, per_token=False)", "y = getitem(p, 1)"),
    "dynamic_quantize, int8": (
        X,
        "p = dynamic_quantize(x, per_token=False, dtype=i8)",
        "y = getitem(p, 0)",
    ),
    "dynamic_quantize, by token": (X, "p = dynamic_quantize(x)", "y = getitem(p, 0)"),
    "dynamic_quantize, by token, scale": (X, "p = dynamic_quantize(x)", "y = getitem(p, 1)"),
    "dynamic_quantize, by token, zero": (X, "p = dynamic_quantize(x)", "y = getitem(p, 2)"),
    "dynamic_quantize, rows of zeros": (
        X,
        "c = zeros_like(x)",
        "p = dynamic_quantize(c)",
        "a = getitem(p, 0)",
        "b = getitem(p, 1)",
        "z = getitem(p, 2)",
        "y = dequantize(a, b, z)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_computes_what_the_interpreter_computes(
    case: tuple[str, ...], graph_of: Make, check_runs: Check
) -> None:
    check_runs(graph_of(*case))


def test_every_lowering_has_a_case() -> None:
    named = {name.split(",")[0] for name in CASES}
    named |= {line.split("= ")[1].split("(")[0] for case in CASES.values() for line in case[1:]}
    # test_forms, test_pooling, test_experts, test_blocks, test_recurrence and test_onnx have these
    others = ("ort.", "conv_transpose", *POOLING, "grouped_mm", "decode", *RECURRENT)
    others += ("aten.item.default",)
    left = {name for name in LOWERINGS if not name.startswith(others)}
    assert left - named == set()


def test_every_op_of_the_table_has_a_lowering() -> None:
    pure = {op.name for op in ops.OPS.values() if not op.impure}
    # Complex numbers have no form in ONNX, the second is torch.onnx's to spell, and formats without
    # a kernel are refused before.
    others = {"fft_fftn", "aten.masked_scatter.default", "fake_quantize"}
    assert pure - set(LOWERINGS) == others
