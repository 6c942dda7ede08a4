"""Who takes part, in which environment, with which settings to choose from.

A handful for each, ours included; the one that is best on the held-out tokens has its figure on the
evaluation tokens in the table.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TORCH = "torch==2.13.0"  # by its exact version pip takes the build for processors, where it has one
COMMON = ("transformers==5.23.0", "safetensors", "accelerate==1.15.0", "numpy<2.5")
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        name: Of its folder.
        installs: What pip is told, one call after another; torch comes first.
    """

    name: str
    installs: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Contestant:
    """A method of a tool.

    Attributes:
        script: What runs it, beside this file.
        settings: To choose from, by what the page calls them.
        environment: Where it runs; ``None`` for where this does.
        timed: The settings whose time is taken, with two threads.
    """

    title: str
    script: str
    settings: Mapping[str, Settings]
    environment: Environment | None = None
    timed: str | None = None


def python(contestant: Contestant, folder: Path) -> Path:
    """The interpreter of a contestant's environment, which is made where it is not there yet.

    Raises:
        subprocess.CalledProcessError: pip refuses; its last lines are in ``stderr``.
    """
    if contestant.environment is None:
        return Path(sys.executable)
    place = folder / contestant.environment.name
    binary, ready = place / "bin" / "python", place / ".ready"
    if ready.exists():
        return binary
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    for install in [(TORCH,), *contestant.environment.installs]:
        command = [binary, "-m", "pip", "--disable-pip-version-check", "install", *install]
        subprocess.run(command, check=True, capture_output=True, text=True)
    ready.touch()
    return binary


def _gptq(**options: Any) -> dict[str, Any]:
    return {"algorithm": "gptq", **options}


LLMCOMPRESSOR = Environment("llmcompressor", ((TORCH, "llmcompressor==0.14.0.1"),))
NEURAL_COMPRESSOR = Environment(
    "neural_compressor", ((TORCH, "neural-compressor-pt==3.10", *COMMON),)
)
# It asks for torch 2.14.1 and newer, and runs on 2.13.
GPTQMODEL = Environment(
    "gptqmodel",
    (
        (
            TORCH,
            *COMMON,
            *("threadpoolctl", "packaging", "device-smi", "protobuf", "pillow", "requests"),
            *("pypcre", "logbar", "jinja2", "ninja", "datasets", "dill", "torchao==0.18.0"),
            *("setuptools", "wheel"),
        ),
        ("--no-deps", "tokenicer", "defuser"),
        ("--no-deps", "--no-build-isolation", "gptqmodel==7.7.0"),
    ),
)
NNCF = Environment("nncf", ((TORCH, "nncf==3.4.0", "openvino==2026.4.1", *COMMON),))
MODELOPT = Environment(
    "modelopt", ((TORCH, "nvidia-modelopt==0.47.0", "requests", "datasets", *COMMON),)
)
TORCHAO = Environment("torchao", ((TORCH, "torchao==0.18.0", *COMMON),))

_MAKE_UP: dict[str, Any] = {"make_up": 1.0}
_STATIC: dict[str, Any] = {"actorder": "static", "damp": 0.01}
_AWQ: dict[str, Any] = {"algorithm": "rtn", "symmetric": False}
_INT: dict[str, Any] = {"symmetric": False, "parameters": "affine"}

