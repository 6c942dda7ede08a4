"""The biases of keys go, those of values move on, and what is in between is named."""

from __future__ import annotations

from collections.abc import Callable

from regauge.passes import FoldAttentionBias, Remark

HEAD = """
def graph(x: f64[2, 5, 8], *, wq: f64[8, 8], wk: f64[{kv}, 8], wv: f64[{kv}, 8], wo: f64[8, 8],
          bq: f64[8], bk: f64[{kv}], bv: f64[{kv}], c: f64[8]):
    q: f64[2, 5, 8] = linear(x, wq, bq)
    k: f64[2, 5, {kv}] = linear(x, wk, bk)
    v: f64[2, 5, {kv}] = linear(x, wv, bv)
    q4: f64[2, 5, 2, 4] = reshape(q, shape=(2, 5, 2, 4))
    k4: f64[2, 5, {h}, 4] = reshape(k, shape=(2, 5, {h}, 4))
    v4: f64[2, 5, {h}, 4] = reshape(v, shape=(2, 5, {h}, 4))
    qh: f64[2, 2, 5, 4] = permute(q4, dims=(0, 2, 1, 3))
    kh: f64[2, {h}, 5, 4] = permute(k4, dims=(0, 2, 1, 3))
    vh: f64[2, {h}, 5, 4] = permute(v4, dims=(0, 2, 1, 3))
    a: f64[2, 2, 5, 4] = scaled_dot_product_attention(qh, {key}, vh{gqa})
    b: f64[2, 5, 2, 4] = permute(a, dims=(0, 2, 1, 3))
    m: f64[2, 5, 8] = reshape(b, shape=(2, 5, 8))
    y: f64[2, 5, 8] = linear(m, wo{bias})
    return y
"""


def text(heads: int = 2, bias: str = ", c", key: str = "kh") -> str:
    source = HEAD.format(
        kv=4 * heads, h=heads, gqa=", enable_gqa=True" * (heads == 1), bias=bias, key=key
    )
    return source.replace(", c: f64[8]", ", c: f64[8]" if bias else "")


def _drop(printed: str, name: str) -> str:
    kept = [line for line in printed.splitlines() if not line.startswith(f"    b{name}: ")]
    return "\n".join(kept).replace(f", b{name})", ")")


def without_biases(bias: str) -> Callable[[str], str]:
    def after(printed: str) -> str:
        found = _drop(_drop(printed, "k"), "v")
        if not bias:  # the reader has one now
            found = found.replace("    bq: f64[8],\n", "    bq: f64[8],\n    y_bias: f64[8],\n")
            found = found.replace("linear(m, wo)", "linear(m, wo, y_bias)")
        return found

    return after


def test_both_biases_go(check_pass: Callable[..., list[Remark]]) -> None:
    for heads in (2, 1):
        for bias in (", c", ""):
            key, value = check_pass(FoldAttentionBias(), text(heads, bias), without_biases(bias))
            assert (key.site, key.text) == ("k", "its bias has no effect, and is gone")
            assert (value.site, value.text) == ("v", "its bias went into y")


def test_an_embedding_of_positions_is_named(check_pass: Callable[..., list[Remark]]) -> None:
    before = text(key="kr").replace(
        "    vh:", "    kr: f64[2, 2, 5, 4] = mul(kh, r)\n    vh:"
    ).replace("c: f64[8])", "r: f64[5, 4], c: f64[8])")  # fmt: skip
    key, value = check_pass(FoldAttentionBias(), before, lambda old: _drop(old, "v"))
    assert not key.applied and "kr (mul)" in key.text
    assert value.applied
