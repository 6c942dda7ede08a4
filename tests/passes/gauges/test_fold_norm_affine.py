from __future__ import annotations

from collections.abc import Callable

from regauge.passes import Remark
from regauge.passes.gauges.fold_norm_affine import FoldNormAffine


def test_folds_weight_and_bias_into_all_readers(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(
        FoldNormAffine(),
        before="""
            def graph(
                x: f64[2, 3, 8], *, g: f64[8], b: f64[8], q: f64[4, 8], k: f64[4, 8], c: f64[4]
            ):
                n: f64[2, 3, 8] = layer_norm(x, g, b, normalized_shape=(8,))
                u: f64[2, 3, 4] = linear(n, q)
                v: f64[2, 3, 4] = linear(n, k, c)
                y: f64[2, 3, 4] = add(u, v)
                return y
            """,
        after="""
            def graph(x: f64[2, 3, 8], *, q: f64[4, 8], k: f64[4, 8], c: f64[4], u_bias: f64[4]):
                n: f64[2, 3, 8] = layer_norm(x, normalized_shape=(8,))
                u: f64[2, 3, 4] = linear(n, q, u_bias)
                v: f64[2, 3, 4] = linear(n, k, c)
                y: f64[2, 3, 4] = add(u, v)
                return y
            """,
    )
    assert remark.text == "weight and bias went into its readers"


def test_leaves_a_norm_that_a_shortcut_reads(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(
        FoldNormAffine(),
        before="""
            def graph(x: f64[2, 3, 8], *, g: f64[8], w: f64[8, 8]):
                n: f64[2, 3, 8] = rms_norm(x, g, normalized_shape=(8,), eps=1e-06)
                f: f64[2, 3, 8] = linear(n, w)
                y: f64[2, 3, 8] = add(n, f)
                return y
            """,
    )
    assert remark.text == "output (output): the value is an output of the graph"
