"""Scales that lose less than those of the range: clipping, searched for each block by itself.

    minimise  sum_i w_i (x^_i - x_i)^2    over the ends of the range, then over the scale for codes
    that stay (least squares, where there is no zero point)

Nothing is taken that is not better, so the result is never worse than the range.
"""

from __future__ import annotations

import torch

from .format import Format, Parameters

COARSE = torch.exp2(-torch.arange(1, 25) / 4)  # of the range, down to 1/64
FINE = torch.cat([torch.linspace(0.84, 0.98, 8), torch.linspace(1.02, 1.16, 8)])
OCTAVES = torch.exp2(-torch.arange(-1.0, 7))  # all that a power of two can be changed by
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
    return _Search(form, tensor, importance).run()


def squared_error(
    form: Format,
    tensor: torch.Tensor,
    parameters: Parameters,
    importance: torch.Tensor | None = None,
) -> float:
    """The sum of the weighted squared errors of a tensor in a format."""
    return float(_Search(form, tensor, importance).errors(parameters).sum())


class _Search:
    """The best ends of the range so far, as multiples of what they are, and their errors."""

    def __init__(self, form: Format, tensor: torch.Tensor, importance: torch.Tensor | None) -> None:
        self.form = form
        self.blocks = form.blocks(tensor)
        self.weights = None
        if importance is not None:
            self.weights = form.cut(importance.to(self.blocks.dtype).expand_as(tensor))
        self.range = form.fit(tensor)
        one = torch.ones_like(self.range.scale)
        self.low, self.high = one, one
        self.best = self.range
        self.error = self.errors(self.range)

    def errors(self, parameters: Parameters) -> torch.Tensor:
        """The error of each block."""
        found = self.form.values(self.form.nearest(self.blocks, parameters), parameters)
        squares = (found - self.blocks).square()
        return self.form.reduce("sum", squares if self.weights is None else squares * self.weights)

    def run(self) -> Parameters:
        form = self.form
        if form.element.scale_free:
            self.refit()
            return self.best
        for factor in OCTAVES if form.scale.storage == "e8m0" else COARSE:
            self.attempt(factor, factor)
        if form.scale.storage != "e8m0":
            low, high = self.low, self.high
            for factor in FINE:
                self.attempt(low * factor, high * factor)
        if not form.asymmetric:
            self.refit()
            return self.best
        for _ in range(ROUNDS):
            low, high = self.low, self.high
            for factor in FINE:
                self.attempt(low * factor, high)
            low = self.low
            for factor in FINE:
                self.attempt(low, high * factor)
        return self.best

    def attempt(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Try ends that are so many times those of the range."""
        first, zero = self.range, None
        if first.zero is None:
            scale = self.form.scale.stored(first.scale * high)
        else:
            below, reach = first.zero, self.form.element.reach
            below, above = below * low, (reach - below) * high
            scale = self.form.scale.stored(first.scale * (below + above) / reach)
            zero = torch.round(below * first.scale / scale).clamp(0, reach)
        self.take(Parameters(scale, first.whole, zero), low, high)

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
        best, zero = self.best, None
        if found.zero is not None and best.zero is not None:
            zero = torch.where(better, found.zero, best.zero)
        scale = torch.where(better, found.scale, best.scale)
        self.best = Parameters(scale, best.whole, zero)
