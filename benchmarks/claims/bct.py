"""A98, BCT: all tensors of an encoder as small blocks of integers that share a shift, and all that
is no product of matrices by integer arithmetic (I-BERT's polynomials).

    x ~ 2^k q     one k for each block of neighbours, for weights, tables and every value computed

What an op reads are such codes, what it computes from them are whole numbers, and what it gives is
rounded to codes again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from base import Figures, minilm, publish
from torch.nn.functional import cosine_similarity

from regauge.ir import Graph, Node, astype
from regauge.ir.formats import Format, named, searched
from regauge.ir.interpret import execute

VALUES, WEIGHTS = "int8-g16-pad-e8m0", ("int8-g16-pad-e8m0", "int4-g16-pad-e8m0")
FINEST = 2.0**-10  # step of whole numbers
SAYS = (
    "{subject}. Claimed (A98): all tensors of an encoder in blocks of integers that share a shift, "
    "tables and what softmax, GELU and norms read and give among them, keep the function (cosine "
    "at least 0.99 in eight bits) at an eighth of the size in four. Simulated in float64, in which "
    "products of such codes are exact: blocks are of 16 neighbours on the last axis, shifts of "
    "parameters searched, those of values from their range. GELU, the exponential of softmax and "
    "the root of norms are I-BERT's polynomials and Newton's steps on whole numbers of 15 bits and "
    "a sign, rounded down where integers would be; constants that a compiler would fold into a "
    "multiplier (the units of the polynomials, the weights of norms) multiply as they are. Sizes "
    "are of all parameters with their shifts. Borne out in eight bits, all on integers: the cosine "
    "of windows (means over tokens, what the model is used for) is 0.997 in the mean and 0.996 at "
    "least, that of tokens 0.992. It takes blocks as small as 16: of 32, which was tried before, "
    "the cosine of tokens was 0.987. Polynomials cost little beside the codes of values. Not borne "
    "out in four bits: at a seventh of the size the cosine is 0.88, and that is the matrices "
    "alone; to the nearest, without zero points and with shifts for scales, four bits are too few "
    "for this encoder, which the presets of four bits keep by Hessians. Norms and biases, which "
    "the size hardly shows, have eight bits here."
)


def measure() -> Figures:
    subject = minilm(8, 8)
    graph = astype(subject.graph, torch.float64)  # products of codes are exact in it
    whole = sum(graph.value(param).numel() * 4 for param in graph.params.values())
    rows: list[list[Any]] = []
    wanted = outputs(subject.judge, graph, None)
    for weights in WEIGHTS:
        shapes = [graph.value(param).shape for param in graph.params.values()]
        size = sum(of_parameter(weights, shape).nbytes(shape) for shape in shapes)
        for values, integers in ((None, False), (VALUES, False), (VALUES, True)):
            form = None if values is None else named(values)
            run = Run(graph, weights, form, integers)
            found = outputs(subject.judge, graph, run)
            tokens = cosine_similarity(found, wanted, dim=-1)
            sentences = cosine_similarity(found.mean(1), wanted.mean(1), dim=-1)
            rows.append(
                [
                    weights,
                    values or "float",
                    "integers" if integers else "float",
                    whole / size,
                    float(sentences.mean()),
                    float(sentences.min()),
                    float(tokens.mean()),
                    float((found - wanted).norm() / wanted.norm()),
                ]
            )
            print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title})


def outputs(judge: Callable[[Any], float], graph: Graph, run: Run | None) -> torch.Tensor:
    """The last hidden states of the text to judge by, ``[windows, tokens, n]``."""
    found: list[torch.Tensor] = []

    def forward(batch: list[Any]) -> torch.Tensor:
        tap, read = (None, None) if run is None else (run.tap, run.read)
        value = execute(graph, batch, tap=tap, read=read)[0]
        found.append(value)
        return value

    with torch.no_grad():
        judge(forward)
    return torch.cat(found)


def of_parameter(matrices: str, shape: Sequence[int]) -> Format:
    """The format of a parameter: vectors, of which there are few, have eight bits."""
    return named(matrices if len(shape) > 1 else VALUES)


@dataclass
class Run:
    """One way of computing.

    Attributes:
        weights: The format of matrices.
        values: That of all values; ``None`` for none.
        integers: Whether GELU, softmax and norms are computed on integers.
    """

    graph: Graph
    weights: str
    values: Format | None
    integers: bool
    operands: dict[Node, Any] = field(default_factory=dict[Node, Any])
    params: dict[Node, torch.Tensor] = field(default_factory=dict[Node, torch.Tensor])

    def read(self, reader: Node, used: Node, value: Any) -> Any:
        if used.op == "param":
            if used not in self.params:
                form = of_parameter(self.weights, value.shape)
                self.params[used] = form.quantize(value, searched(form, value)).dequantize()
            value = self.params[used]
        self.operands[used] = value
        return value

    def tap(self, node: Node, value: Any) -> Any:
        operands = [self.operands[arg] for arg in node.args if isinstance(arg, Node)]
        self.operands.clear()
        if self.values is None or not value.is_floating_point():
            return None
        match node.op:
            case "scaled_dot_product_attention":
                value = self.attention(*operands)
            case "gelu" if self.integers:
                value = gelu(*operands)
            case "layer_norm" if self.integers:
                value = layer_norm(*operands)
            case _:
                pass
        return self.code(value)

    def code(self, value: torch.Tensor) -> torch.Tensor:
        """A value as its codes give it back."""
        assert self.values is not None
        return self.values.quantize(value).dequantize()

    def attention(self, query: Any, key: Any, value: Any) -> torch.Tensor:
        """With codes for what softmax reads and gives."""
        assert self.values is not None
        scores = self.code(query @ key.mT / math.sqrt(query.shape[-1]))
        weights = softmax(scores) if self.integers else scores.softmax(-1)
        return self.code(weights) @ value


# -- on whole numbers, kept in float64 -------------------------------------------------------------


def aligned(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as whole numbers of 15 bits and a sign, of one step each: codes shifted to where the
    greatest has its place. Of smaller ones the bits that have none are rounded off."""
    most = value.abs().amax(-1, keepdim=True).clamp(min=FINEST)
    step = torch.exp2(torch.ceil(torch.log2(most)) - 15).clamp(min=FINEST)
    return torch.round(value / step), step


