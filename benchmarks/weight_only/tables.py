"""The pages: what is asked of whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import data
import widths
from contestants import CONTESTANTS, Contestant, Settings


@dataclass(frozen=True)
class Case:
    """What is asked of all.

    Attributes:
        key: Of its results.
        settings: That all contestants get.
        remark: What is said under the title, such as who does not take part, and why.
    """

    key: str
    title: str
    settings: Settings
    contestants: Sequence[Contestant]
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """A page of figures.

    Attributes:
        name: Of its files.
        cases: Of each subject.
        timed: The key of the case whose times are taken, for each subject; none without.
    """

    name: str
    title: str
    says: str
    cases: Mapping[str, Sequence[Case]]
    timed: Mapping[str, str] = field(default_factory=dict[str, str])


def _weights(bits: int, group: int) -> Case:
    asked = {"bits": bits, "group": group}
    return Case(f"w{bits}g{group}", f"W{bits}, groups of {group}", asked, CONTESTANTS)


_SAME = (
    "Linear layers alone are quantized, for all contestants alike: tables, and a head that shares "
    "one, stay in float32. All get the same calibration tokens, and are judged by the same code on "
    "the same tokens. Settings are chosen by held-out tokens that are neither calibrated on nor "
    "judged by. Bits are those of a weight with its scales and zero points, scales counted in 16 "
    "bits where the tool keeps them in the model's float32. Processor seconds are those of "
    "quantizing alone, on a machine that others use too. `peak` is the most memory that the "
    "process had while quantizing, `beyond libraries` that less what it had after its imports, as "
    "a multiple of the float32 model, which itself is 1 of it."
)

WEIGHT_ONLY = Table(
    "weight_only",
    "Weight-only quantization beside the peers",
    _SAME,
    {name: [_weights(*case) for case in subject.cases] for name, subject in data.SUBJECTS.items()},
    {name: _weights(*subject.timed).key for name, subject in data.SUBJECTS.items()},
)

_WIDTHS = [
    Case(w.key, w.title, {"width": w.preset or w.key}, w.contestants, w.remark)
    for w in widths.WIDTHS
]
WIDTHS = Table(
    "widths",
    "Weights and activations in few bits beside the peers",
    "What linear layers read is quantized as well as their weights. Arithmetic is simulated where "
    f"the processor has none of it, by each tool's own code. {_SAME}",
    {name: _WIDTHS for name in data.SUBJECTS},
)

TABLES = {table.name: table for table in (WEIGHT_ONLY, WIDTHS)}
