"""A Hugging Face checkpoint folder as a module: ``config.json`` and weights in safetensors; and
what of a model is needed to write such a folder again.

Weights are read from safetensors alone. A pickle can run any program when it is opened, so a folder
that has nothing else is refused.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch

from ..ir import Checkpoint, Graph, InputError, WeightError
from ..ir.checkpoint import Kind

# Of an example that is made up.
BATCH, LENGTH, SAMPLES, IMAGE = 2, 16, 16_000, 224


def load_checkpoint(folder: Path) -> torch.nn.Module:
    """The model of a checkpoint folder, in eval mode and float32 unless stored otherwise.

    Raises:
        InputError: The folder is no checkpoint, or transformers is not installed.
        WeightError: Weights are missing, truncated, or in pickle files only.
    """
    config = _config(folder)
    files = _weights(folder)
    for file in files:
        _check_file(file)
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "a checkpoint folder needs transformers, which is not installed",
            do="pip install 'regauge[hf]'",
        ) from error
    names = config.get("architectures") or []
    kind: Any = getattr(transformers, names[0], None) if names else transformers.AutoModel
    if kind is None:
        raise InputError(f"transformers has no class {names[0]}", where=str(folder / "config.json"))
    try:
        model, info = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise WeightError(
            f"the weights do not fit the configuration: {str(error).splitlines()[0]}",
            where=str(folder),
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise WeightError(
            f"{len(missing)} tensors are missing, the first is {missing[0]}",
            where=", ".join(str(file) for file in files),
            do="copy the checkpoint again, with all its files",
        )
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return model.eval()


def example_inputs(model: Any) -> dict[str, torch.Tensor]:
    """Inputs of the kind and the sizes that a model's configuration speaks of."""
    config = model.config
    main = str(model.main_input_name)
    generator = torch.Generator().manual_seed(0)

    def tokens() -> torch.Tensor:
        text = config.get_text_config()
        return torch.randint(int(text.vocab_size), (BATCH, LENGTH), generator=generator)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(BATCH, *shape, generator=generator, dtype=model.dtype)

    match main:
        case "input_ids":
            inputs = {main: tokens()}
        case "pixel_values":
            size = getattr(config, "image_size", IMAGE)
            height, width = size if isinstance(size, (list, tuple)) else (size, size)
            inputs = {main: numbers(int(getattr(config, "num_channels", 3)), height, width)}
        case "input_features" if hasattr(config, "max_source_positions"):
            # The encoders of speech halve the frames by a convolution with stride 2.
            inputs = {main: numbers(int(config.num_mel_bins), 2 * int(config.max_source_positions))}
        case "input_values":
            inputs = {main: numbers(SAMPLES)}
        case _:
            raise InputError(f"no example of {main} can be made up", do="give args or kwargs")
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens()
    return inputs


def describe(model: Any, graph: Graph) -> Checkpoint | None:
    """The checkpoint that a Hugging Face model would be saved as; ``None`` of any other module.

    Args:
        graph: The model, just traced.
    """
    config: Any = getattr(model, "config", None)
    if not (hasattr(config, "to_json_string") and hasattr(model, "save_pretrained")):
        return None
    settings = json.loads(config.to_json_string())
    settings |= {
        "architectures": [type(model).__name__],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    modules: dict[str, Kind] = {
        name: "linear" if isinstance(module, torch.nn.Linear) else "embedding"
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding))
    }
    tensors = model.state_dict()
    derived = getattr(model, "all_tied_weights_keys", {})
    places = {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor.numel()}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name in sorted(places, key=lambda name: name in derived):  # keeps the order otherwise
        if first.setdefault(places[name], name) != name:
            tied[name] = first[places[name]]
    return Checkpoint(settings, tensors, tied, modules, graph.copy())


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"{folder} is no checkpoint folder: it has no config.json",
            do="give a folder with config.json and *.safetensors, or module:factory",
        )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"config.json is not JSON: {error}", where=str(path)) from None
    if not isinstance(config, dict):
        raise InputError("config.json does not hold an object", where=str(path))
    return config


def _weights(folder: Path) -> list[Path]:
    """The safetensors files, all that an index names among them."""
    index = folder / "model.safetensors.index.json"
    found = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        named = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if absent := [name for name in named if not (folder / name).is_file()]:
            raise WeightError(
                f"{absent[0]} is missing, which the index names",
                where=str(index),
                do="copy the checkpoint again, with all its files",
            )
        return [folder / name for name in named]
    if not found:
        pickles = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")
        )
        if pickles:
            raise WeightError(
                f"the weights are in pickle files only ({pickles[0]}), which can run any program",
                where=str(folder),
                do="convert them to safetensors with a tool and on a machine that you trust",
            )
        raise WeightError("there are no weights: no *.safetensors file", where=str(folder))
    return found


def _check_file(path: Path) -> None:
    """Refuse a file shorter than its header says, naming the first tensor cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        (length,) = struct.unpack("<Q", start) if len(start) == 8 else (size + 1,)
        if 8 + length > size:
            raise WeightError("the file is cut off in its header", where=str(path))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if 8 + length + entry["data_offsets"][1] > size:
            raise WeightError(
                f"the tensor {name} is cut off: the file ends before it does",
                where=str(path),
                do="copy the file again",
            )
