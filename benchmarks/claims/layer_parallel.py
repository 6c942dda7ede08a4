"""A29, SNLP: blocks of a decoder that are solved for at the same time, by how many at once and by
how many iterations; and what pairs of blocks on one value take."""

from __future__ import annotations

from typing import Any

import torch
import zoo
from base import Figures, Subject, latencies, publish, smollm2

import regauge as rg
from regauge.ir import Graph
from regauge.ir.interpret import execute
from regauge.passes import Context, FoldNormAffine, JoinReaders, MergeEqual, Parallelize
from regauge.passes.manager import difference

SOLVED = (  # chunk, iterations, first block, block after the last
    *((2, k, 0, 30) for k in (1, 2)),
    *((5, k, 0, 30) for k in (1, 2, 3, 5)),
    *((10, k, 0, 30) for k in (1, 2, 4, 7, 10)),
    *((30, k, 0, 30) for k in (1, 2, 4, 8, 16, 24, 30)),
    *((2, 1, start, stop) for start, stop in ((0, 10), (10, 20), (20, 30), (20, 28), (10, 28))),
    *((2, 1, start, start + 2) for start in (0, 10, 20, 26)),
)
TIMED = (0, 30), (10, 28)
TOKENS = (256, 1)
ROUNDS = 15
SAYS = (
    "{subject} (perplexity; the error of its logits, relative L2). Claimed (A29): a language "
    "model's blocks can be solved for at the same time by Newton's iteration with the identity for "
    "a Jacobian, `Parallelize`, from states that are all the chunk's entry; exact after as many "
    "iterations as a chunk has blocks, and close after fewer, 2.3 times as fast and with 6 % less "
    "perplexity in a model of 0.5 B parameters that was trained with a regulariser for it. Nothing "
    "is trained here. *One behind another*: blocks that wait for each other. *Products*: those of "
    "the blocks, without what is exact by then or what no later state reads. Exactness is borne "
    "out, by chunks of 2, 5, 10 and all 30 blocks (which are one behind another then). Convergence "
    "in fewer is not: over all blocks 16 iterations are as good as none, and 24 come to 17.6, but "
    "do 5.6 times the products. Nor does one iteration do for all pairs: the first ten blocks "
    "cannot do without one another, the last two hardly, and in between a pair costs little (17.8 "
    "for blocks 20 and 21) but nine of them take 33, with 21 blocks one behind another. Nor is it "
    "faster on this CPU, on one thread, which has nothing else to run at the same time: float32 on "
    "ONNX Runtime, the least of {rounds} interleaved runs, with maps that read one value joined "
    "into one (of a pair, queries, keys and values; each feed-forward network reads behind its own "
    "block's attention), 256 tokens take {t256} and one token takes {t1}, in brackets with all "
    "pairs and with those of blocks 10 to 27. What processors to spare would win is not shown, nor "
    "is the regulariser, nor HCN."
)


def measure() -> Figures:
    subject = smollm2(4, 4)
    folded = subject.after([FoldNormAffine()])
    wanted, whole = judged(subject, folded)
    rows: list[list[Any]] = [["none", "", "", 30, 1.0, 0.0, whole]]
    for chunk, k, start, stop in SOLVED:
        graph = subject.after([Parallelize(chunk, k, start, stop)], folded)
        found, quality = judged(subject, graph)
        chunks = (stop - start) // chunk
        depth = 30 - chunks * (chunk - k)
        blocks = 30 + chunks * (k * (chunk - k + 1) - chunk)  # what no state depends on is gone
        error = difference([found], [wanted])
        rows.append([f"{start} to {stop - 1}", chunk, k, depth, blocks / 30, error, quality])
        print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title, "rounds": ROUNDS, **times()})


def judged(subject: Subject, graph: Graph) -> tuple[torch.Tensor, float]:
    """The logits of the data that a model is judged by, and the perplexity, in one run."""
    found = list[torch.Tensor]()

    def run(batch: list[Any]) -> torch.Tensor:
        found.append(execute(graph, batch)[0])
        return found[-1]

    with torch.no_grad():
        quality = subject.judge(run)
    return torch.cat(found), quality


def times() -> dict[str, str]:
    """Milliseconds on ONNX Runtime, by tokens, of the model and with pairs fused."""
    model, tokenizer = zoo.smollm2()
    model.config.use_cache = False
    text = zoo.text_windows(tokenizer, 1, max(TOKENS), "evaluation")
    facts = dict[str, str]()
    for tokens in TOKENS:
        ids = text[:, :tokens]
        graph = rg.trace(model, (), {"input_ids": ids})
        pairs = (Parallelize(2, 1, start, stop) for start, stop in TIMED)
        graphs = [fused(graph, ids), *(fused(graph, ids, step) for step in pairs)]
        found = latencies(dict(enumerate(graphs)), [ids], ROUNDS).values()
        values = [f"{1e3 * seconds:.3g}" for seconds in found]
        facts[f"t{tokens}"] = f"{values[0]} ms ({', '.join(values[1:])})"
        print(tokens, facts[f"t{tokens}"], flush=True)
    return facts


def fused(graph: Graph, ids: torch.Tensor, *steps: Parallelize) -> Graph:
    """What reads one value becomes one map, with or without pairs of blocks that do."""
    context = Context(inputs=[ids])
    for step in (FoldNormAffine(), *steps, MergeEqual(), JoinReaders()):
        graph, _ = step.attempt(graph, context)
    return graph


if __name__ == "__main__":
    publish(
        "layer_parallel",
        "Blocks solved for at the same time (A29)",
        SAYS,
        ["blocks", "chunk", "iterations", "one behind another", "products", "error", "perplexity"],
        measure,
    )
