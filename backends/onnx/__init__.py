"""ONNX: a graph of ours as a model in the form that ONNX Runtime runs fastest."""

from .emit import emit as emit
from .emit import save as save

__all__ = ["emit", "save"]
