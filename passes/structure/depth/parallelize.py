"""Let consecutive blocks read the same value, and so run at the same time (A29, F11.1).

With blocks ``h_l = h_(l-1) + f_l(h_(l-1))``, Newton's iteration with the identity for a Jacobian
solves for all states of a chunk at once, from states that are all its entry's:

    h_l  <-  h_0 + sum_(i <= l) f_i(h_(i-1))        all f_i by the states of the iteration before

After i iterations the first i states are exact, so as many iterations as a chunk has blocks give
what the model gave; what is exact already is not computed again. One iteration costs what
the blocks cost: maps of two of them that read the one value are one of twice the width
(``MergeEqual`` and ``JoinReaders`` make it one), and what reads a value of its own block stays
apart. Approximate; exact at the limit of as many iterations as blocks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from ....ir import Graph, Node
from ....ir.blocks import Block, repeated
from ....ir.graph import substitute
from ....ir.state import find_state
from ...base import Context, Promise, Remark, Stage, applied, missed
from ...options import COUNT, SOME, Range, check_numbers
from ...sites import Asked, SparingPass


@dataclass(frozen=True)
class Parallelize(SparingPass):
    """Run the repeated blocks in chunks.

    Args:
        chunk: How many blocks.
        iterations: How often their states are solved for.
        start, stop: Which blocks, by their number; all where not given.
    """

    chunk: int = 2
    iterations: int = 1
    start: int = 0
    stop: int | None = None
    what: ClassVar[str] = "what enters a repeated block"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_numbers(self, chunk=Range(2, whole=True), iterations=COUNT)
        check_numbers(
            self, iterations=Range(1, self.chunk, whole=True), start=SOME, stop=SOME | None
        )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        blocks = repeated(graph)[self.start : self.stop]
        remarks: list[Remark] = []
        if len(blocks) < self.chunk:
            text = f"{len(blocks)} blocks that repeat one another are no chunk of {self.chunk}"
            remarks.append(missed(graph.output, text))
        kept = {state.joined for state in find_state(graph)}
        chunks = range(0, len(blocks) - self.chunk + 1, self.chunk)
        for index in reversed(chunks):  # a chunk's end is the next one's entry
            chunk = blocks[index : index + self.chunk]
            entry = chunk[0].entry
            if entry is None or not asked(entry):
                continue
            inside = [node for block in chunk for node in block.nodes]
            if sentence := asked.protected_in(inside):
                remarks.append(missed(entry, sentence))
                continue
            ends = itertools.pairwise(chunk)
            if any(before.exit is not block.entry for before, block in ends) or any(
                block.exit.type != entry.type for block in chunk
            ):
                remarks.append(missed(entry, "its blocks do not give what they are given"))
                continue
            if 1 < self.iterations < self.chunk and not kept.isdisjoint(inside):
                text = "its state would be another in each iteration: take one, or all of the chunk"
                remarks.append(missed(entry, text))
                continue
            self._solve(graph, entry, chunk)
            remarks.append(
                applied(
                    entry,
                    f"{len(chunk)} blocks read it, from {chunk[0].exit.name} to "
                    f"{chunk[-1].exit.name}; {self.iterations} iterations",
                )
            )
        return remarks[::-1]

    def _solve(self, graph: Graph, entry: Node, chunk: list[Block]) -> None:
        last = chunk[-1].exit
        after = graph.following(last)
        states = [entry] * len(chunk)  # what each block reads
        changes: dict[int, Node] = {}
        total = entry
        copies: list[dict[Node, Node]] = [{} for _ in chunk]
        for iteration in range(self.iterations):
            for place in range(iteration, len(chunk)):
                block, state = chunk[place], states[place]
                copies[place] = _copied(graph, block, state, after)
                given = copies[place].get(block.exit, block.exit)
                changes[place] = graph.add(
                    "sub", given, state, type=entry.type, where=block.exit.where, before=after
                )
            total = entry
            for place in range(len(chunk)):
                total = graph.add(
                    "add", total, changes[place], type=entry.type, where=last.where, before=after
                )
                if place + 1 < len(chunk):
                    states[place + 1] = total
        graph.replace(last, total, keep=[*copies[-1].values(), *changes.values()])
        for block, copy in zip(chunk, copies, strict=True):
            inside = {*block.nodes, *copy.values(), *(n for c in copies for n in c.values())}
            for old, new in copy.items():
                if old is not block.exit and old is not new:
                    graph.replace(old, new, keep=inside)
        graph.prune()
        graph.sort()


def _copied(graph: Graph, block: Block, state: Node, before: Node | None) -> dict[Node, Node]:
    """The nodes of a block that depend on its entry, once more, with another entry."""
    entry = block.entry
    assert entry is not None
    if state is entry:
        return {}
    copies: dict[Node, Node] = {entry: state}
    for node in block.nodes:
        if any(used in copies for used in node.inputs):
            args = substitute(node.args, lambda used: copies.get(used, used))
            attrs = {
                key: substitute(value, lambda used: copies.get(used, used))
                for key, value in node.attrs.items()
            }
            copies[node] = graph.add(
                node.op,
                *args,
                name=node.name,
                type=node.type,
                where=node.where,
                before=before,
                **attrs,
            )
    del copies[entry]
    return copies
