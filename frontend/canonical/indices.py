"""Arithmetic on positions: what a mask is, decided from how it is computed, whatever the sizes are.

An integer tensor made of ``arange`` by sums, differences, broadcasting and indexing is affine in
its positions,

    t[i, j, ...] = c + a i + b j + ...

and so is the difference of two, whose sign a comparison asks for. A truth value is kept as the
affine form that is not negative where it is true. ``masks.py`` has what follows from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...ir import Graph, Node, TensorType
from ...ir.graph import Arg
from ...ir.types import Dim
from .rewrite import axis, number, operand, sizes

LARGEST = 1 << 22  # a buffer of more numbers is not looked at
LOWEST = -1e30  # what is added to forbidden scores, or less
# Narrower integers wrap around.
_DTYPES = {torch.bool, torch.int64, torch.int32, torch.float32, torch.float64}


@dataclass(frozen=True)
class Affine:
    """``constant + sum of strides * position``; a truth is what is not negative."""

    constant: int
    strides: tuple[int, ...]

    @property
    def is_constant(self) -> bool:
        return not any(self.strides)

    def aligned(self, rank: int) -> Affine:
        """The same, broadcast to more axes."""
        return Affine(self.constant, (0,) * (rank - len(self.strides)) + self.strides)

    def plus(self, other: Affine, factor: int = 1) -> Affine:
        rank = max(len(self.strides), len(other.strides))
        a, b = self.aligned(rank), other.aligned(rank)
        strides = tuple(x + factor * y for x, y in zip(a.strides, b.strides, strict=True))
        return Affine(a.constant + factor * b.constant, strides)

    def times(self, factor: int) -> Affine:
        return Affine(self.constant * factor, tuple(factor * s for s in self.strides))

    def bounds(self, shape: tuple[Dim, ...]) -> tuple[int | None, int | None]:
        """The smallest and the largest value; ``None`` where a symbolic size decides."""
        low: int | None = self.constant
        high: int | None = self.constant
        for stride, size in zip(self.strides, shape, strict=True):
            reach = stride * (size - 1) if isinstance(size, int) else None
            if stride > 0:
                high = None if reach is None or high is None else high + reach
            elif stride < 0:
                low = None if reach is None or low is None else low + reach
        return low, high


TRUE, FALSE = Affine(0, ()), Affine(-1, ())
Known = Mapping[Node, Affine]


def decided(truth: Affine, shape: tuple[Dim, ...]) -> Affine:
    """A truth value that is the same everywhere, as such."""
    low, high = truth.bounds(shape)
    if low is not None and low >= 0:
        return TRUE.aligned(len(shape))
    if high is not None and high < 0:
        return FALSE.aligned(len(shape))
    return truth


def analyse(graph: Graph) -> dict[Node, Affine]:
    """The affine form of each truth value, and of each value of whole numbers, that has one.

    Whole numbers in float32 count as such: no sequence has the 2**24 positions that it takes to
        tell.
    """
    known: dict[Node, Affine] = {}
    for node in graph.params.values():
        found = _parameter(graph, node)
        if found is not None:
            known[node] = found
    for node in graph.nodes:
        if not isinstance(node.type, TensorType) or node.dtype not in _DTYPES:
            continue
        rule = _RULES.get(node.op)
        found = rule(node, known) if rule is not None else None
        if found is not None:
            # Along an axis of size 1 nothing changes; saying so keeps equal values equal.
            strides = tuple(
                0 if size == 1 else s for s, size in zip(found.strides, node.shape, strict=True)
            )
            found = Affine(found.constant, strides)
            known[node] = decided(found, node.shape) if node.dtype == torch.bool else found
    return known


def _parameter(graph: Graph, node: Node) -> Affine | None:
    """Positions, zeros or a triangle that are stored."""
    if node.dtype not in (torch.bool, torch.int64, torch.int32) or not node.users:
        return None
    value = graph.value(node)
    if value.numel() > LARGEST or not value.numel() or value.device.type == "meta":
        return None
    if node.dtype == torch.bool:
        return _triangle(value)
    value = value.long()
    origin = (0,) * value.dim()
    first = int(value[origin])
    strides = tuple(
        int(value[(*origin[:d], 1, *origin[d + 1 :])]) - first if size > 1 else 0
        for d, size in enumerate(value.shape)
    )
    form = Affine(first, strides)
    return form if torch.equal(_filled(form, value.shape), value) else None


def _triangle(value: torch.Tensor) -> Affine | None:
    rank = value.dim()
    forms = [TRUE.aligned(rank), FALSE.aligned(rank)]
    if rank >= 2:
        forms.append(Affine(0, (*(0,) * (rank - 2), 1, -1)))
    return next((f for f in forms if torch.equal(_filled(f, value.shape) >= 0, value)), None)


def _filled(form: Affine, shape: torch.Size) -> torch.Tensor:
    total = torch.full((), form.constant)
    for place, (stride, size) in enumerate(zip(form.strides, shape, strict=True)):
        rest = len(shape) - place - 1
        total = total + stride * torch.arange(size).reshape(size, *[1] * rest)
    return total.expand(shape)


# -- one rule an op -----------------------------------------------------------------------------


def _form(arg: Arg, known: Known) -> Affine | None:
    if isinstance(arg, Node) and arg in known:
        return known[arg]
    value = number(arg)
    return Affine(int(value), ()) if value is not None and _whole(value) else None


def _whole(value: Any) -> bool:
    """Whether a number is one of the integers."""
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _pair(node: Node, known: Known) -> tuple[Affine, Affine] | None:
    rank = len(sizes(node))
    left, right = (_form(arg, known) for arg in node.args)
    if left is None or right is None or node.attrs:
        return None
    if any(isinstance(arg, Node) and arg.dtype == torch.bool for arg in node.args):
        return None  # the forms mean something else
    return left.aligned(rank), right.aligned(rank)


def _arange(node: Node, known: Known) -> Affine | None:
    start, step = node.attrs.get("start", 0), node.attrs.get("step", 1)
    return Affine(start, (step,)) if isinstance(start, int) and isinstance(step, int) else None


def _full(node: Node, known: Known) -> Affine | None:
    value = node.attrs["fill_value"]
    rank = len(sizes(node))
    if node.dtype == torch.bool:
        return (TRUE if value else FALSE).aligned(rank)
    return Affine(int(value), ()).aligned(rank) if _whole(value) else None


def _sum(factor: int) -> Callable[[Node, Known], Affine | None]:
    def rule(node: Node, known: Known) -> Affine | None:
        pair = _pair(node, known)
        return pair and pair[0].plus(pair[1], factor)

    return rule


def _mul(node: Node, known: Known) -> Affine | None:
    pair = _pair(node, known)
    if pair is None:
        return None
    left, right = pair if pair[1].is_constant else pair[::-1]
    return left.times(right.constant) if right.is_constant else None


def _compare(node: Node, known: Known) -> Affine | None:
    pair = _pair(node, known)
    if pair is None:
        return None
    left, right = pair
    match node.op:
        case "ge":
            return left.plus(right, -1)
        case "gt":
            return left.plus(right, -1).plus(Affine(-1, ()))
        case "le":
            return right.plus(left, -1)
        case "lt":
            return right.plus(left, -1).plus(Affine(-1, ()))
        case _:
            difference = left.plus(right, -1)
            if not difference.is_constant:
                return None
            same = difference.constant == 0
            return (TRUE if same == (node.op == "eq") else FALSE).aligned(len(difference.strides))


def _logical(node: Node, known: Known) -> Affine | None:
    rank = len(sizes(node))
    if any(isinstance(arg, Node) and arg.tensor.dtype != torch.bool for arg in node.args):
        return None
    forms = [_form(arg, known) for arg in node.args]
    if node.op == "logical_not":
        return None if forms[0] is None else forms[0].times(-1).plus(Affine(-1, ()))
    strong = FALSE if node.op == "logical_and" else TRUE
    for form, other in (forms, forms[::-1]):
        if form is not None and form.is_constant:
            if (form.constant >= 0) == (strong.constant >= 0):
                return strong.aligned(rank)
            return other and other.aligned(rank)
    return None


def _unsqueeze(node: Node, known: Known) -> Affine | None:
    form, dim = _form(node.args[0], known), node.attrs["dim"]
    return form and Affine(form.constant, (*form.strides[:dim], 0, *form.strides[dim:]))


def _expand(node: Node, known: Known) -> Affine | None:
    form = _form(node.args[0], known)
    return form and form.aligned(len(sizes(node)))


def _permute(node: Node, known: Known) -> Affine | None:
    form = _form(node.args[0], known)
    return form and Affine(form.constant, tuple(form.strides[d] for d in node.attrs["dims"]))


def _reshape(node: Node, known: Known) -> Affine | None:
    """Where only axes of size 1 come and go, or the value is the same everywhere."""
    form = _form(node.args[0], known)
    if form is None:
        return None
    before, after = sizes(node.args[0]), sizes(node)
    if form.is_constant:
        return Affine(form.constant, (0,) * len(after))
    if [s for s in before if s != 1] != [s for s in after if s != 1]:
        return None
    kept = iter(stride for stride, size in zip(form.strides, before, strict=True) if size != 1)
    return Affine(form.constant, tuple(0 if size == 1 else next(kept) for size in after))


def _slice(node: Node, known: Known) -> Affine | None:
    form, a = _form(node.args[0], known), node.attrs
    start, step, dim = a.get("start") or 0, a.get("step", 1), a.get("dim", 0)
    if form is None or not isinstance(start, int) or start < 0 or dim < 0:
        return None
    strides = list(form.strides)
    constant = form.constant + strides[dim] * start
    strides[dim] *= step
    return Affine(constant, tuple(strides))


def _select(node: Node, known: Known) -> Affine | None:
    form, dim, index = _form(node.args[0], known), node.attrs["dim"], node.attrs["index"]
    if form is None or not isinstance(index, int) or index < 0:
        return None
    constant = form.constant + form.strides[dim] * index
    return Affine(constant, (*form.strides[:dim], *form.strides[dim + 1 :]))


def _cast(node: Node, known: Known) -> Affine | None:
    form, before = _form(node.args[0], known), node.args[0].tensor.dtype
    if form is None:
        return None
    if (before == torch.bool) == (node.dtype == torch.bool):
        return form
    if not form.is_constant:
        return None
    if before == torch.bool:
        return Affine(int(form.constant >= 0), form.strides)
    return (TRUE if form.constant else FALSE).aligned(len(form.strides))


def _index(node: Node, known: Known) -> Affine | None:
    """``t[i, j]`` with an index for each axis; negative ones would count from the end."""
    form, rank = _form(node.args[0], known), len(sizes(node))
    indices = node.args[1]
    if form is None:
        return None
    if form.is_constant:
        return Affine(form.constant, (0,) * rank)
    if len(indices) != len(form.strides):
        return None
    total = Affine(form.constant, (0,) * rank)
    for stride, index in zip(form.strides, indices, strict=True):
        where = _form(index, known)
        if where is None or index.dtype == torch.bool:
            return None
        if where.constant < 0 or any(s < 0 for s in where.strides):
            return None
        total = total.plus(where, stride)
    return total


def _gather(node: Node, known: Known) -> Affine | None:
    form = _form(node.args[0], known)
    return Affine(form.constant, (0,) * len(sizes(node))) if form and form.is_constant else None


def _diff(node: Node, known: Known) -> Affine | None:
    """``t[i] - t[i - 1]``, where what stands before the first is one step less."""
    before = operand(node, 1) if operand(node, 1) is not None else node.attrs.get("prepend")
    form, first = _form(node.args[0], known), _form(before, known)
    dim = int(node.attrs.get("dim", -1)) % max(len(sizes(node)), 1)
    if form is None or first is None or len(node.inputs) != 2 or node.attrs.get("n", 1) != 1:
        return None
    step = form.strides[dim]
    start = Affine(form.constant, (*form.strides[:dim], 0, *form.strides[dim + 1 :]))
    if sizes(before)[dim] != 1 or start.plus(first, -1) != Affine(step, (0,) * len(form.strides)):
        return None
    return Affine(step, (0,) * len(form.strides))


def _cumsum(node: Node, known: Known) -> Affine | None:
    """``c, 2c, 3c, ...`` of a value that is c everywhere."""
    form = _form(node.args[0], known)
    if form is None or not form.is_constant:
        return None
    truth = node.args[0].tensor.dtype == torch.bool
    step = int(form.constant >= 0) if truth else form.constant
    dim = axis(node, node.args[0])
    return Affine(step, tuple(step if d == dim else 0 for d in range(len(form.strides))))


_RULES: dict[str, Callable[[Node, Known], Affine | None]] = {
    "arange": _arange,
    "full": _full,
    "add": _sum(1),
    "sub": _sum(-1),
    "mul": _mul,
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _compare),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not"), _logical),
    "unsqueeze": _unsqueeze,
    "expand": _expand,
    "permute": _permute,
    "reshape": _reshape,
    "slice": _slice,
    "select": _select,
    "to": _cast,
    "index": _index,
    "gather": _gather,
    "aten.diff.default": _diff,
    "cumsum": _cumsum,
}
