"""What is computed twice is computed once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from graphs import filled

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
        ("relu(x)", "tanh(x)"),
        ("add(x, 1.0)", "add(x, 1)"),
        (NORM, "layer_norm(x, normalized_shape=(4,))"),
        ("softmax(x, dim=0)", "softmax(x, dim=1)"),
    ],
    ids=["ops", "numbers", "norms", "attributes"],
)
def test_what_differs_stays(
    first: str, second: str, check_pass: Callable[..., list[Remark]]
) -> None:
    assert check_pass(MergeEqual(), TWICE.format(first=first, second=second)) == []


def test_norms_that_differ_in_an_attribute_are_remarked_on(
    check_pass: Callable[..., list[Remark]],
) -> None:
    other = "rms_norm(x, normalized_shape=(4,), eps=0.1)"
    (remark,) = check_pass(MergeEqual(), TWICE.format(first=NORM, second=other))
    assert str(remark) == "missed  b: it stays beside a: eps is 0.1, not None"


def test_norms_whose_parameters_hold_the_same_numbers_are_remarked_on() -> None:
    text = TWICE.replace("w: f64[3, 4]", "n: f64[4], m: f64[4], w: f64[3, 4]")
    norms = [f"rms_norm(x, {name}, normalized_shape=(4,))" for name in "nm"]
    graph, _ = filled(text.format(first=norms[0], second=norms[1]))
    assert MergeEqual().attempt(graph)[1] == []
    graph.store["m"] = graph.store["n"].clone()
    same, (remark,) = MergeEqual().attempt(graph)
    assert str(same) == str(graph) and not remark.applied and remark.site == "b"
    assert remark.text == (
        "it stays beside a: m has the numbers of n, and is a parameter of its own"
    )
