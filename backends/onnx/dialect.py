"""What who reads an ONNX model takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """A part of ONNX.

    Attributes:
        target: The name of who reads it, in whose profile the formats of weights are.
        opset: The version of the standard ops, and the version of the file that goes with it.
        runtime: Whether ONNX Runtime's own ops are taken too. Where they are not, codes come with
            QuantizeLinear and DequantizeLinear, for the reader to fuse with what is between them.
    """

    target: str
    opset: int = 23  # of onnx 1.18: Attention, RMSNormalization, RotaryEmbedding
    ir_version: int = 11
    runtime: bool = False


ONNX_RUNTIME = Dialect("onnxruntime", runtime=True)
