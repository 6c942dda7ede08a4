"""Packed weights run in kernels on the very integers that they hold, or are refused."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from torch import Tensor, nn

import regauge as rg
from regauge.backends.onnx import emit
from regauge.backends.onnxruntime import lower
from regauge.backends.profiles import TARGETS
from regauge.backends.profiles import target as find
from regauge.ir import Graph, InputError, TargetError
from regauge.ir.formats import named, searched
from regauge.ir.interpret import execute
from regauge.passes import Allocate, Quantize
from regauge.passes.presets import auto, preset
from regauge.passes.quantization.insertion import store_packed

Make: TypeAlias = Callable[..., Graph]
Kinds: TypeAlias = Callable[[Graph], Counter[str]]

RUN = [
    "int4-g16", "int4-g32", "int4-g64", "int4-g128", "int4-g256", "int4-g32-asym", "int4-g48",
    "int8-g32", "int8-g128-asym", "int2-g32", "int2-g64-asym", "int2-g16", "int3-g32",
    "int3-g64-asym", "int5-g32", "int6-g32-asym", "int8-narrow-g32", "uint4-g32", "int4-channel",
    "int4-channel@0-asym", "int8-tensor", "int3-token-asym", "int4-g128-fp16", "int4-g32-e8m0",
    "int4-g32@1", "mxint8", "bfp5-b16",
]  # fmt: skip
REFUSED = [
    "fp8-e4m3-channel", "fp4-e2m1-g32", "mxfp4", "mxfp8", "nvfp4", "nf4-g64", "ternary-g64",
    "binary-channel", "log2-4-g32", "e8-g64", "int4-g24", "int4-g32@0", "int4-channel@1",
]  # fmt: skip


def in_format(graph: Graph, name: str) -> Graph:
    """The graph with its parameter ``w`` in a format."""
    form, param = named(name), graph.params["w"]
    value = graph.value(param)
    value = value.abs() if name.startswith(("u", "log")) else value
    store_packed(graph, param, form.quantize(value, searched(form, value)).pack())
    graph.verify()
    return graph


def whole(rows: int, columns: int) -> Tensor:
    """Whole numbers that int8 holds exactly at any block's scale: each reaches 127."""
    x = torch.randint(-127, 128, (rows, columns), generator=torch.Generator().manual_seed(2))
    x[:, ::16] = 127
    return x.float()


def agree(graph: Graph, *inputs: Tensor, rtol: float = 1e-5) -> None:
    (found,), (wanted,) = lower(graph, threads=1)(inputs), execute(graph, inputs)
    assert found.shape == wanted.shape
    assert float((found - wanted).norm() / wanted.norm()) < rtol


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", RUN)
def test_a_linear_layer_multiplies_the_same_integers(
    name: str, bias: bool, graph_of: Make, kinds: Kinds
) -> None:
    columns = 768 if "256" in name or "48" in name else 384
    head = f"x: f32[n, {columns}], *, w: f32[24, {columns}], b: f32[24]"
    graph = in_format(graph_of(head, "y = linear(x, w, b)" if bias else "y = linear(x, w)"), name)
    assert kinds(graph) == {"MatMulNBits": 1}
    agree(graph, whole(5, columns))
    agree(graph, whole(1, columns))
    agree(graph, torch.randn(5, columns, generator=torch.Generator().manual_seed(3)), rtol=0.02)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("int4-g32-pad", 40),
        ("int4-g32-pad-asym", 100),
        ("int3-g64-pad-asym", 72),
        ("int4-channel", 10),
        ("int4-channel-asym", 200),
        ("int8-tensor", 130),
        ("int2-channel", 7),
    ],
)
def test_rows_that_do_not_fill_blocks(name: str, columns: int, graph_of: Make) -> None:
    linear = graph_of(f"x: f32[n, {columns}], *, w: f32[6, {columns}]", "y = linear(x, w)")
    agree(in_format(linear, name), whole(3, columns))
    table = graph_of(f"i: i64[n, t], *, w: f32[6, {columns}]", "y = embedding(w, i)")
    agree(in_format(table, name), torch.randint(0, 6, (2, 3)))


