"""Widths of weights and activations: who offers each, with which settings to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contestants import (
    LLMCOMPRESSOR,
    MODELOPT,
    NEURAL_COMPRESSOR,
    NNCF,
    TORCHAO,
    Contestant,
    Settings,
)


@dataclass(frozen=True)
class Width:
    """A width.

    Attributes:
        remark: What the formats are, and who has none.
        preset: Ours, where it is not called as the width is.
    """

    key: str
    title: str
    contestants: Sequence[Contestant]
    remark: str
    preset: str = ""


def _ours(more: Mapping[str, Settings], **changed: Any) -> Contestant:
    """Its preset and more, with the same options of the last pass changed in all."""
    asked = {"preset": {}, **more}
    return Contestant("Regauge", "ours", {name: {**changed, **asked[name]} for name in asked})


def _both(form: str) -> Settings:
    return {"weights": form, "activations": form, "make_up": 1.0}


def _llmcompressor(settings: Mapping[str, Settings]) -> Contestant:
    return Contestant("llm-compressor", "peer_llmcompressor", settings, LLMCOMPRESSOR)


def _neural_compressor(weights: str, activations: str, bits: int, **more: Any) -> Contestant:
    asked = {"algorithm": "mx", "bits": bits, "w_dtype": weights, "act_dtype": activations, **more}
    return Contestant(
        "neural-compressor, MX", "peer_neural_compressor", {"nearest": asked}, NEURAL_COMPRESSOR
    )


def _modelopt(**settings: Settings) -> Contestant:
    return Contestant("ModelOpt", "peer_modelopt", settings, MODELOPT)


def _llm(
    weights: Mapping[str, Any], activations: Mapping[str, Any], **more: Any
) -> Mapping[str, Any]:
    return {"weights": weights, "activations": activations, "algorithm": "gptq", **_DAMP, **more}


_DAMP: dict[str, Any] = {"damp": 0.01}
_NEAREST: dict[str, Any] = {"algorithm": "rtn"}
_AWQ: dict[str, Any] = {"duo_scaling": True, "unpinned": True}
_SPIN: dict[str, Any] = {"spin": {"rotations": ["R1", "R2"], "transform_type": "random-hadamard"}}
_TURNED: dict[str, Settings] = {"preset, turned": {"before": ["rotate"]}}
_DESCENT: dict[str, Settings] = {"preset, descent": {"rounding": "descent"}}
_MAKE_UP: dict[str, Settings] = {"preset, making up": {"make_up": 1.0}}
_STORED = "int4-g32-fp16-asym"  # the presets' weights, whose scales are in float32


def _int(bits: int, group: int | None, *, symmetric: bool) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "strategy": "channel" if group is None else "group",
        "group_size": group,
        "symmetric": symmetric,
    }


def _token(bits: int, *, symmetric: bool) -> dict[str, Any]:
    return {"num_bits": bits, "strategy": "token", "symmetric": symmetric}


_MX: dict[str, Any] = {
    "num_bits": 4,
    "type": "float",
    "strategy": "group",
    "group_size": 32,
    "symmetric": True,
    "scale_dtype": "torch.uint8",
    "zp_dtype": "torch.uint8",
}
_FP8: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}
_FP8_WEIGHTS: dict[str, Any] = {**_FP8, "strategy": "channel", "group_size": None}
_FP8_TOKEN: dict[str, Any] = {**_FP8, "strategy": "token"}

_SIX = _int(6, None, symmetric=True)
_FOUR = _int(4, 32, symmetric=False)
_TO_SIX = _token(6, symmetric=True)
_TO_EIGHT = _token(8, symmetric=False)
_W4: dict[str, Any] = {"bits": 4, "group": 32}
_W4A8: dict[str, Any] = {**_W4, "parameters": "affine"}
_ALONE: dict[str, Any] = {"activations": None}
_ALONE_DESCENT: dict[str, Any] = {**_ALONE, "rounding": "descent"}

W6A6 = Width(
    "w6a6",
    "W6A6",
    (
        _ours({**_TURNED, **_MAKE_UP}),
        _llmcompressor(
            {
                "GPTQ": _llm(_SIX, _TO_SIX),
                "GPTQ, zero points of tokens": _llm(_SIX, _token(6, symmetric=False)),
                "SmoothQuant 0.5, GPTQ": _llm(_SIX, _TO_SIX, smooth=0.5),
                "SmoothQuant 0.8, GPTQ": _llm(_SIX, _TO_SIX, smooth=0.8),
                "SpinQuant's rotations, GPTQ": _llm(_SIX, _TO_SIX, **_SPIN),
                "nearest": _llm(_SIX, _TO_SIX, **_NEAREST),
            }
        ),
        _modelopt(
            nearest={"weights": 6, "activations": 6, "method": "max"},
        ),
        _neural_compressor("fp6_e2m3", "fp6_e2m3", 6),
        Contestant("Regauge, MX", "ours", {"MXFP6 (E2M3), making up": _both("mxfp6-e2m3")}),
    ),
    "Six bits of weights, a scale a channel, and of activations, a scale a token. "
    "neural-compressor has six bits only as MX's floating point, 32 that share an exponent, which "
    "is finer; ours in that form stands beside it. torchao, NNCF and GPTQModel have no six bits "
    "of activations; ModelOpt's SmoothQuant takes eight alone.",
)

W4A8 = Width(
    "w4a8",
    "W4A8",
    (
        _ours({**_TURNED, **_DESCENT}, weights=_STORED),
        _llmcompressor(
            {
                "GPTQ": _llm(_FOUR, _TO_EIGHT),
                "GPTQ, damping 0.1": _llm(_FOUR, _TO_EIGHT, damp=0.1),
                "SmoothQuant 0.5, GPTQ": _llm(_FOUR, _TO_EIGHT, smooth=0.5),
                "AWQ's scales, GPTQ": _llm(_FOUR, _TO_EIGHT, **_AWQ),
                "nearest": _llm(_FOUR, _TO_EIGHT, **_NEAREST),
            }
        ),
        Contestant(
            "torchao",
            "peer_torchao",
            {
                "nearest": {**_W4A8, "symmetric": False, "activations": "asymmetric"},
                "nearest, tokens symmetric": {
                    **_W4A8,
                    "symmetric": False,
                    "activations": "symmetric",
                },
                "HQQ's scales, weights symmetric": {
                    **_W4A8,
                    "symmetric": True,
                    "parameters": "hqq_scale_only",
                    "activations": "asymmetric",
                },
            },
            TORCHAO,
        ),
        _modelopt(
            nearest={"weights": 4, "group": 32, "activations": 8, "method": "max"},
            AWQ={
                "weights": 4,
                "group": 32,
                "activations": 8,
                "static": True,
                "method": "awq_lite",
            },
        ),
        _neural_compressor("int4", "int8", 4),
    ),
    "Four bits of weights, groups of 32, zero points where the tool has them; eight bits of "
    "activations, a scale a token. Ours has the scales of weights in 16 bits, as all are counted. "
    "neural-compressor has integers of activations only as MX's, 32 that share an exponent. NNCF "
    "and GPTQModel leave activations as they are.",
)

W4A4 = Width(
    "w4a4",
    "W4A4",
    (
        _ours({**_TURNED, **_DESCENT}, weights=_STORED),
        _llmcompressor(
            {
                "GPTQ": _llm(_FOUR, _FOUR),
                "GPTQ, damping 0.1": _llm(_FOUR, _FOUR, damp=0.1),
                "SmoothQuant 0.5, GPTQ": _llm(_FOUR, _FOUR, smooth=0.5),
                "SpinQuant's rotations, GPTQ": _llm(_FOUR, _FOUR, **_SPIN),
                "nearest": _llm(_FOUR, _FOUR, **_NEAREST),
            }
        ),
        _modelopt(
            nearest={"weights": 4, "group": 32, "activations": 4, "block": 32, "method": "max"},
        ),
        _neural_compressor("int4", "int4", 4),
    ),
    "Four bits, groups of 32 with zero points where the tool has them, of weights and of "
    "activations. Ours has the scales of weights in 16 bits, as all are counted. "
    "neural-compressor has MX's integers. torchao has four bits of activations in floating point "
    "alone; NNCF and GPTQModel leave activations as they are.",
)

FP8 = Width(
    "fp8",
    "FP8 (E4M3)",
    (
        _ours({**_TURNED, **_MAKE_UP}),
        _llmcompressor(
            {
                "nearest": _llm(_FP8_WEIGHTS, _FP8_TOKEN, **_NEAREST),
                "GPTQ": _llm(_FP8_WEIGHTS, _FP8_TOKEN),
                "SmoothQuant 0.5, GPTQ": _llm(_FP8_WEIGHTS, _FP8_TOKEN, smooth=0.5),
            }
        ),
        Contestant(
            "torchao",
            "peer_torchao",
            {
                "by rows, its form for processors": {"float8": "processors"},
                "by rows": {"float8": "accelerators"},
            },
            TORCHAO,
        ),
        Contestant(
            "NNCF",
            "peer_nncf",
            {"SmoothQuant 0.95": {"smooth": 0.95}, "nearest": {"smooth": -1.0}},
            NNCF,
        ),
        _modelopt(nearest={"weights": (4, 3), "activations": (4, 3), "method": "max"}),
        _neural_compressor("fp8_e4m3", "fp8_e4m3", 8),
        Contestant("Regauge, MX", "ours", {"MXFP8 (E4M3), making up": _both("mxfp8-e4m3")}),
    ),
    "Weights with a scale a channel, activations with a scale a token. NNCF's scales are those of "
    "calibration; neural-compressor has them on a processor only as MX's, 32 that share an "
    "exponent; ours in that form stands beside it. GPTQModel leaves activations as they are.",
)

MXFP4 = Width(
    "mxfp4",
    "MXFP4",
    (
        _ours({**_TURNED, **_DESCENT}),
        _llmcompressor(
            {
                "GPTQ": _llm(_MX, _MX),
                "GPTQ, damping 0.1": _llm(_MX, _MX, damp=0.1),
                "SpinQuant's rotations, GPTQ": _llm(_MX, _MX, **_SPIN),
                "AWQ's scales, GPTQ": _llm(_MX, _MX, **_AWQ),
                "nearest": _llm(_MX, _MX, **_NEAREST),
            }
        ),
        Contestant(
            "torchao",
            "peer_torchao",
            {
                "nearest, scales rounded up": {"mx": "rceil", "bfloat16": True},
                "nearest, scales even": {"mx": "even", "bfloat16": True},
                "nearest, scales floored": {"mx": "floor", "bfloat16": True},
            },
            TORCHAO,
        ),
        _modelopt(
            nearest={
                "weights": (2, 1),
                "activations": (2, 1),
                "group": 32,
                "mx": True,
                "method": "max",
            }
        ),
        _neural_compressor("fp4", "fp4", 4),
    ),
    "Weights and activations, 32 that share an exponent, as the OCP's MX has them. NNCF has it of "
    "weights alone, GPTQModel has none of activations.",
)

MXFP4_WEIGHTS = Width(
    "mxfp4-weights",
    "MXFP4, weights alone",
    (
        Contestant("Regauge", "ours", {"preset": _ALONE, "preset, descent": _ALONE_DESCENT}),
        _llmcompressor(
            {
                "GPTQ": {**_llm(_MX, {}), "activations": None},
                "AWQ's scales, GPTQ": {**_llm(_MX, {}, **_AWQ), "activations": None},
            }
        ),
        Contestant(
            "NNCF",
            "peer_nncf",
            {
                "AWQ": {**_W4, "format": "mxfp4", "awq": True},
                "nearest": {**_W4, "format": "mxfp4"},
            },
            NNCF,
        ),
        _neural_compressor("fp4", "fp4", 4, weight_only=True),
    ),
    "",
    preset="mxfp4",
)

WIDTHS = (W6A6, W4A8, W4A4, FP8, MXFP4, MXFP4_WEIGHTS)
