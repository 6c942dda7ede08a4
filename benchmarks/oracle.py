"""What a model itself gives in float64, which graphs are held against."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_HALVES = {torch.float32, torch.float16, torch.bfloat16}


class _InDouble(TorchDispatchMode):
    """Casts to a floating-point dtype, and whatever else names one, mean float64."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return _in_double(func, args, kwargs or {})


class _NumbersInDouble(TorchFunctionMode):
    """The same for ``torch.tensor(0.95, dtype=torch.float32)``, which no dispatch sees."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.tensor:
            return _in_double(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _in_double(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    def double(value: Any) -> Any:
        return torch.float64 if isinstance(value, torch.dtype) and value in _HALVES else value

    return func(*map(double, args), **{k: double(v) for k, v in kwargs.items()})


class FirstOfTies(TorchDispatchMode):
    """``topk`` takes the lowest indices among equal values, as ONNX has it.

    PyTorch leaves open which it takes, so a run of a model with these is one of its own.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not torch.ops.aten.topk.default:
            return func(*args, **(kwargs or {}))
        x, k, *rest = args
        dim = rest[0] if rest else -1
        largest = rest[1] if len(rest) > 1 else True
        found = torch.sort(x, dim=dim, descending=largest, stable=True)
        return tuple(part.narrow(dim, 0, k) for part in found)


def doubled(value: Any) -> Any:
    """A tree of values with its floating-point tensors in float64."""
    return tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, value)


def eager_in_double(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> list[torch.Tensor]:
    """The tensors that the model itself gives in float64."""
    model = copy.deepcopy(model).double()
    choose: Any = getattr(model, "set_experts_implementation", None)
    if choose is not None:
        choose("eager")  # the grouped product knows no float64
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), _InDouble(), _NumbersInDouble():
            found = model(*doubled(args), **doubled(dict(kwargs or {})))
    finally:
        torch.set_default_dtype(torch.float32)
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
