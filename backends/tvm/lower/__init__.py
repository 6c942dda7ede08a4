"""How each op is written in Relax: one function an op, in a file for each family.

A lowering is called with the builder, the node, and the op's operands and attributes under their
PyTorch names. It gives back the result, and raises ``Declined`` for a form that it does not cover.
"""

from collections.abc import Callable, Mapping

from ..builder import Value
from . import (
    arithmetic,
    attention,
    codes,
    contractions,
    convolutions,
    elementwise,
    indexing,
    movement,
    norms,
    numbers,
    pooling,
    quantized,
    reductions,
    sources,
)

LOWERINGS: Mapping[str, Callable[..., Value]] = {
    name: function
    for family in (
        arithmetic,
        attention,
        codes,
        contractions,
        convolutions,
        elementwise,
        indexing,
        movement,
        norms,
        numbers,
        pooling,
        quantized,
        reductions,
        sources,
    )
    for name, function in family.LOWERINGS.items()
}

__all__ = ["LOWERINGS"]
