from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from graphs import filled

from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import Context, Legalize
from regauge.passes.legalization.equal import EQUALS
from regauge.passes.manager import difference

ROWS = (
    "def graph(x: f64[2, 5, 8], *, w: f64[8], b: f64[8]):\n    y: f64[2, 5, 8] = {}\n    return y"
)
NORMED = """
def graph(x: f64[{0}], *, w: f64[3], b: f64[3], m: f64[3], v: f64[3]):
    y: f64[{0}] = batch_norm({1}, training=False, momentum=0.1, eps=0.001, cudnn_enabled=False)
    return y
"""
GROUPS = """
def graph(x: f64[{0}], *, w: f64[6], b: f64[6]):
    y: f64[{0}] = group_norm({1}, num_groups=3, eps=0.001, cudnn_enabled=False)
    return y
"""
LINES = "def graph(x: f64[2, 3, 7]):\n    y = {}\n    return y"
TRANSPOSED = "def graph(x: f64[{}], *, w: f64[{}], b: f64[6]):\n    y = {}\n    return y"
VOLUMES = "def graph(x: f64[2, 3, 4, 5, 6]):\n    y = avg_pool3d(x, {})\n    return y"
IMAGES = "def graph(x: f64[2, 3, 4, 6]):\n    y = {}\n    return y"
STEPS = """
def graph(
    x: f64[5, 2, {0}], h: f64[2, 3], c: f64[2, 3], *, w: f64[{0}, 3], b: f64[{0}]
):
    y: f64[{1}] = {2}
    return y
"""
LSTM, GRU, RNN = (partial(STEPS.format, blocks * 3) for blocks in (4, 3, 1))
TIMES = "5, 2, 3"
STACKS = "def graph(q: f64[2, 4, 5, 8], k: f64[2, 4, 8, 3]):\n    y = {}\n    return y"
HEADS = """
def graph(q: f64[2, 4, 5, 8], k: f64[2, 2, 5, 8], v: f64[2, 2, 5, 8], m: f64[5, 5]):
    y: f64[2, 4, 5, 8] = scaled_dot_product_attention({})
    return y
"""
EVEN = HEADS.replace("2, 2, 5", "2, 4, 5")
FORMS = {
    "silu": ROWS.format("silu(x)"),
    "mish": ROWS.format("mish(x)"),
    "hardsigmoid": ROWS.format("hardsigmoid(x)"),
    "hardswish": ROWS.format("hardswish(x)"),
    "gelu": ROWS.format("gelu(x)"),
    "gelu, by tanh": ROWS.format("gelu(x, approximate='tanh')"),
    "rms_norm": ROWS.format("rms_norm(x, w, normalized_shape=(8,), eps=1e-06)"),
    "rms_norm, without weights": ROWS.format("rms_norm(x, normalized_shape=(8,), eps=0.1)"),
    "layer_norm": ROWS.format("layer_norm(x, w, b, normalized_shape=(8,))"),
    "layer_norm, two axes": ROWS.format("layer_norm(x, normalized_shape=(5, 8), eps=0.1)"),
    "batch_norm": NORMED.format("2, 3, 4, 6", "x, w, b, m, v"),
    "batch_norm, of rows, without weights": NORMED.format("5, 3", "x, None, None, m, v"),
    "group_norm": GROUPS.format("2, 6, 4, 5", "x, w, b"),
    "group_norm, of rows, without a weight": GROUPS.format("5, 6", "x, None, b"),
    "mean": ROWS.format("mean(x, dim=(1,))"),
    "mean of images": IMAGES.format("mean(x, dim=(2, 3))"),
    "mean of images, with their axes": IMAGES.format("mean(x, dim=(-1, -2), keepdim=True)"),
    "mean of all": ROWS.format("mean(x, dim=(0, 1, 2))"),
    "avg_pool1d": LINES.format("avg_pool1d(x, kernel_size=(3,), stride=(2,), padding=(1,))"),
    "avg_pool2d": IMAGES.format(
        "avg_pool2d(x, kernel_size=(3, 4), stride=(2, 3), padding=(1, 2), ceil_mode=True)"
    ),
    "avg_pool2d, of the image alone": IMAGES.format(
        "avg_pool2d(x, kernel_size=(3, 3), stride=(1, 2), padding=(1, 1), ceil_mode=True, "
        "count_include_pad=False)"
    ),
    "avg_pool2d, over a number": IMAGES.format(
        "avg_pool2d(x, kernel_size=(3, 3), stride=(1, 2), padding=(1, 0), divisor_override=5)"
    ),
    "avg_pool3d": VOLUMES.format("kernel_size=(2, 2, 3), padding=(1, 0, 1), ceil_mode=True"),
    "adaptive_avg_pool2d": IMAGES.format("adaptive_avg_pool2d(x, output_size=(2, 3))"),
    "adaptive_avg_pool2d, to one": IMAGES.format("adaptive_avg_pool2d(x, output_size=(1, 2))"),
    "max_pool1d": LINES.format("max_pool1d(x, kernel_size=(3,))"),
    "max_pool1d, padded": LINES.format(
        "max_pool1d(x, kernel_size=(3,), stride=(2,), padding=(1,), ceil_mode=True)"
    ),
    "upsample_nearest2d": IMAGES.format(
        "upsample_nearest2d(x, output_size=(7, 4), scale_factors=None)"
    ),
    "upsample_nearest2d, by factors": IMAGES.format(
        "upsample_nearest2d(x, output_size=None, scale_factors=(1.45, 2.0))"
    ),
    "conv_transpose1d": TRANSPOSED.format(
        "2, 4, 7", "4, 3, 3", "conv_transpose1d(x, w, stride=(2,), padding=(1,), groups=2)"
    ),
    "conv_transpose2d": TRANSPOSED.format(
        "2, 4, 5, 6",
        "4, 6, 3, 4",
        "conv_transpose2d(x, w, b, stride=(2, 3), padding=(1, 2), "
        "output_padding=(1, 0), dilation=(1, 2))",
    ),
    "conv_transpose3d": TRANSPOSED.format(
        "2, 4, 3, 4, 5",
        "4, 6, 2, 2, 2",
        "conv_transpose3d(x, w, b, stride=(2, 1, 2), padding=(1, 0, 1))",
    ),
    "sub": ROWS.format("sub(x, w)"),
    "sub of a number": ROWS.format("sub(x, 0.3)"),
    "sub from a number": ROWS.format("sub(1.0, x)"),
    "div": ROWS.format("div(x, w)"),
    "div by a number": ROWS.format("div(x, 3.0)"),
    "matmul": STACKS.format("matmul(q, k)"),
    "softmax": ROWS.format("softmax(x, dim=1)"),
    "log_softmax": ROWS.format("log_softmax(x, dim=-1)"),
    "scaled_dot_product_attention": EVEN.format("q, k, v"),
    "attention, with a mask": EVEN.format("q, k, v, m"),
    "attention, causal": EVEN.format("q, k, v, is_causal=True, scale=0.3"),
    "attention, grouped": HEADS.format("q, k, v, enable_gqa=True"),
    "lstm_states": LSTM(TIMES, "lstm_states(x, w, b)"),
    "lstm_states, from a state": LSTM(TIMES, "lstm_states(x, w, b, h, c, reverse=True)"),
    "lstm_last_cell": LSTM("2, 3", "lstm_last_cell(x, w, reverse=True)"),
    "lstm_last_cell, from a state": LSTM("2, 3", "lstm_last_cell(x, w, b, h, c)"),
    "gru_states": GRU(TIMES, "gru_states(x, w, b)"),
    "gru_states, without a bias": GRU(TIMES, "gru_states(x, w, reverse=True)"),
    "gru_states, from a state": GRU(TIMES, "gru_states(x, w, b, h, reverse=True)"),
    "rnn_tanh_states": RNN(TIMES, "rnn_tanh_states(x, w, b)"),
    "rnn_relu_states": RNN(TIMES, "rnn_relu_states(x, w, None, h, reverse=True)"),
}


