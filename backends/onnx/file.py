"""An ONNX model as what a runtime reads: bytes in memory, or a file with its weights beside it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from onnx import ModelProto

from .emit import is_large, save

NAME = "model.onnx"


class ModelFile:
    """A model that is read by one runtime after another.

    Args:
        source: What is read: bytes, or the path of a file.
    """

    def __init__(self, source: bytes | Path) -> None:
        self.source = source

    @classmethod
    def of(cls, model: ModelProto) -> ModelFile:
        """In memory; on the disk what no protobuf message holds, until nobody has it any more."""
        if not is_large(model):
            return cls(model.SerializeToString(deterministic=True))
        folder = Path(tempfile.mkdtemp(prefix="regauge-"))
        found = cls(folder / NAME)
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
        save(model, folder / NAME)
        return found

    @classmethod
    def within(cls, folder: Path) -> ModelFile:
        """What ``save`` wrote."""
        return cls(folder / NAME)

    @property
    def bytes(self) -> int:
        """Its size, weights included."""
        if isinstance(self.source, bytes):
            return len(self.source)
        return sum(path.stat().st_size for path in self._paths(self.source))

    def save(self, folder: Path) -> None:
        """Write ``model.onnx``, and ``model.weights`` where the weights are large."""
        if isinstance(self.source, bytes):
            (folder / NAME).write_bytes(self.source)
            return
        for path in self._paths(self.source):
            shutil.copyfile(path, folder / path.name)

    @staticmethod
    def _paths(path: Path) -> list[Path]:
        return [path, *(p for p in [path.with_suffix(".weights")] if p.exists())]

    def __str__(self) -> str:
        return "" if isinstance(self.source, bytes) else str(self.source)
