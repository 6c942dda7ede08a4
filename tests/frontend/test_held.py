"""Tensors in objects of a model's own are found wherever they lie."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from regauge.frontend.held import holding, numbers, tensors
from regauge.ir import TraceError

ONE, TWO = torch.ones(1), torch.zeros(2)


class Pair(NamedTuple):
    left: Any
    right: Any


CASES = [
    pytest.param({"a": ONE, "b": {"c": TWO}}, {"a": ONE, "b.c": TWO}, id="dicts"),
    pytest.param([[ONE], (None, TWO)], {"0.0": ONE, "1.1": TWO}, id="lists"),
    pytest.param(Pair(ONE, [TWO]), {"0": ONE, "1.0": TWO}, id="named tuples"),
    pytest.param(SimpleNamespace(x=SimpleNamespace(y={0: ONE})), {"x.y.0": ONE}, id="objects"),
    pytest.param([torch.nn.Linear(1, 1), torch, ONE], {"2": ONE}, id="modules are whole"),
    pytest.param("nothing", {}, id="nothing"),
]


@pytest.mark.parametrize(("value", "expected"), CASES)
def test_tensors_are_held_by_their_places(value: Any, expected: dict[str, torch.Tensor]) -> None:
    found = tensors(value)
    assert list(found) == list(expected)
    assert all(found[place] is expected[place] for place in expected)


@pytest.mark.parametrize(("value", "expected"), CASES)
def test_the_object_is_the_same_around_others(value: Any, expected: dict[str, Any]) -> None:
    others = {place: tensor + 1 for place, tensor in expected.items()}
    found = holding(value, others)
    assert type(found) is type(value)
    assert all(tensors(found)[place] is others[place] for place in others)
    assert all(tensors(value)[place] is expected[place] for place in expected)


def test_numbers_are_those_beside_tensors_and_flags_are_none() -> None:
    value = SimpleNamespace(tokens=3, on=True, inner=[ONE, 0.5], config={"size": 4})
    assert numbers(value) == {"tokens": 3, "inner.1": 0.5}


def test_an_object_that_lies_in_itself_is_refused() -> None:
    value = SimpleNamespace(x=ONE)
    value.inner = SimpleNamespace(outer=value, y=TWO)
    with pytest.raises(TraceError, match=r"inner\.outer of what the model keeps refers to what"):
        tensors(value)
