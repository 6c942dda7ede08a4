"""TVM's schedules and code of other devices, releases and shapes."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import feed, make

from regauge.backends.profiles import target
from regauge.backends.tvm.processor import host
from regauge.backends.tvm.runner import TvmRunner, lower
from regauge.backends.tvm.tuning import FILES
from regauge.ir import TargetError
from regauge.ir.interpret import execute

pytest.importorskip("tvm")
pytest.importorskip("xgboost")


def layer(rows: int) -> tuple[str, ...]:
    """Linear layers, of which one has the number of rows in its shape and the other has not."""
    return (
        f"x: f32[{rows}, 32], z: f32[8, 32], *, w: f32[48, 32], v: f32[48, 32]",
        "y = linear(x, w)",
        "u = linear(z, v)",
        "r = cat((y, u), dim=0)",
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the schedules of a layer of 16 rows."""
    folder = tmp_path_factory.mktemp("saved")
    lower(make(*layer(16)), tune=4).save(folder)
    return folder


def functions(note: str) -> tuple[int, int]:
    """How many functions a note says have no schedule, and of how many."""
    found = re.search(r": (\d+) of (\d+) functions have other code or shapes", note)
    assert found is not None, note
    return int(found[1]), int(found[2])


def edited(saved: Path, folder: Path, **changes: Any) -> str:
    """A copy of the schedules, of another device."""
    for name in FILES:
        (folder / name).write_bytes((saved / name).read_bytes())
    path = folder / FILES[2]
    device = json.loads(path.read_text())
    device["tvm"] = changes.pop("tvm", device["tvm"])
    device["target"].update(changes)
    path.write_text(json.dumps(device))
    return str(folder)


@pytest.mark.parametrize(
    "change", [{"mcpu": "haswell"}, {"num-cores": 63}, {"tvm": "0.26.0"}], ids=str
)
def test_schedules_of_another_device_are_not_used_and_it_is_said(
    saved: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = edited(saved, tmp_path, **change)
    runner = lower(make(*layer(16)), tuned=folder)
    assert runner.records is None
    note, rest = runner.notes
    assert note.startswith(f"{folder}: schedules were tuned on ")
    assert str(next(iter(change.values()))) in note.partition(", and this is ")[0]
    assert note.endswith(": they are not used")
    assert rest.startswith("not tuned")


def test_schedules_of_another_device_are_measured_anew(saved: Path, tmp_path: Path) -> None:
    runner = lower(make(*layer(16)), tune=4, tuned=edited(saved, tmp_path, mcpu="haswell"))
    assert runner.records is not None
    assert runner.records.device.name == host().attrs["mcpu"]
    assert runner.notes[0].endswith(": they are measured anew")
    assert runner.notes[1].startswith("tuned by MetaSchedule: ")


def test_functions_of_other_shapes_have_no_schedule(saved: Path) -> None:
    graph = make(*layer(17))
    runner, inputs = lower(graph, tuned=str(saved)), feed(graph)
    missing, count = functions(runner.notes[0])
    assert 0 < missing < count
    assert runner.notes[0].endswith("than were tuned: they have their default schedules")
    torch.testing.assert_close(runner(inputs), execute(graph, inputs), rtol=2e-5, atol=2e-5)


def test_functions_of_other_shapes_alone_are_measured(saved: Path) -> None:
    runner = lower(make(*layer(17)), tune=2, tuned=str(saved))
    before = len((saved / FILES[0]).read_text().splitlines())
    assert runner.records is not None
    missing, _ = functions(runner.notes[0])
    assert len(runner.records.workloads.splitlines()) == before + missing
    assert runner.notes[0].endswith("than were tuned: they are measured anew")


def test_nothing_is_measured_where_all_is_known(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Any:
        raise AssertionError("nothing is to be timed")

    monkeypatch.setattr("regauge.backends.tvm.runner.here", none)
    (note,) = lower(make(*layer(16)), tune=200, tuned=str(saved)).notes
    assert note.endswith(f"schedules were timed when {saved} was tuned")


def test_a_folder_without_schedules_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="holds no schedules of TVM's that were tuned"):
        lower(make(*layer(16)), tuned=str(tmp_path))


def test_code_of_another_processor_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tvm: Any = import_module("tvm")

    def other() -> Any:
        return tvm.target.Target({"kind": "llvm", "mcpu": "x86-64", "num-cores": 1})

    graph = make(*layer(16))
    with monkeypatch.context() as there:
        there.setattr("regauge.backends.tvm.runner.host", other)
        lower(graph).save(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"model\.so was compiled for x86-64 of 1 threads"):
        runner = target("tvm").load(tmp_path, graph)
    assert isinstance(runner, TvmRunner)
    (note,) = runner.notes
    assert note.endswith("it is compiled anew, every function with its default schedule")
    inputs = feed(graph)
    torch.testing.assert_close(runner(inputs), execute(graph, inputs), rtol=2e-5, atol=2e-5)
    runner.save(tmp_path)
    assert target("tvm").load(tmp_path, graph).notes == ()  # what is saved now is of this one
