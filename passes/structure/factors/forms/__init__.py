"""Structures that stand for a matrix with fewer numbers, computed by ordinary ops."""

from .form import Form as Form
from .form import Measure as Measure
from .form import Tensors as Tensors
from .form import Writer as Writer
from .low_rank import LowRank as LowRank
from .monarch import Monarch as Monarch
from .refine import refined as refined
from .split import split as split
from .tensor_train import Kronecker as Kronecker
from .tensor_train import TensorTrain as TensorTrain
