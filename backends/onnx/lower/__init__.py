"""How each op is spelled in ONNX: one function an op, in a file for each family.

A lowering is called with the builder, the node, and the op's operands and attributes under their
PyTorch names. It gives back the name of the result, and raises ``Declined`` for a form that it
does not cover.
"""

from collections.abc import Callable, Mapping

from ..builder import Value
from . import (
    arithmetic,
    attention,
    blocks,
    contractions,
    elementwise,
    indexing,
    movement,
    norms,
    numbers,
    pooling,
    quantized,
    recurrence,
    reductions,
    sources,
)

LOWERINGS: Mapping[str, Callable[..., Value]] = {
    name: function
    for family in (
        arithmetic,
        attention,
        blocks,
        contractions,
        elementwise,
        indexing,
        movement,
        norms,
        numbers,
        pooling,
        quantized,
        recurrence,
        reductions,
        sources,
    )
    for name, function in family.LOWERINGS.items()
}

__all__ = ["LOWERINGS"]
