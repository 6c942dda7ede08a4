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
from .ir import ArtifactError as ArtifactError
from .ir import GraphError as GraphError
from .ir import InputError as InputError
from .ir import NoDevice as NoDevice
from .ir import ParseError as ParseError
from .ir import PassError as PassError
from .ir import PromiseError as PromiseError
from .ir import RegaugeError as RegaugeError
from .ir import SiteError as SiteError
from .ir import TargetError as TargetError
from .ir import TraceError as TraceError
from .ir import WeightError as WeightError

try:
    __version__ = version("regauge")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "Artifact",
    "ArtifactError",
    "GraphError",
    "InputError",
    "NoDevice",
    "ParseError",
    "PassError",
    "PromiseError",
    "RegaugeError",
    "Report",
    "SiteError",
    "TargetError",
    "TraceError",
    "WeightError",
    "__version__",
    "compile",
    "ir",
    "load",
    "passes",
    "trace",
]
