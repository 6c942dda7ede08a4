"""Keep what keys and values are made of, and make them again (XQuant, A31, F10.4).

    k = f(x W_k, a)   v = g(x W_v)     state: x of each token in few bits, and a as it is

x is the normed input that both linear maps read: one value where there were two. What else the keys
of a token depend on, such as the angles of its position, is kept besides, once for all layers. With
grouped queries x is wider than keys and values together; ``latent`` keeps it in the right singular
vectors of W_k and of W_v instead, W = U S V^T, which is all that they read of it:
k = f((x V)(U S)^T, a).

Keys do not tell x, so a state of keys and values cannot be carried over: a graph starts from an
empty state, of no tokens, or from one of its own. Approximate; exact without ``bits``, but for the
rounding of the singular value decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ...ir import Graph, GraphError, InputError, Node, TensorType
from ...ir.gauge import weighted
from ...ir.graph import Arg, substitute
from ...ir.state import Cache, expanded, find_caches, need_closed, share_length, with_size
from ...ir.types import evaluate, symbols
from ..base import Context, Pass, Promise, Remark, Stage, applied, missed
from ..options import COUNT, check_kinds, check_known, check_numbers
from .rewrite_state import without_caches
from .state_codes import STORAGE, Coder, StateFormat


@dataclass(frozen=True)
class CacheInputs(Pass):
    """Let a decoder keep the inputs of its keys and values instead of these.

    Args:
        bits: 2, 4, 8 or 16; ``None`` keeps them as they are.
        group: How many neighbours share a range; all of a token where not given.
        latent: Whether to keep them in the singular vectors of the weights that read them.
        scales: The dtype of ranges.
    """

    bits: int | None = 8
    group: int | None = None
    latent: bool = False
    scales: torch.dtype | None = None
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STATE

    def __post_init__(self) -> None:
        check_known([self.bits], (*STORAGE, None), "number of bits")
        check_numbers(self, group=COUNT | None)
        check_kinds(self, latent=bool)

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        need_closed(graph, self.name)
        caches = find_caches(graph)
        if not caches:
            if graph.enter is not None:
                raise InputError("the state of the graph is in another form already")
            return [without_caches(graph)]
        _start_empty(graph, caches)
        state = _State(self, graph)
        remarks: list[Remark] = []
        for cache in caches:
            made = _made(graph, cache)
            if isinstance(made, str):
                remarks.append(missed(cache.joined, made))
                continue
            state.replace(cache, made)
            remarks.append(applied(cache.joined, f"{cache.role} made from {made.input.name}"))
        if state.parts:
            state.finish()
        return remarks


def _start_empty(graph: Graph, caches: list[Cache]) -> None:
    """Let all caches be of one length, which may be none."""
    share_length(graph)
    for size in {cache.past.shape[cache.axis] for cache in caches} & graph.symbols.keys():
        graph.symbols[str(size)] = (0, None)


@dataclass(frozen=True)
class _Made:
    """How fresh tokens come about.

    Attributes:
        linear: The map that makes them, of ``[batch, tokens, channels]``.
        after: What is done to its result, in order.
        besides: What that reads of other values, with the axis of tokens.
    """

    linear: Node
    after: list[Node]
    besides: dict[Node, int]

    @property
    def input(self) -> Node:
        return self.linear.args[0]


def _as_many(node: Node, other: Node) -> bool:
    """Whether two shapes are equal, however they are written."""
    names = dict.fromkeys((*symbols(node.type), *symbols(other.type)))
    point = {name: 1009 + i for i, name in enumerate(names)}
    return [evaluate(s, point) for s in node.shape] == [evaluate(s, point) for s in other.shape]


def _made(graph: Graph, cache: Cache) -> _Made | str:
    """How a cache's fresh tokens come about; or why that is not known."""
    above: set[Node] = set()
    linear: list[Node] = []
    stack = [cache.fresh]
    while stack:
        node = stack.pop()
        if node in above or node.op in ("param", "input"):
            continue
        above.add(node)
        if weighted(node):
            linear.append(node)
        else:
            stack.extend(node.inputs)
    if len(linear) != 1 or linear[0].op != "linear" or linear[0].args[0].tensor.rank != 3:
        return f"its tokens do not come from one linear map, but from {len(linear)}"
    below = {linear[0]}
    after: list[Node] = []
    for node in graph.nodes:
        if node in above and node not in below and any(used in below for used in node.inputs):
            below.add(node)
            after.append(node)
    for node in after:
        if node.op == "reshape" and node.shape[:2] != node.args[0].shape[:2]:
            return f"{node.name} does not leave its tokens in their place"
    tokens, place = cache.fresh.shape[cache.axis], cache.axis - cache.fresh.tensor.rank
    besides: dict[Node, int] = {}
    for used in (used for node in after for used in node.inputs):
        if used in below or used.op == "param" or not isinstance(used.type, TensorType):
            continue
        if used.tensor.rank < -place or used.shape[place] not in (1, tokens):
            return f"what its tokens depend on besides, {used.name}, is not one value a token"
        besides[used] = place
    return _Made(linear[0], after, besides)


