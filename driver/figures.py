"""How figures are written for a reader."""

from __future__ import annotations

from collections.abc import Sequence


def count(value: float) -> str:
    """``22.6 M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return str(value)


def size(value: float) -> str:
    """``86.4 MB``, of 10⁶ bytes."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def seconds(value: float) -> str:
    """``1.2 s``, ``14.2 ms`` or ``31 µs``."""
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"


def number(value: float) -> str:
    """Three digits that count: ``0.0721``, ``3.1e-16``."""
    return f"{value:.3g}" if value == 0 or not 1e-3 > abs(value) else f"{value:.1e}"


def shorten(names: Sequence[str], most: int = 4) -> str:
    """``a, b, c, d and 8 more``."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
