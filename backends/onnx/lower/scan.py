"""ONNX's Scan: a step for each place along an axis, from the states that the last one left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from onnx import ValueInfoProto, helper

from ..builder import DTYPES, Builder

Named: TypeAlias = Sequence[tuple[str, torch.dtype]]
# From the states and the inputs of one step, by name, to the states after it.
Step: TypeAlias = Callable[[Builder, list[str], list[str]], list[str]]


def scan(
    b: Builder, states: Named, inputs: Named, step: Step, *, axes: Sequence[int] = (0,),
    axis: int = 0, kept: int = 1, reverse: bool = False,
) -> tuple[str, ...]:  # fmt: skip
    """The states after the last step, and then the first ``kept`` of them after each step, side by
    side along ``axis``.

    Args:
        states: What the first step starts from.
        inputs: What is taken apart, each along its axis of ``axes``.
    """
    outer, b.nodes = b.nodes, []
    read = [[b.fresh() for _ in many] for many in (states, inputs)]
    after = step(b, *read)
    seen = [b.op("Identity", state) for state in after[:kept]]
    inner, b.nodes = b.nodes, outer
    kinds = [dtype for _, dtype in states]
    body = helper.make_graph(
        inner,
        "step",
        [*_infos(read[0], kinds), *_infos(read[1], [dtype for _, dtype in inputs])],
        [*_infos(after, kinds), *_infos(seen, kinds[:kept])],
    )
    return b.ops(
        "Scan",
        *(name for name, _ in (*states, *inputs)),
        count=len(states) + kept,
        body=body,
        num_scan_inputs=len(inputs),
        scan_input_axes=list(axes),
        scan_output_axes=[axis] * kept,
        scan_input_directions=[int(reverse)] * len(inputs),
        scan_output_directions=[int(reverse)] * kept,
    )


def _infos(names: Sequence[str], dtypes: Sequence[torch.dtype]) -> list[ValueInfoProto]:
    pairs = zip(names, dtypes, strict=True)
    return [helper.make_tensor_value_info(name, DTYPES[dtype], None) for name, dtype in pairs]
