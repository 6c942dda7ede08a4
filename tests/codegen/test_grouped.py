"""Products with weights of few bits, beside float64 and the formats that pack them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regauge.codegen import Grouped, excess, of_packed, run
from regauge.codegen.kernels import space
from regauge.ir.errors import InputError
from regauge.ir.formats import named

pytest.importorskip("triton")

F16, BF16 = torch.float16, torch.bfloat16
SMALL = {"BLOCK_M": 16, "BLOCK_N": 32, "SPLIT": 1, "num_warps": 4, "num_stages": 2}


def check(region: Grouped, rows: int, options: dict[str, int] | None = None) -> None:
    operands = region.example(rows, seed=0)
    found = excess(region, operands, run(region, operands, options))
    assert max(found.values()) < 2e-5, found


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_products(bits: int, group: int, zero: bool) -> None:
    if bits not in (3, 5) or group != 32:
        check(Grouped(256, 80, bits, group, zero, dtype=F16), 5, SMALL)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_products_in_bfloat16(bits: int) -> None:
    check(Grouped(256, 80, bits, bias=True, activation="silu"), 3, SMALL)


@pytest.mark.parametrize(("rows", "split"), [(1, 2), (1, 3), (20, 4), (16, 8)])
def test_sums_in_parts(rows: int, split: int) -> None:
    region = Grouped(512, 96, bias=True, dtype=F16)
    operands = region.example(rows, seed=0)
    options = SMALL | {"SPLIT": split, "BLOCK_N": 64}
    first, again = (run(region, operands, options)["output"] for _ in range(2))
    assert max(excess(region, operands, {"output": first}).values()) < 2e-5
    assert torch.equal(first, again)


def test_a_launch_can_be_run_again() -> None:
    from regauge.codegen.kernels import prepare

    region = Grouped(512, 64, dtype=F16)
    operands = region.example(4, seed=0)
    launch, results = prepare(region, operands, SMALL | {"SPLIT": 4})
    for _ in range(3):
        results["output"].zero_()
        launch.run()
        assert max(excess(region, operands, results).values()) < 2e-5


@pytest.mark.parametrize("rows", [1, 33])
def test_first_of_the_space(rows: int) -> None:
    check(Grouped(256, 64, dtype=F16), rows)
    assert all(o["BLOCK_M"] in (16, 64) for o in space(Grouped(256, 64), rows))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("group", [64, 128])
def test_words_hold_all_codes(bits: int, group: int) -> None:
    region = Grouped(256, 48, bits, group)
    codes = torch.randint(2**bits, (48, 256), dtype=torch.uint8)
    words = region.pack(codes)
    assert torch.equal(region.codes(words), codes.long())
    assert sum(w.nbytes for w in words.values()) == codes.numel() * bits // 8
    for name, value in region.operands(1).items():
        if "words" in name:
            assert (tuple(words[name].shape), words[name].dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize(
    "name",
    [
        "int4-g128-fp16",
        "int4-g64-fp16-asym",
        "int3-g128-fp16",
        "int5-g64-fp16",
        "int6-g128-fp16-asym",
        "int2-g32-fp16-asym",
        "int4-channel-fp16",
        "uint4-g128-fp16",
        "ternary-g128-fp16",
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_weights_of_our_formats(name: str, bias: bool) -> None:
    W = torch.randn(48, 256, generator=torch.Generator().manual_seed(4))
    packed = named(name).quantize(W.abs() if name.startswith("uint") else W).pack()
    region, operands = of_packed(packed, F16, bias=bias)
    exact = packed.unpack().dequantize().double()
    torch.testing.assert_close(region.weight(operands), exact, rtol=1e-6, atol=0)
    operands["input"] = torch.randn(3, 256).to(F16)
    if bias:
        operands["bias"] = torch.randn(48).to(F16)
    found = run(region, operands, SMALL)
    assert max(excess(region, operands, found).values()) < 2e-5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nf4-g128", "not plain integers"),
        ("int4-narrow-g128", "not plain integers"),
        ("int4-g16@0", "not of groups of a row"),
        ("int4", "not of groups of a row"),
        ("int7-g128", "2 to 6 bits, not 7"),
        ("int4-g16", "groups of 16"),
        ("int3-g32", "groups of 32 with 3 bits"),
    ],
)
def test_refuses_other_formats(name: str, reason: str) -> None:
    packed = named(name).quantize(torch.randn(48, 256)).pack()
    with pytest.raises(InputError, match=reason):
        of_packed(packed, BF16)


@pytest.mark.parametrize(
    ("given", "reason"),
    [((192, 64), "sizes of 192"), ((256, 24), "sizes of 256, 24")],
)
def test_refuses_sizes(given: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Grouped(*given)
    with pytest.raises(InputError, match="float32"):
        Grouped(256, 64, dtype=torch.float32)


def executed(text: str, words: tuple[int, int], dtype: torch.dtype) -> tuple[float, float]:
    """What instructions of a device make of two words, by what its manual says of each."""

    def halves(word: int) -> torch.Tensor:
        bits = torch.tensor([word & 0xFFFF, word >> 16], dtype=torch.int32)
        return bits.to(torch.uint16).view(dtype).double()

    found = {"$2": words[0], "$3": words[1]}
    pair = (0.0, 0.0)
    for line in text.strip("{} ").split(";")[1:-1]:
        name, rest = line.split(maxsplit=1)
        target, *given = rest.replace("{$0, $1}", "pair").split(", ")
        values = [found[g] if g in found else int(g, 0) for g in given]
        match name.split(".")[0], values:
            case "shr", (a, b):
                found[target] = a >> b
            case "shl", (a, b):
                found[target] = a << b & 0xFFFFFFFF
            case "and", (a, b):
                found[target] = a & b
            case "or", (a, b):
                found[target] = a | b
            case "lop3", (a, b, c, 0xEA):
                found[target] = a & b | c
            case "fma", (a, b, c):
                low, up = (halves(a) * halves(b) + halves(c)).tolist()
                pair = (low, up)
            case "mov", (a,):
                found[target] = a
            case _:
                raise AssertionError(line)
    return pair


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_instructions_take_words_apart(bits: int, short: bool) -> None:
    from regauge.codegen.triton.grouped import unpacking

    low, *high = layouts = Grouped(128, 16, bits).layouts
    generator = torch.Generator().manual_seed(bits)
    planes = (low.plane, high[0].plane if high else 0)
    for _ in range(20):
        codes = torch.randint(2**bits, (low.pairs, 2), generator=generator).tolist()
        words = [0, 0]
        for j, row in enumerate(codes):
            for h, code in enumerate(row):
                for i, layout in enumerate(layouts):
                    part = code >> planes[0] * i & (1 << layout.plane) - 1
                    words[i] |= part << 16 * h + layout.plane * j
        for j, row in enumerate(codes):
            text = unpacking(j, *planes, short)
            found = executed(text, (words[0], words[1]), F16 if short else BF16)
            assert found == tuple(code - 2.0 ** (bits - 1) for code in row)


def test_compiles_without_a_device(assembled: Any) -> None:
    assembled("GROUPED")
