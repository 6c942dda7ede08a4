"""Products of integers by their bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regauge.codegen import Bitplanes, excess, run
from regauge.codegen.bitplanes import integers, planes
from regauge.ir.errors import InputError

pytest.importorskip("triton")

F32 = torch.float32
SMALL = {"BLOCK_M": 4, "BLOCK_N": 32, "SPLIT": 1, "num_warps": 4, "num_stages": 2}


@pytest.mark.parametrize(
    ("bits", "inner", "group", "split"),
    [
        ((6, 6), 128, 64, 1),
        ((8, 6), 128, 32, 1),
        ((2, 3), 128, 32, 3),
        ((6, 6), 576, 576, 4),  # of one group 6 chunks
        ((6, 4), 160, 160, 2),
    ],
)
@pytest.mark.parametrize("end", [{}, {"bias": True, "activation": "silu"}])
def test_products(
    bits: tuple[int, int], inner: int, group: int, split: int, end: dict[str, Any]
) -> None:
    region = Bitplanes(inner, 48, *bits, group, dtype=F32, **end)
    operands = region.example(5, seed=0)
    found = excess(region, operands, run(region, operands, SMALL | {"SPLIT": split}))
    assert max(found.values()) < 2e-5, found


def test_integers_are_exact() -> None:
    region = Bitplanes(256, 32, dtype=F32)
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randint(-32, 32, (rows, 256), generator=generator) for rows in (7, 32))
    operands = {"input": region.pack(x), "weight": region.pack_weight(w)}
    operands |= {"steps": torch.ones(7, 2), "weight_steps": torch.ones(2, 32)}
    assert torch.equal(run(region, operands)["output"], (x @ w.T).float())


@pytest.mark.parametrize("bits", [2, 6, 8])
def test_words_hold_all_codes(bits: int) -> None:
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (3, 128))
    words = planes(codes, bits, 64)
    assert words.nbytes == codes.numel() * bits // 8
    assert torch.equal(integers(words).flatten(1), codes)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((256, 32, 9), "2 to 8 bits, not 9 and 6"),
        ((256, 32, 6, 6, 48), "groups of 48"),
        ((256, 24), "sizes of 256, 24"),
    ],
)
def test_refuses(given: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Bitplanes(*given)


def test_compiles_without_a_device(assembled: Any) -> None:
    assembled("BITPLANES")
