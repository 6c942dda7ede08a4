"""A graph as the exported program that ExecuTorch's partitioners take.

They know quantization by PyTorch's own ops (``quantized_decomposed``), each reader with a
dequantize of its own, biases in 32 bits in units of the sums that they are added to. A clip from
zero on, where zero is the least code, is the rounding itself and is left out.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Generator, Iterator
from importlib import import_module
from typing import Any

import torch
from torch.export import ExportedProgram

from ...ir import Graph, Node, TargetError, ops
from ...ir.clips import CLIPS, clip_limits
from ...ir.codes import bias_codes
from ...ir.gauge import weighted

_Q = "quantized_decomposed"
_OP = re.compile(r"\b(?:aten|regauge)\.\w+")  # as PyTorch calls it, without the overload


def exported(
    graph: Graph, *, biases: bool, rounded: bool = False, clips: bool = False
) -> ExportedProgram:
    """The graph as an exported program of flat inputs and outputs, all sizes fixed.

    Args:
        biases: Whether biases are codes; XNNPACK rounds them itself.
        rounded: Whether weights are numbers with a quantize behind them, in place of codes.
        clips: Whether clips read codes of the scale that they give.
    """
    import_module("torch.ao.quantization.fx._decomposed")  # registers the ops
    new = graph.copy()
    new.in_spec = new.out_spec = None
    _drop_clips(new)
    if clips:
        _scale_clips(new)
    for node in list(new.nodes):
        if biases and weighted(node):
            _round_bias(new, node)
    for node in list(new.nodes) if rounded else ():
        if node.op == "dequantize" and node.args[0].op == "param":
            _unfold(new, node)
    for node in list(new.nodes):
        if node.op == "quantize":
            new.supersede(node, _quantize(new, node))
        elif node.op == "dequantize":
            _dequantize(new, node)
    new.prune()
    # Kernels take no other order in memory; an axis of one has a stride too, which says to PyTorch
    # in which order convolutions give their results.
    for name in new.params:
        new.store[name] = new.store[name].clone(memory_format=torch.contiguous_format)
    inputs = tuple(
        torch.zeros([int(size) for size in node.shape], dtype=node.dtype) for node in new.inputs
    )
    with torch.no_grad():
        return torch.export.export(new.to_module(), inputs)


def host_ops(program: ExportedProgram) -> list[str]:
    """The ops of a lowered program that are in no delegate, but for those that round its inputs and
    give its outputs in floating point."""
    return [_name(node.target) for node in _computing(program) if _Q not in _name(node.target)]


def _computing(program: ExportedProgram) -> Iterator[torch.fx.Node]:
    for node in program.graph.nodes:
        names = ("executorch_call_delegate", "getitem", "alloc")
        if node.op == "call_function" and getattr(node.target, "__name__", "") not in names:
            yield node


def _name(target: Any) -> str:
    return str(getattr(target, "_name", "") or getattr(target, "__name__", target))


def _drop_clips(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op != "quantize":
            continue
        clip = node.args[0]
        if clip.op not in CLIPS or len(clip.users) > 1:
            continue
        low, high = clip_limits(clip)
        zero, info = int(graph.value(node.args[2])), torch.iinfo(node.dtype)
        most = (info.max - zero) * float(graph.value(node.args[1]))
        if low == 0 and zero == info.min and (high is None or float(high) >= most):
            node.replace_input(clip, clip.args[0])
    graph.prune()


def _scale_clips(graph: Graph) -> None:
    """Round what a clip reads to the codes that its result gets: rounding and clipping commute."""
    for node in list(graph.nodes):
        if node.op != "quantize" or node.args[0].op not in CLIPS:
            continue
        clip = node.args[0]
        source = clip.args[0]
        if len(clip.users) > 1 or source.op != "dequantize":
            continue
        ends = (node.args[1], source.args[1]), (node.operand(2), source.operand(2))
        if all(_same(graph, *pair) for pair in ends):
            continue
        codes = graph.add("quantize", source, *node.args[1:], **node.attrs, before=clip)
        value = graph.add("dequantize", codes, *node.args[1:], before=clip)
        clip.replace_input(source, value)


def _same(graph: Graph, one: Node | None, other: Node | None) -> bool:
    values = [torch.zeros(()) if part is None else graph.value(part) for part in (one, other)]
    return torch.equal(values[0].double(), values[1].double())


def _limits(dtype: torch.dtype, *, symmetric: bool = False) -> dict[str, Any]:
    info = torch.iinfo(dtype)
    low = -info.max if symmetric and info.min < 0 else info.min
    return {"quant_min": low, "quant_max": info.max, "dtype": dtype}


def _unfold(graph: Graph, node: Node) -> None:
    """The numbers that codes stand for, rounded to the same codes."""
    codes, scale, zero = node.args[0], node.args[1], node.operand(2)
    operands = tuple(graph.value(arg) for arg in node.args if arg is not None)
    value = graph.param(f"{codes.name}_values", ops.get("dequantize").run(operands, node.attrs))
    quantizer = graph.add(
        "quantize", value, scale, zero, dtype=codes.dtype, type=codes.type, before=node
    )
    node.replace_input(codes, quantizer)


def _quantize(graph: Graph, node: Node) -> Node:
    value, scale, zero = node.args[0], node.args[1], node.operand(2)
    if scale.shape != ():
        scales, zeros = _channels(graph, node, scale, zero)
        return graph.add(
            f"{_Q}.quantize_per_channel.default",
            value,
            scales,
            zeros,
            axis=_axis(scale),
            **_limits(node.dtype, symmetric=True),
            type=node.type,
            where=node.where,
            before=node,
        )
    return graph.add(
        f"{_Q}.quantize_per_tensor.default",
        value,
        scale=float(graph.value(scale)),
        zero_point=_offset(graph, zero),
        **_limits(node.dtype, symmetric=value.op == "param" and not _offset(graph, zero)),
        type=node.type,
        where=node.where,
        before=node,
    )


def _dequantize(graph: Graph, node: Node) -> None:
    """One for each reader, as partitioners look for it beside every op."""
    codes, scale, zero = node.args[0], node.args[1], node.operand(2)
    for reader in list(node.users):
        attrs: dict[str, Any] = {"type": node.type, "where": node.where, "before": node}
        if scale.shape == ():
            new = graph.add(
                f"{_Q}.dequantize_per_tensor.default",
                codes,
                scale=float(graph.value(scale)),
                zero_point=_offset(graph, zero),
                **_limits(codes.dtype, symmetric=_is_symmetric(graph, codes, zero)),
                **attrs,
            )
        else:
            scales, zeros = _channels(graph, node, scale, zero)
            new = graph.add(
                f"{_Q}.dequantize_per_channel.default",
                codes,
                scales,
                zeros,
                axis=_axis(scale),
                **_limits(codes.dtype, symmetric=True),
                **attrs,
            )
        reader.replace_input(node, new)


def _axis(scale: Node) -> int:
    """Along which scales differ: that of the outputs, the second of transposed convolutions."""
    return next((axis for axis, size in enumerate(scale.shape) if size != 1), 0)


def _offset(graph: Graph, zero: Node | None) -> int:
    return 0 if zero is None else int(graph.value(zero))


def _is_symmetric(graph: Graph, codes: Node, zero: Node | None) -> bool:
    """Whether codes are those of a weight, of which the least is not used."""
    if codes.op == "param":
        return True
    return bool(codes.inputs) and codes.inputs[0].op == "param" and not _offset(graph, zero)


def _channels(graph: Graph, node: Node, scale: Node, zero: Node | None) -> tuple[Node, Node]:
    """The scales and zero points of channels, as vectors."""
    scales = graph.value(scale).flatten()
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    if zero is not None:
        zeros = graph.value(zero).flatten().long()
    return (
        graph.param(f"{node.name}_scales", scales, origin=()),
        graph.param(f"{node.name}_zeros", zeros, origin=()),
    )


def _round_bias(graph: Graph, node: Node) -> None:
    """Codes of 32 bits for the bias of a contraction on codes, in units of its sums."""
    bias, data, weight = node.operand(2), node.args[0], node.args[1]
    if bias is None or bias.op != "param" or data.op != "dequantize" or weight.op != "dequantize":
        return
    scale, step = graph.value(data.args[1]), graph.value(weight.args[1])
    if scale.numel() != 1 or data.args[0].op != "quantize":
        return
    units = (scale.double() * step.double().flatten()).float().expand(bias.shape)
    codes = graph.param(f"{bias.name}_codes", bias_codes(graph.value(bias), scale, step), origin=())
    factor = graph.param(f"{bias.name}_units", units.contiguous(), origin=())
    value = graph.add("dequantize", codes, factor, type=bias.type, before=node)
    node.set((data, weight, value, *node.args[3:]))


@contextlib.contextmanager
def without_warnings() -> Generator[None]:
    """Without those of ExecuTorch, which are about its own use of PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse(error: Exception, who: str, graph: Graph) -> TargetError:
    """What stopped a lowering, in its own words, and the first node whose op these name."""
    first: BaseException = error
    while first.__cause__ is not None:  # those behind it say only where they were
        first = first.__cause__
    rows = [row.strip() for row in str(first).splitlines() if row.strip()]
    named = set(_OP.findall(str(first)))
    found = next((node for node in graph.nodes if set(_OP.findall(_target(node))) & named), None)
    return TargetError(
        f"{who} does not take the model: {rows[0] if rows else type(first).__name__}",
        where="" if found is None else found.at,
        do="compile for target='onnxruntime', or leave out the op that it names",
    )


def _target(node: Node) -> str:
    """PyTorch's name of an op."""
    return str(ops.OPS[node.op].target) if node.op in ops.OPS else node.op
