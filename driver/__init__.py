"""The product on top of the layers: compile, the artifact, its report, saving and loading."""

from .artifact import Artifact as Artifact
from .artifact import load as load
from .compile import compile as compile
from .report import Report as Report

__all__ = ["Artifact", "Report", "compile", "load"]
