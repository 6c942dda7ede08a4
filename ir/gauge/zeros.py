"""Which values hold zeros wherever they hold coordinates whose parameters are masked."""

from __future__ import annotations

import torch

from .. import ops
from ..graph import Node
from ..laws import (
    Add,
    Along,
    BatchNorm,
    Contract,
    Conv,
    Elementwise,
    Embedding,
    Fill,
    Gather,
    Lookup,
    Movement,
    Mul,
    Normalize,
    Parts,
    Reduce,
    ScaledDotProduct,
)
from .region import Region, operands


class Zeros:
    """The values of a permutation's region, once the parameters that hold it are masked."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.known: dict[Node, bool] = {}

    def at(self, node: Node) -> bool:
        """Whether a value holds zeros where it holds masked coordinates."""
        if node not in self.region.actions:
            return False
        if node not in self.known:
            self.known[node] = self._gives_zero(node)
        return self.known[node]

    def _gives_zero(self, node: Node) -> bool:
        held = {
            port: bool(self.region.actions_of(node, port)) if n.op == "param" else self.at(n)
            for port, n in operands(node).items()
            if n.op == "param" or n in self.region.actions
        }
        match ops.get(node.op).law:
            case Contract() | Conv() | Normalize() | BatchNorm():
                added = held.get((2,), True)  # a bias is dropped with the rest
                return added and (held.get((0,), False) or held.get((1,), False))
            case Embedding():
                return held.get((0,), False)
            case Mul():
                return held.get((0,), False) or (node.op == "mul" and held.get((1,), False))
            case ScaledDotProduct():
                return held.get((2,), False)
            case Add():
                numbers = [arg for arg in node.args if not isinstance(arg, Node)]
                return len(held) + len(numbers) == 2 and all(held.values()) and not any(numbers)
            case Elementwise() if set(node.inputs) <= {node.args[0]}:
                zero = torch.zeros((), dtype=node.dtype)
                rest = (zero, *node.args[1:])
                return held.get((0,), False) and not bool(ops.call(node.op, rest, node.attrs))
            case Movement() | Reduce() | Along() | Lookup() | Gather() | Parts():
                return all(held.values())
            case Fill():
                return not node.attrs.get("fill_value", 0 if "zeros" in node.op else 1)
            case _:
                return False
