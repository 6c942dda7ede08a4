# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""The kernel of ``codegen.grouped``: words go to tensor cores through registers alone."""

import torch
import triton
import triton.language as tl
from triton import knobs

from ..grouped import Grouped
from ..launch import Launch, Options
from .pieces import finish, split_sums, splits


@triton.constexpr_function
def unpacking(j, plane, high_plane, short):
    """Instructions that make the two numbers of pair j, ``$0`` and ``$1``, of the words ``$2``
    and ``$3``.

    The codes are put below the bits that stand for 128 in bfloat16, or 1024 in float16; less that
    and the middle, they are exact.
    """
    one, ground, kind = (0x3C00, 0x6400, "f16x2") if short else (0x3F80, 0x4300, "bf16x2")
    low = ((1 << plane) - 1) * 0x10001
    high = ((1 << high_plane) - 1 << plane) * 0x10001
    up = plane - high_plane * j
    below = (ground + 2 ** (plane + high_plane - 1) | 0x8000) * 0x10001
    lines = [
        f"shr.u32 t, $2, {plane * j};",
        f"lop3.b32 t, t, {low:#x}, {ground * 0x10001:#x}, 0xEA;",  # t & low | ground
    ]
    if high_plane:
        lines += [f"shl.b32 u, $3, {up};" if up >= 0 else f"shr.u32 u, $3, {-up};"]
        lines += [f"and.b32 u, u, {high:#x};", "or.b32 t, t, u;"]
    lines += [
        f"mov.b32 u, {one * 0x10001:#x};",
        f"mov.b32 v, {below:#x};",
        f"fma.rn.{kind} t, t, u, v;",
        "mov.b32 {$0, $1}, t;",
    ]
    return "{ .reg .b32 t, u, v; " + " ".join(lines) + " }"


@triton.jit
def pair(
    word, high, j: tl.constexpr, PLANE: tl.constexpr, HIGH_PLANE: tl.constexpr,
    SHORT: tl.constexpr, INLINE: tl.constexpr,
):  # fmt: skip
    """The numbers of pair j of words ``[R, N]``, less the middle: ``[R, N, 2]``.

    Words are of 32 bits, their halves at 0 and 16. ``SHORT``: in float16, otherwise in bfloat16.
    """
    MIDDLE: tl.constexpr = 2 ** (PLANE + HIGH_PLANE - 1)
    if INLINE:
        # A word of one plane is given twice: what is not used costs nothing.
        TEXT: tl.constexpr = unpacking(j, PLANE, HIGH_PLANE, SHORT)
        if SHORT:
            low, up = tl.inline_asm_elementwise(
                TEXT, "=h,=h,r,r", [word, high], (tl.float16, tl.float16), is_pure=True, pack=1
            )
        else:
            low, up = tl.inline_asm_elementwise(
                TEXT, "=h,=h,r,r", [word, high], (tl.bfloat16, tl.bfloat16), is_pure=True, pack=1
            )
    else:
        low = (word >> (PLANE * j)) & (2**PLANE - 1)
        up = (word >> (PLANE * j + 16)) & (2**PLANE - 1)
        if HIGH_PLANE:
            low |= ((high >> (HIGH_PLANE * j)) & (2**HIGH_PLANE - 1)) << PLANE
            up |= ((high >> (HIGH_PLANE * j + 16)) & (2**HIGH_PLANE - 1)) << PLANE
        low = (low - MIDDLE).to(tl.float32).to(tl.float16 if SHORT else tl.bfloat16)
        up = (up - MIDDLE).to(tl.float32).to(tl.float16 if SHORT else tl.bfloat16)
    return tl.join(low, up)


@triton.jit
def two_pairs(
    word, high, first: tl.constexpr, STEP: tl.constexpr, PLANE: tl.constexpr,
    HIGH_PLANE: tl.constexpr, SHORT: tl.constexpr, INLINE: tl.constexpr,
):  # fmt: skip
    """Those of every so many: ``[R, N, 2, 2]``, the last axis the next one."""
    return tl.join(
        pair(word, high, first, PLANE, HIGH_PLANE, SHORT, INLINE),
        pair(word, high, first + STEP, PLANE, HIGH_PLANE, SHORT, INLINE),
    )


