"""Scales that lose less than those of the range: clipping, searched for each block by itself.

    minimise  sum_i w_i (x^_i - x_i)^2    over the ends of the range, then over the scale for codes
    that stay (least squares, where there is no zero point)

Nothing is taken that is not better, so the result is never worse than the range.
"""

from __future__ import annotations

from functools import cached_property

import torch

from .format import Format, Parameters
from .integers import Integer

COARSE = torch.exp2(-torch.arange(1, 25) / 4)  # of the range, down to 1/64
FINE = torch.cat([torch.linspace(0.84, 0.98, 8), torch.linspace(1.02, 1.16, 8)])
FINE_ENDS = FINE[1::2]  # where either end has a turn, and then another
OCTAVES = torch.exp2(-torch.arange(-1.0, 7))  # all that a power of two can be changed by
CACHED = 1 << 17  # numbers that are worked on at once
ROUNDS = 2  # of the ends in turn, and of least squares


def searched(
    form: Format, tensor: torch.Tensor, importance: torch.Tensor | None = None
) -> Parameters:
    """Parameters with the least weighted squared error that the search finds.

    Args:
        form: What the tensor is to be kept in.
        tensor: The numbers.
        importance: What a squared error costs; broadcasts against the tensor.
    """
    blocks, first = form.blocks(tensor), form.fit(tensor)
    weights = _weights(form, tensor, importance, blocks.dtype)
    rows = len(blocks)
    if first.scale.dim() != blocks.dim() or len(first.scale) != rows:
        return _Search(form, blocks, weights, first).run()
    # Rows do not share scales, and so few of them at once that they stay in a cache are faster.
    count = max(1, CACHED * rows // blocks.numel())
    # Looking up wants numbers as they come, arithmetic does not.
    lay = _by_place if isinstance(form.element, Integer) else torch.Tensor.contiguous
    found = [
        _Search(
            form,
            lay(blocks[i : i + count]),
            None if weights is None else lay(weights[i : i + count]),
            Parameters(
                first.scale[i : i + count],
                first.whole,
                None if first.zero is None else first.zero[i : i + count],
            ),
        ).run()
        for i in range(0, rows, count)
    ]
    zeros = [part.zero for part in found if part.zero is not None]
    scale = torch.cat([part.scale for part in found])
    return Parameters(scale, first.whole, torch.cat(zeros) if zeros else None)


def squared_error(
    form: Format,
    tensor: torch.Tensor,
    parameters: Parameters,
    importance: torch.Tensor | None = None,
) -> float:
    """The sum of the weighted squared errors of a tensor in a format."""
    blocks = form.blocks(tensor)
    weights = _weights(form, tensor, importance, blocks.dtype)
    return float(_errors(form, blocks, weights, parameters).sum())


def _weights(
    form: Format, tensor: torch.Tensor, importance: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """The importance of each number, cut as the tensor is."""
    return None if importance is None else form.cut(importance.to(dtype).expand_as(tensor))


def _by_place(blocks: torch.Tensor) -> torch.Tensor:
    """The same blocks, with numbers of one place in their blocks side by side in memory: scales
    then vary along the innermost loop, which is as long as there are blocks."""
    return blocks.movedim(-1, 0).contiguous().movedim(0, -1)


def _errors(
    form: Format, blocks: torch.Tensor, weights: torch.Tensor | None, parameters: Parameters
) -> torch.Tensor:
    """The error of each block."""
    squares = form.rounded(blocks, parameters).sub_(blocks).square_()
    return form.reduce("sum", squares if weights is None else squares.mul_(weights))


class _Search:
    """The best ends of the range so far, as multiples of what they are, and their errors."""

    def __init__(
        self,
        form: Format,
        blocks: torch.Tensor,
        weights: torch.Tensor | None,
        first: Parameters,
    ) -> None:
        self.form, self.blocks, self.weights, self.range = form, blocks, weights, first
        one = torch.ones_like(first.scale)
        self.low, self.high = one, one
        self.best = first
        self.error = self.errors(first)

    def errors(self, parameters: Parameters) -> torch.Tensor:
        """The error of each block."""
        return _errors(self.form, self.blocks, self.weights, parameters)

    def run(self) -> Parameters:
        form = self.form
        if form.element.scale_free:
            self.refit()
            return self.best
        coarse = OCTAVES if form.scale.storage == "e8m0" else COARSE
        for factor in coarse.tolist():
            found = self.scaled(factor, factor)
            if self.hopeless(found):
                break  # smaller ones clip even more
            ends = torch.full_like(self.low, factor)
            self.take(found, ends, ends)
        if form.asymmetric:
            for _ in range(ROUNDS):
                low, high = self.low, self.high
                for factor in FINE_ENDS:
                    self.attempt(low * factor, high)
                low = self.low
                for factor in FINE_ENDS:
                    self.attempt(low, high * factor)
            return self.best
        if form.scale.storage != "e8m0":
            high = self.high
            for factor in FINE:
                self.attempt(high * factor, high * factor)
        self.refit()
        return self.best

    def attempt(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Try ends that are so many times those of the range."""
        self.take(self.scaled(low, high), low, high)

    def scaled(self, low: torch.Tensor | float, high: torch.Tensor | float) -> Parameters:
        """Parameters of such ends."""
        first, zero = self.range, None
        if first.zero is None:
            scale = self.form.scale.stored(first.scale * high)
        else:
            below, reach = first.zero, self.form.element.reach
            below, above = below * low, (reach - below) * high
            scale = self.form.scale.stored(first.scale * (below + above) / reach)
            zero = torch.round(below * first.scale / scale).clamp(0, reach)
        return Parameters(scale, first.whole, zero)

    def hopeless(self, found: Parameters) -> bool:
        """Whether no block can gain: clipping its weightiest number alone costs more."""
        weight, size = self.weightiest
        element, step = self.form.element, found.step
        outer = (
            element.outermost
            if found.zero is None
            else torch.maximum(found.zero, element.reach - found.zero)
        )
        lost = (size - outer * step).clamp(min=0)
        return not bool((weight * lost.square() < self.error).any())

    @cached_property
    def weightiest(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the number in each block to lose which costs most: the weight, and the magnitude."""
        size = self.blocks.abs()
        if self.weights is None:
            most = self.form.reduce("amax", size)
            return torch.ones_like(most), most
        cost = size.square() * self.weights
        most = self.form.reduce("amax", cost)
        weight = self.form.reduce("amax", torch.where(cost == most, self.weights, 0))
        return weight, (most / torch.where(weight > 0, weight, 1)).sqrt()

    def refit(self) -> None:
        """Scales by least squares, for the codes of the best ones so far."""
        for _ in range(ROUNDS):
            codes = self.form.nearest(self.blocks, self.best)
            step = self.form.least_squares(self.blocks, codes, self.weights)
            whole = self.best.whole
            scale = self.form.scale.stored(step if whole is None else step / whole)
            self.take(Parameters(scale, whole), self.low, self.high)

    def take(self, found: Parameters, low: torch.Tensor, high: torch.Tensor) -> None:
        """Keep what is better, block by block."""
        error = self.errors(found)
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.low = torch.where(better, low, self.low)
        self.high = torch.where(better, high, self.high)
        self.best = found.where(better, self.best)
