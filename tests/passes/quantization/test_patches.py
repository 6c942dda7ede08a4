from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import fill
from torch.nn import functional as F

from regauge.ir import Graph, Node, parse
from regauge.ir.codes import in_kernel_order
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize
from regauge.passes.manager import difference
from regauge.passes.quantization.patches import MOST_COLUMNS, ROWS_PER_COLUMN, Patches


def convolution(x: str, w: str, y: str, attrs: str = "") -> Graph:
    op = f"conv{w.count(',') - 1}d"
    head = f"def graph(x: f32[{x}], *, w: f32[{w}]):"
    return parse(f"{head}\n    y: f32[{y}] = {op}(x, w{attrs})\n    return y")


CASES: list[Any] = [
    pytest.param(("2, 3, 9", "5, 3, 2", "2, 5, 8"), {}, id="one axis"),
    pytest.param(("3, 9", "5, 3, 2", "5, 8"), {}, id="no batch"),
    pytest.param(
        ("2, 3, 9, 8", "5, 3, 3, 2", "2, 5, 5, 5"),
        {"stride": (2, 2), "padding": (1, 2), "dilation": (1, 2)},
        id="two axes, strides, padding and dilation",
    ),
    pytest.param(("2, 3, 6, 7", "5, 3, 3, 3", "2, 5, 6, 7"), {"padding": "same"}, id="same"),
    pytest.param(("2, 3, 6, 7", "5, 3, 3, 3", "2, 5, 4, 5"), {"padding": "valid"}, id="valid"),
    pytest.param(("2, 3, 4, 5, 6", "5, 3, 2, 3, 1", "2, 5, 3, 3, 6"), {}, id="three axes"),
]


@pytest.mark.parametrize(("shapes", "attrs"), CASES)
def test_a_convolution_is_a_linear_map_of_its_patches(
    shapes: tuple[str, str, str], attrs: dict[str, Any]
) -> None:
    text = "".join(f", {name}={value!r}" for name, value in attrs.items())
    node = convolution(*shapes, text)["y"]
    generator = torch.Generator().manual_seed(0)
    x, w = (
        torch.randn([int(n) for n in used.shape], generator=generator, dtype=torch.float64)
        for used in (node.args[0], node.args[1])
    )
    patches = Patches.of(node)
    assert patches is not None
    y = getattr(F, node.op)(x, w, **attrs)
    channels = y.dim() - (w.dim() - 1)
    wanted = y.movedim(channels, -1).reshape(-1, len(w))
    torch.testing.assert_close(patches.rows(x, 1) @ in_kernel_order(w).T, wanted)


def test_no_more_positions_are_taken_than_suffice() -> None:
    patches = Patches.of(convolution("1, 2, 999", "4, 2, 3", "1, 4, 997")["y"])
    assert patches is not None
    x = torch.arange(2 * 999.0).view(1, 2, 999)
    rows = patches.rows(x, 4)
    assert rows.shape == (ROWS_PER_COLUMN * 6 // 4, 6)
    assert rows[0].tolist() == [0, 999, 1, 1000, 2, 1001]  # by position, then by channel
    assert rows[-1, -1] == x[0, 1, -1]


@pytest.mark.parametrize(
    "shapes",
    [
        ("1, 4, 9", "4, 1, 3", "1, 4, 7", ", groups=4"),
        (f"1, {MOST_COLUMNS}, 9", f"4, {MOST_COLUMNS}, 2", "1, 4, 8", ""),
    ],
    ids=["groups", "too many columns"],
)
def test_other_convolutions_have_none(shapes: tuple[str, str, str, str]) -> None:
    assert Patches.of(convolution(*shapes)["y"]) is None


TEXT = """
def graph(x: f32[4, 16, 12, 12], *, w: f32[32, 16, 3, 3], c: f32[32], u: f32[8, 32, 3, 3]):
    y: f32[4, 32, 12, 12] = conv2d(x, w, c, padding=(1, 1))
    g: f32[4, 32, 12, 12] = gelu(y)
    z: f32[4, 8, 10, 10] = conv2d(g, u)
    return z
"""


def correlated() -> tuple[Graph, list[torch.Tensor]]:
    """Pictures whose neighbours, in space and across channels, are alike; and other ones."""
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    mix = torch.randn(16, 3, generator=generator)
    found: list[torch.Tensor] = []
    for _ in range(3):
        small = torch.randn(4, 3, 3, 3, generator=generator)
        smooth = F.interpolate(small, size=(12, 12), mode="bilinear")
        noise = torch.randn(4, 16, 12, 12, generator=generator) / 8
        found.append(torch.einsum("oi,bihw->bohw", mix, smooth) + noise + 1)
    return graph, found


@pytest.mark.parametrize("activations", ["static", None])
@pytest.mark.parametrize("closed", [False, True], ids=["codes", "floats"])
def test_convolutions_are_rounded_by_what_they_read(activations: str | None, closed: bool) -> None:
    graph, (*seen, other) = correlated()
    batches = [[x] for x in seen]
    context = Context(inputs=batches[0], calibration=batches, closed_convolutions=closed)

    def error(rounding: str) -> float:
        new, _ = Quantize(activations, rounding=rounding)(graph, context)
        assert {node.args[1].op for node in convolutions(new)} == {"dequantize"}
        return difference(execute(new, [other]), execute(graph, [other]))

    # What is read in codes errs by those too.
    assert error("gptq") < (0.9 if activations and not closed else 0.6) * error("nearest")


def convolutions(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "conv2d"]


def test_what_several_convolutions_of_floats_read_is_stored_once() -> None:
    graph = parse(
        """
        def graph(x: f32[1, 16, 9], *, w: f32[16, 16, 5]):
            y: f32[1, 16, 5] = conv1d(x, w)
            g: f32[1, 16, 5] = gelu(y)
            z: f32[1, 16, 1] = conv1d(g, w)
            return z
        """
    )
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    x = torch.randn(1, 16, 9, generator=generator)
    context = Context(inputs=[x], calibration=[[x]], closed_convolutions=True)
    new, remarks = Quantize("static", least=1)(graph, context)
    assert {node.args[1].name for node in new.nodes if node.op == "conv1d"} == {"w_value"}
    assert all(remark.applied for remark in remarks)


def test_small_convolutions_of_floats_stay() -> None:
    graph, (*seen, _) = correlated()
    context = Context(inputs=[seen[0]], calibration=[[seen[0]]], closed_convolutions=True)
    new, remarks = Quantize("static", least=4000)(graph, context)
    assert [node.args[1].op for node in convolutions(new)] == ["dequantize", "param"]
    assert [r.text for r in remarks if not r.applied] == ["u has only 2304 elements"]
