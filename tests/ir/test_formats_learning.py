"""The differentiable reference: what codes give back, and straight-through gradients."""

from __future__ import annotations

import pytest
import torch

from regauge.ir.formats import Format, Parameters, named

FORMATS = [
    "int4", "int4-g8", "int3-g8-asym", "int8-channel-asym", "uint4", "fp8-e4m3-channel",
    "fp4-e2m1-g8", "mxfp4", "nvfp4", "bfp5-b16", "nf4-g8", "log2-4", "ternary-g8",
    "binary-channel", "phase-g8", "d4-g8", "int4-g8-fp16", "int4-g5-pad",
]  # fmt: skip


def sample(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learnable(form: Format, values: torch.Tensor, part: float = 1.0) -> Parameters:
    """Parameters of a part of the range, which ask for a gradient."""
    found = form.fit(values)
    zero = None if found.zero is None else found.zero.clone().requires_grad_()
    scale = form.scale.stored(found.scale * part).requires_grad_()
    return Parameters(scale, found.whole, zero)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_it_is_what_the_codes_give_back(name: str, dtype: torch.dtype, part: float) -> None:
    values = sample(4, 32)
    values = (values.abs() if name.startswith(("uint", "log")) else values).to(dtype)
    form = named(name)
    parameters = learnable(form, values, part)
    found = form.fake(values, parameters)
    assert torch.equal(found, form.quantize(values, parameters).dequantize())
    assert found.requires_grad


@pytest.mark.parametrize("name", ["int4", "int4-channel", "int3-g8", "fp4-e2m1-g8", "nf4-g8"])
def test_rounding_passes_the_gradient_and_saturation_stops_it(name: str) -> None:
    form, values = named(name), sample(4, 32).requires_grad_()
    parameters = learnable(form, values.detach(), 0.6)
    up = sample(4, 32, seed=1)
    (form.fake(values, parameters) * up).sum().backward()
    ratio = form.cut(values.detach()) / parameters.scale.detach()
    table = form.element.table
    inside = form.join((ratio >= table.min()) & (ratio <= table.max()), values.shape)
    assert 0 < int((~inside).sum()) < 64
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.where(inside, up, 0))


@pytest.mark.parametrize("name", ["int4", "int4-channel", "int3-g8", "fp4-e2m1-g8", "nf4-g8"])
def test_the_gradient_to_the_scale_is_that_of_lsq(name: str) -> None:
    form, values = named(name), sample(4, 32)
    parameters = learnable(form, values, 0.6)
    up = sample(4, 32, seed=1)
    (form.fake(values, parameters) * up).sum().backward()
    with torch.no_grad():
        blocks, scale = form.cut(values), parameters.scale.detach()
        ratio = blocks / scale
        codes = form.element.decode(form.element.encode(ratio), torch.float64)
        table = form.element.table
        inside = (ratio >= table.min()) & (ratio <= table.max())
        slope = torch.where(inside, codes - ratio, codes)
        wanted = form.reduce("sum", slope * form.cut(up))
    assert parameters.scale.grad is not None
    torch.testing.assert_close(parameters.scale.grad, wanted)


def test_where_rounding_is_exact_gradients_are_those_of_differences() -> None:
    """Codes do not change: the result is linear in the scale, and saturated parts follow it."""
    form, scale = named("int4"), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    values = torch.tensor([9.0, -9.0, 30.0], dtype=torch.float64)  # all saturated

    def total(s: torch.Tensor) -> torch.Tensor:
        return (form.fake(values, Parameters(s)) * torch.tensor([1.0, 2.0, 3.0])).sum()

    total(scale).backward()
    h = 2.0**-12
    slope = (total(scale.detach() + h) - total(scale.detach() - h)) / (2 * h)
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(float(slope), rel=1e-9)


def test_the_gradient_to_the_zero_point_is_that_of_lsq_plus() -> None:
    form, values = named("int3-asym"), sample(200)
    parameters = learnable(form, values, 0.5)
    up = sample(200, seed=1)
    (form.fake(values, parameters) * up).sum().backward()
    assert parameters.zero is not None and parameters.zero.grad is not None
    scale = parameters.scale.detach()
    code = torch.round(values / scale) + parameters.zero.detach()
    outside = (code < 0) | (code > 7)
    assert 10 < int(outside.sum()) < 190
    torch.testing.assert_close(parameters.zero.grad, -(scale * up)[outside].sum())


