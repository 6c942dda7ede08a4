"""The named pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .base import Pass

PRESETS: dict[str, Callable[[Any], tuple[Pass, ...]]] = {"exact": lambda target: ()}
