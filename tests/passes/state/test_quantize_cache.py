"""Caches in few bits: found by structure, kept as codes, on both targets."""

from typing import Any

import pytest
import torch
from graphs import filled
from small_models import zoo_model

import regauge as rg
from regauge.backends.onnxruntime import lower
from regauge.frontend.caches import register_caches
from regauge.ir import Graph, InputError, parse
from regauge.ir.interpret import execute
from regauge.ir.state import entered, find_caches, run_as_traced
from regauge.passes import CacheInputs, Context, Pass, QuantizeCache
from regauge.passes.manager import difference

PAST, FRESH = 12, 5


@pytest.fixture(scope="module")
def decoder() -> tuple[Graph, list[Any], Any]:
    """A decoder that takes a cache of any length and five more tokens, and its inputs."""
    model = zoo_model("llama").model
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 99, (2, PAST + FRESH), generator=generator)
    with torch.no_grad():
        cache = model(ids[:, :PAST], use_cache=True).past_key_values
    past = torch.export.Dim.AUTO
    pairs = [({2: past}, {2: past})] * len(cache.layers)
    kwargs = {"input_ids": ids[:, PAST:], "past_key_values": cache, "use_cache": True}
    shapes = {"input_ids": None, "past_key_values": pairs, "use_cache": None}
    graph = rg.trace(model, (), kwargs, dynamic_shapes=shapes)
    flat = [kwargs["input_ids"], *(t for x in cache.layers for t in (x.keys, x.values)), True]
    with torch.no_grad():
        whole = model(ids, use_cache=True)
    return graph, flat, whole


def context(flat: list[Any]) -> Context:
    return Context(inputs=flat, calibration=[flat])


def test_a_decoder_with_a_cache_continues_where_it_was(
    decoder: tuple[Graph, list[Any], Any],
) -> None:
    graph, flat, whole = decoder
    found = execute(graph, flat)
    torch.testing.assert_close(found[0], whole.logits[:, PAST:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], whole.past_key_values.layers[0].keys, rtol=1e-5, atol=1e-5)


def test_caches_are_found_by_what_is_done_with_them(decoder: tuple[Graph, list[Any], Any]) -> None:
    caches = find_caches(decoder[0])
    assert [cache.role for cache in caches] == ["keys", "values"] * 2
    assert {cache.axis for cache in caches} == {2}
    assert caches[0].attention is caches[1].attention is not caches[2].attention


CACHE = """
def graph(q: f32[1, 2, 3, 4], p: f32[1, 2, 6, 4], k: f32[1, 2, 3, 4], v: f32[1, 2, 9, 4]):
    n: f32[1, 2, 3, 4] = neg(k)
    j: f32[1, 2, 9, 4] = cat(({first}, {second}), dim={dim})
    y: f32[1, 2, 3, 4] = scaled_dot_product_attention({operands})
    {extra}
    return y, {given}
"""
PLAIN = {
    "first": "p",
    "second": "n",
    "dim": "2",
    "operands": "q, j, v",
    "extra": "z: f32[1, 2, 3, 4] = neg(k)",
    "given": "j",
}


