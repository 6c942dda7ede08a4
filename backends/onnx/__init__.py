"""ONNX: a graph of ours as a model in the form that its reader runs fastest."""

from .dialect import Dialect as Dialect
from .emit import WIDE_SUMS as WIDE_SUMS
from .emit import emit as emit
from .emit import save as save
from .file import ModelFile as ModelFile

__all__ = ["WIDE_SUMS", "Dialect", "ModelFile", "emit", "save"]
