"""A31, XQuant: perplexity against bytes of state for keys and values, for what they are made of,
for its latents, and for its differences from layer to layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from base import Figures, publish, smollm2

from regauge.ir import Graph, Node, TensorType
from regauge.ir.interpret import Read, execute
from regauge.passes import FoldNormAffine
from regauge.passes.state.state_codes import Coder, StateFormat

GROUP = 64
BITS = (8, 4, 2)
ATTENTION = "scaled_dot_product_attention"
SAYS = (
    "{subject}. Claim (A31): state kept as the layers' normed input X, from which keys and values "
    "are computed again, bears fewer bits than keys and values do; with grouped queries X is wider "
    "than both together, so its latents X V are kept, with W = U S V^T. Every token is rounded "
    f"once, in groups of {GROUP} channels with a range of their own (float16), as `QuantizeCache` "
    "rounds keys and values; queries read X as it is. Bytes are of one token, in {layers} layers. "
    "Borne out: in as many bytes latents lose 1.0 where keys and values lose 2.2 (four bits), and "
    "44 where those lose 712 (two bits). X as it is gains nothing here, which is why the authors "
    "have latents for grouped queries: at four bits it takes half as many bytes again to lose 1.7. "
    "Differences from layer to layer, the first layer in eight bits, lose least for their bits: "
    "0.2 at four. Two bits are too few for this model in any form; ranges of keys are by token "
    "here, where by channel they would bear more."
)


def measure() -> Figures:
    """Each form of state at each width."""
    subject = smollm2(windows=4, judged=4)
    graph = subject.after([FoldNormAffine(untie=True)])  # so that layers read one kind of value
    made = makers(graph)
    plain = subject.quality(graph)
    layers, wide = len(made) // 2, int(next(iter(made)).args[0].shape[-1])
    narrow = int(graph.value(next(iter(made)).args[1]).shape[0])
    rows: list[list[Any]] = [["none", 32, layers * 2 * narrow * 4, plain]]
    forms: list[tuple[str, Callable[[int], Read], int]] = [
        ("keys and values", lambda bits: keys_and_values(graph, bits), 2 * narrow),
        ("X", lambda bits: inputs(graph, made, bits), wide),
        ("X, layer by layer differences", lambda bits: differences(graph, made, bits), wide),
        ("latents X V", lambda bits: latents(graph, made, bits), 2 * narrow),
    ]
    for name, read, numbers in forms:
        for bits in (16, *BITS) if name == "X" else BITS:
            first = 8 if "differences" in name else bits
            size = of_layer(first, numbers) + (layers - 1) * of_layer(bits, numbers)
            rows.append([name, bits, size, subject.quality(graph, read(bits))])
            print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title, "layers": layers})


def of_layer(bits: int, numbers: int) -> int:
    """Bytes of a token."""
    return int(StateFormat(bits, GROUP, torch.float16).bytes(numbers, 2))


def makers(graph: Graph) -> dict[Node, str]:
    """The linear maps that make keys and values, each with its role, in order."""
    found: dict[Node, str] = {}
    for node in graph.nodes:
        if node.op == ATTENTION:
            found |= {maker(node.args[1]): "keys", maker(node.args[2]): "values"}
    return found


def maker(value: Node) -> Node:
    """The linear map that a value comes from."""
    stack, seen = [value], set[Node]()
    while stack:
        node = stack.pop()
        if node.op == "linear":
            return node
        if node not in seen:
            seen.add(node)
            stack.extend(node.inputs)
    raise LookupError(f"no linear map makes {value}")


@cache
def codec(shape: tuple[int, ...], bits: int) -> Graph:
    """A graph that rounds rows as state is rounded."""
    graph = Graph()
    rows = graph.input("rows", TensorType(torch.float32, shape))
    coder = Coder(graph, StateFormat(bits, GROUP, torch.float16), "x", torch.float32)
    graph.returns(coder.decode(coder.encode(rows, None), None))
    return graph


def kept(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """Rows as state gives them back."""
    return execute(codec(tuple(rows.shape), bits), [rows.contiguous()])[0]


def keys_and_values(graph: Graph, bits: int) -> Read:
    def read(reader: Node, used: Node, value: Any) -> Any:
        if reader.op == ATTENTION and used in reader.args[1:3]:
            return kept(value, bits)
        return value

    return read


def inputs(graph: Graph, made: dict[Node, str], bits: int) -> Read:
    names = {node.name for node in made}

    def read(reader: Node, used: Node, value: Any) -> Any:
        return kept(value, bits) if reader.name in names and used is reader.args[0] else value

    return read


def differences(graph: Graph, made: dict[Node, str], bits: int) -> Read:
    """The first layer's X in eight bits; of each other, its difference from the one before as that
    is given back."""
    names = list(dict.fromkeys(node.name for node in made))
    last: dict[str, Any] = {}

    def read(reader: Node, used: Node, value: Any) -> Any:
        if reader.name not in names or used is not reader.args[0]:
            return value
        if last.get("of") != used.name:
            first = reader.name in names[:2]
            base = 0 if first else last["value"]
            last["value"] = base + kept(value - base, 8 if first else bits)
            last["of"] = used.name
        return last["value"]

    return read


def latents(graph: Graph, made: dict[Node, str], bits: int) -> Read:
    """X in the right singular vectors of each weight, of which it reads nothing else."""
    bases: dict[str, torch.Tensor] = {}
    for node in made:
        weight = graph.value(node.args[1]).double()
        bases[node.name] = torch.linalg.svd(weight, full_matrices=False)[2].float()  # (d_kv, d)

    def read(reader: Node, used: Node, value: Any) -> Any:
        if reader.name not in bases or used is not reader.args[0]:
            return value
        basis = bases[reader.name]
        return kept(value @ basis.T, bits) @ basis

    return read


if __name__ == "__main__":
    publish(
        "xquant",
        "A31, XQuant: the state of a decoder, four ways",
        SAYS,
        ("kept", "bits", "bytes a token", "perplexity"),
        measure,
    )
