"""Number formats of few bits: what is in them, how numbers are rounded, scaled and packed."""

from .codebooks import Binary as Binary
from .codebooks import Codebook as Codebook
from .codebooks import Logarithmic as Logarithmic
from .elements import Element as Element
from .elements import Scalar as Scalar
from .floats import Minifloat as Minifloat
from .format import Format as Format
from .format import Packed as Packed
from .format import Parameters as Parameters
from .format import Quantized as Quantized
from .granularity import Granularity as Granularity
from .integers import Integer as Integer
from .names import named as named
from .packing import pack as pack
from .packing import unpack as unpack
from .scales import ScaleFormat as ScaleFormat
from .search import searched as searched
from .search import squared_error as squared_error
from .vectors import Phase as Phase
from .vectors import VectorCodebook as VectorCodebook
from .vectors import lattice as lattice
from .vectors import nearest_d as nearest_d
from .vectors import nearest_e8 as nearest_e8
