"""K-best search: GPTQ that keeps the best few beginnings instead of one (A07, A26).

    tr[(V - W) H (V - W)'] = sum_j R[j, j]^2 |target_j - v_j|^2

The targets follow from the columns before (``gptq``), so a row of V is a path in a tree. Each of K
beginnings goes on with the nearest number and the one on the other side of its target, and of these
2 K the K of the least cost are kept, for each row by itself. Source: F6.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...options import AMOUNT, COUNT, check_known, check_numbers
from .gptq import GPTQ
from .grid import Grid
from .hessian import ORDERS, Factor, Hessian, Order
from .problem import Solution

ROWS = 256  # that are searched at once: as many as stay in a cache


@dataclass(frozen=True)
class KBest:
    """The best of K paths; never worse than GPTQ, with which it starts.

    Vector formats, whose numbers have many neighbours, are rounded by GPTQ alone.

    Args:
        width: K.
        order, damp: As of ``GPTQ``.
        block: Columns whose errors are carried to the rest at once; it changes the time alone.
    """

    width: int = 8
    order: Order = "descending"
    damp: float | None = None
    block: int = 32

    def __post_init__(self) -> None:
        check_known([self.order], ORDERS, "order of columns")
        check_numbers(self, width=COUNT, damp=AMOUNT | None, block=COUNT)

    @property
    def learns(self) -> bool:
        return True

    def solve(self, weight: torch.Tensor, hessian: Hessian, grid: Grid) -> Solution:
        plain = GPTQ(self.order, self.damp).solve(weight, hessian, grid).values
        if grid.unit > 1 or self.width == 1:
            return Solution(plain)
        damp = grid.damp if self.damp is None else self.damp
        factor = hessian.factor(self.order, damp, dtype=weight.dtype)
        found = torch.cat(
            [
                self._search(weight[rows], factor, grid.rows(rows))
                for rows in (slice(i, i + ROWS) for i in range(0, len(weight), ROWS))
            ]
        )
        found = grid.nearest(found)  # what it was, without the rounding of sums
        better = hessian.cost(found - weight, damp) < hessian.cost(plain - weight, damp)
        return Solution(torch.where(better[:, None], found, plain))

    def _search(self, weight: torch.Tensor, factor: Factor, grid: Grid) -> torch.Tensor:
        """The best of the paths of some rows, ``[O, n]``; but for rounding, on the grid."""
        width, (rows, n) = self.width, weight.shape
        feedback, power = factor.feedback, factor.power.to(weight.dtype).tolist()
        source = weight.T[factor.order]
        target = source[:, None].repeat(1, width, 1)  # [n, K, O]
        chosen = torch.zeros_like(target) if grid.pairs else target  # as columns come
        cost = torch.full((width, rows), torch.inf, dtype=weight.dtype)
        cost[0] = 0  # of K beginnings that are alike, one counts
        columns = factor.order.tolist()
        blocks: list[tuple[torch.Tensor, torch.Tensor]] = []  # errors, and what each path began as
        for start in range(0, n, self.block):
            stop = min(start + self.block, n)
            errors = torch.empty_like(target[start:stop])
            first = torch.arange(width)[:, None].expand(width, rows)
            for i in range(start, stop):
                done, place = i - start, columns[i]
                wanted = target[i].gather(0, first)
                if done:
                    moved = feedback[i, start:i] @ errors[:done].flatten(1)
                    wanted = wanted + moved.view_as(wanted)
                near = grid.round(place, wanted, chosen)
                other = grid.beside(place, wanted, chosen)
                added = torch.stack([near - wanted, other - wanted]).square_().mul_(power[i])
                total = added.add_(cost)  # [2, K, O]
                total[1].masked_fill_(near == other, torch.inf)
                cost, kept = total.flatten(0, 1).topk(width, dim=0, largest=False, sorted=False)
                parent = kept % width
                first = first.gather(0, parent)
                errors[:done] = errors[:done].gather(1, parent.expand(done, -1, -1))
                values = torch.cat([near, other]).gather(0, kept)
                torch.sub(source[i], values, out=errors[done])
                if grid.pairs:
                    chosen = chosen.gather(1, parent.expand(n, -1, -1))
                    chosen[place] = values
            rest = target[stop:].gather(1, first.expand(n - stop, -1, -1))
            rest.flatten(1).addmm_(feedback[stop:, start:stop], errors.flatten(1))
            target[stop:] = rest
            blocks.append((errors, first))
        path = cost.argmin(0, keepdim=True)
        found = torch.empty_like(source)
        for (errors, first), start in zip(
            reversed(blocks), reversed(range(0, n, self.block)), strict=True
        ):
            error = errors.gather(1, path.expand(len(errors), -1, -1))[:, 0]
            place = factor.order[start : start + self.block]
            found[place] = source[start : start + self.block] - error
            path = first.gather(0, path)
        return found.T
