from __future__ import annotations

from collections.abc import Callable

from regauge.passes import Remark
from regauge.passes.gauges.center_residual import CenterResidual

PRE = """
def graph(
    x: f64[2, 3, 5],
    *,
    e: f64[8, 5],
    p: f64[3, 8],
    g: f64[8],
    b: f64[8],
    w: f64[8, 8],
    c: f64[8],
    h: f64[4, 8],
):
    a: f64[2, 3, 8] = linear(x, e)
    s: f64[2, 3, 8] = add(a, p)
    n: f64[2, 3, 8] = layer_norm(s, g, b, normalized_shape=(8,))
    f: f64[2, 3, 8] = linear(n, w, c)
    r: f64[2, 3, 8] = add(s, f)
    k: f64[2, 3, 8] = layer_norm(r, normalized_shape=(8,), eps=1e-06)
    y: f64[2, 3, 4] = linear(k, h)
    return y
"""


def test_centres_what_writes_the_stream_and_drops_the_means(
    check_pass: Callable[..., list[Remark]],
) -> None:
    (remark,) = check_pass(
        CenterResidual(),
        before=PRE,
        after="""
            def graph(
                x: f64[2, 3, 5],
                *,
                e: f64[8, 5],
                p: f64[3, 8],
                g: f64[8],
                w: f64[8, 8],
                c: f64[8],
                h: f64[4, 8],
            ):
                a: f64[2, 3, 8] = linear(x, e)
                s: f64[2, 3, 8] = add(a, p)
                n: f64[2, 3, 8] = rms_norm(s, g, normalized_shape=(8,), eps=1e-05)
                f: f64[2, 3, 8] = linear(n, w, c)
                r: f64[2, 3, 8] = add(s, f)
                k: f64[2, 3, 8] = rms_norm(r, normalized_shape=(8,), eps=1e-06)
                y: f64[2, 3, 4] = linear(k, h)
                return y
            """,
    )
    assert remark.text == "centred through 4 parameters; 2 LayerNorms became RMSNorms: n, k"


def test_refuses_a_stream_that_a_norm_writes(check_pass: Callable[..., list[Remark]]) -> None:
    text = """
        def graph(x: f64[2, 3, 8], *, w: f64[8, 8], g: f64[8], b: f64[8]):
            n: f64[2, 3, 8] = layer_norm(x, g, b, normalized_shape=(8,))
            f: f64[2, 3, 8] = linear(n, w)
            r: f64[2, 3, 8] = add(n, f)
            y: f64[2, 3, 8] = layer_norm(r, g, b, normalized_shape=(8,))
            return y
        """
    first, second = check_pass(CenterResidual(), before=text)
    assert first.text == "its input cannot be centred: x (input): it is an input of the graph"
    assert second.text == (
        "its input cannot be centred: f (linear): "
        "it reads the value without a norm that would take out the mean"
    )


def test_refuses_a_stream_that_is_read_without_a_norm(
    check_pass: Callable[..., list[Remark]],
) -> None:
    text = """
        def graph(x: f64[2, 3, 5], *, e: f64[8, 5], w: f64[8, 8]):
            a: f64[2, 3, 8] = linear(x, e)
            n: f64[2, 3, 8] = layer_norm(a, normalized_shape=(8,))
            f: f64[2, 3, 8] = linear(a, w)
            y: f64[2, 3, 8] = mul(n, f)
            return y
        """
    (remark,) = check_pass(CenterResidual(), before=text)
    assert remark.text == (
        "its input cannot be centred: f (linear): "
        "it reads the value without a norm that would take out the mean"
    )


def test_does_not_break_a_tie_unless_told_to(check_pass: Callable[..., list[Remark]]) -> None:
    text = """
        def graph(t: i64[2, 3], *, e: f64[9, 8]):
            a: f64[2, 3, 8] = embedding(e, t)
            n: f64[2, 3, 8] = layer_norm(a, normalized_shape=(8,))
            y: f64[2, 3, 9] = linear(n, e)
            return y
        """
    (remark,) = check_pass(CenterResidual(), before=text)
    assert remark.text == "it would break the tie of e, at a cost of 576 bytes"
    (remark,) = check_pass(
        CenterResidual(untie=True),
        before=text,
        after="""
            def graph(t: i64[2, 3], *, e: f64[9, 8], e_1: f64[9, 8]):
                a: f64[2, 3, 8] = embedding(e_1, t)
                n: f64[2, 3, 8] = rms_norm(a, normalized_shape=(8,), eps=1e-05)
                y: f64[2, 3, 9] = linear(n, e)
                return y
            """,
    )
    assert remark.applied
