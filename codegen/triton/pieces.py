# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""What kernels share: activations, rounding as ``regauge::quantize`` rounds, rotations."""

import torch
import triton
import triton.language as tl

from ..launch import Options

LOG2E = tl.constexpr(1.4426950408889634)
# Adding 1.5 * 2^23 leaves no bits after the point, and the integer in the low bits.
MAGIC = tl.constexpr(12582912.0)


@triton.jit
def activate(x, KIND: tl.constexpr):
    """An activation in float32; the same names as ``description.activated``."""
    if KIND == "relu":
        x = tl.maximum(x, 0.0)
    elif KIND == "silu":
        x = x / (1.0 + tl.exp2(-x * LOG2E))
    elif KIND == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)  # tanh(u) = 2 sigmoid(2 u) - 1
        x = x / (1.0 + tl.exp2(-inner * LOG2E))
    return x


@triton.jit
def divide(x, s, inverse, BOUNDED: tl.constexpr):
    """``x / s`` rounded once, as IEEE has it, of the inverse rounded once: one step of Markstein's.

    Ten instructions of a division are three. ``BOUNDED``: the quotient is known not to overflow;
    otherwise the step starts from what is beyond all codes, and a quotient that overflows does so
    by its sign.
    """
    q = x * inverse
    if not BOUNDED:
        q = tl.minimum(tl.maximum(q, -65536.0), 65536.0)
    return tl.fma(tl.fma(-q, s, x), inverse, q)


@triton.jit
def round_to_code(q, zero, LOW: tl.constexpr, HIGH: tl.constexpr, BOUNDED: tl.constexpr):
    """``clip(round(q) + zero)`` as an int32; rounds half to even.

    The limits are whole, so clipping first is the same, and then the sum with MAGIC is exact.
    ``BOUNDED``: nothing has to be clipped.
    """
    if not BOUNDED:
        q = tl.minimum(tl.maximum(q, LOW - zero), HIGH - zero)
    return (q + MAGIC).to(tl.int32, bitcast=True) - 0x4B400000 + zero.to(tl.int32)


