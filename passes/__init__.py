"""Graph to graph: each pass with the promise it keeps."""

from .allocation import Allocate as Allocate
from .allocation import AllocateRows as AllocateRows
from .allocation import Budget as Budget
from .base import Context as Context
from .base import Pass as Pass
from .base import Promise as Promise
from .base import Remark as Remark
from .base import Stage as Stage
from .cache_inputs import CacheInputs as CacheInputs
from .center_residual import CenterResidual as CenterResidual
from .choices import Choice as Choice
from .choose import ChooseBest as ChooseBest
from .choose import smooth_quant_plus as smooth_quant_plus
from .complexify import Complexify as Complexify
from .compress_residual import CompressResidual as CompressResidual
from .fold_attention_bias import FoldAttentionBias as FoldAttentionBias
from .fold_batch_norm import FoldBatchNorm as FoldBatchNorm
from .fold_norm_affine import FoldNormAffine as FoldNormAffine
from .join_readers import JoinReaders as JoinReaders
from .learn_scales import LearnScales as LearnScales
from .manager import PassReport as PassReport
from .manager import apply as apply
from .merge_branches import MergeBranches as MergeBranches
from .merge_chains import MergeChains as MergeChains
from .permute import Align as Align
from .permute import SortChannels as SortChannels
from .presets import PRESETS as PRESETS
from .quantize import Quantize as Quantize
from .quantize_cache import QuantizeCache as QuantizeCache
from .reconstruct import Reconstruct as Reconstruct
from .rotate import Rotate as Rotate
from .smooth import Smooth as Smooth
from .smooth import awq as awq
from .smooth import os_plus as os_plus
from .smooth import pre_shift as pre_shift
from .smooth import repquant as repquant
from .smooth import smooth_quant as smooth_quant
from .split_outliers import SplitOutliers as SplitOutliers
from .unit_scale import UnitScale as UnitScale

__all__ = [
    "PRESETS",
    "Align",
    "Allocate",
    "AllocateRows",
    "Budget",
    "CacheInputs",
    "CenterResidual",
    "Choice",
    "ChooseBest",
    "Complexify",
    "CompressResidual",
    "Context",
    "FoldAttentionBias",
    "FoldBatchNorm",
    "FoldNormAffine",
    "JoinReaders",
    "LearnScales",
    "MergeBranches",
    "MergeChains",
    "Pass",
    "PassReport",
    "Promise",
    "Quantize",
    "QuantizeCache",
    "Reconstruct",
    "Remark",
    "Rotate",
    "Smooth",
    "SortChannels",
    "SplitOutliers",
    "Stage",
    "UnitScale",
    "apply",
    "awq",
    "os_plus",
    "pre_shift",
    "repquant",
    "smooth_quant",
    "smooth_quant_plus",
]