@pytest.mark.parametrize(
    "name", ["int4", "fp4-e2m1", "int4-e8m0", "int4-fp16", "fp4-e2m1-e8m0-floor"]
)
def test_bounds_of_a_symmetric_range_are_learned_through_the_scale(name: str) -> None:
    form, values = named(name), sample(64)
    high = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    parameters = form.of_range(None, high)
    (form.fake(values, parameters) * sample(64, seed=1)).sum().backward()
    scale = parameters.scale.detach().requires_grad_()
    (form.fake(values, Parameters(scale)) * sample(64, seed=1)).sum().backward()
    assert high.grad is not None and scale.grad is not None
    torch.testing.assert_close(high.grad, scale.grad / form.element.reach)


def test_both_bounds_of_an_asymmetric_range_are_learned() -> None:
    """What lies beyond a bound is moved with it; in between, both bounds move the grid alone."""
    form = named("int8-asym")
    low = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    high = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    parameters = form.of_range(low, high)
    form.fake(torch.tensor([-5.0, -3.0], dtype=torch.float64), parameters).sum().backward()
    assert low.grad is not None and high.grad is not None
    # x^ = -z s, and z s is -low but for the rounding of z
    assert float(low.grad) == pytest.approx(2, abs=0.02)
    assert float(high.grad) == pytest.approx(0, abs=0.02)
    low.grad = high.grad = None
    form.fake(torch.tensor([5.0], dtype=torch.float64), form.of_range(low, high)).sum().backward()
    assert low.grad is not None and high.grad is not None
    assert float(low.grad) == pytest.approx(0, abs=0.02)
    assert float(high.grad) == pytest.approx(1, abs=0.02)


def test_scales_of_two_levels_both_get_a_gradient() -> None:
    form, values = named("nvfp4"), sample(4, 32)
    found = form.fit(values)
    assert found.whole is not None
    scale, whole = found.scale.clone().requires_grad_(), found.whole.clone().requires_grad_()
    form.fake(values, Parameters(scale, whole)).square().sum().backward()
    assert scale.grad is not None and whole.grad is not None
    # both gradients come from that of the step s t
    torch.testing.assert_close((scale.grad * found.scale).sum(), whole.grad * found.whole)


@pytest.mark.parametrize("name", ["binary-channel", "phase-g8"])
def test_signs_and_phases_pass_the_whole_gradient(name: str) -> None:
    form, values = named(name), sample(4, 32).requires_grad_()
    parameters = learnable(form, values.detach())
    up = sample(4, 32, seed=1)
    (form.fake(values, parameters) * up).sum().backward()
    assert values.grad is not None and parameters.scale.grad is not None
    assert torch.equal(values.grad, up)
    codes = form.element.decode(form.element.encode(form.cut(values.detach())), torch.float64)
    wanted = form.reduce("sum", codes * form.cut(up))
    torch.testing.assert_close(parameters.scale.grad, wanted)


def test_vectors_get_gradients_within_the_ball_alone() -> None:
    form = named("d4-g8")
    values = sample(4, 32).requires_grad_()
    parameters = learnable(form, values.detach(), 0.5)
    up = sample(4, 32, seed=1)
    (form.fake(values, parameters) * up).sum().backward()
    ratio = form.cut(values.detach()) / parameters.scale.detach()
    inside = (ratio.norm(dim=-1, keepdim=True) <= form.element.reach).expand_as(ratio)
    assert values.grad is not None
    assert 0 < int(inside.sum()) < inside.numel()
    wanted = torch.where(form.join(inside, values.shape), up, 0)
    torch.testing.assert_close(values.grad, wanted)


def test_nan_is_not_hidden() -> None:
    values = torch.tensor([0.1, torch.nan, 0.3])
    found = named("fp4-e2m1").fake(values, Parameters(torch.tensor(0.1)))
    assert found.isnan().tolist() == [False, True, False]


def test_a_scale_learns_to_lose_less() -> None:
    form, values = named("int3-channel"), sample(8, 64)
    parameters = learnable(form, values)
    optimizer = torch.optim.Adam([parameters.scale], lr=0.01)

    def loss() -> torch.Tensor:
        return (form.fake(values, parameters) - values).square().mean()

    before = float(loss().detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < 0.7 * before
