"""Whole layers in C for microcontrollers: reductions, norms, resampling, recurrence, tables."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from graphs import feed
from torch import Tensor, nn
from torch.nn import functional as F

import regauge as rg
from regauge.backends import onnxruntime
from regauge.backends.c import lower
from regauge.backends.profiles import TARGETS
from regauge.ir import Graph, TargetError, parse
from regauge.ir.interpret import execute

Make: TypeAlias = Callable[..., Graph]

pytestmark = pytest.mark.skipif(not TARGETS["c"].installed, reason="there is no C compiler")


class Behind(nn.Module):
    """A function of an image as it is given, or behind a convolution, whose channels lie last."""

    def __init__(self, function: Callable[[Tensor], Tensor], last: bool) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(6, 6, 1) if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = make().eval()
    for name, buffer in module.named_parameters():
        nn.init.uniform_(buffer, 0.5 if "weight" in name else -0.5, 1.5)
    return module


LAYERS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "amax": lambda: lambda x: x.amax((2, 3)),
    "amax kept": lambda: lambda x: x.amax((1, 3), keepdim=True),
    "amin": lambda: lambda x: x.amin(1),
    "max of all": lambda: lambda x: x.max(),
    "max along an axis": lambda: lambda x: x.max(2).values,
    "argmax": lambda: lambda x: x.argmax(1),
    "argmax of all": lambda: lambda x: x.argmax(),
    "argmax kept": lambda: lambda x: x.max(1, keepdim=True).indices,
    "sum": lambda: lambda x: x.sum((0, 2)),
    "norm": lambda: lambda x: F.normalize(x, dim=1),
    "std": lambda: lambda x: x.std(1),
    "var": lambda: lambda x: x.var((2, 3), unbiased=False),
    "softmax of channels": lambda: lambda x: F.softmax(x, 1),
    "softmax of rows": lambda: lambda x: F.softmax(x, 2),
    "log_softmax": lambda: lambda x: F.log_softmax(x, 1),
    "adaptive_max_pool to one": lambda: nn.AdaptiveMaxPool2d(1),
    "adaptive_max_pool": lambda: nn.AdaptiveMaxPool2d((3, 5)),
    "adaptive_max_pool of rows": lambda: lambda x: F.adaptive_max_pool1d(x.flatten(2), 7),
    "adaptive_avg_pool": lambda: nn.AdaptiveAvgPool2d((3, 5)),
    "max_pool with places": lambda: lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear by corners": lambda: nn.UpsamplingBilinear2d(size=(11, 5)),
    "bilinear to a size": lambda: nn.Upsample(size=(5, 13), mode="bilinear"),
    "nearest-exact": lambda: nn.Upsample(scale_factor=1.5, mode="nearest-exact"),
    "conv_transpose": lambda: seeded(lambda: nn.ConvTranspose2d(6, 4, 3, 2, 1, 1)),
    "conv_transpose by groups": lambda: seeded(
        lambda: nn.ConvTranspose2d(6, 9, (2, 3), (2, 1), groups=3, dilation=(1, 2), bias=False)
    ),
    "conv_transpose of rows": lambda: Rows(),
    "layer_norm": lambda: seeded(lambda: nn.LayerNorm([9, 8])),
    "rms_norm": lambda: seeded(lambda: nn.RMSNorm(8)),
    "group_norm": lambda: seeded(lambda: nn.GroupNorm(3, 6)),
    "instance_norm": lambda: seeded(lambda: nn.InstanceNorm2d(6, affine=True)),
    "matmul": lambda: lambda x: x @ x.transpose(2, 3),
    "attention": lambda: lambda x: F.scaled_dot_product_attention(x, x, x),
}


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = seeded(lambda: nn.ConvTranspose1d(6, 4, 4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.flatten(2))


@pytest.mark.parametrize("last", [False, True], ids=["", "channels last"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_floats(name: str, last: bool) -> None:
    torch.manual_seed(0)
    net = Behind(LAYERS[name](), last).eval()
    x = torch.randn(2, 6, 9, 8)
    made = rg.compile(net, x, target="c", measure=False)
    found, meant = made(x), net(x)
    assert found.dtype == meant.dtype
    torch.testing.assert_close(found, meant, rtol=2e-5, atol=2e-5)


CELLS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(5, 7, batch_first=True, bidirectional=True),
    "gru": lambda: nn.GRU(5, 7, num_layers=2),
    "rnn": lambda: nn.RNN(5, 7, nonlinearity="relu"),
    "without bias": lambda: nn.GRU(5, 7, bias=False, bidirectional=True),
}


class Recurrent(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, ...]:
        states, last = self.cell(x) if h is None else self.cell(x, h)
        return states, *(last if isinstance(last, tuple) else (last,))


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_layers_step_through_time(name: str) -> None:
    torch.manual_seed(0)
    net, x = Recurrent(CELLS[name]()).eval(), torch.randn(3, 4, 5)
    made = rg.compile(net, x, target="c", measure=False)
    torch.testing.assert_close(made(x), net(x), rtol=1e-5, atol=1e-6)


def test_recurrent_layers_begin_with_a_state() -> None:
    torch.manual_seed(0)
    net = Recurrent(CELLS["gru"]()).eval()
    given = torch.randn(3, 4, 5), torch.randn(2, 4, 7)
    made = rg.compile(net, given, target="c", measure=False)
    torch.testing.assert_close(made(*given), net(*given), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("passes", ["exact", "w8"])
def test_rows_of_a_table(dtype: torch.dtype, passes: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(40, 32), nn.Linear(32, 3)).eval()
    x = torch.tensor([[0, 3, 39, 7]], dtype=dtype)
    made = rg.compile(net, x, passes=passes, target="c", measure=False)
    torch.testing.assert_close(made(x), execute(made.graph, [x])[0], rtol=1e-5, atol=1e-6)


PICKS = ["amax(a, dim=(2, 3))", "amin(a, dim=(1,))", "amax(a, dim=(1,), keepdim=True)",
         "max_pool2d(a, kernel_size=(9, 8))"]  # fmt: skip


@pytest.mark.parametrize("text", PICKS)
def test_the_greatest_code_is_that_of_the_greatest(text: str, graph_of: Make) -> None:
    graph = graph_of(
        "x: f32[2, 6, 9, 8], *, s: f32[], z: u8[], r: f32[], v: u8[]",
        "q = quantize(x, s, z, dtype=u8)",
        "a = dequantize(q, s, z)",
        f"m = {text}",
        "k = quantize(m, r, v, dtype=u8)",
    )
    for name, number in zip("szrv", (0.031, 120, 0.027, 99), strict=True):
        graph.store[name] = torch.tensor(number).to(graph.store.type(name).dtype)
    runner, inputs = lower(graph), feed(graph)
    assert "dequantize" not in runner.model
    (found,) = runner(inputs)
    for same in (onnxruntime.lower(graph, threads=1)(inputs)[0], execute(graph, inputs)[0]):
        assert torch.equal(found, same) and len(found.unique()) > 3


def test_the_place_of_the_greatest_is_read_off_codes(graph_of: Make) -> None:
    graph = graph_of(
        "q: u8[1, 10], *, s: f32[], z: u8[]", "a = dequantize(q, s, z)", "y = argmax(a, dim=1)"
    )
    graph.store["s"], graph.store["z"] = torch.tensor(0.1), torch.tensor(3, dtype=torch.uint8)
    runner = lower(graph)
    assert "argmax_u8(q, y, 1, 10, 1);" in runner.model and "float" not in runner.model
    codes = torch.tensor([[4, 9, 200, 3, 200, 7, 1, 0, 5, 6]], dtype=torch.uint8)
    assert runner([codes])[0].tolist() == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def graph(x: i64[2, 3]):\n    y = add(x, 1)\n    return y",
         "target 'c' has no kernel for add with operands in int64_t\n"
         "  at  y: i64[2, 3] = add(x, 1)\n"
         "  do  write it in another form, or choose target='onnxruntime'"),
        ("def graph(x: f32[2, 3]):\n    y = gt(x, 0.0)\n    return y",
         "target 'c' has no kernel for gt\n  at  y: bool[2, 3] = gt(x, 0.0)\n"
         "  do  write it with other PyTorch functions, or choose target='onnxruntime'"),
        ("def graph(x: bool[2, 3]):\n    y = clone(x)\n    return y",
         "target 'c' computes in float32, uint8 and int8, and x is bool[2, 3]\n"
         "  at  x: bool[2, 3]\n"
         "  do  write it with other PyTorch functions, or choose target='onnxruntime'"),
        ("def graph(x: f32[2, 3, 4]):\n    y = linalg_vector_norm(x, ord=1.0, dim=(1,))\n"
         "    return y",
         "target 'c' has no kernel for linalg_vector_norm with an order that is not 2\n"
         "  at  y: f32[2, 4] = linalg_vector_norm(x, ord=1.0, dim=(1,))\n"
         "  do  write it in another form, or choose target='onnxruntime'"),
    ],
)  # fmt: skip
def test_other_forms_are_errors(text: str, message: str) -> None:
    with pytest.raises(TargetError) as error:
        lower(parse(text))
    assert str(error.value) == message
