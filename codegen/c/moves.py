"""Which numbers go where, as loops: what any op does that only moves numbers.

What an op moves is found by moving places instead: the result of the op on ``0, 1, 2, ...`` says
for each of its numbers where it comes from. If these places, in the order in which memory has
them, are those of loops within each other, the loops do it. Else the result is cut along its axes
into blocks where they are; where these are too many, the places themselves are kept.

    upsample 2x of [H, W, C]    loops of H, 2, W, 2, C, of which the twos do not move on in x
    concatenation of channels   for each part loops of H W, C
    reflected edges             nine blocks, in eight of which a loop moves back
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

DEPTH = 6  # of ``struct loops``
_MOST = 32  # blocks, beyond which a table takes less code


@dataclass(frozen=True)
class Loops:
    """Numbers that loops copy: where the first comes from and goes to, and of each loop, the
    outermost first, how often it runs and what it moves on by in both."""

    source: int
    first: int
    into: int
    loops: tuple[tuple[int, int, int], ...]

    @property
    def row(self) -> int:
        """How many numbers are copied side by side."""
        count, *steps = self.loops[-1] if self.loops else (1, 1, 1)
        return count if steps == [1, 1] else 1

    def __str__(self) -> str:
        rows = [(1, 0, 0)] * (DEPTH - len(self.loops)) + [*self.loops]
        parts = (", ".join(map(str, part)) for part in zip(*rows, strict=True))
        return f"(struct loops){{{', '.join(f'{{{part}}}' for part in parts)}}}"


@dataclass(frozen=True)
class Rows:
    """Rows of ``count`` numbers side by side that fill the result, each from any place."""

    source: int
    first: Tensor  # int32
    count: int


def copies(places: Tensor, starts: list[int]) -> list[Loops] | Rows | None:
    """What fills a result.

    Args:
        places: For each of its numbers, in the order of its axes in memory, where it comes from:
            a place among those of all sources, one behind the other, or a negative number where
            none does.
        starts: The first place of each source, and the end.

    Returns:
        ``None`` where it is too much for either form.
    """
    found: list[Loops] = []
    into = torch.arange(places.numel()).reshape(places.shape)
    for number, (start, end) in enumerate(pairwise(starts)):
        here = (places >= start) & (places < end)
        if not here.any():
            continue
        loops = _loops(number, places[here] - start, into[here])
        if loops is not None:
            found.append(loops)
            continue
        blocks = list(_blocks(places, start, end))
        parts = [_loops(number, places[b].reshape(-1) - start, into[b].reshape(-1)) for b in blocks]
        if len(parts) > _MOST or None in parts:
            return _rows(number, places.reshape(-1) - start) if bool(here.all()) else None
        found += [part for part in parts if part is not None]
    return found


def _loops(source: int, places: Tensor, into: Tensor) -> Loops | None:
    """Loops that go through all of these in their order, if there are such."""
    pairs, first = torch.stack([places, into], 1), (int(places[0]), int(into[0]))
    loops: list[tuple[int, int, int]] = []
    while len(pairs) > 1:
        step = pairs[1] - pairs[0]
        same = (pairs.diff(dim=0) == step).all(1)
        count = len(pairs) if bool(same.all()) else int(same.int().argmin()) + 1
        if len(pairs) % count:
            return None
        blocks = pairs.unflatten(0, (-1, count))
        if (blocks.diff(dim=1) != step).any():
            return None
        loops.append((count, int(step[0]), int(step[1])))
        pairs = blocks[:, 0]
    return Loops(source, *first, tuple(reversed(loops))) if len(loops) <= DEPTH else None


def _blocks(places: Tensor, start: int, end: int) -> Iterator[tuple[slice, ...]]:
    """Blocks along all axes, within which each step along an axis is the same everywhere."""
    cuts: list[list[slice]] = []
    inside = ((places >= start) & (places < end)).int()
    for axis in range(places.dim()):
        if places.shape[axis] == 1:
            cuts.append([slice(0, 1)])
            continue
        steps, turns = (part.diff(dim=axis).movedim(axis, -1) for part in (places, inside))
        steps, turns = (part.reshape(-1, part.shape[-1]) for part in (steps, turns))
        even = ((steps == steps[:1]) & (turns == 0)).all(0).tolist()
        sizes = steps[0].tolist()
        edges, since = [0], 0
        for place, (whole, size) in enumerate(zip(even, sizes, strict=True)):
            if not whole or (place > since and size != sizes[since]):
                edges.append(place + 1)
                since = place + 1
        cuts.append([slice(a, b) for a, b in pairwise([*edges, places.shape[axis]])])
    if math.prod(map(len, cuts)) > 4096:
        yield from [(slice(None),)] * (_MOST + 1)
        return
    for block in product(*cuts):
        if start <= int(places[block].min()) < end:
            yield block


def _rows(source: int, places: Tensor) -> Rows:
    """The rows of one length that are as long as can be."""
    breaks = torch.nonzero(places.diff() != 1).reshape(-1) + 1
    count = math.gcd(places.numel(), *breaks.tolist())
    return Rows(source, places[::count].to(torch.int32), count)
