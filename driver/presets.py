"""What the caller means by ``passes``: a preset's name, a pass, or a mix, as one pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from .. import passes as library
from ..backends.base import Target
from ..ir import InputError
from ..passes import CloseState, FewerAxes, Legalize, OpenState, Pass, Stage
from ..passes.presets import preset, preset_names

Asked: TypeAlias = "str | Pass | type[Pass] | Sequence[str | Pass | type[Pass]]"


def resolve(asked: Asked, target: Target) -> tuple[Pass, ...]:
    """The passes in order; one that an earlier name has brought already is not run again.

    Raises:
        InputError: A name is neither a preset's nor a pass's, or a value is not a pass.
    """
    parts: Sequence[Any] = [asked] if isinstance(asked, (str, Pass, type)) else list(asked)
    chosen: list[Pass] = []
    for part in parts:
        if isinstance(part, str):
            chosen += [step for step in _named(part, target) if not _holds(chosen, step)]
        else:
            chosen.append(_instance(part))
    return tuple(chosen)


def legalized(chosen: Sequence[Pass], target: Target) -> tuple[Pass, ...]:
    """The passes, with what a target lacks written in what it has before ranges are taken."""
    steps: list[Pass] = []
    if target.lacks:
        steps.append(Legalize(target.lacks, target.masked))
    if target.axes is not None:
        steps.append(FewerAxes(target.axes))
    place = sum(step.stage <= Stage.LEGALIZE for step in chosen)
    return (*chosen[:place], *steps, *chosen[place:])


def with_open_state(chosen: Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes, those of the network free to change the form in which it keeps its state."""
    if not chosen or chosen[0].stage >= Stage.STATE:
        return tuple(chosen)
    place = sum(step.stage < Stage.STATE for step in chosen)
    return (OpenState(), *chosen[:place], CloseState(), *chosen[place:])


def label(asked: Asked) -> str:
    """The request as text, for the report."""
    parts: Sequence[Any] = [asked] if isinstance(asked, (str, Pass, type)) else list(asked)
    names = [
        part if isinstance(part, str) else getattr(part, "__name__", "") or part.name
        for part in parts
    ]
    return " + ".join(names) or "no pass"


def pass_names() -> list[str]:
    """Every pass that can be asked for by its name."""
    return sorted(name for name, value in vars(library).items() if _is_pass(value))


def _named(name: str, target: Target) -> tuple[Pass, ...]:
    if (passes := preset(name, target)) is not None:
        return passes
    found = vars(library).get(name)
    if _is_pass(found):
        return (_instance(found),)
    passes = f"; or of the passes: {', '.join(pass_names())}" if pass_names() else ""
    raise InputError(
        f"there is no preset or pass {name!r}",
        do=f"choose one of the presets: {', '.join(preset_names())}{passes}",
    )


def _instance(value: Any) -> Pass:
    if isinstance(value, Pass):
        return value
    if _is_pass(value):
        try:
            return value()
        except TypeError as error:
            raise InputError(
                f"{value.__name__} needs options: {error}",
                do=f"pass {value.__name__}(...), not its name",
            ) from None
    raise InputError(
        f"expected a pass or a name in passes, got a {type(value).__name__}",
        do=f"pass a preset ({', '.join(preset_names())}), a regauge.passes.Pass, or a list of "
        "these",
    )


def _holds(chosen: Sequence[Pass], step: Pass) -> bool:
    """Whether a pass of the same class with the same options is there."""
    return any(type(other) is type(step) and vars(other) == vars(step) for other in chosen)


def _is_pass(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Pass) and value is not Pass
