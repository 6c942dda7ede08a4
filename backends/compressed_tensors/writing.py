"""The tensors and the configuration of a checkpoint, from a rewritten graph."""

from __future__ import annotations

from typing import Any

import torch

from ...ir import Checkpoint, Graph, Node, TargetError
from ...ir.checkpoint import place_of
from ...ir.formats import named
from ...ir.interpret import stored_value
from .layout import CHANNEL, Layer, Layouts, Reading, dynamic, laid_out, quantized, static
from .placement import Use, uses


def checkpoint_of(graph: Graph) -> Checkpoint:
    """Where a graph was traced from; raises ``TargetError`` where that is no checkpoint."""
    if graph.checkpoint is None:
        raise TargetError(
            "the graph was not traced from a Hugging Face model, so there is no checkpoint to "
            "write it back to",
            do="compile the transformers model itself, or its folder; other models run with "
            "target='onnxruntime' or 'torch'",
        )
    return graph.checkpoint


class Writer:
    """Writes one graph.

    Attributes:
        written: The graph with its weights as the checkpoint has them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.checkpoint = checkpoint_of(graph)
        self.written = graph.copy()

    def write(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The tensors by name, and what ``config.json`` holds."""
        found = self._by_name()
        tensors: dict[str, torch.Tensor] = {}
        layers: dict[str, Layer] = {}
        apart = False  # whether tied tensors became two
        for name in self.checkpoint.tensors:
            first = self.checkpoint.tied.get(name)
            if first is not None:
                same = name not in found or found[name].found is found[first].found
                if same:
                    continue
                apart = True
            use = found.get(name)
            if use is not None and self._in_codes(name, use):
                module = name.rpartition(".")[0]
                layers[module] = layer = self._layer(use)
                tensors |= {f"{module}.{key}": value for key, value in layer.tensors.items()}
            else:
                tensors[name] = self._plain(name, use)
        config = dict(self.checkpoint.config)
        if apart:
            config["tie_word_embeddings"] = False
        if layers:
            config["quantization_config"] = self._settings(layers)
        return tensors, config

    # -- which parameter is which tensor ---------------------------------------------------------

    def _by_name(self) -> dict[str, Use]:
        """What stands for each tensor that the graph reads."""
        traced = self.checkpoint.graph
        found: dict[str, Use] = {}
        for use in uses(self.graph, traced):
            names = [n for n in traced.store.origin.get(use.param.name, ()) if self._is_saved(n)]
            if not names:
                self._refuse_change(use)
            for name in self._meant(names, use):
                before = found.setdefault(name, use)
                if before.found != use.found:
                    raise TargetError(
                        f"{name} is one tensor in the checkpoint, and two in the graph: "
                        f"{_name(before.found)} and {_name(use.found)}",
                        do="leave out the pass that changed one of them",
                    )
        return found

    def _is_saved(self, name: str) -> bool:
        return name in self.checkpoint.tensors

    def _meant(self, names: list[str], use: Use) -> list[str]:
        """Of tied names, those that a reader of this kind has."""
        looks_up = use.reader.op == "embedding"
        kind = [name for name in names if (self.checkpoint.kind(name) == "embedding") == looks_up]
        return kind or names

    def _refuse_change(self, use: Use) -> None:
        """Constants that the model's own code computes must be what they were."""
        before = self.checkpoint.graph.value(use.param)
        now = stored_value(self.graph, use.found) if isinstance(use.found, Node) else None
        if now is None or not _unchanged(now, before):
            raise TargetError(
                f"{use.param.name} has changed, which the model's own code computes",
                where=use.reader.at,
                do="leave out the pass that changed it",
            )

    # -- what is written of it -------------------------------------------------------------------

    def _in_codes(self, name: str, use: Use) -> bool:
        """Whether a tensor is written as codes; raises where there is no layout for it."""
        weighted = isinstance(use.found, Node) and use.found.op != "param"
        kind = self.checkpoint.kind(name)
        if (not weighted and use.data is None) or kind == "embedding":
            return False
        if not weighted:
            if use.reader.op == "linear" and use.param is use.reader.args[1]:
                raise TargetError(
                    f"{name} is in floating point, and its layer reads codes",
                    where=use.reader.at,
                    do="quantize the weights of all layers whose inputs are codes",
                )
            return False
        assert isinstance(use.found, Node)
        form = CHANNEL if use.found.op == "dequantize" else named(use.found.attrs["format"])
        if kind != "linear" or use.found.tensor.rank != 2:
            raise TargetError(
                f"{name} is in codes, and its module is no torch.nn.Linear: the format has codes "
                "for these alone",
                where=use.reader.at,
                do="leave its weights in floating point, or compile for another target",
            )
        if not Layouts().take(form):
            raise TargetError(
                f"{name} is in {form}, which the format has no layout for",
                do=f"choose one of {', '.join(Layouts().examples)}",
            )
        return True

    def _layer(self, use: Use) -> Layer:
        """A linear layer in codes; the graph then computes with its scales as they are written."""
        assert isinstance(use.found, Node)
        dtype = self.checkpoint.graph.store.type(use.param.name).dtype
        weight = quantized(self.graph, use.found, dtype)
        scale: Node = use.found.args[1]
        if use.found.op == "decode" and use.found.operand(2) is None:
            self.written.store[scale.name] = weight.format.scale.pack(weight.parameters.scale)
        else:
            self.written.store[scale.name] = weight.parameters.scale.to(scale.dtype)
        return laid_out(weight, self._reading(use))

    def _reading(self, use: Use) -> Reading | None:
        if use.data is None:
            return None
        codes: Node = use.data.args[0]
        if codes.op == "getitem":
            return dynamic(bool(codes.args[0].attrs.get("per_token", True)))
        scale, zero = (self.graph.value(part) for part in use.data.args[1:3])
        return static(scale, zero)

    def _plain(self, name: str, use: Use | None) -> torch.Tensor:
        """A tensor in floating point: as it was, where nothing has changed it."""
        saved = self.checkpoint.tensors[name]
        if use is None:
            return saved
        traced = self.checkpoint.graph.value(use.param)
        value = (
            stored_value(self.graph, use.found).to(traced.dtype)
            if isinstance(use.found, Node)
            else torch.full_like(traced, use.found)
        )
        if _unchanged(value, traced):
            return saved
        place = place_of(saved, traced)
        if place is None:
            raise TargetError(
                f"{name} has changed, and the graph holds it in another form than the checkpoint: "
                "there is no way back",
                where=use.reader.at,
                do="leave out the pass that changed it",
            )
        return place.written(value).to(saved.dtype)

    # -- configuration ---------------------------------------------------------------------------

    def _settings(self, layers: dict[str, Layer]) -> dict[str, Any]:
        """``quantization_config``: a group of layers for each scheme, and those left out."""
        groups: list[tuple[Layer, list[str]]] = []
        for name, layer in layers.items():
            for known, members in groups:
                if known.scheme == layer.scheme and known.format == layer.format:
                    members.append(name)
                    break
            else:
                groups.append((layer, [name]))
        linear = [name for name, kind in self.checkpoint.modules.items() if kind == "linear"]
        formats = {layer.format for layer, _ in groups}
        described = [
            {"targets": ["Linear"] if len(groups) == 1 else members, **layer.scheme}
            | ({"format": layer.format} if len(formats) > 1 else {})  # older readers refuse it
            for layer, members in groups
        ]
        return {
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "format": min(formats) if len(formats) == 1 else "mixed-precision",
            "config_groups": {f"group_{i}": group for i, group in enumerate(described)},
            "ignore": [name for name in linear if name not in layers],
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }


def _unchanged(now: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether a tensor is what it was, but for the rounding to its dtype."""
    if now.shape != before.shape:
        return False
    if not before.is_floating_point():
        return torch.equal(now.to(before.dtype), before)
    close = torch.finfo(before.dtype).eps
    return torch.allclose(now.double(), before.double(), rtol=close, atol=close * 1e-3)


def _name(found: Node | float) -> str:
    return found.name if isinstance(found, Node) else str(found)
