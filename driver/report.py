"""The record of one compilation: what each pass did and could not do, what was gained, what it cost."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..passes import PassReport, Remark
from .measure import Latency, OutputError

WIDTH = 100


@dataclass(frozen=True)
class Model:
    """The original.

    Attributes:
        name: Its class.
        parameters: How many numbers it has learned; a tied one counts once.
        bytes: Their size as the model holds them.
        ops: How many ops its graph has.
        ops_after: How many the final graph has.
        inputs: Name and type of each input.
    """

    name: str
    parameters: int
    bytes: int
    ops: int
    ops_after: int
    inputs: list[str]


@dataclass
class Report:
    """What ``print(artifact.report)`` shows.

    Attributes:
        model: The original.
        asked: The passes, as the caller named them.
        target: The target's name.
        passes: One record a pass, in the order in which they ran.
        bytes_after: What ``save`` writes for the target: the model file with its weights.
        errors: One an output, measured on the target against the original in PyTorch; empty if not measured.
        latency: Before and after on the target, or ``None`` if not measured or only simulated.
        notes: What a reader must know to read the figures rightly.
        environment: Versions and machine.
    """

    model: Model
    asked: str
    target: str
    passes: list[PassReport] = field(default_factory=list[PassReport])
    bytes_after: int = 0
    errors: list[OutputError] = field(default_factory=list[OutputError])
    latency: Latency | None = None
    notes: list[str] = field(default_factory=list[str])
    environment: dict[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values; a number that is not finite is text."""
        return _plain(asdict(self))

    def json(self) -> str:
        """Everything, as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_dict(found: dict[str, Any]) -> Report:
        """What ``to_dict`` gave."""
        passes = [
            PassReport(
                **{
                    **p,
                    "damage": float(p["damage"]),
                    "remarks": [Remark(**r) for r in p["remarks"]],
                }
            )
            for p in found["passes"]
        ]
        errors = [
            OutputError(e["name"], float(e["relative_l2"]), float(e["cosine"]))
            for e in found["errors"]
        ]
        latency = Latency(**found["latency"]) if found["latency"] else None
        rest = {
            "model": Model(**found["model"]),
            "passes": passes,
            "errors": errors,
            "latency": latency,
        }
        return Report(**{**found, **rest})

    def html(self) -> str:
        """A page that stands by itself."""
        from .html import page

        return page(self)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False)
        for part in self._parts():
            console.print(part)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in shown.splitlines())

    def _parts(self) -> Iterator[RenderableType]:
        yield Text(f"{self.model.name}  ·  {self.asked}  ·  {self.target}", style="bold")
        yield ""
        facts = Table.grid(padding=(0, 2))
        for label, value in self.facts():
            facts.add_row(label, Text(value))
        yield Padding(facts, (0, 0, 0, 2))
        if self.passes:
            yield ""
            yield self._table()
        if missed := self.missed():
            yield ""
            yield "  Not done, and why"
            rows = Table.grid(padding=(0, 2))
            for name, text, sites in missed:
                rows.add_row(name, Text(f"{text}  ({shorten(sites)})"))
            yield Padding(rows, (0, 0, 0, 4))
        if self.notes:
            yield ""
        for note in self.notes:
            yield Padding(Text(f"note: {note}"), (0, 0, 0, 2))

    def facts(self) -> list[tuple[str, str]]:
        """The summary: label and value."""
        model = self.model
        shown = [
            ("model", f"{count(model.parameters)} parameters, {size(model.bytes)}"),
            ("inputs", ", ".join(model.inputs)),
            ("graph", f"{model.ops} ops → {model.ops_after}"),
        ]
        if self.bytes_after:
            ratio = f"  ({self.bytes_after / model.bytes:.2f}×)" if model.bytes else ""
            shown.append(("size", f"{size(model.bytes)} → {size(self.bytes_after)}{ratio}"))
        shown += [
            ("error" if at == 0 else "", f"{error.name}: relative L2 {number(error.relative_l2)}, "
             f"cosine {error.cosine:.6f}")
            for at, error in enumerate(self.errors[:8])
        ]  # fmt: skip
        if len(self.errors) > 8:
            shown.append(("", f"and {len(self.errors) - 8} more outputs"))
        if self.latency is not None:
            found = self.latency
            shown += [
                ("latency", f"{seconds(found.before)} → {seconds(found.after)}  ({found.ratio:.2f}×, "
                 f"quartiles {found.low:.2f} to {found.high:.2f})"),
                ("", f"median of {found.rounds} rounds in turns; before: {found.baseline}"),
            ]  # fmt: skip
        return shown

    def missed(self) -> list[tuple[str, str, list[str]]]:
        """What was not done: pass, reason, and all sites with that reason."""
        found: dict[tuple[str, str], list[str]] = {}
        for step in self.passes:
            for remark in step.missed:
                found.setdefault((step.name, remark.text), []).append(remark.site)
        return [(name, text, sites) for (name, text), sites in found.items()]

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=True, show_edge=False)
        for heading in ("pass", "promise"):
            table.add_column(heading)
        for heading in ("damage", "time", "applied", "missed"):
            table.add_column(heading, justify="right")
        for step in self.passes:
            sites = [str(len(step.applied)), str(len(step.missed))] if step.remarks else ["", ""]
            table.add_row(
                step.name, step.promise, number(step.damage), seconds(step.seconds), *sites
            )
        return table


# -- how figures are written ------------------------------------------------------------------------


def count(value: int) -> str:
    """``22.6 M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return str(value)


def size(value: float) -> str:
    """``86.4 MB``, of 10⁶ bytes."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def seconds(value: float) -> str:
    """``1.2 s``, ``14.2 ms`` or ``31 µs``."""
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"


def number(value: float) -> str:
    """Three digits that count: ``0.0721``, ``3.1e-16``."""
    return f"{value:.3g}" if value == 0 or not 1e-3 > abs(value) else f"{value:.1e}"


def shorten(names: Sequence[str], most: int = 4) -> str:
    """``a, b, c, d and 8 more``."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}  # type: ignore[misc]
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]  # type: ignore[misc]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)
