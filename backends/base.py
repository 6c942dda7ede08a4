"""What a target is: what it takes, and how a graph becomes something that runs on it.

Each has a file in ``profiles``; nothing of a runtime is imported before it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..ir import Graph, TargetError
from ..ir.formats import Format
from ..ir.types import show, symbols
from .runner import Runner


class WeightFormats(Protocol):
    """The formats of weights that a target takes; ``str`` says them in words."""

    @property
    def examples(self) -> tuple[str, ...]:
        """Names of formats to choose from."""
        ...

    def take(self, form: Format) -> bool:
        """Whether it takes weights ``[O, I]`` in a format."""
        ...

    def store(self, form: Format) -> bool:
        """Whether it does so in no more bits than the format has."""
        ...


class NoFormats:
    """Of a target that has kernels for int8 only, a scale a channel, and activations in codes."""

    examples: tuple[str, ...] = ()

    def take(self, form: Format) -> bool:
        return False

    def store(self, form: Format) -> bool:
        return False

    def __str__(self) -> str:
        return "none"


@dataclass(frozen=True)
class Target:
    """A profile and a lowering.

    Attributes:
        name: What the user calls it.
        module: The module of this package that lowers to it.
        requires: The packages that must be importable.
        install: What to ``pip install`` for them.
        about: What becomes of the graph, and where it runs, in words.
        floats: The numbers in floating point that it computes in; none: integers alone, or what
            ``about`` says.
        opset: Of ONNX, where the graph becomes a model of that.
        unsigned_activations: Whether it runs uint8 activations faster than int8.
        pairs_in_16_bits: Whether it may add two products of codes in 16 bits, which saturate.
        closed_convolutions: Whether a convolution on codes gains only where its result is codes.
        weights: The formats of weights of a few bits that it takes; where there are none, it
            decodes them, in any format.
        coded_scores: Whether attention gains where it is in parts, and its scores are products of
            codes.
        lacks: The names of ops that it does not take, which are written in others that it takes
            (``passes.Legalize``).
        simulates: Whether quantized ops are computed in floating point, so that latency says
            nothing; a runner that has an attribute of this name knows better, of all ops.
        keeps_code: Whether it runs the model's own code, to which a pass can only give other
            weights. Its module then has ``check(graph)`` too, which raises ``TargetError``.
        masked: What scores of attention are that do not count, where ``lacks`` has attention.
        axes: How many axes a value may have; ``None``: any number.
        fixed_sizes: Whether every size must be a number.
        integers_only: Whether an op takes codes only where it gives codes, so that all ops of a
            quantized graph do.
        gives_floats: Of these, the ops that may give floats of codes: at its end the graph stays in
            floating point from the last of them on.
        sixteen_bits: Whether it runs activations in codes of sixteen bits.
        dynamic_scales: Whether it runs codes whose scales come with the data.
        programs: Of these, one must be on the path.
        system: The command that installs one of them.
    """

    name: str
    module: str
    requires: tuple[str, ...]
    install: str
    about: str = ""
    floats: tuple[str, ...] = ()
    opset: int | None = None
    unsigned_activations: bool = True
    pairs_in_16_bits: bool = False
    closed_convolutions: bool = False
    coded_scores: bool = False
    weights: WeightFormats | None = None
    lacks: frozenset[str] = frozenset()
    masked: float = -math.inf
    axes: int | None = None
    simulates: bool = False
    keeps_code: bool = False
    fixed_sizes: bool = False
    integers_only: bool = False
    gives_floats: frozenset[str] = frozenset()
    sixteen_bits: bool = False
    dynamic_scales: bool = True
    programs: tuple[str, ...] = ()
    system: str = ""

    @property
    def takes(self) -> str:
        """What it takes and does, in words."""
        if self.simulates:
            return self.about
        sizes = "fixed sizes" if self.fixed_sizes else "symbolic sizes"
        parts = (" or ".join(self.floats), self.codes, sizes, self.about)
        return "; ".join(part for part in parts if part)

    @property
    def codes(self) -> str:
        """The codes that it computes on, in words."""
        kinds = ["uint8" if self.unsigned_activations else "int8"]
        kinds += ["uint16"] * self.sixteen_bits
        scales = "static or per token" if self.dynamic_scales else "static"
        ends = ", from end to end" if self.integers_only else ""
        return f"int8 weights and {' or '.join(kinds)} activations, {scales}{ends}"

    @property
    def installed(self) -> bool:
        return self.missing is None

    @property
    def missing(self) -> tuple[str, str] | None:
        """What it needs and does not find, and the command that installs it."""
        absent = [name for name in self.requires if importlib.util.find_spec(name) is None]
        if absent:
            return f"{', '.join(absent)}, which is not installed", f"pip install '{self.install}'"
        if self.programs and not any(map(shutil.which, self.programs)):
            return f"one of the programs {', '.join(self.programs)}, and finds none", self.system
        return None

    def check_installed(self) -> None:
        """Raise ``TargetError`` that says what to install."""
        if self.missing is not None:
            what, do = self.missing
            raise TargetError(f"target {self.name!r} needs {what}", do=do)

    def check_weights(self, form: Format, what: str = "weights", where: str = "") -> None:
        """Raise ``TargetError`` where there is no kernel for weights in a format."""
        if self.weights is None or self.weights.take(form):
            return
        choice = "weights and activations in eight bits, passes='w8a8'"
        if self.weights.examples:
            names = ", ".join(self.weights.examples)
            choice = f"one of its formats ({self.weights}), such as {names}"
        raise TargetError(
            f"target {self.name!r} has no kernel for {what} in {form}",
            where=where,
            do=f"choose {choice}, or target='torch', which decodes them all",
        )

    def check_activations(self, form: str) -> None:
        """Raise ``TargetError`` where activations are neither run nor simulated in a format."""
        runs = {
            "static": True,
            "static16": self.sixteen_bits,
            "dynamic": self.dynamic_scales,
            "dynamic-tensor": self.dynamic_scales,
        }
        if not self.simulates and not runs.get(form, False):
            known = ", ".join(repr(name) for name, there in runs.items() if there)
            raise TargetError(
                f"target {self.name!r} has no kernel for activations in {form}",
                do=f"choose from {known}, or target='torch', which simulates every format",
            )

    def stores(self, form: Format) -> bool:
        """Whether weights in a format are stored in no more bits than it has."""
        return self.weights is None or self.weights.store(form)

    def check_graph(self, graph: Graph) -> None:
        """Raise ``TargetError`` where a size is a symbol and must not be, where scales come with
        the data and must not, or where a pass made what the model's own code has no place for."""
        if self.fixed_sizes:
            self._check_sizes(graph)
        if not self.dynamic_scales:
            self._check_scales(graph)
        if self.keeps_code:
            self._lowering().check(graph)

    def _check_sizes(self, graph: Graph) -> None:
        for node in graph.inputs:
            if any(symbols(node.type)):
                raise TargetError(
                    f"target {self.name!r} needs every size as a number, and {node.name} is "
                    f"{show(node.type)}",
                    where=node.at,
                    do="compile without dynamic_shapes and cache=True, with an example as large as "
                    "what shall run",
                )

    def _check_scales(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.op == "dynamic_quantize":
                raise TargetError(
                    f"target {self.name!r} computes on codes of static scales alone, and those of "
                    f"{node.name} come with the data",
                    where=node.at,
                    do="quantize with static scales, such as passes='w8a8'",
                )

    def options(self, *, loading: bool = False) -> list[str]:
        """The options that its lowering, or its loading, takes."""
        takes = self._lowering().load if loading else self._lowering().lower
        parameters = inspect.signature(takes).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _OURS]

    def check_options(self, options: Mapping[str, Any], *, loading: bool = False) -> None:
        """Raise ``TargetError`` where its lowering, or its loading, has no such option."""
        if options:
            known = self.options(loading=loading)
            if unknown := sorted(options.keys() - set(known)):
                raise TargetError(
                    f"target {self.name!r} has no option {unknown[0]!r}",
                    do=f"choose of its options: {', '.join(known) or 'it has none'}",
                )

    def lower(
        self, graph: Graph, *, progress: Callable[..., Any] | None = None, **options: Any
    ) -> Runner:
        """The graph as something that runs.

        Args:
            progress: Shown to the user where the lowering takes long: ``progress(sequence,
                description)`` gives the sequence back.
            options: What the lowering takes besides, such as a number of threads.
        """
        lower = self._lowering().lower
        if progress is not None and "progress" in inspect.signature(lower).parameters:
            options["progress"] = progress
        return lower(graph, **options)

    def load(self, folder: Path, graph: Graph, **options: Any) -> Runner:
        """A runner from what ``Runner.save`` wrote."""
        return self._lowering().load(folder, graph, **options)

    def _lowering(self) -> Any:
        self.check_installed()
        return importlib.import_module(f".{self.module}", __package__)


_OURS = ("progress",)  # what lowerings are handed, and nobody chooses
