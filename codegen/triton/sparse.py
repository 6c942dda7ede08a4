# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""The kernels of ``codegen.sparse``: zeros are put back in registers, or blocks passed over."""

import torch
import triton
import triton.language as tl

from ..launch import Launch, Options
from ..sparse import BlockSparse, SemiSparse
from .pieces import activate, finish, four, split_sums, splits


@triton.jit
def semi_sparse_kernel(
    input_ptr, values_ptr, places_ptr, bias_ptr, output_ptr, parts_ptr, counts_ptr, M,
    N: tl.constexpr, K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
    STAGES: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """A tile of ``[M, K] [N, K]^T``, or one of ``SPLIT`` parts of its sum over K."""
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    split = tl.program_id(2)
    inside, there = columns < N, rows < M
    pairs, bytes = tl.arange(0, BLOCK_K // 2), tl.arange(0, BLOCK_K // 8)
    wide = columns.to(tl.int64)[:, None]
    v_ptrs = values_ptr + wide * (K // 2) + pairs[None, :]
    p_ptrs = places_ptr + wide * (K // 8) + bytes[None, :]
    x_ptrs = input_ptr + rows.to(tl.int64)[:, None] * K + tl.arange(0, BLOCK_K)[None, :]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    tiles: tl.constexpr = K // BLOCK_K
    share: tl.constexpr = (tiles + SPLIT - 1) // SPLIT
    for tile in tl.range(split * share, tl.minimum((split + 1) * share, tiles), num_stages=STAGES):
        x = tl.load(x_ptrs + tile * BLOCK_K, there[:, None], 0.0)
        v = tl.load(v_ptrs + tile * (BLOCK_K // 2), inside[:, None], 0.0)
        place = tl.load(p_ptrs + tile * (BLOCK_K // 8), inside[:, None], 0).to(tl.int32)
        place = tl.reshape(tl.join(place & 15, place >> 4), (BLOCK_N, BLOCK_K // 4))
        first, second = tl.split(tl.reshape(v, (BLOCK_N, BLOCK_K // 4, 2)))
        i, j = place & 3, place >> 2
        nothing = tl.zeros_like(first)
        w = four(
            tl.where(i == 0, first, nothing),
            tl.where(i == 1, first, tl.where(j == 1, second, nothing)),
            tl.where(i == 2, first, tl.where(j == 2, second, nothing)),
            tl.where(j == 3, second, nothing),
            BLOCK_N,
            BLOCK_K,
        )
        sums = tl.dot(x, w.T, sums)

    finish(
        sums, bias_ptr, output_ptr, parts_ptr, counts_ptr, rows, columns, M, N, SPLIT, ACTIVATION
    )


@triton.jit
def block_sparse_kernel(
    input_ptr, values_ptr, columns_ptr, starts_ptr, bias_ptr, output_ptr, M,
    N: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr,
    STAGES: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """The outputs of a row of blocks, over those of its blocks that are there."""
    n = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = (rows < M)[:, None]
    side = tl.arange(0, BLOCK)
    x_ptrs = input_ptr + rows.to(tl.int64)[:, None] * K + side[None, :]
    w_ptrs = values_ptr + side[None, :] * BLOCK + side[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK), tl.float32)
    for at in tl.range(tl.load(starts_ptr + n), tl.load(starts_ptr + n + 1), num_stages=STAGES):
        x = tl.load(x_ptrs + tl.load(columns_ptr + at) * BLOCK, there, 0.0)
        w = tl.load(w_ptrs + tl.cast(at, tl.int64) * (BLOCK * BLOCK))
        sums = tl.dot(x, w, sums)
    columns = n * BLOCK + side
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + columns).to(tl.float32)[None, :]
    sums = activate(sums, ACTIVATION)
    place = rows.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(output_ptr + place, sums.to(output_ptr.dtype.element_ty), there)


def launch(
    region: SemiSparse | BlockSparse,
    operands: dict[str, torch.Tensor],
    results: dict[str, torch.Tensor],
    options: Options,
) -> Launch:
    """The kernel of a region on these tensors, all of them contiguous."""
    x = operands["input"]
    rows = x.shape[0]
    arguments = {
        "input_ptr": x,
        "values_ptr": operands["values"],
        "bias_ptr": operands.get("bias"),
        "output_ptr": results["output"],
        "M": rows,
    }
    constants = {
        "N": region.outer,
        "K": region.inner,
        "BLOCK_M": options["BLOCK_M"],
        "STAGES": options["num_stages"],
        "ACTIVATION": region.activation,
    }
    if isinstance(region, BlockSparse):
        arguments |= {f"{name}_ptr": operands[name] for name in ("columns", "starts")}
        grid = (region.outer // region.block, triton.cdiv(rows, options["BLOCK_M"]))
        constants["BLOCK"] = region.block
        return Launch(block_sparse_kernel, arguments, constants, grid, options)
    grid, sums = split_sums(rows, region.outer, options, x.device)
    arguments |= {"places_ptr": operands["places"], **sums}
    constants |= {name: options[name] for name in ("BLOCK_N", "BLOCK_K", "SPLIT")}
    return Launch(semi_sparse_kernel, arguments, constants, grid, options)


def space(
    region: SemiSparse | BlockSparse, rows: int, processors: int, capability: int
) -> list[Options]:
    """What is worth trying, the safest first.

    Args:
        region: Which.
        rows: How many there are.
        processors: Of the device, each of which is to have a program or several.
        capability: Of the device; all have what these kernels need.
    """
    block_m = min(max(16, triton.next_power_of_2(rows)), 64)
    found: list[Options] = []
    if isinstance(region, BlockSparse):
        for size in dict.fromkeys((block_m, max(block_m // 2, 16), min(2 * block_m, 128))):
            for warps in (4, 8, 2):
                for stages in (3, 4, 2):
                    found.append({"BLOCK_M": size, "num_warps": warps, "num_stages": stages})
        return found
    for block_n, block_k, warps in ((32, 64, 4), (64, 64, 4), (64, 128, 4), (128, 64, 8)):
        if region.inner % block_k:
            continue
        programs = triton.cdiv(region.outer, block_n) * triton.cdiv(rows, block_m)
        for split in splits(programs, region.inner // block_k, 8 * processors, most=8):
            for stages in (3, 4):
                found.append(
                    {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k}
                    | {"SPLIT": split, "num_warps": warps, "num_stages": stages}
                )
    return found