@triton.jit
def four_pairs(
    word, high, first: tl.constexpr, STEP: tl.constexpr, PLANE: tl.constexpr,
    HIGH_PLANE: tl.constexpr, SHORT: tl.constexpr, INLINE: tl.constexpr,
):  # fmt: skip
    """Those of every so many: ``[R, N, 2, 2, 2]``, the last axis the next one."""
    return tl.join(
        two_pairs(word, high, first, 2 * STEP, PLANE, HIGH_PLANE, SHORT, INLINE),
        two_pairs(word, high, first + STEP, 2 * STEP, PLANE, HIGH_PLANE, SHORT, INLINE),
    )


@triton.jit
def eight_pairs(
    word, high, first: tl.constexpr, STEP: tl.constexpr, PLANE: tl.constexpr,
    HIGH_PLANE: tl.constexpr, SHORT: tl.constexpr, INLINE: tl.constexpr,
):  # fmt: skip
    """Those of every so many: ``[R, N, 2, 2, 2, 2]``, the last axis the next one."""
    return tl.join(
        four_pairs(word, high, first, 2 * STEP, PLANE, HIGH_PLANE, SHORT, INLINE),
        four_pairs(word, high, first + STEP, 2 * STEP, PLANE, HIGH_PLANE, SHORT, INLINE),
    )


