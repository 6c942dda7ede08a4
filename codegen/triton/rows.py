# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""The kernel of ``codegen.rows``: one program for a tile of rows, or of pieces of rows."""

import torch
import triton
import triton.language as tl

from ..description import E4M3, LogQuantize, Quantize
from ..launch import Launch, Options
from ..rows import Rows
from .pieces import LOG2E, activate, divide, rotate, rotate_by_products, round_to_code


@triton.jit
def rows_kernel(
    input_ptr, other_ptr, weight_ptr, bias_ptr, scale_ptr, zero_ptr,
    sum_ptr, output_ptr, scales_ptr,
    rows, input_stride, other_stride,
    WIDTH: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    RESIDUAL: tl.constexpr, GATE: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr,
    SOFTMAX: tl.constexpr, LEVELS: tl.constexpr, PRODUCTS: tl.constexpr, SHORT: tl.constexpr,
    FORM: tl.constexpr, PER_TOKEN: tl.constexpr,
    LOW: tl.constexpr, HIGH: tl.constexpr, REACH: tl.constexpr, PARTS: tl.constexpr,
    BITS: tl.constexpr,
):  # fmt: skip
    """Tiles of ``TILE`` rows by ``BLOCK`` columns; the programs of axis 0 share out the tiles.

    ``FORM``: ``none``, ``int``, ``uint``, ``float`` (E4M3), ``log``, or ``planes``: words of the
    ``BITS`` bits of integers.
    """
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = columns < WIDTH
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + columns, inside, 0.0, eviction_policy="evict_last")
        weight = weight.to(tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + columns, inside, 0.0, eviction_policy="evict_last")
        bias = bias.to(tl.float32)

    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, TILE), tl.num_programs(0)):
        row = (tile * TILE + tl.arange(0, TILE)[:, None]).to(tl.int64)
        there = inside & (row < rows)
        place = row * WIDTH + columns
        x = tl.load(
            input_ptr + row * input_stride + columns, there, 0.0, eviction_policy="evict_first"
        ).to(tl.float32)
        if other_ptr is not None:
            other = tl.load(
                other_ptr + row * other_stride + columns, there, 0.0, eviction_policy="evict_first"
            ).to(tl.float32)
            if RESIDUAL:
                x = x + other
                tl.store(sum_ptr + place, x.to(sum_ptr.dtype.element_ty), there)
            else:
                x = activate(x, GATE) * other

        if NORM == "layer":
            mean = tl.sum(x, 1, keep_dims=True) / WIDTH
            x = tl.where(inside, x - mean, 0.0)
        if NORM != "none":
            square = tl.sum(x * x, 1, keep_dims=True) / WIDTH
            x = x * (1.0 / tl.sqrt_rn(square + EPS))
        if weight_ptr is not None:
            x = x * weight
        if bias_ptr is not None:
            x = x + bias
        if LEVELS > 0:
            if PRODUCTS:
                x = rotate_by_products(x, TILE, BLOCK, LEVELS, SHORT)
            else:
                x = rotate(x, TILE, BLOCK, LEVELS)
            x = x * 2 ** (LEVELS * -0.5)

        if SOFTMAX:
            # In octaves: p = 2^(x - top) / total.
            x = tl.where(inside, x * LOG2E, float("-inf"))
            top = tl.max(x, 1, keep_dims=True)
            x = x - tl.where(top == float("-inf"), 0.0, top)
            total = tl.sum(tl.exp2(x), 1, keep_dims=True)
            if FORM == "log":
                # -log2(p / s): no number's logarithm is taken, and of the row's greatest s none.
                if not PER_TOKEN:
                    x = x - tl.log2(total) - tl.log2(tl.load(scale_ptr))
            else:
                x = tl.exp2(x) * tl.div_rn(1.0, total)

        if FORM == "none":
            tl.store(output_ptr + place, x.to(output_ptr.dtype.element_ty), there)
        elif FORM == "log":
            codes = round_to_code(x * -PARTS, tl.zeros_like(x), LOW, HIGH, False)
            tl.store(output_ptr + place, codes.to(tl.uint8), there)
            if PER_TOKEN:
                tl.store(scales_ptr + row, tl.div_rn(1.0, total), row < rows)
        else:
            if PER_TOKEN:
                peak = tl.max(tl.abs(x), 1, keep_dims=True)  # beyond the row all are zero
                scale = tl.div_rn(peak, tl.full(peak.shape, REACH, tl.float32))
                scale = tl.where(scale == 0, 1.0, scale)
                tl.store(scales_ptr + row, scale, row < rows)
                zero = tl.full(scale.shape, 128.0 if FORM == "uint" else 0.0, tl.float32)
            else:
                scale = tl.load(scale_ptr) + tl.zeros((1, 1), tl.float32)
                zero = tl.zeros((1, 1), tl.float32)
                if zero_ptr is not None:
                    zero += tl.load(zero_ptr).to(tl.float32)
            x = divide(x, scale, tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale), PER_TOKEN)
            if FORM == "float":
                if not PER_TOKEN:
                    x = tl.minimum(tl.maximum(x, LOW), HIGH)
                tl.store(output_ptr + place, x.to(tl.float8e4nv), there)
            else:
                codes = round_to_code(x, zero, LOW, HIGH, PER_TOKEN)
                if FORM == "planes":
                    words: tl.constexpr = WIDTH // 32
                    word = tl.arange(0, BLOCK // 32)[None, :]
                    kept = (word < words) & (row < rows)
                    lane = tl.arange(0, 32)[None, None, :]
                    codes = tl.reshape(codes, (TILE, BLOCK // 32, 32))
                    for bit in tl.static_range(BITS):
                        plane = tl.sum(((codes >> bit) & 1) << lane, 2)
                        tl.store(output_ptr + (row * BITS + bit) * words + word, plane, kept)
                else:
                    tl.store(output_ptr + place, codes.to(output_ptr.dtype.element_ty), there)


def launch(
    region: Rows,
    operands: dict[str, torch.Tensor],
    results: dict[str, torch.Tensor],
    options: Options,
) -> Launch:
    """The kernel of a region on these tensors.

    ``input`` and ``other`` may be columns of a wider matrix; everything else is contiguous.
    """
    x, other = operands["input"], operands.get("other")
    rows, width = x.shape
    norm, quantize = region.norm, region.quantize
    limits = {"LOW": 0.0, "HIGH": 0.0, "REACH": 1.0, "PARTS": 1, "BITS": 8}
    if isinstance(quantize, Quantize):
        limits |= dict(zip(("LOW", "HIGH"), map(float, quantize.limits), strict=True))
        limits |= {"REACH": quantize.reach, "BITS": quantize.bits}
    elif quantize:
        limits |= {"HIGH": 2.0**quantize.width - 1, "PARTS": quantize.parts}
    tiles = triton.cdiv(rows, options["TILE"])
    programs = options["PROGRAMS"] or tiles
    return Launch(
        kernel=rows_kernel,
        arguments={
            "input_ptr": x,
            "other_ptr": other,
            **{f"{name}_ptr": operands.get(name) for name in ("weight", "bias", "scale", "zero")},
            "sum_ptr": results.get("sum"),
            "output_ptr": results["codes" if quantize else "output"],
            "scales_ptr": results.get("scales"),
            "rows": rows,
            "input_stride": x.stride(0),
            "other_stride": 0 if other is None else other.stride(0),
        },
        constants={
            "WIDTH": width,
            "TILE": options["TILE"],
            "BLOCK": options["BLOCK"],
            "RESIDUAL": region.residual,
            "GATE": region.gate,
            "NORM": norm.kind if norm else "none",
            "EPS": norm.eps if norm else 0.0,
            "SOFTMAX": region.softmax,
            "LEVELS": (region.hadamard or 1).bit_length() - 1,
            "PRODUCTS": bool(options["PRODUCTS"]),
            "SHORT": region.dtype == torch.bfloat16
            and not (region.residual or region.gate or region.norm),
            "FORM": _form(quantize),
            "PER_TOKEN": quantize is not None and quantize.per == "token",
            **limits,
        },
        grid=(min(tiles, programs), triton.cdiv(width, options["BLOCK"])),
        options=options,
    )


def _form(quantize: Quantize | LogQuantize | None) -> str:
    if quantize is None:
        return "none"
    if isinstance(quantize, LogQuantize):
        return "log"
    if quantize.planes:
        return "planes"
    return {torch.int8: "int", torch.uint8: "uint", E4M3: "float"}[quantize.dtype]


def space(region: Rows, rows: int, processors: int, capability: int) -> list[Options]:
    """What is worth trying, the safest first.

    Args:
        region: Which.
        rows: How many there are.
        processors: Of the device; programs that stay take their tiles in turn.
        capability: Of the device; all have what these kernels need.
    """
    whole = triton.next_power_of_2(region.width)
    blocks = [whole] if region.whole else sorted({min(whole, size) for size in (4096, 2048, 8192)})
    least = region.hadamard or 1
    found: list[Options] = []
    for block in (max(block, least) for block in blocks):
        fewest = max(1, block // 2048)  # warps at 64 elements a thread
        for warps in (fewest * 2, fewest, fewest * 4):
            for tile in (1, 2, 4, 8, 16):
                if (4 <= warps * tile <= 32 and block * tile <= 16384) or (
                    tile == 1 and warps <= 32
                ):
                    for programs in (0, processors * 4, processors * 8):
                        for products in _products(least, block * tile):
                            if programs < triton.cdiv(rows, tile):
                                found.append(
                                    {"BLOCK": block, "TILE": tile, "PROGRAMS": programs}
                                    | {"PRODUCTS": products, "num_warps": warps, "num_stages": 1}
                                )
    return found


def _products(size: int, numbers: int) -> tuple[int, ...]:
    """Whether a rotation of blocks of a size may be made of products: tensor cores take matrices of
    16 rows and more."""
    levels = size.bit_length() - 1
    largest = 2 ** (levels if levels <= 7 else levels - levels // 2)
    return (1, 0) if levels >= 4 and numbers >= 16 * largest else (0,)
