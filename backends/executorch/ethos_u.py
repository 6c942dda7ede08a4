"""Arm's Ethos-U by ExecuTorch and Vela: an NPU beside microcontrollers.

Nothing here can run its code. What it computes is the graph's TOSA operators, and these Arm's
reference model runs bit for bit: that is what an artifact gives. Vela compiles the same operators
and says how much memory and time they take. All of a graph runs on the NPU or it is refused; the
host rounds its inputs, and gives its outputs in floating point.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import io
import json
import os
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ...ir import Graph, TargetError
from ..outputs import Outputs
from .program import exported, host_ops, refuse, without_warnings

ACCELERATOR = "ethos-u55-128"
MODEL, OPERATORS, EDGES = "model.pte", "model.tosa", "edges.json"


@dataclass(frozen=True)
class Edge:
    """What lies between the host and the NPU.

    Attributes:
        place: Of the graph's input, or of the NPU's output.
        scale, zero_point: Of its codes; ``None`` where it is integers already.
        low, high: The least and the greatest code.
    """

    place: int
    scale: float | None = None
    zero_point: int = 0
    low: int = 0
    high: int = 0

    def codes(self, value: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            return value
        codes = torch.round(value / self.scale) + self.zero_point
        return codes.clamp(self.low, self.high).to(torch.int8)

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            return codes
        return (codes.float() - self.zero_point) * self.scale


class EthosRunner:
    """TOSA operators in Arm's reference model, and the program that Vela made of them.

    Args:
        program: The bytes of a ``.pte`` file.
        operators: The TOSA operators.
        edges: What goes into them, and what comes out.
        graph: What was lowered: its outputs say what the program's are.
        notes: What a report says of it.
    """

    simulates = True

    def __init__(
        self,
        program: bytes,
        operators: bytes,
        edges: tuple[Sequence[Edge], Sequence[Edge]],
        graph: Graph,
        notes: Sequence[str] = (),
    ) -> None:
        self.program, self.operators, self.edges = program, operators, edges
        self.notes = tuple(notes)
        self._outputs = Outputs(graph)
        self._shapes = [node.tensor for node in graph.outputs if hasattr(node, "tensor")]

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        model: Any = import_module("tosa_reference_model")
        given = [torch.as_tensor(value).detach().cpu() for value in inputs]
        ins, outs = self.edges
        with _quiet():
            found, status = model.run(
                self.operators, [edge.codes(given[edge.place]).numpy() for edge in ins]
            )
        if status != model.GraphStatus.TOSA_VALID:
            raise TargetError(f"Arm's reference model stopped: {status.name}")
        values = [edge.value(torch.from_numpy(found[edge.place].copy())) for edge in outs]
        shaped = zip(values, self._shapes, strict=True)
        return self._outputs.of([v.reshape([int(s) for s in t.shape]) for v, t in shaped])

    @property
    def bytes(self) -> int:
        return len(self.program)

    def save(self, folder: Path) -> None:
        """Write ``model.pte`` for the device, and what the reference model runs."""
        (folder / MODEL).write_bytes(self.program)
        (folder / OPERATORS).write_bytes(self.operators)
        edges = [[asdict(edge) for edge in side] for side in self.edges]
        (folder / EDGES).write_text(json.dumps(edges), encoding="utf-8")


@without_warnings()
def lower(graph: Graph, *, accelerator: str = ACCELERATOR) -> EthosRunner:
    """The graph as a program.

    Args:
        accelerator: An Ethos-U and how many products it makes a cycle, such as ``ethos-u85-256``.

    Raises:
        TargetError: An op does not run on it.
    """
    arm = "executorch.backends.arm"
    spec: Any = import_module(f"{arm}.tosa.compile_spec")
    tosa: Any = import_module(f"{arm}.tosa.partitioner")
    ethos: Any = import_module(f"{arm}.ethosu")
    try:
        npu = ethos.EthosUCompileSpec(accelerator)
        twin = _lowered(graph, tosa.TOSAPartitioner(spec.TosaCompileSpec(_profile(npu))))
        operators, edges = _taken(twin.exported_program())
        with contextlib.redirect_stdout(io.StringIO()):
            program = _lowered(graph, ethos.EthosUPartitioner(npu)).to_executorch().buffer
            figures = _figures(operators, npu.compiler_flags)
    except TargetError:
        raise
    except Exception as error:  # what its passes raise is of many kinds
        raise refuse(error, "ExecuTorch", graph) from error
    notes = (
        f"on {accelerator}, as Vela counts: {figures}",
        "it runs here in Arm's reference model of TOSA",
    )
    return EthosRunner(program, operators, edges, graph, notes)


def load(folder: Path, graph: Graph) -> EthosRunner:
    """The program of a saved artifact."""
    ins, outs = (
        [Edge(**edge) for edge in side]
        for side in json.loads((folder / EDGES).read_text(encoding="utf-8"))
    )
    program, operators = ((folder / name).read_bytes() for name in (MODEL, OPERATORS))
    return EthosRunner(program, operators, (ins, outs), graph)


def _profile(npu: Any) -> str:
    """The TOSA of an accelerator."""
    return str(npu.tosa_spec)


def _figures(operators: bytes, flags: Sequence[str]) -> str:
    """What Vela says of cycles and memory."""
    vela: Any = import_module("ethosu.vela.vela")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / OPERATORS
        source.write_bytes(operators)
        vela.main([*flags, f"--output-dir={folder}", str(source)])
        (summary,) = Path(folder).glob("*_summary_*.csv")
        *_, row = csv.DictReader(summary.read_text(encoding="utf-8").splitlines())
    flash = sum(float(row[f"{kind}_chip_flash_memory_used"]) for kind in ("on", "off"))
    return (
        f"{int(float(row['cycles_total']))} cycles, {float(row['inference_time']) * 1e3:.3g} ms, "
        f"{float(row['sram_memory_used']):.4g} KiB of SRAM, {flash:.4g} KiB of flash"
    )


def _lowered(graph: Graph, partitioner: Any) -> Any:
    exir: Any = import_module("executorch.exir")
    meta: Any = import_module("executorch.backends.arm.common.annotation_meta")
    import_module("executorch.kernels.quantized")
    program = exported(graph, biases=True, clips=True)
    known = meta.ArmAnnotationInfo
    for node in program.graph.nodes:  # its passes fold codes into marked ops alone
        if node.op == "call_function" and "quantize" not in str(node.target):
            mark = {known.CUSTOM_META_KEY: dict(known(quantized=True))}
            node.meta["custom"] = {**node.meta.get("custom", {}), **mark}
    return exir.to_edge_transform_and_lower(program, partitioner=[partitioner])


def _taken(program: ExportedProgram) -> tuple[bytes, tuple[list[Edge], list[Edge]]]:
    """The operators that all of a program became, and what lies around them."""
    nodes = list(program.graph.nodes)
    calls = [n for n in nodes if getattr(n.target, "__name__", "") == "executorch_call_delegate"]
    left = host_ops(program)
    if left or len(calls) != 1:
        nothing = "an op in the middle" if calls else "a model of which rounding to codes is all"
        names = ", ".join(dict.fromkeys(left)) or nothing
        raise TargetError(
            f"the Ethos-U does not take {names}",
            do="quantize all of the model, passes='w8a8', write it with other PyTorch functions, "
            "or compile for target='xnnpack'",
        )
    (call,) = calls
    names = [spec.arg.name for spec in program.graph_signature.input_specs]
    users = [name for name in names if name in program.graph_signature.user_inputs]
    ins = [_edge(arg, lambda arg: users.index(arg.name)) for arg in call.args[1:]]
    (output,) = (node for node in nodes if node.op == "output")
    outs = [_edge(arg, lambda arg: int(arg.args[1])) for arg in output.args[0]]
    module = getattr(program.graph_module, call.args[0].target)
    return module.processed_bytes, (ins, outs)


def _edge(node: Any, place: Any) -> Edge:
    if node.op != "call_function" or "quantize" not in str(node.target):
        return Edge(place(node))
    value, scale, zero, low, high = node.args[:5]
    return Edge(place(value), float(scale), int(zero), int(low), int(high))


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without the warnings that the reference model writes past Python, of versions alone."""
    buffers = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as sink:
        before = {stream: os.dup(stream) for stream in (1, 2)}
        try:
            for stream in before:
                os.dup2(sink.fileno(), stream)
            yield
        finally:
            buffers.fflush(None)
            for stream, copy in before.items():
                os.dup2(copy, stream)
                os.close(copy)
