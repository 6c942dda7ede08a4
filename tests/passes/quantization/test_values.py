"""Activations in any format."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import regauge as rg
from regauge.ir import InputError, TargetError, ops
from regauge.ir.formats import named
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 16, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    built = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32))
    return built.eval().requires_grad_(requires_grad=False)


def error(model: nn.Module, x: Tensor, quantize: Quantize) -> float:
    graph, _ = quantize(rg.trace(model, (x,)), Context(inputs=[x], calibration=[[x]]))
    wanted = model(x)
    return float((execute(graph, [x])[0] - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("form", ["fp8-e4m3-token", "int6-token", "mxfp8", "nvfp4", "static-int8"])
def test_readers_see_what_the_format_gives_back(model: nn.Module, x: Tensor, form: str) -> None:
    graph, remarks = Quantize(form, least=1)(
        rg.trace(model, (x,)), Context(inputs=[x], calibration=[[x]])
    )
    fakes = [node for node in graph.nodes if node.op == "fake_quantize"]
    assert len(fakes) == 2
    found = ops.call("fake_quantize", (x, *map(graph.value, fakes[0].args[1:])), fakes[0].attrs)
    plain = named(form.removeprefix("static-"))
    torch.testing.assert_close(found, plain.quantize(x).dequantize())
    assert str(plain) in str(remarks[0])


def test_more_bits_err_by_less_and_enough_of_them_by_nothing(model: nn.Module, x: Tensor) -> None:
    formats = ("int4-token", "int6-token", "int8-token")
    errors = [error(model, x, Quantize(form, "int8-channel", least=1)) for form in formats]
    assert errors[0] > 2 * errors[1] > 2 * errors[2] > 0
    weights_alone = error(model, x, Quantize(None, "int8-channel", least=1))
    assert errors[2] < 4 * weights_alone


def test_gradients_pass_through_as_if_nothing_were_rounded(x: Tensor) -> None:
    value = x.clone().requires_grad_()
    ops.call("fake_quantize", (value,), {"format": "int8-token"}).sum().backward()
    assert value.grad is not None
    inside = x.abs() < x.abs().amax(-1, keepdim=True)
    torch.testing.assert_close(value.grad[inside], torch.ones_like(value.grad[inside]))


def test_a_static_format_has_one_scale(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(InputError, match="one scale for the tensor"):
        error(model, x, Quantize("static-int8-token"))


def test_a_target_without_a_kernel_names_what_it_takes(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(TargetError, match=r"activations in mxfp4(.|\n)*'dynamic'(.|\n)*'torch'"):
        rg.compile(model, (x,), passes=[Quantize("mxfp4")], calibration=[x])
    art = rg.compile(model, (x,), passes=[Quantize("mxfp4")], calibration=[x], target="torch")
    assert float((art(x) - model(x)).norm() / model(x).norm()) < 0.3
