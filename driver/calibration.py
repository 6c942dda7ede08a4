"""Calibration data as the user has it, made into flat graph inputs and checked before any work; and
cut into batches anew where that can be done, so that results do not depend on how it was cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..ir import Graph, InputError, TensorType, astype
from ..ir.finite import how_many_are_not, is_finite
from ..ir.interpret import execute
from ..ir.types import symbols
from ..passes.manager import difference
from .convention import bind
from .decoder import Decoder

EXAMPLES = 8  # in a batch
ALIKE = 1e-4  # examples by themselves and together, in float32

WRAP = "pass a list of inputs, each a tensor, a tuple for args, or a dict for kwargs"


def as_call(
    batch: Any, kwargs: Mapping[str, Any] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One input as positional and keyword arguments, with those of ``kwargs``."""
    named = dict(kwargs or {})
    if isinstance(batch, Mapping):
        return (), {**batch, **named}
    if isinstance(batch, (tuple, list)):
        return tuple(batch), named
    return (batch,), named


def read(
    calibration: object, graph: Graph, known: dict[str, Any], decoder: Decoder | None = None
) -> list[list[Any]]:
    """Flat graph inputs, one list a batch; an ``InputError`` names the batch and the input.

    Args:
        calibration: An iterable of inputs; it is read to its end, once.
        graph: What the inputs must fit.
        known: The arguments that the trace took as constants; a batch may leave them out.
        decoder: Where its state is, which a batch may leave out too: it then has no tokens. Of one
            that takes a token a call, a text becomes as many batches as it has tokens.
    """
    if calibration is None:
        return []
    if isinstance(calibration, (torch.Tensor, Mapping, str, bytes)):
        kind = type(calibration).__name__
        raise InputError(f"calibration is one {kind}, not an iterable of inputs", do=WRAP)
    if not isinstance(calibration, Iterable):
        kind = type(calibration).__name__
        raise InputError(f"calibration is a {kind}, which cannot be iterated over", do=WRAP)
    batches = [
        flat
        for index, batch in enumerate(calibration)
        for flat in _read(index, batch, graph, known, decoder)
    ]
    if not batches:
        raise InputError(
            "calibration holds no batch", do=f"{WRAP}; a generator can be used only once"
        )
    return batches


def _read(
    index: int, batch: Any, graph: Graph, known: dict[str, Any], decoder: Decoder | None
) -> list[list[Any]]:
    """The flat inputs of a batch: one call, or one for each token of a decoder that takes one."""
    calls = [as_call(batch)]
    if decoder is not None:
        ((args, kwargs),) = calls
        calls = decoder.each_token(args, decoder.started(graph, args, kwargs))
    try:
        flats = [bind(graph, known, args, kwargs) for args, kwargs in calls]
        for flat in flats:
            check_finite(graph, flat)
    except InputError as error:
        raise InputError(
            f"calibration batch {index}: {error.what}", where=error.where, do=error.do
        ) from None
    if decoder is not None:
        for place in range(1, len(flats)):
            with torch.no_grad():
                outputs = execute(graph, flats[place - 1])
            flats[place] = decoder.following(graph, flats[place], outputs)
    return flats


def check_finite(graph: Graph, flat: list[Any]) -> None:
    """Refuse inputs that hold NaN or infinity."""
    for node, value in zip(graph.inputs, flat, strict=True):
        if isinstance(value, torch.Tensor) and not is_finite(value):
            raise InputError(
                f"{node.name}: {how_many_are_not(value)}",
                do="clean the data; a float mask takes torch.finfo(dtype).min in place of -inf",
            )


def regrouped(graph: Graph, batches: list[list[Any]]) -> list[list[Any]]:
    """The same examples in the same order, so many a batch.

    That needs a first axis of every input and output that may vary, and examples that do not
    depend on each other, which is tried on the first of them; elsewhere batches stay as they are.
    """
    if (symbol := _batch_symbol(graph)) is None or not batches:
        return batches
    least, most = graph.symbols.get(symbol, (0, None))
    size = max(least, EXAMPLES if most is None else min(most, EXAMPLES))
    found: list[list[Any]] = []
    for alike in _alike(batches):
        whole = [torch.cat(parts) for parts in zip(*alike, strict=True)]
        count = _examples(whole)
        cuts = [*range(0, max(count - least, 0) + 1, size), count]
        found += [_part(whole, *ends) for ends in itertools.pairwise(cuts) if ends[0] < ends[1]]
    sizes = [_examples(batch) for batch in found]
    if sizes == [_examples(batch) for batch in batches] or (most is not None and max(sizes) > most):
        return batches
    return found if _independent(graph, found[0], least) else batches


def _batch_symbol(graph: Graph) -> str | None:
    """The size that is the first of every input and output, and none of their others."""
    if len(graph.output.inputs) < len(graph.outputs):  # a constant is the same for any number
        return None
    firsts: set[Any] = set()
    for type_ in (node.type for node in (*graph.inputs, *graph.output.inputs)):
        if not isinstance(type_, TensorType) or not type_.rank:
            return None
        firsts.add(type_.shape[0])
        if type_.shape[0] in set(symbols(TensorType(type_.dtype, type_.shape[1:]))):
            return None
    symbol = firsts.pop() if len(firsts) == 1 else None
    return symbol if isinstance(symbol, str) and symbol.isidentifier() else None


def _alike(batches: Sequence[list[Any]]) -> Iterator[list[list[Any]]]:
    """Batches that follow each other and differ in nothing but the number of examples."""
    for _, group in itertools.groupby(batches, key=lambda batch: [v.shape[1:] for v in batch]):
        yield list(group)


def _examples(batch: Sequence[Any]) -> int:
    return int(batch[0].shape[0])


def _part(batch: Sequence[Any], start: int, end: int) -> list[Any]:
    return [value[start:end] for value in batch]


def _independent(graph: Graph, batch: list[Any], least: int) -> bool:
    """Whether examples give the same in smaller batches."""
    count, size = _examples(batch), max(least, 1)
    if count < 2 * size:
        return False
    single = astype(graph, torch.float32)
    with torch.no_grad():
        together = execute(single, batch)
        apart = [execute(single, _part(batch, *ends)) for ends in ((0, size), (size, count))]
    return difference([torch.cat(parts) for parts in zip(*apart, strict=True)], together) < ALIKE
