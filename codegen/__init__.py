"""What is generated: ``c``, a whole graph as C99, and kernels for fused regions of one.

region     what is computed: ``Rows``, ``Matmul``, ``Grouped``, ``Bitplanes``, ``SemiSparse``,
           ``BlockSparse``, ``Ternary``
partition  which parts of a graph are such regions
op         a kernel as an op of PyTorch
kernels    the kernel of a region: to run, or compiled for a device that is not there
tuning     its fastest options on a device
check      its results beside the reference in float64
"""

from .bitplanes import Bitplanes as Bitplanes
from .check import excess as excess
from .description import LogQuantize as LogQuantize
from .description import Quantize as Quantize
from .description import Region as Region
from .description import Value as Value
from .grouped import Grouped as Grouped
from .grouped import of_packed as of_packed
from .kernels import assemble as assemble
from .kernels import run as run
from .matmul import Matmul as Matmul
from .rows import Norm as Norm
from .rows import Rows as Rows
from .sparse import BlockSparse as BlockSparse
from .sparse import SemiSparse as SemiSparse
from .ternary import Ternary as Ternary
from .tuning import Tuner as Tuner
