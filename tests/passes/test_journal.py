from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, InputError, parse
from regauge.ir.formats import Format, named
from regauge.passes import (
    Allocate,
    AllocateRows,
    ChooseBest,
    Context,
    LearnScales,
    Pass,
    Quantize,
    Reconstruct,
    Smooth,
)
from regauge.passes.fitting import Fitter
from regauge.passes.journal import Journal, fingerprint
from regauge.passes.manager import apply

TEXT = """
def graph(t: i64[4, 9], *, e: f32[50, 32], n: f32[32], a: f32[64, 32], c: f32[64], b: f32[32, 64],
          u: f32[50, 32]):
    x: f32[4, 9, 32] = embedding(e, t)
    h: f32[4, 9, 32] = rms_norm(x, n, normalized_shape=(32,), eps=1e-5)
    p: f32[4, 9, 64] = linear(h, a, c)
    r: f32[4, 9, 64] = relu(p)
    q: f32[4, 9, 32] = linear(r, b)
    s: f32[4, 9, 32] = add(q, x)
    y: f32[4, 9, 50] = linear(s, u)
    return y
"""
FITTER = Fitter(steps=6, checks=3)
PIPELINES: dict[str, tuple[Pass, ...]] = {
    "static": (Smooth(), Quantize("static")),
    "format": (Quantize(None, "int4-g32-asym", make_up=1.0, low_rank=2),),
    "simulated": (Quantize("static-int6", "nf4-g32"),),
    "learned": (LearnScales(steps=4), Quantize("dynamic")),
    "chosen": (ChooseBest((Smooth(), Smooth(True, "threshold"))), Quantize("static")),
    "allocated": (Allocate(("int3-g32", "int8-g32"), 5.0),),
    "rows": (AllocateRows(0.25, "int3-g32", "int8-g32"),),
    "reconstructed": (Reconstruct("static", cut="layer", fitter=FITTER, end_to_end=FITTER),),
}


def sample() -> tuple[Graph, Context]:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    ids = [torch.randint(0, 50, (4, 9), generator=generator) for _ in range(4)]
    return graph, Context(inputs=[ids[0]], calibration=[[part] for part in ids])


class Counting(Journal):
    """Counts what is made, and interrupts when the time has come."""

    made = 0
    until = 10**9

    def inside(self, name: str) -> Counting:
        assert self.folder is not None
        return Counting(self.folder / name)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        def counted() -> Any:
            if Counting.made == Counting.until:
                raise KeyboardInterrupt
            Counting.made += 1
            return make()

        return super().once(name, counted)


def run(passes: Sequence[Pass], folder: Path, until: int = 10**9) -> tuple[Graph, int]:
    graph, context = sample()
    context.journal = Counting(folder)
    Counting.made, Counting.until = 0, until
    found, _ = apply(graph, passes, context)
    return found, Counting.made


@pytest.mark.parametrize("name", PIPELINES)
def test_an_interrupted_run_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    wanted, every = run(PIPELINES[name], tmp_path / "whole")
    assert every > 0
    for until in sorted({0, every // 2, every - 1}):
        folder = tmp_path / str(until)
        with pytest.raises(KeyboardInterrupt):
            run(PIPELINES[name], folder, until)
        found, made = run(PIPELINES[name], folder)
        assert made == every - until  # nothing is decided twice
        assert str(found) == str(wanted)
        for param in wanted.params:
            assert fingerprint([found.store[param]]) == fingerprint([wanted.store[param]]), param


def test_without_a_folder_nothing_is_written() -> None:
    assert Journal().once("x", lambda: 3) == 3
    assert Journal().inside("pass").once("x", lambda: 4) == 4


def test_a_decision_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / "x.part").write_bytes(b"half of it")
    assert journal.once("x", lambda: 1) == 1
    assert journal.once("x", lambda: 2) == 1


@pytest.mark.parametrize("name", ["int4-g32-asym", "mxfp4", "nvfp4", "nf4-g64", "bfp4-b16", "e8"])
def test_a_format_comes_back(name: str, tmp_path: Path) -> None:
    form = named(name)
    found = Journal(tmp_path).once("form", lambda: form)
    again = Journal(tmp_path).once("form", lambda: found)
    assert isinstance(again, Format) and again == form


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    facts = {"model": "a", "calibration data": "b", "target": "onnxruntime"}
    Journal.of_run(tmp_path / "run", facts)
    Journal.of_run(tmp_path / "run", facts)
    with pytest.raises(InputError, match="other calibration data and target"):
        Journal.of_run(tmp_path / "run", {**facts, "calibration data": "c", "target": "torch"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        Journal.of_run(tmp_path / "mine", facts)


def test_fingerprints_tell_dtypes_shapes_and_numbers_apart() -> None:
    zeros = torch.zeros(2, 3)
    others = [zeros.T, zeros.double(), zeros + 1e-7, zeros.bfloat16()]
    found = {fingerprint([value]) for value in (zeros, *others)}
    assert len(found) == 5
    assert fingerprint([zeros, 3]) == fingerprint([zeros.clone(), 3])


def test_a_run_is_known_by_its_passes_in_any_process() -> None:
    """What a set of names shows is in another order in each process; an address is another too."""
    line = (
        "from regauge.backends.profiles import target;"
        "from regauge.driver.presets import legalized, resolve;"
        "from regauge.passes.journal import fingerprint;"
        "place = target('tvm'); chosen = legalized(resolve('w8a8', place), place);"
        "print(fingerprint([list(chosen)]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", line],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(found) == 1
