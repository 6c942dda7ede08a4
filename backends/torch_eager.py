"""PyTorch: the graph itself, run eagerly; or with our kernels for what they cover
(``torch_kernels``), where a ``device`` is named. Saved as its weights, beside which lies its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..ir import Graph, TargetError
from ..ir.interpret import execute
from . import weight_file

if TYPE_CHECKING:
    from .torch_kernels import KernelRunner

WEIGHTS = "weights.safetensors"
SETTINGS = "kernels.json"


class TorchRunner:
    """Runs a graph by the meaning that the op table gives its ops."""

    notes: tuple[str, ...] = ()

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        with torch.no_grad():
            return execute(self.graph, inputs)

    def save(self, folder: Path) -> None:
        weights = {name: self.graph.store[name] for name in self.graph.params}
        weight_file.write(weights, folder / WEIGHTS)

    @property
    def bytes(self) -> int:
        return weight_file.size(self.graph.store[name] for name in self.graph.params)


def lower(
    graph: Graph,
    *,
    device: str | None = None,
    half: str | None = None,
    tries: int | None = None,
    fuse: bool | None = None,
) -> TorchRunner | KernelRunner:
    """The graph itself, or with kernels for the regions that have one.

    Args:
        device: Where kernels run: ``cuda``, ``cuda:1``, or ``cpu`` in Triton's interpreter, for
            which ``TRITON_INTERPRET=1`` has to be set. Without, there are none.
        half: ``bfloat16`` or ``float16``: what kernels for weights of few bits round their inputs
            to where the graph is in float32. Without, those weights are PyTorch's there.
        tries: Options that each kernel times, the first time that it runs for so many rows on a
            device; 0 takes the safest. 12 by default.
        fuse: Whether the rest is put through ``torch.compile``; by default on a GPU.

    Raises:
        TargetError: There is no such device, or what compiles kernels for it is missing.
    """
    if device is None:
        given = {"half": half, "tries": tries, "fuse": fuse}
        if idle := [name for name, value in given.items() if value is not None]:
            raise TargetError(
                f"the option {idle[0]!r} is for kernels, and no device is named for them",
                do="give options={'device': 'cuda', ...}",
            )
        return TorchRunner(graph)
    kernels = import_module(".torch_kernels", __package__)
    settings = kernels.Settings(device, half, 12 if tries is None else tries, fuse)
    return kernels.KernelRunner(graph, settings)


def load(folder: Path, graph: Graph) -> TorchRunner | KernelRunner:
    """The graph with the weights of the folder, on the device that it was compiled for."""
    new = graph.copy()
    new.store.tensors.update(weight_file.read(folder / WEIGHTS))
    if not (folder / SETTINGS).exists():
        return TorchRunner(new)
    return import_module(".torch_kernels", __package__).load(folder / SETTINGS, new)
