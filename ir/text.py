"""Graphs as text, one op a line, in Python's own grammar; ``parse(text(g))`` prints the same text.

def graph(x: f32[batch, 4], *, w: f32[8, 4]):
    assert 1 <= batch <= 64
    y: f32[batch, 8] = linear(x, w, None)
    return y
"""

from __future__ import annotations

import ast
import re
import textwrap
from typing import Any

import torch

from .errors import ParseError
from .graph import Arg, Graph, Node
from .types import DTYPE_NAMES, DTYPES, ScalarType, TensorType, Type, dim, show, symbols


def show_arg(arg: Arg) -> str:
    """An argument as text."""
    if isinstance(arg, Node):
        return arg.name
    if isinstance(arg, tuple):
        return f"({', '.join(map(show_arg, arg))}{',' if len(arg) == 1 else ''})"
    if isinstance(arg, torch.dtype):
        return DTYPE_NAMES[arg]
    if isinstance(arg, (torch.device, torch.layout, torch.memory_format)):
        return repr(str(arg))
    return repr(arg)


def line(node: Node) -> str:
    """A node as text: ``y: f32[2, 8] = linear(x, w, None)``."""
    if node.op in ("input", "param"):
        return f"{node.name}: {show(node.type)}"
    call = [show_arg(arg) for arg in node.args]
    call += [f"{key}={show_arg(value)}" for key, value in node.attrs.items()]
    if node.op == "output":
        return f"return {', '.join(call)}"
    return f"{node.name}: {show(node.type)} = {node.op}({', '.join(call)})"


def text(graph: Graph, *, where: bool = False) -> str:
    """The graph as text, with the user's lines as comments where asked for."""
    inputs = [line(node) for node in graph.inputs]
    params = [line(node) for node in graph.params.values()]
    head = ", ".join([*inputs, *(["*", *params] if params else [])])
    if len(head) > 88:
        rows = [
            *(["    " + ", ".join(inputs) + ","] if inputs else []),
            *(["    *,"] if params else []),
        ]
        head = "\n" + "\n".join([*rows, *(f"    {row}," for row in params)]) + "\n"
    body = [_range(name, *limits) for name, limits in graph.symbols.items()]
    body += [f"{line(n)}  # {n.where}" if where and n.where else line(n) for n in graph.nodes]
    return "\n    ".join([f"def graph({head}):", *body, line(graph.output)])


def _range(name: str, low: int, high: int | None) -> str:
    return f"assert {low} <= {name}" + ("" if high is None else f" <= {high}")


def parse(source: str) -> Graph:
    """Read a graph back; its parameters are on the meta device until they are given values."""
    source = re.sub(
        r"\b([a-z]\w*)\[\]", r"\1[()]", textwrap.dedent(source).strip()
    )  # f32[] is no Python
    try:
        (function,) = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise ParseError(f"expected one function as text, got: {error}") from None
    if not isinstance(function, ast.FunctionDef):
        raise ParseError("expected 'def graph(...):'", where=ast.unparse(function))
    return _Reader(function).graph


class _Reader:
    """Builds the graph of one function definition."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self.graph = Graph()
        self.known: dict[str, Node] = {}
        for arg in function.args.args:
            self.known[arg.arg] = self.graph.input(arg.arg, self.type(arg.annotation))
        for arg in function.args.kwonlyargs:
            type_ = self.type(arg.annotation)
            if not isinstance(type_, TensorType):
                raise ParseError("a parameter must be a tensor", where=ast.unparse(arg))
            shape = [int(size) for size in type_.shape]
            value = torch.empty(shape, dtype=type_.dtype, device="meta")
            self.known[arg.arg] = self.graph.param(arg.arg, value)
        for statement in function.body:
            self.statement(statement)
        for node in (*self.graph.inputs, *self.graph.nodes):
            for symbol in symbols(node.type):
                self.graph.symbols.setdefault(symbol, (0, None))

    def statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assert(ast.Compare(ast.Constant(int(low)), _, [ast.Name(name), *rest])):
                high = rest[0].value if rest and isinstance(rest[0], ast.Constant) else None
                self.graph.symbols[name] = (low, int(str(high)) if high is not None else None)
            case ast.AnnAssign(ast.Name(name), annotation, ast.Call(op, args, keywords)):
                node = self.graph.add(
                    ast.unparse(op),
                    *[self.arg(arg) for arg in args],
                    name=name,
                    type=self.type(annotation),
                    **{str(word.arg): self.arg(word.value) for word in keywords},
                )
                self.known[name] = node
            case ast.Assign(
                [ast.Name(name)], ast.Call(op, args, keywords)
            ):  # a test may leave the type out
                self.known[name] = self.graph.add(
                    ast.unparse(op),
                    *[self.arg(arg) for arg in args],
                    name=name,
                    **{str(word.arg): self.arg(word.value) for word in keywords},
                )
            case ast.Return(value):
                values = value.elts if isinstance(value, ast.Tuple) else [value] if value else []
                self.graph.returns(*[self.arg(part) for part in values])
            case _:
                raise ParseError("expected 'name: type = op(...)'", where=ast.unparse(statement))

    def type(self, tree: ast.expr | None) -> Type:
        match tree:
            case ast.Subscript(ast.Name(name), sizes) if name in DTYPES:
                parts = sizes.elts if isinstance(sizes, ast.Tuple) else [sizes]
                return TensorType(DTYPES[name], tuple(dim(ast.unparse(part)) for part in parts))
            case ast.Name(("int" | "float" | "bool") as kind):
                return ScalarType(kind)
            case ast.Tuple(parts):
                return tuple(self.type(part) for part in parts)
            case _:
                found = ast.unparse(tree) if tree else "nothing"
                raise ParseError(f"expected a type such as f32[2, n], got {found}")

    def arg(self, tree: ast.expr) -> Any:
        match tree:
            case ast.Name("inf"):
                return float("inf")
            case ast.Name("nan"):
                return float("nan")
            case ast.Name(name) if name in self.known:
                return self.known[name]
            case ast.Name(name) if name in DTYPES:
                return DTYPES[name]
            case ast.Tuple(parts) | ast.List(parts):
                return tuple(self.arg(part) for part in parts)
            case ast.Constant(value):
                return value
            case ast.UnaryOp(ast.USub(), operand):
                return -self.arg(operand)
            case _:
                raise ParseError(f"nothing is called {ast.unparse(tree)}", where=ast.unparse(tree))
