"""Anything a user has, as a graph in canonical form."""

from .checkpoint import load_checkpoint as load_checkpoint
from .trace import trace as trace

__all__ = ["load_checkpoint", "trace"]
