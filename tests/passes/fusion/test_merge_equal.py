"""What is computed twice is computed once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from regauge.passes import MergeEqual, Remark

NORM = "rms_norm(x, normalized_shape=(4,))"
TWICE = """
def graph(x: f64[2, 4], *, w: f64[3, 4], u: f64[3, 4]):
    a: f64[2, 4] = {first}
    b: f64[2, 4] = {second}
    c: f64[2, 3] = linear(a, w)
    d: f64[2, 3] = linear(b, u)
    y: f64[2, 3] = add(c, d)
    return y
"""


def test_readers_of_an_equal_node_read_the_first(check_pass: Callable[..., list[Remark]]) -> None:
    remarks = check_pass(
        MergeEqual(),
        TWICE.format(first=NORM, second=NORM),
        """
def graph(x: f64[2, 4], *, w: f64[3, 4], u: f64[3, 4]):
    a: f64[2, 4] = rms_norm(x, normalized_shape=(4,))
    c: f64[2, 3] = linear(a, w)
    d: f64[2, 3] = linear(a, u)
    y: f64[2, 3] = add(c, d)
    return y
""",
    )
    assert [remark.site for remark in remarks] == ["b"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (NORM, "rms_norm(x, normalized_shape=(4,), eps=0.1)"),
        ("relu(x)", "tanh(x)"),
        ("add(x, 1.0)", "add(x, 1)"),
    ],
    ids=["attributes", "ops", "numbers"],
)
def test_what_differs_stays(
    first: str, second: str, check_pass: Callable[..., list[Remark]]
) -> None:
    assert check_pass(MergeEqual(), TWICE.format(first=first, second=second)) == []
