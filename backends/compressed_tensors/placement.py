"""Which parameter of a rewritten graph stands where a tensor of the checkpoint stood.

Both graphs are walked from their outputs at once. Where they do the same, op by op, the model's own
code computes the rewritten function from other weights, so what a node reads in the one is what
goes into the checkpoint for what it reads in the other. Codes count as the parameter that they
stand for, and codes of what a linear layer reads are noted. Anything else has no place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import torch

from ...ir import Graph, Node, TargetError, ops
from ...ir.graph import Arg

NEUTRAL = {"weight": 1.0, "bias": 0.0}  # of an operand that is left out


@dataclass(frozen=True)
class Use:
    """One reading of a parameter.

    Attributes:
        param: In the graph as traced.
        reader: In the graph as traced.
        found: What is read in its place: a parameter, the op that makes one of codes, or the number
            that it would hold throughout.
        data: What the reader reads besides, in the rewritten graph, where that is codes.
    """

    param: Node
    reader: Node
    found: Node | float
    data: Node | None = None


def stored(node: Node) -> bool:
    """Whether a node is a parameter, in codes or not."""
    in_codes = node.op in ("decode", "dequantize")
    return node.op == "param" or (in_codes and all(used.op == "param" for used in node.inputs))


def source(node: Node) -> Node:
    """What codes were made of, of a value that codes give back; else the node itself."""
    if node.op != "dequantize":
        return node
    codes: Node = node.args[0]
    codes = codes.args[0] if codes.op == "getitem" else codes
    return codes.args[0] if codes.op in ("quantize", "dynamic_quantize") else node


def uses(new: Graph, old: Graph) -> list[Use]:
    """Every reading of a parameter of the graph as it was traced.

    Raises:
        TargetError: The graphs do not do the same.
    """
    return list(_Walk(new, old).run())


class _Walk:
    def __init__(self, new: Graph, old: Graph) -> None:
        self.inputs = dict(zip(old.inputs, new.inputs, strict=True))
        self.stack = [(new.output, old.output)]
        self.seen = set(self.stack)

    def run(self) -> Iterator[Use]:
        while self.stack:
            new, old = self.stack.pop()
            names = ops.get(old.op).operands if old.op != "output" else ()
            pairs = list(zip_longest(new.args, old.args))
            for (left, right), name in zip(pairs, (*names, *[""] * len(pairs)), strict=False):
                yield from self.compare(new, left, old, right, name)
            for name in {**old.attrs, **new.attrs}:
                pair = new.attrs.get(name), old.attrs.get(name)
                yield from self.compare(new, pair[0], old, pair[1], name)

    def compare(self, reader: Node, new: Arg, was: Node, old: Arg, name: str) -> Iterator[Use]:
        if isinstance(old, Node) and old.op == "param":
            yield self.use(reader, new, was, old, name)
        elif isinstance(old, Node) and isinstance(new, Node):
            self.push(new, old)
        elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
            for left, right in zip(new, old, strict=True):
                yield from self.compare(reader, left, was, right, name)
        elif not _same(new, old):
            raise TargetError(
                f"{reader.name}: its {name or 'operand'} is {_show(new)}, and {_show(old)} in the "
                "model's own code, which has no place for another",
                where=reader.at,
            )

    def push(self, new: Node, old: Node) -> None:
        new = new if old.op == "dequantize" else source(new)
        if new.op != old.op or self.inputs.get(old, new) is not new:
            raise TargetError(
                f"{new.name} is {_article(new.op)}, where the model's own code has "
                f"{_article(old.op)}, {old.name}",
                where=new.at,
            )
        if old.op != "input" and (new, old) not in self.seen:
            self.seen.add((new, old))
            self.stack.append((new, old))

    def use(self, reader: Node, new: Arg, was: Node, old: Node, name: str) -> Use:
        if new is None and name in NEUTRAL:
            return Use(old, was, NEUTRAL[name])
        if not isinstance(new, Node) or not stored(new):
            raise TargetError(
                f"{reader.name} reads {_show(new)} where the model's own code has {old.name}",
                where=reader.at,
            )
        first = next((arg for arg in reader.args if isinstance(arg, Node)), None)
        codes = first if first is not None and source(first) is not first else None
        return Use(old, was, new, codes)


def _same(new: Arg, old: Arg) -> bool:
    both = isinstance(new, torch.dtype) and isinstance(old, torch.dtype)
    if both and new.is_floating_point and old.is_floating_point:
        return True  # exact passes run in double precision
    return type(new) is type(old) and not isinstance(new, Node) and new == old


def _show(arg: Arg) -> str:
    return arg.name if isinstance(arg, Node) else "nothing" if arg is None else repr(arg)


def _article(op: str) -> str:
    return f"{'an' if op[0] in 'aeiou' else 'a'} {op}"
