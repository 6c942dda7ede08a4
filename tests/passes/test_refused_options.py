"""What an option cannot be is refused when a pass is made, by its name and with what it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from regauge.ir import InputError
from regauge.passes import (
    Align,
    Allocate,
    Budget,
    CacheInputs,
    ChooseBest,
    LearnScales,
    Legalize,
    Quantize,
    QuantizeCache,
    QuantizeResults,
    Reconstruct,
    Rotate,
    Smooth,
    SortChannels,
    SplitOutliers,
    UnitScale,
    awq,
    os_plus,
    smooth_quant,
)
from regauge.passes.quantization.solvers import GPTQ, CoordinateDescent, KBest

Make = Callable[..., object]


@pytest.mark.parametrize(
    ("make", "options", "wrong", "allowed"),
    [
        (Smooth, {"rule": "treshold"}, "no rule 'treshold'", "'threshold', 'power'"),
        (Smooth, {"shift": "fold"}, "no shift 'fold'", "'folded'"),
        (Smooth, {"grid": 0.5}, "grid=0.5 is no tuple", r"grid=\(0.5,\)"),
        (Smooth, {"grid": ("0.5",)}, "'0.5' in grid", "a number from 0 to 1"),
        (Smooth, {"rule": "threshold", "grid": (0.0,)}, "0.0 in grid", "above 0 to 1"),
        (Smooth, {"activations": "statc"}, "no format is called 'statc'", "known"),
        (Smooth, {"bits": 1}, "bits=1", "from 2 to 8"),
        (Smooth, {"group": 0}, "group=0", "from 1 or None"),
        (smooth_quant, {"alpha": 7.0}, "7.0 in grid", "from 0 to 1"),
        (awq, {"bits": 99}, "bits=99", "from 2 to 8"),
        (os_plus, {"activations": "bad"}, "no format is called 'bad'", "known"),
        (Rotate, {"residual": "hadamrd"}, "no matrix of streams 'hadamrd'", "'hadamard'"),
        (Rotate, {"heads": "pca"}, "no matrix of heads 'pca'", "'random'"),
        (Rotate, {"inputs": 6}, "no Hadamard matrix of order 6", "a power of two"),
        (Rotate, {"inputs": 1}, "inputs=1", "from 2 or False or True"),
        (Rotate, {"inputs": "yes"}, "inputs='yes'", "from 2 or False or True"),
        (Rotate, {"ops": -1}, "ops=-1", "from 0"),
        (LearnScales, {"steps": 0}, "steps=0", "from 1"),
        (LearnScales, {"rate": -1.0}, "rate=-1.0", "above 0"),
        (ChooseBest, {"candidates": (), "group": -3}, "group=-3", "from 1"),
        (SortChannels, {"keys": "yes"}, "keys='yes'", "True or False"),
        (Align, {"reference": 3}, "reference=3", "Graph"),
        (SplitOutliers, {"share": -1}, "share=-1", "from 0 to 1"),
        (UnitScale, {"whole": "no"}, "whole='no'", "True or False"),
        (Legalize, {"lacks": frozenset({"sdpa"})}, "no op: 'sdpa'", "scaled_dot_product_attention"),
        (Quantize, {"activations": "statc"}, "no format is called 'statc'", "known"),
        (Quantize, {"weights": "int9"}, "an integer has 2 to 8 bits, not 9", ""),
        (Quantize, {"weights": 4}, "weights=4", "a name"),
        (Quantize, {"rounding": 5}, "no solver is called 5", "gptq"),
        (Quantize, {"ranges": "outpt"}, "no source of ranges 'outpt'", "'output'"),
        (Quantize, {"activation_ranges": "maxx"}, "activation_ranges='maxx'", "'seen' or 'error'"),
        (Quantize, {"activation_ranges": 99}, "activation_ranges=99", "above 0.5 to 1"),
        (Quantize, {"make_up": 2.0}, "make_up=2.0", "from 0 to 1 or 'held-out'"),
        (Quantize, {"correct_bias": "every"}, "no correction of biases 'every'", "'all'"),
        (Quantize, {"low_rank": -1}, "low_rank=-1", "from 0"),
        (Quantize, {"token_weights": "attn"}, "no weight of tokens 'attn'", "'attention'"),
        (Quantize, {"least": "x"}, "least='x'", "from 0"),
        (Quantize, {"choices": {"a": "int4"}}, "'int4' is no choice", "Choice"),
        (QuantizeResults, {"activations": "dynamic"}, "no coding of results 'dynamic'", "static16"),
        (Reconstruct, {"method": "flexrnd"}, "no method 'flexrnd'", "'flexround'"),
        (Reconstruct, {"cut": "blocks"}, "no cut 'blocks'", "'block'"),
        (QuantizeCache, {"keys": 3}, "no number of bits 3", "2, 4, 8, 16"),
        (QuantizeCache, {"scaling": "chanel"}, "no scaling 'chanel'", "'channel'"),
        (CacheInputs, {"bits": "int4"}, "no number of bits 'int4'", "2, 4, 8, 16"),
        (Budget, {"limit": 3.0, "of": "bit"}, "no budget of 'bit'", "'bits', 'bytes'"),
        (Allocate, {"choices": "int4", "budget": 5.0}, "choices='int4' is no tuple", "int4"),
        (Allocate, {"choices": ("int4",), "budget": "5"}, "budget='5'", "a number"),
        (Allocate, {"choices": ("int4",), "budget": 5.0, "by": "weigth"}, "'weigth'", "'weight'"),
        (Allocate, {"choices": ("int4",), "budget": 5.0, "score": "hessian"}, "'hessian'", "Score"),
        (GPTQ, {"order": "foo"}, "no order of columns 'foo'", "'pivot'"),
        (GPTQ, {"damp": -1}, "damp=-1", "from 0"),
        (KBest, {"width": 0}, "width=0", "from 1"),
        (CoordinateDescent, {"sweeps": -2}, "sweeps=-2", "from 0"),
    ],
)  # fmt: skip
def test_what_an_option_cannot_be(
    make: Make, options: dict[str, Any], wrong: str, allowed: str
) -> None:
    with pytest.raises(InputError, match=rf"(?s){wrong}.*{allowed}"):
        make(**options)
