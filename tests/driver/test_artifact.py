import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regauge as rg
from regauge.driver import folder as files
from regauge.ir import ArtifactError

Equal = Callable[[Any, Any], None]

NAMES = {
    "graph.txt", "manifest.json", "report.html", "report.json", "report.txt", "weights.safetensors",
}  # fmt: skip


@pytest.fixture
def saved(art: rg.Artifact, tmp_path: Path) -> Path:
    return art.save(tmp_path / "deep" / "out")


def message(call: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(ArtifactError) as error:
        call(*args)
    return str(error.value)


# -- there and back -----------------------------------------------------------


def test_a_saved_artifact_loads_and_computes_the_same(
    art: rg.Artifact, saved: Path, x: Tensor, equal: Equal
) -> None:
    loaded = rg.load(saved)
    equal(loaded(x), art(x))
    assert str(loaded.graph) == str(art.graph)
    assert loaded.report.to_dict() == art.report.to_dict()
    assert str(loaded.report) == str(art.report)
    assert loaded.notes == ()


def test_a_result_class_that_is_gone_gives_way_and_the_loaded_artifact_says_so(
    saved: Path, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = type(rg.load(saved)(x)["both"][0]).__module__
    monkeypatch.delattr(sys.modules[name], "Pair")
    loaded = rg.load(saved)
    assert type(loaded(x)["both"][0]) is tuple
    assert loaded.notes == (f"{name}.Pair cannot be imported here: a tuple stands in its place",)


def test_the_graph_of_a_loaded_torch_artifact_is_whole(
    saved: Path, x: Tensor, equal: Equal
) -> None:
    loaded = rg.load(saved)
    equal(loaded.graph.run(x)["y"], loaded(x)["y"])


def test_loading_again_from_what_was_loaded(
    saved: Path, tmp_path: Path, x: Tensor, equal: Equal
) -> None:
    again = rg.load(rg.load(saved).save(tmp_path / "again"))
    equal(again(x), rg.load(saved)(x))


def test_constants_and_keywords_survive(
    net: nn.Module, x: Tensor, tmp_path: Path, equal: Equal
) -> None:
    art = rg.compile(net, (), {"x": x, "double": True}, passes=[], target="torch", measure=False)
    loaded = rg.load(art.save(tmp_path / "out"))
    equal(loaded(x=x)["y"], net(x, double=True)["y"])
    with pytest.raises(
        rg.ir.InputError, match=r"^double: the model was traced with True, got False"
    ):
        loaded(x=x, double=False)


def test_a_folder_holds_the_files_it_lists_and_no_other(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    assert {path.name for path in saved.iterdir()} == NAMES
    assert manifest["files"].keys() == NAMES - {"manifest.json"}
    assert manifest["target"] == "torch" and manifest["inputs"] == ["x: f32[2, 8]"]
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_the_report_has_the_size_of_the_model_file(art: rg.Artifact, saved: Path) -> None:
    assert art.report.bytes_after == (saved / "weights.safetensors").stat().st_size


def test_the_same_model_gives_the_same_bytes(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    for name in ("a", "b"):
        rg.compile(net, (x,), passes=[], target="torch", measure=False).save(tmp_path / name)
    for name in ("graph.txt", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_artifact_is_replaced(art: rg.Artifact, saved: Path) -> None:
    art.save(saved)
    assert {path.name for path in saved.iterdir()} == NAMES
    assert [path.name for path in saved.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(art: rg.Artifact, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    rg.load(art.save(tmp_path / "out"))


def test_a_link_to_a_folder_stays_a_link(art: rg.Artifact, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    rg.load(art.save(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "graph.txt").is_file()


def test_a_short_name_for_people(art: rg.Artifact) -> None:
    assert repr(art) == "Artifact(Net on torch: x: f32[2, 8])"


# -- what is refused ----------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NAMES - {"manifest.json"}))
def test_a_changed_file_is_named(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    assert message(rg.load, saved) == (
        f"{name} is not what was written: its SHA-256 differs from the manifest's\n"
        f"  at  {saved}\n"
        "  do  copy the whole folder again, or save the artifact again"
    )


def test_a_missing_file_is_named(saved: Path) -> None:
    (saved / "weights.safetensors").unlink()
    assert message(rg.load, saved) == (
        f"weights.safetensors is missing\n  at  {saved}\n  do  copy the whole folder again"
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace('"torch"', '"onnxruntime"', 1), id="another target"),
        pytest.param(lambda text: text[: len(text) // 2], id="truncated"),
        pytest.param(lambda text: "[]", id="no object"),
        pytest.param(lambda text: "", id="empty"),
    ],
)
def test_a_changed_manifest(saved: Path, change: Callable[[str], str]) -> None:
    path = saved / "manifest.json"
    path.write_text(change(path.read_text()))
    assert message(rg.load, saved) == (
        f"manifest.json is not what was written\n  at  {saved}\n"
        "  do  copy the whole folder again, or save the artifact again"
    )


def test_an_artifact_of_the_future(saved: Path) -> None:
    path = saved / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    assert message(rg.load, saved) == (
        "the artifact has format version 9; this Regauge reads up to 1\n"
        f"  at  {path}\n  do  pip install --upgrade regauge"
    )


def test_a_folder_without_an_artifact(tmp_path: Path) -> None:
    assert message(rg.load, tmp_path) == (
        f"there is no manifest.json: this folder holds no artifact\n  at  {tmp_path}\n"
        "  do  give the folder that Artifact.save or `regauge compile --out` wrote"
    )


def test_a_folder_of_someone_else_is_left_alone(art: rg.Artifact, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert message(art.save, tmp_path) == (
        f"{tmp_path} is not empty and holds no artifact; nothing was written\n"
        "  do  save to a new folder, or empty this one"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_artifact_with_a_foreign_file_in_it_is_left_alone(art: rg.Artifact, saved: Path) -> None:
    (saved / "notes.md").write_text("x")
    assert message(art.save, saved) == (
        f"{saved} holds notes.md, which is not the artifact's; nothing was written\n"
        "  do  move them away, or save to a new folder"
    )


def test_a_file_in_the_place_of_the_folder(art: rg.Artifact, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    assert message(art.save, tmp_path / "out") == (
        f"{tmp_path / 'out'} is a file, not a folder\n  do  save to another place"
    )
    assert message(art.save, tmp_path / "out" / "in") == (
        f"{tmp_path / 'out'} is a file, not a folder\n  do  save to another place"
    )


# -- what goes wrong half-way -------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, at: str) -> None:
    """Let writing a file fail with an error, after other files have been written."""
    write = Path.write_text

    def fail(path: Path, *args: Any, **kwargs: Any) -> int:
        if path.name == at:
            raise error
        return write(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fail)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("code", "what", "do"),
    [
        (errno.ENOSPC, "no space left on the disk", "free some, or save to another disk"),
        (errno.EACCES, "no permission to write here", "save to a folder that you may write to"),
        (errno.EROFS, "no permission to write here", "save to a folder that you may write to"),
    ],
)
def test_a_full_or_closed_disk_leaves_nothing_behind(
    art: rg.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, what: str, do: str
) -> None:
    failing(monkeypatch, OSError(code, os.strerror(code)), "report.json")
    out = tmp_path / "deep" / "out"
    assert message(art.save, out) == f"{what}; nothing was written\n  at  {out}\n  do  {do}"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_that_a_library_reports_as_text(
    art: rg.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def save(folder: Path) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(art.runner, "save", save)
    assert message(art.save, tmp_path / "out").startswith("no space left on the disk")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), MemoryError()]
)
@pytest.mark.parametrize("at", ["graph.txt", "report.html", "manifest.json"])
def test_a_failed_save_leaves_the_old_artifact_as_it_was(
    art: rg.Artifact, saved: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: str
) -> None:
    before = contents(saved)
    failing(monkeypatch, error, at)
    with pytest.raises((KeyboardInterrupt, ArtifactError, MemoryError)):
        art.save(saved)
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["out"]


def test_an_interrupt_between_the_two_renames_brings_the_old_one_back(
    art: rg.Artifact, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename, calls = contents(saved), os.rename, list[Any]()

    def interrupted(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        art.save(saved)
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["out"]


def test_a_folder_without_permission(
    art: rg.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # root may write anywhere
    out = tmp_path / "out"
    assert message(art.save, out) == (
        f"no permission to write here; nothing was written\n  at  {out}\n"
        "  do  save to a folder that you may write to"
    )


def test_weights_that_stay_in_the_targets_file_say_so(art: rg.Artifact, x: Tensor) -> None:
    from regauge.driver.artifact import absent_weight

    name = next(iter(art.graph.params))
    lazy = absent_weight(art.graph, name, art.target)
    assert message(lazy.read) == (
        f"{name}: the graph of a loaded torch artifact has no weights\n"
        "  do  call the artifact, or use the graph of the artifact that compile returned"
    )
    assert lazy.type == torch_type(art.graph.value(art.graph.params[name]))


def torch_type(value: torch.Tensor) -> rg.ir.TensorType:
    return rg.ir.TensorType(value.dtype, tuple(value.shape))
