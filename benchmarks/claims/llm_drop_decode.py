"""A92, LLM-Drop: what leaving attentions out saves when tokens are made."""

from __future__ import annotations

import statistics
from typing import Any

from base import Figures, publish
from decode import PAST, begun, rounds_of
from zoo import smollm2, text_windows

import regauge as rg
from regauge.ir.state import find_caches
from regauge.passes import DropLayers
from regauge.passes.structure.depth.layers import LayerKind

SAYS = (
    "SmolLM2-135M-Instruct, float32, compiled with `cache=True` for ONNX Runtime; one token behind "
    "{past} others on one thread, in turns, {rounds} rounds. Claimed (A92): a decoder without some "
    "of its attentions keeps less for each token, and makes more tokens in a second. Layers are "
    "chosen on text by 1 - cos, as in [llm_drop](llm_drop.md), which has what they cost; with an "
    "attention go its weights, its keys and values, and the input and output of the graph that "
    "held them. *State*: bytes for each token. *Tokens*: in a second, relative to the whole model; "
    "the middle half of the rounds. Borne out of the state, which half of the attentions halve; "
    "little of the tokens: behind so few others the weights are what is read, of which "
    "feed-forward networks have three times as many."
)
CASES: tuple[tuple[LayerKind, int], ...] = (
    ("attention", 4),
    ("attention", 8),
    ("attention", 15),
    ("feedforward", 8),
    ("block", 4),
    ("block", 8),
)
ROUNDS, BLOCKS = 25, 30


def without(kind: LayerKind, count: int) -> DropLayers:
    return DropLayers((count - 0.5) / BLOCKS, kinds=(kind,), recover=False)


def measure() -> Figures:
    model, tokenizer = smollm2()
    calibration = list(text_windows(tokenizer, 16, 256, "calibration").split(4))
    prompt = text_windows(tokenizer, 1, PAST, "evaluation")
    runs: dict[str, Any] = {}
    state: dict[str, int] = {}
    for name, steps in {"none 0": [], **{f"{k} {n}": [without(k, n)] for k, n in CASES}}.items():
        art = rg.compile(
            model, prompt[:, :8], passes=steps, calibration=calibration, cache=True, measure=False,
            options={"threads": 1},
        )  # fmt: skip
        state[name] = sum(
            4 * int(cache.past.shape[1]) * int(cache.past.shape[3])
            for cache in find_caches(art.graph)
        )
        runs[name] = begun(art, art.runner, prompt)
        print(name, state[name], flush=True)
    times = rounds_of(runs, ROUNDS)
    whole = times["none 0"]
    rows: list[list[Any]] = []
    for name, taken in times.items():
        kind, _, count = name.partition(" ")
        ratios = [a / b for a, b in zip(whole, taken, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        tokens = f"{middle:.3f} ({low:.2f} to {high:.2f})"
        rows.append([kind, int(count), state[name], state[name] / state["none 0"], tokens])
    return Figures(rows, {"past": PAST, "rounds": ROUNDS})


if __name__ == "__main__":
    publish(
        "llm_drop_decode",
        "LLM-Drop: tokens and caches of a decoder without some of its layers",
        SAYS,
        ("what goes", "of 30", "state", "of the whole", "tokens"),
        measure,
    )
