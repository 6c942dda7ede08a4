"""The record of one compilation: what each pass did and could not do, its gain and its cost."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..passes import PassReport, Remark
from .figures import count, number, seconds, shorten, size
from .measure import Latency, OutputError

WIDTH = 100
MOST = 8  # outputs in the summary; the JSON has all


@dataclass
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
        target: The target's name.
        asked: The passes, as the caller named them.
        passes: One record a pass, in the order in which they ran.
        bytes_after: What ``save`` writes for the target: the model file with its weights.
        errors: One an output, on the target against the original in PyTorch; empty if unmeasured.
        faithful: How far the target is from the final graph, as its ops say, in relative L2;
            ``None`` if not measured.
        latency: Before and after on the target, or ``None`` if not measured or only simulated.
        notes: What a reader must know to read the figures rightly.
        environment: Versions and machine.
    """

    model: Model
    target: str
    asked: str = ""
    passes: list[PassReport] = field(default_factory=list[PassReport])
    bytes_after: int = 0
    errors: list[OutputError] = field(default_factory=list[OutputError])
    faithful: float | None = None
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
                name=step["name"],
                promise=step["promise"],
                seconds=step["seconds"],
                damage=float(step["damage"]),
                remarks=[Remark(**remark) for remark in step["remarks"]],
            )
            for step in found["passes"]
        ]
        errors = [
            OutputError(error["name"], float(error["relative_l2"]), float(error["cosine"]))
            for error in found["errors"]
        ]
        return Report(
            model=Model(**found["model"]),
            asked=found["asked"],
            target=found["target"],
            passes=passes,
            bytes_after=found["bytes_after"],
            errors=errors,
            faithful=None if found.get("faithful") is None else float(found["faithful"]),
            latency=Latency(**found["latency"]) if found["latency"] else None,
            notes=found["notes"],
            environment=found["environment"],
        )

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
        missed = [(n, f"{text}  ({shorten(sites)})") for n, text, sites in self.missed()]
        for title, found in (
            ("Decided for the whole", self.decided()),
            ("Not done, and why", missed),
        ):
            if not found:
                continue
            yield ""
            yield f"  {title}"
            rows = Table.grid(padding=(0, 2))
            for name, text in found:
                rows.add_row(name, Text(text))
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
        for at, error in enumerate(self.errors[:MOST]):
            figures = f"relative L2 {number(error.relative_l2)}, cosine {error.cosine:.6f}"
            shown.append(("" if at else "error", f"{error.name}: {figures}"))
        if len(self.errors) > MOST:
            shown.append(("", f"and {len(self.errors) - MOST} more outputs"))
        if self.faithful is not None:
            apart = number(self.faithful)
            shown.append(("", f"{self.target} and its graph round {apart} apart"))
        if self.latency is not None:
            time = self.latency
            spread = f"{time.ratio:.2f}×, quartiles {time.low:.2f} to {time.high:.2f}"
            shown.append(("latency", f"{seconds(time.before)} → {seconds(time.after)}  ({spread})"))
            shown.append(("", f"median of {time.rounds} rounds in turns; before: {time.baseline}"))
        return shown

    def decided(self) -> list[tuple[str, str]]:
        """What was decided for the whole graph: pass and text."""
        return [
            (step.name, remark.text)
            for step in self.passes
            for remark in step.applied
            if remark.data.get("decided")
        ]

    def missed(self) -> list[tuple[str, str, list[str]]]:
        """What was not done: pass, reason, all sites whose reasons differ only in a node's name."""
        found: dict[tuple[str, str], tuple[str, str, list[str]]] = {}
        for step in self.passes:
            for remark in step.missed:
                kind = re.sub(r"\b\w+ \((\w+)\)", r"\1", remark.text)
                _, _, sites = found.setdefault((step.name, kind), (step.name, remark.text, []))
                sites.append(remark.site)
        return list(found.values())

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
