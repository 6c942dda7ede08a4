"""Channels in another order: sorted by size, or as in another model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_models import zoo_model

from regauge.frontend import trace
from regauge.ir import Graph, InputError, Node, SiteError, astype
from regauge.ir.gauge import Region, apply, classes, random_element, transport
from regauge.ir.interpret import execute
from regauge.ir.laws import Kind
from regauge.passes import Align, Context, SortChannels
from regauge.passes.manager import difference


class Net(torch.nn.Module):
    """Two residual blocks of attention and an FFN."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = torch.nn.Linear(8, width)
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                width, 2, 24, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.head = torch.nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def sample(seed: int) -> tuple[Graph, torch.Tensor]:
    torch.manual_seed(seed)
    net = Net().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0))
    return astype(trace(net, (x,)), torch.float64), x.double()


def shuffled(graph: Graph) -> Graph:
    """The same function with the channels of every class in a random order."""
    new = copy.copy(graph).copy()
    generator = torch.Generator().manual_seed(0)
    for site in classes(graph):
        region = transport(new, new[site.value.name], Kind.PERMUTATION, axes=site.axes)
        if isinstance(region, Region):
            apply(new, region, random_element(region, generator))
    return new


def test_a_shuffled_model_is_brought_back() -> None:
    graph, x = sample(0)
    other = shuffled(graph)
    assert difference(execute(other, [x]), execute(graph, [x])) < 1e-12
    changed = [n for n in graph.params if not torch.equal(other.store[n], graph.store[n])]
    assert len(changed) > 10
    aligned, remarks = Align(graph)(other, Context(inputs=[x]))
    assert any(remark.applied for remark in remarks)
    for name in graph.params:
        torch.testing.assert_close(aligned.store[name], graph.store[name], msg=name)


def test_another_model_comes_closer_and_stays_the_same_function() -> None:
    (graph, x), (other, _) = sample(0), sample(1)
    aligned, _ = Align(graph)(other, Context(inputs=[x]))
    assert difference(execute(aligned, [x]), execute(other, [x])) < 1e-12

    def distance(which: Graph) -> float:
        return sum(float((which.store[n] - graph.store[n]).norm()) ** 2 for n in graph.params)

    assert distance(aligned) < 0.97 * distance(other)


def test_models_of_different_architectures_are_refused() -> None:
    graph, x = sample(0)
    other = astype(trace(Net().head.eval(), (torch.randn(2, 16),)), torch.float64)
    with pytest.raises(InputError, match="the models differ"):
        Align(other)(graph, Context(inputs=[x]))


def test_models_of_different_widths_are_refused() -> None:
    graph, x = sample(0)
    other = astype(trace(Net(20).eval(), (torch.randn(3, 7, 8),)), torch.float64)
    with pytest.raises(InputError, match=r"the models differ: .* is f64\[.*\] in one and"):
        Align(other)(graph, Context(inputs=[x]))


def test_channels_are_sorted_within_their_cells() -> None:
    graph, x = sample(0)
    new, remarks = SortChannels()(graph, Context(inputs=[x], calibration=[[x.float()]]))
    assert sum(remark.applied for remark in remarks) >= 3
    assert difference(execute(new, [x]), execute(graph, [x])) < 1e-12
    values: dict[str, torch.Tensor] = {}
    execute(new, [x], tap=lambda node, value: values.__setitem__(node.name, value))
    hidden = [
        values[n.args[0].name] for n in new.nodes if n.op == "linear" and n.args[0].op == "relu"
    ]
    assert len(hidden) == 2
    for value in hidden:
        size = value.abs().amax((0, 1))
        assert bool((size.diff() >= -1e-9).all())


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_channels_of_keys_are_sorted_within_each_head(name: str) -> None:
    """With rotary embeddings the two channels of a pair move together, in all heads alike."""
    zoo = zoo_model(name)
    graph = astype(trace(zoo.model, zoo.args, zoo.kwargs), torch.float64)
    inputs = [*zoo.args, *zoo.kwargs.values()]
    context = Context(inputs=inputs, calibration=[inputs])
    if name == "llama":  # both layers share the angles
        with pytest.raises(SiteError, match="break the tie of cos, sin"):
            SortChannels(keys=True)(graph, context)
    new, remarks = SortChannels(keys=True, untie=True)(graph, context)
    assert sum(remark.applied for remark in remarks) == 2
    assert difference(execute(new, inputs), execute(graph, inputs)) < 1e-9
    seen: list[torch.Tensor] = []

    def tap(node: Node, value: torch.Tensor) -> None:
        if node.op == "scaled_dot_product_attention":
            seen.append(keys[node.args[1]].abs().amax((0, 2)))
        else:
            keys[node] = value

    keys: dict[Node, torch.Tensor] = {}
    execute(new, inputs, tap=tap)
    assert len(seen) == 2
    for size in seen:  # [heads, channels]
        sizes = size.unflatten(-1, (2, -1)).amax((0, 1)) if name == "llama" else size
        assert bool((sizes.diff(dim=-1) >= -1e-6).all()) and sizes.shape[-1] > 2


def trained(seed: int, x: torch.Tensor, labels: torch.Tensor) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(),
        torch.nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return net.eval()


def test_two_trained_nets_can_be_averaged_once_they_are_aligned() -> None:
    """Git Re-Basin's claim: between aligned models the loss hardly rises."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    first, second = (trace(trained(seed, x, labels), (x,)) for seed in (0, 1))
    aligned, _ = Align(first)(second, Context(inputs=[x]))

    def loss(a: Graph, b: Graph) -> float:
        middle = a.copy()
        for name in middle.params:
            middle.store[name] = (a.store[name] + b.store[name]) / 2
        return float(torch.nn.functional.cross_entropy(execute(middle, [x])[0], labels))

    ends = max(loss(first, first), loss(second, second))
    assert loss(first, aligned) - ends < 0.25 * (loss(first, second) - ends)
