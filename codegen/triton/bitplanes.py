# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""The kernel of ``codegen.bitplanes``: words are compared and counted, without tensor cores."""

import torch
import triton
import triton.language as tl
from triton import knobs

from ..bitplanes import Bitplanes
from ..launch import Launch, Options
from .pieces import finish, split_sums, splits


@triton.jit
def count(x, INLINE: tl.constexpr):
    """The bits of a word that are set."""
    if INLINE:
        return tl.inline_asm_elementwise(
            "popc.b32 $0, $1;", "=r,r", [x], tl.int32, is_pure=True, pack=1
        )
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    x = x + (x >> 8)
    return (x + (x >> 16)) & 0x3F


@triton.jit
def bitplanes_kernel(
    input_ptr, weight_ptr, steps_ptr, weight_steps_ptr, bias_ptr, output_ptr, parts_ptr, counts_ptr,
    M, N: tl.constexpr, GROUPS: tl.constexpr, WORDS: tl.constexpr, CHUNK: tl.constexpr,
    BITS: tl.constexpr, WEIGHT_BITS: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, INLINE: tl.constexpr,
):  # fmt: skip
    """A tile of the result, or one of ``SPLIT`` parts of its sum over chunks of ``CHUNK`` words, of
    which each group has some."""
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    split = tl.program_id(2)
    inside, there = columns < N, rows < M
    x_ptrs = input_ptr + rows.to(tl.int64) * (GROUPS * BITS * WORDS)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    each: tl.constexpr = WORDS // CHUNK
    share: tl.constexpr = (GROUPS * each + SPLIT - 1) // SPLIT
    for chunk in range(split * share, tl.minimum((split + 1) * share, GROUPS * each)):
        part = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
        group = chunk // each
        first = (chunk % each) * CHUNK
        for word in range(first, first + CHUNK):
            w_ptrs = weight_ptr + (group * WEIGHT_BITS * WORDS + word) * N + columns
            for j in range(0, WEIGHT_BITS):
                w = tl.load(w_ptrs + j * WORDS * N, inside, 0)[None, :]
                along = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
                for i in tl.static_range(BITS):
                    x = tl.load(x_ptrs + (group * BITS + i) * WORDS + word, there, 0)[:, None]
                    along += count(x & w, INLINE) * (2**i if i < BITS - 1 else -(2**i))
                part += along * ((1 << j) - (1 << WEIGHT_BITS) * (j // (WEIGHT_BITS - 1)))
        step = tl.load(steps_ptr + rows * GROUPS + group, there, 0.0)
        weight_step = tl.load(weight_steps_ptr + group * N + columns, inside, 0.0)
        sums += part.to(tl.float32) * (step[:, None] * weight_step[None, :])

    finish(
        sums, bias_ptr, output_ptr, parts_ptr, counts_ptr, rows, columns, M, N, SPLIT, ACTIVATION
    )


def launch(
    region: Bitplanes,
    operands: dict[str, torch.Tensor],
    results: dict[str, torch.Tensor],
    options: Options,
) -> Launch:
    """The kernel of a region on these tensors, all of them contiguous."""
    x = operands["input"]
    rows = x.shape[0]
    grid, sums = split_sums(rows, region.outer, options, x.device)
    return Launch(
        kernel=bitplanes_kernel,
        arguments={
            "input_ptr": x,
            "weight_ptr": operands["weight"],
            "steps_ptr": operands["steps"],
            "weight_steps_ptr": operands["weight_steps"],
            "bias_ptr": operands.get("bias"),
            "output_ptr": results["output"],
            **sums,
            "M": rows,
        },
        constants={
            "N": region.outer,
            "GROUPS": region.groups,
            "WORDS": region.group // 32,
            "CHUNK": _chunk(region),
            "BITS": region.bits,
            "WEIGHT_BITS": region.weight_bits,
            "ACTIVATION": region.activation,
            **{name: options[name] for name in ("BLOCK_M", "BLOCK_N", "SPLIT")},
            "INLINE": not knobs.runtime.interpret,
        },
        grid=grid,
        options=options,
    )


def _chunk(region: Bitplanes) -> int:
    """Words of a group that are counted at a time: up to 4, which groups of 128 have."""
    return next(size for size in (4, 3, 2, 1) if region.group // 32 % size == 0)


def space(region: Bitplanes, rows: int, processors: int, capability: int) -> list[Options]:
    """What is worth trying, the safest first.

    Args:
        region: Which.
        rows: How many there are.
        processors: Of the device, each of which is to have a program or several.
        capability: Of the device; all have what these kernels need.
    """
    block_m = min(triton.next_power_of_2(rows), 16)
    found: list[Options] = []
    for block_n, warps in ((128, 4), (64, 2), (256, 4), (256, 8)):
        programs = triton.cdiv(region.outer, block_n) * triton.cdiv(rows, block_m)
        for split in splits(programs, region.inner // 32 // _chunk(region), 16 * processors):
            found.append(
                {"BLOCK_M": block_m, "BLOCK_N": block_n, "SPLIT": split}
                | {"num_warps": warps, "num_stages": 3}
            )
    return found
