"""Memory that is free, and that the process keeps nevertheless."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Let the C library return to the system what is free in its heaps.

    glibc keeps freed blocks of up to 32 MB that lie between blocks in use. Of tensors that come and
    go beside others that stay, as activations and Hessians do beside codes, that is soon more than
    what is in use. Other libraries return them by themselves.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    """``malloc_trim`` of glibc, where that is the library."""
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
