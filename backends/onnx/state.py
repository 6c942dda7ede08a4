"""Caches in ONNX Runtime: how many tokens they hold, and buffers in which they grow.

Who emits a graph in the form of ``forms/cached.py`` gives it one more input, the number of tokens
of the past. A call that hands caches on has as many as they are long. ``BoundSteps`` keeps caches
in buffers with room for more, which are both what an op reads and what it writes. State of one
size, such as that of a recurrence, has two buffers that take turns. Another input, of
``forms/last.py``, says from which token on scores are wanted: a call wants all, a step the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...ir import Graph, Node, TensorType
from ...ir.state import find_caches
from ...ir.types import evaluate
from ..pages import in_huge_pages

Feeds = Mapping[str, Any]


class Past:
    """How many tokens the caches of a call hold, as an input of the model.

    Args:
        graph: What was lowered.
        name: The input.
        first: The input of the first token to score, where the model has one.
    """

    def __init__(self, graph: Graph, name: str, first: str = "") -> None:
        self.name, self.first = name, first
        cache = find_caches(graph)[0]
        self._cache, self._length = cache.past, cache.fresh.shape[2]
        self._inputs = {node.name: node for node in graph.inputs}

    def run(
        self, feeds: Feeds, once: Callable[[Feeds], list[torch.Tensor]]
    ) -> Iterable[torch.Tensor]:
        """The outputs of a call.

        ONNX Runtime's op takes several new tokens beside a past of one sequence alone, so of more
        they are run one by one.
        """
        batch, _, tokens, _ = feeds[self._cache.name].shape
        every = {self.first: torch.tensor(0)} if self.first else {}
        many = {**feeds, **every, self.name: torch.tensor(tokens)}
        if batch == 1 or not tokens or self._new(feeds) == 1:
            return once(many)
        found = [once(self._one(many, index)) for index in range(batch)]
        return (torch.cat(parts) for parts in zip(*found, strict=True))

    def _new(self, feeds: Feeds) -> int:
        """How many tokens are new."""
        sizes = {
            size: int(feeds[name].shape[axis])
            for name, node in self._inputs.items()
            if isinstance(node.type, TensorType) and name in feeds
            for axis, size in enumerate(node.shape)
            if isinstance(size, str) and size.isidentifier()
        }
        return evaluate(self._length, sizes)

    def _one(self, feeds: Feeds, index: int) -> Feeds:
        batch = self._cache.shape[0]

        def part(name: str, value: Any) -> Any:
            node = self._inputs.get(name)
            own = node is not None and isinstance(node.type, TensorType) and batch in node.shape
            return value[index : index + 1] if own else value

        return {name: part(name, value) for name, value in feeds.items()}


def _buffers(empty: Sequence[torch.Tensor], capacity: int) -> list[torch.Tensor]:
    """Caches with room for so many tokens, one behind the other."""
    shapes = [
        (batch, heads, capacity, width)
        for batch, heads, _, width in (cache.shape for cache in empty)
    ]
    sizes = [math.prod(shape) for shape in shapes]
    with in_huge_pages():
        whole = torch.empty(sum(sizes), dtype=empty[0].dtype).zero_()
    return [part.view(shape) for part, shape in zip(whole.split(sizes), shapes, strict=True)]


@dataclass
class _Turns:
    """State of one size: what a step reads, and what it writes."""

    name: str
    output: str
    now: torch.Tensor
    next: torch.Tensor


class BoundSteps:
    """Sequences whose caches stay where they are.

    Args:
        session: The inference session.
        run: Has it read and write what is bound; says where it stops.
        past: The inputs of how many tokens there are, and of which are scored.
        ids: The input of new ones.
        scores: The output to return, and its node.
        state: The inputs of caches, and the outputs that take their place.
        turns: The inputs of other state, and the outputs that take their place.
        given: All inputs, with caches of no tokens.
        capacity: How many tokens there may be.
        to_runtime: A tensor as a value of the runtime, in the same memory.
    """

    def __init__(
        self,
        session: Any,
        run: Callable[[Any], None],
        *,
        past: Past,
        ids: str,
        scores: tuple[str, Node],
        state: Mapping[str, str],
        turns: Mapping[str, str],
        given: Mapping[str, Any],
        capacity: int,
        to_runtime: Callable[[Any], Any],
    ) -> None:
        self._run, self._to_runtime = run, to_runtime
        self._past, self._ids = past, ids
        self._scores, node = scores
        self._width, self._dtype = int(node.shape[2]), node.dtype
        self._tokens = 0
        self._found = torch.empty(0)
        self._bound: Any = session.io_binding()
        known = {info.name for info in session.get_inputs()}
        for name, value in given.items():
            if name in known and name != ids and name not in state and name not in turns:
                self._bound.bind_ortvalue_input(name, to_runtime(value))
        self.buffers = _buffers([given[name] for name in state], capacity)
        for (name, output), buffer in zip(state.items(), self.buffers, strict=True):
            value = to_runtime(buffer)
            self._bound.bind_ortvalue_input(name, value)
            self._bound.bind_ortvalue_output(output, value)
        self._turns = [
            _Turns(name, output, given[name].clone(), torch.empty_like(given[name]))
            for name, output in turns.items()
        ]

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """The scores, of the last token where the model takes that; the next call may write over
        them."""
        batch, length = ids.shape[:2]
        first = length - 1 if self._past.first else 0
        shape = (batch, length - first, self._width)
        if self._found.shape != shape:
            self._found = torch.empty(shape, dtype=self._dtype)
            self._bound.bind_ortvalue_output(self._scores, self._to_runtime(self._found))
        numbers = {self._past.name: self._tokens, self._past.first: first}
        given = {name: torch.tensor(number) for name, number in numbers.items() if name}
        for name, value in {**given, self._ids: ids}.items():
            self._bound.bind_ortvalue_input(name, self._to_runtime(value))
        for state in self._turns:
            self._bound.bind_ortvalue_input(state.name, self._to_runtime(state.now))
            self._bound.bind_ortvalue_output(state.output, self._to_runtime(state.next))
        self._run(self._bound)
        for state in self._turns:
            state.now, state.next = state.next, state.now
        self._tokens += length
        return self._found

    def rewind(self, tokens: int) -> None:
        """Forget the last tokens; only caches can."""
        assert not self._turns
        self._tokens = max(self._tokens - tokens, 0)