def legal(graph: Graph, *lacks: str, masked: float = -math.inf) -> tuple[Graph, list[str]]:
    new, remarks = Legalize(frozenset(lacks), masked).attempt(graph, Context(inputs=[]))
    new.verify()
    return new, [str(remark) for remark in remarks]


def test_every_equal_is_tried() -> None:
    assert EQUALS.keys() <= {node.op for text in FORMS.values() for node in parse(text).nodes}


@pytest.mark.parametrize("name", FORMS)
def test_the_parts_give_what_the_op_gives(name: str) -> None:
    graph, inputs = filled(FORMS[name])
    before = str(graph)
    (op,) = {node.op for node in graph.nodes}
    new, remarks = legal(graph, op)
    assert str(graph) == before
    left = [node for node in new.nodes if node.op == op]
    assert all("transpose" in op and "padding" not in node.attrs for node in left)
    assert difference(execute(new, inputs), execute(graph, inputs)) < 1e-14
    assert len(remarks) == 1 and f"{op} as " in remarks[0]


@pytest.mark.parametrize("weight", ["w, ", ""])
def test_a_norm_without_a_mean_is_one_of_numbers_and_their_opposites(weight: str) -> None:
    text = ROWS.format(f"rms_norm(x, {weight}normalized_shape=(8,), eps=0.01)")
    graph, inputs = filled(text)
    new, _ = legal(graph, "rms_norm")
    assert "layer_norm" in {node.op for node in new.nodes}
    assert difference(execute(new, inputs), execute(graph, inputs)) < 1e-14
    new, _ = legal(graph, "rms_norm", "mean")
    assert "layer_norm" not in {node.op for node in new.nodes}
    assert difference(execute(new, inputs), execute(graph, inputs)) < 1e-14


