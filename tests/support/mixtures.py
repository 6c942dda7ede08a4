"""Mixtures of experts written by hand, in the ways in which people write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Loop(nn.Module):
    """Layers of each expert's own, weighted where its number was chosen."""

    def __init__(self, experts: int = 4, width: int = 6, hidden: int = 8, active: int = 2) -> None:
        super().__init__()
        self.active, self.router = active, nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
            for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        weights, numbers = self.router(x).softmax(-1).topk(self.active)
        weights, out = weights / weights.sum(-1, keepdim=True), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            out = out + (weights * (numbers == number)).sum(-1, keepdim=True) * expert(x)
        return x + out


class Scattered(Loop):
    """The same, by a matrix of weights of which most are zero."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x).softmax(-1)
        weights, numbers = scores.topk(self.active)
        dense = torch.zeros_like(scores).scatter(-1, numbers, weights)
        return x + sum(dense[..., e : e + 1] * f(x) for e, f in enumerate(self.experts))


class Stacked(Loop):
    """The same, with all results put together."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x).softmax(-1)
        weights, numbers = scores.topk(self.active)
        dense = torch.zeros_like(scores).scatter(-1, numbers, weights)
        results = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return x + (dense[..., None] * results).sum(-2)


class Masked(Loop):
    """Weights where a number was chosen, and nothing elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        weights, numbers = self.router(x).softmax(-1).topk(self.active)
        given = [
            weights.masked_fill(numbers != e, 0.0).sum(-1, keepdim=True)
            for e in range(len(self.experts))
        ]
        return x + sum(f(x) * w for w, f in zip(given, self.experts, strict=True))


class Joined(Loop):
    """All results put together, and weighted by marks."""

    def forward(self, x: Tensor) -> Tensor:
        weights, numbers = self.router(x).softmax(-1).topk(self.active)
        marks = F.one_hot(numbers, len(self.experts)) * weights[..., None]
        results = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return x + (marks.sum(-2)[..., None] * results).sum(-2)


class Dense(nn.Module):
    """All experts at once, in einsum's notation."""

    def __init__(self, experts: int = 4, width: int = 6, hidden: int = 8, active: int = 2) -> None:
        super().__init__()
        self.active, self.count = active, experts
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.randn(experts, width, hidden))
        self.bias = nn.Parameter(torch.randn(experts, hidden))
        self.down = nn.Parameter(torch.randn(experts, hidden, width))

    def weights(self, x: Tensor) -> Tensor:
        chosen, numbers = self.router(x).topk(self.active)
        marks = F.one_hot(numbers, self.count).to(x.dtype)
        return (marks * chosen.softmax(-1)[..., None]).sum(-2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(torch.einsum("nd,edh->neh", x, self.up) + self.bias)
        return x + torch.einsum("neh,ehd,ne->nd", hidden, self.down, self.weights(x))


class Soft(Dense):
    """All experts, each with its part of one."""

    def weights(self, x: Tensor) -> Tensor:
        return self.router(x).softmax(-1)


class Compared(Dense):
    """Weights found by comparing the numbers chosen with all."""

    def weights(self, x: Tensor) -> Tensor:
        chosen, numbers = self.router(x).softmax(-1).topk(self.active)
        return (chosen[..., None] * (numbers[..., None] == torch.arange(self.count))).sum(-2)


class Repeated(Dense):
    """Each expert its own copy of all rows, weighted before it reads them."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.repeat(self.count, 1) * self.weights(x).T.reshape(-1, 1)
        hidden = F.gelu(torch.bmm(rows.view(self.count, -1, x.shape[-1]), self.up))
        return x + torch.bmm(hidden, self.down).sum(0)


class Looked(Dense):
    """One expert a row, its matrices looked up."""

    def forward(self, x: Tensor) -> Tensor:
        weight, number = self.router(x).softmax(-1).max(-1)
        hidden = F.gelu(torch.bmm(x[:, None], self.up[number]) + self.bias[number][:, None])
        return x + weight[:, None] * torch.bmm(hidden, self.down[number])[:, 0]


class Near(Dense):
    """Those whose scores come near the highest, by a bound that is computed."""

    def weights(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        best = scores.max(-1, keepdim=True).values
        apart = (best - scores) / scores.abs().clamp(min=best)
        return scores.masked_fill(apart > 0.9, -torch.inf).softmax(-1)


class Chosen(Dense):
    """The highest, and then the highest of the others, each with its part of what was left."""

    def weights(self, x: Tensor) -> Tensor:
        scores, parts = self.router(x), list[Tensor]()
        for _ in range(self.active):
            number = scores.argmax(-1, keepdim=True)
            part = scores.softmax(-1).gather(-1, number)
            parts.append(F.one_hot(number[..., 0], self.count) * part)
            scores = scores.scatter(-1, number, -torch.inf)
        return torch.stack(parts).sum(0)


class Averaged(Dense):
    """Counts its experts: the weights are less their mean."""

    def weights(self, x: Tensor) -> Tensor:
        scores = self.router(x).softmax(-1)
        return scores - scores.mean(-1, keepdim=True)


class Told(nn.Module):
    """Gives the router's scores back beside its result."""

    def __init__(self) -> None:
        super().__init__()
        self.mixture = Dense()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mixture(x), self.mixture.router(x)


BY_HAND = (
    Loop,
    Masked,
    Scattered,
    Stacked,
    Joined,
    Dense,
    Soft,
    Compared,
    Repeated,
    Looked,
    Near,
    Chosen,
)
