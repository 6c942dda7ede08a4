"""Whole models on the GPU at hand: the target ``torch`` with kernels beside others.

    python benchmarks/gpu_models.py [ours torchao onnxruntime ...] [--rows 16 2048] [--layers 4]
                                    [--out FOLDER] [--dry]

A LLaMA of random weights in bfloat16 takes a number of tokens at once, without a cache. Peers that
are not installed are named and left out. ``--dry`` runs a tiny one on the CPU, our kernels in
Triton's interpreter, and keeps nothing.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gpu import RESULTS, interpret, seconds
from transformers import LlamaConfig, LlamaForCausalLM

import regauge as rg
from regauge.backends.onnx import ModelFile, emit
from regauge.codegen.tuning import Clock, Device, milliseconds
from regauge.ir.interpret import execute
from regauge.passes import Quantize

SIZES: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
TINY: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
}
# Rounded to the nearest: what is timed does not depend on how codes were chosen.
PLAIN: dict[str, Any] = {"rounding": "nearest", "correct_bias": False, "embeddings": False}
OURS: dict[str, Callable[[], Any]] = {
    "w8a8-dynamic": lambda: Quantize("dynamic", **PLAIN),
    "fp8": lambda: Quantize("fp8-e4m3-token", "fp8-e4m3-channel", **PLAIN),
    "w6a6": lambda: Quantize("int6-token", "int6-channel", **PLAIN),
    "w4a16": lambda: Quantize(None, "int4-g128-asym", **PLAIN),
}


@dataclass
class Figure:
    """What was measured.

    Args:
        name: Of a way to run the model.
        rows: Tokens at once.
        time: Milliseconds.
        error: Of the result, relative to that of PyTorch in bfloat16; of codes, their damage.
        faithful: Of ours, how far they are from the graph run by PyTorch, relative.
    """

    name: str
    rows: int
    time: float
    error: float
    faithful: float = math.nan


class Bench:
    """A model, an input for it, and what PyTorch makes of it.

    Args:
        rows: Tokens at once.
        layers: Of the model.
        dry: Whether it is tiny, and on the CPU.
    """

    def __init__(self, rows: int, layers: int, dry: bool) -> None:
        torch.manual_seed(0)
        self.device, self.clock = ("cpu", seconds) if dry else ("cuda", milliseconds)
        self.clock: Clock
        sizes = TINY if dry else SIZES
        config = LlamaConfig(**sizes, num_hidden_layers=layers, tie_word_embeddings=False)
        self.model: Any = LlamaForCausalLM(config).eval().bfloat16()
        self.ids = torch.randint(0, int(sizes["vocab_size"]), (1, rows))
        self.rows, self.dry = rows, dry
        with torch.no_grad():
            self.wanted = self.there()(self.ids.to(self.device)).logits.float().cpu()

    def there(self) -> Any:
        """A copy of the model on the device, that gives logits without a cache."""
        model: Any = copy.deepcopy(self.model).to(self.device)
        model.config.use_cache = False
        return model

    def figure(self, name: str, run: Callable[[], Any]) -> Figure:
        """Run once to warm up and check, then time."""
        with torch.no_grad():
            found = run()
            found = getattr(found, "logits", found)
            error = relative(found, self.wanted)
            return Figure(name, self.rows, self.clock(run), error)

    def torch(self) -> Iterator[Figure]:
        """Eagerly, and compiled."""
        model, ids = self.there(), self.ids.to(self.device)
        yield self.figure("PyTorch, bfloat16", lambda: model(ids))
        if not self.dry:
            fused: Any = torch.compile(model)
            yield self.figure("torch.compile, bfloat16", lambda: fused(ids))

    def ours(self) -> Iterator[Figure]:
        """The target torch, with kernels."""
        for name, step in OURS.items():
            art = rg.compile(
                self.model,
                (self.ids,),
                {"use_cache": False},
                passes=[step()],
                target="torch",
                measure=False,
                options={"device": self.device},
            )
            flat = [self.ids, *[False] * (len(art.graph.inputs) - 1)]
            there = [self.ids.to(self.device), *flat[1:]]
            runner = art.runner
            found = self.figure(f"Regauge, {name}", lambda run=runner, x=there: run(x)[0])
            with torch.no_grad():
                (exact, *_) = execute(art.graph, flat)
            found.faithful = relative(runner(flat)[0], exact)
            print("\n".join(runner.notes), flush=True)
            yield found

    def torchao(self) -> Iterator[Figure]:
        """Its int8 and int4, through torch.compile."""
        library: Any = importlib.import_module("torchao.quantization")
        ids = self.ids.to(self.device)
        for name, made in (
            ("int8 of tokens", "Int8DynamicActivationInt8WeightConfig"),
            ("int4 weights", "Int4WeightOnlyConfig"),
            ("E4M3 of rows", "Float8DynamicActivationFloat8WeightConfig"),
        ):
            model = self.there()
            try:
                library.quantize_(model, getattr(library, made)())
                fused: Any = model if self.dry else torch.compile(model)
                yield self.figure(f"torchao, {name}", lambda run=fused: run(ids))
            except Exception as error:  # a peer that fails is left out, by its name
                print(f"torchao, {name}: {type(error).__name__}: {error}", flush=True)

    def onnxruntime(self) -> Iterator[Figure]:
        """The same graph in float16 on its CUDA provider; of the CPU in a dry run."""
        ort: Any = importlib.import_module("onnxruntime")
        provider = "CPUExecutionProvider" if self.dry else "CUDAExecutionProvider"
        if provider not in ort.get_available_providers():
            print("onnxruntime is installed without its CUDA provider", flush=True)
            return
        model: Any = copy.deepcopy(self.model).to(torch.float32 if self.dry else torch.float16)
        graph = rg.trace(model, (self.ids,), {"use_cache": False})
        with tempfile.TemporaryDirectory() as folder:
            ModelFile.of(emit(graph)).save(Path(folder))
            session = ort.InferenceSession(f"{folder}/model.onnx", providers=[provider])
        given = {session.get_inputs()[0].name: self.ids.numpy()}
        yield self.figure(
            f"ONNX Runtime, {provider}", lambda: torch.from_numpy(session.run(None, given)[0])
        )


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """‖found - wanted‖ / ‖wanted‖."""
    wanted = wanted.double().cpu()
    return float((found.double().cpu() - wanted).norm() / wanted.norm())


WAYS = ("torch", "ours", "torchao", "onnxruntime")


def run(ways: list[str], rows: list[int], layers: int, dry: bool) -> Iterator[Figure]:
    """All figures, each as soon as it is there."""
    for count in rows:
        bench = Bench(count, layers, dry)
        for way in ways:
            if way not in ("torch", "ours") and importlib.util.find_spec(way) is None:
                print(f"{way} is not installed", flush=True)
                continue
            for found in getattr(bench, way)():
                print(line(found), flush=True)
                yield found


def line(found: Figure) -> str:
    """A row of the table."""
    cells = (found.name, f"{found.rows}", f"{found.time:.3f}", f"{found.error:.1e}")
    return f"| {' | '.join((*cells, f'{found.faithful:.1e}'))} |"


def markdown(device: str, layers: int, figures: list[Figure]) -> str:
    """The table."""
    head = ["# Whole models on a GPU", "", f"{device}, {layers} layers of a LLaMA of {SIZES}.", ""]
    head += ["`error`: beside PyTorch in bfloat16, `faithful`: beside the quantized graph.", ""]
    head += ["| way | tokens | ms | error | faithful |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(line, figures), ""])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("ways", nargs="*", help=f"of {', '.join(WAYS)}; all, if none is named")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 2048], help="tokens at once")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go")
    parser.add_argument("--dry", action="store_true", help="a tiny model on the CPU: no figures")
    given = parser.parse_args(arguments)
    if unknown := set(given.ways) - set(WAYS):
        parser.error(f"there is no way {', '.join(sorted(unknown))}")
    if given.dry:
        interpret()
        for _ in run(given.ways or [*WAYS], [8], 1, True):
            pass
        return
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: --dry runs a tiny model on the CPU")
    about = Device.of(torch.device("cuda", torch.cuda.current_device()))
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / f"gpu-models-{about.stem}.json"
    figures: list[Figure] = []
    for found in run(given.ways or [*WAYS], given.rows, given.layers, False):
        figures.append(found)
        kept = {"device": str(about), "figures": [asdict(row) for row in figures]}
        file.write_text(json.dumps(kept, indent=1) + "\n")
        file.with_suffix(".md").write_text(markdown(str(about), given.layers, figures))


if __name__ == "__main__":
    main()
