"""Codes of state, as arithmetic in the graph: rows of the last axis in groups that share a scale.

    s = (max x - min x) / (2^b - 1)      u = clip(round((x - min x) / s), 0, 2^b - 1)
    x ~ s u + min x

Codes of 2 and 4 bits lie four and two in a byte, the first part of a row in the low bits. Codes of
16 bits are kept less 2^15. The range is that of each group as it comes, or a static one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ...ir import Graph, InputError, Node

Add: TypeAlias = Callable[..., Node]

STORAGE = {2: torch.uint8, 4: torch.uint8, 8: torch.uint8, 16: torch.int16}


@dataclass(frozen=True)
class StateFormat:
    """How rows are kept.

    Attributes:
        bits: 2, 4, 8 or 16.
        group: How many neighbours share a scale; all of a row where not given.
        scale: The dtype of scales and least numbers; that of the rows where not given.
    """

    bits: int
    group: int | None = None
    scale: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.bits not in STORAGE:
            raise InputError(f"state is kept in 2, 4, 8 or 16 bits, not {self.bits}")

    def check(self, node: Node) -> None:
        """Refuse rows that do not divide."""
        size = int(node.shape[-1])
        group = self.group or size
        packed = self.in_byte
        if size % group or size % packed:
            raise InputError(
                f"{node.name}: rows of {size} do not divide into groups of {group}"
                + (f" and bytes of {packed} codes" if packed > 1 else ""),
                where=node.at,
                do=f"choose a group that divides {size}, or none",
            )

    @property
    def in_byte(self) -> int:
        """How many codes a byte holds."""
        return max(8 // self.bits, 1)

    @property
    def top(self) -> int:
        return 2**self.bits - 1

    def bytes(self, size: int, item: int, *, static: bool = False) -> float:
        """Of a row of so many numbers.

        Args:
            item: The size of a scale, where they have the rows' dtype.
            static: Whether ranges are not kept with each row.
        """
        one = item if self.scale is None else self.scale.itemsize
        ranges = 0 if static else 2 * (size // (self.group or size)) * one
        return size * self.bits / 8 + ranges

    def __str__(self) -> str:
        return f"int{self.bits}" + (f" in groups of {self.group}" if self.group else "")


@dataclass(frozen=True)
class Range:
    """Static ranges: what codes count from and their step, broadcast against rows."""

    low: Node
    step: Node


@dataclass
class Coder:
    """Writes the arithmetic of one tensor of state into a graph.

    Attributes:
        dtype: Of the rows.
        static: Its ranges, where they are not each row's own.
    """

    graph: Graph
    form: StateFormat
    name: str
    dtype: torch.dtype
    static: Range | None = None

    def encode(self, rows: Node, before: Node | None) -> dict[str, Node]:
        """Codes ``[..., n / in_byte]`` and, unless they are static, scale and least number
        ``[..., n / group]``."""
        graph, form = self.graph, self.form
        size = int(rows.shape[-1])
        group = form.group or size

        def add(op: str, *args: Any, **attrs: Any) -> Node:
            return graph.add(op, *args, before=before, name=f"{self.name}_{op}", **attrs)

        parts: list[Node] = []
        steps: list[Node] = []
        lows: list[Node] = []
        for at in range(0, size, group):
            part = rows if group == size else add("slice", rows, dim=-1, start=at, end=at + group)
            if self.static is None:
                low = add("amin", part, dim=(-1,), keepdim=True)
                high = add("amax", part, dim=(-1,), keepdim=True)
                step = add("mul", add("sub", high, low), 1 / form.top)
                if form.scale is not None:
                    low, step = add("to", low, dtype=form.scale), add("to", step, dtype=form.scale)
                lows.append(low)
                steps.append(step)
                low, step = self._wide(add, low), self._wide(add, step)
            else:
                low, step = self._of(add, self.static, at, group, size)
            safe = add("clamp", step, min=torch.finfo(torch.float32).tiny)
            code = add("round", add("div", add("sub", part, low), safe))
            parts.append(add("clamp", code, min=0, max=form.top))
        codes = self._packed(add, self._joined(add, parts))
        found = {"codes": codes}
        if self.static is None:
            found |= {"scale": self._joined(add, steps), "low": self._joined(add, lows)}
        return found

    def decode(self, parts: dict[str, Node], before: Node | None) -> Node:
        """The rows that codes stand for."""
        graph, form = self.graph, self.form

        def add(op: str, *args: Any, **attrs: Any) -> Node:
            return graph.add(op, *args, before=before, name=f"{self.name}_{op}", **attrs)

        codes = self._unpacked(add, parts["codes"])
        size = int(codes.shape[-1])
        group = form.group or size
        rows: list[Node] = []
        for place, at in enumerate(range(0, size, group)):
            code = codes if group == size else add("slice", codes, dim=-1, start=at, end=at + group)
            if self.static is None:
                one = {"dim": -1, "start": place, "end": place + 1}
                low, step = (
                    self._wide(add, part if group == size else add("slice", part, **one))
                    for part in (parts["low"], parts["scale"])
                )
            else:
                low, step = self._of(add, self.static, at, group, size)
            rows.append(add("add", add("mul", code, step), low))
        return self._joined(add, rows)

    # -- parts -----------------------------------------------------------------------------------

    def _wide(self, add: Add, node: Node) -> Node:
        return node if node.dtype == self.dtype else add("to", node, dtype=self.dtype)

    def _of(self, add: Add, range_: Range, at: int, group: int, size: int) -> tuple[Node, Node]:
        if group == size:
            return range_.low, range_.step
        of = {"dim": -1, "start": at, "end": at + group}
        return add("slice", range_.low, **of), add("slice", range_.step, **of)

    def _joined(self, add: Add, parts: list[Node]) -> Node:
        return parts[0] if len(parts) == 1 else add("cat", tuple(parts), dim=-1)

    def _packed(self, add: Add, codes: Node) -> Node:
        count, storage = self.form.in_byte, STORAGE[self.form.bits]
        if storage == torch.int16:
            return add("to", add("sub", codes, 2**15), dtype=storage)
        if count == 1:
            return add("to", codes, dtype=storage)
        width = int(codes.shape[-1]) // count
        total: Node | None = None
        for i in range(count):
            part = add("slice", codes, dim=-1, start=i * width, end=(i + 1) * width)
            part = add("mul", part, float(2 ** (i * self.form.bits))) if i else part
            total = part if total is None else add("add", total, part)
        return add("to", total, dtype=storage)

    def _unpacked(self, add: Add, codes: Node) -> Node:
        count = self.form.in_byte
        wide = add("to", codes, dtype=self.dtype)
        if codes.dtype == torch.int16:
            return add("add", wide, 2**15)
        if count == 1:
            return wide
        base, parts, rest = float(2**self.form.bits), [], wide
        for _ in range(count - 1):
            higher = add("floor", add("mul", rest, 1 / base))
            parts.append(add("sub", rest, add("mul", higher, base)))
            rest = higher
        return self._joined(add, [*parts, rest])
