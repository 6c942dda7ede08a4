"""The command line: ``regauge compile | inspect | report | targets``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; our errors are a message and exit code 2, others keep their traceback."""
    from ..ir import RegaugeError
    from .app import app

    try:
        app()
    except RegaugeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", []):
            print(f"  ({note})", file=sys.stderr)
        sys.exit(2)


__all__ = ["main"]
