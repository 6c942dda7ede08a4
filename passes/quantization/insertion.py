"""Put quantization into a graph: codes for weights, quantize and dequantize around values."""

from __future__ import annotations

import torch

from ...ir import Graph, Node, TensorType
from ...ir.formats import Format, Packed, Parameters
from ...ir.gauge import Site


def range_to_scale(
    low: torch.Tensor, high: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of a range, which is widened to hold zero (padding must stay exact); the
    scale is of the precision that the range is."""
    kind = low.dtype
    low, high = torch.clamp(low.float(), max=0), torch.clamp(high.float(), min=0)
    info = torch.iinfo(dtype)
    scale = torch.clamp((high - low) / (info.max - info.min), min=1e-12)
    scale = scale.to(kind).clamp(min=torch.finfo(kind).tiny)
    zero_point = torch.clamp(torch.round(info.min - low / scale.float()), info.min, info.max)
    return scale, zero_point.to(dtype)


def about_zero(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of int8 codes about zero, for numbers or their magnitudes."""
    scale = (values.abs().max() / torch.iinfo(torch.int8).max).clamp(min=1e-12)
    return scale, torch.zeros((), dtype=torch.int8)


def store_codes(graph: Graph, param: Node, codes: torch.Tensor, scale: torch.Tensor) -> Node:
    """Replace a parameter, for all its readers, by codes and the op that dequantizes them.

    Args:
        codes: int8, of the parameter's shape.
        scale: ``[O, 1, ...]``.
    """
    first = min(param.users, key=graph.nodes.index)
    origin = graph.store.origin.get(param.name, ())
    stored = graph.param(f"{param.name}_codes", codes, origin=origin)
    factor = graph.param(f"{param.name}_scale", scale.to(param.dtype), origin=())
    name = f"{param.name}_value"
    value = graph.add("dequantize", stored, factor, name=name, type=param.type, before=first)
    graph.replace(param, value)
    graph.erase(param)
    return value


def store_packed(graph: Graph, param: Node, packed: Packed) -> Node:
    """Replace a parameter, for all its readers, by packed codes and the op that decodes them."""
    first = min(param.users, key=graph.nodes.index)
    origin = graph.store.origin.get(param.name, ())
    codes = graph.param(f"{param.name}_codes", packed.codes, origin=origin)
    rest = {"scale": packed.scale, "whole": packed.whole, "zero": packed.zero}
    parts = [
        None if part is None else graph.param(f"{param.name}_{name}", part, origin=())
        for name, part in rest.items()
    ]
    value = graph.add(
        "decode",
        codes,
        *parts,
        format=str(packed.format),
        shape=tuple(packed.shape),
        dtype=param.dtype,
        name=f"{param.name}_value",
        type=param.type,
        before=first,
    )
    graph.replace(param, value)
    graph.erase(param)
    return value


def add_branch(graph: Graph, reader: Node, first: Node, second: Node) -> None:
    """Add to what a linear layer gives ``B (A x)``, with x what it reads.

    Args:
        first: A, ``[r, n]``.
        second: B, ``[O, r]``.
    """
    before, name = graph.following(reader), reader.name
    low = graph.add("linear", reader.args[0], first, name=f"{name}_low", before=before)
    high = graph.add("linear", low, second, name=f"{name}_high", before=before)
    total = graph.add("add", reader, high, name=f"{name}_whole", type=reader.type, before=before)
    graph.replace(reader, total, keep=(total,))


def insert_static(graph: Graph, site: Site, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
    """Put a quantize and a dequantize between a site's value and its readers."""
    value, name = site.value, site.value.name
    inner = [reader for reader in site.readers if reader is not graph.output]
    first = min(inner, key=graph.nodes.index) if inner else None
    s = graph.param(f"{name}_scale", scale.to(value.dtype), origin=())
    z = graph.param(f"{name}_zero", zero_point, origin=())
    codes = graph.add(
        "quantize",
        value,
        s,
        z,
        dtype=zero_point.dtype,
        name=f"{name}_quantized",
        type=TensorType(zero_point.dtype, value.shape),
        before=first,
        where=value.where,
    )
    back = graph.add("dequantize", codes, s, z, name=f"{name}_value", type=value.type, before=first)
    _read(site, back)


def insert_dynamic(graph: Graph, site: Site, *, per_token: bool) -> None:
    """The same with a scale that is computed as the value comes."""
    value, name = site.value, site.value.name
    first = min(site.readers, key=graph.nodes.index)
    scale_type = TensorType(value.dtype, (*value.shape[:-1], 1) if per_token else ())
    types = (
        TensorType(torch.uint8, value.shape),
        scale_type,
        TensorType(torch.uint8, scale_type.shape),
    )
    codes = graph.add(
        "dynamic_quantize",
        value,
        per_token=per_token,
        dtype=torch.uint8,
        name=f"{name}_quantized",
        type=types,
        before=first,
        where=value.where,
    )
    parts = [
        graph.add("getitem", codes, index, name=f"{name}_{part}", type=types[index], before=first)
        for index, part in enumerate(("codes", "scale", "zero"))
    ]
    back = graph.add("dequantize", *parts, name=f"{name}_value", type=value.type, before=first)
    _read(site, back)


def insert_fake(graph: Graph, site: Site, form: Format, parameters: Parameters | None) -> None:
    """Put what a format gives back between a site's value and its readers."""
    value, name = site.value, site.value.name
    given: list[Node] = []
    if parameters is not None:
        parts = {"scale": parameters.step, "zero": parameters.zero}
        given = [
            graph.param(f"{name}_{what}", part.to(value.dtype), origin=())
            for what, part in parts.items()
            if part is not None
        ]
    fake = graph.add(
        "fake_quantize",
        value,
        *given,
        format=str(form),
        name=f"{name}_value",
        type=value.type,
        before=min(site.readers, key=graph.nodes.index),
        where=value.where,
    )
    _read(site, fake)


def _read(site: Site, value: Node) -> None:
    for reader in site.readers:
        reader.replace_input(site.value, value)
