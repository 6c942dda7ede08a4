"""A spread of model families through every column of the coverage table.

All of them take ``make coverage``; here are some of those that it found to pass, at equal
distances in the alphabet.
"""

from __future__ import annotations

from pathlib import Path

import columns
import families
import pytest
import verdicts

TABLE = Path(__file__).parents[1] / "benchmarks" / "results" / "coverage.md"
COUNT = 40


@pytest.mark.filterwarnings("ignore")  # of what transformers says about itself
@pytest.mark.parametrize(
    "name", families.spread(verdicts.passing(TABLE.read_text(encoding="utf-8")), COUNT)
)
def test_passes_all_columns(name: str) -> None:
    example = families.build(name)
    failed = {
        column: reason
        for column, holds, reason in columns.check(example.model, example.kwargs)
        if not holds
    }
    assert failed == {}
