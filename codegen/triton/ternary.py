# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""The kernel of ``codegen.ternary``: a tile of the input is turned, then multiplied by codes."""

import torch
import triton
import triton.language as tl

from ..launch import Launch, Options
from ..ternary import Ternary
from .pieces import finish, four, rotate_by_products, split_sums, splits


@triton.jit
def ternary_kernel(
    input_ptr, codes_ptr, steps_ptr, bias_ptr, output_ptr, parts_ptr, counts_ptr, M,
    N: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, LEVELS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """A tile of the result, or one of ``SPLIT`` parts of its sum over blocks.

    What is turned has more bits than the input: it is multiplied as the sum of two numbers.
    """
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    split = tl.program_id(2)
    inside, there = columns < N, rows < M
    DTYPE: tl.constexpr = input_ptr.dtype.element_ty
    x_ptrs = input_ptr + rows.to(tl.int64)[:, None] * K + tl.arange(0, BLOCK)[None, :]
    c_ptrs = codes_ptr + columns.to(tl.int64)[:, None] * (K // 4)
    c_ptrs += tl.arange(0, BLOCK // 4)[None, :]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    blocks: tl.constexpr = K // BLOCK
    share: tl.constexpr = (blocks + SPLIT - 1) // SPLIT
    for block in tl.range(
        split * share, tl.minimum((split + 1) * share, blocks), num_stages=STAGES
    ):
        code = tl.load(c_ptrs + block * (BLOCK // 4), inside[:, None], 0).to(tl.int32)
        step = tl.load(steps_ptr + block * N + columns, inside, 0.0)
        x = tl.load(x_ptrs + block * BLOCK, there[:, None], 0.0).to(tl.float32)
        x = rotate_by_products(x, BLOCK_M, BLOCK, LEVELS, DTYPE == tl.bfloat16)
        high = x.to(DTYPE)
        low = (x - high.to(tl.float32)).to(DTYPE)
        w = four(code & 3, (code >> 2) & 3, (code >> 4) & 3, code >> 6, BLOCK_N, BLOCK)
        w = (w - 1).to(tl.float32).to(DTYPE).T
        sums += tl.dot(low, w, tl.dot(high, w)) * step[None, :]

    sums *= 2 ** (LEVELS * -0.5)
    finish(
        sums, bias_ptr, output_ptr, parts_ptr, counts_ptr, rows, columns, M, N, SPLIT, ACTIVATION
    )


def launch(
    region: Ternary,
    operands: dict[str, torch.Tensor],
    results: dict[str, torch.Tensor],
    options: Options,
) -> Launch:
    """The kernel of a region on these tensors, all of them contiguous."""
    x = operands["input"]
    rows = x.shape[0]
    grid, sums = split_sums(rows, region.outer, options, x.device)
    return Launch(
        kernel=ternary_kernel,
        arguments={
            "input_ptr": x,
            "codes_ptr": operands["codes"],
            "steps_ptr": operands["steps"],
            "bias_ptr": operands.get("bias"),
            "output_ptr": results["output"],
            **sums,
            "M": rows,
        },
        constants={
            "N": region.outer,
            "K": region.inner,
            "BLOCK": region.block,
            "LEVELS": region.block.bit_length() - 1,
            **{name: options[name] for name in ("BLOCK_M", "BLOCK_N", "SPLIT")},
            "STAGES": options["num_stages"],
            "ACTIVATION": region.activation,
        },
        grid=grid,
        options=options,
    )


def space(region: Ternary, rows: int, processors: int, capability: int) -> list[Options]:
    """What is worth trying, the safest first.

    Args:
        region: Which.
        rows: How many there are.
        processors: Of the device, each of which is to have a program or several.
        capability: Of the device; all have what these kernels need.
    """
    block_m = min(max(16, triton.next_power_of_2(rows)), 32)
    found: list[Options] = []
    for block_n, warps in ((64, 4), (32, 4), (128, 8), (64, 8)):
        programs = triton.cdiv(region.outer, block_n) * triton.cdiv(rows, block_m)
        for split in splits(programs, region.inner // region.block, 8 * processors, most=8):
            for stages in (2, 3):
                found.append(
                    {"BLOCK_M": block_m, "BLOCK_N": block_n, "SPLIT": split}
                    | {"num_warps": warps, "num_stages": stages}
                )
    return found
