"""Write a folder whole or not at all, and tell whether its files are still what was written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..ir import ArtifactError

MANIFEST = "manifest.json"


def write(folder: Path, fill: Callable[[Path], None], owned: Callable[[Path], set[str]]) -> None:
    """Let ``fill`` write into a new folder beside the wanted one, then put it in its place.

    Whatever goes wrong, and when the user interrupts, the wanted place is as it was.

    Args:
        folder: The wanted folder: absent, empty, or an artifact that is to be replaced.
        fill: Writes the files.
        owned: The names of the files in an existing artifact; raises if it is none.
    """
    folder = check_place(folder, owned)
    made = _make_parents(folder.parent)
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
    try:
        partial.mkdir()
        fill(partial)
        _sync(partial)
        _swap(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        if (code := error_code(error)) is not None:
            raise _explained(error, code, folder) from error
        raise


def check_place(folder: Path, owned: Callable[[Path], set[str]]) -> Path:
    """The folder's real path, after checking that an artifact may be written there."""
    folder = Path(os.path.abspath(folder)).resolve()
    if os.path.lexists(folder):
        _check_free(folder, owned)
    nearest = next(path for path in folder.parents if path.exists())
    if not nearest.is_dir():
        raise ArtifactError(f"{nearest} is a file, not a folder", do="save to another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _explained(OSError(), errno.EACCES, folder)
    return folder


def _check_free(folder: Path, owned: Callable[[Path], set[str]]) -> None:
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is a file, not a folder", do="save to another place")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if found and not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder} is not empty and holds no artifact; nothing was written",
            do="save to a new folder, or empty this one",
        )
    if found and (foreign := sorted(found - owned(folder))):
        raise ArtifactError(
            f"{folder} holds {foreign[0]}, which is not the artifact's; nothing was written",
            do="move them away, or save to a new folder",
        )


def _make_parents(parent: Path) -> list[Path]:
    """Create what is missing; returns it, innermost first."""
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explained(error, error.errno or 0, parent) from error
    return missing


def _sync(folder: Path) -> None:
    """Have the files on the disk, as readable as any other, before their folder gets its name."""
    mode = (folder / MANIFEST).stat().st_mode
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(mode)  # safetensors lets nobody else read its files
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(partial: Path, folder: Path) -> None:
    """Put the new folder in the place of the old; if that fails, the old one comes back."""
    old = partial.with_suffix(".old")
    try:
        if folder.exists():
            os.rename(folder, old)
        os.rename(partial, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def error_code(error: BaseException) -> int | None:
    """The system's number for an error of the disk, also from libraries that put it into text."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"os error (\d+)", str(error))  # safetensors
    return int(found[1]) if found else None


def _explained(error: BaseException, code: int, folder: Path) -> ArtifactError:
    if code in (errno.ENOSPC, errno.EDQUOT):
        what, do = "no space left on the disk", "free some, or save to another disk"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        what, do = "no permission to write here", "save to a folder that you may write to"
    else:
        what, do = f"cannot write: {error}", "save to another place"
    return ArtifactError(f"{what}; nothing was written", where=str(folder), do=do)


def listing(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file."""
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Refuse a folder in which a file is missing or is not what was written."""
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(
                f"{name} is missing", where=str(folder), do="copy the whole folder again"
            )
        if path.stat().st_size != wanted["bytes"] or digest(path) != wanted["sha256"]:
            raise ArtifactError(
                f"{name} is not what was written: its SHA-256 differs from the manifest's",
                where=str(folder),
                do="copy the whole folder again, or save the artifact again",
            )