@triton.jit
def rotate(x, TILE: tl.constexpr, BLOCK: tl.constexpr, LEVELS: tl.constexpr):
    """Blocks of ``2^LEVELS`` of rows ``[TILE, BLOCK]`` times the Hadamard matrix, by additions."""
    for level in tl.static_range(LEVELS):
        y = tl.reshape(x, (TILE, BLOCK // (2 * 2**level), 2, 2**level))
        a, b = tl.split(tl.permute(y, (0, 1, 3, 2)))
        y = tl.permute(tl.join(a + b, a - b), (0, 1, 3, 2))
        x = tl.reshape(y, (TILE, BLOCK))
    return x


@triton.jit
def signs(SIZE: tl.constexpr):
    """The Hadamard matrix: -1 where the bits of row and column have an odd number in common."""
    i = tl.arange(0, SIZE)
    common = i[:, None] & i[None, :]
    common ^= common >> 4
    common ^= common >> 2
    common ^= common >> 1
    return (1 - 2 * (common & 1)).to(tl.float32).to(tl.bfloat16)


@triton.jit
def times_signs(x, SIZE: tl.constexpr, SHORT: tl.constexpr):
    """``[., SIZE]`` times the matrix, on tensor cores; of two numbers in bfloat16 that make up one
    of 16 bits and more, unless it is ``SHORT`` enough for one."""
    H = signs(SIZE)
    high = x.to(tl.bfloat16)
    y = tl.dot(high, H)
    if not SHORT:
        y = tl.dot((x - high.to(tl.float32)).to(tl.bfloat16), H, y)
    return y


@triton.jit
def rotate_by_products(
    x, TILE: tl.constexpr, BLOCK: tl.constexpr, LEVELS: tl.constexpr, SHORT: tl.constexpr
):
    """The same by products with the matrix, of up to 7 levels with one, of more with two."""
    UPPER: tl.constexpr = LEVELS // 2 if LEVELS > 7 else 0
    B: tl.constexpr = 2**UPPER
    A: tl.constexpr = 2 ** (LEVELS - UPPER)
    y = times_signs(tl.reshape(x, (TILE * BLOCK // A, A)), A, SHORT)
    if UPPER:
        y = tl.permute(tl.reshape(y, (TILE * BLOCK // (A * B), B, A)), (0, 2, 1))
        y = times_signs(tl.reshape(y, (TILE * BLOCK // B, B)), B, False)
        y = tl.permute(tl.reshape(y, (TILE * BLOCK // (A * B), A, B)), (0, 2, 1))
    return tl.reshape(y, (TILE, BLOCK))


@triton.jit
def four(a, b, c, d, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """``[ROWS, COLUMNS]``, of every fourth column from the first, second, third, and last."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (ROWS, COLUMNS))


@triton.jit
def tile_of(tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Row and column of a tile: groups of ``GROUP`` rows of tiles share what they fetch."""
    width = GROUP * tiles_n
    first = tile // width * GROUP
    size = tl.minimum(tiles_m - first, GROUP)
    inside = tile % width
    return first + inside % size, inside // size


@triton.jit
def gather(sums, parts_ptr, counts_ptr, cells, kept, size, SPLIT: tl.constexpr):
    """The sum of the parts that ``SPLIT`` programs of axis 2 have, and whether this is the last.

    The last of them to end adds them up, in their order, so that the sum is always the same, and
    leaves the count as it was: at zero.
    """
    split = tl.program_id(2).to(tl.int64)
    tl.store(parts_ptr + split * size + cells, sums, kept)
    tl.debug_barrier()  # all threads have stored before one of them counts
    count_ptr = counts_ptr + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    last = tl.atomic_add(count_ptr, 1, sem="acq_rel") == SPLIT - 1
    if last:
        tl.store(count_ptr, 0)
        sums = tl.zeros_like(sums)
        for i in range(SPLIT):
            at = parts_ptr + tl.cast(i, tl.int64) * size + cells
            sums += tl.load(at, kept, 0.0, cache_modifier=".cg")
    return sums, last


@triton.jit
def finish(
    sums, bias_ptr, output_ptr, parts_ptr, counts_ptr, rows, columns, M, N: tl.constexpr,
    SPLIT: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Store the results of a tile of sums: those of all parts, with bias and activation."""
    inside = columns < N
    cells = rows.to(tl.int64)[:, None] * N + columns[None, :]
    kept = (rows < M)[:, None] & inside[None, :]
    last = True
    if SPLIT > 1:
        sums, last = gather(sums, parts_ptr, counts_ptr, cells, kept, M * N, SPLIT)
    if last:
        if bias_ptr is not None:
            sums += tl.load(bias_ptr + columns, inside, 0.0).to(tl.float32)[None, :]
        sums = activate(sums, ACTIVATION)
        tl.store(output_ptr + cells, sums.to(output_ptr.dtype.element_ty), kept)


def splits(programs: int, parts: int, limit: int, most: int = 16) -> list[int]:
    """In how many parts, up to ``most``, a sum may be taken: 1, or as many as leave each something
    and all of them no more than ``limit`` programs."""
    counts = (1, 2, 4, 8, 16)
    return [n for n in counts if n == 1 or (n <= min(parts, most) and programs * n <= limit)]


def split_sums(
    rows: int, outer: int, options: Options, device: torch.device
) -> tuple[tuple[int, int, int], dict[str, torch.Tensor | None]]:
    """The programs of a product ``[rows, outer]`` in ``SPLIT`` parts, and what ``gather`` takes."""
    split = options["SPLIT"]
    grid = (
        triton.cdiv(outer, options["BLOCK_N"]),
        triton.cdiv(rows, options["BLOCK_M"]),
        split,
    )
    if split == 1:
        return grid, {"parts_ptr": None, "counts_ptr": None}
    parts = torch.empty((split, rows, outer), device=device)
    counts = torch.zeros(grid[:2], dtype=torch.int32, device=device)
    return grid, {"parts_ptr": parts, "counts_ptr": counts}
