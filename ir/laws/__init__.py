"""The laws by which symmetries pass through ops; ``core`` says what an action is."""

from .attention import ScaledDotProduct as ScaledDotProduct
from .contraction import Contract as Contract
from .contraction import Embedding as Embedding
from .contraction import GroupedContract as GroupedContract
from .contraction import Recode as Recode
from .convolution import Conv as Conv
from .core import DIAGONAL as DIAGONAL
from .core import MIXING as MIXING
from .core import OPAQUE as OPAQUE
from .core import OUT as OUT
from .core import Action as Action
from .core import Call as Call
from .core import Flow as Flow
from .core import Kind as Kind
from .core import Law as Law
from .core import Port as Port
from .core import Stop as Stop
from .core import compact as compact
from .core import filled as filled
from .core import interned as interned
from .indexing import Along as Along
from .indexing import Fill as Fill
from .indexing import Fourier as Fourier
from .indexing import Gather as Gather
from .indexing import Lookup as Lookup
from .indexing import MaskedScatter as MaskedScatter
from .indexing import Pad as Pad
from .indexing import Update as Update
from .movement import Movement as Movement
from .movement import Parts as Parts
from .norms import BatchNorm as BatchNorm
from .norms import Normalize as Normalize
from .norms import Reduce as Reduce
from .norms import Softmax as Softmax
from .norms import WeightNorm as WeightNorm
from .pointwise import Add as Add
from .pointwise import Cast as Cast
from .pointwise import Elementwise as Elementwise
from .pointwise import Mul as Mul
from .pointwise import Together as Together
from .pointwise import Where as Where
from .recurrence import Recurrence as Recurrence

__all__ = [
    "DIAGONAL",
    "MIXING",
    "OPAQUE",
    "OUT",
    "Action",
    "Add",
    "Along",
    "BatchNorm",
    "Call",
    "Cast",
    "Contract",
    "Conv",
    "Elementwise",
    "Embedding",
    "Fill",
    "Flow",
    "Fourier",
    "Gather",
    "GroupedContract",
    "Kind",
    "Law",
    "Lookup",
    "MaskedScatter",
    "Movement",
    "Mul",
    "Normalize",
    "Pad",
    "Parts",
    "Port",
    "Recode",
    "Recurrence",
    "Reduce",
    "ScaledDotProduct",
    "Softmax",
    "Stop",
    "Together",
    "Update",
    "WeightNorm",
    "Where",
    "compact",
    "filled",
    "interned",
]
