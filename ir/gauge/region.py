"""What a transport finds: the values that change, the parameters that take it up, the ties."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..graph import Graph, Node
from ..laws import DIAGONAL, Action, Conv, Kind, Port
from ..ops import has_law


@dataclass(frozen=True)
class Blocked:
    """Why an action has no way: the op that stops it, and its reason."""

    node: Node
    reason: str

    def __str__(self) -> str:
        return f"{self.node.name} ({self.node.op}): {self.reason}"


class Refused(Exception):
    """Raised inside the search; carries the ``Blocked``."""

    def __init__(self, blocked: Blocked) -> None:
        super().__init__(str(blocked))
        self.blocked = blocked


@dataclass(frozen=True, eq=False)
class Edit:
    """A parameter operand that takes up an action.

    Attributes:
        node: The reader.
        port: Its operand: a parameter, or a bias still missing.
        action: What the parameter does; with ``through`` set, what the input at that port does,
            which this
            bias makes up for: ``bias - power * W z``.
        through: The port of the shifted input, or ``None``.
    """

    node: Node
    port: Port
    action: Action
    through: Port | None = None


# A parameter may be acted on along several axes, each for itself. The axes are those of the action,
# ``None`` for what a bias makes up for.
EditKey: TypeAlias = tuple[Node, Port, "tuple[int, ...] | None"]


@dataclass(frozen=True, eq=False)
class Restore:
    """A reader of the changed value that must see the original."""

    user: Node
    value: Node


@dataclass
class Region:
    """A value's action with all its consequences.

    Attributes:
        value: The value at which it was asked for.
        size: The number of coordinates: the value's channels, or fewer where permutations move
            some of these together.
        actions: Every value that changes.
        edits: What the parameters take up.
        restores: Readers that get the original back by an inserted op.
        inserted: Whether the changed value itself is computed by an inserted op.
        insertion_cause: What stopped the action on its way back, if so.
        skipped: Pairs of a reader and a value that it reads as it was; of an inserted value, twice
            the value.
        centered: Values that are centred by an inserted op, since what makes them takes no
            centring.
        ties: Coordinates that change alike, place by place as they met in some value.
        groups: For each coordinate, the first of those that must have the same element (diagonal
            kinds), or that it may be exchanged with (permutations).
        fixed: Which coordinates must stay as they are.
    """

    graph: Graph
    kind: Kind
    value: Node
    size: int
    actions: dict[Node, Action] = field(default_factory=dict[Node, Action])
    edits: dict[EditKey, Edit] = field(default_factory=dict[EditKey, Edit])
    restores: list[Restore] = field(default_factory=list[Restore])
    inserted: bool = False
    insertion_cause: Blocked | None = None
    restore_causes: list[Blocked] = field(default_factory=list[Blocked])
    ties: list[tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=list[tuple[torch.Tensor, torch.Tensor]]
    )
    cells: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    seen: dict[Node, None] = field(default_factory=dict[Node, None])  # every op that was passed
    centered: dict[Node, Blocked] = field(default_factory=dict[Node, Blocked])
    skipped: set[tuple[Node, Node]] = field(default_factory=set[tuple[Node, Node]])

    @property
    def groups(self) -> torch.Tensor:
        if self.kind in DIAGONAL:
            return self._tied()[0]
        marks = tuple(self.colours(cells).long().numpy().tobytes() for cells in self.cells)
        return _refinement(marks, self.size)

    def confine(self, cells: list[torch.Tensor]) -> bool:
        """Let an element keep to further cells; says whether it may still mix any coordinates."""
        self.cells = [*self.cells, *cells]
        groups = self.groups
        self.cells = [groups]
        return not torch.equal(groups, torch.arange(self.size))

    def colours(self, cells: torch.Tensor) -> torch.Tensor:
        """Rows of coordinates as a colour for each, -1 for one in no row."""
        if cells.dim() == 1:
            return cells
        mark = torch.full((self.size,), -1, dtype=torch.int64)
        mark[cells.long()] = torch.arange(cells.shape[0])[:, None]
        return mark

    @property
    def members(self) -> list[torch.Tensor]:
        """The coordinates of each group, which go together or may be exchanged."""
        groups = self.groups
        return [torch.nonzero(groups == group).flatten() for group in groups.unique()]

    @property
    def fixed(self) -> torch.Tensor:
        if self.kind in DIAGONAL:
            return self._tied()[1]
        return torch.zeros(self.size, dtype=torch.bool)

    def _tied(self) -> tuple[torch.Tensor, torch.Tensor]:
        identity = self.size  # one more coordinate, that stands for "as it was"
        if not self.ties:
            return torch.arange(self.size), torch.zeros(self.size, dtype=torch.bool)
        left = np.concatenate([a.numpy() for a, _ in self.ties])
        right = np.concatenate([b.numpy() for _, b in self.ties])
        left, right = (np.where(side < 0, identity, side) for side in (left, right))
        edges = coo_array((np.ones(len(left)), (left, right)), shape=(identity + 1, identity + 1))
        component = torch.from_numpy(connected_components(edges, directed=False)[1]).long()
        first = torch.full((int(component.max()) + 1,), identity, dtype=torch.int64)
        first.scatter_reduce_(0, component[:identity], torch.arange(identity), "amin")
        return first[component[:identity]], component[:identity] == component[identity]

    def fork(self) -> Region:
        """A copy to try something on."""
        return replace(
            self,
            actions=dict(self.actions),
            edits=dict(self.edits),
            restores=list(self.restores),
            restore_causes=list(self.restore_causes),
            ties=list(self.ties),
            cells=list(self.cells),
            seen=dict(self.seen),
            centered=dict(self.centered),
            skipped=set(self.skipped),
        )

    def adopt(self, trial: Region) -> None:
        """Take over what a copy found."""
        self.actions, self.edits = trial.actions, trial.edits
        self.ties, self.cells, self.seen = trial.ties, trial.cells, trial.seen
        self.centered, self.skipped = trial.centered, trial.skipped
        self.restores, self.restore_causes = trial.restores, trial.restore_causes

    def actions_of(self, node: Node, port: Port) -> tuple[Action, ...]:
        """What a parameter at an operand of an op takes up, axis by axis."""
        keys = [k for k in self.edits if k[0] is node and k[1] == port and k[2] is not None]
        return tuple(self.edits[key].action for key in sorted(keys, key=lambda k: k[2] or ()))

    @property
    def parameters(self) -> list[Node]:
        """The parameters that take the action up, each once."""
        found: dict[Node, None] = {}
        for edit in self.edits.values():
            node = operand(edit.node, edit.port)
            if node is not None:
                found[node] = None
        return list(found)


def operand(node: Node, port: Port) -> Node | None:
    """The value at a port of an op."""
    arg: Any = node.args[port[0]] if port[0] < len(node.args) else None
    for index in port[1:]:
        arg = arg[index]
    return arg if isinstance(arg, Node) else None


def operands(node: Node) -> dict[Port, Node]:
    """The values an op reads, by port."""
    found: dict[Port, Node] = {}
    for i, arg in enumerate(node.args):
        if isinstance(arg, Node):
            found[(i,)] = arg
        elif isinstance(arg, tuple):
            found |= {(i, j): part for j, part in enumerate(arg) if isinstance(part, Node)}
    return found


def is_computed_weight(node: Node, port: Port) -> bool:
    """Whether a convolution reads there what an op computes for it from parameters alone."""
    value = operand(node, port) if port == (1,) else None
    if value is None or not has_law(node.op, Conv):
        return False
    parts = value.inputs
    return bool(parts) and all(part.op == "param" for part in parts) and len(value.users) == 1


@functools.lru_cache(maxsize=256)  # the layers of a model repeat a few
def _refinement(marks: tuple[bytes, ...], size: int) -> torch.Tensor:
    """The common refinement of colourings: for each coordinate the first of its colours."""
    label = torch.zeros(size, dtype=torch.int64)
    for data in marks:
        mark = torch.frombuffer(bytearray(data), dtype=torch.int64)
        label = torch.unique(label * (mark.max() + 2) + mark + 1, return_inverse=True)[1]
    first = torch.full((int(label.max()) + 1,), size, dtype=torch.int64)
    first.scatter_reduce_(0, label, torch.arange(size), "amin")
    return first[label]
