"""What a run has decided so far, in a folder, so that one that was interrupted can go on.

A pass puts each decision that took long through ``Journal.once``. A run that is given the same
folder again makes the same calls in the same order, and gets from the folder what was decided
before; the rest follows from that as it did the first time, so both end in the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..ir import InputError

T = TypeVar("T")
Class = TypeVar("Class", bound=type)

_kinds: list[type | Callable[..., Any]] = []
HEAD = "run.txt"


def journaled(kind: Class) -> Class:
    """Decorate a class whose instances decisions are made of: nothing else is read back."""
    _kinds.append(kind)
    return kind


def readable(function: Callable[..., Any]) -> None:
    """Let decisions hold what pickles as a call of this function."""
    _kinds.append(function)


class Journal:
    """Decisions by name, in a folder; in none where that is not given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def inside(self, name: str) -> Journal:
        """A part of it, with names of its own."""
        return self if self.folder is None else Journal(self.folder / name)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What was decided under a name, or else what ``make`` gives, which is written down.

        Args:
            make: Gives numbers, texts, tensors, ``journaled`` classes, and tuples, lists and dicts
                of these.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.pt"
        if path.exists():
            with torch.serialization.safe_globals(_kinds):
                return torch.load(path, weights_only=True)
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        torch.save(made, beside)
        os.replace(beside, path)  # whole or not at all
        return made

    @classmethod
    def of_run(cls, folder: Path, facts: dict[str, str]) -> Journal:
        """That of a run of which these are the facts, which has the folder to itself.

        Raises:
            InputError: The folder holds another run, or something else.
        """
        head = folder / HEAD
        if head.exists():
            before = dict(line.split(": ", 1) for line in head.read_text("utf-8").splitlines())
            if changed := [name for name in facts if before.get(name) != facts[name]]:
                raise InputError(
                    f"the folder holds a run with other {' and '.join(changed)}",
                    where=str(folder),
                    do="give another folder, or delete this one to begin anew",
                )
            return cls(folder)
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"the folder holds something else: there is no {HEAD}",
                where=str(folder),
                do="give a folder that is empty, or that is not there yet",
            )
        folder.mkdir(parents=True, exist_ok=True)
        head.write_text("".join(f"{name}: {value}\n" for name, value in facts.items()), "utf-8")
        return cls(folder)


def fingerprint(values: Sequence[Any]) -> str:
    """A hash of tensors, and of the text of all else."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            plain = value.detach().cpu().contiguous().reshape(-1)
            found.update(plain.view(torch.uint8).numpy().tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()
