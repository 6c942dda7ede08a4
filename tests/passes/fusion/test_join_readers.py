"""Linear layers that read one value become one, cut into their parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphs import filled

from regauge.backends.profiles import target
from regauge.ir import Graph
from regauge.ir.interpret import execute, flatten
from regauge.passes import Context, JoinReaders, Quantize, Remark, apply
from regauge.passes.manager import difference


def test_layers_become_one(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(
        JoinReaders(),
        before="""
            def graph(x: f64[2, 4], *, q: f64[6, 4], k: f64[3, 4], b: f64[3]):
                r: f64[2, 4] = relu(x)
                u: f64[2, 6] = linear(r, q)
                s: f64[2, 6] = relu(u)
                v: f64[2, 3] = linear(r, k, b)
                return s, v, r
            """,
        after="""
            def graph(x: f64[2, 4], *, u_v_weight: f64[9, 4], u_v_bias: f64[9]):
                r: f64[2, 4] = relu(x)
                u_v: f64[2, 9] = linear(r, u_v_weight, u_v_bias)
                u: f64[2, 6] = slice(u_v, dim=1, start=0, end=6)
                s: f64[2, 6] = relu(u)
                v: f64[2, 3] = slice(u_v, dim=1, start=6, end=9)
                return s, v, r
            """,
    )
    assert remark.text == "2 linear layers of r are one"


TIED = """
    def graph(x: f64[2, 4], z: f64[2, 4], *, q: f64[4, 4], k: f64[3, 4]):
        u: f64[2, 4] = linear(x, q)
        v: f64[2, 3] = linear(x, k)
        w: f64[2, 4] = linear(z, q)
        return u, v, w
    """


def test_does_not_break_a_tie_unless_told_to(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(JoinReaders(), before=TIED)
    assert remark.text == "it would break the tie of q, at a cost of 128 bytes"
    (remark,) = check_pass(
        JoinReaders(untie=True),
        before=TIED,
        after="""
            def graph(x: f64[2, 4], z: f64[2, 4], *, q: f64[4, 4], u_v_weight: f64[7, 4]):
                u_v: f64[2, 7] = linear(x, u_v_weight)
                u: f64[2, 4] = slice(u_v, dim=1, start=0, end=4)
                v: f64[2, 3] = slice(u_v, dim=1, start=4, end=7)
                w: f64[2, 4] = linear(z, q)
                return u, v, w
            """,
    )
    assert remark.applied


def test_computed_weights_stay_beside_the_others(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(
        JoinReaders(),
        before="""
            def graph(x: f64[2, 4], z: f64[3, 4], *, q: f64[4, 4]):
                s: f64[3, 4] = relu(z)
                u: f64[2, 4] = linear(x, q)
                v: f64[2, 3] = linear(x, s)
                return u, v
            """,
    )
    assert str(remark) == "missed  v: it stays beside u: s (relu) is no parameter"


def test_what_can_is_joined_without_what_cannot(check_pass: Callable[..., list[Remark]]) -> None:
    kept, joined = check_pass(
        JoinReaders(),
        before="""
            def graph(x: f64[2, 4], z: f64[3, 4], *, q: f64[4, 4], p: f64[2, 4]):
                u: f64[2, 4] = linear(x, q)
                v: f64[2, 3] = linear(x, z)
                w: f64[2, 2] = linear(x, p)
                return u, v, w
            """,
        after="""
            def graph(x: f64[2, 4], z: f64[3, 4], *, u_w_weight: f64[6, 4]):
                u_w: f64[2, 6] = linear(x, u_w_weight)
                u: f64[2, 4] = slice(u_w, dim=1, start=0, end=4)
                v: f64[2, 3] = linear(x, z)
                w: f64[2, 2] = slice(u_w, dim=1, start=4, end=6)
                return u, v, w
            """,
    )
    assert joined.applied and kept.text == "it stays beside u, w: z (input) is no parameter"


def test_weights_in_codes_stay_beside_the_others() -> None:
    graph, _ = filled(
        """
def graph(x: f64[8, 32], *, q: f64[32, 32], k: f64[32, 32]):
    u: f64[8, 32] = linear(x, q)
    v: f64[8, 32] = linear(x, k)
    return u, v
"""
    )
    coded, _ = Quantize(None, rounding="nearest", correct_bias=False, least=0)(graph)
    same, remarks = JoinReaders().attempt(coded)
    assert str(same) == str(coded)
    texts = [remark.text.partition(": ") for remark in remarks]
    assert [text[0] for text in texts] == ["it stays beside v", "it stays beside u"]
    assert all("(dequantize) holds codes" in text[2] for text in texts)


def test_readers_of_two_values_stay(check_pass: Callable[..., list[Remark]]) -> None:
    text = """
        def graph(x: f64[2, 4], *, q: f64[4, 4], k: f64[3, 4]):
            u: f64[2, 4] = linear(x, q)
            r: f64[2, 4] = relu(x)
            v: f64[2, 3] = linear(r, k)
            return u, v
        """
    assert check_pass(JoinReaders(), before=text) == []


def test_a_language_model_runs_on_the_runtime(
    traced: Callable[..., Graph], zoo_model: Callable[..., Any]
) -> None:
    graph, made = traced("llama"), zoo_model("llama")
    inputs = flatten(graph, made.args, made.kwargs)
    new, (report, _) = apply(graph, [JoinReaders()], Context(inputs=inputs))
    # Queries, keys and values; gate and up; in each of two layers.
    assert [remark.text[0] for remark in report.applied] == ["3", "2", "3", "2"]
    assert difference(target("onnxruntime").lower(new)(inputs), execute(graph, inputs)) < 1e-5
