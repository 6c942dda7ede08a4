"""The coverage table: a row a family, shares, causes, and its text in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

YES, NO, NONE, OPEN = "✓", "✗", "-", "·"  # none: it has nothing that the column is about
TITLE = "# Coverage\n"


@dataclass
class Row:
    """What is known of a family: whether it could be built, and each column's verdict."""

    name: str
    built: str = "the process died"  # why not; empty if it was
    verdicts: dict[str, tuple[bool | None, str]] = field(
        default_factory=dict[str, tuple[bool | None, str]]
    )
    seconds: float = 0.0

    def add(self, column: str, holds: bool | None, text: str) -> None:
        """Take in one verdict."""
        if column == "built":
            self.built = "" if holds else text
        else:
            self.verdicts[column] = (holds, text)

    def end(self, death: str, columns: Sequence[str]) -> None:
        """No more verdicts come; the column that was under way is what the process died of."""
        if death and not self.built:
            following = [column for column in columns if column not in self.verdicts]
            if following:
                self.verdicts[following[0]] = (False, death)
        elif death:
            self.built = death

    def mark(self, column: str) -> str:
        if column not in self.verdicts:
            return OPEN
        holds, _ = self.verdicts[column]
        return NONE if holds is None else YES if holds else NO

    def was_asked(self, column: str) -> bool:
        """Whether a column was run or what ran before it failed: rows may be of an older run."""
        return column in self.verdicts or any(h is False for h, _ in self.verdicts.values())

    def passes(self, columns: Sequence[str]) -> bool:
        asked = [column for column in columns if self.was_asked(column)]
        return bool(asked) and all(self.mark(column) in (YES, NONE) for column in asked)

    def reason(self, columns: Sequence[str]) -> str:
        """Why it was not built, or the reason of each column that does not hold."""
        if self.built:
            return self.built
        found = [(c, *self.verdicts[c]) for c in columns if c in self.verdicts]
        return "; ".join(f"{column}: {text}" for column, holds, text in found if holds is False)


def shares(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[str]:
    """How many families hold in each column, of those that trace."""
    built = [row for row in rows if not row.built]
    traced = [row for row in built if row.mark(columns[0]) == YES]
    yield f"{len(built)} of {len(rows)} families were built"
    for column in columns:
        base = built if column == columns[0] else traced
        marks = [row.mark(column) for row in base if row.was_asked(column)]
        marks = [mark for mark in marks if mark != NONE]
        count = marks.count(YES)
        yield f"{column}: {count} of {len(marks)} ({100 * count / max(len(marks), 1):.1f} %)"
    count = sum(row.passes(columns) for row in traced)
    yield f"all: {count} of {len(traced)} ({100 * count / max(len(traced), 1):.1f} %)"


def causes(rows: Sequence[Row], columns: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Reasons without their numbers and places, the most frequent first, with the families."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for column in columns:
            holds, text = row.verdicts.get(column, (True, ""))
            if holds is False:
                found.setdefault((column, _kind(text)), []).append(row.name)
    ordered = sorted(found.items(), key=lambda item: (columns.index(item[0][0]), -len(item[1])))
    return [(column, kind, names) for (column, kind), names in ordered]


def _kind(text: str) -> str:
    text = re.sub(r" \[[^]]*\]$", "", text)
    text = re.sub(r"\b\w+?_\d+\b", "_", text)
    return re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "N", text)[:160]


def markdown(rows: Sequence[Row], columns: Sequence[str], head: str) -> str:
    """The whole table as a file."""
    built = [row for row in rows if not row.built]
    lines = [
        TITLE,
        head,
        "",
        "Written by `make coverage`. Each family is a small random configuration; how it is made,",
        "and what each column asks, is in `benchmarks/families.py` and `benchmarks/columns.py`.",
        "",
        *(f"- {share}" for share in shares(rows, columns)),
        "",
        "## Families",
        "",
        f"| family | {' | '.join(columns)} | s | reason |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for row in built:
        marks = " | ".join(row.mark(column) for column in columns)
        reason = _cell(row.reason(columns))
        lines.append(f"| {_cell(row.name)} | {marks} | {row.seconds:.1f} | {reason} |")
    lines += ["", "## Causes", "", "| column | reason | families |", "|---|---|---|"]
    for column, kind, names in causes(built, columns):
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        lines.append(f"| {column} | {_cell(kind)} | {len(names)}: {shown} |")
    lines += ["", "## Not built", ""]
    lines += [f"- {_cell(row.name)}: {_cell(row.built)}" for row in rows if row.built]
    return "\n".join(lines) + "\n"


def passing(text: str, seconds: float = float("inf")) -> list[str]:
    """The families that hold in all columns and took no longer, read from the file."""
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [
        row[0].removeprefix("| ").replace("\\_", "_")
        for row in rows
        if len(row) > 4 and {YES} <= set(row[1:-2]) <= {YES, NONE} and float(row[-2]) <= seconds
    ]


def read(text: str) -> list[Row]:
    """The rows of a file, to which others can be added; what holds is there without its text."""
    lines, rows = text.splitlines(), list[Row]()
    columns: list[str] = []
    for line in lines[: lines.index("## Causes")]:
        if not line.startswith("| "):
            continue
        name, *cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
        if name == "family":
            columns = cells[:-2]
            continue
        row = Row(_plain(name), built="", seconds=float(cells[-2]))
        reasons = _reasons(_plain(cells[-1]), columns)
        for column, mark in zip(columns, cells, strict=False):
            if mark != OPEN:
                holds = {YES: True, NO: False, NONE: None}[mark]
                row.verdicts[column] = (holds, reasons.get(column, ""))
        rows.append(row)
    for line in lines[lines.index("## Not built") :]:
        if line.startswith("- "):
            name, _, reason = line.removeprefix("- ").partition(": ")
            rows.append(Row(_plain(name), built=_plain(reason)))
    return rows


def _reasons(text: str, columns: Sequence[str]) -> dict[str, str]:
    """What ``Row.reason`` has put together."""
    parts = re.split(rf"(?:^|; )({'|'.join(map(re.escape, columns))}): ", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _plain(text: str) -> str:
    """The text of a cell as it was."""
    return re.sub(r"\\([|_*])", r"\1", text.strip()).replace("&lt;", "<")


def _cell(text: str) -> str:
    """Text that Markdown takes for nothing else, and that no machine's folders are in."""
    text = re.sub(r"/\S*/site-packages/", "", text)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")
