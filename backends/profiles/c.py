"""C99 of our own for microcontrollers."""

from __future__ import annotations

from ..base import NoFormats, Target

TARGET = Target(
    name="c",
    module="c",
    requires=("onnx",),
    install="regauge",
    about="CNNs, as C99 for microcontrollers",
    floats=("f32",),
    closed_convolutions=True,
    weights=NoFormats(),
    lacks=frozenset({"batch_norm", "scaled_dot_product_attention"}),
    fixed_sizes=True,
    integers_only=True,
    gives_floats=frozenset({"linear"}),
    dynamic_scales=False,
    programs=("cc", "gcc", "clang"),
    system="apt-get install gcc libc6-dev",
)
