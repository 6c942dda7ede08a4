"""Every error a user can meet: what happened, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class RegaugeError(Exception):
    """The base of all our errors.

    Args:
        what: What is wrong: what was expected and what was found.
        where: The place: a line of the graph, the user's file and line, a file on disk.
        do: The next step.
    """

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        lines = [what]
        lines += [f"  at  {line}" for line in where.splitlines()[:1]]
        lines += [f"      {line}" for line in where.splitlines()[1:]]
        lines += [f"  do  {do}"] if do else []
        super().__init__("\n".join(lines))


class TraceError(RegaugeError):
    """The model cannot be captured as a graph."""


class GraphError(RegaugeError):
    """A graph breaks a rule of the IR."""


class ParseError(RegaugeError):
    """A text is not a graph."""


class InputError(RegaugeError):
    """Inputs, calibration data or options do not fit."""


class WeightError(RegaugeError):
    """A parameter is missing, damaged, or not a finite number."""


class PassError(RegaugeError):
    """A pass cannot do what it was asked for, or its order breaks a promise."""


class SiteError(PassError):
    """A pass that was called directly could not act: where it was asked to, or anywhere.

    Args:
        missed: The pass's remarks on what it left, each with the site, the reason and the user's
            line.
    """

    def __init__(
        self, what: str, *, where: str = "", do: str = "", missed: Sequence[Any] = ()
    ) -> None:
        super().__init__(what, where=where, do=do)
        self.missed = tuple(missed)


class PromiseError(RegaugeError):
    """A pass changed the function more than it promised.

    Args:
        evidence: What a defect report needs besides the model: the graphs before and after.
    """

    def __init__(self, what: str, *, where: str = "", do: str = "", evidence: str = "") -> None:
        super().__init__(what, where=where, do=do)
        self.evidence = evidence


class TargetError(RegaugeError):
    """A target is unknown, not installed, or does not take the graph."""


class NoDevice(TargetError):
    """What was compiled runs on a device that this machine has not."""


class ArtifactError(RegaugeError):
    """A saved artifact cannot be written, or is not what was written."""


def first_line(error: BaseException) -> str:
    """What an error of others says first."""
    return next((line for line in str(error).splitlines() if line.strip()), "")
