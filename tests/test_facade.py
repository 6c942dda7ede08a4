"""The public surface, and what importing it costs."""

import subprocess
import sys

import regauge as rg

OPTIONAL = [
    "ai_edge_litert",
    "executorch",
    "litert_torch",
    "onnx",
    "onnxruntime",
    "onnxruntime_qnn",
    "onnxscript",
    "openvino",
    "safetensors",
    "transformers",
    "tvm",
    "typer",
]


def test_the_public_names() -> None:
    assert rg.__all__ == [
        "Artifact", "Report", "__version__", "compile", "ir", "load", "passes", "trace",
    ]  # fmt: skip
    assert all(hasattr(rg, name) for name in rg.__all__)


def test_importing_regauge_imports_torch_and_nothing_optional() -> None:
    code = f"import sys, regauge; print([n for n in ['torch', *{OPTIONAL}] if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['torch']"
