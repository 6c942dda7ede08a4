"""A graph as C99 without a heap: ``model.c`` and ``model.h`` for bare microcontrollers.

Codes come out as ONNX Runtime has them, bit for bit, so that what was measured there holds here:

    sum of products   clip(rint(float(sum) * scale)) + zero, the sum in 32-bit integers, in which
                      no order matters, and scale a float32 for each output channel
    sum of codes      clip(rint(fma(a, left, fma(b, right, rest)))), as in its kernel for AVX2
    product of codes  clip(rint(float((a - a_zero) (b - b_zero)) * scale + zero))
    f of codes        a table of all 256, whatever makes up f, which the graph fills (``regions``)
    codes of floats   clip(rint(x / scale)) + zero

``rint`` gives a half to the even code. The integer multiply and shift that is usual on
microcontrollers differs from this by one code now and then, and one code grows on its way through a
network. All processors with IEEE 754 agree on these, if the compiler puts no other products and
sums together: build with ``-ffp-contract=off`` and without ``-ffast-math``.

What only moves numbers, be they codes or floats, is loops that copy them, found by letting the
graph move places (``moves``); several such ops in a row are one copy, and none where the numbers
lie as they shall already.

Values of convolutions lie with their channels side by side, [N, H, W, C]: what an output channel
reads at a position is then a row of bytes, whatever the window. Inputs and outputs lie as PyTorch
has them.

``generate`` expects the regions on integers as nodes of their own: ``ort.conv_integer``,
``ort.add_integer``, ``ort.linear_integer``, ``ort.linear_codes``.
"""

from .generate import generate
from .render import Source

__all__ = ["Source", "generate"]
