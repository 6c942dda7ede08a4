"""Presets: pipelines by name, each a readable tuple of passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ..ir import InputError
from ..ir.formats import Format, named
from .allocation import Allocate
from .base import Pass
from .fusion.fold_batch_norm import FoldBatchNorm
from .fusion.fold_weights import FoldWeights
from .fusion.merge_branches import MergeBranches
from .fusion.merge_chains import MergeChains
from .gauges.center_residual import CenterResidual
from .gauges.fold_attention_bias import FoldAttentionBias
from .gauges.smooth import Smooth
from .gauges.split_outliers import SplitOutliers
from .legalization.legalize import Legalize
from .quantization.quantize import Quantize
from .quantization.quantize_attention import QuantizeAttention
from .quantization.quantize_results import QuantizeResults
from .quantization.token_weights import ATTENTION


class Profile(Protocol):
    """What a preset asks of a target."""

    @property
    def name(self) -> str: ...

    def stores(self, form: Format) -> bool:
        """Whether it stores weights in a format, in no more bits."""
        ...

    @property
    def integers_only(self) -> bool:
        """Whether ops take codes from end to end or not at all."""
        ...

    @property
    def gives_floats(self) -> frozenset[str]:
        """Of these, the ops that may give floats, which stay so up to the end of the graph."""
        ...

    @property
    def coded_scores(self) -> bool:
        """Whether attention gains where it is in parts, and its scores are products of codes."""
        ...

    @property
    def keeps_code(self) -> bool:
        """Whether it runs the model's own code, so that only weights can change."""
        ...


def exact(profile: Profile) -> tuple[Pass, ...]:
    """Every exact pass that a target profits from, and no approximate one; needs no data."""
    if profile.keeps_code:
        return (FoldAttentionBias(),)
    return (
        FoldWeights(),
        FoldBatchNorm(),
        MergeBranches(),
        MergeChains(),
        CenterResidual(),
        FoldAttentionBias(),
    )


def levelled(profile: Profile, smooth: Smooth) -> tuple[Pass, ...]:
    """Exact passes, and what brings channels to one level before they are quantized."""
    split = () if profile.keeps_code else (SplitOutliers(),)
    return (*exact(profile), *split, smooth)


def w8a8(profile: Profile) -> tuple[Pass, ...]:
    """Eight bits with static scales: the fastest at run time; needs calibration data."""
    biases = True if profile.keeps_code else "all"
    smooth = Smooth("folded", activations="static")
    quantize = Quantize("static", correct_bias=biases)
    steps = from_end_to_end(profile, quantize)
    if profile.coded_scores:
        steps = (Legalize(frozenset({ATTENTION})), *steps, QuantizeAttention())
    return (*levelled(profile, smooth), *steps)


def w8a16(profile: Profile) -> tuple[Pass, ...]:
    """Weights in eight bits, activations in sixteen with static scales: what NPUs have for
    transformers; needs calibration data."""
    return (*exact(profile), *from_end_to_end(profile, Quantize("static16")))


def from_end_to_end(profile: Profile, quantize: Quantize) -> tuple[Pass, ...]:
    """Static codes; for processors of integers alone, of all weights and between all ops."""
    if not profile.integers_only:
        return (quantize,)
    assert quantize.activations is not None
    results = QuantizeResults(quantize.activations, floats=profile.gives_floats)
    return (replace(quantize, least=0, embeddings=False, coded_results=True), results)


def w8a8_dynamic(profile: Profile) -> tuple[Pass, ...]:
    """Eight bits with a scale for each token: the most accurate; needs calibration data."""
    return (*levelled(profile, Smooth(activations="dynamic")), Quantize("dynamic"))


def w6a6(profile: Profile) -> tuple[Pass, ...]:
    """Six bits, of activations with a scale for each token; needs calibration data."""
    smooth = Smooth(activations="int6-token", bits=6)
    return (*levelled(profile, smooth), Quantize("int6-token", "int6-channel"))


def w4a8(profile: Profile) -> tuple[Pass, ...]:
    """Weights in four bits, groups of 32; activations in eight, with a scale for each token; needs
    calibration data."""
    return (*exact(profile), Quantize("dynamic", "int4-g32-asym", make_up=1.0))


