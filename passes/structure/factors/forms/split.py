"""Sizes as products: what a channel axis must be to become several."""

from __future__ import annotations

from collections.abc import Iterator


def split(size: int, parts: int) -> tuple[int, ...] | None:
    """So many factors of a size, all above 1 and as even as they can be, the least first; ``None``
    where it has too few."""
    return min(_factored(size, parts, 2), key=sum, default=None)


def unsplittable(name: str, size: int, parts: int) -> str:
    """The sentence that says that a size has too few factors, and which one near it has enough."""
    near = next(
        candidate
        for step in range(1, size + 2**parts)
        for candidate in (size - step, size + step)
        if candidate > 1 and split(candidate, parts)
    )
    factors = " x ".join(map(str, split(near, parts) or ()))
    return (
        f"its {size} {name} are no product of {parts} factors; {near} = {factors} are the nearest"
    )


def _factored(size: int, parts: int, least: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        if size >= least:
            yield (size,)
        return
    for first in range(least, round(size ** (1 / parts)) + 1):
        if size % first == 0:
            for rest in _factored(size // first, parts - 1, first):
                yield (first, *rest)
