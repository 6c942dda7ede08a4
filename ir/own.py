"""Our own op namespace: quantization, and norms that PyTorch lacks, each with its meaning in
PyTorch.

Scales and zero points broadcast against the value, so one pair of ops serves every granularity: a
scalar per tensor, ``[O, 1]`` per output channel of a weight, ``[..., 1]`` per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .formats import Packed, Parameters, named

LIMITS = {
    dtype: (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    for dtype in (torch.uint8, torch.int8, torch.uint16, torch.int16)
}


def recode(input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """State ``[batch, heads, tokens, channels]`` in another form: ``[batch, heads', tokens,
    channels']`` by a weight ``[heads', channels', heads, channels]``."""
    return torch.einsum("bhtd,gehd->bgte", input, weight)


@torch.library.custom_op("regauge::quantize", mutates_args=())
def quantize(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    *,
    dtype: torch.dtype = torch.uint8,
) -> torch.Tensor:
    """``clip(round(x / scale) + zero_point)`` with round half to even, as ONNX has it."""
    low, high = LIMITS[dtype]
    code = torch.round(input / scale)
    code = code if zero_point is None else code + zero_point
    return torch.clamp(code, low, high).to(dtype)


@quantize.register_fake
def _(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    *,
    dtype: torch.dtype = torch.uint8,
) -> torch.Tensor:
    return torch.empty_like(input, dtype=dtype)


@torch.library.custom_op("regauge::dequantize", mutates_args=())
def dequantize(
    input: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None
) -> torch.Tensor:
    """``(code - zero_point) * scale`` in the dtype of the scale."""
    code = input.to(scale.dtype)
    code = code if zero_point is None else code - zero_point.to(scale.dtype)
    return code * scale


@dequantize.register_fake
def _(
    input: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None
) -> torch.Tensor:
    return torch.empty_like(input, dtype=scale.dtype)


@torch.library.custom_op("regauge::dynamic_quantize", mutates_args=())
def dynamic_quantize(
    input: torch.Tensor, *, per_token: bool = True, dtype: torch.dtype = torch.uint8
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scale and zero point from the value's own range, which always holds zero.

    Args:
        input: ``[..., n]``.
        per_token: One range for each row of ``n``, symmetric about zero; or one for the tensor,
            asymmetric.

    Returns:
        Codes ``[..., n]``, scale and zero point ``[..., 1]``, or scalars.
    """
    low, high = LIMITS[dtype]
    if per_token:
        middle = (low + high + 1) // 2
        scale = torch.amax(torch.abs(input), dim=-1, keepdim=True) / (high - middle)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero_point = torch.full_like(scale, middle, dtype=dtype)
    else:
        top = torch.clamp(torch.amax(input), min=0)
        bottom = torch.clamp(torch.amin(input), max=0)
        scale = (top - bottom) / (high - low)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero_point = torch.clamp(torch.round(low - bottom / scale), low, high).to(dtype)
    code = torch.round(input / scale) + zero_point
    return torch.clamp(code, low, high).to(dtype), scale, zero_point


@dynamic_quantize.register_fake
def _(
    input: torch.Tensor, *, per_token: bool = True, dtype: torch.dtype = torch.uint8
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scale = input.new_empty((*input.shape[:-1], 1) if per_token else ())
    return torch.empty_like(input, dtype=dtype), scale, torch.empty_like(scale, dtype=dtype)


@torch.library.custom_op("regauge::decode", mutates_args=())
def decode(
    codes: torch.Tensor,
    scale: torch.Tensor,
    whole: torch.Tensor | None = None,
    zero: torch.Tensor | None = None,
    *,
    format: str,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """The tensor that packed codes of a format stand for.

    Args:
        codes, scale, whole, zero: As ``formats.Packed`` has them.
        format: Its name.
        shape, dtype: Of the tensor.
    """
    form = named(format)
    return Packed(form, torch.Size(shape), dtype, codes, scale, whole, zero).unpack().dequantize()


@decode.register_fake
def _(
    codes: torch.Tensor,
    scale: torch.Tensor,
    whole: torch.Tensor | None = None,
    zero: torch.Tensor | None = None,
    *,
    format: str,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    return codes.new_empty(list(shape), dtype=dtype)


@torch.library.custom_op("regauge::fake_quantize", mutates_args=())
def fake_quantize(
    input: torch.Tensor,
    scale: torch.Tensor | None = None,
    zero: torch.Tensor | None = None,
    *,
    format: str,
) -> torch.Tensor:
    """What the codes of a format give back, computed in floating point.

    Args:
        scale, zero: In the shape of the format's scales; from the value itself where not given.
        format: Its name.
    """
    return _rounded(input, scale, zero, format)


def _rounded(
    input: torch.Tensor, scale: torch.Tensor | None, zero: torch.Tensor | None, format: str
) -> torch.Tensor:
    form = named(format)
    parameters = form.fit(input) if scale is None else Parameters(scale, None, zero)
    return form.fake(input, parameters)


@fake_quantize.register_fake
def _(
    input: torch.Tensor,
    scale: torch.Tensor | None = None,
    zero: torch.Tensor | None = None,
    *,
    format: str,
) -> torch.Tensor:
    return torch.empty_like(input)


def _save_for_fake_quantize(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: torch.Tensor
) -> None:
    ctx.save_for_backward(*inputs)
    ctx.format = keyword_only_inputs["format"]


def _fake_quantize_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return _gradient(
        lambda input, scale=None, zero=None: _rounded(input, scale, zero, ctx.format),
        ctx.saved_tensors,
        gradient,
    )


fake_quantize.register_autograd(_fake_quantize_gradient, setup_context=_save_for_fake_quantize)


def _gradient(
    run: Callable[..., torch.Tensor],
    saved: Sequence[torch.Tensor | None],
    gradient: torch.Tensor,
) -> tuple[torch.Tensor | None, ...]:
    """The gradient to each operand that is given, by running once more."""
    with torch.enable_grad():
        given = [None if part is None else part.detach().requires_grad_() for part in saved]
        there = [part for part in given if part is not None]
        found = iter(torch.autograd.grad(run(*given), there, gradient, allow_unused=True))
    return tuple(None if part is None else next(found) for part in given)


@torch.library.custom_op("regauge::crms_norm", mutates_args=())
def crms_norm(
    input: torch.Tensor, weight: torch.Tensor | None = None, *, eps: float = 1e-6
) -> torch.Tensor:
    """RMSNorm of a vector of mean zero whose last coordinate is left out (A49).

    ``x / sqrt((sum x^2 + (sum x)^2) / d + eps)`` with ``d`` one more than the last axis holds.
    """
    return _crms_normed(input, weight, eps=eps)


def _crms_normed(input: torch.Tensor, weight: torch.Tensor | None, *, eps: float) -> torch.Tensor:
    last = torch.sum(input, dim=-1, keepdim=True)
    square = torch.sum(input * input, dim=-1, keepdim=True) + last * last
    normed = input * torch.rsqrt(square / (input.shape[-1] + 1) + eps)
    return normed if weight is None else normed * weight


@crms_norm.register_fake
def _(
    input: torch.Tensor, weight: torch.Tensor | None = None, *, eps: float = 1e-6
) -> torch.Tensor:
    return torch.empty_like(input)


def _save_for_crms_norm(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: torch.Tensor
) -> None:
    ctx.save_for_backward(*inputs)
    ctx.eps = keyword_only_inputs["eps"]


def _crms_norm_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return _gradient(
        lambda input, weight=None: _crms_normed(input, weight, eps=ctx.eps),
        ctx.saved_tensors,
        gradient,
    )


crms_norm.register_autograd(_crms_norm_gradient, setup_context=_save_for_crms_norm)


@torch.library.custom_op("regauge::grouped_mm", mutates_args=())
def grouped_mm(input: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Each row times the matrix of its group, as a mixture of experts has it.

    Args:
        input: ``[T, I]``, the rows of each group side by side.
        weight: ``[E, I, O]``.
        offsets: ``[E]``, integers: where each group ends. Rows after the last give zeros.
    """
    result = input.new_zeros(input.shape[0], weight.shape[2])
    start = 0
    for matrix, end in zip(weight, offsets.tolist(), strict=True):
        result[start:end] = input[start:end] @ matrix
        start = end
    return result


@grouped_mm.register_fake
def _(input: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return input.new_empty(input.shape[0], weight.shape[2])


def _save_for_grouped_mm(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _grouped_mm_gradient(
    ctx: Any, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, None]:
    input, weight, offsets = ctx.saved_tensors
    by_weight = torch.zeros_like(weight)
    start = 0
    for matrix, end in zip(by_weight, offsets.tolist(), strict=True):
        matrix += input[start:end].T @ gradient[start:end]
        start = end
    return grouped_mm(gradient, weight.transpose(1, 2), offsets), by_weight, None


grouped_mm.register_autograd(_grouped_mm_gradient, setup_context=_save_for_grouped_mm)
