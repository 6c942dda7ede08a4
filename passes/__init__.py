"""Graph to graph: each pass with the promise it keeps."""

from .base import Context as Context
from .base import Pass as Pass
from .base import Promise as Promise
from .base import Remark as Remark
from .base import Stage as Stage
from .manager import PassReport as PassReport
from .manager import apply as apply

__all__ = ["Context", "Pass", "PassReport", "Promise", "Remark", "Stage", "apply"]
