"""ONNX: a graph of ours as a model in the form that ONNX Runtime runs fastest."""

from .emit import WIDE_SUMS as WIDE_SUMS
from .emit import emit as emit
from .emit import is_large as is_large
from .emit import save as save

__all__ = ["WIDE_SUMS", "emit", "is_large", "save"]
