"""A45: keys in blocks that share an exponent, with their channels in the order of their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from base import Figures, publish, smollm2

from regauge.ir import Graph, Node, astype
from regauge.ir.formats import Format, named
from regauge.ir.interpret import Read, execute
from regauge.passes import SortChannels

ATTENTION = "scaled_dot_product_attention"
FORMATS = ("bfp4-b16", "bfp6-b16")
SAYS = (
    "{subject}. Claim (A45): sorted by magnitude, the channels of keys share blocks of one "
    "exponent with their like, and block floating point loses less. Rotary embeddings turn pairs "
    "of channels by angles that heads share, so weights can take up only an order of pairs, one "
    "for a layer (`SortChannels(keys=True, untie=True)`, exact); any order can be made after the "
    "rotation, by moving keys and queries as they come. MSE is relative to the mean square of "
    "keys, on calibration windows. Borne out for the error of keys, which an order of pairs lowers "
    "by 2 % and a free one by 14 %, at both widths. Not for perplexity: at four bits it falls by "
    "0.3 with the one and rises by 0.3 with the other, at six bits it stays within 0.1. What is "
    "spared in channels of small keys may count little in the products."
)


def measure() -> Figures:
    """Keys in each format and order."""
    subject = smollm2(windows=4, judged=4)
    graph = subject.graph
    by_pairs = subject.after([SortChannels(keys=True, untie=True)])
    orders = sorted_channels(graph, subject.calibration)
    rows: list[list[Any]] = [["none", "float32", 0.0, subject.quality(graph)]]
    ways: list[tuple[str, Graph, Mapping[str, torch.Tensor]]] = [
        ("as they are", graph, {}),
        ("pairs sorted, in the weights", by_pairs, {}),
        ("channels sorted, after the rotation", graph, orders),
    ]
    for name in FORMATS:
        for way, which, order in ways:
            form = named(name)
            error = relative_error(which, subject.calibration[-1], form, order)
            found = subject.quality(which, keys_in(form, order))
            rows.append([way, name, error, found])
            print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title})


def sorted_channels(graph: Graph, batches: list[list[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """For the keys of each attention, the order of each head's channels ``[heads, channels]``."""
    size: dict[str, torch.Tensor] = {}
    wanted = {node.args[1].name for node in graph.nodes if node.op == ATTENTION}

    def tap(node: Node, value: torch.Tensor) -> None:
        if node.name in wanted:
            seen = value.abs().amax((0, 2))
            size[node.name] = torch.maximum(seen, size.get(node.name, seen))

    single = astype(graph, torch.float32)
    with torch.no_grad():
        for batch in batches:
            execute(single, batch, tap=tap)
    return {name: seen.argsort(-1) for name, seen in size.items()}


def rounded(keys: torch.Tensor, form: Format, order: torch.Tensor | None) -> torch.Tensor:
    """Keys ``[batch, heads, tokens, channels]`` as the format gives them back."""
    if order is None:
        return form.quantize(keys).dequantize()
    index = order[None, :, None, :].expand_as(keys)
    moved = form.quantize(keys.gather(-1, index)).dequantize()
    return torch.empty_like(keys).scatter_(-1, index, moved)


def keys_in(form: Format, order: Mapping[str, torch.Tensor]) -> Read:
    def read(reader: Node, used: Node, value: Any) -> Any:
        if reader.op == ATTENTION and used is reader.args[1]:
            return rounded(value, form, order.get(used.name))
        return value

    return read


def relative_error(
    graph: Graph, batch: list[torch.Tensor], form: Format, order: Mapping[str, torch.Tensor]
) -> float:
    """Mean over layers of the squared error of keys, by their mean square."""
    found: list[float] = []
    wanted = {node.args[1].name for node in graph.nodes if node.op == ATTENTION}

    def tap(node: Node, value: torch.Tensor) -> None:
        if node.name in wanted:
            change = rounded(value, form, order.get(node.name)) - value
            found.append(float(change.square().mean() / value.square().mean()))

    with torch.no_grad():
        execute(astype(graph, torch.float32), batch, tap=tap)
    return sum(found) / len(found)


if __name__ == "__main__":
    publish(
        "bfp_rearrange",
        "A45: keys of a decoder in block floating point, in the order of their sizes",
        SAYS,
        ("order", "format of keys", "relative MSE", "perplexity"),
        measure,
    )
