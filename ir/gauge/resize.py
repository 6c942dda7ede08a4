"""What becomes of every op that reads or holds coordinates that are dropped or repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch

from .. import ops
from ..errors import GraphError
from ..graph import Graph, Node, substitute
from ..infer import sample
from ..laws import (
    Action,
    Add,
    Contract,
    Elementwise,
    Fill,
    Kind,
    Movement,
    Mul,
    Normalize,
    Port,
    Reduce,
    ScaledDotProduct,
    Softmax,
)
from ..types import TensorType, Type
from .apply import Untied, change_parameters
from .region import Blocked, Edit, Refused, Region, operand, operands
from .tensors import spread
from .zeros import Zeros

# How often each position is there afterwards, along each axis where it is not always once; axes are
# counted from the end.
Kept: TypeAlias = dict[int, torch.Tensor]


def _rows(left: torch.Tensor) -> torch.Tensor:
    """The positions that are there afterwards, each as often as it is."""
    return torch.repeat_interleave(torch.arange(len(left)), left)


def _is_summed(edit: Edit) -> bool:
    """Whether a linear layer sums over what its weights take up here."""
    return edit.node.op == "linear" and edit.port == (1,) and -1 in edit.action.axes


def check_region(region: Region) -> None:
    if region.kind is not Kind.PERMUTATION:
        raise GraphError(
            f"a region of kind {region.kind.value}: only permutations drop coordinates"
        )
    if region.inserted or region.restores or region.centered:
        raise GraphError("an op would have to give back what is dropped", where=region.value.at)
    for edit in region.edits.values():
        if edit.node.op == "div" and edit.port == (1,):
            raise GraphError("it divides by what would be zero", where=edit.node.at)


class Plan:
    """What becomes of every node that reads or holds a dropped coordinate."""

    def __init__(self, graph: Graph, region: Region, copies: torch.Tensor) -> None:
        check_region(region)
        self.graph, self.region, self.copies = graph, region, copies
        self.repeats = bool((copies > 1).any())
        self.point = {name: max(low, 2) for name, (low, _) in graph.symbols.items()}
        self.known: dict[Action, Kept] = {}
        self.left = {node: self._left(node, a) for node, a in region.actions.items()}
        self.attrs: dict[Node, dict[str, Any]] = {}
        self.factors: dict[Node, float] = {}  # of the weights of norms
        self.shares: dict[Node, float] = {}  # which part of what a mean counts is left
        self.zeros = Zeros(region)

    # -- making ---------------------------------------------------------------------------------

    def make(self) -> None:
        """Find what every node becomes; raises ``Refused``."""
        divided: dict[Node, bool] = {}
        for edit in self.region.edits.values():
            self._left(edit.node, edit.action)
            param = operand(edit.node, edit.port)
            if (
                self.repeats
                and param is not None
                and divided.setdefault(param, _is_summed(edit)) != _is_summed(edit)
            ):
                raise Refused(Blocked(edit.node, f"not all who read {param.name} sum over it"))
        for node in self.graph.nodes:
            before = self._before(node)
            if before or node in self.left:
                self._need_no_count(node, before)
                self.attrs[node] = {**node.attrs, **self._changes(node, before)}
                self._need_fit(node)
                if isinstance(ops.get(node.op).law, Movement):
                    self._need_same_move(node)

    def _left(self, node: Node, action: Action) -> Kept:
        """How many there are of each row, along each axis where it is not one: or it is refused."""
        if action not in self.known:
            self.known[action] = self._whole_rows(node, action)
        return self.known[action]

    def _whole_rows(self, node: Node, action: Action) -> Kept:
        here = spread(action, self.copies, 1)
        left: Kept = {}
        product = torch.ones((), dtype=here.dtype)
        for axis in action.axes:
            others = [i for i in range(here.dim()) if i != here.dim() + axis]
            along = here.amax(dim=others) if others else here
            if not bool((along == 1).all()):
                left[axis] = along
            product = product * along.reshape(-1, *[1] * (-axis - 1))
        if not torch.equal(product.expand_as(here), here):
            raise Refused(Blocked(node, "what is left here would be no block of whole rows"))
        return left

    def _before(self, node: Node) -> dict[Port, Kept]:
        found = {port: self._held(node, port, value) for port, value in operands(node).items()}
        return {port: self._left(node, action) for port, action in found.items() if action}

    def _held(self, node: Node, port: Port, value: Node) -> Action | None:
        """What a value at an operand holds; a parameter, as this reader takes it."""
        if value.op != "param":
            return self.region.actions.get(value)
        return next(iter(self.region.actions_of(node, port)), None)

    def _changes(self, node: Node, before: Mapping[Port, Kept]) -> dict[str, Any]:
        """The attributes that hold a size, a place or a count of the channels."""
        after = self.left.get(node, {})
        match node.op:
            case "reshape" | "expand" | "full" | "zeros" | "ones":
                key = "shape" if "shape" in node.attrs else "size"
                sizes = list(node.attrs[key])
                for axis, left in after.items():
                    sizes[axis] = sizes[axis] if sizes[axis] == -1 else int(left.sum())
                return {key: tuple(sizes)}
            case "slice" | "select":
                axis = node.attrs["dim"] % len(node.args[0].shape) - len(node.args[0].shape)
                left = before[(0,)].get(axis)
                keys = [key for key in ("start", "end", "index") if key in node.attrs]
                if left is None:
                    return {}
                if node.attrs.get("step", 1) > 1:
                    return self._stepped(node, left)
                return {key: int(left[: node.attrs[key]].sum()) for key in keys}
            case "repeat_interleave" if self._axis(node) in after and "output_size" in node.attrs:
                return {"output_size": int(after[self._axis(node)].sum())}
            case "layer_norm" | "rms_norm" if -1 in after:
                return {"normalized_shape": (int(after[-1].sum()),), **self._eps(node, after[-1])}
            case "group_norm":
                return {"num_groups": self._groups(node, [after], node.attrs["num_groups"])}
            case "scaled_dot_product_attention" if -1 in before.get((0,), {}):
                size = self._shape(node.args[0])[-1]
                return {"scale": node.attrs.get("scale") or 1 / math.sqrt(size)}
            case "conv1d" | "conv2d" | "conv3d" if node.attrs.get("groups", 1) > 1:
                sides = [before.get((0,), {}), after]
                return {"groups": self._groups(node, sides, node.attrs["groups"])}
            case _:
                return {}

    def _stepped(self, node: Node, left: torch.Tensor) -> dict[str, Any]:
        """Where every so many positions are taken, if those that are left still lie so."""
        taken = torch.arange(len(left))[slice(*(node.attrs[k] for k in ("start", "end", "step")))]
        places = (left.cumsum(0) - left)[taken[left[taken] > 0]]
        steps = places.diff().unique().tolist()
        if not len(places) or len(steps) > 1:
            raise Refused(Blocked(node, "what is left of what it takes is no row of even steps"))
        step = steps[0] if steps else 1
        return {"start": int(places[0]), "end": int(places[-1]) + 1, "step": step}

    def _eps(self, node: Node, left: torch.Tensor) -> dict[str, Any]:
        if node.op != "rms_norm":
            return {}
        ratio = left.numel() / int(left.sum())
        self.factors[node] = math.sqrt(ratio)
        return {"eps": (node.attrs.get("eps") or torch.finfo(node.dtype).eps) * ratio}

    def _groups(self, node: Node, sides: list[Kept], groups: int) -> int:
        """How many groups are left, of which each has as many channels as the others."""
        whole: list[torch.Tensor] = []
        for side in sides:
            if not side:
                whole.append(torch.ones(groups, dtype=torch.bool))
            for left in side.values():
                counts = left.reshape(groups, -1).sum(1)
                if counts[counts > 0].unique().numel() != 1:
                    raise Refused(Blocked(node, "its groups would be of different sizes"))
                whole.append(counts > 0)
        if any(not torch.equal(some, whole[0]) for some in whole):
            raise Refused(Blocked(node, "other groups would be left of its input than its result"))
        return int(whole[0].sum())

    def _need_fit(self, node: Node) -> None:
        """The op must take what is left of its operands, and give what is to be left of it."""
        ports = {value: port for port, value in operands(node).items()}

        def shrunk(value: Node) -> Any:
            found = sample(value, self.point)
            if value.op != "param":
                return self._narrowed(found, self.region.actions.get(value))
            for action in self.region.actions_of(node, ports[value]) if value in ports else ():
                found = self._narrowed(found, action)
            return found

        args = substitute(node.args, shrunk)
        attrs = {key: substitute(value, shrunk) for key, value in self.attrs[node].items()}
        try:
            with torch.device("meta"), torch.no_grad():
                found = ops.call(node.op, args, attrs)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = f"it does not take what would be left: {str(error).splitlines()[0]}"
            raise Refused(Blocked(node, reason)) from error
        wanted = self._narrowed(sample(node, self.point), self.region.actions.get(node))
        for here, there in zip(_parts(found), _parts(wanted), strict=True):
            if here.shape != there.shape:
                raise Refused(Blocked(node, f"it would be of the shape {list(here.shape)}"))

    def _need_same_move(self, node: Node) -> None:
        """What stands at each place that is left must be what stands there now."""
        whole = [self._places(value, k) for k, value in enumerate(operands(node).values())]
        actions = [self._held(node, port, value) for port, value in operands(node).items()]
        small = [self._narrowed(*pair) for pair in zip(whole, actions, strict=True)]
        wanted = self._narrowed(self._moved(node, whole, node.attrs), self.region.actions.get(node))
        moved = self._moved(node, small, self.attrs[node])
        if moved.shape != wanted.shape or not torch.equal(moved, wanted):
            raise Refused(Blocked(node, "it would move the channels to other places"))

    def _moved(
        self, node: Node, parts: Sequence[torch.Tensor], given: Mapping[str, Any]
    ) -> torch.Tensor:
        """What an op makes of other operands, with these attributes."""
        many = isinstance(node.args[0], tuple)
        attrs = {key: sample(value, self.point) for key, value in given.items()}
        rest = tuple(sample(arg, self.point) for arg in node.args[1:])
        return ops.call(node.op, (tuple(parts) if many else parts[0], *rest), attrs)

    def _places(self, value: Node, operand: int) -> torch.Tensor:
        """A number for each place of an operand, of which others have none."""
        shape = self._shape(value)
        return torch.arange(math.prod(shape)).reshape(shape) + (operand << 40)

    def _narrowed(self, value: Any, action: Action | None) -> Any:
        """What is left of a value, if it holds coordinates; of a tuple, of each part."""
        if isinstance(value, (list, tuple)):
            return [self._narrowed(part, action) for part in cast("list[Any]", value)]
        kept = {} if action is None else self._left(self.region.value, action)
        for axis, left in kept.items():
            value = value.index_select(axis, _rows(left))
        return value

    # -- what counts ----------------------------------------------------------------------------

    def _need_no_count(self, node: Node, before: Mapping[Port, Kept]) -> None:
        def stop(reason: str) -> None:
            raise Refused(Blocked(node, reason))

        law = ops.get(node.op).law
        summed: dict[Port, int] = {}
        if self.repeats and any(before.values()):
            weight = operand(node, (1,)) if node.op == "linear" else None
            by_weights = weight is not None and weight.op == "param"
            if not by_weights and not isinstance(law, (Elementwise, Mul, Add, Movement, Fill)):
                stop("it would count the copies")
            return
        match law:
            case Normalize(centres=True, grouped=False) if -1 in before.get((0,), {}):
                stop("its mean is over the channels; centre them first")
            case Normalize(grouped=True) if before.get((0,)):
                groups = node.attrs["num_groups"]
                (left,) = before[(0,)].values()
                by_group = left.reshape(groups, -1)
                if not torch.equal(by_group.any(1), by_group.all(1)):
                    stop("its mean is over the channels of a group")
            case Normalize(centres=False, grouped=False) if -1 in before.get((0,), {}):
                if not self.zeros.at(node.args[0]):
                    stop("its mean is over the channels, and what is dropped is not zero there")
            case Softmax() if self._axis(node) in before.get((0,), {}):
                stop("what is dropped has a part in the sum")
            case Reduce() if node not in self.left and before.get((0,)):
                if node.op not in ("sum", "mean", "linalg_vector_norm"):
                    stop(f"{node.op} runs over the channels")
                if not self.zeros.at(node.args[0]):
                    stop(f"{node.op} runs over the channels, and what is dropped is not zero there")
                if node.attrs.get("ord", 2) <= 0:
                    stop("its order counts zeros")
                if node.op == "mean":
                    self.shares[node] = math.prod(
                        int(left.sum()) / left.numel() for left in before[(0,)].values()
                    )
            case ScaledDotProduct():
                sides = [*(before.get((i,), {}) for i in range(3)), self.left.get(node, {})]
                bias = operand(node, (3,))
                if bias is not None and math.prod(self._shape(bias)[-3:-2]) > 1:
                    sides.append(before.get((3,), {}))  # it differs between heads
                if len({-3 in side for side in sides}) > 1:
                    stop("whole heads would be left out of a part of its operands")
                summed = {(0,): -1, (1,): -1}
            case Contract():
                summed = {(0,): -1, (1,): -1 if node.op == "linear" else -2}
            case _:
                return
        factors = [operand(node, port) for port in summed]
        if any(axis in before.get(port, {}) for port, axis in summed.items()):
            if not any(n is None or n.op == "param" or self.zeros.at(n) for n in factors):
                stop("what is dropped is zero in neither factor")

    def _axis(self, node: Node) -> int:
        rank = len(self._shape(node.args[0]))
        return node.attrs["dim"] % rank - rank

    def _shape(self, node: Node) -> tuple[int, ...]:
        return tuple(sample(node, self.point).shape)

    # -- carrying out ---------------------------------------------------------------------------

    def carry_out(self) -> list[Untied]:
        """Change the parameters and the nodes, in order, and see that each fits the next."""

        def narrowed(value: torch.Tensor, edit: Edit) -> torch.Tensor:
            here = self._left(self.region.value, edit.action)
            for axis, left in here.items():
                rows = _rows(left)
                value = value.index_select(axis, rows)
                if self.repeats and _is_summed(edit):
                    value = value / left[rows]
            return value.contiguous()

        untied = change_parameters(self.graph, self.region, narrowed)
        for node, factor in self.factors.items():
            weight = node.operand(1)
            size = self.attrs[node]["normalized_shape"]
            old = torch.ones(size, dtype=node.dtype) if weight is None else self.graph.value(weight)
            self.graph.give(node, 1, old * factor, name=f"{node.name}_weight")
        for node, share in self.shares.items():
            scaled = self.graph.add(
                "mul",
                node,
                share,
                type=node.type,
                where=node.where,
                before=self.graph.following(node),
            )
            self.graph.replace(node, scaled)
        for node in self.graph.nodes:
            if node not in self.attrs:
                continue
            node.set(attrs=self.attrs[node])
            node.type = _narrower(node.type, self.left.get(node, {}))
        return untied


def _parts(value: Any) -> list[torch.Tensor]:
    """The tensors of a result, of which an op may give several."""
    parts = cast("list[Any]", value) if isinstance(value, (tuple, list)) else [value]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def _narrower(type_: Type, left: Kept) -> Type:
    """The type of what is left of a value; each part of a tuple loses the same."""
    if isinstance(type_, tuple):
        return tuple(_narrower(part, left) for part in type_)
    if not isinstance(type_, TensorType):
        return type_
    shape = list(type_.shape)
    for axis, rows in left.items():
        shape[axis] = int(rows.sum())
    return TensorType(type_.dtype, tuple(shape))
