"""Quantization beside the peers: same model, same tokens, same evaluation.

    python benchmarks/weight_only/compare.py [smollm2|minilm ...] [--peers nncf ...] [--case w4g64]

Weights alone, or with ``--table widths`` activations too. Each contestant runs in a process and an
environment of its own, which this script makes. What was measured once is kept in
benchmarks/results/weight_only.json (widths.json) and not measured again, so that a run can be
stopped, and go on with other peers or settings; the page is written from all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import data
import page
from contestants import Contestant, Settings, python
from tables import TABLES, Case, Table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
WORDS = 300  # letters of an error that are kept


@dataclass(frozen=True)
class Run:
    """One process: a contestant's settings on a case.

    Attributes:
        timed: Whether it runs for its time alone, with two threads, and is not judged.
    """

    subject: str
    case: Case
    contestant: Contestant
    name: str
    timed: bool = False

    @property
    def key(self) -> str:
        place = page.place(data.SUBJECTS[self.subject], self.case, self.contestant.title)
        return f"{place}/{self.name}{'/timed' * self.timed}"

    @property
    def settings(self) -> Settings:
        asked = {**self.case.settings, **self.contestant.settings[self.name]}
        return {**asked, "judged": False} if self.timed else asked


def runs(table: Table, subjects: list[str], options: argparse.Namespace) -> Iterator[Run]:
    """All that is asked for, the first settings of every contestant first."""
    chosen = [
        Run(subject, case, contestant, name)
        for subject in subjects
        for case in table.cases[subject]
        if not options.case or case.key in options.case
        for contestant in case.contestants
        if not options.peers or any(part in contestant.script for part in options.peers)
        for name in contestant.settings
    ]
    yield from sorted(
        (run for run in chosen if _asked(run.contestant, run.name, options)),
        key=lambda run: list(run.contestant.settings).index(run.name),
    )
    for run in chosen if options.timed else ():
        if run.case.key == table.timed.get(run.subject) and run.name == run.contestant.timed:
            yield replace(run, timed=True)


def _asked(contestant: Contestant, name: str, options: argparse.Namespace) -> bool:
    """Whether settings are to be run."""
    first = "first" in (options.settings or ()) and name == next(iter(contestant.settings))
    return not options.settings or first or name in options.settings


def measure(run: Run, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a contestant's process prints, or what went wrong."""
    contestant = run.contestant
    try:
        binary = python(contestant, options.environments)
    except subprocess.CalledProcessError as error:
        return {"error": "not installed: " + _complaint(error.stderr or "")}
    threads = 2 if run.timed else options.threads
    paths = [str(HERE.parents[1] / "examples")]
    if contestant.environment is None:
        paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    surroundings = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [binary, HERE / f"{contestant.script}.py", folder, json.dumps(run.settings)]
    try:
        done = subprocess.run(
            command,
            env=surroundings,
            cwd=folder,  # some write logs to where they are
            capture_output=True,
            text=True,
            timeout=options.timeout,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {options.timeout} seconds"}
    if done.returncode:
        return {"error": _complaint(done.stderr)}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _complaint(text: str) -> str:
    """The first sentence of the line of an output that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line.split(":")[0]]
    return (errors or lines or ["no word"])[-1].split(". ")[0][:WORDS]


def kept(table: Table) -> dict[str, Any]:
    """What was measured, here or by another run of this script."""
    path = RESULTS / f"{table.name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def keep(table: Table, found: dict[str, Any]) -> None:
    """Add to what was measured, and write the page of it."""
    known = {**kept(table), **found}
    path = RESULTS / f"{table.name}.json"
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(known, indent=1) + "\n")
    new.replace(path)  # at once: another run may be reading
    page.write(table, known, RESULTS / f"{table.name}.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help="smollm2, minilm")
    parser.add_argument("--table", choices=TABLES, default="weight_only")
    parser.add_argument("--peers", nargs="*", help="parts of the names of scripts: nncf, ours")
    parser.add_argument("--case", nargs="*", help="such as w4g64, or w4a8 of the widths")
    parser.add_argument("--settings", nargs="*", help="their whole names, or 'first'")
    parser.add_argument("--timed", action="store_true", help="take times too, with two threads")
    parser.add_argument("--again", action="store_true", help="measure what is known already")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=3600, help="seconds a process may take")
    parser.add_argument("--environments", type=Path, default=HERE.parents[1] / ".peers")
    parser.add_argument("--data", type=Path, help="where models and tokens are kept")
    options = parser.parse_args()
    options.environments = options.environments.absolute()
    options.data = options.data and options.data.absolute()
    subjects, table = options.subjects or list(data.SUBJECTS), TABLES[options.table]
    with tempfile.TemporaryDirectory() as place:
        folders = dict[str, Path]()
        for run in runs(table, subjects, options):
            if run.key in kept(table) and not options.again:
                continue
            if run.subject not in folders:
                folders[run.subject] = data.write(run.subject, options.data or Path(place))
            found = measure(run, folders[run.subject], options)
            print(run.key, json.dumps(found), flush=True)
            keep(table, {run.key: found})
    keep(table, {})


if __name__ == "__main__":
    main()
