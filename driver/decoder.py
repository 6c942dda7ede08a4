"""What a graph must say of itself so that tokens can be made with it, one after the other.

    scores, state = graph(ids, state)      next ids = argmax(scores[:, -1])

State is what comes in and goes out under the same name in the model's calling convention, in
whatever form passes have brought it; it begins with no tokens, or where it is of one size, as that
of a recurrence, with zeros. A graph that takes one token is given a text token by token.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from ..ir import Graph, InputError, Node, TensorType
from ..ir.state import expanded, passed_on, translate
from ..ir.types import evaluate, show
from .convention import output_names, tree_names

T = TypeVar("T")
LOGITS = "logits"  # as every decoder of transformers calls them


@dataclass(frozen=True)
class Decoder:
    """Which input takes ids, which output has scores, and which outputs are inputs of the next
    call.

    Attributes:
        ids: The name of the input of token ids, ``[batch, length]``.
        scores: The place of the output ``[batch, length, vocabulary]``.
        state: The name of each input of state, and the place of the output that follows it.
        ends: The ids that end a text, as the model has them.
        fixed: Of the state, what is of one size for any number of tokens, and begins with zeros.
        one_by_one: Why the graph takes one token; empty where it takes any number.
    """

    ids: str
    scores: int
    state: tuple[tuple[str, int], ...]
    ends: tuple[int, ...] = ()
    fixed: tuple[str, ...] = ()
    one_by_one: str = ""

    @staticmethod
    def of(
        graph: Graph, ends: Sequence[int] = (), fixed: Sequence[str] = (), one_by_one: str = ""
    ) -> Decoder:
        """What the calling convention of a graph says.

        Args:
            graph: The decoder.
            ends: The ids that end a text.
            fixed: What the user would call each input of state that begins with zeros.
            one_by_one: Why the graph takes one token.

        Raises:
            InputError: The graph is no such decoder; says what is missing.
        """
        entries, results = input_names(graph), output_names(graph)
        places = {name: place for place, name in enumerate(results)}
        state = tuple(
            (node.name, places[name])
            for node, name in zip(graph.inputs, entries, strict=True)
            if name in places
        )
        held = {name for name, _ in state}
        given = [
            node
            for node in graph.inputs
            if isinstance(node.type, TensorType) and node.name not in held
        ]
        if not state or len(given) != 1 or LOGITS not in places:
            raise InputError(
                "the model is not called as a decoder is: token ids and its caches in, "
                f"{LOGITS} and its caches out",
                where=f"inputs {', '.join(entries)}; outputs {', '.join(results)}",
                do="compile a causal language model of transformers, with cache=True",
            )
        begins = tuple(
            node.name
            for node, name in zip(graph.inputs, entries, strict=True)
            if name in fixed and node.name in held
        )
        found = Decoder(given[0].name, places[LOGITS], state, tuple(ends), begins, one_by_one)
        for node in found.inputs(graph):
            if node.name not in begins and 0 not in found.shape(graph, node, 1):
                raise InputError(
                    f"{node.name} is {show(node.type)}: it cannot begin with no tokens",
                    where=node.at,
                    do="leave out what keeps some tokens in a form of their own, such as a window",
                )
        return found

    def within(self, graph: Graph) -> Decoder:
        """The same for what passes have made of its graph.

        Raises:
            InputError: It cannot begin any more.
        """
        names = dict(zip((node.name for node in graph.inputs), input_names(graph), strict=True))
        fixed = [names[name] for name in self.fixed if name in names]
        return Decoder.of(graph, self.ends, fixed, self.one_by_one)

    def empty(self, graph: Graph, batch: int) -> dict[str, torch.Tensor]:
        """The state where there are no tokens, by the names of inputs."""
        return {
            node.name: torch.zeros(self.shape(graph, node, batch), dtype=node.dtype)
            for node in self.inputs(graph)
        }

    def shape(self, graph: Graph, node: Node, batch: int) -> list[int]:
        """The sizes of an input of state where there are no tokens."""
        many = graph[self.ids].shape[0]
        sizes = {name: batch if name == many else 0 for name in graph.symbols}
        return [evaluate(size, sizes) for size in node.shape]

    def inputs(self, graph: Graph) -> Iterator[Node]:
        """The inputs of state, in their order."""
        held = {name for name, _ in self.state}
        return (node for node in graph.inputs if node.name in held)

    def started(self, graph: Graph, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments of a call, with the state of no tokens where none is given."""
        if graph.in_spec is None:
            return kwargs
        positional, named = graph.in_spec.children()
        ids = kwargs.get(self.ids, args[0] if args else None)
        missing: dict[str, pytree.TreeSpec] = {}
        leaves: dict[str, list[str]] = {}
        at = positional.num_leaves
        for name, child in zip(named.context or [], named.children(), strict=True):
            inside = [node.name for node in graph.inputs[at : at + child.num_leaves]]
            at += child.num_leaves
            if name not in kwargs and inside and {n for n, _ in self.state}.issuperset(inside):
                missing[name], leaves[name] = child, inside
        if not missing or not isinstance(ids, torch.Tensor) or not ids.dim():
            return kwargs
        state = self.empty(graph, ids.shape[0])
        made = {
            name: pytree.tree_unflatten([state[leaf] for leaf in leaves[name]], spec)
            for name, spec in missing.items()
        }
        return {**kwargs, **made}

    def each_token(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """A call as those on one token each, where the graph takes one."""
        ids = kwargs.get(self.ids, args[0] if args else None)
        if not self.one_by_one or not isinstance(ids, torch.Tensor) or ids.dim() != 2:
            return [(args, kwargs)]
        if self.ids in kwargs:
            return [(args, {**kwargs, self.ids: token}) for token in ids.split(1, 1)]
        return [((token, *args[1:]), kwargs) for token in ids.split(1, 1)]

    def following(self, graph: Graph, flat: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
        """The flat inputs of a call with the state that the call before has left."""
        places = dict(self.state)
        pairs = zip(graph.inputs, flat, strict=True)
        return [outputs[places[n.name]] if n.name in places else value for n, value in pairs]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Decoder:
        state = tuple((str(name), int(place)) for name, place in found["state"])
        rest = tuple(found.get("fixed", ())), found.get("one_by_one", "")  # of later versions
        return Decoder(found["ids"], found["scores"], state, tuple(found["ends"]), *rest)


def without_unread(graph: Graph) -> Graph:
    """A copy that is not asked for state any more which passes let go: inputs that nothing reads,
    whose outputs are ``None``. The graph itself where there are none."""
    places = {name: place for place, name in enumerate(output_names(graph))}
    gone = {
        index: places[name]
        for index, (node, name) in enumerate(zip(graph.inputs, input_names(graph), strict=True))
        if isinstance(node.type, TensorType)
        and not node.users
        and name in places
        and graph.outputs[places[name]] is None
    }
    if not gone:
        return graph
    new = graph.copy()
    enter, leave = passed_on(graph, graph.inputs), passed_on(graph, graph.outputs)
    enter.returns(*_others(enter.outputs, gone))
    leave.inputs = _others(leave.inputs, gone.values())
    translate(new, enter, leave)
    new.inputs = _others(new.inputs, gone)
    new.output.set(_others(new.outputs, gone.values()))
    new.in_spec = expanded(new.in_spec, dict.fromkeys(gone, ()))
    new.out_spec = expanded(new.out_spec, dict.fromkeys(gone.values(), ()))
    return new


def _others(many: Sequence[T], places: Container[int]) -> list[T]:
    return [one for place, one in enumerate(many) if place not in places]


def input_names(graph: Graph) -> list[str]:
    """What the user would call each input: ``input_ids``, ``past_key_values.0.1``."""
    if graph.in_spec is None:
        return [node.name for node in graph.inputs]
    return [".".join(name.split(".")[1:]) for name in tree_names(graph.in_spec)]


def ends_of(model: object) -> tuple[int, ...]:
    """The ids that end a text, by what a model of transformers says of its generation."""
    for place in ("generation_config", "config"):
        found = getattr(getattr(model, place, None), "eos_token_id", None)
        if found is not None:
            return tuple(found) if isinstance(found, (list, tuple)) else (int(found),)
    return ()
