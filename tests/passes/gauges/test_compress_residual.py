from __future__ import annotations

from collections.abc import Callable

from regauge.passes import CompressResidual, Remark

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
    y: f64[2, 3, 4] = {op}(k, h)
    return y
"""


def test_the_stream_loses_its_last_channel(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(
        CompressResidual(),
        before=PRE.format(op="linear"),
        after="""
            def graph(x: f64[2, 3, 5], *, {params}):
                a: f64[2, 3, 7] = linear(x, e)
                s: f64[2, 3, 7] = add(a, p)
                n: f64[2, 3, 7] = crms_norm(s, eps=1e-05)
                f: f64[2, 3, 7] = linear(n, w, c)
                r: f64[2, 3, 7] = add(s, f)
                k: f64[2, 3, 7] = crms_norm(r, eps=1e-06)
                y: f64[2, 3, 4] = linear(k, h)
                return y
            """.format(params="p: f64[3, 7], e: f64[7, 5], c: f64[7], w: f64[7, 7], h: f64[4, 7]"),
    )
    assert remark.text == "7 channels of 8; 2 norms, 0 with the last one put back"


def test_a_reader_that_is_no_linear_map_gets_all_channels(
    check_pass: Callable[..., list[Remark]],
) -> None:
    text = PRE.format(op="linear").replace("linear(k, h)", "linear(q, h)")
    text = text.replace("    y: f64", "    q: f64[2, 3, 8] = relu(k)\n    y: f64")
    (remark,) = check_pass(
        CompressResidual(),
        before=text,
        after="""
            def graph(x: f64[2, 3, 5], *, {params}):
                a: f64[2, 3, 7] = linear(x, e)
                s: f64[2, 3, 7] = add(a, p)
                n: f64[2, 3, 7] = crms_norm(s, eps=1e-05)
                f: f64[2, 3, 7] = linear(n, w, c)
                r: f64[2, 3, 7] = add(s, f)
                k_1: f64[2, 3, 7] = crms_norm(r, eps=1e-06)
                k_sum: f64[2, 3, 1] = sum(k_1, dim=(2,), keepdim=True)
                k_last: f64[2, 3, 1] = neg(k_sum)
                k: f64[2, 3, 8] = cat((k_1, k_last), dim=2)
                q: f64[2, 3, 8] = relu(k)
                y: f64[2, 3, 4] = linear(q, h)
                return y
            """.format(params="h: f64[4, 8], p: f64[3, 7], e: f64[7, 5], c: f64[7], w: f64[7, 7]"),
    )
    assert remark.text == "7 channels of 8; 2 norms, 1 with the last one put back"


def test_post_norm_is_refused(check_pass: Callable[..., list[Remark]]) -> None:
    text = """
        def graph(x: f64[2, 8], *, g: f64[8], b: f64[8], w: f64[8, 8], u: f64[3, 8]):
            n: f64[2, 8] = layer_norm(x, g, b, normalized_shape=(8,))
            f: f64[2, 8] = linear(n, w)
            r: f64[2, 8] = add(n, f)
            k: f64[2, 8] = layer_norm(r, g, b, normalized_shape=(8,))
            y: f64[2, 3] = linear(k, u)
            return y
        """
    first, second = check_pass(CompressResidual(), before=text)
    assert first.text == "its input cannot be centred: x (input): it is an input of the graph"
    assert second.text == (
        "its input cannot be centred: n (layer_norm): "
        "layer_norm gives a result that takes no centre"
    )
