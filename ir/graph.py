"""The graph: nodes in an order in which each comes after what it reads.

There is one class of node and no subclass per op. A node's ``args`` are its operands, in the order
in which the op names them; ``attrs`` hold everything else by name. Both may hold nodes, numbers,
strings, dtypes, ``None``, and tuples of these. Three ops are the graph's own: ``input``, ``param``
and ``output``.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

from .errors import GraphError
from .params import Lazy, ParameterStore
from .types import DTYPES, TensorType, Type, of, show

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

Arg: TypeAlias = Any  # Node | None | bool | int | float | str | torch.dtype | tuple[Arg, ...]


def walk(arg: Arg) -> Iterator[Node]:
    """The nodes in an argument, from left to right, with repeats."""
    if isinstance(arg, Node):
        yield arg
    elif isinstance(arg, tuple):
        for part in arg:
            yield from walk(part)


def substitute(arg: Arg, change: Callable[[Node], Arg]) -> Arg:
    """The argument with each node changed."""
    if isinstance(arg, Node):
        return change(arg)
    if isinstance(arg, tuple):
        return tuple(substitute(part, change) for part in arg)
    return arg


def ancestors(nodes: Iterable[Node]) -> set[Node]:
    """All that some nodes read, and all that these read."""
    found: set[Node] = set()
    stack = [used for node in nodes for used in node.inputs]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return found


class Node:
    """One operation and the value it makes."""

    __match_args__ = ("op", "args")

    def __init__(
        self,
        name: str,
        op: str,
        args: tuple[Arg, ...],
        attrs: Mapping[str, Arg],
        type_: Type,
        where: str = "",
    ) -> None:
        self.name = name
        self.op = op
        self.type: Type = type_
        self.where = where  # the user's "file:line in function"
        self.users: dict[Node, None] = {}  # in order, each once
        self._args: tuple[Arg, ...] = ()
        self._attrs: dict[str, Arg] = {}
        self.set(args, attrs)

    @property
    def args(self) -> tuple[Arg, ...]:
        return self._args

    @property
    def attrs(self) -> Mapping[str, Arg]:
        return self._attrs

    @property
    def inputs(self) -> tuple[Node, ...]:
        """Every node this one reads, in order, with repeats."""
        return tuple(walk((*self._args, *self._attrs.values())))

    def operand(self, index: int) -> Arg:
        """The operand at this place; ``None`` where it was left out."""
        return self._args[index] if index < len(self._args) else None

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int | str, ...]:
        return self.tensor.shape

    @property
    def tensor(self) -> TensorType:
        """The type, when it must be a tensor's."""
        if not isinstance(self.type, TensorType):
            raise GraphError(f"{self.name} is a {show(self.type)}, not a tensor", where=self.at)
        return self.type

    @property
    def at(self) -> str:
        """Where the node stands, for messages: its line and the user's line."""
        return f"{self}\n{self.where}" if self.where else str(self)

    def set(
        self, args: Sequence[Arg] | None = None, attrs: Mapping[str, Arg] | None = None
    ) -> None:
        """Give the node other arguments; keeps the readers of the old and the new ones right."""
        for node in dict.fromkeys(self.inputs):
            node.users.pop(self, None)
        if args is not None:
            self._args = tuple(args)
        if attrs is not None:
            self._attrs = dict(attrs)
        for node in self.inputs:
            node.users[self] = None

    def replace_input(self, old: Node, new: Arg) -> None:
        """Read another value in place of ``old``, wherever this node reads it."""

        def swap(node: Node) -> Arg:
            return new if node is old else node

        attrs = {key: substitute(value, swap) for key, value in self._attrs.items()}
        self.set(substitute(self._args, swap), attrs)

    def __repr__(self) -> str:
        from .text import line

        return line(self)