@triton.jit
def words_of(ptr, there, R: tl.constexpr, BLOCK_N: tl.constexpr, HALF: tl.constexpr):
    """The words of a tile, ``[R, BLOCK_N]`` with halves at 0 and 16."""
    found = tl.load(ptr + tl.arange(0, BLOCK_N * R), there, 0, eviction_policy="evict_first")
    found = found.to(tl.int32)
    if HALF < 16:
        low: tl.constexpr = 2**HALF - 1
        found = (found & low) | (((found >> HALF) & low) << 16)
    found = tl.reshape(found, (BLOCK_N // 8, 8, 4, R // 4))
    return tl.reshape(tl.permute(found, (3, 2, 0, 1)), (R, BLOCK_N))


@triton.jit
def grouped_kernel(
    input_ptr, words_ptr, high_words_ptr, steps_ptr, zeros_ptr, bias_ptr, output_ptr,
    parts_ptr, counts_ptr, M, input_stride,
    N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr,
    PLANE: tl.constexpr, HALF: tl.constexpr, HIGH_PLANE: tl.constexpr, HIGH_HALF: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
    ACTIVATION: tl.constexpr, INLINE: tl.constexpr,
):  # fmt: skip
    """A tile of ``[M, K] [N, K]^T``, or one of ``SPLIT`` parts of its sum over K.

    Programs of axis 2 have the parts.
    """
    first_n = tl.program_id(0) * BLOCK_N
    first_m = tl.program_id(1) * BLOCK_M
    split = tl.program_id(2)
    columns = first_n + tl.arange(0, BLOCK_N)
    inside = columns < N
    rows = first_m + tl.arange(0, BLOCK_M)
    J: tl.constexpr = TILE // (2 * R)
    DTYPE: tl.constexpr = input_ptr.dtype.element_ty
    SHORT: tl.constexpr = DTYPE == tl.float16
    MIDDLE: tl.constexpr = 2 ** (PLANE + HIGH_PLANE - 1)
    there = tl.arange(0, BLOCK_N * R) < (N - first_n) * R
    depth = tl.arange(0, TILE)
    x_ptrs = input_ptr + rows.to(tl.int64)[:, None] * input_stride + depth[None, :]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    tiles: tl.constexpr = K // TILE
    share: tl.constexpr = (tiles + SPLIT - 1) // SPLIT
    for tile in tl.range(split * share, tl.minimum((split + 1) * share, tiles), num_stages=STAGES):
        place = (tile * N + first_n) * R
        word = words_of(words_ptr + place, there, R, BLOCK_N, HALF)
        high = word
        if HIGH_PLANE:
            high = words_of(high_words_ptr + place, there, R, BLOCK_N, HIGH_HALF)
        group = tile * TILE // GROUP * N + columns
        step = tl.load(steps_ptr + group, inside, 0.0).to(tl.float32)
        x = tl.load(x_ptrs + tile * TILE, (rows < M)[:, None], 0.0)
        if J == 2:
            w = two_pairs(word, high, 0, 1, PLANE, HIGH_PLANE, SHORT, INLINE)
        elif J == 4:
            w = four_pairs(word, high, 0, 1, PLANE, HIGH_PLANE, SHORT, INLINE)
        else:
            w = eight_pairs(word, high, 0, 1, PLANE, HIGH_PLANE, SHORT, INLINE)
        w = tl.permute(tl.reshape(w, (R, BLOCK_N, 2, J)), (3, 0, 2, 1))
        part = tl.dot(x, tl.reshape(w, (TILE, BLOCK_N)))
        if zeros_ptr is not None:
            total = tl.sum(x.to(tl.float32), 1)
            zero = tl.load(zeros_ptr + group, inside, 0.0).to(tl.float32) - MIDDLE
            part -= total[:, None] * zero[None, :]
        sums += part * step[None, :]

    finish(
        sums, bias_ptr, output_ptr, parts_ptr, counts_ptr, rows, columns, M, N, SPLIT, ACTIVATION
    )


def launch(
    region: Grouped,
    operands: dict[str, torch.Tensor],
    results: dict[str, torch.Tensor],
    options: Options,
) -> Launch:
    """The kernel of a region on these tensors; the input may be columns of a wider matrix."""
    x = operands["input"]
    rows = x.shape[0]
    low, *high = region.layouts
    grid, sums = split_sums(rows, region.outer, options, x.device)
    return Launch(
        kernel=grouped_kernel,
        arguments={
            "input_ptr": x,
            "words_ptr": operands["words"],
            "high_words_ptr": operands.get("high_words"),
            "steps_ptr": operands["steps"],
            "zeros_ptr": operands.get("zeros"),
            "bias_ptr": operands.get("bias"),
            "output_ptr": results["output"],
            **sums,
            "M": rows,
            "input_stride": x.stride(0),
        },
        constants={
            "N": region.outer,
            "K": region.inner,
            "GROUP": region.group,
            "TILE": low.tile,
            "R": low.rows,
            "PLANE": low.plane,
            "HALF": low.half,
            "HIGH_PLANE": high[0].plane if high else 0,
            "HIGH_HALF": high[0].half if high else 0,
            "BLOCK_M": options["BLOCK_M"],
            "BLOCK_N": options["BLOCK_N"],
            "SPLIT": options["SPLIT"],
            "STAGES": options["num_stages"],
            "ACTIVATION": region.activation,
            "INLINE": not knobs.runtime.interpret,
        },
        grid=grid,
        options=options,
    )


def space(region: Grouped, rows: int, processors: int, capability: int) -> list[Options]:
    """What is worth trying, the safest first.

    Args:
        region: Which.
        rows: How many there are.
        processors: Of the device, each of which is to have a program or several.
        capability: Of the device; all have what these kernels need.
    """
    block_m = min(max(16, triton.next_power_of_2(rows)), 64)
    tiles = region.inner // region.layouts[0].tile
    found: list[Options] = []
    for block_n, warps in ((64, 4), (128, 4), (32, 4), (128, 8), (256, 8), (64, 2)):
        programs = triton.cdiv(region.outer, block_n) * triton.cdiv(rows, block_m)
        for split in splits(programs, tiles, 8 * processors):
            if split == 1 or programs * split >= processors // 2:
                for stages in (4, 3, 6):
                    found.append(
                        {"BLOCK_M": block_m, "BLOCK_N": block_n, "SPLIT": split}
                        | {"num_warps": warps, "num_stages": stages}
                    )
    return found
