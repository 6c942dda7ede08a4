"""Capture a model as a graph in canonical form."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from ..ir import Graph, InputError, TensorType, TraceError, WeightError
from ..ir.symbols import rename
from .canonical import canonicalize, check
from .checkpoint import load_checkpoint
from .convert import convert


def trace(
    model: torch.nn.Module | ExportedProgram | str | Path,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Graph:
    """Capture a model as a graph in canonical form.

    Args:
        model: A module in eval mode, an exported program, or the folder of a Hugging Face
            checkpoint.
        args: Example inputs; a single tensor stands for a tuple of one.
        kwargs: Example inputs by keyword.
        dynamic_shapes: Which sizes may vary, as ``torch.export.export`` takes it.

    Raises:
        TraceError: The model cannot be captured; names the user's line.
        WeightError: A weight is missing, or is not a finite number.
    """
    if isinstance(model, (str, Path)):
        model = load_checkpoint(Path(model))
    if isinstance(model, torch.nn.Module):
        args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
        _check_mode(model)
        check_weights(model)
        program = _export(model, args, dict(kwargs or {}), dynamic_shapes)
    else:
        program = model
    learned_names = set(program.graph_signature.parameters)
    with warnings.catch_warnings():  # of PyTorch, about its own internals
        warnings.simplefilter("ignore", FutureWarning)
        graph = convert(program.run_decompositions({}))
    origin = graph.store.origin
    canonicalize(graph, learned={n for n in graph.params if learned_names & set(origin[n])})
    _name_symbols(graph, dynamic_shapes)
    check(graph)
    graph.verify()
    return graph


def _check_mode(model: torch.nn.Module) -> None:
    """Refuse training mode: what would be captured then is not what will be deployed."""
    if model.training:
        raise TraceError(
            f"the {type(model).__name__} is in training mode", do="call model.eval() before"
        )


def check_weights(model: torch.nn.Module) -> None:
    """Refuse parameters that are not finite numbers."""
    for name, value in model.named_parameters():
        if value.is_floating_point() and value.device.type != "meta":
            wrong = int((~torch.isfinite(value)).sum())
            if wrong:
                raise WeightError(
                    f"{name} holds {wrong:,} of {value.numel():,} values that are NaN or infinite",
                    do="repair or reload the weights: no transformation keeps such a function",
                )


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.export.export(
                model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False
            )
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        if isinstance(error, TypeError) and "forward()" in reason:
            raise InputError(f"the example inputs do not fit the model: {reason}") from error
        raise TraceError(
            f"torch.export cannot capture the {type(model).__name__}: {reason}",
            where=user_line(error),
            do="make that line independent of the data (torch.cond, torch.where), or export the "
            "model yourself and pass the ExportedProgram",
        ) from error


def user_line(error: BaseException) -> str:
    """The innermost frame outside PyTorch in an exception and its causes."""
    found = ""
    here = str(Path(__file__).parent.parent)
    while True:
        for frame in traceback.extract_tb(error.__traceback__):
            inside = "/torch/" in frame.filename or frame.filename.startswith(here)
            if not inside:
                found = f"{frame.filename}:{frame.lineno} {frame.name}\n{frame.line or ''}".rstrip()
        quoted = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', str(error))
        for path, line, name in quoted:  # PyTorch quotes the user's stack in its messages
            if "/torch/" not in path and not path.startswith(here):
                found = f"{path}:{line} {name}"
        following = error.__cause__ or error.__context__
        if following is None:
            return found
        error = following
    return found


def _name_symbols(graph: Graph, dynamic_shapes: Any) -> None:
    """Give symbolic sizes the names that the user gave, where a size is a symbol by itself."""
    wanted = [spec for spec in _shapes(dynamic_shapes)]
    if len(wanted) != len(graph.inputs):
        return
    names: dict[str, str] = {}
    for node, spec in zip(graph.inputs, wanted, strict=True):
        if not isinstance(node.type, TensorType) or not isinstance(spec, (dict, list, tuple)):
            continue
        for axis, given in spec.items() if isinstance(spec, dict) else enumerate(spec):
            size = node.type.shape[axis]
            name = getattr(given, "__name__", "")
            if isinstance(size, str) and size.isidentifier() and name and not name.startswith("_"):
                names.setdefault(size, name)
    if len(set(names.values())) == len(names) and not set(names.values()) & set(graph.symbols):
        rename(graph, names)


def _shapes(tree: Any) -> Iterator[Any]:
    """The specification of each input in the user's ``dynamic_shapes``, flat."""
    if isinstance(tree, dict) and tree and all(isinstance(key, str) for key in tree):
        for part in tree.values():
            yield from _shapes(part)
    elif isinstance(tree, (list, tuple)) and not any(_is_dim(part) for part in tree):
        for part in tree:
            yield from _shapes(part)
    elif tree is not None:
        yield tree


def _is_dim(part: Any) -> bool:
    return part is None or isinstance(part, int) or hasattr(part, "__name__") or part is Dim.AUTO
