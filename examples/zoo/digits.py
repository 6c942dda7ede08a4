"""Handwritten digits, and small networks trained on them: a transformer, three of convolutions."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .packages import require


class Digits(NamedTuple):
    train: Tensor  # (1437, 1, 16, 16), values in [-1, 1]
    train_labels: Tensor
    test: Tensor  # (360, 1, 16, 16)
    test_labels: Tensor


def digits() -> Digits:
    """scikit-learn's handwritten digits, doubled to 16 x 16; always the same split."""
    require("sklearn", "scikit-learn")
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    small = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    images, labels = F.interpolate(small, scale_factor=2.0, mode="bilinear"), torch.tensor(classes)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return Digits(images[train], labels[train], images[test], labels[test])


class _Block(nn.Module):
    """x + attention(norm x), then x + ffn(norm x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, -1)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))  # (B, h, T, d)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class DigitsViT(nn.Module):
    """A pre-LN vision transformer: 4 x 4 patches, a class token, ten classes."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)  # (B, 16, width)
        x = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class _Residual(nn.Module):
    """Two convolutions and a shortcut, which has one of its own where the shape changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A residual network of 78k parameters: a stem, three blocks, the mean, ten classes."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        pairs = ((width, width), (width, 2 * width), (2 * width, 4 * width))
        self.blocks = nn.Sequential(*(_Residual(*pair) for pair in pairs))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(images))), 2)
        return self.head(self.blocks(x).mean((2, 3)))


class DigitsVGG(nn.Module):
    """A VGG of 73k parameters: six convolutions, a pool behind every second, ten classes."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = (1, width, width, 2 * width, 2 * width, 4 * width, 4 * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(*pair, 3, padding=1, bias=False) for pair in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in widths[1:])
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            x = F.max_pool2d(x, 2) if index % 2 else x
        return self.head(x.mean((2, 3)))


class _Inverted(nn.Module):
    """An inverted residual: to a wider one, a depthwise convolution, back to a narrow one."""

    def __init__(self, inputs: int, outputs: int, widen: int) -> None:
        super().__init__()
        stride, hidden = 1 if inputs == outputs else 2, widen * inputs
        self.joins = stride == 1
        self.widen = _convolution(inputs, hidden, 1)
        self.depthwise = _convolution(hidden, hidden, 3, stride, groups=hidden)
        self.narrow = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.narrow(self.depthwise(self.widen(x))))
        return x + y if self.joins else y


class DigitsMobileNet(nn.Module):
    """A MobileNetV2 of 79k parameters: a stem, six inverted residuals, the mean, ten classes."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = _convolution(1, width, 3)
        middle, wide = width * 3 // 2, width * 5 // 2
        self.blocks = nn.Sequential(
            _Inverted(width, width, 1),
            *(_Inverted(width, middle, 6), _Inverted(middle, middle, 6)),
            *(_Inverted(middle, wide, 6), _Inverted(wide, wide, 6), _Inverted(wide, wide, 6)),
        )
        self.last, self.head = _convolution(wide, 4 * wide, 1), nn.Linear(4 * wide, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.stem(images))).mean((2, 3)))


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


def digits_mobilenet(steps: int = 200, *, seed: int = 0) -> DigitsMobileNet:
    """A DigitsMobileNet after `steps` steps of training, half a minute."""
    return _trained(DigitsMobileNet, steps, seed)


def digits_resnet(steps: int = 60, *, seed: int = 0) -> DigitsResNet:
    """A DigitsResNet after `steps` steps of training, a few seconds."""
    return _trained(DigitsResNet, steps, seed)


def digits_vgg(steps: int = 60, *, seed: int = 0) -> DigitsVGG:
    """A DigitsVGG after `steps` steps of training, a few seconds."""
    return _trained(DigitsVGG, steps, seed)


def digits_vit(steps: int = 300, *, seed: int = 0) -> DigitsViT:
    """A DigitsViT after `steps` steps of training."""
    return _trained(DigitsViT, steps, seed)


Model = TypeVar("Model", bound=nn.Module)


def _trained(make: Callable[[], Model], steps: int, seed: int) -> Model:
    """A model after so many steps of training; the caller's random state is left alone."""
    data = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 1))
        for _ in range(steps):
            batch = torch.randint(len(data.train), (64,))
            loss = F.cross_entropy(model(data.train[batch]), data.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)
