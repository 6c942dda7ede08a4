# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""What kernels share: activations, rounding as ``regauge::quantize`` rounds, rotations."""

import triton
import triton.language as tl

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
def divide(x, s, inverse):
    """``x / s`` rounded once, as IEEE has it, of the inverse rounded once: one step of Markstein's.

    Ten instructions of a division are three. Where it overflows the quotient is as good as any.
    """
    q = x * inverse
    better = tl.fma(tl.fma(-q, s, x), inverse, q)
    return tl.where(tl.abs(q) < 1e30, better, q)


@triton.jit
def round_to_code(q, zero, LOW: tl.constexpr, HIGH: tl.constexpr):
    """``clip(round(q) + zero)`` as an int32; rounds half to even.

    The limits are whole, so clipping first is the same, and then the sum with MAGIC is exact.
    """
    q = tl.minimum(tl.maximum(q, LOW - zero), HIGH - zero)
    return (q + MAGIC).to(tl.int32, bitcast=True) - 0x4B400000 + zero.to(tl.int32)


@triton.jit
def rotate(x, TILE: tl.constexpr, BLOCK: tl.constexpr, LEVELS: tl.constexpr):
    """Blocks of ``2^LEVELS`` of rows ``[TILE, BLOCK]`` times the orthonormal Hadamard matrix."""
    for level in tl.static_range(LEVELS):
        y = tl.reshape(x, (TILE, BLOCK // (2 * 2**level), 2, 2**level))
        a, b = tl.split(tl.permute(y, (0, 1, 3, 2)))
        y = tl.permute(tl.join(a + b, a - b), (0, 1, 3, 2))
        x = tl.reshape(y, (TILE, BLOCK))
    return x * 2 ** (LEVELS * -0.5)


@triton.jit
def tile_of(tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Row and column of a tile: groups of ``GROUP`` rows of tiles share what they fetch."""
    width = GROUP * tiles_n
    first = tile // width * GROUP
    size = tl.minimum(tiles_m - first, GROUP)
    inside = tile % width
    return first + inside % size, inside // size
