"""Checkpoint folders: loaded from safetensors alone, and damage is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from regauge.frontend import load_checkpoint, trace
from regauge.ir import InputError, WeightError


@pytest.fixture
def folder(tmp_path: Path, zoo_model: Callable[..., Any]) -> Path:
    zoo_model("gpt2").model.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["gpt2", "t5_encoder", "vit", "bert", "resnet"])
def test_loads_and_traces_without_inputs(
    tmp_path: Path, zoo_model: Callable[..., Any], name: str
) -> None:
    original = zoo_model(name).model
    original.save_pretrained(tmp_path)
    graph = trace(tmp_path)
    (node,) = graph.inputs
    assert node.name == original.main_input_name
    torch.manual_seed(0)
    shape = [int(size) for size in node.shape]
    value = torch.randn(shape) if node.dtype.is_floating_point else torch.randint(9, shape)
    with torch.no_grad():
        expected = original(**{node.name: value})
    torch.testing.assert_close(graph.run(**{node.name: value})[0], expected[0])


def test_inputs_may_be_given(folder: Path) -> None:
    graph = trace(folder, (torch.zeros(3, 5, dtype=torch.int64),))
    assert graph.inputs[0].shape == (3, 5)


def test_several_files(tmp_path: Path, zoo_model: Callable[..., Any]) -> None:
    zoo_model("gpt2").model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    load_checkpoint(tmp_path)
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(WeightError, match=f"{victim.name} is missing, which the index names"):
        load_checkpoint(tmp_path)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("h.1.ln_2.bias"))
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        WeightError, match=r"1 tensors are missing, the first is .*h\.1\.ln_2\.bias"
    ):
        load_checkpoint(folder)


def test_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("h.1.ln_2.bias"))
    tensors[name] = torch.zeros(7)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightError, match="do not fit the configuration"):
        load_checkpoint(folder)


@pytest.mark.parametrize("keep", [-100, 20, 3])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    message = "the tensor .* is cut off" if keep < 0 else "the file is cut off in its header"
    with pytest.raises(WeightError, match=message) as error:
        load_checkpoint(folder)
    assert error.value.where == str(file)


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightError, match=r"in pickle files only \(pytorch_model.bin\)"):
        load_checkpoint(folder)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightError, match="there are no weights"):
        load_checkpoint(folder)


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it has no config\.json"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_configuration_that_is_none(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        load_checkpoint(folder)


def test_a_class_that_nobody_knows(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["NoSuchModel"]}))
    with pytest.raises(InputError, match="transformers has no class NoSuchModel"):
        load_checkpoint(folder)


def test_transformers_is_asked_for_when_it_is_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'regauge\[hf\]'"):
        load_checkpoint(folder)


def test_a_weight_that_is_no_number_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("h.1.ln_2.bias"))
    tensors[name][:2] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightError, match=r"h\.1\.ln_2\.bias: 2 of 32 numbers"):
        trace(folder)
