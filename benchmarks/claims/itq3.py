"""ITQ3_S (A36): weights of three numbers and of three bits, rounded where a rotation has spread
them."""

from __future__ import annotations

from typing import Any

import torch
from base import Figures, publish, smollm2

from regauge.ir import Graph, Node
from regauge.ir.gauge import weighted
from regauge.ir.interpret import execute
from regauge.passes import Quantize, Rotate

BLOCK = 64  # which divides all that this model's layers read; 256 divides one in seven
FORMS = ("int3", "ternary")
SAYS = (
    "{subject}. Claimed (A36): blocks of weights that a Hadamard matrix turns before they become "
    "ternary or three bits lose next to nothing, as the norm of the error is that of the turned "
    "weights, and turning spreads what stands out. Weights of linear layers in groups of 64, a "
    "scale a group by the least error; what they read is turned by an op, exactly (second row). "
    "Blocks are of 64 too, not of 256: the channels of this model are 576. Borne out in kind, not "
    "in size: the turned weights are 2 to 9 % nearer, and with GPTQ three bits cost 15.9 of "
    "perplexity instead of 16.8. To the nearest they cost more than before, though the weights are "
    "nearer: that is not explained here. Weights of this model are near a normal distribution as "
    "they come, of which the best three numbers leave 0.44, so there is little to spread; and "
    "ternary numbers destroy a model as small as this one, turned or not. The product itself, "
    "with what it reads turned by the kernel that multiplies, is `codegen.Ternary`."
)


def measure() -> Figures:
    subject = smollm2(4, 4)
    graph = subject.graph
    turned = subject.after([Rotate(residual=None, heads=None, inputs=BLOCK)])
    rows: list[list[Any]] = [["float32", subject.quality(graph), 0.0]]
    rows.append(["float32, turned", subject.quality(turned), 0.0])
    for form in FORMS:
        for rounding in ("nearest", "gptq"):
            for name, exact in (("", graph), (", turned", turned)):
                step = Quantize(
                    None, f"{form}-g{BLOCK}", rounding, correct_bias=False, embeddings=False
                )
                found = subject.after([step], exact)
                way = f"{form}, {rounding}{name}"
                rows.append(
                    [way, subject.quality(found), spread(exact, found, subject.calibration[0])]
                )
                print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title})


def spread(exact: Graph, rounded: Graph, batch: list[torch.Tensor]) -> float:
    """The relative error of all weights that became codes, together."""
    made: dict[str, torch.Tensor] = {}

    def keep(node: Node, value: torch.Tensor) -> None:
        if node.op == "decode":
            made[node.name] = value

    with torch.no_grad():
        execute(rounded, batch, tap=keep)
    off = size = 0.0
    for node in exact.nodes:
        if weighted(node) and (found := made.get(rounded[node.name].args[1].name)) is not None:
            value = exact.value(node.args[1])
            off += float((found - value).square().sum())
            size += float(value.square().sum())
    return (off / size) ** 0.5


if __name__ == "__main__":
    publish(
        "itq3",
        "Ternary weights in the domain of a rotation (A36, ITQ3_S)",
        SAYS,
        ("", "perplexity", "error of weights"),
        measure,
    )
