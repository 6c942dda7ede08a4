"""Decoders read one token at a time: what they keep between two calls, as inputs and outputs.

    scores, state = model(token, state)

A recurrent layer keeps the last inputs of its convolution and the state of its scan, attention its
keys and values, all of it in an object that the model makes itself. That object is found by what
comes back under the name of an argument, and its tensors, wherever they lie, become inputs and
outputs of the graph. Which of their axes are sequences and tokens is seen from calls of several
sizes. In code, the call on one token is the form of a recurrence that goes on from any state:
that on many is unrolled, or cut into chunks, for as many as there are.

It begins with zeros, and with no tokens where tokens are kept; that this is what the model begins
with, and that one token at a time gives what all at once give, has to be looked at for each model.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..ir import TraceError
from ..ir.errors import first_line
from .caches import USE_CACHE, CachedCall, call_on_ids
from .held import holding, numbers, tensors

LOOKED_AT = 16  # tokens that are read one by one and at once
_POSITIONS = "position_ids"  # as every decoder of transformers calls them
_SEQUENCES, _TOKENS = 2, 4  # of the call that is traced: neither is 0 or 1, and they differ


@dataclass(frozen=True)
class Kept:
    """What a model keeps between two calls.

    Attributes:
        name: The argument that takes it, and the part of the result that gives it.
        value: The model's own object, of two sequences and four tokens.
        batch, tokens: The axis of sequences, and that of tokens, of each tensor in it that has one.
    """

    name: str
    value: Any
    batch: Mapping[str, int]
    tokens: Mapping[str, int]

    @property
    def fixed(self) -> list[str]:
        """The places of tensors of one size for any number of tokens."""
        return [place for place in tensors(self.value) if place not in self.tokens]

    def positions(
        self, model: torch.nn.Module, held: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Where in the text the next token is, for models that take it and keep tokens.

        They are told so when they make text; left to themselves, some ask a layer that keeps none.
        """
        if _POSITIONS not in inspect.signature(model.forward).parameters or not self.tokens:
            return {}
        place, axis = next(iter(self.tokens.items()))
        past = held[place].shape[axis]
        return {_POSITIONS: torch.arange(past, past + 1).unsqueeze(0)}

    def shapes(self, batch: Any, past: Any) -> dict[str, dict[int, Any]]:
        """The ``dynamic_shapes`` of its tensors."""
        found: dict[str, dict[int, Any]] = {place: {} for place in tensors(self.value)}
        for axes, size in ((self.batch, batch), (self.tokens, past)):
            for place, axis in axes.items():
                found[place][axis] = size
        return found

    def empty(self, sequences: int) -> dict[str, torch.Tensor]:
        """Its tensors where no token was read."""
        found: dict[str, torch.Tensor] = {}
        for place, value in tensors(self.value).items():
            shape = list(value.shape)
            for axis, size in ((self.batch, sequences), (self.tokens, 0)):
                if place in axis:
                    shape[axis[place]] = size
            found[place] = value.new_zeros(shape)
        return found


def find_kept(model: torch.nn.Module, ids: str, call: Mapping[str, Any]) -> Kept | None:
    """What a model keeps, ``None`` where it gives nothing back that it takes.

    Args:
        ids: The argument of token ids.
        call: The other arguments.

    Raises:
        TraceError: What it keeps cannot be an input of a graph; says which part.
    """

    def kept(sequences: int, tokens: int) -> tuple[str, Any]:
        given = torch.zeros(sequences, tokens, dtype=torch.long)
        return _given_back(model, {**call, ids: given})

    name, value = kept(_SEQUENCES, _TOKENS)
    found = tensors(value)
    if not found:
        return None
    wider, longer = kept(_SEQUENCES + 1, _TOKENS)[1], kept(_SEQUENCES, _TOKENS + 1)[1]
    before, after = numbers(value), numbers(longer)
    if counted := [place for place in before if before[place] != after.get(place)]:
        raise TraceError(
            f"the {type(model).__name__} counts tokens in a Python number, {counted[0]} of its "
            f"{name}, which cannot be an input of a graph",
            do="let the model keep it as a tensor, or compile it without cache=True",
        )
    return Kept(name, value, _grown(name, value, wider), _grown(name, value, longer))


