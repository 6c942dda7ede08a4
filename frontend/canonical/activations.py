"""An activation that was written out becomes one op, however it was written.

    0.5 x (1 + tanh(0.79788 (x + 0.044715 x^3))),  x (0.5 + 0.5 erf(0.70710 x)),  x / (1 + exp(-x)),
     ...

A product whose factors are made of one value x and numbers alone, by addition, multiplication,
division, powers, tanh, erf, exp and sigmoid, is an analytic function of x. Where it agrees with a
known one at 256 points on [-9, 9], to what float32 can tell, it is that one: two such short
expressions that agree there agree everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F

from ...ir import Node
from ...ir import ops as table
from ...ir.graph import Arg
from .rewrite import At, Rules, number, on

_CURVES = {"tanh", "erf", "sigmoid", "exp"}
_ANALYTIC = _CURVES | {"add", "sub", "mul", "div", "pow", "neg", "silu"}
_LONGEST = 16  # nodes of an expression

# A model's own constants are rounded to float32 (0.79788456 for sqrt(2 / pi)), which moves values
# by 4e-9.
_TOLERANCE = 2e-8


_KNOWN: tuple[tuple[str, dict[str, Arg], Callable[[torch.Tensor], torch.Tensor]], ...] = (
    ("gelu", {}, lambda x: F.gelu(x)),
    ("gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    ("silu", {}, F.silu),
)


@functools.cache
def _points() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    x = torch.linspace(-9, 9, 256, dtype=torch.float64)
    return x, tuple(function(x) for _, _, function in _KNOWN)


def _analytic(node: Arg) -> bool:
    """Whether a node computes with one value and numbers, or with two values made of one."""
    if not isinstance(node, Node) or node.op not in _ANALYTIC or node.attrs:
        return False
    return all(isinstance(arg, Node) or number(arg) is not None for arg in node.args)


def _expression(root: Node) -> list[Node]:
    """The nodes behind the root that could belong to its expression, each before what it reads."""
    found: dict[Node, None] = {root: None}
    stack = [root]
    while stack and len(found) < _LONGEST:
        for arg in stack.pop(0).args:
            if isinstance(arg, Node) and number(arg) is None:
                found[arg] = None
                if _analytic(arg) and arg.type == root.type:
                    stack.append(arg)
    return list(found)


def _evaluate(root: Node, source: Node, x: torch.Tensor) -> torch.Tensor | None:
    """The root at these values of the source; ``None`` if it needs more than the source."""
    values: dict[Node, torch.Tensor | None] = {source: x}

    def value(arg: Arg) -> torch.Tensor | float | None:
        constant = number(arg)
        if constant is not None or not isinstance(arg, Node):
            return constant
        if arg not in values:
            values[arg] = None
            parts = [value(part) for part in arg.args] if _analytic(arg) else [None]
            if not any(part is None for part in parts):
                values[arg] = table.call(arg.op, tuple(parts), {})
        return values[arg]

    result = value(root)
    return result if isinstance(result, torch.Tensor) else None


def _sources(root: Node) -> Iterator[Node]:
    """What the root may be a function of, the nearest first."""
    for node in _expression(root)[1:]:
        if node.type == root.type:
            yield node


def _recognised(node: Node, at: At) -> Node | None:
    if not _analytic(node) or not node.tensor.dtype.is_floating_point:
        return None
    behind = _expression(node)
    if not any(n.op in _CURVES for n in behind):
        return None
    x, known = _points()
    for source in _sources(node):
        found = _evaluate(node, source, x)
        if found is None:
            continue
        for (op, attrs, _), expected in zip(_KNOWN, known, strict=True):
            if torch.allclose(found, expected, rtol=_TOLERANCE, atol=1e-12):
                return at.instead(op, source, **attrs)
    return None


RULES: Rules = on("mul div", _recognised)