def w4a4(profile: Profile) -> tuple[Pass, ...]:
    """Four bits, groups of 32, weights and activations; needs calibration data."""
    return (*exact(profile), Quantize("int4-g32-pad-asym", "int4-g32-asym", make_up=1.0))


def fp8(profile: Profile) -> tuple[Pass, ...]:
    """Eight bits in floating point (E4M3), a scale for each channel and token; needs calibration
    data."""
    return (*exact(profile), Quantize("fp8-e4m3-token", "fp8-e4m3-channel"))


def mxfp4(profile: Profile) -> tuple[Pass, ...]:
    """Four bits in floating point, groups of 32 that share an exponent, as the OCP's MX has them;
    needs calibration data."""
    return (*exact(profile), Quantize("mxfp4", "mxfp4", make_up=1.0))


def w8(profile: Profile) -> tuple[Pass, ...]:
    """Weights in eight bits, activations in floating point; needs no data."""
    return (
        *exact(profile),
        Quantize(None, rounding="nearest", correct_bias=False, embeddings=not profile.keeps_code),
    )


def w4a16(profile: Profile) -> tuple[Pass, ...]:
    """Weights and tables in four bits, groups of 32 and zero points; needs calibration data.

    Nothing is done to activations here; a target whose kernels round them says so.
    """
    return (
        *exact(profile),
        Quantize(None, "int4-g32-asym", make_up=1.0, embeddings=not profile.keeps_code),
    )


def w3a16(profile: Profile) -> tuple[Pass, ...]:
    """The same in three bits, which targets without kernels for three store in four."""
    return (
        *exact(profile),
        Quantize(None, "int3-g32-asym", make_up=1.0, embeddings=not profile.keeps_code),
    )


def auto(profile: Profile, bits: float) -> tuple[Pass, ...]:
    """Weights and tables in 2 to 8 bits, groups of 32 or 64, so many on average with their scales,
    each where it does least damage; needs calibration data. Widths that the target stores as others
    are left out; on one that pads no groups, what they do not divide gets int8 by the channel."""
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise InputError(
            f"a budget of {bits:g} bits a weight cannot be met: with their scales they are "
            f"{LEAST_BITS:.3g} to {MOST_BITS:.3g}",
            do="choose a number between, such as auto:4.5",
        )
    sizes = [f"int{width}-g{group}" for width in range(2, 9) for group in (64, 32)]
    forms = ([f"{size}-pad-asym", f"{size}-asym"] for size in sizes)
    stored = ([name for name in pair if profile.stores(named(name))] for pair in forms)
    choices = tuple(names[0] for names in stored if names)
    quantize = Quantize(None, make_up=1.0, embeddings=not profile.keeps_code)
    return (*exact(profile), Allocate(choices, bits, quantize=quantize))


# A scale and a zero point a group.
LEAST_BITS, MOST_BITS = (w + (32 + w) / group for w, group in ((2, 64), (8, 32)))

PRESETS: dict[str, Callable[[Profile], tuple[Pass, ...]]] = {
    "exact": exact,
    "w8a8": w8a8,
    "w8a16": w8a16,
    "w8a8-dynamic": w8a8_dynamic,
    "w8": w8,
    "w6a6": w6a6,
    "w4a8": w4a8,
    "w4a4": w4a4,
    "w4a16": w4a16,
    "w3a16": w3a16,
    "fp8": fp8,
    "mxfp4": mxfp4,
}

# Presets that take a number, as in auto:4.5.
OF_A_NUMBER: dict[str, Callable[[Profile, float], tuple[Pass, ...]]] = {"auto": auto}


def preset(name: str, profile: Profile) -> tuple[Pass, ...] | None:
    """The passes of a preset; ``None`` where no preset is called that."""
    if name in PRESETS:
        return PRESETS[name](profile)
    family, _, number = name.partition(":")
    if family not in OF_A_NUMBER:
        return None
    try:
        return OF_A_NUMBER[family](profile, float(number))
    except ValueError:
        raise InputError(
            f"{name!r} names no number of bits", do=f"write it as in {family}:4.5"
        ) from None


def preset_names() -> list[str]:
    """What a user can ask for."""
    return [*PRESETS, *(f"{name}:<bits>" for name in OF_A_NUMBER)]
