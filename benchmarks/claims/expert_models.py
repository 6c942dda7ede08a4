"""What the pages on experts share: a small transformer on handwritten digits whose feed-forward
networks are mixtures of experts, its training, its graph, and its accuracy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import zoo
from torch import nn
from torch.nn import functional as F
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

import regauge as rg
from regauge.ir import Graph
from regauge.ir.interpret import execute
from regauge.passes import Context, Pass

EXPERTS, ACTIVE, WIDTH, HIDDEN, LAYERS, BATCH = 8, 2, 32, 32, 2, 20

_MIXTURE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": ACTIVE,
    "experts_implementation": "grouped_mm",  # which can be traced
}


class _Block(nn.Module):
    """x + attention(norm x), then x + mixture(norm x)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        config = MixtralConfig(**_MIXTURE)
        self.mixture = MixtralSparseMoeBlock(config)
        for param in self.mixture.parameters():
            nn.init.normal_(param, std=WIDTH**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, 2, width // 2)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mixture(self.norm2(x))


class MixtureViT(nn.Module):
    """A pre-LN vision transformer of mixtures, patches of 4 x 4: ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, kernel_size=4, stride=4)
        self.positions = nn.Parameter(torch.randn(1, 16, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(_Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


@dataclass
class Task:
    """The images of some classes."""

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor

    @classmethod
    def of(cls, classes: Collection[int]) -> Task:
        data, own = zoo.digits(), torch.tensor(list(classes))
        train, test = torch.isin(data.train_labels, own), torch.isin(data.test_labels, own)
        return cls(
            data.train[train], data.train_labels[train], data.test[test], data.test_labels[test]
        )

    @property
    def batches(self) -> list[list[torch.Tensor]]:
        """Training images to calibrate on, a batch as large as the graph's."""
        return [[part] for part in self.train[: 12 * BATCH].split(BATCH)]

    def accuracy(self, graph: Graph) -> float:
        count = len(self.test) // BATCH * BATCH
        parts = self.test[:count].split(BATCH)
        with torch.no_grad():
            logits = torch.cat([execute(graph, [part])[0] for part in parts])
        return float((logits.argmax(-1) == self.test_labels[:count]).float().mean())

    def outputs(self, graph: Graph) -> torch.Tensor:
        count = len(self.test) // BATCH * BATCH
        with torch.no_grad():
            return torch.cat([execute(graph, [part])[0] for part in self.test[:count].split(BATCH)])


def trained(model: MixtureViT, task: Task, steps: int, *, rate: float, seed: int) -> None:
    """Train a model further, with a loss that spreads rows over experts (Switch's, 0.01)."""
    torch.manual_seed(seed)
    routed: list[torch.Tensor] = []
    hooks = [
        module.gate.register_forward_hook(lambda _, __, out: routed.append(out[0]))
        for module in model.modules()
        if isinstance(module, MixtralSparseMoeBlock)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        routed.clear()
        batch = torch.randint(len(task.train), (64,))
        loss = F.cross_entropy(model(task.train[batch]), task.train_labels[batch])
        for logits in routed:
            parts = logits.softmax(-1)
            chosen = F.one_hot(logits.topk(ACTIVE).indices, EXPERTS).float().sum(1).mean(0)
            loss = loss + 0.01 * EXPERTS * (parts.mean(0) * chosen).sum() / ACTIVE
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for hook in hooks:
        hook.remove()
    model.eval()


def made(seed: int) -> MixtureViT:
    torch.manual_seed(seed)
    return MixtureViT()


def traced(model: MixtureViT, task: Task) -> Graph:
    return rg.trace(model, (task.train[:BATCH],))


SUBJECT = (
    "A transformer of two layers with mixtures of 8 experts, 2 a row, trained on scikit-learn's "
    "digits"
)


def after(step: Pass, graph: Graph, batches: Sequence[Sequence[Any]]) -> Graph:
    return step(graph, Context(inputs=batches[0], calibration=batches))[0]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
