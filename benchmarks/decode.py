"""One token of SmolLM2 behind a cache of 256, on one thread: ours beside each other and PyTorch.

    python benchmarks/decode.py [--rounds 25]

Contestants take turns in one process, some tokens in a row each a round, as they come when text is
generated; ratios are to the artifact of the preset ``exact``, which is float32. Caches lie where
they are: every token is the 257th, written anew.
Results go to benchmarks/results/decode.md and .json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from zoo import smollm2, text_windows

import regauge as rg
from regauge.backends.onnxruntime import load
from regauge.driver.compile import environment
from regauge.passes import JoinReaders, Quantize

RESULTS = Path(__file__).parent / "results"
PAST = 256
TOKENS = 8  # in a row


def weights_in(form: str) -> list[Any]:
    """Weights alone, tables included, rounded to the nearest."""
    return ["exact", Quantize(None, form, rounding="nearest", correct_bias=False)]


CONTESTANTS: dict[str, Any] = {
    "Regauge `exact`": "exact",
    "Regauge `w8a8-dynamic`": "w8a8-dynamic",
    "Regauge `w8`": "w8",
    "Regauge int8-g128-pad": weights_in("int8-g128-pad"),
    "Regauge int4-g32 (`w4a16`'s blocks)": weights_in("int4-g32-asym"),
    "Regauge int4-g64": weights_in("int4-g64"),
    "Regauge int4-g128-pad": weights_in("int4-g128-pad"),
    "Regauge int4-g128-pad, readers joined": [
        "exact",
        JoinReaders(),
        Quantize(None, "int4-g128-pad", rounding="nearest", correct_bias=False),
    ],
}


def begun(art: rg.Artifact, runner: Any, prompt: torch.Tensor) -> Callable[[], Any]:
    """What scores one more token of a prompt, the same each time."""
    decoder: Any = art.decoder
    given = {**art.constants, **decoder.empty(art.graph, 1), decoder.ids: prompt}
    steps = runner.steps(decoder.ids, decoder.scores, dict(decoder.state), given, PAST + 1)
    steps(prompt)
    last = prompt[:, -1:].contiguous()

    def again() -> None:
        steps.rewind(1)
        steps(last)

    steps(last)
    return again


def eager(model: Any, prompt: torch.Tensor) -> Callable[[], Any]:
    """PyTorch's own, whose cache is cut back by the token that it took."""
    with torch.no_grad():
        cache = model(prompt, use_cache=True).past_key_values
    last = prompt[:, -1:]

    def again() -> None:
        with torch.no_grad():
            model(last, past_key_values=cache, use_cache=True)
        cache.crop(-1)

    again()
    return again


def rounds_of(runs: dict[str, Callable[[], Any]], count: int) -> dict[str, list[float]]:
    """Seconds of CPU time of a token of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(count):
        for name, run in runs.items():
            start = time.process_time()
            for _ in range(TOKENS):
                run()
            times[name].append((time.process_time() - start) / TOKENS)
    return times


def rows_of(times: dict[str, list[float]], sizes: dict[str, float]) -> list[dict[str, Any]]:
    base = next(iter(times.values()))
    rows: list[dict[str, Any]] = []
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(taken, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        figures = {"ratio": middle, "low": low, "high": high, "ms": statistics.median(taken) * 1e3}
        rows.append({"name": name, **figures, "megabytes": sizes.get(name)})
    return rows


def text_of(rows: list[dict[str, Any]], facts: dict[str, str], rounds: int) -> str:
    lines = [
        "# One token behind a cache of 256",
        "",
        f"{datetime.date.today().isoformat()}, SmolLM2-135M-Instruct, batch 1, {rounds} rounds of",
        f"{TOKENS} tokens each in turns in one process, CPU time on one thread; latency relative",
        "to `exact`, with the middle half of the rounds. Written by `benchmarks/decode.py`. The",
        "weights came from a file in four bits, so nothing is said of quality here.",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items()),
        "",
        "| | latency | middle half | ms | MB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        size = "" if row["megabytes"] is None else f"{row['megabytes']:.0f}"
        lines.append(
            f"| {row['name']} | {row['ratio']:.2f} | {row['low']:.2f} to {row['high']:.2f} | "
            f"{row['ms']:.1f} | {size} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=25, help="two at least")
    parser.add_argument("--compiled", type=Path, default=Path("out/decode"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = smollm2()
    prompt = text_windows(tokenizer, 1, PAST, "evaluation")
    calibration = list(text_windows(tokenizer, 8, 128, "calibration").split(2))
    runs: dict[str, Callable[[], Any]] = {}
    sizes: dict[str, float] = {}
    facts: dict[str, str] = {}
    for index, (name, passes) in enumerate(CONTESTANTS.items()):
        folder = options.compiled / str(index)
        if not folder.exists():
            art = rg.compile(
                model,
                prompt[:, :32],
                cache=True,
                passes=passes,
                calibration=calibration if passes == "w8a8-dynamic" else None,
                measure=False,
            )
            art.save(folder)
            print(f"{name}: compiled", flush=True)
        art = rg.load(folder)
        runner = art.runner = load(folder, art.graph, threads=1)
        runs[name], sizes[name] = begun(art, runner, prompt), runner.bytes / 1e6
        facts = environment(art.target)
    runs["PyTorch, eager, with its cache"] = eager(model, prompt)
    rows = rows_of(rounds_of(runs, options.rounds), sizes)
    text = text_of(rows, facts, options.rounds)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "decode.md").write_text(text)
    found = {"rows": rows, "environment": facts, "rounds": options.rounds}
    (RESULTS / "decode.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
