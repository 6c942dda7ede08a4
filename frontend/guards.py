"""What PyTorch asks of symbolic sizes and cannot prove, though it holds.

min(8 + 8 n, 16 + 16 n) == 8 + 8 n     for every n >= 0
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import sympy

_GUARD = re.compile(r"Not all values of .* satisfy the generated guard (.*?)\.?$")
_SIZE = re.compile(r"L(?:\[[^\]]+\])+\.size\(\)\[\d+\]")
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_RELATIONS: Mapping[type[ast.cmpop], Any] = {
    ast.Eq: sympy.Eq,
    ast.NotEq: sympy.Ne,
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
}
_FUNCTIONS = {"min": sympy.Min, "max": sympy.Max}


def all_hold(message: str) -> bool:
    """Whether an error of ``torch.export`` names guards alone, and each holds for all sizes."""
    said = [line.strip() for line in message.splitlines() if line.lstrip().startswith("- ")]
    guards = [_GUARD.search(line) for line in said]
    return bool(guards) and all(guard is not None and _holds(guard[1]) for guard in guards)


def _holds(guard: str) -> bool:
    names = {size: f"size_{i}" for i, size in enumerate(dict.fromkeys(_SIZE.findall(guard)))}
    for size, name in names.items():
        guard = guard.replace(size, name)
    sizes = {name: sympy.Symbol(name, integer=True, nonnegative=True) for name in names.values()}
    try:
        return _value(ast.parse(guard, mode="eval").body, sizes) == sympy.true
    except (SyntaxError, KeyError, TypeError):  # in words of its own
        return False


def _value(node: ast.expr, sizes: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(int() as number):
            return sympy.Integer(number)
        case ast.Name(name):
            return sizes[name]
        case ast.BinOp(left, op, right):
            return _BINARY[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.Call(ast.Name(name), args, []):
            return _FUNCTIONS[name](*(_value(arg, sizes) for arg in args))
        case ast.Compare(left, [op], [right]):
            return _RELATIONS[type(op)](_value(left, sizes), _value(right, sizes))
        case _:
            raise KeyError(type(node))
