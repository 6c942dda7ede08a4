"""The report as one page of HTML that needs no other file, light or dark as the reader has it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from ..passes import PassReport, Remark
from .figures import number, seconds, size

if TYPE_CHECKING:
    from .report import Report


def page(report: Report) -> str:
    """The whole page."""
    title = f"{report.model.name} · {report.asked} · {report.target}"
    parts = [
        f"<h1>{escape(report.model.name)}</h1>",
        f'<p class="sub">{escape(report.asked)} <span>on</span> {escape(report.target)}</p>',
        _cards(report),
        _facts("What was compiled", report.facts()[:3]),
        _errors(report),
        _passes(report),
        _facts("Decided for the whole", report.decided()),
        "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes),
        _facts("Environment", report.environment.items()),
    ]
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(parts))


def _cards(report: Report) -> str:
    cards: list[str] = []
    before, after = report.model.bytes, report.bytes_after
    if before and after:
        share = after / before
        cards.append(_card("Size", f"{share:.2f}×", f"{size(before)} → {size(after)}", share))
    if (time := report.latency) is not None:
        medians = f"{seconds(time.before)} → {seconds(time.after)}"
        spread = f"quartiles {time.low:.2f} to {time.high:.2f}"
        cards.append(_card("Latency", f"{time.ratio:.2f}×", f"{medians}, {spread}", time.ratio))
    if report.errors:
        worst = max(report.errors, key=lambda error: error.relative_l2)
        detail = f"relative L2 of {worst.name}, cosine {worst.cosine:.6f}"
        cards.append(_card("Error", number(worst.relative_l2), detail))
    if exact := [step.damage for step in report.passes if step.promise == "exact"]:
        figure = f"{len(exact)} {'pass' if len(exact) == 1 else 'passes'}"
        detail = f"greatest difference in float64: {number(max(exact))}"
        cards.append(_card("Proved exact", figure, detail))
    return f'<section class="cards">{"".join(cards)}</section>'


def _card(label: str, figure: str, detail: str, share: float | None = None) -> str:
    width = 0 if share is None else min(share, 1) * 100
    bar = "" if share is None else f'<i class="bar"><b style="width:{width:.0f}%"></b></i>'
    return (
        f'<div class="card"><span>{escape(label)}</span><strong>{escape(figure)}</strong>{bar}'
        f"<small>{escape(detail)}</small></div>"
    )


def _facts(title: str, rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in rows)
    return f"<h2>{escape(title)}</h2><dl>{body}</dl>" if body else ""


def _errors(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{escape(error.name)}</td><td class=n>{number(error.relative_l2)}</td>"
        f"<td class=n>{error.cosine:.6f}</td></tr>"
        for error in report.errors
    )
    head = "<tr><th>output</th><th class=n>relative L2</th><th class=n>cosine</th></tr>"
    return f"<h2>Error against the original</h2><table>{head}{rows}</table>" if rows else ""


def _passes(report: Report) -> str:
    head = (
        "<tr><th>pass</th><th>promise</th><th class=n>damage</th><th class=n>time</th>"
        "<th class=n>applied</th><th class=n>missed</th></tr>"
    )
    rows = "".join(map(_pass, report.passes))
    body = f"<table>{head}{rows}</table>" if rows else "<p>None were run.</p>"
    return f"<h2>Passes</h2>{body}"


def _pass(step: PassReport) -> str:
    done, missed = (str(len(step.applied)), str(len(step.missed))) if step.remarks else ("", "")
    row = (
        f"<tr><td><b>{escape(step.name)}</b></td><td>{escape(step.promise)}</td>"
        f"<td class=n>{number(step.damage)}</td><td class=n>{seconds(step.seconds)}</td>"
        f"<td class=n>{done}</td><td class=n>{missed}</td></tr>"
    )
    if not step.remarks:
        return row
    ordered = sorted(step.remarks, key=lambda remark: remark.applied)
    remarks = "".join(map(_remark, ordered))
    return (
        f'{row}<tr class="more"><td colspan="6"><details>'
        f"<summary>{len(step.remarks)} remarks</summary><ul>{remarks}</ul></details></td></tr>"
    )


def _remark(remark: Remark) -> str:
    kind = "applied" if remark.applied else "missed"
    where = f"<small>{escape(remark.where)}</small>" if remark.where else ""
    return (
        f'<li><em class="{kind}">{kind}</em> <code>{escape(remark.site)}</code> '
        f"{escape(remark.text)}{where}</li>"
    )


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --ink: #1c1d1f; --soft: #6b6f76;
        --line: #e3e4e6; --card: #fff; --mark: #2563a8; --bad: #b4570a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e6e7e9; --soft: #979ca5; --line: #2c3036; --card: #1e2125;
          --mark: #6ea8e6; --bad: #e0a060; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
       font: 15px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.05rem; margin: 2.6rem 0 .7rem; }
.sub { margin: .3rem 0 2rem; color: var(--mark); font-weight: 600; }
.sub span, small, dt { color: var(--soft); font-weight: 400; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
        padding: 1rem 1.1rem; }
.card span { display: block; color: var(--soft); }
.card strong { display: block; font-size: 1.7rem; line-height: 1.3;
               font-variant-numeric: tabular-nums; }
.card small { display: block; margin-top: .4rem; overflow-wrap: anywhere; }
.bar { display: block; height: 6px; margin-top: .4rem; border-radius: 3px;
       background: var(--line); }
.bar b { display: block; height: 100%; border-radius: 3px; background: var(--mark); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 400; color: var(--soft); }
th, td { padding: .45rem .9rem .45rem 0; border-top: 1px solid var(--line); vertical-align: top; }
tr:first-child th { border-top: 0; }
.n { text-align: right; }
.more td { border-top: 0; padding-top: 0; }
summary { cursor: pointer; color: var(--soft); }
ul { list-style: none; margin: .5rem 0 .8rem; padding: 0; }
li { padding: .2rem 0; overflow-wrap: anywhere; }
li small { display: block; padding-left: 4.6rem; }
em { display: inline-block; width: 4.4rem; font-style: normal; }
.applied { color: var(--mark); }
.missed { color: var(--bad); }
code { font: .92em ui-monospace, monospace; }
.note { border-left: 3px solid var(--line); padding-left: .9rem; color: var(--soft);
        margin: 1.2rem 0; }
"""
