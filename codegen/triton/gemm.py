# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""The kernel of ``codegen.matmul``: tiles on tensor cores, everything else as they are stored."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from ..description import E4M3
from ..launch import Launch, Options
from ..matmul import Matmul
from .pieces import activate, divide, round_to_code, tile_of


@triton.jit
def finish(
    sums, rows, columns,
    steps_ptr, weight_steps_ptr, zero_ptr, sums_ptr, bias_ptr, scale_ptr, output_zero_ptr,
    output_ptr, M,
    N: tl.constexpr, PER_TOKEN: tl.constexpr, UNSIGNED: tl.constexpr, ACTIVATION: tl.constexpr,
    LOW: tl.constexpr, HIGH: tl.constexpr,
):  # fmt: skip
    """Scale, shift, activate, quantize and store a tile of sums ``[rows, columns]``."""
    inside = columns < N
    if sums_ptr is not None:
        zero = 0
        if zero_ptr is not None:
            zero = tl.load(zero_ptr).to(tl.int32)
        if UNSIGNED:
            zero = zero - 128  # and so are the codes
        sums -= zero * tl.load(sums_ptr + columns, inside, 0)[None, :]
    y = sums.to(tl.float32)
    if PER_TOKEN:
        y = y * tl.load(steps_ptr + rows, rows < M, 0.0)[:, None]
    else:
        y = y * tl.load(steps_ptr)
    y = y * tl.load(weight_steps_ptr + columns, inside, 0.0)[None, :]
    if bias_ptr is not None:
        y = y + tl.load(bias_ptr + columns, inside, 0.0).to(tl.float32)[None, :]
    y = activate(y, ACTIVATION)
    place = rows.to(tl.int64)[:, None] * N + columns[None, :]
    there = (rows < M)[:, None] & inside[None, :]
    if scale_ptr is not None:
        scale = tl.load(scale_ptr) + tl.zeros((1, 1), tl.float32)
        y = divide(y, scale, tl.div_rn(tl.full((1, 1), 1.0, tl.float32), scale), False)
        if output_ptr.dtype.element_ty == tl.float8e4nv:
            y = tl.minimum(tl.maximum(y, LOW), HIGH)
        else:
            zero = tl.zeros((1, 1), tl.float32)
            if output_zero_ptr is not None:
                zero += tl.load(output_zero_ptr).to(tl.float32)
            y = round_to_code(y, zero, LOW, HIGH, False)
    tl.store(output_ptr + place, y.to(output_ptr.dtype.element_ty), there)


