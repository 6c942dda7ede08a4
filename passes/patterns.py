"""Which weights of a matrix may be zero: patterns, and the mask of each that keeps the most.

A pattern gets what each weight is worth, ``[O, n]``, none negative, and gives what stays, so that
the sum of what goes is the least that the pattern allows. A convolution's weight is a matrix of one
row an output, in which the inputs of one kernel position are neighbours (``ir.codes``).
"""

from __future__ import annotations

import abc
import re
from dataclasses import dataclass

import torch

from ..ir import InputError
from .options import SOME, check_numbers, divisors, nearest


@dataclass(frozen=True)
class Pattern(abc.ABC):
    """A value with typed options."""

    @abc.abstractmethod
    def mask(self, worth: torch.Tensor, remove: float) -> torch.Tensor:
        """What stays of ``[O, n]``, as booleans.

        Args:
            remove: The part that goes, to the nearest number of what the pattern counts.
        """

    @property
    def ratio(self) -> float | None:
        """The part that goes, where the pattern says it."""
        return None

    @property
    def unit(self) -> int:
        """How many neighbouring columns are decided together."""
        return 1

    @property
    def together(self) -> int:
        """How many neighbouring columns go as one."""
        return 1

    @abc.abstractmethod
    def count(self, rows: int, columns: int) -> int:
        """Of how many things in a matrix the part is."""

    @abc.abstractmethod
    def zeros(self, rows: int, columns: int, remove: float) -> int:
        """How many weights of a matrix go: as many as ``mask`` leaves out."""

    @property
    def things(self) -> str:
        """What these are."""
        return "weights of each row"

    def refusal(self, rows: int, inputs: int) -> str:
        """Why a matrix cannot have the pattern; empty where it can.

        Args:
            inputs: The neighbours in a row: all, or those of one kernel position.
        """
        return ""


@dataclass(frozen=True)
class Rows(Pattern):
    """As many zeros in each row, anywhere (A23)."""

    def mask(self, worth: torch.Tensor, remove: float) -> torch.Tensor:
        return _without_least(worth, round(remove * worth.shape[1]))

    def count(self, rows: int, columns: int) -> int:
        return columns

    def zeros(self, rows: int, columns: int, remove: float) -> int:
        return rows * round(remove * columns)

    def __str__(self) -> str:
        return "rows"


@dataclass(frozen=True)
class Whole(Pattern):
    """So many zeros in the whole matrix, anywhere."""

    def mask(self, worth: torch.Tensor, remove: float) -> torch.Tensor:
        flat = worth.flatten()
        return _without_least(flat, round(remove * len(flat))).view_as(worth)

    def count(self, rows: int, columns: int) -> int:
        return rows * columns

    def zeros(self, rows: int, columns: int, remove: float) -> int:
        return round(remove * rows * columns)

    @property
    def things(self) -> str:
        return "weights"

    def __str__(self) -> str:
        return "layer"


