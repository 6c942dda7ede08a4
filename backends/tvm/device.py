"""What code is compiled for, and which TVM compiled it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

_COUNTED = {"num-cores": "threads"}  # of the attributes of a target


@dataclass(frozen=True)
class Device:
    """A processor or GPU, and the release of TVM.

    Args:
        target: What TVM's target says of it: ``mcpu`` and ``num-cores``, or ``arch`` and limits.
        tvm: The release.
    """

    target: dict[str, Any]
    tvm: str

    @classmethod
    def of(cls, target: Any) -> Device:
        tvm: Any = import_module("tvm")
        attributes = {key: _plain(value) for key, value in target.attrs.items()}
        return cls({"kind": target.kind.name, **attributes}, str(tvm.__version__))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def name(self) -> str:
        """As LLVM or nvcc calls it."""
        return str(self.target.get("mcpu") or self.target.get("arch"))

    def __str__(self) -> str:
        counts = [
            f" of {self.target[k]} {word}" for k, word in _COUNTED.items() if k in self.target
        ]
        return f"{self.name}{''.join(counts)} with TVM {self.tvm}"


def _plain(value: Any) -> Any:
    return value if isinstance(value, int) else str(value)
