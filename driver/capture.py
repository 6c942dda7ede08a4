"""What ``compile`` is given, as a graph and its flat inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram

from ..backends.profiles import target
from ..frontend.decoder import trace_decoder
from ..frontend.steps import SteppedCall
from ..frontend.trace import trace
from ..ir import Graph, InputError, TraceError
from ..passes.manager import difference
from . import calibration as data
from .convention import constants
from .decoder import LOGITS, Decoder, ends_of
from .eager import tolerance
from .generation import begin


def capture(
    model: torch.nn.Module | ExportedProgram | Graph,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    release_weights: bool = False,
) -> tuple[Graph, list[Any]]:
    """The graph, and the example as its flat inputs (empty if there is none)."""
    positional, named = data.as_call(args, kwargs)
    if isinstance(model, ExportedProgram) and not positional and not named and model.example_inputs:
        positional, named = model.example_inputs
    graph = model
    if isinstance(graph, Graph) and release_weights:
        graph.checkpoint = None  # which has them too
    if not isinstance(graph, Graph):
        graph = trace(
            graph,
            positional,
            named,
            dynamic_shapes=dynamic_shapes,
            release_weights=release_weights,
        )
    elif dynamic_shapes is not None:
        raise InputError(
            "dynamic_shapes is given with a graph, whose shapes are settled",
            do="give it to regauge.trace",
        )
    if not positional and not named and graph.inputs:
        return graph, []
    return graph, data.bind(graph, {}, positional, named)


def capture_decoder(
    model: torch.nn.Module | ExportedProgram | Graph,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    release_weights: bool = False,
) -> tuple[Graph, list[Any], Decoder]:
    """The graph of a decoder that takes what it keeps, the example with its first part there, and
    how to make text with it."""
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"cache=True is given with a {type(model).__name__}, whose inputs are settled",
            do="give the module",
        )
    if dynamic_shapes is not None:
        raise InputError(
            "dynamic_shapes is given with cache=True, which lets the batch and the lengths vary",
            do="leave out one of the two",
        )
    positional, named = data.as_call(args, kwargs)
    graph, call = trace_decoder(model, positional, named, release_weights=release_weights)
    flat = data.bind(graph, {}, (), call.example)
    if not isinstance(call, SteppedCall):
        return graph, flat, Decoder.of(graph, ends_of(model))
    places = [f"{call.kept.name}.{place}" for place in call.kept.fixed]
    decoder = Decoder.of(graph, ends_of(model), places, f"tokens are read one by one: {call.why}")
    _check_steps(graph, decoder, constants(graph, flat), call, type(model).__name__)
    return graph, flat, decoder


def _check_steps(
    graph: Graph, decoder: Decoder, known: dict[str, Any], call: SteppedCall, name: str
) -> None:
    """Raise ``TraceError`` unless a text read token by token, from state that is empty or zero,
    has the scores that the model gives to all of it at once."""
    wanted = call.whole[LOGITS]
    steps = begin(
        graph, target("torch").lower(graph), decoder, known, call.text, call.text.shape[1]
    )
    gap = difference([torch.cat([steps(token) for token in call.text.split(1, 1)], 1)], [wanted])
    if not gap <= tolerance(wanted.dtype):
        raise TraceError(
            f"the {name} gives something else for {call.text.shape[1]} tokens at once than one by "
            f"one behind what it keeps in {call.kept.name}, from zeros on (relative L2 {gap:.2g})",
            do="compile it without cache=True",
        )
