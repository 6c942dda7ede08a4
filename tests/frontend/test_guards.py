"""Guards that hold for all sizes are told from those that do not."""

from __future__ import annotations

import pytest

from regauge.frontend.guards import all_hold

SIZE = "L['cache']['layers.1.keys'].size()[2]"
OTHER = "L['ids'].size()[1]"


def said(*guards: str) -> str:
    lines = [
        f"  - Not all values of past = {SIZE} in the specified range satisfy the generated guard "
        f"{guard.format(n=SIZE, k=OTHER)}."
        for guard in guards
    ]
    return "\n".join(["Constraints violated (past)!", *lines, "", "The error above occurred."])


@pytest.mark.parametrize(
    ("guards", "expected"),
    [
        (["min(8 + 8*{n}, 16 + 16*{n}) == (8 + 8*{n})"], True),
        (["min(8 + 8*{n}, 16 + 16*{n}) == (8 + 8*{n})", "{n} + 1 > 0"], True),
        (["{n} + {k} >= {k}"], True),
        (["{n} + 1 != 0"], True),
        (["min(8 + 8*{n}, 24 + 4*{n}) == (8 + 8*{n})"], False),
        (["{n} < 64"], False),
        (["{n} == 4"], False),
        (["{n} + 1 > 0", "{n} != 3"], False),
        (["{n} in some words"], False),
        (["{n} // 4 == {n} // 4"], False),
        ([], False),
    ],
)
def test_guards_are_proven(guards: list[str], expected: bool) -> None:
    assert all_hold(said(*guards)) == expected


def test_other_complaints_are_no_guards() -> None:
    more = "\n  - You marked batch as dynamic but your code specialized it to be a constant (2)."
    assert not all_hold(said("{n} + 1 > 0") + more)
