"""State of a decoder: caches that come in, get the fresh tokens at their end, and go out again.

    joined = cat(past, fresh)      attention(q, joined keys, joined values)

State is found by that: an input whose only reader joins it with a fresh value, which the graph
gives back; a cache, where attention reads it. Nothing is known by its name.

A pass may keep the state in another form. The graph then has other inputs and outputs, and two
small graphs beside it that translate: ``enter`` makes its inputs of those that the model took, and
``leave`` makes of its outputs those that the model gave. In between, state may be open: it enters
and leaves the graph through ops of its own, ``recode``, whose weights take up what passes do.

    joined = cat(recode(past, P), fresh)      output = recode(joined, Q)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from torch.utils import _pytree as pytree

from .errors import InputError
from .graph import Arg, Graph, Node, substitute, walk
from .interpret import execute
from .symbols import rename
from .types import Dim, TensorType, of

T = TypeVar("T")
Role: TypeAlias = Literal["keys", "values"]

ATTENTION, RECODE = "scaled_dot_product_attention", "recode"
_OPERANDS: dict[int, Role] = {1: "keys", 2: "values"}
_MOVES = {"repeat_interleave", "expand", "reshape", "permute", "unsqueeze", "to", "contiguous"}
PLAIN = (tuple, list, dict)


@dataclass(frozen=True)
class State:
    """A tensor of state that grows by fresh tokens.

    Attributes:
        past: The input.
        fresh: What is new in it.
        joined: Both, one after the other.
        axis: Of tokens, from the front.
    """

    past: Node
    fresh: Node
    joined: Node
    axis: int

    @property
    def entered(self) -> Node:
        """What fresh tokens are joined with: the input, or that in another form."""
        return self.joined.args[0][0]

    @property
    def is_open(self) -> bool:
        """Whether it enters in another form, by an op of its own."""
        return self.entered is not self.past

    @property
    def left(self) -> Node:
        """The output: what is joined, or that in another form."""
        return _left(self.joined) or self.joined

    @property
    def readers(self) -> list[Node]:
        """Who reads the tokens, but for the output."""
        return [user for user in self.joined.users if user.op != "output" and user is not self.left]


@dataclass(frozen=True)
class Cache(State):
    """State that attention reads, ``[batch, heads, tokens, channels]``.

    Attributes:
        role: What attention reads it as.
        attention: The reader.
    """

    role: Role
    attention: Node


def find_state(graph: Graph) -> list[State]:
    """What of a graph's state grows, in the order of its inputs."""
    found = (_state(graph, node) for node in graph.inputs)
    return [state for state in found if state is not None]


def find_caches(graph: Graph) -> list[Cache]:
    """The caches of a graph, in the order of its inputs."""
    found = map(_cache, find_state(graph))
    return [cache for cache in found if cache is not None]


def answered(graph: Graph, outputs: Sequence[T]) -> list[T]:
    """Of what there is for each output of a graph what is of no state."""
    state = {state.left for state in find_state(graph)}
    return [one for one, arg in zip(outputs, graph.outputs, strict=True) if arg not in state]


def answers(graph: Graph) -> list[Node]:
    """The outputs that are no state, in order."""
    return list(walk(tuple(answered(graph, graph.outputs))))


def let_go(graph: Graph, every: Sequence[State]) -> None:
    """Give up state that nothing reads any more, in place: its outputs are ``None`` and its inputs
    have no reader.

    Who asks one for a size asks another input for it; where none has it, the state stays.

    Args:
        every: All that the graph had when all of it was read.
    """
    unread = [state for state in every if not state.readers]
    given_up = {state.past for state in unread}
    kept = [node for node in graph.inputs if node.users and node not in given_up]
    for state in unread:
        asking = [user for user in state.past.users if user.op == "sym_size"]
        others = [with_size(kept, state.past.shape[user.attrs["dim"]]) for user in asking]
        if None in others:
            kept.append(state.past)
            continue
        for user, other in zip(asking, others, strict=True):
            if other is not None:
                user.set((other[0],), {**user.attrs, "dim": other[1]})
        graph.output.set([None if arg is state.left else arg for arg in graph.outputs])
    graph.prune()


def share_length(graph: Graph) -> None:
    """Give the lengths of all state one name, in place."""
    lengths = [state.past.shape[state.axis] for state in find_state(graph)]
    names = [size for size in dict.fromkeys(lengths) if isinstance(size, str)]
    if names and all(name.isidentifier() for name in names):
        rename(graph, dict.fromkeys(names, names[0]))


def need_closed(graph: Graph, who: str) -> None:
    """Raise ``InputError`` where state is open to passes that change its form."""
    opened = next((node for node in graph.nodes if node.op == RECODE), None)
    if opened is not None:
        raise InputError(
            f"{who} takes state as the graph keeps it, and that of {opened.args[0].name} is open",
            where=opened.at,
            do=f"put CloseState before {who}",
        )


def with_size(inputs: Sequence[Node], size: Dim) -> tuple[Node, int] | None:
    """An input of this size, and the axis."""
    for node in inputs:
        if isinstance(node.type, TensorType) and size in node.type.shape:
            return node, node.type.shape.index(size)
    return None


