"""Complex numbers as pairs of real ones, which runtimes and symmetries know.

    view_as_real(view_as_complex(x))      ->  x, and the other way around
    view_as_real(p * q)                   ->  stack((a c - b s, a s + b c))      p = a + ib
    view_as_real(polar(r, t))             ->  stack((r cos(t), r sin(t)))
    view_as_real(complex(a, b))           ->  stack((a, b))

with q = c + is. So rotary embeddings by complex factors end as those by sines and cosines do.
"""

from __future__ import annotations

from ...ir import Node
from .rewrite import At, Rules, on, sizes

_REAL, _COMPLEX = "aten.view_as_real.default", "aten.view_as_complex.default"


def _undone(node: Node, at: At) -> Node | None:
    inner = node.args[0]
    other = _REAL if node.op == _COMPLEX else _COMPLEX
    return inner.args[0] if isinstance(inner, Node) and inner.op == other else None


def _parts(node: Node, at: At) -> Node | None:
    """The real and the imaginary part of what an op of complex numbers makes."""
    match node.args[0]:
        case Node("mul", (Node() as p, Node() as q)) if p.dtype.is_complex and q.dtype.is_complex:
            (a, b), (c, s) = _pair(p, at), _pair(q, at)
            real = at("sub", at("mul", a, c), at("mul", b, s))
            imaginary = at("add", at("mul", a, s), at("mul", b, c))
        case Node("aten.polar.default", (Node() as radius, Node() as angle)):
            real = at("mul", radius, at("cos", angle))
            imaginary = at("mul", radius, at("sin", angle))
        case Node("aten.complex.default", (Node() as real, Node() as imaginary)):
            pass
        case _:
            return None
    return at.instead("stack", (real, imaginary), dim=len(sizes(node)) - 1)


def _pair(value: Node, at: At) -> tuple[Node, Node]:
    both = at(_REAL, value)
    last = len(sizes(both)) - 1
    return at("select", both, dim=last, index=0), at("select", both, dim=last, index=1)


RULES: Rules = {
    **on(_COMPLEX, _undone),
    **on(_REAL, _undone, _parts),
}