@dataclass(frozen=True)
class NofM(Pattern):
    """At most n of each m neighbouring inputs are there.

    Args:
        n, m: From 1 to m - 1, and m.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        check_numbers(self, n=SOME, m=SOME)
        if not 1 <= self.n < self.m:
            raise InputError(
                f"{self.n} of each {self.m} is no pattern of zeros",
                do="n:m with n from 1 to m - 1, such as 2:4",
            )

    def mask(self, worth: torch.Tensor, remove: float) -> torch.Tensor:
        return _without_least(worth.unflatten(1, (-1, self.m)), self.m - self.n).flatten(1)

    def count(self, rows: int, columns: int) -> int:
        return columns

    def zeros(self, rows: int, columns: int, remove: float) -> int:
        return rows * columns // self.m * (self.m - self.n)

    @property
    def ratio(self) -> float:
        return 1 - self.n / self.m

    @property
    def unit(self) -> int:
        return self.m

    def refusal(self, rows: int, inputs: int) -> str:
        if not inputs % self.m:
            return ""
        near = nearest(self.m, [m for m in divisors(inputs) if m > self.n])
        return f"groups of {self.m} do not divide its {inputs} inputs{near and f'; {near} do'}"

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@dataclass(frozen=True)
class Blocks(Pattern):
    """Whole blocks of the matrix are there, or not.

    Args:
        rows, columns: Of a block.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        check_numbers(self, rows=SOME, columns=SOME)
        if self.rows < 1 or self.columns < 1:
            raise InputError(
                f"there are no blocks of {self.rows} x {self.columns}",
                do="whole numbers from 1, such as 32x32",
            )

    def mask(self, worth: torch.Tensor, remove: float) -> torch.Tensor:
        cut = worth.unflatten(1, (-1, self.columns)).unflatten(0, (-1, self.rows))
        total = cut.sum((1, 3))  # [O / rows, n / columns]
        stays = _without_least(total.flatten(), round(remove * total.numel())).view_as(total)
        return stays.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)

    def count(self, rows: int, columns: int) -> int:
        return rows // self.rows * (columns // self.columns)

    def zeros(self, rows: int, columns: int, remove: float) -> int:
        return round(remove * self.count(rows, columns)) * self.rows * self.columns

    @property
    def things(self) -> str:
        return "blocks"

    @property
    def together(self) -> int:
        return self.columns

    @property
    def unit(self) -> int:
        return self.columns

    def refusal(self, rows: int, inputs: int) -> str:
        if rows % self.rows or inputs % self.columns:
            high, wide = nearest(self.rows, divisors(rows)), nearest(self.columns, divisors(inputs))
            return (
                f"blocks of {self} do not divide its {rows} outputs and {inputs} inputs; {high} "
                f"outputs and {wide} inputs do"
            )
        return ""

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


def named_pattern(given: str | Pattern) -> Pattern:
    """The pattern of a name: ``rows``, ``layer``, ``n:m`` or ``RxC``."""
    if isinstance(given, Pattern):
        return given
    if given in ("rows", "layer"):
        return Rows() if given == "rows" else Whole()
    if found := re.fullmatch(r"(\d+)([:x])(\d+)", str(given)):
        first, between, second = found.groups()
        kind = NofM if between == ":" else Blocks
        return kind(int(first), int(second))
    raise InputError(
        f"there is no pattern {given!r}",
        do="'rows', 'layer', n of m inputs such as '2:4', or blocks such as '32x32'",
    )


@dataclass(frozen=True)
class Sparsity:
    """A pattern, and the part that goes.

    Args:
        remove: From above 0 to below 1.
    """

    pattern: Pattern
    remove: float

    def mask(self, worth: torch.Tensor) -> torch.Tensor:
        """What stays of ``[O, n]``."""
        return self.pattern.mask(worth, self.remove)

    def zeros(self, rows: int, columns: int) -> int:
        """How many weights of a matrix go."""
        return self.pattern.zeros(rows, columns, self.remove)

    def __str__(self) -> str:
        return str(self.pattern) + f"-{self.remove:g}" * (self.pattern.ratio is None)


def named_sparsity(given: str | Sparsity) -> Sparsity:
    """That of a name: a pattern, such as ``2:4``, with the part that goes behind it where the
    pattern does not say it: ``rows-0.5``, ``32x32-0.75``."""
    if isinstance(given, Sparsity):
        return given
    name, dash, text = str(given).partition("-")
    pattern = named_pattern(name)
    if pattern.ratio is not None and not dash:
        return Sparsity(pattern, pattern.ratio)
    known = pattern.ratio is None and re.fullmatch(r"0?\.\d*[1-9]\d*", text)
    if not known:
        raise InputError(
            f"zeros of {given!r} are not a pattern and the part that goes",
            do=f"'{pattern}'" if pattern.ratio is not None else f"such as '{pattern}-0.5'",
        )
    return Sparsity(pattern, float(text))


def _without_least(worth: torch.Tensor, count: int) -> torch.Tensor:
    """All but so many of the least on the last axis."""
    least = worth.topk(count, largest=False, sorted=False).indices
    return torch.ones_like(worth, dtype=torch.bool).scatter_(-1, least, False)
