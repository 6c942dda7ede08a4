"""Make a feed-forward network a mixture of experts that gives what it gave (A06, F11.5).

The hidden neurons are dealt into G shards, of which each is an expert, E times over:

    F(x) = sum_g F_g(x),    F_g(x) = W'_g act(W_g x)
         = sum over the experts e in T of  w_e F_(shard of e)(x),    w = G p_T / sum(p_T)

with p the softmax of the router's scores and T the k experts with the highest. The rows of the
router are random, one for each copy of the whole network and the same for all of its shards (a
virtual group): so T holds as many copies of every shard, for k a multiple of G, and the weights of
one shard's sum to one. Each row and expert may then be trained on its own. Exact, but where scores
of two groups are equal, as those of a row of zeros are; G is folded into the experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ....ir import Graph, InputError, Node, ops
from ....ir.graph import Arg
from ....ir.laws import Add, Elementwise, Mul
from ....ir.symbols import spelled_out
from ...base import Context, Promise, Remark, Stage, applied, blocked, missed
from ...options import COUNT, POSITIVE, check_numbers, divisors, nearest
from ...sites import Asked, SparingPass
from ..groups import Group, groups, readers


@dataclass(frozen=True)
class Upcycle(SparingPass):
    """Make feed-forward networks mixtures of experts.

    Args:
        copies: E, how often each shard is there.
        shards: G, into how many the hidden neurons are dealt.
        active: k, how many experts a row takes: a multiple of ``shards``; one copy of each where it
            is ``None``.
        scale: Of the router's random rows.
    """

    copies: int = 4
    shards: int = 1
    active: int | None = None
    scale: float = 1.0
    what: ClassVar[str] = "the linear layer that reads the hidden neurons"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    promise: ClassVar[Promise] = Promise.EXACT

    def __post_init__(self) -> None:
        check_numbers(self, copies=COUNT, shards=COUNT, active=COUNT | None, scale=POSITIVE)
        if self.copies * self.shards < 2:
            raise InputError(
                f"{self.copies} copies of {self.shards} shards are no mixture",
                do="at least two experts in all",
            )
        if self.active is not None and self.active not in range(
            self.shards, self.copies * self.shards + 1, self.shards
        ):
            raise InputError(
                f"{self.active} of {self.copies * self.shards} experts do not have as many copies "
                f"of each of {self.shards} shards",
                do=f"active={self.shards}, or a multiple, to {self.copies * self.shards}",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        found, stopped = groups(graph, ("hidden",))
        remarks = [blocked(v, str(reason), reason) for v, reason in stopped if asked(v)]
        generator = context.generator()
        for group in found:
            own = [*group, *(reader.node for reader in readers(group))]
            if not asked(*own):
                continue
            network = asked.protected_in(own) or _network(group)
            if isinstance(network, str):
                remarks.append(missed(group.value, network))
            elif network.hidden % self.shards:
                near = nearest(self.shards, divisors(network.hidden))
                text = (
                    f"{network.hidden} hidden neurons are no {self.shards} shards of one size; "
                    f"{near} would be"
                )
                remarks.append(missed(network.down, text))
            else:
                remarks.append(self._mix(graph, network, generator))
        if not found and not stopped:
            remarks.append(missed(graph.output, "no neurons stand between two linear layers"))
        return remarks

    def _mix(self, graph: Graph, network: _Network, generator: torch.Generator) -> Remark:
        count, active = self.copies * self.shards, self.active or self.shards
        width = int(network.data.shape[-1])
        rows = torch.randn(self.copies, width, generator=generator, dtype=torch.float64)
        rows = self.scale / width**0.5 * rows.repeat_interleave(self.shards, 0)
        new = _Writing(graph, network, self.copies, self.shards).mixture(rows, active)
        text = (
            f"a mixture of {count} experts, {self.copies} copies of {self.shards} shards of "
            f"{network.hidden // self.shards} neurons; rows take {active}"
        )
        return applied(new, text, experts=count, active=active)


@dataclass(frozen=True, eq=False)
class _Network:
    """Linear layers side by side, ops on their results position by position, a linear layer.

    Attributes:
        data: What the first ones read.
        up: Those, in order.
        between: The ops on their results, in order.
    """

    data: Node
    up: list[Node]
    between: list[Node]
    down: Node

    @property
    def hidden(self) -> int:
        return int(self.up[0].shape[-1])


def _network(group: Group) -> _Network | str:
    """The network that some hidden neurons are of, or why they are of none."""
    values, read = list(group), readers(group)
    if len(read) != 1 or read[0].node.op != "linear":
        return f"{len(read)} layers read the neurons; one linear layer can be cut into shards"
    down = read[0].node
    up = [node for node in values if node.op == "linear"]
    if not up or len({node.args[0] for node in up}) != 1:
        return "the linear layers that give the neurons do not read one value"
    order = torch.arange(len(group.unit))
    between = [node for node in values if node not in up]
    for node in (*up, *between):
        action = group.region.actions[node]
        if action.axes != (-1,) or not torch.equal(action.labels.flatten().long(), order):
            return f"{node.name} does not hold each neuron once, in their order"
        for user in node.users:
            if user is not down and user not in between:
                return f"{user.name} ({user.op}) reads {node.name} too"
    for node in between:
        if not isinstance(ops.get(node.op).law, (Elementwise, Mul, Add)):
            return f"{node.name} ({node.op}) does not act neuron by neuron"
        if any(value not in values for value in node.inputs):
            return f"{node.name} reads more than the neurons"
    return _Network(up[0].args[0], up, between, down)


@dataclass
class _Writing:
    """Writes a mixture in the place of a network."""

    graph: Graph
    network: _Network
    copies: int
    shards: int
    where: str = field(init=False)

    def __post_init__(self) -> None:
        self.where, self.dtype = self.network.down.where, self.network.down.dtype
        # In half precision copies would often score alike, and numbers of experts be rounded.
        self.wide = torch.promote_types(self.dtype, torch.float32)

    def mixture(self, router: torch.Tensor, active: int) -> Node:
        """The result, in the place of the network's."""
        data, down = self.network.data, self.network.down
        rows = self.add("reshape", data, shape=(-1, int(data.shape[-1])))
        wide = self.cast(rows, self.wide)
        scores = self.add("linear", wide, self.graph.param("router", router.to(self.wide)))
        best = self.add("topk", self.add("softmax", scores, dim=-1), k=active)
        weights, numbers = self.add("getitem", best, 0), self.add("getitem", best, 1)
        total = self.add("sum", weights, dim=(-1,), keepdim=True)
        weights = self.cast(self.add("div", weights, total), self.dtype)
        ordered = self.add("aten.sort.default", self.add("reshape", numbers, shape=(-1,)))
        expert, place = self.add("getitem", ordered, 0), self.add("getitem", ordered, 1)
        count = len(router)
        counts = self.add(
            "aten.histc.default",
            self.add("to", expert, dtype=self.wide),
            bins=count,
            max=count - 1,
        )
        ends = self.add("cumsum", counts, dim=0, dtype=torch.int32)
        sent = self.add("index", rows, (self.add("floor_divide", place, active),))
        given = self._experts(sent, expert, ends)
        back = self.add("getitem", self.add("aten.sort.default", place), 1)
        width = int(down.shape[-1])
        each = self.add("reshape", self.add("index", given, (back,)), shape=(-1, active, width))
        weighted = self.add("mul", each, self.add("unsqueeze", weights, dim=2))
        result = self.add("sum", weighted, dim=(1,))
        return self._put(result)

    def _experts(self, sent: Node, expert: Node, ends: Node) -> Node:
        network = self.network
        stands: dict[Node, Node] = {}
        for node in network.up:
            weight = self.param(f"{node.name}_experts", self._stack(node.args[1], 0))
            stands[node] = self.add("grouped_mm", sent, weight, ends)
            if (bias := node.operand(2)) is not None:
                own = self.param(f"{node.name}_biases", self._stack(bias, 0))
                stands[node] = self.add("add", stands[node], self.add("index", own, (expert,)))
        for node in network.between:
            args = tuple(
                stands.get(arg, arg) if isinstance(arg, Node) else arg for arg in node.args
            )
            stands[node] = self.add(node.op, *args, **node.attrs)
        weight = self.shards * self._stack(network.down.args[1], 1)
        last = self.param(f"{network.down.name}_experts", weight)
        return self.add("grouped_mm", stands[network.down.args[0]], last, ends)

    def _put(self, result: Node) -> Node:
        """The result in the network's shape, with its bias."""
        down = self.network.down
        if len(down.shape) != 2:
            sizes = spelled_out(self.graph, down.shape, self.network.data, before=down)
            result = self.add("reshape", result, shape=sizes)
        if (bias := down.operand(2)) is not None:
            result = self.add("add", result, bias)
        self.graph.supersede(down, result)
        self.graph.prune()
        self.graph.sort()
        return result

    def _stack(self, param: Node, axis: int) -> torch.Tensor:
        """The shards of a parameter, each as a matrix of rows, all copies of them."""
        value = self.graph.value(param)
        shards = torch.stack(value.chunk(self.shards, axis))
        matrices = shards.mT if shards.dim() == 3 else shards
        return matrices.repeat(self.copies, *[1] * (matrices.dim() - 1)).contiguous()

    def param(self, name: str, value: torch.Tensor) -> Node:
        return self.graph.param(name, value.to(self.dtype))

    def cast(self, value: Node, dtype: torch.dtype) -> Node:
        return value if value.dtype == dtype else self.add("to", value, dtype=dtype)

    def add(self, op: str, *args: Arg, **attrs: Arg) -> Node:
        return self.graph.add(op, *args, where=self.where, before=self.network.down, **attrs)
