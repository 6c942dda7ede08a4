"""What each op makes of values that hold the experts of a mixture (``holding``), one rule a kind of
op; an op without a rule is refused by name."""

from __future__ import annotations

import math
from typing import Any

import torch

from ....ir import Node, ops
from ....ir.gauge.region import operand, operands
from ....ir.graph import walk
from ....ir.laws import OUT, Add, GroupedContract, Movement, Port, Reduce, Softmax, Stop
from .holding import (
    COMPARISONS,
    NUMBERS,
    PLACES,
    POINTWISE,
    SAME,
    Held,
    Holding,
    State,
    Terms,
    on,
    reduced,
    refuse,
)

# Where what is left out is last it stays so, and alone: these rise everywhere. Those that are level
# somewhere, as relu is, make others equal to it, and a choice may then fall on either.
_RISING = frozenset({"sigmoid", "exp", "softplus", "sqrt", "tanh"})
CHOICES = frozenset({"topk", "argmax", "aten.max.dim"})


def apply(holding: Holding, node: Node) -> State:
    """How an op's result holds experts; raises ``Refused``."""
    states = [holding.state(value) for value in operands(node).values()]
    if any(holding.state(value) != SAME for value in walk(tuple(node.attrs.values()))):
        refuse(node, "one of its attributes tells the experts apart")
    if node.op == "getitem":
        state = states[0]
        return state[node.args[1]] if isinstance(state, tuple) else refuse(node, "it has no rule")
    if any(isinstance(state, tuple) or state == PLACES for state in states):
        refuse(node, "it reads which place an expert has among a part of all")
    if NUMBERS in states:
        return _numbers(holding, node)
    if any(_is_term(state) for state in states) and isinstance(ops.get(node.op).law, Add):
        return _sum_of_terms(holding, node)
    if any(isinstance(state, Terms) for state in states):
        refuse(node, "it reads what only some of the experts give")
    if not holding.held(node):
        return holding.state(node)
    return _places(holding, node)


# -- experts by place -----------------------------------------------------------------------------


def _places(holding: Holding, node: Node) -> State:
    law = ops.get(node.op).law
    if node.op in CHOICES:
        return _choice(holding, node)
    if isinstance(law, Movement):
        return _moved(holding, node)
    if isinstance(law, Softmax):
        return _softmax(holding, node)
    if isinstance(law, GroupedContract):
        return _grouped(holding, node)
    if (isinstance(law, Reduce) and not law.window) or node.op in ("any", "all"):
        return _reduction(holding, node)
    if node.op == "cumsum":
        return _running_sum(holding, node)
    if isinstance(law, POINTWISE) or node.op in COMPARISONS:
        return _pointwise(holding, node)
    if node.op in ("index", "gather", "index_select") and (state := holding.state(node)) != SAME:
        return state
    if (letters := holding.letters(node)) is not None:
        return _product(holding, node, letters)
    return refuse(node, "it has no rule for values that hold experts")


def _choice(holding: Holding, node: Node) -> State:
    state = holding.held(node)[(0,)]
    rank = state.labels.dim()
    if node.op == "argmax" and node.attrs.get("dim") is None:
        refuse(node, "it chooses among all rows at once")
    dim = int(node.attrs.get("dim", -1)) % rank - rank
    if dim not in state.axes:
        refuse(node, "it chooses among the places of each expert")
    if not state.last or not node.attrs.get("largest", True):
        refuse(node, "it is not known that it passes over what is left out")
    count = int(node.attrs.get("k", 1))
    whole = state.axes == (dim,) and torch.equal(
        state.labels.flatten(), torch.arange(holding.count)
    )
    if not whole and state.axes != (dim - 1, dim):
        refuse(node, "it chooses among some of the experts")
    if not whole:
        holding.parts = state.labels.shape[dim - 1]
    else:
        holding.choices[node] = None
    holding.least = max(holding.least, count)
    chosen = NUMBERS if whole else PLACES
    return chosen if node.op == "argmax" else (SAME, chosen)


