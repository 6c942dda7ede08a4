"""Floating-point formats of few bits for what contractions read and for their weights, by the
error of the result (LLM-FP4, A32; F4.1, F4.2).

    min over M, b of  sum_t |Q_M,b(x_t) W' - x_t W'|^2,   E + M + 1 bits, b the bias of the exponent

The bias is a real number: it is the logarithm of a scale. Of an activation there is one for the
tensor; of weights one for each output channel, where the error of the result is weighed by the
mean square of each column's input. ``Smooth(rule="exponent")``, run before, gives each channel of
an activation a whole exponent of its own, folded into the weights (F4.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...ir.formats import Format, Granularity, Minifloat, Parameters, best_float

ALL_OUTPUTS = Granularity("channel")
# Multiples of the range that saturates nothing, as the source has them, in finer steps of the bias.
CLIPS = torch.exp2(-torch.arange(0, 33) / 8)


def float_of_rows(
    rows: torch.Tensor, weights: Sequence[torch.Tensor], bits: int
) -> tuple[Format, Parameters]:
    """The format of an activation, one scale for the tensor, at which its readers' results err
    least.

    Args:
        rows: A sample of it, ``[k, n]``.
        weights: Of its readers, ``[O, n]``.
    """
    stacked = torch.cat(list(weights))
    power = (stacked.T @ stacked).to(rows.dtype)  # |e W'|^2 = e (W' W) e'
    least: tuple[float, Format, Parameters] | None = None
    for mantissa in range(bits - 1):
        form = Format(Minifloat(bits - 1 - mantissa, mantissa, specials="none"))
        start = form.fit(rows)
        for clip in CLIPS.tolist():
            found = form.stored(Parameters(start.scale * clip))
            gap = form.rounded(form.blocks(rows), found) - rows
            error = float(((gap @ power) * gap).sum())
            if least is None or error < least[0]:
                least = error, form, found
    assert least is not None, "there are at least two bits"
    return least[1], least[2]


def float_of_weight(
    weight: torch.Tensor, rows: torch.Tensor, bits: int
) -> tuple[Format, Parameters]:
    """The format of a weight ``[O, n]``, a scale for each output, for a reader of such rows."""
    return best_float(weight, bits, ALL_OUTPUTS, rows.square().mean(0))