def gelu(value: torch.Tensor) -> torch.Tensor:
    """x (1 + erf(x / sqrt 2)) / 2 with erf(y) = a (min(|y|, -b) + b)^2 + 1 for y > 0."""
    a, b = -0.2888, -1.769
    q, step = aligned(value)
    inner = step / math.sqrt(2)
    unit = a * inner**2  # what erf is counted in
    one = torch.floor(1 / unit)
    erf = (torch.minimum(q.abs(), torch.floor(-b / inner)) + torch.floor(b / inner)) ** 2 + one
    return q * (torch.sign(q) * erf + one) * step * unit / 2


def exponential(q: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """exp of whole numbers q <= 0 of a step, in a unit of their own: 2^-z exp(r), r in (-ln 2, 0],
    with exp(r) = a (r + b)^2 + c."""
    a, b, c = 0.35815147, 1.353, 0.344
    log2 = torch.floor(math.log(2) / step).clamp(min=1)
    shift = torch.floor(-q / log2).clamp(max=30)
    rest = q + shift * log2
    polynomial = (rest + torch.floor(b / step)) ** 2 + torch.floor(c / (a * step**2))
    return torch.floor(polynomial / 2**shift)


def softmax(value: torch.Tensor) -> torch.Tensor:
    """exp(x - max) over its sum, in units of 2^-15."""
    q, step = aligned(value)
    powers = exponential(q - q.amax(-1, keepdim=True), step)
    total = powers.sum(-1, keepdim=True)
    return torch.floor(powers * 2**15 / total) / 2**15


def layer_norm(value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(x - mean) / deviation in units of 2^-10, the root by Newton's steps."""
    q, _ = aligned(value)
    size = q.shape[-1]
    centred = torch.floor((q * size - q.sum(-1, keepdim=True)) / size)
    deviation = root(torch.floor(centred.square().mean(-1, keepdim=True)).clamp(min=1))
    return torch.floor(centred * 2**10 / deviation) / 2**10 * weight + bias


def root(value: torch.Tensor) -> torch.Tensor:
    """The whole part of the square root of numbers from 1, by Newton's steps from above."""
    guess = torch.exp2(torch.ceil(torch.log2(value) / 2))
    while bool(((least := torch.floor((guess + torch.floor(value / guess)) / 2)) < guess).any()):
        guess = torch.minimum(guess, least)
    return guess


if __name__ == "__main__":
    publish(
        "bct",
        "An encoder in blocks of integers with shifts (A98, BCT)",
        SAYS,
        (
            "matrices",
            "values",
            "GELU, softmax, norms",
            "size: float32 is × as large",
            "cosine of windows, mean",
            "least",
            "cosine of tokens, mean",
            "relative L2",
        ),
        measure,
    )