def _moved(holding: Holding, node: Node) -> State:
    held = holding.held(node)
    known = {port: state.labels for port, state in held.items()}
    try:
        (flow,) = ops.get(node.op).law.flow(holding.call(node, known))
    except Stop as stop:
        refuse(node, str(stop))
    labels = flow.ports[OUT].labels.long()
    if bool((labels < 0).all()):
        return SAME
    states = list(held.values())
    gone = {state.gone for state in states}
    return Held(labels, gone.pop() if len(gone) == 1 else None, all(state.last for state in states))


def _softmax(holding: Holding, node: Node) -> State:
    state = holding.held(node)[(0,)]
    rank = state.labels.dim()
    if int(node.attrs["dim"]) % rank - rank not in state.axes:
        return Held(state.labels)
    if state.gone != -math.inf:
        refuse(node, "what is left out has a part in its sum")
    return Held(state.labels, 0.0 if node.op == "softmax" else -math.inf, True)


def _grouped(holding: Holding, node: Node) -> State:
    held = holding.held(node)
    ends = held.get((2,))
    if set(held) - {(1,)} != {(2,)} or ends is None:
        refuse(node, "its rows hold experts by place")
    if not torch.equal(ends.labels.flatten(), torch.arange(holding.count)):
        refuse(node, "its groups are not the experts, in order")
    holding.need(node, (1,), holding.along(3, 0))
    return SAME


def _reduction(holding: Holding, node: Node) -> State:
    state = holding.held(node)[(0,)]
    rank, dims = state.labels.dim(), reduced(node)
    over = [axis for axis in state.axes if axis % rank in dims]
    keep = bool(node.attrs.get("keepdim", False))
    if not over:
        labels = state.labels if keep else state.labels.squeeze(tuple(sorted(dims)))
        passes = node.op not in ("sum", "linalg_vector_norm") or state.gone == 0
        return Held(labels, state.gone if passes else None)
    nothing = {"sum": 0.0, "any": 0.0, "all": 1.0}.get(node.op)
    if node.op == "linalg_vector_norm" and node.attrs.get("ord", 2) > 0:
        nothing = 0.0
    if not (node.op == "amax" and state.last) and (nothing is None or state.gone != nothing):
        refuse(node, "it counts what is left out")
    if len(over) < len(state.axes) and over != [state.axes[-1]]:
        refuse(node, "it runs over the parts of the experts")
    return SAME


def _running_sum(holding: Holding, node: Node) -> State:
    state = holding.held(node)[(0,)]
    if state.gone != 0:
        refuse(node, "what is left out has a part in its sums")
    rank = state.labels.dim()
    runs_over = int(node.attrs["dim"]) % rank - rank in state.axes
    return Held(state.labels, None if runs_over else 0.0)


def _product(holding: Holding, node: Node, letters: Any) -> State:
    """A sum of products: experts are summed over, or the product has them too."""
    held = holding.held(node)
    single = {state.only for state in held.values()} - {None}
    axes = {port: state.axes for port, state in held.items()}
    if single or any(len(own) != 1 for own in axes.values()):
        if len(held) == 1 and single:  # of one expert alone
            bias = operand(node, (2,)) is not None and (2,) in letters
            gone = 0.0 if next(iter(held.values())).gone == 0 and not bias else None
            return Held(torch.tensor(single.pop()).reshape([1] * len(node.shape)), gone)
        refuse(node, "it multiplies values that hold the experts along two axes")
    names = {letters[port][own[0]] for port, own in axes.items()}
    if len(names) != 1:
        refuse(node, "it multiplies values that hold the experts along two axes")
    name, labels = names.pop(), next(iter(held.values())).labels.flatten()
    for port, own in letters.items():
        if port != OUT and name in own:
            holding.need(node, port, on(labels, len(own), own.index(name)))
    if name in letters[OUT]:
        zero = any(state.gone == 0 for state in held.values()) and (2,) not in letters
        return Held(on(labels, len(letters[OUT]), letters[OUT].index(name)), 0.0 if zero else None)
    if not any(state.gone == 0 for state in held.values()):
        refuse(node, "it sums over the experts, and what is left out is not zero")
    return SAME


