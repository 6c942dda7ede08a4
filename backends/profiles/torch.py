"""PyTorch itself, and on a GPU with kernels of our own."""

from __future__ import annotations

from ..base import Target

TARGET = Target(
    name="torch",
    module="torch_eager",
    requires=("torch",),
    install="regauge",
    about="every op and dtype, run eagerly; int8 arithmetic is simulated, unless the option "
    "'device' names a GPU, on which it runs in kernels of our own",
    simulates=True,
)
