"""C99 for bare microcontrollers; here it runs as a shared library of the machine's own compiler."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..codegen.c import Source, generate
from ..ir import Graph, Node, TargetError, TensorType
from ..ir.clips import CLIPS
from .onnx.forms import padding, quantized
from .onnx.forms.quantized import is_implied
from .outputs import Outputs
from .profiles import target

MODEL, HEADER = "model.c", "model.h"
FLAGS = ("-std=c99", "-O3", "-ffp-contract=off")
_SUMS = ("conv1d", "conv2d", "add")  # which have kernels that give codes


class CRunner:
    """A model in C, built and called.

    Args:
        model, header: Texts.
        graph: What was lowered: its inputs and outputs say what the function's are.
        notes: What a report says of it.
    """

    def __init__(self, model: str, header: str, graph: Graph, notes: Sequence[str] = ()) -> None:
        self.model, self.header, self.notes = model, header, tuple(notes)
        self._outputs = Outputs(graph)
        self._results = [arg.tensor for arg in graph.outputs if isinstance(arg, Node)]
        self._library = _built(self)
        self._alone = threading.Lock()  # there is one arena

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        given = [torch.as_tensor(value).detach().cpu().contiguous() for value in inputs]
        made = [
            torch.empty([int(size) for size in type_.shape], dtype=type_.dtype)
            for type_ in self._results
        ]
        with self._alone:
            self._library.model_run(*(ctypes.c_void_p(t.data_ptr()) for t in (*given, *made)))
        return self._outputs.of(made)

    @property
    def bytes(self) -> int:
        """Of constants, as they lie in a microcontroller: those of a text say nothing."""
        found = re.search(r"^#define MODEL_CONSTANT_BYTES (\d+)$", self.header, re.MULTILINE)
        assert found is not None, "every header has it"
        return int(found[1])

    def save(self, folder: Path) -> None:
        """Write ``model.c`` and ``model.h``."""
        (folder / MODEL).write_text(self.model, encoding="utf-8")
        (folder / HEADER).write_text(self.header, encoding="utf-8")


def source(graph: Graph) -> Source:
    """The C of a graph; the regions on integers are those of ONNX Runtime, so codes are its own."""
    fused = graph.copy()
    _round_before_clips(fused)
    for form in (padding, quantized):
        form.fuse(fused)
        fused.prune()
    return generate(fused)


def _round_before_clips(graph: Graph) -> None:
    """Let sums give codes where a clip stands between whose code of zero is not the least: to round
    what is clipped is to clip what is rounded, and on codes that is a table."""
    for node in list(graph.nodes):
        if node.op != "quantize" or node.args[0].op not in CLIPS:
            continue
        clip, scale, zero = node.args[0], node.args[1], node.operand(2)
        value = clip.args[0]
        if is_implied(graph, clip, scale, zero) or value.op not in _SUMS:
            continue
        if len(clip.users) == len(value.users) == 1 and scale.op == "param" and not scale.shape:
            coding, type_ = node.args[1:], TensorType(node.dtype, node.shape)
            codes = graph.add(
                "quantize",
                value,
                *coding,
                name=f"{value.name}_codes",
                type=type_,
                before=clip,
                **node.attrs,
            )
            again = graph.add("dequantize", codes, *coding, type=value.type, before=clip)
            clip.set([again, *clip.args[1:]])


def lower(graph: Graph) -> CRunner:
    """The graph as a library."""
    made = source(graph)
    notes = [
        f"on a microcontroller: {made.constants} bytes of constants and {made.arena} bytes of "
        "memory, besides code and stack"
    ]
    if made.decoded:
        notes.append(
            "weights in codes that are held in float32, for what they meet is no codes: "
            + ", ".join(made.decoded)
        )
    return CRunner(made.model, made.header, graph, notes)


def load(folder: Path, graph: Graph) -> CRunner:
    """The library of saved files, built anew for this machine."""
    model, header = ((folder / name).read_text(encoding="utf-8") for name in (MODEL, HEADER))
    return CRunner(model, header, graph)


def compiler() -> str:
    """The path of a C compiler."""
    place = target("c")
    place.check_installed()
    return next(filter(None, map(shutil.which, place.programs)))


def _built(runner: CRunner) -> Any:
    """The shared library, in a folder that goes when the runner goes."""
    folder = Path(tempfile.mkdtemp(prefix="regauge-"))
    weakref.finalize(runner, shutil.rmtree, folder, ignore_errors=True)
    runner.save(folder)
    library = folder / "model.so"
    words = [compiler(), *FLAGS, "-shared", "-fPIC", MODEL, "-o", str(library), "-lm"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if "error" in line), "".join(lines[:1]))
        raise TargetError(
            f"{words[0]} does not build the model: {reason}",
            do="check that it builds C99 with <math.h>: apt-get install libc6-dev",
        )
    return ctypes.CDLL(str(library))
