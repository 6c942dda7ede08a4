"""What every demonstration of a published method shares: graphs of trained models with data to
calibrate on and other data to judge by, and a page with the figures kept beside it.

A script measures and then writes its page; called with ``--text`` it writes the page again from the
figures of its last run, for a sentence that has changed.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import zoo

import regauge as rg
from regauge.backends.profiles import target
from regauge.ir import Graph, astype
from regauge.ir.interpret import Read, execute
from regauge.passes import Context, Pass
from regauge.passes.manager import difference
from regauge.passes.structure.timing import Stopwatch

RESULTS = Path(__file__).parents[1] / "results" / "claims"
Batches = list[list[torch.Tensor]]


@dataclass
class Subject:
    """A traced model in float32, untouched by any pass.

    Attributes:
        measure: What ``judge`` gives: ``perplexity``, ``error`` (relative L2) or ``accuracy``.
    """

    title: str
    measure: str
    graph: Graph
    calibration: Batches
    judge: Callable[[Callable[[list[Any]], torch.Tensor]], float]

    @property
    def context(self) -> Context:
        inputs, original = self.calibration[0], self.graph
        return Context(inputs=inputs, calibration=self.calibration, original=original)

    def quality(self, graph: Graph, read: Read | None = None) -> float:
        """The measure of a graph, as its ops say, in float32; ``read`` is ``execute``'s."""
        single = astype(graph, torch.float32)
        with torch.no_grad():
            return self.judge(lambda batch: execute(single, batch, read=read)[0])

    def error(self, graph: Graph, read: Read | None = None) -> float:
        """The relative L2 error of a graph's outputs on the data that it is judged by."""
        return difference([self._outputs(graph, read)], [self._outputs(self.graph)])

    def _outputs(self, graph: Graph, read: Read | None = None) -> torch.Tensor:
        single, found = astype(graph, torch.float32), list[torch.Tensor]()

        def run(batch: list[Any]) -> torch.Tensor:
            found.append(execute(single, batch, read=read)[0])
            return found[-1]

        with torch.no_grad():
            self.judge(run)
        return torch.cat(found)

    def after(self, passes: Sequence[Pass], graph: Graph | None = None) -> Graph:
        """A copy on which passes ran, in the dtype it came in."""
        graph = self.graph if graph is None else graph
        for step in passes:
            graph, _ = step.attempt(graph, self.context)
        return graph


def latencies(
    graphs: Mapping[Any, Graph], inputs: Sequence[torch.Tensor], rounds: int
) -> dict[Any, float]:
    """Seconds of processor time of each in float32 on ONNX Runtime, one thread: the least of so
    many rounds, interleaved."""
    times = Stopwatch(target("onnxruntime"), inputs, **least_time(rounds))(list(graphs.values()))
    return dict(zip(graphs, times, strict=True))


def least_time(rounds: int) -> dict[str, Any]:
    """How all these pages time graphs: the least processor time of so many rounds, one thread."""
    return {
        "rounds": rounds,
        "take": min,
        "clock": time.process_time,
        "options": {"threads": 1},
    }


def smollm2(windows: int = 16, judged: int = 16, batch: int = 4) -> Subject:
    """A decoder of 135M parameters: perplexity on windows of 256 tokens of text, calibrated on
    other text, so many windows a batch."""
    model, tokenizer = zoo.smollm2()
    model.config.use_cache = False
    calibration = [
        [ids] for ids in zoo.text_windows(tokenizer, windows, 256, "calibration").split(batch)
    ]
    evaluation = zoo.text_windows(tokenizer, judged, 256, "evaluation")
    graph = rg.trace(model, (), {"input_ids": calibration[0][0]})
    title = (
        f"SmolLM2-135M-Instruct; {windows} windows of 256 tokens of text to calibrate on, "
        f"{judged} of other text"
    )

    def judge(run: Callable[[list[Any]], torch.Tensor]) -> float:
        return zoo.perplexity(lambda ids: run([ids]), evaluation, batch=batch)

    return Subject(title, "perplexity", graph, calibration, judge)


def minilm(windows: int = 32, judged: int = 16) -> Subject:
    """A post-LN encoder of 23M parameters: error of the last hidden state."""
    model, tokenizer = zoo.minilm()
    calibration = [
        [ids] for ids in zoo.text_windows(tokenizer, windows, 128, "calibration").split(8)
    ]
    evaluation = [[ids] for ids in zoo.text_windows(tokenizer, judged, 128, "evaluation").split(8)]
    graph = rg.trace(model, (), {"input_ids": calibration[0][0]})
    title = f"MiniLM; {windows} windows of 128 tokens to calibrate on, {judged} of other text"
    with torch.no_grad():
        wanted = torch.cat([execute(graph, batch)[0] for batch in evaluation])

    def judge(run: Callable[[list[Any]], torch.Tensor]) -> float:
        return difference([torch.cat([run(batch) for batch in evaluation])], [wanted])

    return Subject(title, "error", graph, calibration, judge)


def digits_vit() -> Subject:
    """A pre-LN vision transformer of 203k parameters: accuracy."""
    return of_digits("ViT", zoo.digits_vit())


def digits_resnet() -> Subject:
    """A residual network of 78k parameters: accuracy."""
    return of_digits("ResNet", zoo.digits_resnet())


def of_digits(name: str, model: torch.nn.Module) -> Subject:
    """A classifier of scikit-learn's digits that was trained on them: accuracy."""
    data = zoo.digits()
    calibration = [[part] for part in data.train[:256].split(32)]
    count = len(data.test) // 32 * 32
    graph = rg.trace(model, (calibration[0][0],))

    def judge(run: Callable[[list[Any]], torch.Tensor]) -> float:
        logits = torch.cat([run([part]) for part in data.test[:count].split(32)])
        return float((logits.argmax(-1) == data.test_labels[:count]).float().mean())

    title = f"{name} on scikit-learn's digits; 256 images to calibrate on, {count} others"
    return Subject(title, "accuracy", graph, calibration, judge)


@dataclass
class Figures:
    """What a run measured.

    Attributes:
        rows: Of the table; a float is written with four digits.
        facts: What the sentences of the page say of the run, by name.
        day: Of the run.
    """

    rows: Sequence[Sequence[Any]]
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    day: str = field(default_factory=lambda: datetime.date.today().isoformat())


def publish(
    name: str,
    title: str,
    says: str,
    heads: Sequence[str],
    measure: Callable[[], Figures],
    *,
    script: str | None = None,
) -> None:
    """Measure, keep the figures, write a page of ``benchmarks/results/claims`` and print it.

    Args:
        name: Of the page, without suffix.
        title: Of the page; like ``says``, with ``{names}`` of facts.
        says: What is claimed, of whom (an id of the table of methods), how it was measured, and
            whether the figures bear it out.
        measure: Called unless the script is run with ``--text``.
        script: That calls this, where its name is not that of the page.
    """
    kept = RESULTS / f"{name}.json"
    if "--text" in sys.argv[1:]:
        found = Figures(**json.loads(kept.read_text()))
    else:
        found = measure()
        RESULTS.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")
    table = [heads, ["---"] * len(heads), *([_cell(cell) for cell in row] for row in found.rows)]
    lines = [
        f"# {title.format(**found.facts)}",
        "",
        f"{found.day}, written by `benchmarks/claims/{script or name}.py`. "
        f"{says.format(**found.facts)}",
        "",
        *(f"| {' | '.join(row)} |" for row in table),
    ]
    page = kept.with_suffix(".md")
    page.write_text("\n".join(lines) + "\n")
    print(page.read_text())


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
