"""A small diffusion model of handwritten digits: its U-Net, its training, and a sampler for it."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .digits import digits

TIMES = 1000  # steps of the noise; how much is left of an image after each follows a cosine


class _Residual(nn.Module):
    """Two convolutions with the time between them, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class _Attention(nn.Module):
    """Every pixel looks at every other."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
        qkv = self.qkv(tokens).view(batch, -1, 3, self.heads, channels // self.heads)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))  # (B, h, H W, d)
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, -1, channels))
        return x + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class _Stage(nn.Module):
    """A residual block, and an attention behind it where images are small."""

    def __init__(self, inputs: int, outputs: int, time: int, *, attends: bool) -> None:
        super().__init__()
        self.residual = _Residual(inputs, outputs, time)
        self.attention = _Attention(outputs) if attends else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.attention(self.residual(x, time))


class DigitsUNet(nn.Module):
    """The noise in images of 8 x 8 pixels. Two stages at each of two sizes on the way down, three
    on the way up; whatever is made on the way down is read on the way up."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        time, twice = 4 * width, 2 * width
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.enter = nn.Conv2d(1, width, 3, padding=1)

        def stages(outputs: int, *inputs: int, attends: bool) -> nn.ModuleList:
            return nn.ModuleList(_Stage(n, outputs, time, attends=attends) for n in inputs)

        self.down = stages(width, width, width, attends=False)
        self.smaller = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.down_small = stages(twice, width, twice, attends=True)
        self.middle = stages(twice, twice, twice, attends=True)
        self.up_small = stages(twice, 2 * twice, 2 * twice, twice + width, attends=True)
        self.greater = nn.Conv2d(twice, twice, 3, padding=1)
        self.up = stages(width, twice + width, twice, twice, attends=False)
        self.norm, self.leave = nn.GroupNorm(8, width), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        """The noise in images (B, 1, 8, 8), of which so much is noise as after ``times`` (B)."""
        rates = torch.exp(torch.arange(self.width // 2) * (-math.log(TIMES) * 2 / self.width))
        angles = times[:, None].float() * rates
        time = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], 1)))
        x = self.enter(images)
        skips = [x]
        for stage in self.down:
            x = stage(x, time)
            skips.append(x)
        x = self.smaller(x)
        skips.append(x)
        for stage in self.down_small:
            x = stage(x, time)
            skips.append(x)
        for stage in self.middle:
            x = stage(x, time)
        for stage in self.up_small:
            x = stage(torch.cat([x, skips.pop()], 1), time)
        x = self.greater(F.interpolate(x, scale_factor=2.0))
        for stage in self.up:
            x = stage(torch.cat([x, skips.pop()], 1), time)
        return self.leave(F.silu(self.norm(x)))


def kept(times: Tensor) -> Tensor:
    """How much of an image's variance is left after so many steps of noise: a cosine's square."""
    return torch.cos((times.double() / TIMES + 0.008) / 1.008 * math.pi / 2).square().float()


def digits_unet(steps: int = 600, *, seed: int = 0) -> DigitsUNet:
    """A DigitsUNet after `steps` steps of training, about a minute: the mean of its weights over
    the last steps."""
    images = F.avg_pool2d(digits().train, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsUNet()
        mean = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 1))
        for _ in range(steps):
            batch = images[torch.randint(len(images), (64,))]
            times, noise = torch.randint(1, TIMES, (64,)), torch.randn_like(batch)
            left = kept(times)[:, None, None, None]
            noised = left.sqrt() * batch + (1 - left).sqrt() * noise
            loss = F.mse_loss(model(noised, times), noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            mean.update_parameters(model)
    model.load_state_dict(mean.module.state_dict())
    return model.eval().requires_grad_(False)


@torch.no_grad()
def sample_digits(
    model: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    *,
    steps: int = 20,
    watch: Callable[[Tensor, Tensor], None] = lambda images, times: None,
) -> Tensor:
    """Images (B, 1, 8, 8) from noise of that shape: so many steps of DDIM, nothing random in them.

    Args:
        model: Called with images and times (B).
        watch: Called with what the model is called with.
    """
    images = noise
    times = torch.linspace(TIMES - 1, 0, steps + 1).round().long()
    for now, after in itertools.pairwise(times):
        batch = now.expand(len(images)).contiguous()
        watch(images, batch)
        found = model(images, batch)
        left, next_left = kept(now), kept(after)
        clean = ((images - (1 - left).sqrt() * found) / left.sqrt()).clamp(-1, 1)
        found = (images - left.sqrt() * clean) / (1 - left).sqrt()
        images = next_left.sqrt() * clean + (1 - next_left).sqrt() * found
    return images
