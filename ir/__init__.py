"""The graph, the op table and its laws, printing, checking, running, and the gauge analysis."""

from .checkpoint import Checkpoint as Checkpoint
from .errors import ArtifactError as ArtifactError
from .errors import GraphError as GraphError
from .errors import InputError as InputError
from .errors import NoDevice as NoDevice
from .errors import ParseError as ParseError
from .errors import PassError as PassError
from .errors import PromiseError as PromiseError
from .errors import RegaugeError as RegaugeError
from .errors import SiteError as SiteError
from .errors import TargetError as TargetError
from .errors import TraceError as TraceError
from .errors import WeightError as WeightError
from .graph import Graph as Graph
from .graph import Node as Node
from .params import Lazy as Lazy
from .params import ParameterStore as ParameterStore
from .precision import astype as astype
from .text import parse as parse
from .types import ScalarType as ScalarType
from .types import TensorType as TensorType

__all__ = [
    "ArtifactError",
    "Checkpoint",
    "Graph",
    "GraphError",
    "InputError",
    "Lazy",
    "NoDevice",
    "Node",
    "ParameterStore",
    "ParseError",
    "PassError",
    "PromiseError",
    "RegaugeError",
    "ScalarType",
    "SiteError",
    "TargetError",
    "TensorType",
    "TraceError",
    "WeightError",
    "astype",
    "parse",
]
