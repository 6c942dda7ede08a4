"""Each target held to what its graph says, layer by layer; where it takes one not, it says so."""

from __future__ import annotations

import pytest
from single_layers import LAYERS, check_layer

from regauge.backends.profiles import TARGETS
from regauge.ir import TargetError

# What a target does not take, by the presets with which it does not.
TRANSPOSED = [name for name in LAYERS if "transposed" in name]
REFUSED: dict[str, dict[str, list[str]]] = {
    "ethos-u": {"w8a8": [*TRANSPOSED, "nearest, to any size", "bilinear"]},
    "tvm": {passes: ["bilinear", "replicated edges"] for passes in ("exact", "w8a8")},
    "qnn": {"exact": ["replicated edges"]},
}
PRESETS = {"ethos-u": ("w8a8",), "qnn": ("exact", "w8a8", "w8a16")}
FAR = {"qnn": 5e-3}  # in half precision
# Of eight bits one where it is rounded twice; tables of sixteen bits have eight or so that count.
STEPS = {"w8a16": 700.0}
CASES = [
    (target, passes, layer)
    for target in ("onnxruntime", "openvino", "tvm", "c", "qnn", "xnnpack", "ethos-u", "litert")
    for passes in PRESETS.get(target, ("exact", "w8a8"))
    for layer in LAYERS
]


@pytest.mark.filterwarnings("ignore")  # runtimes' own use of PyTorch and of Python
@pytest.mark.parametrize(("target", "passes", "layer"), CASES)
def test_a_layer_gives_what_its_graph_says(target: str, passes: str, layer: str) -> None:
    if not TARGETS[target].installed:
        pytest.skip(f"{target} is not installed")
    far, steps = FAR.get(target, 1e-4), STEPS.get(passes, 2.0)
    if layer in REFUSED.get(target, {}).get(passes, ()):
        with pytest.raises(TargetError):
            check_layer(layer, target, passes, steps=steps, far=far)
    else:
        check_layer(layer, target, passes, steps=steps, far=far)
