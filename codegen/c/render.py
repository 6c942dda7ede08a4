"""The text of ``model.c`` and ``model.h``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from .kernels import KERNELS, MATHEMATICS, sources
from .program import BYTES, C_TYPES, Argument, Program, Step, Value, Window

_ROW = {"s8": 16, "u8": 16, "s32": 8, "f32": 6}  # numbers in a line
_WIDTH = 100


@dataclass(frozen=True)
class Source:
    """A model in C.

    Attributes:
        model: The text of ``model.c``.
        header: The text of ``model.h``.
        arena: Bytes that it writes to, besides what the caller gives and the stack.
        constants: Bytes of weights and other numbers.
        decoded: Names of weights that are held in float32, for what they meet is no codes.
    """

    model: str
    header: str
    arena: int
    constants: int
    decoded: tuple[str, ...] = ()


def render(
    program: Program, inputs: Sequence[Value], outputs: Sequence[Value], arena: int
) -> Source:
    """Write down a program whose memory is planned."""
    constants = sum(v.numel() * BYTES[kind] for kind, v in program.constants.values())
    return Source(
        "\n\n".join(_model(program, inputs, outputs, arena, constants)) + "\n",
        _header(inputs, outputs, arena, constants),
        arena,
        constants,
        tuple(program.decoded),
    )


# -- model.h --------------------------------------------------------------------------------------


def _header(inputs: Sequence[Value], outputs: Sequence[Value], arena: int, constants: int) -> str:
    lines = ["#ifndef MODEL_H", "#define MODEL_H", "", "#include <stdint.h>", ""]
    for value in (*inputs, *outputs):
        lines.append(
            f"#define MODEL_{value.name.upper()}_COUNT {value.count}  /* {_type(value)} */"
        )
    lines += [
        f"#define MODEL_ARENA_BYTES {arena}",
        f"#define MODEL_CONSTANT_BYTES {constants}",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "/* Arrays as PyTorch lays them out, the last axis side by side; they must not overlap.",
        "   Gives 0, or 1 where one is NULL. Not for two threads at once: there is one arena. */",
        f"{_signature(inputs, outputs)};",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _type(value: Value) -> str:
    return f"{C_TYPES[value.kind]}[{']['.join(map(str, value.shape)) or '1'}]"


def _signature(inputs: Sequence[Value], outputs: Sequence[Value]) -> str:
    given = [f"const {C_TYPES[value.kind]} *{value.name}" for value in inputs]
    made = [f"{C_TYPES[value.kind]} *{value.name}" for value in outputs]
    return _filled("int model_run(", [*given, *made], ")")


# -- model.c --------------------------------------------------------------------------------------


def _model(
    program: Program,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    arena: int,
    constants: int,
) -> Iterator[str]:
    """The parts of the file."""
    texts = sources({step.kernel for step in program.steps if step.kernel in KERNELS})
    whole = "\n".join(texts)
    yield (
        f"/* Written by Regauge: {constants} bytes of constants, {arena} bytes of arena.\n"
        "   Build with -std=c99 -O3 -ffp-contract=off, and without -ffast-math. */"
    )
    heads = {"math.h": MATHEMATICS, "string.h": frozenset({"memcpy"})}
    calls = [line for step in program.steps for line in _call(step)]
    words = set(re.findall(r"\w+", whole + "\n".join(calls)))
    needed = [head for head, known in heads.items() if known & words]
    includes = [f"#include <{head}>" for head in (*needed, "stddef.h", "stdint.h")]
    yield "\n".join([*includes, '#include "model.h"'])
    if arena:
        # Bytes may stand for anything, and floats for floats: no two other types share a place.
        aligned = "float" if program.alignment == 4 else "int64_t"
        yield f"static union {{ {aligned} aligned; uint8_t bytes[{arena}]; }} arena;"
    yield from texts
    for name, (kind, value) in program.constants.items():
        yield _constant(name, kind, value)
    yield "\n".join([_signature(inputs, outputs), "{", *_body(program, inputs, outputs), "}"])


def _body(program: Program, inputs: Sequence[Value], outputs: Sequence[Value]) -> Iterator[str]:
    arrays = [value.name for value in (*inputs, *outputs)]
    if arrays:
        yield f"    if ({' || '.join(f'{name} == NULL' for name in arrays)})"
        yield "        return 1;"
    known: set[str] = set()
    for step in program.steps:
        for value in step.writes:
            if not value.buffer.array and value.name not in known:
                yield _declaration(value)
            known.add(value.name)
        yield from _call(step)
    yield "    return 0;"


def _declaration(value: Value) -> str:
    kind, offset = C_TYPES[value.kind], value.buffer.offset
    place = f"arena.bytes + {offset}" if offset else "arena.bytes"
    cast = place if value.kind == "u8" else f"({kind} *)({place})"
    shape = value.shape
    if value.channels_last:
        shape = (shape[0], *shape[2:], shape[1])
    return f"    {kind} *{value.name} = {cast};  /* [{', '.join(map(str, shape))}] */"


def _call(step: Step) -> list[str]:
    return _filled(f"    {step.kernel}(", map(_argument, step.arguments), ");").split("\n")


def _argument(argument: Argument) -> str:
    match argument:
        case Value():
            return argument.name
        case Window():
            return _window(argument)
        case float():
            return number(argument)
        case _:
            return str(argument)


def _window(w: Window) -> str:
    fields = (
        (w.batch, *w.size, w.channels),
        (*w.out_size, w.out_channels, w.groups),
        (*w.kernel, *w.stride, *w.before, *w.dilation),
    )
    return f"(struct window){{{',  '.join(', '.join(map(str, part)) for part in fields)}}}"


def number(value: float) -> str:
    """A float32 as a literal that gives the same number."""
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _constant(name: str, kind: str, value: torch.Tensor) -> str:
    numbers = value.detach().reshape(-1).tolist()
    texts = [number(n) for n in numbers] if kind == "f32" else [str(n) for n in numbers]
    head = f"static const {C_TYPES[kind]} {name}[{len(texts)}] = {{"
    if len(texts) <= _ROW[kind]:
        return f"{head}{', '.join(texts)}}};"
    rows = (texts[i : i + _ROW[kind]] for i in range(0, len(texts), _ROW[kind]))
    return "\n".join([head, *(f"    {', '.join(row)}," for row in rows), "};"])


def _filled(head: str, parts: Iterable[str], tail: str) -> str:
    """A list between brackets, in lines that do not grow too long."""
    lines, indent = [head], " " * (len(head) - len(head.lstrip()) + 4)
    for place, part in enumerate(parts):
        text = part if place == 0 else f", {part}"
        if len(lines[-1]) + len(text) + len(tail) > _WIDTH and place:
            lines[-1] += ","
            lines.append(indent + part)
        else:
            lines[-1] += text
    return "\n".join(lines) + tail
