"""A spread of model families through every column of the coverage table.

All of them take ``make coverage``; here are some of those that it found to pass in a few seconds,
at equal distances in the alphabet.
"""

from __future__ import annotations

from pathlib import Path

import columns
import families
import pytest
import verdicts

TABLE = Path(__file__).parents[1] / "benchmarks" / "results" / "coverage.md"
COUNT, SECONDS = 40, 5
# Those of diffusers need an extra.
PASSING = [
    name
    for name in verdicts.passing(TABLE.read_text(encoding="utf-8"), SECONDS)
    if not name.startswith("diffusers.")
]


@pytest.mark.filterwarnings("ignore")  # of what transformers says about itself
@pytest.mark.parametrize("name", families.spread(PASSING, COUNT))
def test_passes_all_columns(name: str) -> None:
    example = families.build(name)
    failed = {
        column: reason
        for column, holds, reason in columns.check(example.model, example.kwargs)
        if holds is False  # None: it has nothing that the column is about
    }
    assert failed == {}
