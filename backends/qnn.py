"""Qualcomm's HTP, by ONNX Runtime's plugin for it: an NPU, simulated on other processors.

A graph is an ONNX model of standard ops, all of which must run on the HTP: where one would be left
to the host, the model is refused. Codes are computed on as integers; what is in floating point, in
half precision. A context binary is the model compiled for one generation of it.
"""

from __future__ import annotations

import platform
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..ir import Graph, Node, TargetError, ops
from .onnx import Dialect, ModelFile, emit
from .onnx.runner import check_precision
from .onnxruntime import NO_FALLBACK, OnnxRuntimeRunner, reason

DIALECT = Dialect.of("qnn")
# The generations that the plugin compiles for, each by a system on a chip that has it.
CHIPS = {73: 43, 75: 57, 79: 69, 81: 87}
DEFAULT = 75
_AT_THE_EDGE = ("QuantizeLinear", "DequantizeLinear", "Cast")


class QnnRunner(OnnxRuntimeRunner):
    """A session on the HTP.

    Args:
        model: What is read.
        graph: What was lowered: its inputs and outputs say what the session's are.
        generation: Of the HTP, a key of ``CHIPS``.

    Raises:
        TargetError: Not all of the model runs there.
    """

    simulates = platform.machine() not in ("aarch64", "arm64", "ARM64")

    def __init__(self, model: ModelFile, graph: Graph, *, generation: int = DEFAULT) -> None:
        self.generation = generation
        super().__init__(model, graph)

    def _open(self) -> Any:
        session = self._compile(self.generation, {"session.record_ep_graph_assignment_info": "1"})
        if left := _left_to_the_host(session):
            raise TargetError(
                f"the HTP does not take {', '.join(left)}",
                where="\n".join(self._at(name) for name in left[:3]),
                do=self._instead(
                    "quantize all of the model, such as passes='w8a16', or write it with other "
                    "PyTorch functions"
                ),
            )
        return session

    def _at(self, name: str) -> str:
        """Where an ONNX node comes from: its name starts with that of ours."""
        node = self._nodes.get(name.split(".")[0])
        return name if node is None else node.at

    def write_context(self, path: Path, generation: int = DEFAULT) -> None:
        """Write the model compiled for one generation: a small ONNX file and its binary beside it.

        Raises:
            TargetError: The plugin compiles for no such generation.
        """
        path.unlink(missing_ok=True)  # which it does not write over
        settings = {
            "ep.context_enable": "1",
            "ep.context_file_path": str(path),
            "ep.context_embed_mode": "0",
        }
        self._compile(generation, settings)

    def _compile(self, generation: int, settings: dict[str, str]) -> Any:
        options, source = _options(generation, settings), self.model.source
        try:
            return import_module("onnxruntime").InferenceSession(
                source if isinstance(source, bytes) else str(source), options, **NO_FALLBACK
            )
        except Exception as error:  # its classes are all plain exceptions
            who = "ONNX Runtime's plugin for the HTP"
            instead = self._instead("compile for target='onnxruntime'")
            raise self._not_taken(who, reason(error), error, instead) from error


def lower(graph: Graph, *, generation: int = DEFAULT) -> QnnRunner:
    """The graph as a session.

    Raises:
        TargetError: An op or a precision is one that the HTP computes wrong, or does not take.
    """
    check_precision(graph, "the HTP does not compute in")
    for node in graph.nodes:
        if found := wrong(node):
            what, do = found
            raise TargetError(f"the HTP computes {what} wrong", where=node.at, do=do)
    return QnnRunner(ModelFile.of(emit(_decoded(graph), DIALECT)), graph, generation=generation)


_OTHER_WIDTH = (
    "choose codes of another width (w8a8, w8a16), or passes='exact', which leaves the model in "
    "floating point"
)


def wrong(node: Node) -> tuple[str, str] | None:
    """What a node is of that the HTP compiles, runs, and computes wrong, and what would help."""
    codes = {user.dtype for user in node.users if user.op == "quantize"}
    match node.op:
        case "log" if torch.uint16 in codes:
            return "log in u16", _OTHER_WIDTH
        case "cumsum" if torch.uint8 in codes:
            return "cumsum in u8", _OTHER_WIDTH
        case "aten.pad.default" if node.attrs.get("mode") == "replicate" and not codes:
            return "the replicated edges of floats", "choose codes (w8a8, w8a16)"
        case "rms_norm":
            do = "give it an epsilon, and put passes.Legalize before"
            return "norms without a mean (rms_norm) of some shapes", do
        case "avg_pool1d" | "avg_pool2d" | "avg_pool3d" if _reaches_out(node):
            return "means of windows that reach out of the image", "put passes.Legalize before"
        case _:
            return None


def _reaches_out(pool: Node) -> bool:
    """Whether some windows of a pool do not lie in the image."""
    size = pool.attrs["kernel_size"]
    step = pool.attrs.get("stride") or size
    ends = zip(pool.args[0].shape[-len(size) :], pool.shape[-len(size) :], size, step, strict=True)
    reached = any((int(given) - 1) * s + k > int(had) for had, given, k, s in ends)
    return reached or any(pool.attrs.get("padding", ()))


def load(folder: Path, graph: Graph, *, generation: int = DEFAULT) -> QnnRunner:
    """The session of a saved model."""
    return QnnRunner(ModelFile.within(folder), graph, generation=generation)


def _decoded(graph: Graph) -> Graph:
    """The graph with the codes of weights as the numbers that they stand for, where what they meet
    is no codes: the HTP computes on codes alone or on none."""
    new = graph.copy()
    for node in [node for node in new.nodes if node.op in ("dequantize", "decode")]:
        constant = all(part.op == "param" for part in node.inputs)
        if constant and not all(_gives_codes(user) for user in node.users):
            values = tuple(new.value(part) for part in node.args)
            value = ops.get(node.op).run(values, node.attrs)
            new.supersede(node, new.param(node.name, value))
    new.prune()
    return new


def _gives_codes(node: Node) -> bool:
    return all(user.op == "quantize" for user in node.users)


def _devices(onnxruntime: Any, plugin: Any) -> list[Any]:
    """The HTP as ONNX Runtime's plugin has it, which a process registers once."""

    def known() -> list[Any]:
        return [device for device in onnxruntime.get_ep_devices() if device.ep_name == "QNN"][:1]

    if not known():
        onnxruntime.register_execution_provider_library("QNN", plugin.get_library_path())
    return known()


def _options(generation: int, settings: dict[str, str]) -> Any:
    """Of a session on the HTP; raises ``TargetError`` for a generation that is not known."""
    if generation not in CHIPS:
        raise TargetError(
            f"the plugin compiles for no generation {generation} of the HTP",
            do=f"choose one of {', '.join(map(str, CHIPS))}",
        )
    onnxruntime, plugin = import_module("onnxruntime"), import_module("onnxruntime_qnn")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is said below, by name
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    options.add_provider_for_devices(
        _devices(onnxruntime, plugin),
        {
            "backend_path": plugin.get_qnn_htp_path(),
            "htp_arch": str(generation),
            "soc_model": str(CHIPS[generation]),
            "enable_htp_fp16_precision": "1",
        },
    )
    return options


def _left_to_the_host(session: Any) -> list[str]:
    """The names of the nodes that run elsewhere, but for what rounds inputs and gives outputs."""
    return [
        node.name
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != "QNN"
        for node in part.get_nodes()
        if node.op_type not in _AT_THE_EDGE
    ]
