"""The gauge analysis: which groups act on a model's values without changing the function, derived from the graph."""

from .apply import Untied as Untied
from .apply import apply as apply
from .apply import transformed as transformed
from .transport import Blocked as Blocked
from .transport import Edit as Edit
from .transport import Region as Region
from .transport import Restore as Restore
from .transport import transport as transport

__all__ = ["Blocked", "Edit", "Region", "Restore", "Untied", "apply", "transformed", "transport"]
