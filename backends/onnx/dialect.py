"""What who reads an ONNX model takes."""

from __future__ import annotations

from dataclasses import dataclass

from ..profiles import target


@dataclass(frozen=True)
class Dialect:
    """A part of ONNX.

    Attributes:
        target: The name of who reads it, in whose profile the formats of weights are.
        opset: The version of the standard ops: 23, of onnx 1.18, has Attention, RMSNormalization
            and RotaryEmbedding.
        ir_version: That of the file, which goes with it.
        runtime: Whether ONNX Runtime's own ops are taken too. Where they are not, codes come with
            QuantizeLinear and DequantizeLinear, for the reader to fuse with what is between them.
    """

    target: str
    opset: int
    ir_version: int = 11
    runtime: bool = False

    @staticmethod
    def of(name: str, *, runtime: bool = False) -> Dialect:
        """That of a target, by its profile."""
        opset = target(name).opset
        assert opset is not None, name
        return Dialect(name, opset, runtime=runtime)


ONNX_RUNTIME = Dialect.of("onnxruntime", runtime=True)
