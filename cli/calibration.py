"""Calibration data from what ``--calibration`` names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..ir import InputError
from .source import Source, resolve

WINDOWS = 32  # of text; more hardly change a statistic


def read(name: str, source: Source) -> Iterable[Any]:
    """An iterable of inputs."""
    path = Path(name)
    reader = {".txt": _text, ".npz": _npz, ".safetensors": _safetensors}.get(path.suffix)
    if reader is None:
        if ":" not in name:
            raise InputError(
                f"--calibration {name}: expected a .txt, .npz or .safetensors file, "
                "or module:function"
            )
        return resolve(name)()
    if not path.is_file():
        raise InputError(f"--calibration {name}: there is no such file")
    return reader(path, source)


def _npz(path: Path, source: Source) -> list[dict[str, Any]]:
    import numpy

    try:
        with numpy.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    except (ValueError, OSError, TypeError) as error:
        raise _damaged(path, error) from None
    return _batches(path, arrays, source)


def _safetensors(path: Path, source: Source) -> list[dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise _damaged(path, error) from None
    return _batches(path, tensors, source)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"the file is damaged or not of its kind: {error}", where=str(path))


def _batches(
    path: Path, tensors: Mapping[str, torch.Tensor], source: Source
) -> list[dict[str, Any]]:
    """One input if the tensors have the example's rank; a stack of inputs if they have one more."""
    example = source.example
    for name, tensor in tensors.items():
        wanted = example.get(name)
        if not isinstance(wanted, torch.Tensor):
            raise InputError(
                f"the model has no input {name!r}",
                where=str(path),
                do=f"name them {', '.join(example)}",
            )
        if tensor.dim() not in (wanted.dim(), wanted.dim() + 1):
            raise InputError(
                f"{name}: expected {wanted.dim()} axes, or {wanted.dim() + 1} for a stack of "
                f"inputs, got {list(tensor.shape)}",
                where=str(path),
            )
    stacked = {n: t for n, t in tensors.items() if t.dim() > example[n].dim()}
    if not stacked:
        return [dict(tensors)]
    if len(stacked) < len(tensors) or len({len(t) for t in stacked.values()}) > 1:
        raise InputError(
            "some tensors are stacks of inputs and some are not, or they differ in length",
            where=str(path),
            do="give every input the same number of entries along the first axis",
        )
    return [dict(zip(stacked, row, strict=True)) for row in zip(*stacked.values(), strict=True)]


def _text(path: Path, source: Source) -> list[dict[str, Any]]:
    """Windows of the text, in the shape of the example."""
    if source.folder is None or "input_ids" not in source.example:
        raise InputError(
            f"{path} is text, and only a checkpoint folder of a text model brings a tokenizer",
            do="give a .npz, a .safetensors, or module:function",
        )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    batch, length = source.example["input_ids"].shape
    wrapped = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
    body = length - 2 if wrapped else length
    ids = tokenizer(
        path.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False
    ).input_ids
    windows = torch.tensor(ids[: len(ids) // body * body], dtype=torch.int64).view(-1, body)
    if len(windows) < batch:
        raise InputError(
            f"the text has {len(ids)} tokens; one input takes {batch * body}",
            where=str(path),
            do="give more text, or smaller --shapes",
        )
    count = min(WINDOWS, len(windows)) // batch * batch or batch
    chosen = windows[torch.arange(count) * len(windows) // count]
    if wrapped:
        chosen = torch.nn.functional.pad(chosen, (1, 0), value=tokenizer.cls_token_id)
        chosen = torch.nn.functional.pad(chosen, (0, 1), value=tokenizer.sep_token_id)
    return [_tokens(part, source.example) for part in chosen.split(batch)]


def _tokens(ids: torch.Tensor, example: Mapping[str, Any]) -> dict[str, Any]:
    """The example with other tokens in it."""
    fill = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    return {name: fill.get(name, value) for name, value in example.items()}
