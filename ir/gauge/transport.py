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
from dataclasses import replace
from typing import Any, Literal

import torch

from .. import ops
from ..graph import Graph, Node, substitute
from ..infer import sample
from ..laws import DIAGONAL, MIXING, OUT, Action, Call, Flow, Kind, Movement, Port, Stop
from ..types import TensorType, evaluate
from .region import Blocked, Edit, Refused, Region, Restore, operand, operands


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
        action = Action(labels, -1)
        region = Region(self.graph, self.kind, value, size)
        region.actions[value] = action
        try:
            self.need_whole(region, value, action)
            self.start(region, value, restore, insert)
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
            self.need_side_by_side(region, value)
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
        trial = self.fork(region)
        try:
            if value.op == "input":
                raise Refused(Blocked(value, "it is an input of the graph"))
            self.close(trial, [value], hold=value)
        except Refused as refused:
            if not insert or self.kind is Kind.CENTRE:  # ``close`` has centred what could be
                raise
            self.need_side_by_side(region, value)
            region.inserted, region.insertion_cause = True, refused.blocked
            region.skipped.add((value, value))
        else:
            self.adopt(region, trial)

    def forward(self, region: Region, value: Node, users: Iterable[Node]) -> None:
        """Each reader takes the action, passes it on as a movement, or gets the original back."""
        users = list(users)
        together = self.fork(region)  # readers that meet again later must be looked at together
        try:
            self.close(together, users)
        except Refused:
            pass  # one of them stops it: find out which
        else:
            self.adopt(region, together)
            return
        for user in users:
            trial = self.fork(region)
            try:
                self.close(trial, [user])
            except Refused as refused:
                moves = user.op not in ("cat", "output") and isinstance(
                    ops.get(user.op).law, Movement
                )
                if moves and self.advance(region, user):
                    continue
                self.need_side_by_side(region, value)
                region.skipped.add((user, value))
                region.restores.append(Restore(user, value))
                region.restore_causes.append(refused.blocked)
            else:
                self.adopt(region, trial)

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
                if self.may_center(region, node):
                    region.centered[node] = refused.blocked
                else:
                    self.give_back(region, node, refused.blocked)
                continue
            changed = self.choose(region, node, flows, [*queue, *late], hold)
            if changed is None:  # a choice ran the rest of the queue to its end
                return
            for other in changed:
                if other not in waiting:
                    waiting.add(other)
                    queue.append(other)

    def give_back(self, region: Region, node: Node, cause: Blocked) -> None:
        """Let a reader have the originals, where that is allowed; it changes nothing itself."""
        read = [n for n in operands(node).values() if n in region.actions and n.op != "param"]
        if not self.anywhere or node in region.actions or not read:
            raise Refused(cause)
        for value in dict.fromkeys(read):
            self.need_side_by_side(region, value)
            region.skipped.add((node, value))
            region.restores.append(Restore(node, value))
            region.restore_causes.append(cause)

    def may_center(self, region: Region, node: Node) -> bool:
        """Whether a value that nothing upstream can centre may be centred by an op of its own."""
        reads = any(value in region.actions for value in operands(node).values())
        return self.kind is Kind.CENTRE and self.insert and node in region.actions and not reads

    def choose(
        self, region: Region, node: Node, flows: list[Flow], rest: list[Node], hold: Node | None
    ) -> list[Node] | None:
        if len(flows) == 1:
            return self.assign(region, node, flows[0], hold)
        refusals: list[Refused] = []
        for flow in flows:
            trial = self.fork(region)
            try:
                changed = self.assign(trial, node, flow, hold)
                self.close(trial, [*rest, *changed], hold)
            except Refused as refused:
                refusals.append(refused)
            else:
                self.adopt(region, trial)
                return None
        raise refusals[-1]

    def answers(self, region: Region, node: Node) -> list[Flow]:
        """What the op's law makes of the actions known at its ports."""
        region.seen[node] = None
        known: dict[Port, Action] = {}
        shapes: dict[Port, tuple[int, ...]] = {}
        for port, value in operands(node).items():
            if isinstance(value.type, TensorType):
                shapes[port] = self.shape(value)
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
        if not isinstance(node.type, TensorType):
            raise Refused(Blocked(node, f"no law is known for {node.op}"))
        shapes[OUT] = self.shape(node)
        data = {p: a for p, a in known.items() if p == OUT or self.is_data(node, p)}
        taken = [port for port in known if port not in data] if data else []
        attrs = {key: self.numbers(value) for key, value in node.attrs.items()}
        args = tuple(substitute(arg, lambda _: None) for arg in node.args)
        call = Call(node, self.kind, data or known, shapes, attrs, args, region.size)
        try:
            flows = list(ops.get(node.op).law.flow(call))
        except Stop as stop:
            raise Refused(Blocked(node, str(stop))) from None
        if not flows:
            raise Refused(Blocked(node, f"no operand can take the {self.kind.value}"))
        flows = [flow for flow in flows if all(port in flow.ports for port in taken)]
        if not flows:
            raise Refused(Blocked(node, "a parameter that took it up would have to give it back"))
        if self.keep:
            flows = [flow for flow in flows if not self.changes(node, flow)]
            if not flows:
                raise Refused(Blocked(node, "a parameter that must stay as it is would take it up"))
        return flows

    def changes(self, node: Node, flow: Flow) -> bool:
        """Whether a flow would change a parameter that must stay as it is."""
        ports = [port for port in {**flow.ports, **flow.also} if port != OUT]
        return any(operand(node, port) in self.keep for port in ports)

    def assign(self, region: Region, node: Node, flow: Flow, hold: Node | None) -> list[Node]:
        """Record what the law asks for; returns the ops to look at next."""
        changed: list[Node] = []
        region.cells += flow.cells
        for port, action in flow.ports.items():
            value = node if port == OUT else operand(node, port)
            if value not in region.actions and bool((action.labels < 0).all()):
                continue  # nothing of it changes
            if value is None or value.op == "param":
                self.edit(region, Edit(node, port, action))
            elif self.record(region, node, value, action):
                changed += [value] if value is not node else []
                changed += [u for u in value.users if u is not node] if value is not hold else []
        for port, action in flow.also.items():
            self.edit(region, Edit(node, port, action))
        for port, action in flow.through.items():
            key = (node, (2,), None)
            region.edits[key] = Edit(node, (2,), action, through=port)
        return changed

    def record(self, region: Region, node: Node, value: Node, action: Action) -> bool:
        """Give a value its action; True if it is new. A second one ties coordinates, or stops."""
        if (node, value) in region.skipped:
            raise Refused(Blocked(node, "it reads the original value too"))
        old = region.actions.get(value)
        if old is None:
            self.need_whole(region, node, action)
            region.actions[value] = action
            return True
        self.reconcile(region, node, old, action)
        return False

    def edit(self, region: Region, edit: Edit) -> None:
        key = (edit.node, edit.port, edit.action.axes)
        self.need_whole(region, edit.node, edit.action)
        old = region.edits.get(key)
        if old is not None:
            self.reconcile(region, edit.node, old.action, edit.action)
        else:
            region.edits[key] = edit

    def need_whole(self, region: Region, node: Node, action: Action) -> None:
        """The mean is over one axis that holds all coordinates in order."""
        if self.kind is Kind.CENTRE:
            labels = action.labels.flatten()
            if len(action.axes) != 1 or not torch.equal(
                labels, torch.arange(region.size, dtype=labels.dtype)
            ):
                raise Refused(Blocked(node, "the channels are taken apart here"))

    def need_side_by_side(self, region: Region, value: Node) -> None:
        """An op can mix channels where one axis holds all of them, in order."""
        if self.kind in MIXING:
            action = region.actions[value]
            whole = torch.arange(region.size, dtype=action.labels.dtype)
            if len(action.axes) != 1 or not torch.equal(action.labels.flatten(), whole):
                text = "no op can mix the channels here: they do not lie side by side"
                raise Refused(Blocked(value, text))

    def reconcile(self, region: Region, node: Node, old: Action, new: Action) -> None:
        # A sign and an orthogonal matrix are their own opposites.
        alike = old.power == new.power or self.kind in (Kind.SIGN, Kind.ORTHOGONAL)
        if alike and torch.equal(old.labels, new.labels):
            return
        if not alike or self.kind not in DIAGONAL:
            raise Refused(
                Blocked(node, "it brings together channels that change in different ways")
            )
        left, right = torch.broadcast_tensors(old.labels, new.labels)
        region.ties.append((left.flatten(), right.flatten()))

    # -- small things ---------------------------------------------------------------------------

    def fork(self, region: Region) -> Region:
        return replace(
            region,
            actions=dict(region.actions),
            edits=dict(region.edits),
            restores=list(region.restores),
            restore_causes=list(region.restore_causes),
            ties=list(region.ties),
            cells=list(region.cells),
            seen=dict(region.seen),
            centered=dict(region.centered),
            skipped=set(region.skipped),
        )

    def adopt(self, region: Region, trial: Region) -> None:
        region.actions, region.edits = trial.actions, trial.edits
        region.ties, region.cells, region.seen = trial.ties, trial.cells, trial.seen
        region.centered, region.skipped = trial.centered, trial.skipped
        region.restores, region.restore_causes = trial.restores, trial.restore_causes

    def shape(self, node: Node) -> tuple[int, ...]:
        return tuple(evaluate(size, self.point) for size in node.shape)

    def numbers(self, attr: Any) -> Any:
        """An attribute with its symbolic sizes as numbers."""
        return sample(attr, self.point)

    @staticmethod
    def is_data(node: Node, port: Port) -> bool:
        value = operand(node, port)
        return value is not None and value.op != "param"
