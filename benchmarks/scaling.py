"""How the time of tracing and of the gauge analysis grows with depth, on a large decoder.

    python benchmarks/scaling.py [--depths 20 40 80]

The model has the sizes of a 70-billion-parameter LLaMA; its weights are on the meta device, so only
their shapes are there. Times are CPU seconds on one thread: torch.export's own, then ours, which
are the canonical form and the sites of all groups. Results go to benchmarks/results/scaling.md.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers as hf

import regauge as rg
from regauge.ir.gauge import classes, pairs, sites

RESULTS = Path(__file__).parent / "results"
T = TypeVar("T")


def decoder(depth: int) -> torch.nn.Module:
    config = hf.LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_attention_heads=64,
        num_key_value_heads=8,
        num_hidden_layers=depth,
        use_cache=False,
    )
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(config).eval()
    rotary: Any = model.model.rotary_emb
    rotary.inv_freq = torch.ones(rotary.inv_freq.shape)  # a buffer whose values are asked for
    return model


def timed(run: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def measure(depth: int) -> list[str]:
    model, ids = decoder(depth), torch.zeros(1, 16, dtype=torch.long)
    kwargs = {"input_ids": ids}
    exported, program = timed(lambda: torch.export.export(model, (), kwargs, strict=False))
    canonical, graph = timed(lambda: rg.trace(program))
    figures = [timed(lambda find=find: find(graph)) for find in (sites, pairs, classes)]
    total = sum(seconds for seconds, _ in figures)
    found = sum(len(part) for _, part in figures)
    print(
        f"{depth} layers: export {exported:.1f} s, canonical {canonical:.1f} s, sites {total:.1f} s"
    )
    row = (depth, len(graph.nodes), f"{exported:.1f}", f"{canonical:.1f}", found, f"{total:.1f}")
    return [str(value) for value in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 40, 80])
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(2)  # so that nothing is loaded for the first time below
    heads = ("layers", "ops", "torch.export", "canonical form", "sites", "found in")
    rows = [measure(depth) for depth in options.depths]
    lines = [
        "# Time by depth",
        "",
        f"{datetime.date.today().isoformat()}, CPU seconds on one thread: a LLaMA of the sizes of",
        "the 70-billion-parameter one with its weights on the meta device, written by",
        "`benchmarks/scaling.py`.",
        "",
        *("| " + " | ".join(row) + " |" for row in (heads, ("---",) * len(heads), *rows)),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scaling.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
