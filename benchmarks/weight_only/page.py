"""The page of figures, from what was measured."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import data
from tables import Case, Table

MILLION = 1e6
Measured = Mapping[str, Mapping[str, Any]]


def place(subject: data.Subject, case: Case, title: str) -> str:
    """Where the figures of a contestant are kept; its settings' names follow."""
    return f"{subject.key}/{case.key}/{title}"


def write(table: Table, measured: Measured, path: Path) -> None:
    """Write the page of all that is known."""
    lines = [
        f"# {table.title}",
        "",
        f"{datetime.date.today().isoformat()}, written by `benchmarks/weight_only/compare.py` on "
        f"{processor()}. {table.says}",
    ]
    for name, subject in data.SUBJECTS.items():
        lines += ["", f"## {subject.title}", "", subject.says]
        for case in table.cases[name]:
            if not any(key.startswith(f"{subject.key}/{case.key}/") for key in measured):
                continue
            lines += ["", *_case(measured, subject, case)]
            times = [*_times(measured, subject, case)]
            lines += ["", *times] if times else []
    path.write_text("\n".join(lines) + "\n")


def _case(measured: Measured, subject: data.Subject, case: Case) -> Iterator[str]:
    yield f"### {case.title}"
    yield ""
    if case.remark:
        yield from (case.remark, "")
    rows: list[Sequence[str]] = []
    tried: list[Sequence[str]] = []
    for contestant in case.contestants:
        known = {
            setting: measured[key]
            for setting in contestant.settings
            if (key := f"{place(subject, case, contestant.title)}/{setting}") in measured
        }
        right = {setting: found for setting, found in known.items() if "error" not in found}
        for setting, found in known.items():
            what = found.get("error") or f"{found['held_out']:.4f}"
            tried.append((contestant.title, setting, what))
        if right:
            best = min(right, key=lambda setting: right[setting]["held_out"])
            rows.append(_row(contestant.title, best, right[best], subject))
        elif known:
            setting, found = next(iter(known.items()))
            rows.append((contestant.title, setting, found["error"], *[""] * 6))
    yield from _table(
        (
            "contestant",
            "settings",
            subject.measure,
            "on held-out",
            "bits a weight",
            "matrices",
            "processor s",
            "peak, MB",
            "beyond libraries",
        ),
        rows,
    )
    yield ""
    yield "All that was tried, on the held-out tokens:"
    yield ""
    yield from _table(("contestant", "settings", subject.measure), tried)


def _row(
    title: str, setting: str, found: Mapping[str, Any], subject: data.Subject
) -> Sequence[str]:
    peak = found.get("quantizing_peak")  # not watched in all that was kept
    # Code that is loaded with a model is no part of what quantizing takes.
    beyond = None
    if peak is not None:
        beyond = (peak - max(found["libraries"], found["loaded"] - subject.bytes)) / subject.bytes
    return (
        f"{title} ({', '.join(f'{k} {v}' for k, v in list(found['versions'].items())[:1])})",
        setting + (f" ({found['note']})" if found["note"] else ""),
        f"{found['evaluation']:.4f}",
        f"{found['held_out']:.4f}",
        f"{found['bits']:.3f}",
        str(found["matrices"]),
        f"{found['processor_seconds']:.0f}",
        "" if peak is None else f"{peak / MILLION:.0f}",
        "" if beyond is None else f"{beyond:.2f}",
    )


def _times(measured: Measured, subject: data.Subject, case: Case) -> Iterator[str]:
    """GPTQ of each, with two threads."""
    rows: list[Sequence[str]] = []
    for contestant in case.contestants:
        key = f"{place(subject, case, contestant.title)}/{contestant.timed}/timed"
        if (found := measured.get(key)) is None:
            continue
        if "error" in found:
            rows.append((contestant.title, str(contestant.timed), found["error"], ""))
            continue
        figures = (f"{found['seconds']:.0f}", f"{found['processor_seconds']:.0f}")
        rows.append((contestant.title, str(contestant.timed), *figures))
    if rows:
        yield f"### The time of GPTQ, {case.title}, two threads"
        yield ""
        yield from _table(("contestant", "settings", "seconds", "processor s"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def processor() -> str:
    """Its name, and how many of it there are."""
    info = Path("/proc/cpuinfo")
    rows = info.read_text().splitlines() if info.exists() else []
    names = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else "an unknown processor"