def _state(graph: Graph, past: Node) -> State | None:
    if not isinstance(past.type, TensorType) or past.type.rank < 3:
        return None
    entered, readers = past, _readers(past)
    if len(readers) == 1 and readers[0].op == RECODE:
        entered, readers = readers[0], _readers(readers[0])
    if len(readers) != 1 or readers[0].op != "cat":
        return None
    joined = readers[0]
    parts, axis = joined.args[0], int(joined.attrs.get("dim", 0)) % past.type.rank
    if len(parts) != 2 or parts[0] is not entered or axis == past.type.rank - 1:
        return None
    if (_left(joined) or joined) not in graph.output.inputs:
        return None
    return State(past, parts[1], joined, axis)


def _readers(node: Node) -> list[Node]:
    return [user for user in node.users if user.op != "sym_size"]


def _left(joined: Node) -> Node | None:
    """What state leaves through, if it is open."""
    found = [user for user in joined.users if user.op == RECODE]
    return found[0] if len(found) == 1 else None


def _cache(state: State) -> Cache | None:
    places = {_attention(user, state.joined) for user in state.readers}
    if len(places) != 1 or None in places:
        return None
    ((attention, role),) = (place for place in places if place is not None)
    return Cache(state.past, state.fresh, state.joined, state.axis, role, attention)


def _attention(reader: Node, value: Node) -> tuple[Node, Role] | None:
    """The attention that a value reaches through ops that only move it, and as what."""
    while reader.op in _MOVES and len(reader.users) == 1:
        value, (reader,) = reader, reader.users
    if reader.op != ATTENTION:
        return None
    roles: list[Role] = [r for index, r in _OPERANDS.items() if reader.operand(index) is value]
    return (reader, roles[0]) if len(roles) == 1 else None


# -- in another form -------------------------------------------------------------------------------


def run_as_traced(graph: Graph, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Run on the inputs that the model took, and give the outputs that it gave."""
    return left(graph, execute(graph, entered(graph, inputs)))


def entered(graph: Graph, inputs: Sequence[Any]) -> Sequence[Any]:
    """The graph's inputs, of those that the model took."""
    if graph.restarts:
        raise InputError(
            "the state of this graph cannot be told from that of the model",
            do="start from a state of no tokens, and go on with what the graph gives back",
        )
    return inputs if graph.enter is None else execute(graph.enter, inputs)


def left(graph: Graph, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the model gave, of the graph's outputs."""
    return outputs if graph.leave is None else execute(graph.leave, outputs)


def passed_on(graph: Graph, values: Sequence[Arg]) -> Graph:
    """A graph that gives what it is given: inputs or outputs of another graph."""
    found = Graph()
    found.symbols = dict(graph.symbols)
    made: list[Arg] = []
    for index, value in enumerate(values):
        type_ = value.type if isinstance(value, Node) else of(0 if value is None else value)
        given = found.input(value.name if isinstance(value, Node) else f"constant_{index}", type_)
        made.append(given if isinstance(value, Node) else value)
    found.returns(*made)
    return found


def translate(graph: Graph, enter: Graph, leave: Graph) -> None:
    """Let a graph take other inputs and give other outputs than it did, in place.

    Args:
        enter: Makes these inputs of those that there were.
        leave: Makes the outputs that there were of these.
    """
    graph.enter = enter if graph.enter is None else _chained(graph.enter, enter)
    graph.leave = leave if graph.leave is None else _chained(leave, graph.leave)


def _chained(first: Graph, second: Graph) -> Graph:
    """A graph that gives what the second makes of what the first gives."""
    new = first.copy()
    made: dict[Node, Arg] = dict(zip(second.inputs, new.outputs, strict=True))
    for name, param in second.params.items():
        made[param] = new.param(name, second.store[name])

    def swap(node: Node) -> Arg:
        return made[node]

    for node in second.nodes:
        attrs = {key: substitute(value, swap) for key, value in node.attrs.items()}
        args = substitute(node.args, swap)
        made[node] = new.add(node.op, *args, name=node.name, type=node.type, **attrs)
    new.returns(*(substitute(value, swap) for value in second.outputs))
    return new


def expanded(
    spec: pytree.TreeSpec | None, parts: Mapping[int, Sequence[str]]
) -> pytree.TreeSpec | None:
    """A tree whose leaf ``i`` became a dict of the parts named.

    A class of one's own around such leaves, which says nothing of its parts, becomes a tuple: it
    could not hold them.
    """
    return None if spec is None else _expanded(spec, parts, 0)


def _expanded(
    spec: pytree.TreeSpec, parts: Mapping[int, Sequence[str]], at: int
) -> pytree.TreeSpec:
    if spec.is_leaf():
        if at not in parts:
            return spec
        leaves: list[pytree.TreeSpec] = [pytree.treespec_leaf() for _ in parts[at]]
        return pytree.TreeSpec(dict, list(parts[at]), leaves)
    children: list[pytree.TreeSpec] = []
    changed = any(i in parts for i in range(at, at + spec.num_leaves))
    for child in spec.children():
        children.append(_expanded(child, parts, at))
        at += child.num_leaves
    kind: Any = spec.type
    if changed and spec.context is None and kind not in PLAIN:
        kind = tuple
    return pytree.TreeSpec(kind, spec.context, children)
