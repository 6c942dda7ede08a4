"""What all contestants share: the data, the measures, the clock. It runs in each one's environment,
so it knows of torch and transformers only.

    python CONTESTANT.py FOLDER '{"bits": 4, "group": 128, ...}'

A contestant quantizes the linear layers of the blocks, and nothing else. The last line that it
prints is a JSON object: the measure on the held-out and on the evaluation tokens, bits, seconds and
bytes.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from zoo.measures import perplexity, relative_l2

BATCH = 4  # windows that calibration and evaluation take at once
SCALE_BITS = 16
WHOLE = 1 << 30  # as a group: the whole row


@dataclass(frozen=True)
class Case:
    """A model, its data, and the width that is asked for.

    Attributes:
        folder: With ``model/``, ``tokens.safetensors`` and perhaps ``wanted.safetensors``.
        settings: Of the case, such as ``bits`` and ``group``, and of the contestant.
    """

    folder: Path
    settings: Mapping[str, Any]

    @property
    def bits(self) -> int:
        return self.settings["bits"]

    @property
    def group(self) -> int:
        return self.settings["group"]

    @cached_property
    def tokens(self) -> dict[str, torch.Tensor]:
        """``calibration``, ``held_out`` and ``evaluation``, each ``int64[windows, length]``."""
        return load_file(self.folder / "tokens.safetensors")

    @property
    def causal(self) -> bool:
        """Whether the model predicts tokens; otherwise it gives hidden states."""
        return not (self.folder / "wanted.safetensors").exists()

    @cached_property
    def batches(self) -> list[dict[str, torch.Tensor]]:
        """The calibration tokens as calls of the model."""
        return [{"input_ids": ids} for ids in self.tokens["calibration"].split(BATCH)]

    def model(self) -> nn.Module:
        """The trained model in float32."""
        from transformers import AutoModel, AutoModelForCausalLM

        kind = AutoModelForCausalLM if self.causal else AutoModel
        options = {} if self.causal else {"add_pooling_layer": False}
        model: nn.Module = kind.from_pretrained(
            str(self.folder / "model"), dtype=torch.float32, local_files_only=True, **options
        )
        if self.causal:
            config: Any = model.config
            config.use_cache = False
        for parameter in model.parameters():  # in memory, not in a file that is mapped
            parameter.data = parameter.data.clone()
        return model.eval()

    def imports(self) -> None:
        """Import what the model's class needs, and that alone."""
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        kind = AutoModelForCausalLM if self.causal else AutoModel
        with torch.device("meta"):
            kind.from_config(AutoConfig.from_pretrained(str(self.folder / "model")))

    def judge(self, forward: Callable[[torch.Tensor], Any], split: str) -> float:
        """Perplexity, or the relative L2 error of the last hidden state against float32."""
        tokens = self.tokens[split]
        if self.causal:
            return perplexity(forward, tokens, batch=BATCH)
        with torch.no_grad():
            found = torch.cat([hidden_state(forward(ids)) for ids in tokens.split(BATCH)])
        wanted = load_file(self.folder / "wanted.safetensors")[split]
        return relative_l2(found, wanted)


def hidden_state(output: Any) -> torch.Tensor:
    """The last hidden state of what a model gives."""
    state = getattr(output, "last_hidden_state", output)
    return state if isinstance(state, torch.Tensor) else torch.as_tensor(state[0])


@dataclass(frozen=True)
class Made:
    """What a contestant made.

    Attributes:
        forward: Maps ``input_ids`` to logits or hidden states, or to an output that has them.
        bits: Of a quantized weight on average, its scales and zero points counted.
        matrices: How many were quantized.
        note: What was out of the ordinary.
    """

    forward: Callable[[torch.Tensor], Any]
    bits: float
    matrices: int
    note: str = ""


def layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that are to be quantized: all but a head that shares its table."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    return {name: part for name, part in found.items() if name != "lm_head"}


def bits_per_weight(
    shapes: Sequence[Sequence[int]],
    bits: int,
    group: int,
    zero: int,
    scale: int = SCALE_BITS,
) -> float:
    """Codes, a scale for each group of a row, and a zero point of so many bits.

    Args:
        shapes: Of the matrices, ``(outputs, inputs)``.
    """
    total = 0
    for rows, columns in shapes:
        total += rows * (columns * bits + math.ceil(columns / group) * (scale + zero))
    return total / sum(rows * columns for rows, columns in shapes)


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The most that it had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Begin to watch the most anew, for ``recent_peak``: loading is not what is compared."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def recent_peak() -> int:
    """The most that it had in memory since ``forget_peak``."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM"))


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def contend(
    quantize: Callable[[Case, Any], Made],
    packages: Sequence[str],
    load: Callable[[Case], Any] = Case.model,
) -> None:
    """Run one contestant and print what came of it.

    Args:
        quantize: Gets the case and its model, which it may change.
        packages: Whose versions are to be printed.
        load: The model, in the contestant's own form; neither timed nor judged.
    """
    case = Case(Path(sys.argv[1]), json.loads(sys.argv[2]))
    case.imports()
    assert case.batches
    libraries = resident()
    model = load(case)
    forget_peak()
    loaded = resident()
    start, used = time.perf_counter(), processor_seconds()
    made = quantize(case, model)
    seconds, used = time.perf_counter() - start, processor_seconds() - used
    most = recent_peak()
    splits = ("held_out", "evaluation") if case.settings.get("judged", True) else ()
    found = {
        **{split: case.judge(made.forward, split) for split in splits},
        "bits": made.bits,
        "matrices": made.matrices,
        "note": made.note,
        "seconds": seconds,
        "processor_seconds": used,
        "threads": torch.get_num_threads(),
        "libraries": libraries,
        "loaded": loaded,
        "quantizing_peak": most,
        "peak": peak(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    print(json.dumps(found), flush=True)
