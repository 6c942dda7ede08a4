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
    "torch._dynamo",  # which takes a second, and brings triton
    "transformers",
    "triton",
    "tvm",
    "typer",
]


def test_the_public_names() -> None:
    assert rg.__all__ == [
        "Artifact", "ArtifactError", "GraphError", "InputError", "NoDevice", "ParseError",
        "PassError", "PromiseError", "RegaugeError", "Report", "SiteError", "TargetError",
        "TraceError", "WeightError", "__version__", "compile", "ir", "load", "passes", "trace",
    ]  # fmt: skip
    assert all(hasattr(rg, name) for name in rg.__all__)


def test_every_kind_of_error_is_a_public_name() -> None:
    """So that ``except rg.RegaugeError`` has all of them."""
    kinds, left = set[type[Exception]](), [rg.RegaugeError]
    while left:
        kinds.add(kind := left.pop())
        left += kind.__subclasses__()
    ours = {kind for kind in kinds if kind.__module__.startswith("regauge.")}
    assert {kind.__name__ for kind in ours} <= {*rg.__all__}


def test_importing_regauge_imports_torch_and_nothing_optional() -> None:
    code = f"import sys, regauge; print([n for n in ['torch', *{OPTIONAL}] if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['torch']"
