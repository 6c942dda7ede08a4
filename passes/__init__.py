"""Graph to graph: each pass with the promise it keeps."""

from .allocation import Allocate as Allocate
from .allocation import AllocateRows as AllocateRows
from .allocation import Budget as Budget
from .base import Context as Context
from .base import Pass as Pass
from .base import Promise as Promise
from .base import Remark as Remark
from .base import Stage as Stage
from .fusion.fold_batch_norm import FoldBatchNorm as FoldBatchNorm
from .fusion.fold_pads import FoldPads as FoldPads
from .fusion.fold_scales import FoldScales as FoldScales
from .fusion.fold_weights import FoldWeights as FoldWeights
from .fusion.join_readers import JoinReaders as JoinReaders
from .fusion.merge_branches import MergeBranches as MergeBranches
from .fusion.merge_chains import MergeChains as MergeChains
from .fusion.merge_equal import MergeEqual as MergeEqual
from .gauges.center_residual import CenterResidual as CenterResidual
from .gauges.choose import ChooseBest as ChooseBest
from .gauges.choose import smooth_quant_plus as smooth_quant_plus
from .gauges.complexify import Complexify as Complexify
from .gauges.compress_residual import CompressResidual as CompressResidual
from .gauges.fold_attention_bias import FoldAttentionBias as FoldAttentionBias
from .gauges.fold_norm_affine import FoldNormAffine as FoldNormAffine
from .gauges.learn_scales import LearnScales as LearnScales
from .gauges.permute import Align as Align
from .gauges.permute import SortChannels as SortChannels
from .gauges.rotate import Rotate as Rotate
from .gauges.smooth import Smooth as Smooth
from .gauges.smooth import awq as awq
from .gauges.smooth import os_plus as os_plus
from .gauges.smooth import pre_shift as pre_shift
from .gauges.smooth import repquant as repquant
from .gauges.smooth import smooth_quant as smooth_quant
from .gauges.split_outliers import SplitOutliers as SplitOutliers
from .gauges.unit_scale import UnitScale as UnitScale
from .legalization.fewer_axes import FewerAxes as FewerAxes
from .legalization.legalize import Legalize as Legalize
from .manager import PassReport as PassReport
from .manager import apply as apply
from .patterns import Pattern as Pattern
from .presets import PRESETS as PRESETS
from .quantization.choices import Choice as Choice
from .quantization.quantize import Quantize as Quantize
from .quantization.quantize_attention import QuantizeAttention as QuantizeAttention
from .quantization.quantize_results import QuantizeResults as QuantizeResults
from .quantization.reconstruct import Reconstruct as Reconstruct
from .state.cache_inputs import CacheInputs as CacheInputs
from .state.open_state import CloseState as CloseState
from .state.open_state import OpenState as OpenState
from .state.quantize_cache import QuantizeCache as QuantizeCache
from .structure.depth.drop_layers import DropLayers as DropLayers
from .structure.depth.exits import with_exits as with_exits
from .structure.depth.fuse_blocks import FuseBlocks as FuseBlocks
from .structure.depth.layer_scores import LayerScore as LayerScore
from .structure.depth.layer_scores import OutputChange as OutputChange
from .structure.depth.layer_scores import Position as Position
from .structure.depth.layer_scores import SampledChange as SampledChange
from .structure.depth.layer_scores import Similarity as Similarity
from .structure.depth.layer_times import LayerTimes as LayerTimes
from .structure.depth.parallelize import Parallelize as Parallelize
from .structure.depth.reorder import Reorder as Reorder
from .structure.distill import Distill as Distill
from .structure.experts.expert_scores import DriftScore as DriftScore
from .structure.experts.expert_scores import ExpertScore as ExpertScore
from .structure.experts.expert_scores import OutputScore as OutputScore
from .structure.experts.expert_scores import RouterScore as RouterScore
from .structure.experts.expert_scores import UsageScore as UsageScore
from .structure.experts.merge_experts import MergeExperts as MergeExperts
from .structure.experts.prune_experts import PruneExperts as PruneExperts
from .structure.experts.prune_experts import patterns as patterns
from .structure.experts.upcycle import Upcycle as Upcycle
from .structure.factors.cluster_outputs import ClusterOutputs as ClusterOutputs
from .structure.factors.factorize import Factorize as Factorize
from .structure.factors.forms import Kronecker as Kronecker
from .structure.factors.forms import LowRank as LowRank
from .structure.factors.forms import Monarch as Monarch
from .structure.factors.forms import TensorTrain as TensorTrain
from .structure.factors.rank_times import RankTimes as RankTimes
from .structure.factors.share_experts import ShareExperts as ShareExperts
from .structure.factors.sparsify_inputs import SparsifyInputs as SparsifyInputs
from .structure.sparsity.permute_inputs import PermuteInputs as PermuteInputs
from .structure.sparsity.rates import RateDistortion as RateDistortion
from .structure.sparsity.sparsify import Sparsify as Sparsify
from .structure.width.drop_dead import DropDead as DropDead
from .structure.width.importance import Activation as Activation
from .structure.width.importance import Importance as Importance
from .structure.width.importance import Magnitude as Magnitude
from .structure.width.importance import Reconstruction as Reconstruction
from .structure.width.importance import Taylor as Taylor
from .structure.width.latency import LatencyTable as LatencyTable
from .structure.width.prune import Prune as Prune

__all__ = [
    "PRESETS",
    "Activation",
    "Align",
    "Allocate",
    "AllocateRows",
    "Budget",
    "CacheInputs",
    "CenterResidual",
    "Choice",
    "ChooseBest",
    "CloseState",
    "ClusterOutputs",
    "Complexify",
    "CompressResidual",
    "Context",
    "Distill",
    "DriftScore",
    "DropDead",
    "DropLayers",
    "ExpertScore",
    "Factorize",
    "FewerAxes",
    "FoldAttentionBias",
    "FoldBatchNorm",
    "FoldNormAffine",
    "FoldPads",
    "FoldScales",
    "FoldWeights",
    "FuseBlocks",
    "Importance",
    "JoinReaders",
    "Kronecker",
    "LatencyTable",
    "LayerScore",
    "LayerTimes",
    "LearnScales",
    "Legalize",
    "LowRank",
    "Magnitude",
    "MergeBranches",
    "MergeChains",
    "MergeEqual",
    "MergeExperts",
    "Monarch",
    "OpenState",
    "OutputChange",
    "OutputScore",
    "Parallelize",
    "Pass",
    "PassReport",
    "Pattern",
    "PermuteInputs",
    "Position",
    "Promise",
    "Prune",
    "PruneExperts",
    "Quantize",
    "QuantizeAttention",
    "QuantizeCache",
    "QuantizeResults",
    "RankTimes",
    "RateDistortion",
    "Reconstruct",
    "Reconstruction",
    "Remark",
    "Reorder",
    "Rotate",
    "RouterScore",
    "SampledChange",
    "ShareExperts",
    "Similarity",
    "Smooth",
    "SortChannels",
    "Sparsify",
    "SparsifyInputs",
    "SplitOutliers",
    "Stage",
    "Taylor",
    "TensorTrain",
    "UnitScale",
    "Upcycle",
    "UsageScore",
    "apply",
    "awq",
    "os_plus",
    "patterns",
    "pre_shift",
    "repquant",
    "smooth_quant",
    "smooth_quant_plus",
    "with_exits",
]
