from __future__ import annotations

import platform
import resource
from pathlib import Path

import pytest
import torch

from regauge.ir.memory import give_back


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other libraries give it by themselves"
)
def test_what_lies_free_between_blocks_in_use_goes_back() -> None:
    blocks = [torch.ones(1 << 14) for _ in range(4096)]  # 64 kB each, all from the heap
    kept = blocks[::16]
    del blocks
    before = resident()
    give_back()
    assert resident() < before - (100 << 20)
    assert all(float(block[0]) == 1 for block in kept)