@triton.jit
def matmul_kernel(
    input_ptr, weight_ptr,
    steps_ptr, weight_steps_ptr, zero_ptr, sums_ptr, bias_ptr, scale_ptr, output_zero_ptr,
    output_ptr, M, input_stride,
    N: tl.constexpr, K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    DESCRIBED: tl.constexpr, SPECIALIZED: tl.constexpr, HALVES: tl.constexpr,
    INTEGER: tl.constexpr, PER_TOKEN: tl.constexpr, UNSIGNED: tl.constexpr,
    ACTIVATION: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
):  # fmt: skip
    """``[M, K] [N, K]^T``; programs take tiles in turn, in groups that share their columns.

    ``DESCRIBED``: the input and the weight are descriptors, whose tiles the copy engine fetches.
    ``SPECIALIZED``: some warps fetch, others multiply. ``HALVES``: a tile is stored in two halves.
    """
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    for tile in tl.range(
        tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0),
        flatten=DESCRIBED and not SPECIALIZED, warp_specialize=SPECIALIZED,
    ):  # fmt: skip
        m, n = tile_of(tile, tiles_m, tiles_n, GROUP)
        first_m, first_n = m * BLOCK_M, n * BLOCK_N
        sums = tl.zeros((BLOCK_M, BLOCK_N), tl.int32 if INTEGER else tl.float32)
        if not DESCRIBED:
            depth = tl.arange(0, BLOCK_K)
            rows = ((first_m + tl.arange(0, BLOCK_M)) % M).to(tl.int64)
            columns = (first_n + tl.arange(0, BLOCK_N)) % N
            x_ptrs = input_ptr + rows[:, None] * input_stride + depth[None, :]
            w_ptrs = weight_ptr + columns[None, :] * K + depth[:, None]
        for k in range(0, K, BLOCK_K):
            if DESCRIBED:
                x = input_ptr.load([first_m, k])
                w = weight_ptr.load([first_n, k]).T
            elif K % BLOCK_K == 0:
                x = tl.load(x_ptrs + k)
                w = tl.load(w_ptrs + k)
            else:
                x = tl.load(x_ptrs + k, depth[None, :] < K - k, 0 if INTEGER else 0.0)
                w = tl.load(w_ptrs + k, depth[:, None] < K - k, 0 if INTEGER else 0.0)
            if UNSIGNED:
                x = (x ^ 128).to(tl.int8, bitcast=True)
            sums = tl.dot(x, w, sums, out_dtype=sums.dtype)
        rows = first_m + tl.arange(0, BLOCK_M)
        if HALVES:
            columns = first_n + tl.arange(0, BLOCK_N // 2)
            left, right = tl.split(
                tl.permute(tl.reshape(sums, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1))
            )
            finish(
                left, rows, columns,
                steps_ptr, weight_steps_ptr, zero_ptr, sums_ptr, bias_ptr, scale_ptr,
                output_zero_ptr, output_ptr, M, N, PER_TOKEN, UNSIGNED, ACTIVATION, LOW, HIGH,
            )  # fmt: skip
            finish(
                right, rows, columns + BLOCK_N // 2,
                steps_ptr, weight_steps_ptr, zero_ptr, sums_ptr, bias_ptr, scale_ptr,
                output_zero_ptr, output_ptr, M, N, PER_TOKEN, UNSIGNED, ACTIVATION, LOW, HIGH,
            )  # fmt: skip
        else:
            columns = first_n + tl.arange(0, BLOCK_N)
            finish(
                sums, rows, columns,
                steps_ptr, weight_steps_ptr, zero_ptr, sums_ptr, bias_ptr, scale_ptr,
                output_zero_ptr, output_ptr, M, N, PER_TOKEN, UNSIGNED, ACTIVATION, LOW, HIGH,
            )  # fmt: skip


def launch(
    region: Matmul,
    operands: dict[str, torch.Tensor],
    results: dict[str, torch.Tensor],
    options: Options,
) -> Launch:
    """The kernel of a region on these tensors; the input may be columns of a wider matrix."""
    x, w = operands["input"], operands["weight"]
    rows, quantize = x.shape[0], region.quantize
    low, high = quantize.limits if quantize else (0.0, 0.0)
    tiles = triton.cdiv(rows, options["BLOCK_M"]) * triton.cdiv(region.outer, options["BLOCK_N"])
    described = bool(options["DESCRIBED"])
    shapes = {name: [options[f"BLOCK_{name}"], options["BLOCK_K"]] for name in "MN"}
    return Launch(
        kernel=matmul_kernel,
        arguments={
            "input_ptr": TensorDescriptor.from_tensor(x, shapes["M"]) if described else x,
            "weight_ptr": TensorDescriptor.from_tensor(w, shapes["N"]) if described else w,
            "steps_ptr": operands["steps"],
            "weight_steps_ptr": operands["weight_steps"],
            "zero_ptr": operands.get("input_zero"),
            "sums_ptr": operands.get("sums"),
            "bias_ptr": operands.get("bias"),
            "scale_ptr": operands.get("scale"),
            "output_zero_ptr": operands.get("zero"),
            "output_ptr": results["codes" if quantize else "output"],
            "M": rows,
            "input_stride": x.stride(0),
        },
        constants={
            "N": region.outer,
            "K": region.inner,
            **{name: options[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP")},
            "DESCRIBED": described,
            "SPECIALIZED": bool(options["SPECIALIZED"]),
            "HALVES": bool(options["HALVES"]),
            "INTEGER": region.codes != E4M3,
            "PER_TOKEN": region.per == "token",
            "UNSIGNED": region.codes == torch.uint8,
            "ACTIVATION": region.activation,
            "LOW": float(low),
            "HIGH": float(high),
        },
        grid=(min(tiles, options["PROGRAMS"] or tiles),),
        options=options,
    )


# BLOCK_M, BLOCK_N, BLOCK_K, warps, stages; bytes of shared memory are (M + N) K stages
PLAIN = (
    (128, 128, 128, 8, 3),
    (64, 128, 128, 4, 3),
    (128, 256, 64, 8, 3),
    (128, 128, 64, 4, 4),
    (64, 64, 128, 4, 4),
    (32, 128, 128, 4, 4),
    (16, 128, 256, 4, 3),
    (16, 64, 256, 4, 4),
    (16, 32, 512, 4, 4),
)
DESCRIBED = (
    (128, 256, 128, 8, 4),
    (128, 256, 128, 8, 3),
    (256, 128, 128, 8, 4),
    (128, 128, 128, 4, 4),
    (128, 128, 128, 8, 5),
    (64, 256, 128, 4, 4),
    (64, 128, 128, 4, 5),
    (128, 256, 64, 8, 5),
)


def space(region: Matmul, rows: int, processors: int, capability: int) -> list[Options]:
    """What is worth trying, the safest first.

    Args:
        region: Which.
        rows: How many there are.
        processors: Of the device.
        capability: Of the device; from 90 on tiles are fetched by the copy engine.
    """
    found: list[Options] = []

    def add(sizes: tuple[int, ...], **more: int) -> None:
        names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
        rest = {"GROUP": 8, "DESCRIBED": 0, "SPECIALIZED": 0, "HALVES": 0, "PROGRAMS": 0}
        found.append(dict(zip(names, sizes, strict=True)) | rest | more)

    needed = max(16, triton.next_power_of_2(rows))
    for sizes in PLAIN:
        if sizes[0] <= needed and (sizes[0] >= min(needed, 64)):
            add(sizes)
    if capability >= 90 and rows >= 64:
        for sizes in DESCRIBED:
            if sizes[0] <= max(needed, 64):
                for halves in (0, 1) if sizes[1] >= 256 else (0,):
                    add(sizes, DESCRIBED=1, PROGRAMS=processors, HALVES=halves)
                    add(sizes, DESCRIBED=1, PROGRAMS=processors, HALVES=halves, SPECIALIZED=1)
                    add(sizes, DESCRIBED=1, HALVES=halves)
    return found