CONTESTANTS = (
    Contestant("float32", "peer_float", {"as it is": {}}),
    Contestant(
        "Regauge",
        "ours",
        {
            "GPTQ, making up for the errors before": {"make_up": 1.0},
            "GPTQ, whole ranges": {"before": ["join"], "ranges": "range"},
            "GPTQ": {},
            "GPTQ, making up for half of them": {"make_up": 0.5},
            "descent, making up": {**_MAKE_UP, "rounding": "descent"},
            "descent, making up for half": {"make_up": 0.5, "rounding": "descent"},
            "descent, making up, scales by outputs": {
                **_MAKE_UP,
                "rounding": "descent",
                "ranges": "output",
            },
            "AWQ's scales, descent, making up": {
                **_MAKE_UP,
                "before": ["awq"],
                "rounding": "descent",
            },
            "turned, descent, making up": {
                **_MAKE_UP,
                "before": ["rotate"],
                "rounding": "descent",
            },
        },
        timed="GPTQ, whole ranges",
    ),
    Contestant(
        "GPTQModel, GPTQ",
        "peer_gptqmodel",
        {
            "zero points": {"sym": False},
            "zero points, mse 2.4": {"sym": False, "mse": 2.4},
            "zero points, GPTAQ": {"sym": False, "gptaq": {}},
            "symmetric": {"sym": True},
        },
        environment=GPTQMODEL,
        timed="zero points",
    ),
    Contestant(
        "llm-compressor, GPTQ",
        "peer_llmcompressor",
        {
            "zero points": _gptq(symmetric=False, **_STATIC),
            "zero points, AWQ's scales before, not pinned": _gptq(
                symmetric=False, duo_scaling=True, unpinned=True, **_STATIC
            ),
            "zero points, damping 0.1": _gptq(symmetric=False, actorder="static", damp=0.1),
            "zero points, observer mse": _gptq(symmetric=False, observer="mse", **_STATIC),
            "symmetric": _gptq(symmetric=True, **_STATIC),
        },
        environment=LLMCOMPRESSOR,
        timed="zero points",
    ),
    Contestant(
        "llm-compressor, AWQ",
        "peer_llmcompressor",
        {
            "zero points": {**_AWQ, "duo_scaling": True},
            "zero points, not pinned": {**_AWQ, "duo_scaling": True, "unpinned": True},
            "zero points, not pinned, by activations alone": {
                **_AWQ,
                "duo_scaling": False,
                "unpinned": True,
            },
        },
        environment=LLMCOMPRESSOR,
    ),
    Contestant(
        "neural-compressor, GPTQ",
        "peer_neural_compressor",
        {
            "zero points": _gptq(use_sym=False),
            "zero points, searched": _gptq(use_sym=False, use_mse_search=True),
            "zero points, by the diagonal": _gptq(
                use_sym=False, act_order=True, static_groups=True
            ),
            "symmetric": _gptq(use_sym=True),
        },
        environment=NEURAL_COMPRESSOR,
        timed="zero points",
    ),
    Contestant(
        "neural-compressor, others",
        "peer_neural_compressor",
        {
            "AWQ, zero points": {"algorithm": "awq", "use_sym": False},
            "HQQ": {"algorithm": "hqq"},
            "to the nearest, zero points": {"algorithm": "rtn", "use_sym": False},
        },
        environment=NEURAL_COMPRESSOR,
    ),
    Contestant(
        "NNCF",
        "peer_nncf",
        {
            "zero points, AWQ, scale estimation": {"awq": True, "scale_estimation": True},
            "zero points, AWQ, scale estimation, GPTQ": {
                "awq": True,
                "scale_estimation": True,
                "gptq": True,
            },
            "zero points, GPTQ": {"gptq": True},
            "symmetric, AWQ, scale estimation": {
                "mode": "sym",
                "awq": True,
                "scale_estimation": True,
            },
            "symmetric, AWQ, scale estimation, GPTQ": {
                "mode": "sym",
                "awq": True,
                "scale_estimation": True,
                "gptq": True,
            },
        },
        environment=NNCF,
        timed="zero points, GPTQ",
    ),
    Contestant(
        "torchao",
        "peer_torchao",
        {
            "to the nearest, zero points": _INT,
            "HQQ's scales, symmetric": {"symmetric": True, "parameters": "hqq_scale_only"},
            "AWQ on int4": {"tiled": True, "parameters": "tinygemm", "algorithm": "awq"},
            "HQQ on int4": {"tiled": True, "parameters": "hqq"},
            "AWQ, zero points": {**_INT, "algorithm": "awq"},
            "GPTQ on int4": {"tiled": True, "parameters": "tinygemm", "algorithm": "gptq"},
        },
        environment=TORCHAO,
    ),
)