class Graph:
    """A function in SSA form, with its weights and its calling convention."""

    def __init__(self) -> None:
        self.inputs: list[Node] = []
        self.nodes: list[Node] = []  # what computes, in order
        self.params: dict[str, Node] = {}
        self.output = Node("output", "output", (), {}, ())
        self.store = ParameterStore()
        self.symbols: dict[str, tuple[int, int | None]] = {}  # the range of each symbolic size
        self.in_spec: pytree.TreeSpec | None = None  # of (args, kwargs)
        self.out_spec: pytree.TreeSpec | None = None
        self.checkpoint: Checkpoint | None = None  # where it was traced from, if that is known
        self.enter: Graph | None = None  # from the model's inputs to these, where they differ
        self.leave: Graph | None = None  # from these outputs to the model's
        self.restarts = False  # whether its state cannot be told from the model's
        self._names: set[str] = set()

    # -- building -------------------------------------------------------------------------------

    def name(self, hint: str) -> str:
        """A name nobody has, like the hint."""
        base = re.sub(r"\W", "_", hint).strip("_") or "v"
        base = f"_{base}" if base[0].isdigit() else base
        name, count = base, 0
        while name in self._names or name in _RESERVED:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name

    def input(self, name: str, type_: Type) -> Node:
        """Add a graph input."""
        node = Node(self.name(name), "input", (), {}, type_)
        self.inputs.append(node)
        return node

    def param(
        self, name: str, value: torch.Tensor | Lazy, origin: tuple[str, ...] | None = None
    ) -> Node:
        """Add a parameter, a constant: nobody may change ``value`` in place."""
        type_ = value.type if isinstance(value, Lazy) else of(value)
        node = Node(self.name(name), "param", (), {}, type_)
        self.params[node.name] = node
        self.store[node.name] = value
        self.store.origin[node.name] = (name,) if origin is None else origin
        return node

    def add(
        self,
        op: str,
        /,  # attributes may be called like these
        *args: Arg,
        name: str = "",
        type: Type | None = None,
        where: str = "",
        before: Node | None = None,
        **attrs: Arg,
    ) -> Node:
        """Add a node at the end or before another; its type is inferred unless given."""
        from .infer import infer

        type_ = infer(self, op, args, attrs) if type is None else type
        node = Node(self.name(name or op.split(".")[-1]), op, args, attrs, type_, where)
        self.nodes.insert(len(self.nodes) if before is None else self.nodes.index(before), node)
        return node

    def returns(self, *values: Arg) -> None:
        """Say what the graph gives back: flat, in the order of ``out_spec``."""
        self.output.set(values)

    # -- changing -------------------------------------------------------------------------------

    def following(self, node: Node) -> Node | None:
        """The node that comes next; ``None`` at the end."""
        place = self.nodes.index(node) + 1
        return self.nodes[place] if place < len(self.nodes) else None

    def replace(self, old: Node, new: Node, *, keep: Iterable[Node] = ()) -> None:
        """Let all that read ``old`` read ``new``, but for those to keep and ``new`` itself."""
        kept = {*keep, new}
        for user in list(old.users):
            if user not in kept:
                user.replace_input(old, new)

    def erase(self, node: Node) -> None:
        """Take out a node that nobody reads."""
        if node.users:
            readers = ", ".join(user.name for user in node.users)
            raise GraphError(f"{node.name} is still read by {readers}", where=node.at)
        node.set((), {})
        if node.op == "param":
            del self.params[node.name], self.store[node.name]
        else:
            self.nodes.remove(node)
        self._names.discard(node.name)

    def supersede(self, old: Node, new: Node) -> None:
        """Put ``new`` in the place of ``old``: all its readers, and its name."""
        self.replace(old, new)
        origin = self.store.origin.get(old.name)
        self.erase(old)
        self._names.discard(new.name)
        if new.op == "param":
            del self.params[new.name]
            self.params[old.name] = new
            self.store[old.name] = self.store.tensors[new.name]
            del self.store[new.name]
            if origin is not None:
                self.store.origin[old.name] = origin
        self._names.add(old.name)
        new.name = old.name

    def rename(self, hints: Mapping[Node, str]) -> None:
        """Give nodes and parameters names like these, numbered in the order in which they stand."""
        old = {name: node for name, node in self.params.items() if node in hints}
        self._names -= {node.name for node in hints}
        for node in (*self.params.values(), *self.nodes):
            if node in hints:
                node.name = self.name(hints[node])
        tensors, origin = dict(self.store.tensors), dict(self.store.origin)
        self.params = {node.name: node for node in self.params.values()}
        for name in old:
            del self.store[name]
        for name, node in old.items():
            self.store[node.name] = tensors[name]
            self.store.origin[node.name] = origin.get(name, ())

    def give(self, reader: Node, index: int, value: torch.Tensor, *, name: str = "") -> Node:
        """Let one reader's operand be a parameter of this value.

        It takes over the name of the old parameter if nobody else reads that one; ``name`` is for
        an operand that was missing.
        """
        args = [*reader.args, *[None] * (index + 1 - len(reader.args))]
        old = args[index]
        origin = () if old is None else self.store.origin.get(old.name, (old.name,))
        new = self.param(name if old is None else old.name, value, origin=origin)
        args[index] = new
        reader.set(args)
        if old is not None and not old.users:
            self.supersede(old, new)
        return new

    def prune(self) -> int:
        """Take out all that does not reach the output; inputs stay. Returns how many nodes went."""
        live: set[Node] = set()
        stack = list(self.output.inputs)
        while stack:
            node = stack.pop()
            if node not in live:
                live.add(node)
                stack.extend(node.inputs)
        dead = [node for node in self.nodes if node not in live]
        for node in dead:
            node.set((), {})
            self._names.discard(node.name)
        self.nodes = [node for node in self.nodes if node in live]
        for node in [node for node in self.params.values() if node not in live]:
            self.erase(node)
        return len(dead)

    def sort(self) -> None:
        """Put each node after what it reads, changing the order as little as possible."""
        placed: set[Node] = {*self.inputs, *self.params.values()}
        order: list[Node] = []
        for root in self.nodes:
            stack: list[tuple[Node, Iterator[Node]]] = (
                [] if root in placed else [(root, iter(root.inputs))]
            )
            active = {root}
            while stack:
                node, rest = stack[-1]
                child = next((n for n in rest if n not in placed), None)
                if child is None:
                    stack.pop()
                    placed.add(node)
                    order.append(node)
                elif child in active:
                    raise GraphError(f"{child.name} depends on itself", where=child.at)
                else:
                    active.add(child)
                    stack.append((child, iter(child.inputs)))
        self.nodes = order

    def copy(self) -> Graph:
        """The same graph with nodes of its own; tensors are shared, as nobody changes them."""
        new = Graph()
        mapped: dict[Node, Node] = {}

        def clone(node: Node) -> Node:
            args = substitute(node.args, mapped.__getitem__)
            attrs = {
                key: substitute(value, mapped.__getitem__) for key, value in node.attrs.items()
            }
            mapped[node] = Node(node.name, node.op, args, attrs, node.type, node.where)
            return mapped[node]

        new.inputs = [clone(node) for node in self.inputs]
        new.params = {name: clone(node) for name, node in self.params.items()}
        new.nodes = [clone(node) for node in self.nodes]
        new.output = clone(self.output)
        new.store = self.store.copy()
        new.symbols = dict(self.symbols)
        new.in_spec, new.out_spec = self.in_spec, self.out_spec  # nobody changes a spec
        new.checkpoint = self.checkpoint
        new.enter, new.leave = self.enter, self.leave  # nobody changes these either
        new.restarts = self.restarts
        new._names = set(self._names)
        return new

    # -- reading --------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Node:
        """The node of this name."""
        for node in (*self.inputs, *self.params.values(), *self.nodes):
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def outputs(self) -> tuple[Arg, ...]:
        return self.output.args

    def value(self, node: Node) -> torch.Tensor:
        """The tensor of a parameter node."""
        return self.store[node.name]

    def verify(self) -> None:
        """Check the rules of the IR; raises ``GraphError`` at the first that is broken."""
        from .verify import verify

        verify(self)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the graph as the model was called, and return what the model returned."""
        from .interpret import call

        return call(self, args, kwargs)

    def to_module(self) -> torch.nn.Module:
        """An ``nn.Module`` that computes the graph and that ``torch.export`` takes."""
        from .module import to_module

        return to_module(self)

    def __str__(self) -> str:
        from .text import text

        return text(self)


# Words that Python's grammar or our text form keeps to itself.
_RESERVED = {*keyword.kwlist, "output", "graph", "inf", "nan", "int", "float", "bool", *DTYPES}
