"""A graph as C99 without a heap: ``model.c`` and ``model.h`` for bare microcontrollers.

Codes come out as ONNX Runtime has them, bit for bit, so that what was measured there holds here:
a sum of products is one of 32-bit integers, in which no order matters; it is rounded as
``rint(float(sum) * scale)``, a single product of float32 numbers and a half to the even code, and
not by the usual integer multiply and shift, which differs by one code now and then; and a sum of
codes is two fused multiply-adds in a fixed order. All processors with IEEE 754 agree on these, if
the compiler does not contract, so build with ``-ffp-contract=off`` and without ``-ffast-math``.

Values of convolutions lie with their channels side by side, [N, H, W, C]: what an output channel
reads at a position is then a row of bytes, whatever the window. Inputs and outputs lie as PyTorch
has them.

``generate`` expects the regions on integers as nodes of their own: ``ort.conv_integer``,
``ort.add_integer``, ``ort.linear_integer``, ``ort.linear_codes``.
"""

from .generate import generate
from .render import Source

__all__ = ["Source", "generate"]
