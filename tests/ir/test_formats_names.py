"""Names of formats: each is read, given back, or refused with what is known."""

from __future__ import annotations

import pytest

from regauge.ir import InputError
from regauge.ir.formats import named

NAMES = [
    "int2", "int3-g32", "int4-g32-asym", "int4-g128", "int5-channel@1", "int6-g32-fp16", "int8",
    "int8-narrow-channel", "int8-channel", "int4-g32-fp16-asym", "int4-token", "int4-g16@0",
    "uint8", "fp8-e4m3", "fp8-e5m2-channel", "fp6-e3m2", "fp6-e2m3-token", "fp4-e2m1-g16-e8m0",
    "fp4-e3m0-g32-bf16", "fp5-e2m2-bias-0.75", "fp8-e4m3-none",
    "mxfp8-e4m3", "mxfp8-e5m2", "mxfp6-e2m3", "mxfp6-e3m2", "mxfp4", "mxint8", "nvfp4", "bfp5-b16",
    "nf4-g64", "nf3-g64-e4m3-twofold", "log2-4", "logsqrt2-4-token", "uniform2-g64", "ternary",
    "ternary-g48-fp16", "binary-channel", "phase", "phase-g32", "d4-g64", "e8-g64-fp16",
    "int4-g24-pad", "fp4-e2m1-channel-e8m0-down-twofold",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_given_back(name: str) -> None:
    assert str(named(name)) == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("mxfp8", "mxfp8-e4m3"),
        ("mxfp6", "mxfp6-e2m3"),
        (" INT4-G128 ", "int4-g128"),
        ("int4-asym-g32", "int4-g32-asym"),
        ("int4-fp32-tensor", "int4"),
        ("fp4-e2m1-g32-pad-e8m0-floor", "mxfp4"),
        ("fp4-e2m1-e4m3-twofold-g16-pad", "nvfp4"),
        ("int5q4-g16-pad-e8m0-ceil", "bfp5-b16"),
        ("fp4-e2m1-e8m0-up", "fp4-e2m1-e8m0"),
    ],
)
def test_other_spellings_have_one_name(given: str, name: str) -> None:
    assert str(named(given)) == name
    assert named(given) == named(name)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError) as error:
        named("mxfp5")
    assert error.value.what == "no format is called 'mxfp5'"
    assert error.value.do.startswith("did you mean mxfp8, mxfp6, mxfp4? known: mxfp8-e4m3, ")
    assert "nf2 .. nf8" in error.value.do and "g128" in error.value.do


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("int4-g128-soft", "'soft' in 'int4-g128-soft' is not known"),
        ("int4-fp16-bf16", "'fp16' and 'bf16' in 'int4-fp16-bf16' exclude each other"),
        ("int4-channel-g32", "'channel' and 'g32' in 'int4-channel-g32' exclude each other"),
        ("nf4-asym", "only integers have a zero point: 'nf4-asym'"),
        ("fp4-e3m1", "fp4-e3m1: a sign, E and M make 5 bits"),
        ("int9", "an integer has 2 to 8 bits, not 9"),
        ("int4-e8m0-nearest", "a scale in e8m0 cannot be rounded by 'nearest'"),
        ("int4-fp16-up", "a scale in fp16 cannot be rounded by 'up'"),
    ],
)
def test_what_no_format_can_be_is_refused(name: str, what: str) -> None:
    with pytest.raises(InputError) as error:
        named(name)
    assert error.value.what == what
