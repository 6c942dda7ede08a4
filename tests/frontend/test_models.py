"""Models of many families: canonical, equal to the eager model in float64, and fit for export."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from regauge.frontend.canonical import check
from regauge.ir import Graph, astype, parse
from regauge.ir.blocks import repeated
from regauge.ir.ops import OPS

TOLERANCE = 1e-12
# Its GELU is written with 0.79788456 for the root of 2 / pi.
ROUNDED = {"bloom": 1e-10}

# name, attention, how many of which op, and what the table does not know
NORMS_OF_TWO_LAYERS = 5
EXPECTED: dict[tuple[str, str | None], dict[str, int]] = {
    ("bert", None): {"linear": 13, "layer_norm": 5, "gelu": 2, "attention": 2},
    ("bert", "eager"): {"linear": 13, "layer_norm": 5, "gelu": 2, "attention": 2},
    ("gpt2", None): {"linear": 9, "layer_norm": 5, "gelu": 2, "attention": 2},
    ("gpt2", "eager"): {"linear": 9, "layer_norm": 5, "gelu": 2, "attention": 2},
    ("opt", None): {"linear": 13, "layer_norm": 5, "relu": 2, "attention": 2},
    ("opt", "eager"): {"linear": 13, "layer_norm": 5, "relu": 2, "attention": 2},
    ("llama", None): {"linear": 15, "rms_norm": 5, "silu": 2, "attention": 2},
    ("llama", "eager"): {"linear": 15, "rms_norm": 5, "silu": 2, "attention": 2},
    ("qwen3", None): {"linear": 15, "rms_norm": 9, "silu": 2, "attention": 2},
    ("gemma", None): {"linear": 15, "rms_norm": 5, "gelu": 2, "attention": 2},
    ("gemma2", None): {"linear": 15, "rms_norm": 9, "gelu": 2, "tanh": 3, "softmax": 2},
    ("mixtral", None): {"linear": 11, "rms_norm": 5, "silu": 2, "attention": 2},
    ("bloom", None): {"linear": 9, "layer_norm": 6, "gelu": 2, "attention": 2},
    ("mamba", None): {"linear": 9, "rms_norm": 3, "conv1d": 2, "silu": 4},
    ("t5_encoder", None): {"linear": 12, "rms_norm": 5, "relu": 2, "attention": 2},
    ("t5_encoder", "eager"): {"linear": 12, "rms_norm": 5, "relu": 2, "attention": 2},
    ("vit", None): {"linear": 13, "layer_norm": 5, "gelu": 2, "attention": 2, "conv2d": 1},
    ("swin", None): {"linear": 25, "layer_norm": 11, "gelu": 4, "attention": 4, "conv2d": 1},
    ("convnext", None): {"linear": 16, "layer_norm": 13, "gelu": 8, "conv2d": 12},
    ("resnet", None): {"conv2d": 10, "batch_norm": 10, "relu": 9},
    ("mobilenet_v2", None): {"conv2d": 52, "batch_norm": 52, "relu6": 35},
    ("whisper_encoder", None): {
        "linear": 12,
        "layer_norm": 5,
        "gelu": 4,
        "attention": 2,
        "conv1d": 2,
    },
}
OPAQUE = {"mixtral": {"aten.sort.default", "aten.histc.default", "aten.empty_like.default"}}
CASES = [pytest.param(*key, id="-".join(filter(None, key))) for key in EXPECTED]
DYNAMIC = {
    "bert": 2,
    "gpt2": 2,
    "llama": 2,
    "opt": 2,
    "bloom": 2,
    "t5_encoder": 2,
    "vit": 1,
    "resnet": 1,
}


def test_every_family_is_here(zoo_names: tuple[str, ...]) -> None:
    assert {name for name, _ in EXPECTED} == set(zoo_names)


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_is_canonical(traced: Callable[..., Graph], name: str, attention: str | None) -> None:
    graph = traced(name, attention=attention)
    check(graph)
    count = Counter(node.op for node in graph.nodes)
    count["attention"] = count.pop("scaled_dot_product_attention", 0)
    expected = EXPECTED[name, attention]
    assert {op: count[op] for op in expected} == expected
    known = {*OPS, "attention", *OPAQUE.get(name, ())}
    unknown = {op for op in count if op not in known}
    assert all("grouped_mm" in op or "adaptive" in op for op in unknown), unknown


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_equals_the_eager_model_in_float64(
    traced: Callable[..., Graph],
    zoo_model: Callable[..., Any],
    exact_outputs: Callable[..., list[torch.Tensor]],
    graph_outputs: Callable[..., list[torch.Tensor]],
    name: str,
    attention: str | None,
) -> None:
    zoo = zoo_model(name, attention=attention)
    expected = exact_outputs(zoo.model, zoo.args, zoo.kwargs)
    graph = astype(traced(name, attention=attention), torch.float64)
    found = graph_outputs(graph, zoo.args, zoo.kwargs)
    assert_equal(found, expected, ROUNDED.get(name, TOLERANCE))


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    """Each tensor to a relative tolerance of its largest number."""
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == torch.float64
        assert bool(b.abs().max() > 0.1), "a fault would hide behind zeros"
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("name", DYNAMIC)
def test_runs_at_other_sizes(
    traced: Callable[..., Graph],
    zoo_model: Callable[..., Any],
    exact_outputs: Callable[..., list[torch.Tensor]],
    graph_outputs: Callable[..., list[torch.Tensor]],
    name: str,
) -> None:
    axes = ("batch", "sequence")[: DYNAMIC[name]]
    graph, zoo = traced(name, dynamic=axes), zoo_model(name)
    check(graph)
    assert set(graph.symbols) == set(axes)
    args = zoo.resized(3, 7 if "sequence" in axes else None)
    expected = exact_outputs(zoo.model, args, zoo.kwargs)
    found = graph_outputs(astype(graph, torch.float64), args, zoo.kwargs)
    assert_equal(found, expected, ROUNDED.get(name, TOLERANCE))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_causal_mask_needs_no_size(traced: Callable[..., Graph], name: str) -> None:
    for dynamic in ((), ("batch", "sequence")):
        graph = traced(name, dynamic=dynamic)
        attention = [n for n in graph.nodes if n.op == "scaled_dot_product_attention"]
        assert all(n.attrs["is_causal"] and len(n.args) == 3 for n in attention)
        assert not any(node.dtype is torch.bool for node in graph.nodes if node.op != "sym_size")


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma", "mixtral"])
def test_shared_keys_and_values_are_not_repeated(traced: Callable[..., Graph], name: str) -> None:
    graph = traced(name)
    for node in graph.nodes:
        if node.op == "scaled_dot_product_attention":
            assert node.attrs["enable_gqa"]
            assert [part.shape[1] for part in node.args[:3]] == [4, 2, 2]
    assert not any(node.op == "expand" for node in graph.nodes)


def test_tied_weights_are_one_parameter(traced: Callable[..., Graph]) -> None:
    graph = traced("gpt2")
    (weight,) = (p for p in graph.params.values() if p.shape == (99, 32))
    assert sorted(user.op for user in weight.users) == ["embedding", "linear"]
    assert set(graph.store.origin[weight.name]) == {"transformer.wte.weight", "lm_head.weight"}


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_prints_and_parses(traced: Callable[..., Graph], name: str, attention: str | None) -> None:
    text = str(traced(name, attention=attention))
    assert str(parse(text)) == text


@pytest.mark.parametrize("name", ["bert", "llama", "vit", "bloom", "resnet"])
def test_exports_again(
    traced: Callable[..., Graph], zoo_model: Callable[..., Any], name: str
) -> None:
    zoo, graph = zoo_model(name), traced(name)
    program = torch.export.export(graph.to_module(), zoo.args, zoo.kwargs)
    found = program.module()(*zoo.args, **zoo.kwargs)
    expected = graph.run(*zoo.args, **zoo.kwargs)
    torch.testing.assert_close(found[0], expected[0])


@pytest.mark.parametrize(
    "name",
    "bert gpt2 opt llama qwen3 gemma bloom t5_encoder vit whisper_encoder".split(),
)  # fmt: skip
def test_the_repeated_blocks_are_the_layers(traced: Callable[..., Graph], name: str) -> None:
    blocks = repeated(traced(name))
    assert len(blocks) == 2
    ops = [[node.op for node in block.nodes] for block in blocks]
    shared = Counter(ops[0]) - Counter(ops[1])  # a position bias is computed in the first
    assert not shared or name == "t5_encoder"
    assert not Counter(ops[1]) - Counter(ops[0])
    assert ops[0].count("scaled_dot_product_attention") == 1
    assert ops[0].count("linear") >= 4
