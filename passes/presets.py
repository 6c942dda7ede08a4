"""Presets: pipelines by name, each a readable tuple of passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .base import Pass
from .center_residual import CenterResidual
from .fold_attention_bias import FoldAttentionBias
from .fold_batch_norm import FoldBatchNorm
from .merge_branches import MergeBranches
from .merge_chains import MergeChains
from .quantize import Quantize
from .smooth import Smooth


class Profile(Protocol):
    """What a preset asks of a target."""

    @property
    def name(self) -> str: ...


def exact(profile: Profile) -> tuple[Pass, ...]:
    """Every exact pass that a target profits from, and no approximate one; needs no data."""
    return (
        FoldBatchNorm(),
        MergeBranches(),
        MergeChains(),
        CenterResidual(),
        FoldAttentionBias(),
    )


def w8a8(profile: Profile) -> tuple[Pass, ...]:
    """Eight bits with static scales: the fastest at run time; needs calibration data."""
    return (*exact(profile), Smooth(activations="static"), Quantize("static"))


def w8a8_dynamic(profile: Profile) -> tuple[Pass, ...]:
    """Eight bits with a scale for each token: the most accurate; needs calibration data."""
    return (*exact(profile), Smooth(activations="dynamic"), Quantize("dynamic"))


def w8(profile: Profile) -> tuple[Pass, ...]:
    """Weights in eight bits, activations in floating point; needs no data."""
    return (*exact(profile), Quantize(None, rounding="nearest", correct_bias=False))


def w4a16(profile: Profile) -> tuple[Pass, ...]:
    """Weights and tables in four bits, groups of 32 and zero points; needs calibration data.

    Nothing is done to activations here; a target whose kernels round them says so.
    """
    return (*exact(profile), Quantize(None, weights="int4-g32-asym", make_up=True))


def w3a16(profile: Profile) -> tuple[Pass, ...]:
    """The same in three bits, which targets without kernels for three store in four."""
    return (*exact(profile), Quantize(None, weights="int3-g32-asym", make_up=True))


PRESETS: dict[str, Callable[[Profile], tuple[Pass, ...]]] = {
    "exact": exact,
    "w8a8": w8a8,
    "w8a8-dynamic": w8a8_dynamic,
    "w8": w8,
    "w4a16": w4a16,
    "w3a16": w3a16,
}
