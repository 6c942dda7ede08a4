"""The gauge analysis: which groups act on a graph's values and leave the function as it is."""

from .apply import Untied as Untied
from .apply import apply as apply
from .apply import folded as folded
from .apply import refusal as refusal
from .apply import separate as separate
from .apply import ties_broken as ties_broken
from .constants import dead as dead
from .drop import can_repeat as can_repeat
from .drop import cannot_drop as cannot_drop
from .drop import drop as drop
from .drop import mask as mask
from .drop import repeat as repeat
from .drop import units as units
from .elements import random_element as random_element
from .lookups import with_lookups as with_lookups
from .region import Blocked as Blocked
from .region import Edit as Edit
from .region import Region as Region
from .region import Restore as Restore
from .sites import Site as Site
from .sites import attention_heads as attention_heads
from .sites import attention_pairs as attention_pairs
from .sites import classes as classes
from .sites import inputs_of_contractions as inputs_of_contractions
from .sites import pairs as pairs
from .sites import sites as sites
from .sites import split_channels as split_channels
from .sites import weighted as weighted
from .tensors import transformed as transformed
from .transport import transport as transport

__all__ = [
    "Blocked",
    "Edit",
    "Region",
    "Restore",
    "Site",
    "Untied",
    "apply",
    "attention_heads",
    "attention_pairs",
    "can_repeat",
    "cannot_drop",
    "classes",
    "dead",
    "drop",
    "folded",
    "inputs_of_contractions",
    "mask",
    "pairs",
    "random_element",
    "refusal",
    "separate",
    "sites",
    "split_channels",
    "ties_broken",
    "transformed",
    "transport",
    "units",
    "weighted",
    "with_lookups",
]
