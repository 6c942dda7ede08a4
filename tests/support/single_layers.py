"""Single layers as models use them, by which each target is held to what its graph says.

That a model compiles for a target says little: some runtimes compute wrongly what they take.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import regauge as rg
from regauge.ir import Node
from regauge.ir.interpret import execute
from regauge.passes.manager import difference


class Layer(nn.Module):
    """A function as a module, with the layers that it uses."""

    def __init__(self, call: Callable[..., torch.Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.call, self.parts = call, nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x, *self.parts)


IMAGE, LINE, ROWS = (1, 8, 10, 10), (1, 8, 16), (1, 12, 16)
Made = Callable[[], nn.Module]


def _of(call: Callable[..., torch.Tensor], *parts: Made) -> Made:
    return lambda: Layer(call, *(part() for part in parts))


def _windows(x: torch.Tensor) -> torch.Tensor:
    return x.view(1, 8, 2, 5, 2, 5).permute(0, 2, 4, 3, 5, 1).reshape(-1, 25, 8)


def _squeezed(x: torch.Tensor, map: nn.Module) -> torch.Tensor:
    return x * torch.sigmoid(map(x.mean((2, 3), keepdim=True)))


LAYERS: dict[str, tuple[Made, tuple[int, ...]]] = {
    "convolution": (lambda: nn.Conv2d(8, 16, 3, 2, 1), IMAGE),
    "convolution, dilated": (lambda: nn.Conv2d(8, 16, 3, padding=2, dilation=2), IMAGE),
    "convolution, in groups": (lambda: nn.Conv2d(8, 16, 3, padding=1, groups=2), IMAGE),
    "convolution, of each channel": (lambda: nn.Conv2d(8, 8, 3, 2, 1, groups=8), IMAGE),
    "convolution, of a line": (lambda: nn.Conv1d(8, 16, 3, padding=1), LINE),
    "transposed convolution": (lambda: nn.ConvTranspose2d(8, 16, 2, 2), IMAGE),
    "transposed convolution, padded": (lambda: nn.ConvTranspose2d(8, 16, 3, 2, 1, 1), IMAGE),
    "transposed convolution, in groups": (
        lambda: nn.ConvTranspose2d(8, 8, 3, 2, 1, groups=4), IMAGE,
    ),
    "transposed convolution, of a line": (lambda: nn.ConvTranspose1d(8, 16, 3, 2, 1, 1), LINE),
    "linear": (lambda: nn.Linear(16, 24), ROWS),
    "max pool": (lambda: nn.MaxPool2d(3, 2, 1), IMAGE),
    "max pool, of a line": (lambda: nn.MaxPool1d(2), LINE),
    "average pool": (lambda: nn.AvgPool2d(2), IMAGE),
    "average pool, padded": (lambda: nn.AvgPool2d(3, 1, 1), IMAGE),
    "average pool, of the image alone": (
        lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE,
    ),
    "average pool, reaching out": (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), IMAGE),
    "average pool, to one": (lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    "mean of an image": (_of(lambda x: x.mean((2, 3))), IMAGE),
    "squeeze and excitation": (_of(_squeezed, lambda: nn.Conv2d(8, 8, 1)), IMAGE),
    "hardtanh": (nn.Hardtanh, IMAGE),
    "clamp": (_of(lambda x: x.clamp(min=0.3)), IMAGE),
    "hardswish": (nn.Hardswish, IMAGE),
    "gelu": (nn.GELU, ROWS),
    "silu": (nn.SiLU, IMAGE),
    "softmax": (lambda: nn.Softmax(-1), ROWS),
    "layer norm": (lambda: nn.LayerNorm(16), ROWS),
    "norm without a mean": (lambda: nn.RMSNorm(16, eps=1e-6), (2, 64, 16)),
    "group norm": (lambda: nn.GroupNorm(2, 8), IMAGE),
    "nearest, twice": (_of(lambda x: F.interpolate(x, scale_factor=2)), IMAGE),
    "nearest, to any size": (_of(lambda x: F.interpolate(x, size=(15, 7))), IMAGE),
    "bilinear": (_of(lambda x: F.interpolate(x, size=(15, 7), mode="bilinear")), IMAGE),
    "replicated edges": (_of(lambda x: F.pad(x, (1, 2), mode="replicate")), LINE),
    "zeros around": (_of(lambda x: F.pad(x, (1, 2, 0, 1))), IMAGE),
    "windows": (_of(_windows), IMAGE),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), IMAGE),
    "attention": (_of(lambda x: F.scaled_dot_product_attention(x, x, x)), ROWS),
}  # fmt: skip


def check_layer(name: str, target: str, passes: str, *, steps: float, far: float) -> None:
    """A layer on a target gives what its graph says.

    Args:
        steps: How many steps of its codes the result may be off.
        far: How far it may be where it is in floating point, relatively.
    """
    make, shape = LAYERS[name]
    torch.manual_seed(sorted(LAYERS).index(name))
    layer, x = make().eval(), torch.randn(shape)
    batches = [x, torch.randn(shape)]
    art = rg.compile(layer, x, passes=passes, calibration=batches, target=target, measure=False)
    found, (wanted,) = art(x), execute(art.graph, [x])
    assert found.shape == wanted.shape
    (end,) = art.graph.outputs
    if isinstance(end, Node) and end.op == "dequantize":
        step = float(art.graph.value(end.args[1]))
        assert float((found - wanted).abs().max()) < (steps + 0.5) * step
    else:
        assert difference((found,), (wanted,)) < far
