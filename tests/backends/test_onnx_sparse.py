"""Weights of ONNX models that are stored without their zeros."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import small_models
import torch

import regauge as rg
from regauge.backends.onnx import emit
from regauge.backends.onnx.sparse import without_zeros
from regauge.backends.onnxruntime import lower
from regauge.frontend import trace
from regauge.ir.interpret import flatten
from regauge.passes import Context, Quantize, Sparsify, apply


def weights(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


@pytest.mark.parametrize("name", ["resnet", "vit", "gpt2"])
def test_gives_the_same_in_fewer_bytes(name: str) -> None:
    made = small_models.zoo_model(name)
    graph = trace(made.model, made.args, made.kwargs)
    inputs = flatten(graph, made.args, made.kwargs)
    graph, _ = apply(
        graph, [Sparsify(0.75, "rows", "magnitude", recover="none")], Context(inputs=inputs)
    )
    whole, few = lower(graph, threads=1), lower(graph, threads=1, sparse=True)
    assert all(torch.equal(*pair) for pair in zip(few(inputs), whole(inputs), strict=True))
    assert few.bytes < 0.6 * whole.bytes
    assert "stored without their zeros, in 2" in few.notes[0]


@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic", "w4a16"])
def test_codes(preset: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    # widths that are no multiples of 8: the last byte of bits is not full
    model = torch.nn.Sequential(torch.nn.Linear(93, 67), torch.nn.ReLU(), torch.nn.Linear(67, 91))
    x = torch.randn(64, 93)
    found: list[rg.Artifact] = []
    for options in ({}, {"sparse": True}):
        steps = [Sparsify(0.75), preset]
        found.append(rg.compile(model.eval(), (x,), passes=steps, calibration=[x], options=options))
        found[-1].save(tmp_path)
    assert torch.equal(found[0](x), found[1](x))
    assert torch.equal(rg.load(tmp_path)(x), found[0](x))
    assert found[1].report.bytes_after < 0.8 * found[0].report.bytes_after


@pytest.mark.parametrize("form, part", [("int4-g32", "75%"), ("int4-g32-asym", "78%")])
def test_codes_of_four_bits_are_two_in_a_byte(form: str, part: str) -> None:
    torch.manual_seed(0)
    # blocks with zero points of their own have a code of zero each
    model = torch.nn.Sequential(torch.nn.Linear(256, 128), torch.nn.ReLU(), torch.nn.Linear(128, 4))
    x = torch.randn(512, 256)
    steps = [Sparsify(pattern="2:4"), Quantize(None, form, least=1)]
    dense, few = (
        rg.compile(model.eval(), (x,), passes=steps, calibration=[x], options=options)
        for options in ({}, {"sparse": True})
    )
    assert torch.equal(dense(x), few(x))
    # three bits of four for each weight, and the code of zero of each block
    note = f"1 weights are stored without their zeros, in {part} of the bytes"
    assert few.runner.notes == (note,)
    assert few.report.bytes_after < dense.report.bytes_after


def test_what_has_no_zeros_stays() -> None:
    torch.manual_seed(0)
    graph = trace(torch.nn.Linear(64, 64).eval(), (torch.randn(2, 64),), {})
    model, same = emit(graph), emit(graph)
    assert without_zeros(model) == ["0 weights are stored without their zeros"]
    assert model == same


def test_numbers_keep_their_bits() -> None:
    linear = torch.nn.Linear(64, 64).eval()
    with torch.no_grad():
        linear.weight[:, 1:] = 0
        linear.weight[0, 1], linear.weight[1, 2] = -0.0, 1e-42  # a subnormal number
    graph = trace(linear, (torch.randn(2, 64),), {})
    model = emit(graph)
    before = weights(model)
    without_zeros(model)
    assert weights(model) < before / 8
    onnx.checker.check_model(model, full_check=True)
    numbers = next(t for t in model.graph.initializer if t.name.endswith(".numbers"))
    # the first is what the other places hold
    assert len(onnx.numpy_helper.to_array(numbers)) == 1 + 64 + 2
