"""The repository is the package: what ships is written down by hand, so it is compared here."""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = {"benchmarks", "build", "dist", "examples", "out", "tests"}


def config() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def normal(name: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_folder_is_shipped() -> None:
    found = {"regauge"}
    for init in ROOT.glob("[!.]*/**/__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if parts[0] not in NOT_SHIPPED:
            found.add(".".join(("regauge", *parts)))
    assert found == set(config()["tool"]["setuptools"]["packages"])


def test_only_the_facade_lives_at_the_root() -> None:
    assert {p.name for p in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_every_requirement_is_pinned() -> None:
    project = config()["project"]
    required = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {normal(re.split(r"[\[<>=]", line)[0]) for lines in required for line in lines}
    pins = re.findall(r"^([\w.-]+)==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert names - {normal(pin) for pin in pins} == set()


def test_make_installs_the_models_that_the_extra_names() -> None:
    (line,) = re.findall(r"^MODELS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extra = config()["project"]["optional-dependencies"]["models"]
    assert line.split() == [name for name in extra if not name.startswith("scikit-learn")]
