"""Kernels of rows, beside the reference in float64 and the ops of the graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regauge.codegen import LogQuantize, Norm, Quantize, Rows, excess, run
from regauge.codegen.bitplanes import integers
from regauge.codegen.description import E4M3, Region
from regauge.codegen.kernels import space
from regauge.ir import own
from regauge.ir.errors import InputError
from regauge.ir.formats import named

pytest.importorskip("triton")

F32, BF16 = torch.float32, torch.bfloat16
QUANTIZERS = {
    "as it is": None,
    "int8": Quantize(torch.int8, "tensor"),
    "uint8": Quantize(torch.uint8, "tensor"),
    "int8 of tokens": Quantize(torch.int8),
    "uint8 of tokens": Quantize(torch.uint8),
    "6 bits of tokens": Quantize(bits=6),
    "6 planes of tokens": Quantize(bits=6, planes=True),
    "8 planes of tokens": Quantize(planes=True),
    "E4M3": Quantize(E4M3, "tensor"),
    "E4M3 of tokens": Quantize(E4M3),
}
BEFORE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "rms": {"norm": Norm()},
    "rms without weight": {"norm": Norm(weight=False)},
    "layer": {"norm": Norm("layer", bias=True, eps=1e-5)},
    "residual and rms": {"residual": True, "norm": Norm()},
    "swiglu": {"gate": "silu"},
    "rotation": {"hadamard": 64},
    "rms and rotation": {"norm": Norm(), "hadamard": 16},
}


def check(region: Region, rows: int = 5) -> None:
    """A kernel is right in all that comes first in its space."""
    operands = region.example(rows, seed=0)
    exact = region.reference(operands)
    for options in space(region, rows)[:2]:
        found = excess(region, operands, run(region, operands, options), exact)
        assert set(found) == set(exact)
        # whole numbers in steps, everything else relative: rounding in float32 on the way
        assert max(found.values()) < 2e-5, found


@pytest.mark.parametrize("quantize", QUANTIZERS)
@pytest.mark.parametrize("before", BEFORE)
def test_rows(before: str, quantize: str) -> None:
    check(Rows(192, F32, quantize=QUANTIZERS[quantize], **BEFORE[before]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_half_precision(dtype: torch.dtype) -> None:
    check(Rows(320, dtype, residual=True, norm=Norm("layer", bias=True), quantize=Quantize()))
    check(Rows(320, dtype, gate="gelu_tanh"))


@pytest.mark.parametrize("kind", ["relu", "silu", "gelu", "gelu_tanh"])
def test_gates(kind: Any) -> None:
    check(Rows(100, F32, gate=kind))


@pytest.mark.parametrize("size", [2, 16, 128, 256, 1024])
@pytest.mark.parametrize("before", [{}, {"norm": Norm()}])
def test_rotations_by_blocks(size: int, before: dict[str, Any]) -> None:
    region = Rows(2048, BF16, hadamard=size, quantize=Quantize(), **before)
    operands = region.example(5, seed=1)
    tried = {options["PRODUCTS"]: options for options in space(region, 5)}
    assert set(tried) == ({0, 1} if size > 2 else {0})
    for products, options in tried.items():
        found = excess(region, operands, run(region, operands, options))
        # two numbers in bfloat16 have 16 bits: 2^-17 of the greatest code
        assert max(found.values()) < (1e-3 if products else 2e-5), found


@pytest.mark.parametrize(
    "quantize",
    [None, Quantize(torch.uint8, "tensor"), LogQuantize(), LogQuantize(4, 2), LogQuantize(3)]
    + [LogQuantize(4, parts, "tensor") for parts in (1, 2)],
)
def test_softmax(quantize: Any) -> None:
    check(Rows(200, F32, softmax=True, quantize=quantize))


def test_what_is_masked_has_the_code_of_zero() -> None:
    region = Rows(8, F32, softmax=True, quantize=LogQuantize())
    scores = torch.tensor([[0.0, 1.0, -torch.inf, -50.0, 1.0, 0.5, -torch.inf, 0.0]])
    found = run(region, {"input": scores})
    assert found["codes"].tolist() == [[1, 0, 15, 15, 0, 1, 15, 1]]


def test_codes_are_those_of_the_format() -> None:
    region = Rows(64, F32, softmax=True, quantize=LogQuantize(4))
    scores = torch.randn(9, 64, generator=torch.Generator().manual_seed(1)) * 3
    found = run(region, {"input": scores})
    expected = named("log2-4-token").quantize(torch.softmax(scores, -1))
    assert torch.equal(found["codes"], expected.codes)
    torch.testing.assert_close(found["scales"], expected.parameters.scale)


def ties(dtype: torch.dtype) -> torch.Tensor:
    """Numbers of which many are halfway between codes, and some beyond all of them."""
    scale = torch.tensor([0.1, 0.25, 1 / 3, 7e-5])[:, None]
    return (torch.arange(-300, 300)[None, :] / 2 * scale).to(dtype)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("scale", [0.1, 0.25, 0.333, 7e-5])
def test_codes_are_those_of_the_graph(dtype: torch.dtype, scale: float) -> None:
    x = torch.cat([ties(F32), torch.randn(12, 600) * 40 * scale])
    operands = {"input": x, "scale": torch.tensor(scale)}
    if dtype == torch.uint8:
        operands["zero"] = torch.tensor(117, dtype=dtype)
    found = run(Rows(600, F32, quantize=Quantize(dtype, "tensor")), operands)
    expected = own.quantize(x, operands["scale"], operands.get("zero"), dtype=dtype)
    assert torch.equal(found["codes"], expected)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_codes_of_tokens_are_those_of_the_graph(dtype: torch.dtype) -> None:
    x = torch.cat([ties(F32), torch.randn(12, 600), torch.zeros(1, 600)])
    found = run(Rows(600, F32, quantize=Quantize(dtype)), {"input": x})
    codes, scales, _ = own.dynamic_quantize(x, dtype=dtype)
    assert torch.equal(found["codes"], codes)
    assert torch.equal(found["scales"], scales)


@pytest.mark.parametrize("bits", [3, 6, 8])
def test_codes_of_few_bits_are_those_of_the_format(bits: int) -> None:
    x = torch.cat([ties(F32)[:, :576], torch.randn(12, 576), torch.zeros(1, 576)])
    wanted = named(f"int{bits}-token").quantize(x)
    signed = wanted.codes.view(x.shape).to(torch.int16)
    signed = torch.where(signed >= 2 ** (bits - 1), signed - 2**bits, signed).to(torch.int8)
    for planes in (False, True):
        found = run(Rows(576, F32, quantize=Quantize(bits=bits, planes=planes)), {"input": x})
        codes = integers(found["codes"]).flatten(1) if planes else found["codes"]
        assert torch.equal(codes, signed.to(codes.dtype))
        step = wanted.parameters.step.view(-1, 1)
        full = x.abs().amax(1) > 0  # whatever the scale of zeros is, they are zeros
        assert torch.equal(found["scales"][full], step[full])


def test_operands_may_be_columns_of_a_wider_matrix() -> None:
    region = Rows(96, F32, gate="silu", quantize=Quantize())
    both = torch.randn(7, 192, generator=torch.Generator().manual_seed(3))
    operands = {"input": both[:, :96], "other": both[:, 96:]}
    assert max(excess(region, operands, run(region, operands)).values()) < 2e-5


def test_programs_that_stay_take_all_tiles() -> None:
    region = Rows(64, F32, norm=Norm(), quantize=Quantize())
    operands = region.example(23, seed=2)
    options = {
        "BLOCK": 64,
        "TILE": 4,
        "PROGRAMS": 2,
        "PRODUCTS": 0,
        "num_warps": 1,
        "num_stages": 1,
    }
    assert max(excess(region, operands, run(region, operands, options)).values()) < 2e-5


def test_a_wrong_result_is_found() -> None:
    region = Rows(64, F32, norm=Norm(), quantize=Quantize())
    operands = region.example(3, seed=2)
    found = dict(run(region, operands))
    assert excess(region, operands, found)["codes"] < 2e-5
    found["codes"] = found["codes"].clone()
    found["codes"][1, 2] += 1
    assert excess(region, operands, found)["codes"] > 0.01
    found["scales"] = found["scales"] * torch.nan
    assert excess(region, operands, found)["scales"] == torch.inf


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"hadamard": 48}, "blocks of 48"),
        ({"hadamard": 128}, "blocks of 128"),
        ({"residual": True, "gate": "silu"}, "either adds"),
        ({"softmax": True, "norm": Norm()}, "neither a norm"),
        ({"quantize": LogQuantize()}, "only what a softmax gives"),
        ({"dtype": torch.float64}, "float64"),
    ],
)
def test_refuses(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Rows(192, **given)


def test_refuses_rows_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="does not fit"):
        Rows(2**17, norm=Norm())
    assert not Rows(2**17, gate="silu").whole


def test_refuses_operands_of_another_shape() -> None:
    region = Rows(64, F32, norm=Norm())
    operands = region.example(3, seed=2)
    with pytest.raises(InputError, match=r"operand weight has the shape \(64,\)"):
        run(region, operands | {"weight": torch.ones(63)})
    with pytest.raises(InputError, match="operand weight is of"):
        run(region, operands | {"weight": torch.ones(64, dtype=BF16)})


def test_compiles_without_a_device(assembled: Any) -> None:
    assembled("ROWS")
