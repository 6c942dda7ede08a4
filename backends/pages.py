"""Weights in huge pages, so that streaming them waits for memory and not for page tables.

A token reads every weight once, and with pages of 4 KiB that is a walk of the page tables for each.
Linux puts memory together into pages of 2 MiB where it is asked to. Nobody has to: where the system
does not, nothing changes but the time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Generator
from pathlib import Path

import torch

_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPS, _PAGES = Path("/proc/self/maps"), Path("/proc/self/pagemap")
_PAGE, _HUGE = 4096, 2 << 20  # bytes
_ADVISE, _COLLAPSE = 14, 25  # MADV_HUGEPAGE, and MADV_COLLAPSE of Linux 6.1


@contextlib.contextmanager
def in_huge_pages() -> Generator[None]:
    """Ask for huge pages for the memory that is first written inside, by the whole process."""
    if not _is_asked():
        yield
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # what was freed before is then written anew, and counts
    before = _held()
    yield
    for start in sorted(_held() - before):
        for advice in (_ADVISE, _COLLAPSE):  # what the system declines stays as it is
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(_HUGE), advice)


def _is_asked() -> bool:
    """Whether the system gives huge pages to who asks for them, and to nobody else."""
    if sys.platform != "linux" or os.sysconf("SC_PAGE_SIZE") != _PAGE or not _MODE.exists():
        return False
    return "[madvise]" in _MODE.read_text()


def _held() -> set[int]:
    """The addresses of huge pages most of which are in memory, that are no file's."""
    found: set[int] = set()
    with _PAGES.open("rb") as pages:
        for line in _MAPS.read_text().splitlines():
            place, rights, _, _, inode, *name = line.split(maxsplit=5)
            low, high = (int(part, 16) for part in place.split("-"))
            low, high = -(-low // _HUGE) * _HUGE, high // _HUGE * _HUGE
            ours = rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]")
            if not ours or low >= high:
                continue
            pages.seek(low // _PAGE * 8)
            entries = bytearray(pages.read((high - low) // _PAGE * 8))
            present = torch.frombuffer(entries, dtype=torch.int64) < 0  # the highest bit
            held = present.view(-1, _HUGE // _PAGE).float().mean(1) > 0.5
            found.update(low + _HUGE * int(place) for place in held.nonzero())
    return found