def test_inputs_of_one_and_of_three_axes(graph_of: Make) -> None:
    graph = graph_of("x: f32[64], *, w: f32[8, 64], b: f32[8]", "y = linear(x, w, b)")
    agree(in_format(graph, "int4-g32"), whole(1, 64)[0])
    graph = graph_of("x: f32[n, t, 64], *, w: f32[8, 64]", "y = linear(x, w)")
    agree(in_format(graph, "int4-g32"), whole(6, 64).reshape(2, 3, 64))


@pytest.mark.parametrize("name", RUN)
def test_an_embedding_decodes_its_rows(name: str, graph_of: Make, kinds: Kinds) -> None:
    graph = in_format(graph_of("i: i64[n, t], *, w: f32[11, 768]", "y = embedding(w, i)"), name)
    assert kinds(graph) == {"Reshape": 1, "GatherBlockQuantized": 1}
    agree(graph, torch.tensor([[0, 10, 3], [3, 7, 1]]), rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["int4-g32", "int4-g32-asym", "int3-g64-asym", "int8-channel-asym"]
)
def test_a_tied_table_is_stored_once(name: str, graph_of: Make, kinds: Kinds) -> None:
    graph = graph_of(
        "x: f32[n, 384], i: i64[n], *, w: f32[512, 384], b: f32[512]",
        "a = linear(x, w, b)",
        "e = embedding(w, i)",
        "c = sum(e, dim=(1,), keepdim=True)",
        "y = add(a, c)",
    )
    in_format(graph, name)
    assert kinds(graph)["MatMulNBits"] == kinds(graph)["GatherBlockQuantized"] == 1
    agree(graph, whole(3, 384), torch.tensor([0, 100, 511]))
    large = [t for t in emit(graph).graph.initializer if len(t.raw_data) >= 512 * 384 // 4]
    assert len(large) == 1


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("int4-g32", 5),
        ("int4-g128", 4.25),
        ("int4-g128-asym", 4.28125),
        ("int3-g32", 5),  # in codes of four bits
        ("int2-g64", 2.5),
        ("int8-g128", 8.25),
        ("int4-channel", 4.25),
    ],
)
def test_the_file_is_as_small_as_the_codes(name: str, bits: float, graph_of: Make) -> None:
    graph = graph_of("x: f32[n, 1024], *, w: f32[1024, 1024]", "y = linear(x, w)")
    assert lower(in_format(graph, name)).bytes == pytest.approx(1024 * 1024 * bits / 8, rel=0.005)


# -- near misses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["linear(x, w)", "embedding(w, i)"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_format_without_a_kernel_is_refused(name: str, op: str, graph_of: Make) -> None:
    graph = in_format(graph_of("x: f32[n, 192], i: i64[n], *, w: f32[32, 192]", f"y = {op}"), name)
    graph.store.origin["w_codes"] = ("encoder.weight",)
    with pytest.raises(TargetError) as caught:
        lower(graph)
    text = str(caught.value)
    assert f"target 'onnxruntime' has no kernel for encoder.weight in {named(name)}" in text
    assert "int4-g32-asym" in text and "target='torch'" in text
    x, i = whole(2, 192), torch.tensor([3, 5])
    (found,) = TARGETS["torch"].lower(graph)([x, i])
    torch.testing.assert_close(found, execute(graph, [x, i])[0])


@pytest.mark.parametrize("name", ["int4-g32-asym", "int3-channel", "int8-g64"])
def test_another_op_reads_the_decoded_matrix(name: str, graph_of: Make, kinds: Kinds) -> None:
    graph = graph_of(
        "x: f32[n, 64], *, w: f32[8, 64]",
        "a = linear(x, w)",
        "c = sum(w, dim=(1,))",
        "y = add(a, c)",
    )
    in_format(graph, name)
    assert kinds(graph)["MatMulNBits"] == kinds(graph)["GatherBlockQuantized"] == 1
    agree(graph, whole(3, 64))


