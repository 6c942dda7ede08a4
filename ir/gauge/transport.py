"""Carry a group's action from one value to wherever it is absorbed, and say what stops it where it
is not.

From the value, the action runs back into what makes it and forward into all that read it; each op's
law says what its other ports must then do, until every branch has ended in a parameter (an
**edit**) or in an op that does not see the action. Where a reader stops the action, and the group
allows it, the reader gets the original back by an inserted op (a **restore**); where what makes the
value stops it, the new value may be computed by an inserted op (an **insertion**). All is symbolic:
a region is found once and applied with any element of its group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Literal

import torch

from .. import ops
from ..graph import Graph, Node, substitute
from ..infer import sample
from ..laws import MIXING, OUT, Action, Call, Flow, Kind, Movement, Port, Stop, interned
from ..types import TensorType, evaluate
from .notes import blamed, edit, fill, need_side_by_side, need_whole, partial_values, record
from .parts import join_parts
from .region import (
    Blocked,
    Edit,
    Refused,
    Region,
    Restore,
    is_computed_weight,
    operand,
    operands,
)
from .tied import join_tied


def transport(
    graph: Graph,
    value: Node,
    kind: Kind,
    *,
    axes: tuple[int, ...] = (-1,),
    restore: bool | Literal["anywhere"] = False,
    insert: bool | Literal["always"] = False,
    free: bool = False,
    keep: Collection[Node] = (),
) -> Region | Blocked:
    """Find all that must change when ``value`` is acted on along ``axes``.

    Args:
        restore: Readers of the value that stop the action may get the original back; with
            "anywhere", readers of all that changes with it too.
        insert: The changed value may be computed from the original if what makes it stops the
            action; with "always" it is, whatever makes it.
        free: Graph inputs and outputs may change too (to test laws); else they stop the action.
        keep: Parameters that must stay as they are.
    """
    return _Search(graph, kind, free, keep).run(value, axes, restore, insert)


class _Search:
    """The state of one transport."""

    def __init__(self, graph: Graph, kind: Kind, free: bool, keep: Collection[Node]) -> None:
        self.graph, self.kind, self.free, self.insert = graph, kind, free, False
        self.keep = keep
        # Symbolic sizes stand for small numbers: no law depends on them.
        self.point = {name: max(low, 2) for name, (low, _) in graph.symbols.items()}

    def run(
        self,
        value: Node,
        axes: tuple[int, ...],
        restore: bool | Literal["anywhere"],
        insert: bool | Literal["always"],
    ) -> Region | Blocked:
        shape = self.shape(value)
        size = 1
        marked = [1] * len(shape)
        for axis in axes:
            size *= shape[axis]
            marked[axis] = shape[axis]
        labels = torch.arange(size, dtype=torch.int32).reshape(marked)
        # x' = x / s and x' = x - z, as the literature has it
        action = interned(Action(labels, -1))
        region = Region(self.graph, self.kind, value, size)
        region.actions[value] = action
        try:
            need_whole(region, value, action)
            self.start(region, value, restore, insert)
            if self.kind is Kind.PERMUTATION:
                join_tied(region)
                if not region.confine([]):
                    raise Refused(Blocked(value, "no two of its channels can be exchanged"))
            self.taken_apart(region)
        except Refused as refused:
            return refused.blocked
        return region

    def start(
        self,
        region: Region,
        value: Node,
        restore: bool | Literal["anywhere"],
        insert: bool | Literal["always"],
    ) -> None:
        self.anywhere = restore == "anywhere"
        self.insert = bool(insert)
        users = list(value.users)
        if value.op == "param":
            raise Refused(Blocked(value, "it is a parameter itself"))
        if insert == "always":
            need_side_by_side(region, value)
            region.inserted = True
            region.skipped.add((value, value))
        else:
            self.attempt_back(region, value, bool(insert))
        if not restore or self.anywhere:
            self.close(region, users)
            return
        self.forward(region, value, users)

    def attempt_back(self, region: Region, value: Node, insert: bool) -> None:
        """Run back into what makes the value, before any reader is looked at."""
        if self.free and value.op == "input":
            return
        trial = region.fork()
        try:
            if value.op == "input":
                raise Refused(Blocked(value, "it is an input of the graph"))
            self.close(trial, [value], hold=value)
        except Refused as refused:
            if not insert or self.kind is Kind.CENTRE:  # ``close`` has centred what could be
                raise
            need_side_by_side(region, value)
            region.inserted, region.insertion_cause = True, refused.blocked
            region.skipped.add((value, value))
        else:
            region.adopt(trial)

    def forward(self, region: Region, value: Node, users: Iterable[Node]) -> None:
        """Each reader takes the action, passes it on as a movement, or gets the original back."""
        users = list(users)
        together = region.fork()  # readers that meet again later must be looked at together
        try:
            self.close(together, users)
        except Refused:
            pass  # one of them stops it: find out which
        else:
            region.adopt(together)
            return
        for user in users:
            trial = region.fork()
            try:
                self.close(trial, [user])
            except Refused as refused:
                moves = user.op not in ("cat", "output") and isinstance(
                    ops.get(user.op).law, Movement
                )
                if moves and self.advance(region, user):
                    continue
                need_side_by_side(region, value)
                region.skipped.add((user, value))
                region.restores.append(Restore(user, value))
                region.restore_causes.append(refused.blocked)
            else:
                region.adopt(trial)

    def advance(self, region: Region, user: Node) -> bool:
        """Carry the action over a movement, and try its readers one by one."""
        flows = self.answers(region, user)
        if user in region.actions or any(
            n is not region.value for n in flows[0].ports if isinstance(n, Node)
        ):
            return False
        region.actions[user] = flows[0].ports[OUT]
        region.seen[user] = None
        self.forward(region, user, list(user.users))
        return True

    # -- the closure ----------------------------------------------------------------------------

    def close(self, region: Region, start: list[Node], hold: Node | None = None) -> None:
        """Let every op reached do what its law asks; raises ``Refused``.

        ``hold`` is a value whose readers are not looked at.
        """
        queue = deque(start)
        waiting = set(queue)
        late: deque[Node] = (
            deque()
        )  # concatenations wait until nothing else can tell about their parts
        tried: set[Node] = set()  # ops that were put off, since anything was learned
        while queue or late:
            node = queue.popleft() if queue else late.popleft()
            if queue and node.op in ("cat", "stack"):
                late.append(node)
                continue
            waiting.discard(node)
            if node.op == "output":
                if self.free:
                    continue
                self.give_back(region, node, Blocked(node, "the value is an output of the graph"))
                continue
            if node.op in ("input", "param"):
                if self.free:
                    continue
                if node.op == "input" and self.may_center(region, node):
                    region.centered[node] = Blocked(node, "it is an input of the graph")
                    continue
                raise Refused(Blocked(node, "it is an input of the graph"))
            try:
                flows = self.answers(region, node)
            except Refused as refused:
                partial = partial_values(region, node)
                if partial and (queue or late) and node not in tried:
                    late.append(node)  # others may yet tell about the rest of its channels
                    waiting.add(node)
                    tried.add(node)
                elif any(whole := [fill(region, value) for value in partial]):
                    queue.extend(other for other in chain(*whole) if other not in waiting)
                    waiting.update(queue)
                elif self.may_center(region, node):
                    region.centered[node] = refused.blocked
                else:
                    self.give_back(region, node, refused.blocked)
                continue
            changed = self.choose(region, node, flows, [*queue, *late], hold)
            if changed is None:  # a choice ran the rest of the queue to its end
                return
            if changed:
                tried.clear()
            for other in changed:
                if other not in waiting:
                    waiting.add(other)
                    queue.append(other)

    def give_back(self, region: Region, node: Node, cause: Blocked) -> None:
        """Let a reader have the originals, where that is allowed; it changes nothing itself."""
        read = [n for n in operands(node).values() if n in region.actions and n.op != "param"]
        whole = all(isinstance(value.type, TensorType) for value in read)
        if not self.anywhere or node in region.actions or not read or not whole:
            raise Refused(cause)
        for value in dict.fromkeys(read):
            need_side_by_side(region, value)
            region.skipped.add((node, value))
            region.restores.append(Restore(node, value))
            region.restore_causes.append(cause)

    def may_center(self, region: Region, node: Node) -> bool:
        """Whether a value that nothing upstream can centre may be centred by an op of its own."""
        reads = any(value in region.actions for value in operands(node).values())
        whole = isinstance(node.type, TensorType) and node in region.actions and not reads
        return self.kind is Kind.CENTRE and self.insert and whole

    def choose(
        self, region: Region, node: Node, flows: list[Flow], rest: list[Node], hold: Node | None
    ) -> list[Node] | None:
        if len(flows) == 1:
            return self.assign(region, node, flows[0], hold)
        refusals: list[Refused] = []
        for flow in flows:
            trial = region.fork()
            try:
                changed = self.assign(trial, node, flow, hold)
                self.close(trial, [*rest, *changed], hold)
            except Refused as refused:
                refusals.append(refused)
            else:
                region.adopt(trial)
                return None
        raise refusals[-1]

    def answers(self, region: Region, node: Node) -> list[Flow]:
        """What the op's law makes of the actions known at its ports."""
        region.seen[node] = None
        known: dict[Port, Action] = {}
        for port, value in operands(node).items():
            actions = region.actions_of(node, port) if value.op == "param" else ()
            if (
                value.op != "param"
                and value in region.actions
                and (node, value) not in region.skipped
            ):
                known[port] = region.actions[value]
            elif actions:
                known[port] = actions[0]
        if node in region.actions and (node, node) not in region.skipped:
            known[OUT] = region.actions[node]
        data = {p: a for p, a in known.items() if p == OUT or self.is_data(node, p)}
        taken = [port for port in known if port not in data] if data else []
        flows = self.asked(region, self.call(region, node, data or known))
        flows = [flow for flow in flows if all(port in flow.ports for port in taken)]
        if not flows:
            raise Refused(Blocked(node, "a parameter that took it up would have to give it back"))
        if self.keep:
            flows = [flow for flow in flows if not self.changes(node, flow)]
            if not flows:
                raise Refused(Blocked(node, "a parameter that must stay as it is would take it up"))
        return flows

    def call(self, region: Region, node: Node, known: dict[Port, Action]) -> Call:
        """An op with these actions at its ports, as its law wants it."""
        ports = {**operands(node), OUT: node}
        shapes = {p: self.shape(n) for p, n in ports.items() if isinstance(n.type, TensorType)}
        attrs = {key: sample(value, self.point) for key, value in node.attrs.items()}
        args = tuple(substitute(arg, lambda _: None) for arg in node.args)
        return Call(node, self.kind, known, shapes, attrs, args, region.size)

    def taken_apart(self, region: Region) -> None:
        """Let a parameter that several ops take parts of change as one: see ``parts``."""

        def seen(edit: Edit, action: Action) -> Action:
            flow = self.asked(region, self.call(region, edit.node, {edit.port: action}))[0]
            return flow.ports[OUT]

        join_parts(region, seen)

    @staticmethod
    def asked(region: Region, call: Call) -> list[Flow]:
        """What the law of an op answers, at least one flow."""
        try:
            flows = list(ops.get(call.node.op).law.flow(call))
        except Stop as stop:
            raise Refused(blamed(region, Blocked(call.node, str(stop)))) from None
        if not flows:
            raise Refused(Blocked(call.node, f"no operand can take the {call.kind.value}"))
        return flows

    def changes(self, node: Node, flow: Flow) -> bool:
        """Whether a flow would change a parameter that must stay as it is."""
        ports = [port for port in {**flow.ports, **flow.also} if port != OUT]
        taken = [operand(node, port) for port in ports]
        if (1,) in ports and is_computed_weight(node, (1,)):
            taken += node.args[1].inputs
        return any(value in self.keep for value in taken)

    def assign(self, region: Region, node: Node, flow: Flow, hold: Node | None) -> list[Node]:
        """Record what the law asks for; returns the ops to look at next."""
        changed: list[Node] = []
        self.confine(region, node, flow)
        region.ties += flow.ties
        for port, action in flow.ports.items():
            value = node if port == OUT else operand(node, port)
            if value not in region.actions and bool((action.labels < 0).all()):
                continue  # nothing of it changes
            if value is None or value.op == "param" or is_computed_weight(node, port):
                self.take_up(region, node, port, action)
            else:
                readers = () if value is hold else value.users
                further = record(region, node, value, action)
                changed += [other for other in further if other in {value, *readers}]
        for port, action in flow.also.items():
            self.take_up(region, node, port, action)
        for port, action in flow.through.items():
            for place, what in (((1,), "weights are"), ((2,), "bias is")):
                if getattr(operand(node, place), "op", "param") != "param":
                    raise Refused(Blocked(node, f"its {what} no parameter"))
            region.edits[(node, (2,), None)] = Edit(node, (2,), action, through=port)
        return changed

    def confine(self, region: Region, node: Node, flow: Flow) -> None:
        if self.kind in MIXING and flow.cells:
            mixes = region.confine(flow.cells)
            if self.kind is Kind.PERMUTATION and not mixes:
                raise Refused(Blocked(node, "no two channels can be exchanged here"))

    def take_up(self, region: Region, node: Node, port: Port, action: Action) -> None:
        """Let a parameter take an action up, be it one from which an op computes the weights.

        Such weights are no value with one action: they take one along each of their axes, as the
        parameters do.
        """
        value = operand(node, port)
        if value is None or value.op == "param":
            edit(region, Edit(node, port, action))
            return
        if not is_computed_weight(node, port):
            raise Refused(Blocked(node, "its weights would have to take two actions at once"))
        flow = self.asked(region, self.call(region, value, {OUT: action}))[0]
        region.seen[value] = None
        self.confine(region, value, flow)
        region.ties += flow.ties
        for place, taken in flow.ports.items():
            if place != OUT:
                edit(region, Edit(value, place, taken))

    # -- small things ---------------------------------------------------------------------------

    def shape(self, node: Node) -> tuple[int, ...]:
        return tuple(evaluate(size, self.point) for size in node.shape)

    @staticmethod
    def is_data(node: Node, port: Port) -> bool:
        value = operand(node, port)
        return value is not None and value.op != "param"
