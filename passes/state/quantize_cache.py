"""Keep the caches of keys and values in a few bits.

    K = s_k (u_k - z_k)      V = s_v (u_v - z_v)

Values have a range for each token and head, or each group of its channels. Keys have outliers in
few channels, so besides that they can have a static range for each channel, from calibration data
(KVQuant); their codes then need no scales in the state. The last tokens may stay as they are. The
graph takes and gives codes, packed, and holds the arithmetic; each token is rounded once, when it
comes or when it leaves the window. Rotary embeddings come before. Approximate; A31, and what it
compares with. Exact in the limit of many bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import torch

from ...ir import Graph, Node
from ...ir.interpret import values_of
from ...ir.state import Cache, entered, find_caches, need_closed
from ..base import Context, Pass, Promise, Remark, Stage, applied
from ..options import COUNT, SOME, check_known, check_numbers
from .rewrite_state import Kept, Parts, keep_as, without_caches
from .state_codes import STORAGE, Coder, Range, StateFormat

Scaling: TypeAlias = Literal["token", "channel"]


@dataclass(frozen=True)
class QuantizeCache(Pass):
    """Quantize the state of a decoder that takes and gives its caches.

    Args:
        keys, values: Bits: 2, 4, 8 or 16; ``None`` leaves them as they are.
        scaling: Of keys: a range for each ``token`` as it comes, or a static one for each
            ``channel``, which needs calibration data.
        group: How many channels share a range of a token; all of a head where not given.
        window: How many of the last tokens stay as they are. A cache must hold as many.
        scales: Their dtype.
    """

    keys: int | None = 8
    values: int | None = 8
    scaling: Scaling = "token"
    group: int | None = None
    window: int = 0
    scales: torch.dtype | None = None
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STATE

    def __post_init__(self) -> None:
        check_known([self.keys, self.values], (*STORAGE, None), "number of bits")
        check_known([self.scaling], get_args(Scaling), "scaling")
        check_numbers(self, group=COUNT | None, window=SOME)

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        need_closed(graph, self.name)
        caches = find_caches(graph)
        if not caches:
            return [without_caches(graph)]
        forms = {c: form for c in caches if (form := self._form(c)) is not None}
        static = self._ranges(graph, context, list(forms)) if self.scaling == "channel" else {}
        kept: list[Kept] = []
        remarks: list[Remark] = []
        for cache, form in forms.items():
            form.check(cache.past)
            limits = static.get(cache.past.name)
            kept.append(_kept(cache, form, limits, self.window))
            size = int(cache.past.shape[-1])
            figures = {
                "bytes_before": size * cache.past.dtype.itemsize,
                "bytes": form.bytes(size, cache.past.dtype.itemsize, static=limits is not None),
            }
            how = "a static range a channel" if limits else "a range a token"
            remarks.append(applied(cache.joined, f"{cache.role} in {form}, {how}", **figures))
        if kept:
            keep_as(graph, kept)
        return remarks

    def _form(self, cache: Cache) -> StateFormat | None:
        bits = self.keys if cache.role == "keys" else self.values
        if bits is None:
            return None
        group = None if cache.role == "keys" and self.scaling == "channel" else self.group
        return StateFormat(bits, group, self.scales)

    def _ranges(
        self, graph: Graph, context: Context, caches: list[Cache]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The least and the greatest of each channel of keys, ``[1, heads, 1, channels]``."""
        found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        wanted = [cache for cache in caches if cache.role == "keys"]
        batches = context.need_calibration(self.name)
        for batch in context.progress(batches, f"{self.name}: ranges of keys"):
            given = entered(graph, batch)
            values = values_of(graph, given, [cache.joined for cache in wanted])
            for cache, value in zip(wanted, values, strict=True):
                over = (0, cache.axis)
                low, high = value.amin(over, keepdim=True), value.amax(over, keepdim=True)
                if cache.past.name in found:
                    before = found[cache.past.name]
                    low, high = torch.minimum(low, before[0]), torch.maximum(high, before[1])
                found[cache.past.name] = low, high
        return found


def _kept(
    cache: Cache,
    form: StateFormat,
    limits: tuple[torch.Tensor, torch.Tensor] | None,
    window: int,
) -> Kept:
    def coder(graph: Graph) -> Coder:
        static = None
        if limits is not None:
            low, high = limits
            step = (high - low) / form.top
            static = Range(
                _shared(graph, f"{cache.past.name}_least", low),
                _shared(graph, f"{cache.past.name}_step", step),
            )
        return Coder(graph, form, cache.past.name, cache.past.dtype, static)

    def encode(graph: Graph, rows: Node, before: Node | None) -> Parts:
        return coder(graph).encode(rows, before)

    def decode(graph: Graph, parts: Parts, before: Node | None) -> Node:
        return coder(graph).decode(parts, before)

    return Kept(cache, encode, decode, window)


def _shared(graph: Graph, name: str, value: torch.Tensor) -> Node:
    """A parameter, made once for each graph."""
    return graph.params[name] if name in graph.params else graph.param(name, value, origin=())