def test_what_is_no_matrix_is_refused(graph_of: Make) -> None:
    graph = in_format(
        graph_of("x: f32[2, 3, 64], *, w: f32[2, 64, 64]", "y = bmm(x, w)"), "int4-g32"
    )
    with pytest.raises(TargetError, match="decodes constant matrices alone, not w, int4-g32"):
        lower(graph)


def test_double_precision_is_decoded_and_multiplied_in_it(graph_of: Make, kinds: Kinds) -> None:
    graph = in_format(graph_of("x: f64[n, 64], *, w: f64[8, 64]", "y = linear(x, w)"), "int4-g32")
    assert kinds(graph)["MatMulNBits"] == 0
    agree(graph, torch.randn(3, 64, dtype=torch.float64), rtol=1e-6)


# -- from end to end -------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.table, self.body = nn.Embedding(100, 64), nn.Linear(64, 64)
        self.calls = 0

    def forward(self, ids: Tensor) -> Tensor:
        self.calls += 1
        return torch.relu(self.body(self.table(ids))) @ self.table.weight.T


def test_compile_refuses_before_it_traces() -> None:
    model = Tied().eval()
    with pytest.raises(TargetError, match="no kernel for weights in mxfp4"):
        rg.compile(
            model, (torch.zeros(1, 4, dtype=torch.long),), passes=Quantize(None, weights="mxfp4")
        )
    assert model.calls == 0


@pytest.mark.parametrize(
    ("preset", "bits"), [("w4a16", 5.13), ("w3a16", 5.13), ("auto:4.5", 4.5), ("auto:7", 7.0)]
)
def test_the_presets_of_few_bits(preset: str, bits: float, tmp_path: Path) -> None:
    ids = torch.randint(0, 100, (8, 40), generator=torch.Generator().manual_seed(1))
    artifact = rg.compile(
        Tied().eval(), (ids,), passes=preset, calibration=[ids.flip(0), ids.flip(1)], measure=False
    )
    artifact.save(tmp_path / "out")
    with torch.no_grad():
        wanted = Tied().eval()(ids)
    found = rg.load(tmp_path / "out")(ids)
    assert 1e-3 < float((found - wanted).norm() / wanted.norm()) < 0.3
    weights = 100 * 64 + 64 * 64
    assert artifact.report.bytes_after < weights * bits / 8 + 3000


def test_automatic_bits_are_those_of_the_targets_kernels() -> None:
    stored, every = (auto(find(name), 5)[-1] for name in ("onnxruntime", "torch"))
    assert isinstance(stored, Allocate) and isinstance(every, Allocate)
    for found, widths in ((stored, (2, 4, 8)), (every, range(2, 9))):
        names = {f"int{bits}-g{group}-pad-asym" for bits in widths for group in (32, 64)}
        assert set(found.choices) == names
    unpadded = auto(find("compressed-tensors"), 5)[-1]
    assert isinstance(unpadded, Allocate)
    assert set(unpadded.choices) == {f"int{b}-g{g}-asym" for b in (4, 8) for g in (32, 64)}
    assert preset("automatic", find("torch")) is None
    for name in ("auto:2", "auto:9.3", "auto:nan"):
        with pytest.raises(InputError, match=r"cannot be met: with their scales they are 2.53 to"):
            preset(name, find("torch"))
    for name in ("auto", "auto:", "auto:four"):
        with pytest.raises(InputError, match="names no number of bits"):
            preset(name, find("torch"))


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
def test_a_model_compiles_in_four_bits(target: str, rank: int) -> None:
    ids = torch.arange(8)[None]
    passes = Quantize(
        None, weights="int4-g32", rounding="nearest", correct_bias=False, low_rank=rank
    )
    artifact = rg.compile(Tied().eval(), (ids,), passes=passes, target=target, measure=False)
    with torch.no_grad():
        wanted = Tied().eval()(ids)
    assert float((artifact(ids) - wanted).norm() / wanted.norm()) < 0.2