def _given_back(model: torch.nn.Module, call: Mapping[str, Any]) -> tuple[str, Any]:
    """What a call gives back under the name of an argument that it was not given."""
    try:
        with torch.no_grad():
            found = model(**{**call, **_asking(model)})
    except Exception as error:  # of any class
        raise TraceError(
            f"the {type(model).__name__} cannot be called for what it keeps between two calls: "
            f"{type(error).__name__}: {first_line(error)}",
            do="compile it without cache=True",
        ) from error
    names = inspect.signature(model.forward).parameters.keys() - call.keys()
    if not isinstance(found, Mapping):
        return "", None
    held = [(name, value) for name, value in found.items() if name in names and tensors(value)]
    return held[0] if len(held) == 1 else ("", None)


def _asking(model: torch.nn.Module) -> dict[str, Any]:
    """The argument that asks for what is kept."""
    named = USE_CACHE in inspect.signature(model.forward).parameters
    return {USE_CACHE: True} if named else {}


def _grown(name: str, small: Any, large: Any) -> dict[str, int]:
    """The axis along which each tensor of a value is one longer in another."""
    found: dict[str, int] = {}
    others = tensors(large)
    for place, value in tensors(small).items():
        shape = list(others[place].shape) if place in others else []
        gaps = {
            i: b - a for i, (a, b) in enumerate(zip(value.shape, shape, strict=False)) if a != b
        }
        if len(shape) != value.dim() or len(gaps) > 1 or not {1}.issuperset(gaps.values()):
            raise TraceError(
                f"{place} of {name} is {list(value.shape)}, and for one more {shape}: along which "
                "axis it grows is not clear",
                do="compile the model without cache=True",
            )
        found |= dict.fromkeys((place,) if gaps else (), *gaps)
    return found


@dataclass(frozen=True)
class SteppedCall(CachedCall):
    """A call of a decoder on one token and on what it keeps.

    Attributes:
        kept: What the model keeps.
        text: The first token ids of the example, ``[batch, tokens]``.
        whole: What the model gives for these at once.
        why: Why it reads one token at a time.
    """

    kept: Kept
    text: torch.Tensor
    whole: Mapping[str, Any]
    why: str

    @contextlib.contextmanager
    def taken_apart(self, model: torch.nn.Module) -> Generator[None]:
        """Let the model take and give the tensors that it keeps, by their places."""
        name, value = self.kept.name, self.kept.value

        def enter(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            # What the model writes into is not the input.
            own = {place: part.clone() for place, part in kwargs[name].items()}
            place = self.kept.positions(model, own)
            return args, {**kwargs, **place, name: holding(value, own)}

        def leave(_: Any, args: Any, found: Any) -> Any:
            found[name] = tensors(found[name])
            return found

        hooks = (
            model.register_forward_pre_hook(enter, with_kwargs=True),
            model.register_forward_hook(leave),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def with_steps(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], why: str
) -> SteppedCall | None:
    """The call of a decoder on token ids as one on a token; ``None`` where it keeps nothing.

    Args:
        args, kwargs: Example inputs: ids ``[batch, tokens]``, and constants.
        why: It is not called on many tokens.

    Raises:
        InputError: The example holds other tensors than ids.
        TraceError: What it keeps cannot be an input of a graph.
    """
    name, ids, call = call_on_ids(model, args, kwargs)
    kept = find_kept(model, name, call)
    if kept is None:
        return None
    batch, past = torch.export.Dim("batch", min=1), torch.export.Dim("past", min=0)
    first, held = ids[:, :-1], kept.empty(ids.shape[0])
    if first.shape[1]:
        held = tensors(_given_back(model, {**call, name: first})[1])
    text = ids[:, :LOOKED_AT]
    with torch.no_grad():
        whole = model(**{**call, name: text, **dict.fromkeys(_asking(model), False)})

    def one(token: torch.Tensor, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        parts = {place: part.contiguous() for place, part in state.items()}
        return {name: token.contiguous(), kept.name: parts, **_asking(model), **call}

    traced = one(torch.zeros(_SEQUENCES, 1, dtype=ids.dtype), tensors(kept.value))
    shapes = {**dict.fromkeys(traced), name: {0: batch}, kept.name: kept.shapes(batch, past)}
    return SteppedCall(traced, shapes, one(ids[:, -1:], held), kept, text, whole, why)
