"""The coverage table's arithmetic and its file, which tests read back."""

from __future__ import annotations

import pytest
from coverage import merged
from verdicts import Row, causes, markdown, passing, read, shares

COLUMNS = ("traced", "ONNX")


@pytest.fixture
def rows() -> list[Row]:
    good, bad, dead, missing = Row("good"), Row("ba_d"), Row("dead"), Row("missing")
    for row in (good, bad, dead):
        row.add("built", True, "")
        row.add("traced", True, "7 ops")
    good.add("ONNX", True, "1e-07")
    bad.add("ONNX", False, "fft_12 | has no ONNX form [model.py:12]")
    dead.end("the process died: SIGSEGV", COLUMNS)
    missing.add("built", False, "ImportError: it needs a package")
    return [good, bad, dead, missing]


def test_shares_are_of_what_traces(rows: list[Row]) -> None:
    assert list(shares(rows, COLUMNS)) == [
        "3 of 4 families were built",
        "traced: 3 of 3 (100.0 %)",
        "ONNX: 1 of 3 (33.3 %)",
        "all: 1 of 3 (33.3 %)",
    ]


def test_a_death_is_the_fault_of_the_next_column(rows: list[Row]) -> None:
    assert rows[2].reason(COLUMNS) == "ONNX: the process died: SIGSEGV"


def test_causes_leave_out_numbers_and_places(rows: list[Row]) -> None:
    assert causes(rows, COLUMNS) == [
        ("ONNX", "_ | has no ONNX form", ["ba_d"]),
        ("ONNX", "the process died: SIGSEGV", ["dead"]),
    ]


def test_the_file_says_which_families_pass(rows: list[Row]) -> None:
    rows[0].seconds = 3.0
    text = markdown(rows, COLUMNS, "Today.")
    assert passing(text) == ["good"]
    assert passing(text, seconds=2) == []
    assert "| ba\\_d | ✓ | ✗ | 0.0 | ONNX: fft\\_12 \\| has no ONNX form [model.py:12] |" in text
    assert "- missing: ImportError: it needs a package" in text


def test_the_file_names_no_folder_of_this_machine() -> None:
    row = Row("other", "ImportError: no X in 'a' from '/home/me/lib/site-packages/a_b/c.py'")
    text = markdown([row], [], "")
    assert "from 'a\\_b/c.py'" in text and "site-packages" not in text and "/home" not in text


def test_what_a_column_has_nothing_to_say_of_is_counted_nowhere(rows: list[Row]) -> None:
    rows[0].add("ONNX", None, "no op")
    assert list(shares(rows, COLUMNS))[2:] == ["ONNX: 0 of 2 (0.0 %)", "all: 1 of 3 (33.3 %)"]
    assert passing(markdown(rows, COLUMNS, "")) == ["good"]


def test_a_file_is_read_as_it_was_written(rows: list[Row]) -> None:
    rows[0].verdicts |= {"traced": (True, ""), "ONNX": (None, "")}
    rows[1].add("traced", False, "no <x>; a*b is none: see [model.py:3]")
    rows[2].verdicts["traced"] = (True, "")
    text = markdown(rows, COLUMNS, "")
    again = read(text)
    assert [row.name for row in again] == ["good", "ba_d", "dead", "missing"]
    assert again[1].verdicts == rows[1].verdicts
    assert markdown(again, COLUMNS, "") == text


def test_new_rows_take_the_place_of_old_ones(rows: list[Row]) -> None:
    new = Row("ba_d", built="", verdicts={"traced": (True, ""), "ONNX": (True, "")})
    both = merged(rows, [new, Row("also")])
    assert [row.name for row in both] == ["also", "ba_d", "dead", "good", "missing"]
    assert both[1] is new


def test_a_column_that_an_older_run_lacks_counts_the_rows_that_have_it(rows: list[Row]) -> None:
    rows[0].add("experts", True, "")
    rows[1].verdicts = {"traced": (True, "")}
    columns = ("traced", "experts")
    assert list(shares(rows[:2], columns))[2] == "experts: 1 of 1 (100.0 %)"
