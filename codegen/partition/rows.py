"""Regions of rows: what quantizes, and what is fused in front of it.

    norm([a + b])            with the sum given back
    act(a) * b
    H x                      a product with Sylvester's matrix, on the last axis
    softmax(x)

each quantized by ``quantize``, ``dynamic_quantize`` or ``fake_quantize`` of tokens to integers or
E4M3, a softmax also to powers of two and of its root; the first and second also without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch

from ...ir import InputError, Node
from ...ir.formats import Logarithmic, named
from ...ir.graph import Arg
from ...ir.types import TensorType
from ..description import E4M3, FLOATS, LogQuantize, Quantize
from ..rows import Norm, Rows, rotated
from .build import Build, activation, integer_bits, sole, value_of

E4M3_TOKENS = "fp8-e4m3-token"


@dataclass
class Front:
    """What stands in front of a quantizer, or alone: a ``Rows`` without its end.

    Args:
        input: The value that the region begins with.
        fields: Of ``Rows``.
        operands: By name, but for the input.
        covers: The nodes.
        sum: The node that the region's ``sum`` stands for.
    """

    input: Node
    fields: dict[str, Arg] = field(default_factory=dict[str, Arg])
    operands: dict[str, Node] = field(default_factory=dict[str, Node])
    covers: list[Node] = field(default_factory=list[Node])
    sum: Node | None = None


def place_rows(build: Build, *, all: bool) -> None:
    """Kernels for what quantizes, then for norms of sums and gates.

    Args:
        all: Also for what quantizes the result of a product, which may do it itself.
    """
    for node in list(build.graph.nodes):
        if node.op in _QUANTIZERS and node.users:
            try:
                _QUANTIZERS[node.op](build, node, all)
                build.graph.prune()
            except InputError as error:
                build.reasons[node.name] = error.what
    for node in list(build.graph.nodes):
        if node.op in ("rms_norm", "layer_norm", "mul") and node.users:
            front = front_of(build, node, node)
            if "residual" in front.fields or "gate" in front.fields:
                try:
                    place(build, node, front, None)
                    build.graph.prune()
                except InputError as error:
                    build.reasons[node.name] = error.what


def place(
    build: Build,
    end: Node,
    front: Front,
    quantize: Quantize | LogQuantize | None,
    operands: dict[str, Node] | None = None,
) -> dict[str, Node]:
    """Add the kernel of a front and what quantizes it, and give its results by name.

    ``end`` is the last node that it stands for, which gives way here where nothing is quantized.
    """
    width, dtype = front.input.shape[-1], front.input.dtype
    if not isinstance(width, int) or dtype not in FLOATS:
        raise InputError(f"no kernel for rows of {front.input.type}")
    region = Rows(width, dtype, quantize=quantize, **front.fields)
    given = {"input": front.input, **front.operands, **(operands or {})}
    found = build.place(region, given, [*front.covers, end], end)
    if front.sum is not None:
        kernel = found["sum"].args[0]
        build.graph.replace(front.sum, found["sum"], keep=[kernel])
    if quantize is None:
        build.graph.replace(end, found["output"])
    build.graph.sort()
    return found


# -- what quantizes ------------------------------------------------------------------------------


def _static(build: Build, node: Node, all: bool) -> None:
    x, scale, zero = node.args[0], node.args[1], node.operand(2)
    if not all and _of_product(x):
        return
    value = value_of(build, scale)
    if value is None or value.dim():
        raise InputError("a kernel quantizes by the tensor or by the token")
    dtype = node.attrs.get("dtype", torch.uint8)
    quantize = Quantize(dtype, "tensor")
    operands = {"scale": build.constant(f"{node.name}_step", value.float())}
    known = torch.zeros((), dtype=dtype) if zero is None else value_of(build, zero)
    if known is None or known.dim():
        raise InputError("a kernel quantizes with a zero point of the tensor")
    if dtype == torch.uint8:
        operands["zero"] = build.constant(f"{node.name}_middle", known)
    elif bool(known):
        raise InputError("a kernel quantizes to int8 without a zero point")
    found = place(build, node, front_of(build, x, node), quantize, operands)
    build.graph.replace(node, found["codes"])


def _dynamic(build: Build, node: Node, all: bool) -> None:
    """As int8, whatever the codes were: those of ``uint8`` are 128 more."""
    x = node.args[0]
    if not node.attrs.get("per_token", True):
        raise InputError("a kernel that finds the range of a tensor would have to run twice")
    parts = {user.args[1]: user for user in node.users if user.op == "getitem"}
    codes, scale, zero = (parts.get(i) for i in range(3))
    readers = [] if codes is None else list(codes.users)
    for reader in readers:
        zeros = reader.operand(2)
        signed = node.attrs.get("dtype", torch.uint8) == torch.int8
        middle = zeros is zero or (signed and zeros is None)
        if reader.op != "dequantize" or reader.args[1] is not scale or not middle:
            raise InputError(f"its codes are read by {reader.name} as they are")
    others = {user for part in (scale, zero) if part is not None for user in part.users}
    if others - set(readers) or len(parts) != len(node.users):
        raise InputError("its scales are read by more than what reads its codes")
    found = place(build, node, front_of(build, x, node), Quantize(torch.int8))
    for reader in readers:
        value = _value(build, found["codes"], found["scales"], reader)
        build.graph.replace(reader, value)


def _fake(build: Build, node: Node, all: bool) -> None:
    front = front_of(build, node.args[0], node)
    if isinstance(element := named(node.attrs["format"]).element, Logarithmic):
        value = _logarithm(build, node, front, element)
    else:
        found = place(build, node, front, of_tokens(build, node))
        value = _value(build, found["codes"], found["scales"], node)
    build.graph.replace(node, value)


def _logarithm(build: Build, node: Node, front: Front, element: Logarithmic) -> Node:
    """Probabilities from their codes in logarithms, which are places in a table of numbers."""
    form, scale = node.attrs["format"], node.operand(1)
    if "softmax" not in front.fields:
        raise InputError("a kernel takes the logarithm of what a softmax gives to it alone")
    if form != (f"{element}-token" if scale is None else str(element)):
        raise InputError(f"no kernel finds the scales of {form}")
    operands: dict[str, Node] = {}
    if scale is not None:
        value = value_of(build, scale)
        if value is None:
            raise InputError(f"its scale of {form} comes with the data")
        operands["scale"] = scale = build.constant(f"{node.name}_step", value.float())
    per = "token" if scale is None else "tensor"
    quantize = LogQuantize(element.width, element.parts, per)
    found = place(build, node, front, quantize, operands)
    table = build.constant(f"{node.name}_table", element.tabulate().float()[:, None])
    add = partial(build.graph.add, before=node, where=node.where)
    places = add("to", found["codes"], dtype=torch.int64)
    numbers = add("squeeze", add("embedding", table, places), dim=-1)
    value = add("mul", numbers, found["scales"] if scale is None else scale)
    return build.cast(value, node.dtype, node)


def of_tokens(build: Build, node: Node) -> Quantize:
    """What rounds tokens to integers or E4M3, of a ``fake_quantize``."""
    if len([part for part in node.args if part is not None]) > 1:
        raise InputError("no kernel rounds to a format with a scale that is given")
    form = named(node.attrs["format"])
    if bits := integer_bits(form, "token"):
        return Quantize(bits=bits)
    if str(form) != E4M3_TOKENS:
        raise InputError(f"no kernel rounds to {form}")
    if build.capability < 89:
        raise InputError(f"a device of capability {build.capability} has no numbers in E4M3")
    return Quantize(E4M3)


_QUANTIZERS = {"quantize": _static, "dynamic_quantize": _dynamic, "fake_quantize": _fake}


def _value(build: Build, codes: Node, scales: Node, reader: Node) -> Node:
    """What codes stand for, in the dtype of what stood there."""
    value = build.graph.add(
        "dequantize",
        codes,
        scales,
        name=f"{reader.name}_number",
        type=TensorType(scales.dtype, codes.shape),
        before=reader,
    )
    return build.cast(value, reader.dtype, reader)


def _of_product(x: Node) -> bool:
    """Whether a value is a linear layer's, perhaps through an activation, and nobody else's."""
    if activation(x) and sole(x) is not None:
        x = x.args[0]
    return x.op == "linear" and sole(x) is not None and x.args[0].op in ("dequantize", "to")


# -- what stands in front ------------------------------------------------------------------------


def front_of(build: Build, x: Node, end: Node) -> Front:
    """What can be fused before a value is quantized; nothing where others read it too.

    Args:
        x: The value.
        end: What quantizes it, or the value itself.
    """
    if x is not end and sole(x) is not end:
        return Front(x)
    match x.op:
        case "rms_norm" | "layer_norm":
            return _norm(build, x, end)
        case "mul":
            return _gate(x, end)
        case "reshape":
            return rotation(build, x, end)
        case "softmax" if x.attrs.get("dim") in (-1, len(x.shape) - 1):
            return Front(x.args[0], {"softmax": True}, {}, [x])
        case _:
            return Front(x)


def _covers(x: Node, end: Node, *more: Node) -> list[Node]:
    return [*more] if x is end else [*more, x]


def _norm(build: Build, x: Node, end: Node) -> Front:
    source, weight, bias = x.args[0], x.operand(1), x.operand(2)
    width = x.shape[-1]
    vectors = {"weight": weight, "bias": bias}
    given = {name: part for name, part in vectors.items() if part is not None}
    odd = [p for p in given.values() if p.shape != (width,) or p.dtype != x.dtype]
    if x.attrs.get("normalized_shape") != (width,) or odd or source.dtype != x.dtype:
        return Front(x)
    eps = x.attrs.get("eps")
    kind = "rms" if x.op == "rms_norm" else "layer"
    if eps is None:
        eps = torch.finfo(x.dtype).eps if kind == "rms" else 1e-5
    norm = Norm(kind, weight is not None, bias is not None, float(eps))
    front = Front(source, {"norm": norm}, given, _covers(x, end))
    if source.op == "add" and source.users and "alpha" not in source.attrs:
        a, b = source.args[:2]
        if all(isinstance(p, Node) and p.type == source.type for p in (a, b)):
            front.input, front.operands["other"] = a, b
            front.fields["residual"] = True
            front.covers.insert(0, source)
            front.sum = source
    return front


def _gate(x: Node, end: Node) -> Front:
    a, b = x.args[:2]
    if not (isinstance(a, Node) and isinstance(b, Node)) or not a.type == b.type == x.type:
        return Front(x)
    for gate, other in ((a, b), (b, a)):
        if (kind := activation(gate)) and sole(gate) is x and gate.args[0].type == x.type:
            covers = _covers(x, end, gate)
            return Front(gate.args[0], {"gate": kind}, {"other": other}, covers)
    return Front(x)


def rotation(build: Build, x: Node, end: Node) -> Front:
    """``reshape(linear(reshape(y), H))`` with blocks of the last axis, H symmetric."""
    product = x.args[0]
    if product.op != "linear" or sole(product) is not x or product.operand(2) is not None:
        return Front(x)
    matrix, spread = value_of(build, product.args[1]), product.args[0]
    if matrix is None or spread.op != "reshape" or sole(spread) is not product:
        return Front(x)
    y, size, width = spread.args[0], len(matrix), x.shape[-1]
    if y.type != x.type or size & (size - 1) or size < 2:
        return Front(x)
    if not isinstance(width, int) or width % size:
        return Front(x)
    blocks = (*y.shape[:-1], width // size, size)
    if spread.shape not in (blocks, y.shape):
        return Front(x)
    exact = rotated(torch.eye(size, dtype=torch.float64), size).to(matrix.dtype)
    if not torch.allclose(matrix, exact, rtol=4 * torch.finfo(matrix.dtype).eps, atol=0):
        return Front(x)
    return Front(y, {"hadamard": size}, {}, _covers(x, end, spread, product))
