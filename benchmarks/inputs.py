"""Inputs for a model that nobody has seen, from its signature, its configuration, and what it says
when something is missing.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

_MODALITY = re.compile(r"^(decoder_)?input_ids$|^(pixel|input)_(values|features)$|^bbox$")
BATCH, LENGTH, SAMPLES = 2, 8, 1600
TRIES = 40


class NoInputs(Exception):
    """No inputs were found with which the model runs."""


def find(model: torch.nn.Module, config: Any, image: int) -> dict[str, torch.Tensor]:
    """Inputs by keyword on which the model runs and gives finite numbers.

    Raises:
        NoInputs: With what the model said first.
    """
    parameters = inspect.signature(model.forward).parameters
    main = str(getattr(model, "main_input_name", "") or next(iter(parameters)))
    if main not in parameters:
        main = next(iter(parameters))
    needed = [main] + [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name != main
    ]
    maker = _Maker(config, image)
    first: Exception | None = None
    for _ in range(6):  # each time the model may name one more input
        error: Exception | None = None
        for values in maker.combinations(needed):
            try:
                with torch.no_grad():
                    _check_finite(model(**values))
                return values
            except Exception as raised:
                error = error or raised
                more = _asked(str(raised), [n for n in parameters if n not in needed])
                if more:
                    needed.append(more)
                    break
        else:
            more = ""
        first = first or error
        if not more:
            break
    raise NoInputs(f"{type(first).__name__}: {first}") from first


def _check_finite(found: Any) -> None:
    leaves = pytree.tree_leaves(found)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if any(t.is_floating_point() and bool(t.isnan().any()) for t in tensors):
        raise NoInputs("the model gives NaN")


def _asked(message: str, parameters: list[str]) -> str:
    """The input that a message names, the first of several; else the next kind of data."""
    if not re.search(r"specify|required|provide|missing|must|need|None", message):
        return ""
    words = re.findall(r"[a-z][a-z0-9_]+", message)
    named = [word for word in words if word in parameters and "embeds" not in word]
    more = [name for name in parameters if _MODALITY.search(name)]
    return next(iter([*named, *more]), "")


class _Maker:
    """Candidates for an input of each name."""

    def __init__(self, config: Any, image: int) -> None:
        self.values = _flat(config.to_dict())
        self.image = image
        self.generator = torch.Generator().manual_seed(0)

    def combinations(self, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
        made = [list(self.candidates(name)) for name in names]
        for values in itertools.islice(itertools.product(*made), TRIES):
            yield dict(zip(names, values, strict=True))

    def size(self, pattern: str, default: int) -> int:
        """The first integer of a configuration whose name matches."""
        for key, value in self.values:
            if re.search(pattern, key) and isinstance(value, int) and value > 0:
                return value
        return default

    def floats(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def ids(self, *shape: int, low: int = 3, high: int = 0) -> torch.Tensor:
        # The last of the vocabulary stand for images and sounds.
        end = high or max(min(self.size("vocab_size", 99), 79), low + 1)
        return torch.randint(low, end, shape, generator=self.generator)

    def candidates(self, name: str) -> Iterator[torch.Tensor]:
        hidden = self.size(r"hidden_size|d_model|n_embd|embed_dim|hidden_dim", 32)
        if "mask" in name and "pixel" not in name:
            yield torch.ones(BATCH, LENGTH, dtype=torch.int64)
        elif name == "bbox":
            yield torch.tensor([2, 3, 9, 12]).expand(BATCH, LENGTH, 4).contiguous()
        elif re.search(r"token_type|position_ids", name):
            yield torch.zeros(BATCH, LENGTH, dtype=torch.int64)
        elif re.search(r"ids$|tokens|codes", name):
            yield self.ids(BATCH, LENGTH)
            yield self.ids(BATCH, LENGTH, low=1, high=2)
            yield self.ids(BATCH, self.size(r"num_codebooks|num_quantizers", 4), LENGTH)
        elif "pixel" in name or "image" in name or "video" in name:
            yield from self.images(name)
        elif re.search(r"input_values|waveform|audio", name):
            yield from self.sounds()
            yield from self.spectra()
        elif "features" in name or "spectrogram" in name:
            yield from self.spectra()
            yield from self.sounds()
            yield self.floats(BATCH, LENGTH, hidden)
        elif re.search(r"past_|future_|target", name):
            length = self.size("context_length", 32) + 7 * ("past_values" in name)
            yield self.floats(BATCH, length)
            yield self.floats(BATCH, length, self.size("num_input_channels|input_size", 1))
        else:
            yield self.floats(BATCH, LENGTH, hidden)
            yield from self.images(name)

    def images(self, name: str) -> Iterator[torch.Tensor]:
        size = self.size(r"^(image_size|img_size|input_size)$", self.image)
        channels = self.size(r"num_channels|in_channels|in_chans", 3)
        if "mask" in name:
            yield torch.ones(BATCH, size, size, dtype=torch.int64)
            return
        frames = self.size(r"num_frames|frames_per_clip", 4)
        for batch, side in ((BATCH, size), (1, 2 * size)):
            yield self.floats(batch, channels, side, side)
            yield self.floats(batch, frames, channels, side, side)
            yield self.floats(batch, 1, channels, side, side)
        yield self.floats(BATCH, channels, frames, size, size)

    def sounds(self) -> Iterator[torch.Tensor]:
        yield self.floats(BATCH, SAMPLES)
        yield self.floats(BATCH, 1, SAMPLES)

    def spectra(self) -> Iterator[torch.Tensor]:
        bins = self.size(r"mel_bins|num_mel|n_mels|input_feat|feature_size|num_bins", 16)
        longest = self.size(r"max_source_positions|max_length", 32)
        for frames in dict.fromkeys((2 * longest, longest, 64)):
            yield self.floats(BATCH, bins, frames)
            yield self.floats(BATCH, frames, bins)


def _flat(values: dict[Any, Any]) -> list[tuple[str, Any]]:
    """The entries of nested dictionaries, outer ones first."""
    inner = [value for value in values.values() if isinstance(value, dict)]
    named = [(key, value) for key, value in values.items() if isinstance(key, str)]
    return [*named, *(entry for value in inner for entry in _flat(value))]
