import json
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils import _pytree as pytree

from regauge.driver.convention import spec_from_json, spec_to_json
from regauge.ir import ArtifactError


class Local(NamedTuple):
    a: Any
    b: Any


def there_and_back(tree: Any) -> tuple[pytree.TreeSpec, pytree.TreeSpec, list[str]]:
    notes: list[str] = []
    spec = pytree.tree_structure(tree)
    found = spec_from_json(json.loads(json.dumps(spec_to_json(spec))), notes)
    return spec, found, notes


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param(1, id="leaf"),
        pytest.param((), id="empty"),
        pytest.param((1, [2, {"a": 3, 4: None}]), id="nested"),
        pytest.param(OrderedDict(b=1, a=2), id="ordered"),
        pytest.param(torch.export.Dim, id="object"),
        pytest.param(torch.max(torch.ones(2, 2), 0), id="return type"),
    ],
)
def test_a_structure_survives_json(tree: Any) -> None:
    spec, found, notes = there_and_back(tree)
    assert found == spec and notes == []


def test_a_named_tuple_survives_where_its_module_can_be_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import regauge.ir

    monkeypatch.setattr(Local, "__module__", "regauge.ir")
    monkeypatch.setattr(regauge.ir, "Local", Local, raising=False)
    spec, found, notes = there_and_back({"x": Local(1, 2)})
    assert found == spec and notes == []


def test_a_class_that_cannot_be_imported_gives_way_to_a_tuple(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Local, "__module__", "gone.elsewhere")
    _, found, notes = there_and_back({"x": Local(1, 2)})
    assert pytree.tree_unflatten([1, 2], found) == {"x": (1, 2)}
    assert notes == ["gone.elsewhere.Local cannot be imported here: a tuple stands in its place"]


def test_an_output_class_that_cannot_be_imported_gives_way_to_a_dict() -> None:
    leaf = {"type": "leaf"}
    saved = {"type": "gone.Output", "context": ["logits", "state"], "children": [leaf, leaf]}
    notes: list[str] = []
    found = spec_from_json(saved, notes)
    assert pytree.tree_unflatten([1, 2], found) == {"logits": 1, "state": 2}
    assert notes == ["gone.Output cannot be imported here: a dict stands in its place"]


def test_a_key_that_json_cannot_hold() -> None:
    with pytest.raises(ArtifactError) as error:
        spec_to_json(pytree.tree_structure({(1, 2): 3}))
    assert str(error.value) == (
        "the model uses (1, 2) as a key of a dict, which JSON cannot hold\n"
        "  do  let the model return a dict with text as keys"
    )
