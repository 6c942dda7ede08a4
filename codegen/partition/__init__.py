"""A graph in regions that have a kernel, and the rest."""

from .divide import Division as Division
from .divide import divide as divide
