"""Capture a model as a graph in canonical form."""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..ir import Graph, InputError, TraceError, WeightError
from ..ir.errors import first_line
from ..ir.finite import how_many_are_not, is_finite
from ..ir.memory import give_back
from ..ir.ops import NUMBERS
from .caches import register_caches
from .canonical import canonicalize, check
from .checkpoint import describe, example_inputs, load_checkpoint
from .convert import convert
from .guards import all_hold
from .recurrence import AnyLength
from .symbols import name_symbols


def trace(
    model: torch.nn.Module | ExportedProgram | str | Path,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    release_weights: bool = False,
) -> Graph:
    """Capture a model as a graph in canonical form.

    Args:
        model: A module in eval mode, an exported program, or the folder of a Hugging Face
            checkpoint.
        args: Example inputs; a single tensor stands for a tuple of one.
        kwargs: Example inputs by keyword; a checkpoint folder needs none, they are made up.
        dynamic_shapes: Which sizes may vary, as ``torch.export.export`` takes it.
        release_weights: Whether the graph alone has the weights from then on, so that passes can
            free each once it is replaced. The module cannot be used any more, and what was traced
            cannot be written back to a checkpoint.

    Raises:
        TraceError: The model cannot be captured; names the user's line.
        WeightError: A weight is missing, or is not a finite number.
    """
    if isinstance(model, (str, Path)):
        model = load_checkpoint(Path(model))
        if not args and not kwargs:
            kwargs = example_inputs(model)
    check_weights(model)
    if release_weights and not isinstance(model, torch.nn.Module):
        raise InputError(
            "the weights of an exported program cannot be released",
            do="give the module, or delete the program after tracing it",
        )
    if isinstance(model, torch.nn.Module):
        args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
        _check_mode(model)
        program = _export(model, args, dict(kwargs or {}), dynamic_shapes)
    else:
        program = model
    learned_names = set(program.graph_signature.parameters)
    graph = convert(_functional(program))
    del program
    origin = graph.store.origin
    canonicalize(graph, learned={n for n in graph.params if learned_names & set(origin[n])})
    if isinstance(model, torch.nn.Module):
        name_symbols(graph, model.forward, args, dict(kwargs or {}), dynamic_shapes)
    check(graph)
    graph.verify()
    if isinstance(model, torch.nn.Module) and not release_weights:
        graph.checkpoint = describe(model, graph)
    elif isinstance(model, torch.nn.Module):
        release(model)
    gc.collect()  # what PyTorch made to export refers to itself
    give_back()
    return graph


def release(model: torch.nn.Module) -> None:
    """Take the weights out of a module, which refuses to run from then on."""

    def refuse(*_: Any) -> None:
        raise InputError(
            f"this {type(model).__name__} has no weights any more: they were released",
            do="load the model again, or leave out release_weights",
        )

    model.to("meta")
    model.register_forward_pre_hook(refuse)


def _check_mode(model: torch.nn.Module) -> None:
    """Refuse training mode: what would be captured then is not what will be deployed."""
    if model.training:
        raise TraceError(
            f"the {type(model).__name__} is in training mode", do="call model.eval() before"
        )


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The program without in-place ops and wrappers.

    Most have none to begin with, and to trace them once more takes longer than all else.
    """
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    if all(target in NUMBERS or _is_functional(target) for target in calls):
        return program
    try:
        with warnings.catch_warnings():  # of PyTorch, about its own internals
            warnings.simplefilter("ignore", FutureWarning)
            return program.run_decompositions({})
    except Exception as error:  # PyTorch's own defects, of any class
        raise TraceError(
            f"torch.export captured the model and cannot trace it once more without its in-place "
            f"ops: {type(error).__name__}: {first_line(error)}",
            where=user_line(error),
            do="write that line without in-place ops, or export the model yourself and pass "
            "program.run_decompositions()",
        ) from error


# Draw random numbers only where an argument says so, which the canonical form refuses.
_SWITCHED = {
    "aten::dropout",
    "aten::scaled_dot_product_attention",
    "aten::lstm",
    "aten::gru",
    "aten::rrelu",
}


def _is_functional(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    if schema is None or schema.is_mutable:
        return False
    return schema.name in _SWITCHED or torch.Tag.nondeterministic_seeded not in target.tags


def check_weights(model: torch.nn.Module | ExportedProgram) -> None:
    """Refuse learned parameters that are not finite; a buffer may hold the infinities of a mask."""
    for name, weight in model.named_parameters():
        if weight.device.type == "meta" or is_finite(weight.detach()):
            continue
        raise WeightError(
            f"{name}: {how_many_are_not(weight.detach())}",
            where=type(model).__name__,
            do="train or load the model again; a step of its training has diverged",
        )


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    register_caches()
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"the example inputs do not fit the model: {error}") from None
    try:
        try:
            return _exported(model, args, kwargs, dynamic_shapes)
        except Exception as error:  # of torch._dynamo, which takes long to import and has triton
            if not all_hold(str(error)):
                raise
        # As assertions, which the canonical form leaves out.
        return _exported(model, args, kwargs, dynamic_shapes, guards_as_assertions=True)
    except InputError:  # ours, of a cache
        raise
    except Exception as error:
        raise TraceError(
            f"torch.export cannot capture the {type(model).__name__}: {first_line(error)}",
            where=user_line(error),
            do=_advice(str(error)),
        ) from error


def _exported(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic_shapes: Any,
    *,
    guards_as_assertions: bool = False,
) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings(), _quiet(), AnyLength():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # Recurrent modules keep a list of their parameters.
        warnings.filterwarnings("ignore", r"(?s)The tensor attributes .*assigned during export")
        return torch.export.export(
            model,
            args,
            kwargs,
            dynamic_shapes=dynamic_shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=guards_as_assertions,
        )


def _advice(message: str) -> str:
    """What to do: PyTorch's own suggestion for dynamic sizes, where it has one."""
    _, found, suggested = message.partition("Suggested fixes:")
    if found:
        lines = [line.strip() for line in suggested.splitlines() if " = " in line]
        return f"in dynamic_shapes: {'; '.join(lines)}"
    return (
        "make that line independent of the data (torch.cond, torch.where), or export the model "
        "yourself and pass the ExportedProgram"
    )


_PYTHON = sysconfig.get_path("stdlib") + "/"
_ROOT = Path(__file__).parents[1]
_OURS = tuple(f"{init.parent}/" for init in _ROOT.glob("*/__init__.py"))


def _is_users(path: str) -> bool:
    """Whether a frame is neither PyTorch's, nor Python's own, nor ours."""
    if path.startswith((_PYTHON, "<")):
        return "site-packages" in path and "/torch/" not in path
    return "/torch/" not in path and not path.startswith(_OURS)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep PyTorch from logging what the error says anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def user_line(error: BaseException) -> str:
    """The innermost frame outside PyTorch in an exception and its causes."""
    found = ""
    while True:
        for frame in traceback.extract_tb(error.__traceback__):
            if _is_users(frame.filename):
                found = f"{frame.filename}:{frame.lineno} {frame.name}\n{frame.line or ''}".rstrip()
        quoted = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', str(error))
        for path, line, name in quoted:  # PyTorch quotes the user's stack in its messages
            if _is_users(path):
                found = f"{path}:{line} {name}"
        following = error.__cause__ or error.__context__
        if following is None:
            return found
        error = following
    return found
