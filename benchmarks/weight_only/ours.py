"""Regauge, as a contestant."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from contest import Case, Made, contend, layers
from torch import nn

import regauge as rg
from regauge.backends.profiles import target
from regauge.ir import Graph
from regauge.ir.interpret import execute
from regauge.passes import PRESETS, Context, JoinReaders, Pass, Quantize, Rotate, Smooth, awq
from regauge.passes.quantization.solvers import CoordinateDescent, KBest, Solver

SOLVERS: dict[str, str | Solver] = {
    "nearest": "nearest",
    "gptq": "gptq",
    "k-best": KBest(8),
    "descent": CoordinateDescent(),
}
BEFORE: dict[str, Callable[[], Pass]] = {"join": JoinReaders, "rotate": Rotate, "awq": awq}


def quantize(case: Case, model: nn.Module) -> Made:
    """Through ``regauge.compile`` where ``proof`` is asked for; otherwise the passes alone, as what
    the peers do is."""
    asked, linear = case.settings, layers(model)
    wanted = sum(part.weight.numel() for part in linear.values())
    passes = preset(asked) if "width" in asked else pipeline(case.bits, case.group, asked)
    if asked.get("proof"):
        graph = rg.compile(
            model,
            (),
            case.batches[0],
            passes=passes,
            calibration=case.batches,
            target="torch",
            measure=False,
            release_weights=True,
        ).graph
    else:
        graph = rg.trace(model, (), case.batches[0], release_weights=True)
        batches = [[call["input_ids"]] for call in case.batches]
        context = Context(inputs=batches[0], calibration=batches)
        for step in passes:
            graph, _ = step.attempt(graph, context, in_place=True)
    stored, count = weights(graph)
    assert count >= wanted, f"{count} weights of {wanted} were quantized"  # some passes add to them
    return Made(lambda ids: execute(graph, [ids]), stored / count, len(linear))


def pipeline(bits: int, group: int, asked: Mapping[str, Any]) -> Sequence[Pass]:
    """The passes of some settings."""
    before = [BEFORE[name]() for name in asked.get("before", ())]
    before = [replace(p, bits=bits, group=group) if isinstance(p, Smooth) else p for p in before]
    form = f"int{bits}-g{group}-fp16-pad" + "-asym" * asked.get("asymmetric", True)
    step = Quantize(
        None,
        weights=form,
        rounding=SOLVERS[asked.get("rounding", "gptq")],
        ranges=asked.get("ranges", "error"),
        make_up=asked.get("make_up", 0.0),
        token_weights=asked.get("token_weights"),
        correct_bias=asked.get("correct_bias", True),
        embeddings=False,
    )
    return [*before, step]


def preset(asked: Mapping[str, Any]) -> Sequence[Pass]:
    """The preset of a width, of linear layers alone; settings change its last pass, or add some
    before that."""
    *exact, step = PRESETS[asked["width"]](target("torch"))
    assert isinstance(step, Quantize)
    options = ("weights", "activations", "make_up", "ranges")
    changed = {key: asked[key] for key in options if key in asked}
    if "rounding" in asked:
        changed["rounding"] = SOLVERS[asked["rounding"]]
    before = [BEFORE[name]() for name in asked.get("before", ())]
    return [*exact, *before, replace(step, embeddings=False, **changed)]


def weights(graph: Graph) -> tuple[int, int]:
    """The bits that quantized weights take, as they are stored, and how many weights they are."""
    bits = count = 0
    for node in graph.nodes:
        if node.op == "decode":
            parts = [used.name for used in node.inputs]
            bits += 8 * graph.store.bytes(parts)
            count += math.prod(node.attrs["shape"])
    return bits, count


if __name__ == "__main__":
    contend(quantize, ["torch", "transformers"])
