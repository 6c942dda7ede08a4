"""From a fit that is the best by itself to one that is better for the layer: descent on what the
Hessian says, for forms of which that has no closed solution."""

from __future__ import annotations

import torch

from ....quantization.solvers import Hessian
from .form import Form, Tensors


def refined(
    form: Form, tensors: Tensors, weight: torch.Tensor, hessian: Hessian, steps: int
) -> Tensors:
    """Tensors with a lesser ``tr[(W - V) H (W - V)']``, or the same ones; by L-BFGS.

    Args:
        weight: W, ``[O, n]``.
        steps: At most so many.
    """
    wanted, matrix = weight.double(), hessian.matrix
    whole = ((wanted @ matrix) * wanted).sum().clamp(min=1e-300)
    free = [t.clone(memory_format=torch.contiguous_format).requires_grad_() for t in tensors]
    optimizer = torch.optim.LBFGS(
        free, max_iter=steps, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        error = form.dense(tuple(free)) - wanted
        return ((error @ matrix) * error).sum() / whole

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss()
        found.backward()
        return found

    with torch.enable_grad():
        before = float(loss().detach())
        optimizer.step(step)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        better = float(loss()) <= before
    return tuple(tensor.detach() for tensor in free) if better else tensors
