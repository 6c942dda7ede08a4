"""A graph as an ``nn.Module`` of plain PyTorch calls, which ``torch.export`` takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from . import ops
from .graph import Graph, Node, substitute


def to_module(graph: Graph) -> torch.nn.Module:
    """The graph as a module with the model's calling convention; weights are shared, not copied."""
    root = torch.nn.Module()
    new = fx.Graph()
    made: dict[Node, fx.Node] = {}
    for node in graph.inputs:
        made[node] = new.placeholder(node.name)
    for name, node in graph.params.items():
        tensor, place = graph.store[name], name
        while hasattr(root, place):  # a parameter may be called as a method is: to, type
            place += "_"
        if tensor.is_floating_point():
            root.register_parameter(place, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            root.register_buffer(place, tensor)
        made[node] = new.get_attr(place)
    for node in graph.nodes:
        op = ops.get(node.op)
        kwargs = {**op.bind(node.args), **node.attrs}
        plain = {key: substitute(value, made.__getitem__) for key, value in kwargs.items()}
        made[node] = op.emit(new, plain)
        made[node].name = node.name
        made[node].meta["where"] = node.where
    new.output(substitute(graph.outputs, made.__getitem__))
    return GraphModule(fx.GraphModule(root, new), graph.in_spec, graph.out_spec)


class GraphModule(torch.nn.Module):
    """Calls the flat module inside as the original model was called."""

    def __init__(
        self,
        flat: fx.GraphModule,
        in_spec: pytree.TreeSpec | None,
        out_spec: pytree.TreeSpec | None,
    ) -> None:
        super().__init__()
        self.flat = flat
        self.in_spec, self.out_spec = in_spec, out_spec

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.in_spec is not None:
            names = self.in_spec.children()[1].context or []
            args = tuple(pytree.tree_leaves((args, {name: kwargs[name] for name in names})))
        result = self.flat(*args)
        if self.out_spec is not None:
            return pytree.tree_unflatten(list(result), self.out_spec)
        return result[0] if len(result) == 1 else result