def test_means_of_windows_in_the_image_stay() -> None:
    graph, _ = filled(IMAGES.format("avg_pool2d(x, kernel_size=(3, 2), ceil_mode=True)"))
    new, remarks = legal(graph, "avg_pool2d")
    assert [node.op for node in new.nodes] == ["constant_pad_nd", "conv2d", "mul"] and remarks
    graph, _ = filled(IMAGES.format("avg_pool2d(x, kernel_size=(2, 3), ceil_mode=True)"))
    new, remarks = legal(graph, "avg_pool2d")
    assert str(new) == str(graph) and not remarks
    graph, _ = filled(IMAGES.format("adaptive_avg_pool2d(x, output_size=(3, 4))"))
    new, remarks = legal(graph, "adaptive_avg_pool2d")
    assert str(new) == str(graph) and not remarks


@pytest.mark.parametrize(
    "text",
    [
        IMAGES.format("upsample_nearest2d(x, output_size=(8, 6), scale_factors=None)"),
        TRANSPOSED.format("2, 4, 7", "4, 6, 3", "conv_transpose1d(x, w, b, stride=(2,))"),
        TRANSPOSED.format("2, 4, 7", "4, 6, 3", "conv_transpose1d(x, w, b, padding=(1,))"),
    ],
)
def test_what_is_as_simple_already_stays(text: str) -> None:
    graph, _ = filled(text)
    new, remarks = legal(graph, graph.nodes[-1].op)
    assert str(new) == str(graph) and not remarks


def test_what_a_padding_does_not_cut_off_is_named() -> None:
    call = "conv_transpose1d(x, w, b, stride=(3,), padding=(1,), output_padding=(2,))"
    graph, _ = filled(TRANSPOSED.format("2, 4, 7", "4, 6, 3", call))
    _, remarks = legal(graph, "conv_transpose1d")
    assert "it gives more at its end than its padding cuts off" in remarks[0]


