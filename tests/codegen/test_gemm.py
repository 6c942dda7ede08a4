"""Products of codes, beside the reference in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regauge.codegen import Matmul, Quantize, excess, run
from regauge.codegen.description import E4M3
from regauge.codegen.kernels import space
from regauge.codegen.matmul import weight_sums
from regauge.ir.errors import InputError

pytest.importorskip("triton")

F32 = torch.float32
SMALL = {
    "BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32, "GROUP": 2, "DESCRIBED": 0, "SPECIALIZED": 0,
    "HALVES": 0, "PROGRAMS": 0, "num_warps": 4, "num_stages": 2,
}  # fmt: skip
REGIONS: dict[str, dict[str, Any]] = {
    "int8 of tokens": {},
    "int8 of the tensor": {"per": "tensor"},
    "zero point": {"per": "tensor", "zero": True},
    "uint8": {"codes": torch.uint8},
    "uint8 with a zero point": {"codes": torch.uint8, "per": "tensor", "zero": True},
    "E4M3": {"codes": E4M3},
    "bias and gelu": {"bias": True, "activation": "gelu"},
    "to int8": {"bias": True, "quantize": Quantize(torch.int8, "tensor")},
    "to uint8": {"activation": "relu", "quantize": Quantize(torch.uint8, "tensor")},
    "to E4M3": {"codes": E4M3, "quantize": Quantize(E4M3, "tensor")},
}


def check(region: Matmul, rows: int, options: dict[str, int] | None = None) -> None:
    operands = region.example(rows, seed=0)
    found = excess(region, operands, run(region, operands, options))
    assert max(found.values()) < 2e-5, found


@pytest.mark.parametrize("described", [0, 1])
@pytest.mark.parametrize("name", REGIONS)
def test_products(name: str, described: int) -> None:
    region = Matmul(96, 80, dtype=F32, **REGIONS[name])
    check(region, 37, SMALL | {"DESCRIBED": described})


@pytest.mark.parametrize("halves", [0, 1])
@pytest.mark.parametrize("programs", [0, 3])
def test_tiles(programs: int, halves: int) -> None:
    region = Matmul(64, 96, bias=True, dtype=F32)
    check(region, 50, SMALL | {"PROGRAMS": programs, "HALVES": halves, "DESCRIBED": programs > 0})


@pytest.mark.parametrize("codes", [torch.int8, torch.uint8, E4M3])
@pytest.mark.parametrize("inner", [16, 48, 80])
def test_what_is_left_of_the_inner_size(inner: int, codes: torch.dtype) -> None:
    check(Matmul(inner, 32, codes, dtype=F32), 5, SMALL | {"BLOCK_K": 64})


@pytest.mark.parametrize("rows", [1, 40])
def test_first_of_the_space(rows: int) -> None:
    check(Matmul(256, 128, dtype=torch.bfloat16), rows)


def test_integer_products_are_exact() -> None:
    region = Matmul(64, 32, per="tensor", zero=True, dtype=F32)
    operands = region.example(9, seed=1)
    one = {"steps": torch.tensor(1.0), "weight_steps": torch.ones(32)}
    expected = (operands["input"].int() - 7) @ operands["weight"].int().T
    found = run(region, operands | one, SMALL)["output"]
    assert torch.equal(found, expected.float())
    assert torch.equal(operands["sums"], weight_sums(operands["weight"]))


def test_input_may_be_columns_of_a_wider_matrix() -> None:
    region = Matmul(64, 32, dtype=F32)
    operands = region.example(9, seed=1)
    wide = torch.zeros(9, 128, dtype=torch.int8)
    wide[:, :64] = operands["input"]
    operands["input"] = wide[:, :64]
    for described in (0, 1):
        check_ = run(region, operands, SMALL | {"DESCRIBED": described})
        assert max(excess(region, operands, check_).values()) < 2e-5


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"inner": 24}, "multiples of 16"),
        ({"codes": torch.int16}, "no product of"),
        ({"codes": E4M3, "zero": True}, "no zero point"),
        ({"quantize": Quantize()}, "does not know the range"),
    ],
)
def test_refuses(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Matmul(given.pop("inner", 64), 64, **given)


def test_older_devices_have_no_descriptors_and_no_e4m3() -> None:
    from regauge.codegen import assemble

    region = Matmul(256, 256)
    assert any(options["DESCRIBED"] for options in space(region, 256))
    assert not any(options["DESCRIBED"] for options in space(region, 256, capability=80))
    with pytest.raises(InputError, match="no numbers in E4M3"):
        assemble(Matmul(256, 256, E4M3), 64, 80)


def test_compiles_without_a_device(assembled: Any) -> None:
    assembled("GEMM")
