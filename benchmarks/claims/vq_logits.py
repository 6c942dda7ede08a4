"""A73, VQ-Logits: the rows of a decoder's output head clustered, how ties between the tokens of a
cluster are broken, what codes and biases learn in a few hundred steps, and what the head takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import zoo
from base import Figures, Subject, latencies, publish, smollm2
from torch.nn import functional as F

import regauge as rg
from regauge.ir import Graph, Node
from regauge.ir.interpret import values_of
from regauge.passes import ClusterOutputs
from regauge.passes.structure.costs import Costs

ITERATIONS = 4
WINDOWS, STEPS, RATE = 48, 300, 1e-2  # to learn from; a window a step
TOKENS, ROUNDS = (1, 256), 20
WAYS = {  # and whether its codes learn
    ClusterOutputs(4096, "none", iterations=ITERATIONS): False,
    ClusterOutputs(4096, "mean", iterations=ITERATIONS): False,
    ClusterOutputs(4096, "distribution", iterations=ITERATIONS): True,
    ClusterOutputs(4096, "distribution", likely=True, iterations=ITERATIONS): True,
    ClusterOutputs(16384, "none", iterations=ITERATIONS): False,
    ClusterOutputs(16384, "distribution", iterations=ITERATIONS): False,
    ClusterOutputs(16384, "distribution", likely=True, iterations=ITERATIONS): True,
}
SAYS = (
    "{subject} (perplexity). Claimed (A73): with 99 % of a head's parameters gone, trained anew, "
    "perplexity rises by 4 %, and logits are 6 times as fast. Here the rows of the head become the "
    "means of clusters, and a bias for each token breaks the ties within one (none; what is lost "
    "of the mean logit; or such that each token is as probable on average as it was). Likely: "
    "tokens count in the clusters by their mean probability. The head is tied to the embedding, so "
    "its parameters stay and the codes come on top; products are those of the head. *Taught*: "
    "codes and biases alone learn the dense head's distributions, {steps} steps of a window, from "
    "{windows} windows of the text to calibrate on. What counts is that likely tokens have "
    "clusters of their own: with 4,096 codes, a twelfth of the products, perplexity is 29.9 where "
    "it is 165 with all tokens alike, and with 16,384, a third, 19.7 where it is 61.5. Learning "
    "does not make up for clusters that do not know what is likely (103), and brings the others to "
    "26.6 and 19.1, which is 52 % and 9 % more than dense: so the 4 % are not borne out by a few "
    "hundred steps that leave clusters and the model as they are. The head alone, float32 on ONNX "
    "Runtime, one thread, the least of {rounds} interleaved runs, dense, with 4,096 and with "
    "16,384 codes: {t1} ms for one token, 6.0 and 2.4 times as fast, as claimed, and {t256} ms for "
    "256, where the look-up and the bias of 49,152 logits a token take what the products save."
)


def measure() -> Figures:
    subject = smollm2(8, 4)
    teacher = Teacher.of(subject)
    whole = subject.quality(subject.graph)
    rows: list[list[Any]] = [["dense", "", "", 1.0, 0.0, whole, ""]]
    inputs = subject.calibration[0]
    head = Costs(subject.graph, [], inputs).of([subject.graph.nodes[-1]])
    heads: dict[str, torch.nn.Module] = {"dense": Dense(teacher.weight)}
    for step, learns in WAYS.items():
        graph, remarks = step.attempt(subject.graph, subject.context)
        saved = Costs(subject.graph, [], inputs).macs() - Costs(graph, [], inputs).macs()
        lost = next(r.data["lost"] for r in remarks if r.applied)
        likely = "likely" if step.likely else "alike"
        row = [f"{step.codes:,}", likely, step.bias, 1 - saved / head, lost]
        row += [subject.quality(graph), ""]
        if learns:
            found = Clustered.of(graph)
            heads[f"{step.codes:,}"] = found
            teacher.teach(found)
            found.write(graph)
            row[-1] = subject.quality(graph)
        rows.append(row)
        print(rows[-1], flush=True)
    facts = {"subject": subject.title, "windows": WINDOWS, "steps": STEPS, "rounds": ROUNDS}
    return Figures(rows, facts | times(heads, teacher))


class Dense(torch.nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


class Clustered(torch.nn.Module):
    """What ``ClusterOutputs`` writes, as a module."""

    def __init__(self, codes: torch.Tensor, code_of: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.codes, self.bias = torch.nn.Parameter(codes), torch.nn.Parameter(bias)
        self.register_buffer("code_of", code_of)

    @classmethod
    def of(cls, graph: Graph) -> Clustered:
        return cls(*(graph.value(param).clone() for param in _params(graph)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.codes).index_select(-1, self.get_buffer("code_of")) + self.bias

    def write(self, graph: Graph) -> None:
        codes, _, bias = _params(graph)
        graph.store[codes.name] = self.codes.detach()
        graph.store[bias.name] = self.bias.detach()


def _params(graph: Graph) -> list[Node]:
    """The codes, which one is whose, and the bias of the head that a graph ends with."""
    bias = graph.nodes[-1]
    order = bias.args[0]
    return [order.args[0].args[1], order.args[1], bias.args[1]]


@dataclass
class Teacher:
    """What the head reads on text to learn from, ``[windows, tokens, n]``, and its weight."""

    rows: torch.Tensor
    weight: torch.Tensor

    @classmethod
    def of(cls, subject: Subject) -> Teacher:
        head = subject.graph.nodes[-1]
        text = zoo.text_windows(zoo.smollm2()[1], WINDOWS, 256, "calibration")
        parts = [values_of(subject.graph, [ids], [head.args[0]])[0] for ids in text.split(4)]
        return cls(torch.cat(parts), subject.graph.value(head.args[1]))

    def teach(self, head: Clustered) -> None:
        """Codes and biases learn the distributions of the dense head (divergence, Adam, the rate
        of codes as a part of their root mean square, falling as a cosine)."""
        scale = float(head.codes.detach().square().mean().sqrt())
        rates = [(head.codes, RATE * scale), (head.bias, RATE)]
        optimizer = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in rates])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        generator = torch.Generator().manual_seed(0)
        order = [torch.randperm(WINDOWS, generator=generator) for _ in range(STEPS // WINDOWS + 1)]
        for window in torch.cat(order)[:STEPS]:
            rows = self.rows[window]
            wanted = F.linear(rows, self.weight).log_softmax(-1)
            loss = F.kl_div(
                head(rows).log_softmax(-1), wanted, reduction="batchmean", log_target=True
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def times(heads: dict[str, torch.nn.Module], teacher: Teacher) -> dict[str, str]:
    """Milliseconds of the heads alone."""
    facts: dict[str, str] = {}
    for tokens in TOKENS:
        rows = teacher.rows[:1, :tokens]
        graphs = {name: rg.trace(head.eval(), (rows,)) for name, head in heads.items()}
        found = latencies(graphs, [rows], ROUNDS)
        facts[f"t{tokens}"] = ", ".join(f"{1e3 * seconds:.3g}" for seconds in found.values())
        print(tokens, facts[f"t{tokens}"], flush=True)
    return facts


if __name__ == "__main__":
    publish(
        "vq_logits",
        "Output heads of clustered rows (A73)",
        SAYS,
        [
            "codes",
            "tokens count",
            "ties broken by",
            "products",
            "power lost",
            "perplexity",
            "taught",
        ],
        measure,
    )