def test_what_an_equal_is_made_of_is_legal_too() -> None:
    graph, inputs = filled(FORMS["log_softmax"])
    new, remarks = legal(graph, "log_softmax", "softmax")
    assert {node.op for node in new.nodes} == {"log", "exp", "sub", "amax", "div", "sum"}
    assert len(remarks) == 2
    assert difference(execute(new, inputs), execute(graph, inputs)) < 1e-14


def test_a_finite_mask_is_as_good_as_an_infinite_one() -> None:
    graph, inputs = filled(FORMS["attention, causal"])
    new, _ = legal(graph, "scaled_dot_product_attention", masked=-50.0)
    (choice,) = (node for node in new.nodes if node.op == "where")
    assert choice.args[2] == -50.0
    assert difference(execute(new, inputs), execute(graph, inputs)) < 1e-9


def test_a_given_mask_is_made_finite() -> None:
    graph, inputs = filled(FORMS["attention, with a mask"])
    inputs[3] = torch.where(inputs[3] > 0, 0.0, torch.finfo(torch.float32).min).double()
    inputs[3].fill_diagonal_(0)
    new, _ = legal(graph, "scaled_dot_product_attention", masked=-50.0)
    assert difference(execute(new, inputs), execute(graph, inputs)) < 1e-9


def test_positions_that_vary_in_number_are_masked_as_they_come() -> None:
    graph = parse("""
    def graph(q: f64[b, 4, s, 8], k: f64[b, 4, t, 8], v: f64[b, 4, t, 8]):
        y: f64[b, 4, s, 8] = scaled_dot_product_attention(q, k, v, is_causal=True)
        return y
    """)
    new, _ = legal(graph, "scaled_dot_product_attention")
    assert "scaled_dot_product_attention" not in {node.op for node in new.nodes}
    for batch, queries, keys in ((2, 5, 5), (1, 3, 7)):
        sizes = ((batch, 4, n, 8) for n in (queries, keys, keys))
        inputs = [torch.randn(*size, dtype=torch.float64) for size in sizes]
        assert difference(execute(new, inputs), execute(graph, inputs)) < 1e-14


def test_other_ops_stay() -> None:
    graph, _ = filled(FORMS["silu"])
    new, remarks = legal(graph, "gelu")
    assert [node.op for node in new.nodes] == ["silu"] and not remarks


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ROWS.format("cumsum(x, dim=1)"), "cumsum is not taken by the target: no equal of it"),
        (
            ROWS.format("rms_norm(x, w, normalized_shape=(8,))"),
            "its epsilon is that of the precision it is computed in",
        ),
        (EVEN.format("q, k, v, dropout_p=0.5"), "it drops what it attends to"),
    ],
)
def test_what_has_no_equal_stays_and_is_named(text: str, reason: str) -> None:
    graph, _ = filled(text)
    (op,) = {node.op for node in graph.nodes}
    new, (remark,) = legal(graph, op)
    assert [node.op for node in new.nodes] == [op]
    assert remark.startswith("missed  y: ") and reason in remark


def test_the_steps_of_a_layer_are_written_once() -> None:
    """An LSTM's states and its last cell are two ops on one layer."""
    graph, inputs = filled("""
    def graph(x: f64[5, 2, 12], *, w: f64[12, 3]):
        y: f64[5, 2, 3] = lstm_states(x, w)
        c: f64[2, 3] = lstm_last_cell(x, w)
        return y, c
    """)
    new, _ = legal(graph, "lstm_states", "lstm_last_cell")
    assert sum(node.op == "linear" for node in new.nodes) == 4  # none of the zeros at the start
    for found, wanted in zip(execute(new, inputs), execute(graph, inputs), strict=True):
        torch.testing.assert_close(found, wanted)


def test_steps_whose_number_varies_stay() -> None:
    graph = parse("""
    def graph(x: f64[t, 2, 12], *, w: f64[12, 3]):
        y: f64[t, 2, 3] = lstm_states(x, w)
        return y
    """)
    new, remarks = legal(graph, "lstm_states")
    assert [node.op for node in new.nodes] == ["lstm_states"]
    assert "the number of its steps varies" in remarks[0]
