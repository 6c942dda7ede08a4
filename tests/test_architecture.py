"""Folders are the architecture: imports point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT: dict[str, set[str]] = {
    "ir": set(),
    "frontend": {"ir"},
    "passes": {"ir"},
    "codegen": {"ir"},
    "backends": {"ir", "codegen"},
    "driver": {"ir", "frontend", "passes", "backends"},
    "cli": {"ir", "frontend", "passes", "backends", "driver"},
}

FAMILIES: dict[str, set[str]] = {  # of passes; what they share lies beside them
    "budget": set(),
    "fusion": set(),
    "quantization": set(),
    "state": set(),
    "gauges": {"quantization"},
    "structure": {"budget", "quantization"},
    "allocation": {"budget", "quantization", "structure"},
}


def imported(file: Path, folder: str) -> set[str]:
    """The folders beside ``folder`` that a file in it imports from, by its relative imports."""
    found: set[str] = set()
    depth = len(file.relative_to(ROOT / folder).parts)  # dots that lead to the folder beside
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level > depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names}
    return {name for name in found if (ROOT / folder).with_name(name).is_dir()}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for file in files:
        assert imported(file, folder) <= MAY_IMPORT[folder], file.relative_to(ROOT)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_passes_import_one_way(family: str) -> None:
    for file in sorted((ROOT / "passes" / family).rglob("*.py")):
        assert imported(file, f"passes/{family}") <= FAMILIES[family], file.relative_to(ROOT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_no_file_outgrows_its_purpose(folder: str) -> None:
    long = {f.name for f in (ROOT / folder).rglob("*.py") if len(f.read_text().splitlines()) > 400}
    assert not long
