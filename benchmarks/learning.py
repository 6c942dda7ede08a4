"""What learning scales end to end gains over choosing them by a statistic, site by site.

    PYTHONPATH=examples python benchmarks/learning.py [vit|minilm ...] [--steps N] [--rate R]

Every choice gets the same calibration data, and the error is that of other data, relative L2 to
float32. W8A8 is `Quantize` with static activations, GPTQ and corrected biases. W4A8 is simulated:
weights of four bits by output channel, to the nearest, static activations, biases as they are.
Results go to benchmarks/results/learning-*.md.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zoo

import regauge as rg
from regauge.ir import Graph, astype
from regauge.ir.interpret import execute
from regauge.passes import (
    CenterResidual,
    Context,
    FoldAttentionBias,
    FoldBatchNorm,
    LearnScales,
    Pass,
    Quantize,
    Smooth,
    smooth_quant,
)
from regauge.passes.fitting import HELD_OUT
from regauge.passes.manager import difference
from regauge.passes.quantization.simulated import Simulation

RESULTS = Path(__file__).parent / "results"
Batches = list[list[torch.Tensor]]


@dataclass
class Task:
    title: str
    graph: Graph
    calibration: Batches
    evaluation: Batches

    @property
    def context(self) -> Context:
        return Context(inputs=self.calibration[0], calibration=self.calibration)


def vit() -> Task:
    model, data = zoo.digits_vit(), zoo.digits()
    calibration = [[part] for part in data.train[:512].split(32)]
    evaluation = [[part] for part in data.test[:352].split(32)]
    graph = rg.trace(model, (calibration[0][0],))
    title = "ViT on scikit-learn's digits; 512 training images, 352 test images"
    return Task(title, graph, calibration, evaluation)


def minilm() -> Task:
    model, tokenizer = zoo.minilm()
    calibration = [[ids] for ids in zoo.text_windows(tokenizer, 64, 64, "calibration").split(4)]
    evaluation = [[ids] for ids in zoo.text_windows(tokenizer, 16, 64, "evaluation").split(4)]
    graph = rg.trace(model, (), {"input_ids": calibration[0][0]})
    title = "MiniLM; 64 windows of 64 tokens of text to calibrate on, 16 of other text"
    return Task(title, graph, calibration, evaluation)


TASKS: dict[str, Callable[[], Task]] = {"vit": vit, "minilm": minilm}


def choices(bits: int, steps: int, rate: float) -> dict[str, tuple[Pass, ...]]:
    """How scales are chosen, each as passes that change nothing."""
    learn = LearnScales(bits=bits, steps=steps, rate=rate, correct_bias=bits == 8)
    return {
        "no choice": (),
        "SmoothQuant, alpha 0.5": (smooth_quant(0.5),),
        "Smooth, searched": (Smooth(bits=bits),),
        "Smooth, then LearnScales": (Smooth(bits=bits), learn),
    }


def chosen(task: Task, graph: Graph, passes: tuple[Pass, ...]) -> tuple[Graph, float]:
    """The graph in float32 after exact passes, and their CPU seconds."""
    start = time.process_time()
    for step in passes:
        graph, _ = step(graph, task.context)
    return astype(graph, torch.float32), time.process_time() - start


def error(task: Task, graph: Graph, exact: Graph, read: Any = None) -> float:
    """The relative L2 error of the first output over all batches."""
    with torch.no_grad():
        found = torch.cat([execute(graph, b, read=read)[0] for b in task.evaluation])
        wanted = torch.cat([execute(exact, b)[0] for b in task.evaluation])
    return difference([found], [wanted])


def measure(task: Task, steps: int, rate: float) -> list[list[str]]:
    """A row of figures for each choice."""
    exact = astype(task.graph, torch.float32)
    folds = (FoldBatchNorm(), CenterResidual(), FoldAttentionBias())
    start, _ = chosen(task, astype(task.graph, torch.float64), folds)
    double = astype(start, torch.float64)
    rows: list[list[str]] = []
    for name, passes in choices(8, steps, rate).items():
        graph, seconds = chosen(task, double, passes)
        quantized, _ = Quantize("static")(graph, task.context)
        row = [name, f"{error(task, quantized, exact):.4f}"]
        graph, _ = chosen(task, double, choices(4, steps, rate)[name])
        simulation = Simulation.of(graph, task.context, "W4A8", bits=4)
        row.append(f"{error(task, graph, exact, simulation.reading()):.4f}")
        rows.append([*row, f"{seconds:.0f}"])
        print(task.title, *rows[-1], sep=" | ", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rate", type=float, default=LearnScales.rate)
    options = parser.parse_args()
    torch.set_num_threads(1)
    today = datetime.date.today().isoformat()
    for name in options.tasks:
        task = TASKS[name]()
        lines = [
            f"# Scales learned end to end: {task.title}",
            "",
            f"{today}, written by `benchmarks/learning.py`. Relative L2",
            "error on data that nothing was calibrated on; activations static in eight bits.",
            f"{options.steps} steps at a rate of {options.rate:g}, on {HELD_OUT - 1} of every",
            f"{HELD_OUT} batches of the calibration data.",
            "",
        ]
        heads = ("", "W8A8, `Quantize`", "W4A8, simulated", "CPU s to choose for W8A8")
        rows = measure(task, options.steps, options.rate)
        lines += [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
        (RESULTS / f"learning-{name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
