"""Regauge rewrites a trained network into an equal one that quantizes and runs better, with proof.

import regauge as rg
art = rg.compile(model, (x,), passes="w8a8", calibration=batches, target="onnxruntime")
y = art(x)                      # runs on the target, returns what the model returned
art.save("out/")                # the model file, its manifest, the report
print(art.report)               # what each pass did, what it cost, what it could not do
"""

from importlib.metadata import PackageNotFoundError, version

from . import ir as ir
from . import passes as passes
from .driver import Artifact as Artifact
from .driver import Report as Report
from .driver import compile as compile
from .driver import load as load
from .frontend.trace import trace as trace

try:
    __version__ = version("regauge")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = ["Artifact", "Report", "__version__", "compile", "ir", "load", "passes", "trace"]
