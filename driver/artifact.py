"""What ``compile`` returns: something to call, with its graph and the proof of how it came about.

A saved artifact is a folder:

    manifest.json    target, calling convention, versions, SHA-256 of every other file
    graph.txt        the final graph as text; ``regauge.ir.parse`` reads it
    model.onnx       target onnxruntime: the model, with its weights inside or in a file beside it
    weights.safetensors   target torch
    model.c, model.h      target c
    report.txt, report.json, report.html

Loading needs neither ``torch.export`` nor the model's source. The graph of a loaded artifact is
whole for the target ``torch``; for others its weights stay in the target's own file, and reading
one of them through the graph is an error that says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..backends.base import Target
from ..backends.profiles import target as find_target
from ..backends.runner import Runner
from ..ir import ArtifactError, Graph, InputError, Lazy, parse
from ..ir.interpret import unflatten
from . import folder as files
from .convention import bind, spec_from_json, spec_to_json
from .decoder import Decoder
from .generation import Sampling, check_prompt, read_all, stream
from .report import Report

FORMAT = "regauge artifact"
VERSION = 1
REPORTS = ("report.txt", "report.json", "report.html")


class Artifact:
    """A transformed model on its target.

    Attributes:
        graph: The final graph; ``graph.to_module()`` is an ``nn.Module`` to check it with.
        target: Where it runs.
        report: What was done, what it cost, and what could not be done.
        notes: What changed on the way through a file, such as a class that gave way to a dict.
        decoder: How to make text with it, where it was compiled with a cache.
    """

    def __init__(
        self,
        graph: Graph,
        runner: Runner,
        target: Target,
        report: Report,
        constants: dict[str, Any],
        notes: tuple[str, ...] = (),
        decoder: Decoder | None = None,
    ) -> None:
        self.graph, self.target, self.report, self.notes = graph, target, report, notes
        self.runner = runner
        self.constants = constants
        self.decoder = decoder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on the target; takes what the model took and returns what the model returned.

        A cache that is not given has no tokens.
        """
        if self.decoder is None:
            flat = bind(self.graph, self.constants, args, kwargs)
            return unflatten(self.graph, self.runner(flat))
        kwargs = self.decoder.started(self.graph, args, kwargs)
        calls = self.decoder.each_token(args, kwargs)
        flats = [bind(self.graph, self.constants, *call) for call in calls]
        return unflatten(self.graph, read_all(self.graph, self.runner, self.decoder, flats))

    def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        """The prompts and what follows them: ``[batch, tokens] -> [batch, tokens + new]``.

        Args:
            input_ids: Prompts of one length.
            options: Those of ``stream``.
        """
        made = [token.unsqueeze(1) for token in self.stream(input_ids, **options)]
        return torch.cat([input_ids, *made], 1)

    def stream(
        self,
        input_ids: torch.Tensor,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """What follows the prompts, one token at a time: ids ``[batch]``.

        Args:
            input_ids: Prompts of one length, ``[batch, tokens]``.
            max_new_tokens: At most so many.
            temperature: What scores are divided by before one is drawn; 0 takes the best.
            top_k: Draw from so many best alone.
            top_p: Draw from the fewest best that together have this probability.
            seed: Of what is drawn.
            eos_token_id: What ends a text; by default what the model says. ``()`` for nothing.
            pad_token_id: What stands behind a text that has ended before the others of its batch;
                by default what ends it.
            attention_mask: Taken as tokenizers give it, and refused where it leaves tokens out.

        Raises:
            InputError: The artifact keeps no cache, or an option does not fit.
        """
        if self.decoder is None:
            raise InputError(
                f"this artifact of {self.report.model.name} keeps no cache to generate with",
                do="compile a decoder of transformers with cache=True",
            )
        check_prompt(input_ids, attention_mask)
        if max_new_tokens < 0:
            raise InputError(f"max_new_tokens is {max_new_tokens}, and must not be negative")
        asked = self.decoder.ends if eos_token_id is None else eos_token_id
        ends = (asked,) if isinstance(asked, int) else tuple(asked)
        return stream(
            self.graph,
            self.runner,
            self.decoder,
            self.constants,
            input_ids,
            count=max_new_tokens,
            sampling=Sampling(temperature, top_k, top_p, seed),
            ends=ends,
            padding=pad_token_id if pad_token_id is not None else (*ends, 0)[0],
        )

    def __repr__(self) -> str:
        inputs = ", ".join(self.report.model.inputs)
        return f"Artifact({self.report.model.name} on {self.target.name}: {inputs})"

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the artifact to a folder, whole or not at all; one that lies there is replaced.

        Raises:
            ArtifactError: No permission, no space, or something else lies there.
        """
        path = Path(folder).absolute()
        files.write(path, self._fill, _owned)
        return path

    def _fill(self, folder: Path) -> None:
        self.runner.save(folder)
        self.report.bytes_after = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        _write(folder / "graph.txt", str(self.graph) + "\n")
        for name, text in zip(
            REPORTS, (str(self.report) + "\n", self.report.json(), self.report.html()), strict=True
        ):
            _write(folder / name, text)
        _write(folder / files.MANIFEST, _seal(self._describe(folder)))

    def _describe(self, folder: Path) -> dict[str, Any]:
        graph = self.graph
        return {
            "format": FORMAT,
            "version": VERSION,
            "regauge": self.report.environment.get("regauge", ""),
            "target": self.target.name,
            "inputs": self.report.model.inputs,
            "in": None if graph.in_spec is None else spec_to_json(graph.in_spec),
            "out": None if graph.out_spec is None else spec_to_json(graph.out_spec),
            "constants": self.constants,
            "decoder": None if self.decoder is None else self.decoder.to_json(),
            "files": files.listing(folder),
        }


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise what ``save`` would raise for this place, before any work is done."""
    files.check_place(Path(folder), _owned)


def _owned(folder: Path) -> set[str]:
    """The files of an artifact."""
    return {*_manifest(folder)["files"], files.MANIFEST}


def load(folder: str | os.PathLike[str], *, options: Mapping[str, Any] | None = None) -> Artifact:
    """Bring a saved artifact back, after checking that its files are what was written.

    Args:
        options: What the target takes when it loads, such as a number of ``threads``
            (``onnxruntime``, ``openvino``).

    Raises:
        ArtifactError: The folder holds no artifact, a newer one, or one whose files were changed.
        TargetError: Its target is not installed, or has no such option.
    """
    path = Path(folder)
    manifest = _manifest(path)
    files.check(path, manifest["files"])
    target = find_target(manifest["target"])
    target.check_installed()
    target.check_options(options or {}, loading=True)
    graph, notes = parse((path / "graph.txt").read_text(encoding="utf-8")), []
    for side in ("in", "out"):
        if manifest[side] is not None:
            setattr(graph, f"{side}_spec", spec_from_json(manifest[side], notes))
    for name in graph.params:
        graph.store[name] = absent_weight(graph, name, target)
    runner = target.load(path, graph, **(options or {}))
    report = Report.from_dict(json.loads((path / "report.json").read_text(encoding="utf-8")))
    found = manifest.get("decoder")  # absent from what was saved before there were any
    return Artifact(
        getattr(runner, "graph", graph),
        runner,
        target,
        report,
        manifest["constants"],
        tuple(notes),
        None if found is None else Decoder.from_json(found),
    )


def read_report(folder: str | os.PathLike[str]) -> Report:
    """The report of a saved artifact, without loading its model."""
    path = Path(folder)
    manifest = _manifest(path)
    files.check(path, {name: manifest["files"][name] for name in REPORTS})
    return Report.from_dict(json.loads((path / "report.json").read_text(encoding="utf-8")))


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest, checked against its own seal."""
    path = folder / files.MANIFEST
    if not path.is_file():
        raise ArtifactError(
            f"there is no {files.MANIFEST}: this folder holds no artifact",
            where=str(folder),
            do="give the folder that Artifact.save or `regauge compile --out` wrote",
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, seal = found["version"], found.pop("seal")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _changed(folder) from None
    if found.get("format") == FORMAT and isinstance(version, int) and version > VERSION:
        raise ArtifactError(
            f"the artifact has format version {version}; this Regauge reads up to {VERSION}",
            where=str(path),
            do="pip install --upgrade regauge",
        )
    if seal != _digest(found):
        raise _changed(folder)
    return found


def _changed(folder: Path) -> ArtifactError:
    return ArtifactError(
        f"{files.MANIFEST} is not what was written",
        where=str(folder),
        do="copy the whole folder again, or save the artifact again",
    )


def _seal(manifest: dict[str, Any]) -> str:
    sealed = {**manifest, "seal": _digest(manifest)}
    return json.dumps(sealed, indent=2, ensure_ascii=False) + "\n"


def _digest(manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def absent_weight(graph: Graph, name: str, target: Target) -> Lazy:
    """A parameter whose value is in the target's own file."""

    def read() -> torch.Tensor:
        raise ArtifactError(
            f"{name}: the graph of a loaded {target.name} artifact has no weights",
            do="call the artifact, or use the graph of the artifact that compile returned",
        )

    return Lazy(graph.store.type(name), read)