def _pointwise(holding: Holding, node: Node) -> State:
    held = holding.held(node)
    rank = len(node.shape)
    wide = [
        state.labels.reshape([1] * (rank - state.labels.dim()) + list(state.labels.shape))
        for state in held.values()
    ]
    if any(not torch.equal(wide[0], other) for other in wide[1:]):
        refuse(node, "it joins values that hold the experts in different orders")
    holding.spread(node, wide[0])
    gone, last = _gone(holding, node)
    return Held(wide[0], gone, last)


def _gone(holding: Holding, node: Node) -> tuple[float | None, bool]:
    """What a pointwise op gives for an expert that is left out, and whether that is last."""
    values = [_value(holding, arg) for arg in node.args]
    states = [holding.state(arg) for arg in node.args]
    lasts = [state.last for state in states if isinstance(state, Held)]
    match node.op:
        case "mul" if 0 in values and not any(v is not None and math.isinf(v) for v in values):
            return 0.0, False
        case "div" if values[0] == 0:
            return 0.0, False
        case "add" if -math.inf in values or _is_corrected(holding, node):
            return -math.inf, True
        case "sub" if values[0] == -math.inf:
            return -math.inf, True
        case "masked_fill" | "where":
            data, mask, other = values if node.op == "masked_fill" else (values[2], *values[:2])
            if mask is not None:
                data = other = other if mask else data
            same = data if data == other else None
            return same, same == -math.inf
        case _:
            pass
    if any(value is None for value in values) or any(walk(tuple(node.attrs.values()))):
        return None, False
    tensors = [torch.tensor(value, dtype=torch.float64) for value in values]
    attrs = {key: value for key, value in node.attrs.items() if key != "dtype"}
    gone = tensors[0] if node.op == "to" else ops.call(node.op, tuple(tensors), attrs)
    factors = [value for value in values if value is not None]
    plain = [value for value, state in zip(factors, states, strict=True) if state == SAME]
    rising = (
        node.op in _RISING
        or (node.op == "to" and node.dtype.is_floating_point)
        or (node.op == "mul" and (min(plain) > 0 if plain else min(factors) >= 0))
        or (node.op == "div" and not isinstance(states[1], Held) and factors[1] > 0)
        or (node.op in ("add", "sub") and not isinstance(states[1], Held))
    )
    if math.isnan(value := float(gone)):
        return None, False
    return value, rising and bool(lasts) and all(lasts)


def _value(holding: Holding, arg: Any) -> float | None:
    if isinstance(arg, Node):
        state = holding.state(arg)
        return state.gone if isinstance(state, Held) else None
    return None if arg is None else float(arg)


def _is_corrected(holding: Holding, node: Node) -> bool:
    """Whether scores get a parameter added, whose places of those left out may then be -inf."""
    ports: list[Port] = [(0,), (1,)]
    states = [holding.state(operand(node, port)) for port in ports]
    for port, other in zip(ports, reversed(states), strict=True):
        if (node, port) in holding.taken and isinstance(other, Held) and other.last:
            return True
    return False


# -- what single experts give ---------------------------------------------------------------------


def _is_term(state: State) -> bool:
    return isinstance(state, Terms) or (isinstance(state, Held) and state.only is not None)


def _sum_of_terms(holding: Holding, node: Node) -> State:
    if node.op != "add" or node.attrs.get("alpha", 1) != 1:
        refuse(node, "it does not add what an expert gives")
    found: set[int] = set()
    whole = False
    for arg in node.args:
        state = holding.state(arg)
        if not isinstance(arg, Node) or holding.shape(arg) != holding.shape(node):
            refuse(node, "it adds values of different shapes")
        match state:
            case Terms(experts=experts):
                found |= experts
            case Held(gone=gone) if state.only is not None:
                if gone != 0:
                    refuse(node, "what is left out is not zero here")
                found.add(state.only)
            case "same":
                whole = True
            case _:
                refuse(node, "it adds values that hold the experts in different ways")
    holding.terms[node] = None
    return SAME if whole or len(found) == holding.count else Terms(frozenset(found))


