"""Where values lie in one arena: each only as long as it is needed.

Two values may share bytes if one is read for the last time before the other is written. Values are
placed from the largest down, each at the lowest place that is free throughout its life: the greedy
by size of Pisarchyk and Lee 2020, arXiv:2001.03288, section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from .program import Buffer, Step


def plan(steps: Sequence[Step], alignment: int = 4, *, in_place: bool = True) -> int:
    """Give every buffer its offset, a multiple of some bytes; returns the bytes of the arena."""
    shared = _lives(steps)
    if in_place:
        shared = _merged(steps, shared)
    placed: list[Buffer] = []
    buffers = [buffer for buffer in dict.fromkeys(shared.values()) if not buffer.array]
    for buffer in sorted(buffers, key=lambda b: (-b.bytes, b.first)):
        beside = [other for other in placed if _meet(buffer, other)]
        buffer.offset = _lowest(buffer, beside, alignment)
        placed.append(buffer)
    for buffer, holder in shared.items():
        buffer.offset = holder.offset
    return max((b.offset + _rounded(b.bytes, alignment) for b in placed), default=0)


def _lives(steps: Sequence[Step]) -> dict[Buffer, Buffer]:
    """Note at which steps each buffer is first and last used; each holds itself."""
    found: dict[Buffer, Buffer] = {}
    for time, step in enumerate(steps):
        for value in step.values:
            buffer = value.buffer
            if buffer not in found:
                found[buffer], buffer.first = buffer, time
            buffer.last = time
    return found


def _merged(steps: Sequence[Step], shared: dict[Buffer, Buffer]) -> dict[Buffer, Buffer]:
    """Let results lie where that lay which a step reads position by position, for the last time."""
    for time, step in enumerate(steps):
        if step.over is None:
            continue
        old, new = shared[step.over.buffer], step.writes[0].buffer
        fits = old.bytes == new.bytes and new.first == time
        if fits and old.last == time and not old.array and not new.array:
            old.last = new.last
            shared = {buffer: old if holder is new else holder for buffer, holder in shared.items()}
    return shared


def _meet(one: Buffer, other: Buffer) -> bool:
    return one.first <= other.last and other.first <= one.last


def _lowest(buffer: Buffer, others: Sequence[Buffer], alignment: int) -> int:
    """The lowest offset at which a buffer does not overlap any of these."""
    place = 0
    for other in sorted(others, key=lambda b: b.offset):
        if place + buffer.bytes <= other.offset:
            break
        place = max(place, _rounded(other.offset + other.bytes, alignment))
    return place


def _rounded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
