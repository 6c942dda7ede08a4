"""Integer codes of weights, and the sums that kernels make of them.

Processors without VNNI multiply uint8 by int8 and add two neighbours in 16 bits, which saturate.
255 (q[2k] + q[2k+1]) must stay below 2^15: two codes of one sign must not sum to more than 128.
Where all codes obey this, every kernel is exact.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

PAIR_LIMIT = 128


def in_kernel_order(weight: torch.Tensor) -> torch.Tensor:
    """``[O, I, *kernel]`` as ``[O, kernel * I]``: the order in which integer kernels add."""
    return weight.movedim(1, -1).flatten(1)


def out_of_kernel_order(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse, for weights of the shape given."""
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def paired(rows: torch.Tensor) -> torch.Tensor:
    """The nearest codes that obey the limit, for codes ``[O, n]`` as floats; what a pair exceeds it
    by is taken from both."""
    n = rows.shape[1]
    couples = pad(rows, (0, n % 2)).unflatten(1, (-1, 2))
    one_sign = couples.prod(-1) > 0
    excess = torch.clamp(couples.abs().sum(-1) - PAIR_LIMIT, min=0) * one_sign
    less = torch.stack([torch.floor(excess / 2), torch.ceil(excess / 2)], -1)
    return (couples - couples.sign() * less).flatten(1)[:, :n]


def fits_pairs(weight: torch.Tensor) -> bool:
    """Whether the codes of a weight ``[O, I, *kernel]`` obey the limit."""
    rows = in_kernel_order(weight).float()
    return torch.equal(paired(rows), rows)


def bias_codes(bias: torch.Tensor, scale: torch.Tensor, weight_scale: torch.Tensor) -> torch.Tensor:
    """A bias ``[O]`` as int32, in units of the sums of products of codes."""
    unit = scale.double().reshape(-1) * weight_scale.double().reshape(-1)
    return torch.round(bias.double() / unit).clamp(-(2**31), 2**31 - 1).to(torch.int32)