# -- experts by number ----------------------------------------------------------------------------


def _numbers(holding: Holding, node: Node) -> State:
    read = {port: holding.state(value) for port, value in operands(node).items()}
    at = [port for port, state in read.items() if state == NUMBERS]
    alone = len(at) == len(read)
    match node.op:
        case "to" if node.dtype != torch.bool:
            return NUMBERS
        case _ if alone and isinstance(ops.get(node.op).law, Movement):
            return NUMBERS
        case "aten.sort.default" | "aten.sort.stable":
            return (NUMBERS, SAME)
        case "aten.argsort.default" | "aten.argsort.stable":
            return SAME
        case "index" | "gather" | "index_select" if at == [(0,)]:
            return NUMBERS
        case "index" if at[0][0] == 1:
            for _, dim in at:
                _need_along(holding, node, dim)
            return SAME
        case "gather" | "index_select" if at == [(1,)]:
            _need_along(holding, node, int(node.attrs["dim"]))
            return SAME
        case "embedding" if at == [(1,)]:
            _need_along(holding, node, 0)
            return SAME
        case "scatter" if at == [(1,)]:
            return _scattered(holding, node)
        case "eq" | "ne":
            return _compared(holding, node, at)
        case _ if _counts(holding, node):
            rank = len(node.shape)
            return Held(holding.along(rank, rank - 1), 0.0)
        case _:
            return refuse(node, "it has no rule for the numbers of experts")


def _need_along(holding: Holding, node: Node, dim: int, port: Port = (0,)) -> None:
    value = operand(node, port)
    assert value is not None
    rank = len(value.shape)
    holding.need(node, port, holding.along(rank, dim % rank))


def _counts(holding: Holding, node: Node) -> bool:
    """Whether an op counts the numbers of all experts, or marks them, along its last axis."""
    attrs, count = node.attrs, holding.count
    match node.op:
        case "aten.histc.default":
            limits = (attrs.get("min", 0), attrs.get("max"))
            return attrs.get("bins") == count and limits == (0, count - 1)
        case "aten.one_hot.default":
            return attrs.get("num_classes") == count
        case "aten.bincount.default":
            return attrs.get("minlength") == count and len(node.args) == 1
        case _:
            return False


def _scattered(holding: Holding, node: Node) -> State:
    rank = len(node.shape)
    dim = int(node.attrs["dim"]) % rank
    into = node.args[0]
    fill: float | None = None
    if isinstance(state := holding.state(into), Held) and state.last:
        # Those that were chosen become as those that are left out: another choice needs others.
        if state.gone != -math.inf or node.attrs.get("value") != -math.inf:
            return Held(state.labels)
        holding.least += int(node.args[1].shape[dim])
        return state
    if into.op == "param":
        value = holding.graph.value(into)
        fill = float(value.flatten()[0]) if bool((value == value.flatten()[0]).all()) else None
    elif into.op in ("zeros", "full", "zeros_like", "full_like"):
        fill = float(into.attrs.get("fill_value", 0))
    holding.need(node, (0,), holding.along(rank, dim))
    return Held(holding.along(rank, dim), fill)


def _compared(holding: Holding, node: Node, at: list[Port]) -> State:
    other = node.args[1 - at[0][0]]
    gone = 0.0 if node.op == "eq" else 1.0
    rank = len(node.shape)
    if isinstance(other, (int, float)):
        if other not in range(holding.count):
            refuse(node, f"there is no expert {other}")
        return Held(torch.tensor(int(other)).reshape([1] * rank), gone)
    if len(at) == 1 and isinstance(other, Node) and other.op == "param":
        value = holding.graph.value(other)
        axes = [axis for axis, size in enumerate(value.shape) if size > 1]
        if len(axes) == 1 and torch.equal(value.flatten().long(), torch.arange(holding.count)):
            port = (1 - at[0][0],)
            holding.need(node, port, holding.along(value.dim(), axes[0]))
            holding.numbered.add((node, port))
            axis = axes[0] - value.dim()
            return Held(holding.along(rank, rank + axis), gone)
    return refuse(node, "what it compares the numbers of experts with is not known")