@pytest.mark.parametrize(
    ("change", "roles"),
    [
        ({}, ["keys"]),
        ({"operands": "q, v, j"}, ["values"]),
        ({"first": "n", "second": "p"}, []),  # the fresh tokens come first
        ({"given": "k"}, []),  # the result is not kept
        ({"operands": "q, v, v"}, []),  # nothing attends to it
        ({"operands": "q, j, j"}, []),  # keys and values at once
        ({"extra": "z: f32[1, 2, 6, 4] = neg(p)", "given": "j, z"}, []),  # read alone, too
    ],
)
def test_what_only_looks_like_a_cache_is_none(change: dict[str, str], roles: list[str]) -> None:
    graph = parse(CACHE.format(**{**PLAIN, **change}))
    graph.prune()
    assert [cache.role for cache in find_caches(graph)] == roles


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("group", [None, 4])
def test_the_error_goes_with_the_step(
    decoder: tuple[Graph, list[Any], Any], window: int, group: int | None
) -> None:
    graph, flat, _ = decoder
    wanted = execute(graph, flat)
    errors: dict[int, float] = {}
    for bits in (2, 4, 8, 16):
        new, remarks = QuantizeCache(bits, bits, group=group, window=window)(graph)
        errors[bits] = difference(run_as_traced(new, flat), wanted)
        assert len(remarks) == 4
    for bits in (4, 8, 16):  # the step is a part of the range, one in 2^b - 1
        expected = (2**bits - 1) / (2 ** (bits // 2) - 1)
        assert 0.7 < errors[bits // 2] / errors[bits] / expected < 1.4
    assert errors[16] < 3e-5


def test_codes_of_few_bits_share_bytes(decoder: tuple[Graph, list[Any], Any]) -> None:
    graph, flat, _ = decoder
    new, remarks = QuantizeCache(2, 4, group=4, window=4)(graph)
    given = {node.name: node for node in new.inputs}
    assert given["past_key_values_0_0_codes"].dtype == torch.uint8
    assert given["past_key_values_0_0_codes"].shape[-1] == 2  # 8 channels in 2 bits
    assert given["past_key_values_0_1_codes"].shape[-1] == 4
    assert given["past_key_values_0_1_scale"].shape[-1] == 2  # 8 channels in groups of 4
    assert given["past_key_values_0_1_recent"].shape == (2, 2, 4, 8)
    state = entered(new, flat)[1]
    assert state.dtype == torch.uint8 and state.shape == (2, 2, PAST - 4, 2)
    assert remarks[0].data == {"bytes_before": 32, "bytes": 2 + 2 * 2 * 4}


def test_what_goes_out_comes_in_again(decoder: tuple[Graph, list[Any], Any]) -> None:
    """Five tokens at once leave the same codes as one after another would: each is rounded once."""
    graph, flat, _ = decoder
    new, _ = QuantizeCache(8, 8, window=2)(graph)
    state = list(entered(new, flat))
    first = execute(new, state)
    again = execute(new, [state[0], *first[1:], True])
    codes = slice(None), slice(None), slice(0, PAST - 2 + FRESH)
    assert torch.equal(again[1][codes], first[1])
    assert again[1].shape[2] == PAST - 2 + 2 * FRESH


def test_keys_with_a_range_for_each_channel(decoder: tuple[Graph, list[Any], Any]) -> None:
    graph, flat, _ = decoder
    strong = list(flat)
    factor = torch.ones(8)
    factor[3] = 30.0  # an outlier channel
    strong[1] = flat[1] * factor
    wanted = execute(graph, strong)
    by = {
        scaling: QuantizeCache(4, None, scaling=scaling)(graph, context(strong))[0]
        for scaling in ("token", "channel")
    }
    errors = {
        scaling: float((run_as_traced(new, strong)[1] - wanted[1])[..., :3].norm())
        for scaling, new in by.items()
    }
    assert errors["channel"] < errors["token"] / 3
    names = [node.name for node in by["channel"].inputs]
    assert "past_key_values_0_0_codes" in names and "past_key_values_0_0_scale" not in names


@pytest.mark.parametrize(
    "step",
    [
        QuantizeCache(8, 8),
        QuantizeCache(4, 2, group=4, window=3, scales=torch.float16),
        QuantizeCache(4, 8, scaling="channel"),
    ],
    ids=["int8", "packed", "channels"],
)
def test_onnxruntime_takes_and_gives_codes(
    decoder: tuple[Graph, list[Any], Any], step: QuantizeCache
) -> None:
    graph, flat, _ = decoder
    new, _ = step(graph, context(flat))
    state = entered(new, flat)
    found, wanted = lower(new, threads=1)(state), execute(new, state)
    for a, b in zip(found, wanted, strict=True):
        if b.dtype == torch.uint8:  # a tie may fall either way
            assert float((a != b).float().mean()) < 0.01
        else:
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


def test_compile_keeps_the_state_in_codes(tmp_path: Any) -> None:
    register_caches()
    model = zoo_model("llama").model
    ids = torch.randint(3, 99, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = model(ids[:, :8], use_cache=True).past_key_values
    kwargs = {"input_ids": ids[:, 8:], "past_key_values": cache, "use_cache": True}
    art = rg.compile(model, (), kwargs, passes=[QuantizeCache(8, 8)])
    assert art.report.errors[0].relative_l2 < 0.02
    flat = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    state = entered(art.graph, [ids[:, 8:], *flat, True])
    parts = [
        dict(zip(("codes", "scale", "low"), state[1 + 3 * i : 4 + 3 * i], strict=True))
        for i in range(4)
    ]
    pairs = ((parts[0], parts[1]), (parts[2], parts[3]))
    found = art(input_ids=ids[:, 8:], past_key_values=pairs, use_cache=True)
    assert found["past_key_values"][0][0]["codes"].dtype == torch.uint8
    with torch.no_grad():
        wanted = model(ids).logits[:, 8:]
    assert float((found["logits"] - wanted).norm() / wanted.norm()) < 0.02
    again = rg.load(art.save(tmp_path / "out"))
    same = again(input_ids=ids[:, 8:], past_key_values=pairs, use_cache=True)
    torch.testing.assert_close(same["logits"], found["logits"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda: QuantizeCache(3, 8), "no number of bits 3"),
        (lambda: QuantizeCache(8, 8, group=3), "rows of 8 do not divide into groups of 3"),
    ],
)
def test_what_does_not_fit_is_refused(
    decoder: tuple[Graph, list[Any], Any], step: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        step()(decoder[0])


def test_one_form_after_the_other(decoder: tuple[Graph, list[Any], Any]) -> None:
    graph, flat, _ = decoder
    both = run_as_traced(QuantizeCache(8, 8)(graph)[0], flat)
    keys, _ = QuantizeCache(8, None)(graph)
    found = run_as_traced(QuantizeCache(None, 8)(keys)[0], flat)
    for one, other in zip(found, both, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("step", [QuantizeCache(), CacheInputs()])
def test_a_graph_without_caches_is_told_so(step: Pass) -> None:
    graph, inputs = filled("""
        def graph(x: f32[2, 6], *, w: f32[5, 6]):
            y: f32[2, 5] = linear(x, w)
            return y
        """)
    new, (remark,) = step.attempt(graph, Context(inputs=inputs))
    assert str(new) == str(graph)
    assert not remark.applied and remark.do.startswith("compile with cache=True")
