"""Ops that a target does not take, as equal ones that it takes."""

from .legalize import Legalize as Legalize

__all__ = ["Legalize"]
