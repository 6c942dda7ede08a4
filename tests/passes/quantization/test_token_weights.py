from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize
from regauge.passes.quantization.token_weights import LEAST, TokenWeights

HEADS, KEYS, SIZE = 4, 2, 8  # heads of queries, of keys, and the size of one

TEXT = """
def graph(x: f32[3, 40, 16]{mask}, *, q: f32[32, 16], k: f32[16, 16], v: f32[16, 16],
          o: f32[16, 32], u: f32[24, 16], d: f32[16, 24]):
    a: f32[3, 40, 32] = linear(x, q)
    b: f32[3, 40, 16] = linear(x, k)
    c: f32[3, 40, 16] = linear(x, v)
    a4: f32[3, 40, 4, 8] = reshape(a, shape=(3, 40, 4, 8))
    b4: f32[3, 40, 2, 8] = reshape(b, shape=(3, 40, 2, 8))
    c4: f32[3, 40, 2, 8] = reshape(c, shape=(3, 40, 2, 8))
    at: f32[3, 4, 40, 8] = transpose(a4, dim0=1, dim1=2)
    bt: f32[3, 2, 40, 8] = transpose(b4, dim0=1, dim1=2)
    ct: f32[3, 2, 40, 8] = transpose(c4, dim0=1, dim1=2)
    s: f32[3, 4, 40, 8] = scaled_dot_product_attention(at, bt, ct, is_causal=True, enable_gqa=True)
    st: f32[3, 40, 4, 8] = transpose(s, dim0=1, dim1=2)
    sr: f32[3, 40, 32] = reshape(st, shape=(3, 40, 32))
    p: f32[3, 40, 16] = linear(sr, o)
    h: f32[3, 40, 16] = add(x, p)
    m: f32[3, 40, 24] = linear(h, u)
    r: f32[3, 40, 24] = relu(m)
    n: f32[3, 40, 16] = linear(r, d)
    y: f32[3, 40, 16] = add(h, n)
    return y
"""


def sample(mask: bool = False) -> tuple[Graph, Context]:
    graph = parse(TEXT.replace("{mask}", ", seen: i64[3, 40]" if mask else ""))
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    batches = []
    for _ in range(2):
        batches.append([torch.randn(3, 40, 16, generator=generator)])
        if mask:
            batches[-1].append((torch.arange(40) < torch.tensor([[40], [30], [9]])).long())
    return graph, Context(inputs=batches[0], calibration=batches)


def received(graph: Graph, batch: Sequence[Any]) -> torch.Tensor:
    """The attention that each key gets, in plain words, ``[3, 40]``."""
    query, key = (
        (batch[0] @ graph.store[name].T).unflatten(-1, (-1, SIZE)).transpose(1, 2) for name in "qk"
    )
    scores = query @ key.repeat_interleave(HEADS // KEYS, 1).mT / SIZE**0.5
    later = torch.ones(40, 40, dtype=torch.bool).triu(1)
    attention = scores.masked_fill(later, -torch.inf).softmax(-1)  # [3, heads, queries, keys]
    if len(batch) > 1:
        attention = attention * batch[1].bool()[:, None, :, None]
    return attention.sum((1, 2))


@pytest.mark.parametrize("mask", [False, True])
def test_tokens_count_by_the_attention_that_they_get(mask: bool) -> None:
    graph, context = sample(mask)
    tokens = TokenWeights.of(graph, context, "Test")
    found = tokens.counts[graph["s"]]
    assert len(found) == len(context.calibration)
    for batch, counts in zip(context.calibration, found, strict=True):
        seen = batch[1].bool() if mask else torch.ones(3, 40, dtype=torch.bool)
        for one, wanted, here in zip(counts, received(graph, batch), seen, strict=True):
            one, wanted = one[here], wanted[here]
            part = (wanted - wanted.min()) / (wanted.max() - wanted.min())
            part = LEAST + (1 - LEAST) * part
            torch.testing.assert_close(one, part / part.mean(), rtol=1e-4, atol=1e-5)
            assert float(one.mean()) == pytest.approx(1)
        assert not bool(counts[~seen].any())


def test_what_a_block_reads_goes_with_its_attention_or_the_one_before() -> None:
    graph, context = sample()
    tokens = TokenWeights.of(graph, context, "Test")
    rows = [len(batch[0].flatten(0, 1)) for batch in context.calibration]
    for name in "acpmn":
        counts = tokens.of_rows(graph[name], rows)
        assert counts is not None
        torch.testing.assert_close(counts[1], tokens.counts[graph["s"]][1].flatten())
    assert tokens.of_rows(graph["a"], [7 for _ in rows]) is None  # rows of another kind
    assert tokens.of_rows(graph["a"], rows[:1]) is None


def test_padding_has_no_rows() -> None:
    graph, context = sample(mask=True)
    tokens = TokenWeights.of(graph, context, "Test")
    rows = [len(batch[0][batch[1].bool()]) for batch in context.calibration]
    counts = tokens.of_rows(graph["a"], rows)
    assert counts is not None
    assert [len(part) for part in counts] == [79, 79]
    assert all(bool((part > 0).all()) for part in counts)


def test_the_codes_follow_the_weights() -> None:
    graph, context = sample()
    plain, weighted = (
        Quantize(None, weights="int3-g16", token_weights=which, least=1)(graph, context)[0]
        for which in (None, "attention")
    )
    assert [str(node) for node in plain.nodes] == [str(node) for node in weighted.nodes]
    changed = [
        name for name in plain.store if not torch.equal(plain.store[name], weighted.store[name])
    ]
    assert {"v_codes", "o_codes", "u_codes", "d_codes"} <= set(changed)


def test_without_attention_all_tokens_count_the_same() -> None:
    graph = parse(
        """
        def graph(x: f32[64, 16], *, w: f32[24, 16]):
            y: f32[64, 24] = linear(x, w)
            return y
        """
    )
    graph.store["w"] = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    context = Context(inputs=[x], calibration=[[x]])
    plain, weighted = (
        Quantize(None, weights="int3-g16", token_weights=which, least=1)(graph, context)[0]
        for which in (None, "attention")
    )
    assert torch.equal(execute(plain, [x])[0], execute(weighted, [x])[0])