@dataclass
class _State:
    """The new state, while it is put in the place of the old one."""

    options: CacheInputs
    graph: Graph
    parts: dict[str, dict[str, Node]] = field(default_factory=dict[str, dict[str, Node]])
    given: dict[str, list[Node]] = field(default_factory=dict[str, list[Node]])
    caches: list[Cache] = field(default_factory=list[Cache])
    rows: dict[tuple[Node, Node | None], Node] = field(
        default_factory=dict[tuple[Node, "Node | None"], Node]
    )
    joined: dict[Node, Node] = field(default_factory=dict[Node, Node])
    measured: tuple[Node, int] | None = None  # an input, and its axis of tokens

    def replace(self, cache: Cache, made: _Made) -> None:
        """Make the tokens of one cache again, from all inputs there are."""
        graph, before, key = self.graph, cache.joined, cache.past.name
        self.parts[key], self.given[key] = {}, []
        self.caches.append(cache)
        linear = made.linear
        weight, bias = linear.args[1], linear.operand(2)
        kept = made.input
        if self.options.latent:
            u, s, vt = torch.linalg.svd(graph.value(weight).double(), full_matrices=False)
            down = graph.param(f"{weight.name}_right", vt.to(weight.dtype), origin=())
            weight = graph.param(f"{weight.name}_left", (u * s).to(weight.dtype), origin=())
            kept = graph.add("linear", kept, down, name=f"{key}_latent", before=before)
        place = made.input, (linear if self.options.latent else None)
        if place not in self.rows:
            self.rows[place] = self.append(cache, kept, "inputs", 1, self.options.bits)
        again: dict[Node, Node] = {
            linear: graph.add("linear", self.rows[place], weight, bias, before=before)
        }
        for used, axis in made.besides.items():
            if used not in self.joined:
                name = f"besides_{len(self.joined)}"
                single = used.shape[axis] != cache.fresh.shape[cache.axis]
                self.joined[used] = used if single else self.append(cache, used, name, axis, None)
            again[used] = self.joined[used]
        for node in made.after:
            again[node] = self.copy(node, again, before)
        whole = again[cache.fresh]
        if not _as_many(whole, cache.joined):
            raise GraphError(f"{whole} does not stand for {cache.joined}", where=before.at)
        whole.type = cache.joined.type
        for reader in cache.readers:
            reader.replace_input(cache.joined, whole)

    def append(self, cache: Cache, fresh: Node, name: str, axis: int, bits: int | None) -> Node:
        """A new tensor of state; all its tokens, the fresh ones at the end."""
        graph, before, key = self.graph, cache.joined, cache.past.name
        axis %= fresh.tensor.rank
        length = cache.past.shape[cache.axis]
        coder = None
        parts = {"rows": fresh}
        if bits is not None:
            form = StateFormat(bits, self.options.group, self.options.scales)
            form.check(fresh)
            coder = Coder(graph, form, f"{key}_{name}", fresh.dtype)
            parts = coder.encode(fresh, before)
        whole: dict[str, Node] = {}
        for part, node in parts.items():
            shape = (*node.shape[:axis], length, *node.shape[axis + 1 :])
            past = graph.input(f"{key}_{name}_{part}", TensorType(node.dtype, shape))
            graph.inputs.remove(past)
            self.given[key].append(past)
            self.measured = self.measured or (past, axis)
            whole[part] = graph.add("cat", (past, node), dim=axis, before=before)
            self.parts[key][f"{name}_{part}"] = whole[part]
        return whole["rows"] if coder is None else coder.decode(whole, before)

    def copy(self, node: Node, again: dict[Node, Node], before: Node) -> Node:
        """The same op on all tokens."""

        def swap(used: Node) -> Arg:
            return again.get(used, used)

        attrs = {name: substitute(value, swap) for name, value in node.attrs.items()}
        if node.op == "reshape" and -1 not in attrs["shape"]:
            batch, _, *rest = attrs["shape"]
            attrs["shape"] = (batch, -1, *rest)  # there are more tokens now
        return self.graph.add(node.op, *substitute(node.args, swap), before=before, **attrs)

    def finish(self) -> None:
        """Give the graph its new inputs and outputs."""
        graph = self.graph
        by_joined = {cache.joined: cache.past.name for cache in self.caches}
        inputs = {node.name: i for i, node in enumerate(graph.inputs)}
        graph.in_spec = expanded(
            graph.in_spec, {inputs[name]: list(parts) for name, parts in self.parts.items()}
        )
        outputs: list[Arg] = []
        places: dict[int, list[str]] = {}
        for index, arg in enumerate(graph.outputs):
            name = by_joined.get(arg) if isinstance(arg, Node) else None
            outputs += [arg] if name is None else self.parts[name].values()
            if name is not None:
                places[index] = list(self.parts[name])
        graph.out_spec = expanded(graph.out_spec, places)
        graph.output.set(outputs)
        assert self.measured is not None
        past, axis = self.measured
        gone = {cache.past for cache in self.caches}
        others = [node for node in graph.inputs if node not in gone]
        for cache in self.caches:
            graph.erase(cache.joined)
            for reader in list(cache.past.users):  # who asks for a size
                dim = int(reader.attrs["dim"]) % cache.past.tensor.rank
                other = (
                    (past, axis) if dim == cache.axis else with_size(others, cache.past.shape[dim])
                )
                if other is None:
                    raise GraphError(f"no other input has the size that {reader.name} asks for")
                reader.set((other[0],), {**reader.attrs, "dim": other[1]})
            place = graph.inputs.index(cache.past)
            graph.inputs[place : place + 1] = self.given[cache.past.name]
        graph.restarts = True
