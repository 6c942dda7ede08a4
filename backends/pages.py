"""Weights in huge pages, so that streaming them waits for memory and not for page tables.

A token reads every weight once, and with pages of 4 KiB that is a walk of the page tables for each.
Linux gives pages of 2 MiB to memory for which they are asked, and puts together what lies in small
ones already. Nobody has to: where the system does not, nothing changes but the time.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPS = Path("/proc/self/maps")
_HUGE = 2 << 20  # bytes
_ADVISE, _COLLAPSE = 14, 25  # MADV_HUGEPAGE, and MADV_COLLAPSE of Linux 6.1

_Ranges = list[tuple[int, int]]


@contextlib.contextmanager
def in_huge_pages() -> Generator[None]:
    """Ask for huge pages for the memory that is taken inside, of this process as a whole."""
    if not _is_asked():
        yield
        return
    before = _private()
    yield
    for start, end in _added(before, _private()):
        _ask(start, end)


def _is_asked() -> bool:
    """Whether the system gives huge pages to who asks for them, and to nobody else."""
    return sys.platform == "linux" and _MODE.exists() and "[madvise]" in _MODE.read_text()


def _private() -> _Ranges:
    """The addresses of memory that is no file's and can be written."""
    found: _Ranges = []
    for line in _MAPS.read_text().splitlines():
        place, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            start, end = (int(part, 16) for part in place.split("-"))
            found.append((start, end))
    return found


def _added(before: _Ranges, after: _Ranges) -> Iterator[tuple[int, int]]:
    """What is in the ranges after and was not before; each is in the order of addresses."""
    for start, end in after:
        for low, high in before:
            if high <= start or low >= end:
                continue
            if start < low:
                yield start, low
            start = high
        if start < end:
            yield start, end


def _ask(start: int, end: int) -> None:
    """Advise the whole huge pages of a range; what the system declines stays as it is."""
    start, end = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
    if start >= end:
        return
    advise = ctypes.CDLL(None).madvise
    for advice in (_ADVISE, _COLLAPSE):
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)
