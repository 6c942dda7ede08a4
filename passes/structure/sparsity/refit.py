"""Which weights of a layer stay, and what they become to make up for those that go.

    minimise  tr[(V - W) H (V - W)']    over the matrices V with zeros of a pattern,
    H = sum_t x_t x_t'

**Worth** of a weight by itself, what the objective loses when it alone goes: ``w^2 H[j, j]`` if the
others stay as they are (Wanda, A23), ``w^2 / [H^-1][j, j]`` if they make up for it (the Optimal
Brain Surgeon).

**Sweep** (SparseGPT): column by column, those that are still to come make up for the zeros of those
before; which go is decided for some columns at once, by what each costs once all later ones make up
for it, ``target^2 R[j, j]^2`` (``solvers.hessian``).

**Least squares**: with the zeros given, the best V is that of ``[(V - W) H][i, j] = 0`` wherever V
is there, a system for each row; conjugate gradients solve all rows at once, of which each step is
one product with H.

**Search**: zeros and weights together, by the alternating direction method of multipliers: V, free,
is drawn to Z, the nearest to V + U with zeros of the pattern, more and more,

    V = (W H + rho (Z - U)) (H + rho)^-1,    Z = keep(V + U),    U += V - Z

in inputs of unit power, where the nearest is by Wanda's worth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch

from ...patterns import Pattern
from ...quantization.solvers import Hessian

Worth: TypeAlias = Literal["magnitude", "wanda", "obs"]

DAMP = 0.01  # of the mean of the Hessian's diagonal
STEPS = 200  # of conjugate gradients, at most
STRIP = 128  # columns whose zeros a sweep decides at once
FIRST, GROWTH, ROUNDS, EACH = 0.1, 1.7, 10, 3  # rho of a search, and its steps with each


def by_magnitude(weight: torch.Tensor, hessian: Hessian) -> torch.Tensor:
    return weight.square()


def by_inputs(weight: torch.Tensor, hessian: Hessian) -> torch.Tensor:
    return weight.square() * hessian.diagonal.to(weight.dtype)


def by_surgeon(weight: torch.Tensor, hessian: Hessian) -> torch.Tensor:
    inverse = torch.linalg.inv(hessian.damped(DAMP))
    return weight.square() / inverse.diagonal().to(weight.dtype)


WORTH: dict[Worth, Callable[[torch.Tensor, Hessian], torch.Tensor]] = {
    "magnitude": by_magnitude,
    "wanda": by_inputs,
    "obs": by_surgeon,
}


def least_squares(
    weight: torch.Tensor, hessian: Hessian, stays: torch.Tensor, start: torch.Tensor | None = None
) -> torch.Tensor:
    """The weights ``[O, n]`` that are best where they stay."""
    matrix = hessian.damped(DAMP).to(weight.dtype)
    scale = matrix.diagonal().rsqrt()
    found = (weight if start is None else start) * stays
    whole = weight @ matrix
    enough = (whole * scale).square().sum(1, keepdim=True) * torch.finfo(weight.dtype).eps
    left = (whole - found @ matrix) * stays
    turned = left * scale.square()
    along, power = turned, (left * turned).sum(1, keepdim=True)
    least = torch.finfo(weight.dtype).tiny
    for _ in range(STEPS):
        image = (along @ matrix) * stays
        step = power / (along * image).sum(1, keepdim=True).clamp(min=least)
        found = found + step * along
        left = left - step * image
        turned = left * scale.square()
        now = (left * turned).sum(1, keepdim=True)
        if bool((now <= enough).all()):
            break
        along = turned + now / power.clamp(min=least) * along
        power = now
    return found


def sweep(weight: torch.Tensor, hessian: Hessian, pattern: Pattern, remove: float) -> torch.Tensor:
    """The weights with zeros that a sweep over the columns leaves."""
    factor = hessian.factor("natural", DAMP, dtype=weight.dtype)
    feedback, power = factor.feedback, factor.power.to(weight.dtype)
    source = weight.T.contiguous()  # [n, O]: columns are taken one by one
    found, errors = torch.zeros_like(source), torch.zeros_like(source)
    size = pattern.unit * (max(STRIP // pattern.unit, 1) if pattern.ratio is None else 1)
    for start in range(0, len(source), size):
        stop = min(start + size, len(source))
        target = source[start:stop] + feedback[start:stop, :start] @ errors[:start]
        before, now = (pattern.count(len(weight), end) for end in (start, stop))
        part = (round(remove * now) - round(remove * before)) / (now - before)
        stays = pattern.mask(target.T.square() * power[start:stop], part).T
        for j in range(start, stop):
            wanted = target[j - start] + feedback[j, start:j] @ errors[start:j]
            found[j] = wanted * stays[j - start]
            errors[j] = source[j] - found[j]
    return found.T.contiguous()


def search(weight: torch.Tensor, hessian: Hessian, pattern: Pattern, remove: float) -> torch.Tensor:
    """The weights with zeros that the alternating directions end at."""
    if hessian not in _spectra:  # readers of one value share it
        _spectra[hessian] = _spectrum(hessian)
    scale, values, vectors = (part.to(weight.dtype) for part in _spectra[hessian])
    source = weight / scale
    wanted = (source @ vectors) * values
    near = source * pattern.mask(source.square(), remove)
    apart, rho = torch.zeros_like(source), FIRST
    for _ in range(ROUNDS):
        for _ in range(EACH):
            drawn = wanted + rho * ((near - apart) @ vectors)
            total = (drawn / (values + rho)) @ vectors.T + apart
            near = total * pattern.mask(total.square(), remove)
            apart = total - near
        rho *= GROWTH
        apart = apart / GROWTH  # it is the multiplier divided by rho
    return near * scale


_Spectrum: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_spectra: WeakKeyDictionary[Hessian, _Spectrum] = WeakKeyDictionary()


def _spectrum(hessian: Hessian) -> _Spectrum:
    """What brings inputs to unit power, ``[n]``, and eigenvalues and vectors after that."""
    matrix = hessian.damped(DAMP)
    scale = matrix.diagonal().rsqrt()
    values, vectors = torch.linalg.eigh(matrix * scale * scale[:, None])
    return scale, values, vectors
