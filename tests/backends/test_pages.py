"""Memory taken inside is in huge pages, where the system gives them to who asks."""

import ctypes
import re
from pathlib import Path

import pytest
import torch

from regauge.backends.pages import in_huge_pages

MEGABYTES = 64
MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_kilobytes() -> int:
    found = re.search(r"AnonHugePages:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.skipif(
    not MODE.exists() or "[madvise]" not in MODE.read_text(), reason="nobody is asked here"
)
def test_what_is_taken_inside_is_in_huge_pages() -> None:
    ctypes.CDLL(None).malloc_trim(0)
    before = huge_kilobytes()
    with in_huge_pages():
        held = torch.ones(MEGABYTES << 18)
    assert huge_kilobytes() - before > 0.8 * MEGABYTES * 1024
    torch.testing.assert_close(held.sum(), torch.tensor(float(MEGABYTES << 18)))
    outside = huge_kilobytes()
    more = torch.ones(MEGABYTES << 18)
    assert huge_kilobytes() - outside < 0.2 * MEGABYTES * 1024
    assert len(more) == len(held)


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(KeyError), in_huge_pages():
        raise KeyError("x")


@pytest.mark.skipif(
    not MODE.exists() or "[madvise]" not in MODE.read_text(), reason="nobody is asked here"
)
def test_memory_that_was_freed_and_is_taken_again_counts() -> None:
    parts = [torch.ones(1 << 12) for _ in range(MEGABYTES << 6)]  # too small to be given back alone
    kept = torch.ones(1 << 12)
    del parts
    before = huge_kilobytes()
    with in_huge_pages():
        parts = [torch.ones(1 << 12) for _ in range(MEGABYTES << 6)]
    assert huge_kilobytes() - before > 0.8 * MEGABYTES * 1024
    assert len(parts) and len(kept)
