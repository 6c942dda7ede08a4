"""A23, Wanda: half of the weights of each layer set to zero, by their size alone and by their size
times the norm of what they read.

    S[i, j] = |W[i, j]| sqrt(mean over tokens of x[j]^2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from base import Figures, Subject, minilm, publish, smollm2

from regauge.ir import Graph, Node
from regauge.ir.blocks import repeated
from regauge.ir.interpret import execute

Masking: TypeAlias = Callable[[torch.Tensor], torch.Tensor]  # scores [O, n] -> what stays, bool
SAYS = (
    "{subjects}. Claimed (A23): of the weights of a row those of least |W| ‖x‖ are worth least, so "
    "that with half of them at zero, none of the others changed, far less is lost than by "
    "magnitude, and the same for two of each four. Linear layers of the blocks, each by what it "
    "reads when those before it have their zeros (the authors prune a block at once); the head "
    "stays. Masks alone: no weight is left out of the file, and nothing runs faster. Borne out: "
    "the decoder's perplexity is 32 where magnitude leaves 269 (and 355 in the authors' baseline, "
    "one threshold a layer), and 91 against 1195 with two of four; the encoder's error is lower by "
    "a third, though half of so small an encoder's weights are not to spare for either."
)


def measure() -> Figures:
    rows: list[list[Any]] = []
    subjects = (smollm2(4, 4), minilm(8, 8))  # one batch of text each
    for subject in subjects:
        name = subject.title.split(";")[0]
        rows.append([name, "none", "", quality(subject, {})])
        ways: list[tuple[str, str, Masking, bool]] = [
            ("half of a layer", "magnitude", half_of_layer, False),
            ("half of each row", "magnitude", half_of_rows, False),
            ("half of each row", "Wanda", half_of_rows, True),
            ("two of each four in a row", "magnitude", two_of_four, False),
            ("two of each four in a row", "Wanda", two_of_four, True),
        ]
        for zeros, score, keep, by_inputs in ways:
            found = quality(subject, pruned(subject, keep, by_inputs))
            rows.append([name, zeros, score, found])
            print(rows[-1], flush=True)
    return Figures(rows, {"subjects": "; ".join(f"{s.title} ({s.measure})" for s in subjects)})


def pruned(subject: Subject, keep: Masking, by_inputs: bool) -> dict[str, torch.Tensor]:
    """The weights of the linear layers of the blocks with zeros, by name: each layer's by what it
    reads when those before it have theirs."""
    graph = subject.graph
    found: dict[str, torch.Tensor] = {}
    inputs: dict[Node, torch.Tensor] = {}
    layers = linear_layers(graph)

    def read(reader: Node, used: Node, value: Any) -> Any:
        if reader not in layers:
            return value
        if used is reader.args[0]:
            inputs[reader] = value
        elif used is reader.args[1]:
            score = value.abs()
            if by_inputs:
                score = score * inputs[reader].flatten(0, -2).square().mean(0).sqrt()
            found[used.name] = value * keep(score)
            return found[used.name]
        return value

    (batch,) = subject.calibration
    with torch.no_grad():
        execute(graph, batch, read=read)
    return found


def linear_layers(graph: Graph) -> set[Node]:
    """Those of the repeated blocks."""
    return {node for block in repeated(graph) for node in block.nodes if node.op == "linear"}


def half_of_layer(score: torch.Tensor) -> torch.Tensor:
    return score > score.flatten().kthvalue(score.numel() // 2).values


def half_of_rows(score: torch.Tensor) -> torch.Tensor:
    return in_each(score, score.shape[-1] // 2)


def two_of_four(score: torch.Tensor) -> torch.Tensor:
    return in_each(score.unflatten(-1, (-1, 4)), 2).flatten(-2)


def in_each(score: torch.Tensor, zeros: int) -> torch.Tensor:
    """All but so many of the least on the last axis."""
    least = score.topk(zeros, largest=False).indices
    return torch.ones_like(score, dtype=torch.bool).scatter_(-1, least, False)


def quality(subject: Subject, params: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        return subject.judge(lambda batch: execute(subject.graph, batch, params=params)[0])


if __name__ == "__main__":
    publish(
        "wanda",
        "Wanda's score: weights times the norms of what they read (A23)",
        SAYS,
        ("model", "zeros", "score", "perplexity or error"),
        measure,
    )
